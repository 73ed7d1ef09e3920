"""The steps of an engine on an event loop: every decision as it is made, and what is due at its time.

The core owns no task and no loop; this is the edge where an asyncio program meets it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from taskfold.model.clock import Timer
from taskfold.model.effects import Step
from taskfold.model.errors import ListenerError

if TYPE_CHECKING:
    from taskfold.live.reporting import Reporting

__all__ = ["StepsAsync", "steps_async"]

_REMEMBERED: Final = 1_024
"""How many steps are remembered, to know again what is returned later."""
_NS_PER_SECOND: Final = 1_000_000_000


def steps_async(engine: Reporting) -> StepsAsync:
    """Return what yields every step that the engine decides from this call on, whoever reports.

    What is due is decided at its time, once the first step is asked for. One such iterator fires the timers of an
    engine; it ends when the engine is closed. Inputs may come from any thread.
    """
    return StepsAsync(engine)


class StepsAsync(AsyncIterator[Step]):
    """The steps of an engine, from the moment at which it was made to `aclose`, or until nobody has it any more."""

    def __init__(self, engine: Reporting) -> None:
        """Begin to listen."""
        heard = _Heard()
        # What listens does not hold what is listened by: that may be dropped, also before it was asked for anything.
        self._end = weakref.finalize(self, engine._record_steps(heard.put))  # noqa: SLF001 - it is told in the turn
        self._end.atexit = False
        self._steps = _steps(engine, heard, self._end)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        return await anext(self._steps)

    async def aclose(self) -> None:
        """Listen no more."""
        self._end()
        await self._steps.aclose()


class _Heard:
    """The steps that were heard, and not yielded yet."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque()
        self.newest: deque[Step] = deque(maxlen=_REMEMBERED)
        """What was heard last, also what was yielded since."""
        self.stir = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def put(self, step: Step) -> None:
        """Hear a step, in any thread."""
        self.newest.append(step)
        self.steps.append(step)
        if self.loop is not None:
            with suppress(RuntimeError):  # a loop that is closed has nobody to wake
                self.loop.call_soon_threadsafe(self.stir.set)


async def _steps(engine: Reporting, heard: _Heard, end: Callable[[], object]) -> AsyncGenerator[Step, None]:
    loop = heard.loop = asyncio.get_running_loop()
    try:
        while not engine.store.is_closed:
            heard.stir.clear()
            due_ns = engine.next_due()
            now_ns = engine.clock.time_ns()
            if due_ns is not None and due_ns <= now_ns:
                # In a thread: what is decided may have to wait for the log's disk.
                await asyncio.to_thread(_fire, engine, now_ns, heard)
            elif not heard.steps:
                cancel = None if due_ns is None else _later(loop, engine.clock, due_ns - now_ns, heard.stir.set)
                waiter = asyncio.ensure_future(heard.stir.wait())
                try:
                    await asyncio.wait([waiter], timeout=_LOOKS_EVERY)
                finally:
                    waiter.cancel()
                    if cancel is not None:
                        cancel()
            while heard.steps:
                yield heard.steps.popleft()
    finally:
        end()


def _fire(engine: Reporting, now_ns: int, heard: _Heard) -> None:
    """Decide what is due, and hear what was not heard when it was decided, since that was interrupted.

    What other listeners raise is the loop's to tell, and ends nothing here.
    """
    try:
        steps = engine.due(now_ns)
    except ListenerError as error:
        told = {"message": "a listener of an engine raised", "exception": error}
        loop = heard.loop
        assert loop is not None
        loop.call_soon_threadsafe(loop.call_exception_handler, told)
    else:
        for step in steps:
            if not any(step is one for one in heard.newest):
                heard.put(step)


_LOOKS_EVERY: Final = 1.0
"""After how many seconds it looks whether the engine was closed, if nothing happens (seconds)."""


def _later(
    loop: asyncio.AbstractEventLoop, clock: object, delay_ns: int, wake: Callable[[], None]
) -> Callable[[], object]:
    """Wake the loop after a delay; return what cancels that. A clock that is a `Timer` tells how long it is."""
    if isinstance(clock, Timer):
        return clock.call_later(delay_ns, lambda: loop.call_soon_threadsafe(wake))
    return loop.call_later(delay_ns / _NS_PER_SECOND, wake).cancel
