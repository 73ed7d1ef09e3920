"""The steps of an engine on an event loop: every decision as it is made, and what is due at its time.

The core owns no task and no loop; this is the edge where an asyncio program meets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from taskfold.clock import Timer
from taskfold.effects import Step

if TYPE_CHECKING:
    from taskfold.reporting import Reporting

__all__ = ["steps_async"]

_NS_PER_SECOND: Final = 1_000_000_000


async def steps_async(engine: Reporting) -> AsyncIterator[Step]:
    """Yield every step that the engine decides from now on, whoever reports; what is due is decided at its time.

    One such iterator fires the timers of an engine; it ends when the engine is closed. Inputs may come from any thread.
    """
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[Step] = asyncio.Queue()
    stir = asyncio.Event()

    def tell(step: Step) -> None:
        heard.put_nowait(step)
        stir.set()

    end = engine.on_step(lambda step: loop.call_soon_threadsafe(tell, step))
    try:
        while not engine.store.is_closed:
            stir.clear()
            due_ns = engine.next_due()
            now_ns = engine.clock.time_ns()
            if due_ns is not None and due_ns <= now_ns:
                # In a thread: what is decided may have to wait for the log's disk.
                await asyncio.to_thread(engine.due, now_ns)
            elif heard.empty():
                cancel = None if due_ns is None else _later(loop, engine.clock, due_ns - now_ns, stir.set)
                waiter = asyncio.ensure_future(stir.wait())
                try:
                    await asyncio.wait([waiter], timeout=_LOOKS_EVERY)
                finally:
                    waiter.cancel()
                    if cancel is not None:
                        cancel()
            while not heard.empty():
                yield heard.get_nowait()
    finally:
        end()


_LOOKS_EVERY: Final = 1.0
"""After how many seconds it looks whether the engine was closed, if nothing happens (seconds)."""


def _later(
    loop: asyncio.AbstractEventLoop, clock: object, delay_ns: int, wake: Callable[[], None]
) -> Callable[[], object]:
    """Wake the loop after a delay; return what cancels that. A clock that is a `Timer` tells how long it is."""
    if isinstance(clock, Timer):
        return clock.call_later(delay_ns, lambda: loop.call_soon_threadsafe(wake))
    return loop.call_later(delay_ns / _NS_PER_SECOND, wake).cancel
