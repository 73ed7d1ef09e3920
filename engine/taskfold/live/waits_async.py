"""Waiting on an event loop until an index has passed: `live.waits`, for asyncio. Writers may be in any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from taskfold.live.store import Store
from taskfold.live.waits import Answered, Query, nanoseconds
from taskfold.live.watch import Waiter
from taskfold.model.clock import Timer

__all__ = ["wait_async"]

T = TypeVar("T")


async def wait_async(
    store: Store,
    query: Query[T],
    after: int,
    timeout: float | None,  # noqa: ASYNC109 - as in `wait`
    clock: object,
) -> Answered[T]:
    """Wait on this event loop until the query's index is greater than ``after``, for ``timeout`` seconds at most.

    When the wait is cancelled its waiter is freed.
    """
    with store.lock:  # most queries are answered at once, and need nothing that is made below
        store.check_whole()
        answered = query()
        if answered.index > after or store.is_released or (timeout is not None and timeout <= 0):
            return answered
    loop = asyncio.get_running_loop()
    turn = _Turn(loop)
    waiter = Waiter(turn.wake_from_any_thread)
    cancel = None if timeout is None else _end_later(loop, clock, timeout, turn)
    try:
        while True:
            with store.lock:
                store.check_whole()
                turn.begin()
                answered = query()
                if answered.index > after or turn.is_over or store.is_released:
                    return answered
                store.watches.add(waiter, answered.kind, answered.key)
            await turn.woken
            if waiter.place is not None:
                with store.lock:
                    store.watches.remove(waiter)
    finally:
        if cancel is not None:
            cancel()
        if waiter.place is not None:
            with store.lock:
                store.watches.remove(waiter)


class _Turn:
    """One wait on an event loop: a future that is made anew each time it sleeps."""

    __slots__ = ("is_over", "loop", "woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_over = False
        self.woken: asyncio.Future[None] = loop.create_future()

    def begin(self) -> None:
        """Be ready to sleep."""
        if self.woken.done():
            self.woken = self.loop.create_future()

    def wake(self) -> None:
        """Wake it, on its loop."""
        if not self.woken.done():
            self.woken.set_result(None)

    def wake_from_any_thread(self) -> None:
        """Wake it; a loop that is closed has nobody to wake."""
        try:
            self.loop.call_soon_threadsafe(self.wake)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def end(self) -> None:
        """Wake it for the last time, on its loop."""
        self.is_over = True
        self.wake()


def _end_later(loop: asyncio.AbstractEventLoop, clock: object, timeout: float, turn: _Turn) -> Callable[[], Any]:
    """End a wait when its time is over; return what cancels that."""
    if isinstance(clock, Timer):
        return clock.call_later(nanoseconds(timeout), lambda: loop.call_soon_threadsafe(turn.end))
    return loop.call_later(timeout, turn.end).cancel
