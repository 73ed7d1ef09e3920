"""Waiters: blocking until an index has passed, in a thread or on an event loop.

A wait asks a question under the lock of its source. If the answer is not new enough, the waiter is registered under the
same lock, so that no change is missed; a change takes out the waiters of its keys, and wakes each once. A woken waiter
asks again: spurious wake-ups are possible, missed ones are not. A wait returns the newest answer when that is newer
than the caller's index, at its timeout, or when all waits are ended.

A key has a limited number of waiters; further ones wait for any change, which wakes them more often, at no cost to
others. `Watches` does not lock: the owner of the state holds its lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from taskfold.model.clock import CallsLater

__all__ = [
    "WAITERS_PER_KEY",
    "AnswersQuestions",
    "AsyncWait",
    "Question",
    "Reply",
    "Waiter",
    "WaiterKind",
    "Watches",
    "wait",
    "wait_async",
]

T = TypeVar("T")

WaiterKind: TypeAlias = Literal["allocation", "job", "any"]

WAITERS_PER_KEY: Final = 8_192
"""The most waiters of one allocation or job by key. From so many on, Nomad watches coarser keys, too."""


class Waiter:
    """A waiter, and the function that wakes it.

    The thread that made a change calls `wake`, without any lock: once, or again after an interruption.
    """

    __slots__ = ("_call", "place")

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.place: tuple[WaiterKind, str] | None = None
        """The key it is registered under; None if it is not registered, or was woken."""

    def wake(self) -> None:
        """Wake the waiter."""
        self._call()


class Watches:
    """The waiters by key. Every operation is O(1), or O(waiters woken).

    Even after an interruption, a waiter is either registered, or taken out and not yet woken, until it is woken.
    >>> watches = Watches()
    >>> watches.add(Waiter(lambda: print("woken")), "allocation", "a")
    >>> watches.take("b", "example"), watches.wake()
    (None, None)
    >>> watches.take("a", "example"), watches.wake()
    woken
    (None, None)
    >>> len(watches)
    0
    """

    def __init__(self, waiters_per_key: int = WAITERS_PER_KEY) -> None:
        self._limit = waiters_per_key
        # Dictionaries as ordered sets: first come, first woken.
        self._keyed: dict[WaiterKind, dict[str, dict[Waiter, None]]] = {"allocation": {}, "job": {}}
        self._any: dict[Waiter, None] = {}
        self._leaving: dict[Waiter, None] = {}

    def __len__(self) -> int:
        """Return the number of registered waiters. O(keys)."""
        return len(self._any) + sum(len(waiters) for by_key in self._keyed.values() for waiters in by_key.values())

    def add(self, waiter: Waiter, kind: WaiterKind, key: str = "") -> None:
        """Register a waiter for the next change of a key, or of anything if the key has its limit of waiters."""
        assert waiter.place is None
        if kind != "any":
            waiters = self._keyed[kind].setdefault(key, {})
            if len(waiters) < self._limit:
                waiter.place = kind, key  # before it is added, so that it is removed in any case
                waiters[waiter] = None
                return
        waiter.place = "any", ""
        self._any[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter, if it has not been woken."""
        if waiter.place is None:
            return
        kind, key = waiter.place
        if kind == "any":
            self._any.pop(waiter, None)
        else:
            waiters = self._keyed[kind].get(key, {})
            waiters.pop(waiter, None)
            if not waiters:
                self._keyed[kind].pop(key, None)
        waiter.place = None

    def take(self, alloc: str, job: str) -> None:
        """Take out all waiters for this allocation, its job, or any change, for `wake`."""
        by_allocation, by_job = self._keyed["allocation"], self._keyed["job"]
        if self._any or by_allocation or by_job:
            self._take(self._any)
            self._any.clear()
            self._take(by_allocation.get(alloc, {}))
            by_allocation.pop(alloc, None)
            self._take(by_job.get(job, {}))
            by_job.pop(job, None)

    def take_all(self) -> None:
        """Take out all waiters, for `wake`."""
        self._take(self._any)
        self._any.clear()
        for by_key in self._keyed.values():
            for waiters in by_key.values():
                self._take(waiters)
            by_key.clear()

    def _take(self, waiters: dict[Waiter, None]) -> None:
        """Note the waiters to wake, before they are taken out."""
        self._leaving |= waiters
        for waiter in waiters:
            waiter.place = None

    def wake(self) -> None:
        """Wake the waiters that were taken out. Without the lock; safe from any thread."""
        while self._leaving:
            for waiter in tuple(self._leaving):
                try:
                    self._leaving.pop(waiter, None)  # first: it may wait again at once, and be taken out
                    waiter.wake()
                except BaseException:
                    self._leaving[waiter] = None
                    raise

    def _check(self) -> None:
        """Assert every invariant."""
        keyed = [
            (kind, key, waiter)
            for kind, by_key in self._keyed.items()
            for key, waiters in by_key.items()
            for waiter in waiters
        ]
        assert all(waiter.place == (kind, key) for kind, key, waiter in keyed)
        assert all(waiter.place == ("any", "") for waiter in self._any)
        assert all(0 < len(w) <= self._limit for by_key in self._keyed.values() for w in by_key.values())


# --- waiting ---


class Reply(Struct, Generic[T], frozen=True):
    """The reply to a question: its value, its index, and the key whose changes can change it."""

    index: int
    value: T
    kind: WaiterKind
    key: str = ""


Question: TypeAlias = Callable[[], Reply[T]]
"""A function that is called under the lock of the source: it must neither wait nor lock."""


class AnswersQuestions(Protocol):
    """A source of answers, which wakes waiters when an answer changes."""

    def reply(self, question: Question[T], after: int, waiter: Waiter | None) -> Reply[T] | None:
        """Answer a question; if the answer's index is not greater than this, register the waiter and return None.

        Without a waiter, and after waits have been ended, it always answers.
        """

    def forget(self, waiter: Waiter) -> None:
        """Remove a waiter."""


