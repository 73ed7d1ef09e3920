"""Waiting in a thread until an index has passed; `taskfold.live.waits_async` waits on an event loop.

A wait asks a question (`Query`) under the store's lock, and registers its waiter under the same lock when the answer is
not new enough: whatever is written afterwards wakes it. When it is woken it asks again. It ends with the newest answer:
when that is newer than what the caller knew, when its time is over, or when the store is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from msgspec import Struct

from taskfold.live.store import Store
from taskfold.live.watch import Kind, Waiter
from taskfold.model.clock import Timer

__all__ = ["Answered", "Query", "nanoseconds", "wait"]

T = TypeVar("T")


class Answered(Struct, Generic[T], frozen=True):
    """What a query found, at which index, and whose changes could make it different."""

    index: int
    value: T
    kind: Kind
    key: str = ""


Query = Callable[[], Answered[T]]
"""Something that is asked under the lock of the store: it must neither wait nor lock."""


def wait(store: Store, query: Query[T], after: int, timeout: float | None, clock: object) -> Answered[T]:
    """Block this thread until the query's index is greater than ``after``, for ``timeout`` seconds at most.

    The time is the clock's where it is a `Timer`; else the system's.
    """
    # A queue of the interpreter's own: no interruption leaves it locked, as one leaves a threading.Event.
    woken: SimpleQueue[None] = SimpleQueue()
    waiter = Waiter(partial(woken.put, None))
    is_over = False

    def end() -> None:
        nonlocal is_over
        is_over = True
        woken.put(None)

    cancel, deadline = (None, None) if timeout is None else _limit(timeout, clock, end)
    try:
        while True:
            with store.lock:
                store.check_whole()
                while not woken.empty():
                    woken.get_nowait()
                answered = query()
                if answered.index > after or is_over or store.is_released:
                    return answered
                store.watches.add(waiter, answered.kind, answered.key)
            remaining = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                woken.get(timeout=remaining)
            except Empty:
                is_over = True
            if waiter.place is not None:
                with store.lock:
                    store.watches.remove(waiter)
    finally:
        if cancel is not None:
            cancel()
        if waiter.place is not None:  # an exception in this thread, such as KeyboardInterrupt
            with store.lock:
                store.watches.remove(waiter)


def _limit(timeout: float, clock: object, end: Callable[[], None]) -> tuple[Callable[[], None] | None, float | None]:
    """See to it that a wait ends; return what cancels that, or until when to wait by the system's clock."""
    if timeout <= 0:
        end()  # also with a clock that stands still
        return None, None
    if isinstance(clock, Timer):
        return clock.call_later(nanoseconds(timeout), end), None
    return None, time.monotonic() + timeout


def nanoseconds(seconds: float) -> int:
    """Return a number of seconds in nanoseconds; none that is negative."""
    return max(int(seconds * 1_000_000_000), 0)
