"""The steps of an engine on an event loop: each decision as it is made, and timers at their time.

The core owns no task and no loop; this is the boundary to an asyncio program.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import Final, Protocol, Self

from taskfold.live.listeners import Listeners
from taskfold.live.reader import Reader
from taskfold.model.clock import CallsLater, Clock
from taskfold.model.effects import Step
from taskfold.model.errors import ListenerError

__all__ = ["Decider", "StepsAsync"]

_REMEMBERED: Final = 1_024
"""How many steps are remembered, to recognise them when `due` returns them again."""
_NS_PER_SECOND: Final = 1_000_000_000


class Decider(Protocol):
    """The part of an engine that is needed here."""

    clock: Clock
    reader: Reader

    def next_due(self) -> int | None:
        """Return the next due time (unix nanoseconds)."""

    def due(self, now_ns: int | None = None) -> list[Step]:
        """Return the steps due by a time."""


class StepsAsync(AsyncIterator[Step]):
    """The steps of an engine, from the creation of this object until `aclose`, or until it is garbage."""

    def __init__(self, engine: Decider, recorders: Listeners[Step]) -> None:
        """Subscribe: the recorders get each step within the turn, so that ours neither waits nor locks."""
        inbox = _Inbox()
        # The subscription refers to the inbox, not to this object, which may be dropped at any time, even unused.
        self._end = weakref.finalize(self, recorders.add(inbox.put))
        self._end.atexit = False
        self._steps = _steps(engine, inbox, self._end)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        return await anext(self._steps)

    async def aclose(self) -> None:
        """Unsubscribe."""
        self._end()
        await self._steps.aclose()


class _Inbox:
    """The steps that were received, and not yielded."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque()
        self.newest: deque[Step] = deque(maxlen=_REMEMBERED)
        """The last steps received, including yielded ones."""
        self.signal = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def put(self, step: Step) -> None:
        """Receive a step, in any thread."""
        self.newest.append(step)
        self.steps.append(step)
        if self.loop is not None:
            with suppress(RuntimeError):  # a closed loop has nothing to wake
                self.loop.call_soon_threadsafe(self.signal.set)


async def _steps(engine: Decider, inbox: _Inbox, end: Callable[[], object]) -> AsyncGenerator[Step, None]:
    loop = inbox.loop = asyncio.get_running_loop()
    try:
        while not engine.reader.is_closed:
            inbox.signal.clear()
            due_ns = engine.next_due()
            now_ns = engine.clock.time_ns()
            if due_ns is not None and due_ns <= now_ns:
                # In a thread, as a decision may wait for the log's disk.
                await asyncio.to_thread(_fire, engine, now_ns, inbox)
            elif not inbox.steps:
                cancel = None if due_ns is None else _later(loop, engine.clock, due_ns - now_ns, inbox.signal.set)
                waiter = asyncio.ensure_future(inbox.signal.wait())
                try:
                    await asyncio.wait([waiter], timeout=_LOOKS_EVERY)
                finally:
                    waiter.cancel()
                    if cancel is not None:
                        cancel()
            while inbox.steps:
                yield inbox.steps.popleft()
    finally:
        end()


def _fire(engine: Decider, now_ns: int, inbox: _Inbox) -> None:
    """Decide the timers that are due, and receive the steps whose delivery was interrupted.

    Exceptions of other listeners go to the loop's exception handler, and end nothing here.
    """
    try:
        steps = engine.due(now_ns)
    except ListenerError as error:
        context = {"message": "a listener of an engine raised", "exception": error}
        loop = inbox.loop
        assert loop is not None
        loop.call_soon_threadsafe(loop.call_exception_handler, context)
    else:
        for step in steps:
            if not any(step is one for one in inbox.newest):
                inbox.put(step)


_LOOKS_EVERY: Final = 1.0
"""The interval at which it checks whether the engine was closed (seconds)."""


def _later(
    loop: asyncio.AbstractEventLoop, clock: object, delay_ns: int, wake: Callable[[], None]
) -> Callable[[], object]:
    """Wake the loop after a delay, by the engine's clock if it is a `Timer`; return a cancel function."""
    if isinstance(clock, CallsLater):
        return clock.call_later(delay_ns, lambda: loop.call_soon_threadsafe(wake))
    return loop.call_later(delay_ns / _NS_PER_SECOND, wake).cancel