class _ThreadWaiter(Waiter):
    """A waiting thread."""

    __slots__ = ("_woken", "is_over")

    def __init__(self) -> None:
        # A queue implemented in C: unlike threading.Event, no interruption leaves it locked.
        self._woken: SimpleQueue[None] = SimpleQueue()
        self.place = None
        self.is_over = False

    def wake(self) -> None:
        """Wake the thread."""
        self._woken.put(None)

    def end(self) -> None:
        """Wake the thread for the last time."""
        self.is_over = True
        self._woken.put(None)

    def begin(self) -> None:
        """Discard earlier wake-ups, which the next question answers."""
        while not self._woken.empty():
            self._woken.get_nowait()

    def sleep(self, deadline: float | None) -> None:
        """Sleep until woken, or until a deadline of the system's clock."""
        try:
            self._woken.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
        except Empty:
            self.is_over = True


def wait(source: AnswersQuestions, question: Question[T], after: int, timeout: float | None, clock: object) -> Reply[T]:
    """Block this thread until the answer's index is greater than ``after``, for at most ``timeout`` seconds.

    The clock measures the time if it is a `Timer`; else the system does.
    """
    waiter = _ThreadWaiter()
    cancel, deadline = (None, None) if timeout is None else _limit(timeout, clock, waiter.end)
    try:
        while True:
            waiter.begin()
            reply = source.reply(question, after, None if waiter.is_over else waiter)
            if reply is not None:
                return reply
            waiter.sleep(deadline)
            if waiter.place is not None:
                source.forget(waiter)
    finally:
        if cancel is not None:
            cancel()
        if waiter.place is not None:  # after an exception in this thread, such as KeyboardInterrupt
            source.forget(waiter)


def _limit(timeout: float, clock: object, end: Callable[[], None]) -> tuple[Callable[[], None] | None, float | None]:
    """Limit a wait; return a cancel function if the clock is a `Timer`, else a deadline of the system's clock."""
    if timeout <= 0:
        end()  # also with a clock that stands still
        return None, None
    if isinstance(clock, CallsLater):
        return clock.call_later(_nanoseconds(timeout), end), None
    return None, time.monotonic() + timeout


def _nanoseconds(seconds: float) -> int:
    """Convert seconds to nanoseconds; negative ones to 0."""
    return max(int(seconds * 1_000_000_000), 0)


class _TaskWaiter(Waiter):
    """A waiting task on its event loop."""

    __slots__ = ("_future", "_is_woken", "_loop", "is_over")

    def __init__(self) -> None:
        self.place = None
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._is_woken = False
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Wake the task, from any thread; a closed loop has nothing to wake."""
        self._call_on_loop(self._wake)

    def end_from_any_thread(self) -> None:
        """Wake the task for the last time."""
        self._call_on_loop(self.end)

    def _call_on_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _wake(self) -> None:
        self._is_woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def end(self) -> None:
        """Wake the task for the last time, on its loop."""
        self.is_over = True
        self._wake()

    def end_after(self, timeout: float, clock: object) -> Callable[[], Any] | None:
        """Limit the wait; return a cancel function."""
        if timeout <= 0:
            self.end()  # also with a clock that stands still
            return None
        if isinstance(clock, CallsLater):
            return clock.call_later(_nanoseconds(timeout), self.end_from_any_thread)
        return self._loop.call_later(timeout, self.end).cancel

    def begin(self) -> None:
        """Discard earlier wake-ups, which the next question answers."""
        self._is_woken = self.is_over
        self._future = None

    async def sleep(self) -> None:
        """Sleep until woken."""
        if not self._is_woken:
            self._future = self._loop.create_future()
            await self._future


class AsyncWait(Generic[T]):
    """A wait on the running event loop, in two parts: `ask` once, and `finish` if that returns None.

    The waiter is registered between the two, so that the question is not asked twice before it sleeps.
    """

    __slots__ = ("_after", "_question", "_source", "_waiter")

    def __init__(self, source: AnswersQuestions, question: Question[T], after: int) -> None:
        """Prepare a wait for an answer whose index is greater than ``after``."""
        self._source = source
        self._question = question
        self._after = after
        self._waiter = _TaskWaiter()

    def ask(self) -> Reply[T] | None:
        """Return the answer if it is new enough; else None: then `finish`, or `close`."""
        self._waiter.begin()
        return self._source.reply(self._question, self._after, None if self._waiter.is_over else self._waiter)

    async def finish(self, timeout: float | None, clock: object) -> Reply[T]:  # noqa: ASYNC109 - as in `wait`
        """Return the answer when it is new enough, or after ``timeout`` seconds; closes itself when cancelled."""
        cancel = None if timeout is None else self._waiter.end_after(timeout, clock)
        try:
            while True:
                await self._waiter.sleep()
                self.close()
                reply = self.ask()
                if reply is not None:
                    return reply
        finally:
            if cancel is not None:
                cancel()
            self.close()

    def close(self) -> None:
        """Stop waiting."""
        if self._waiter.place is not None:
            self._source.forget(self._waiter)


async def wait_async(
    source: AnswersQuestions,
    question: Question[T],
    after: int,
    timeout: float | None,  # noqa: ASYNC109 - as in `wait`
    clock: object,
) -> Reply[T]:
    """Wait on this event loop until the answer's index is greater than ``after``, for at most ``timeout`` seconds.

    Writers may be in any thread. Cancelling the wait frees its waiter.
    """
    waiting = AsyncWait(source, question, after)
    reply = waiting.ask()
    return await waiting.finish(timeout, clock) if reply is None else reply
