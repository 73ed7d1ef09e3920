"""Waiters: who waits, in a thread or on an event loop, until an index has passed.

A wait asks a question under the lock of its source, and registers its waiter under the same lock where the answer is
not new enough, so that no change can come in between; a change takes the waiters of its keys out and wakes each once.
Who is woken asks again: it may be woken for nothing, and is never left asleep. A wait ends with the newest answer: when
that is newer than what the caller knew, when its time is over, or when nobody is to wait any more.

A key has a limited number of waiters; those beyond it wait for any change instead, which wakes them more often, and
costs others nothing. `Watches` does not lock: whoever owns the state holds its lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from taskfold.model.clock import Timer

__all__ = [
    "WAITERS_PER_KEY",
    "AsyncWait",
    "Kind",
    "Question",
    "Reply",
    "Source",
    "Waiter",
    "Watches",
    "wait",
    "wait_async",
]

T = TypeVar("T")

Kind: TypeAlias = Literal["allocation", "job", "any"]

WAITERS_PER_KEY: Final = 8_192
"""How many may wait for one allocation or one job by its key. Nomad watches coarser from as many on."""


class Waiter:
    """One who waits, and the function that wakes it.

    The thread that made the change calls `wake`, without any lock: once, and perhaps again where that was interrupted.
    """

    __slots__ = ("_call", "place")

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.place: tuple[Kind, str] | None = None
        """Where it is registered; None when it is not, or was woken."""

    def wake(self) -> None:
        """Wake it."""
        self._call()


class Watches:
    """The waiters by key. Every operation is O(1), or O(waiters that are woken).

    Whatever is interrupted, a waiter is among those that wait, or among those that were taken, until it was woken.

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
        self._keyed: dict[Kind, dict[str, dict[Waiter, None]]] = {"allocation": {}, "job": {}}
        self._any: dict[Waiter, None] = {}
        self._leaving: dict[Waiter, None] = {}

    def __len__(self) -> int:
        """Return how many are waiting. O(keys)."""
        return len(self._any) + sum(len(waiters) for by_key in self._keyed.values() for waiters in by_key.values())

    def add(self, waiter: Waiter, kind: Kind, key: str = "") -> None:
        """Have a waiter woken by the next change of a key; of anything where the key has its limit of waiters."""
        assert waiter.place is None
        if kind != "any":
            waiters = self._keyed[kind].setdefault(key, {})
            if len(waiters) < self._limit:
                waiter.place = kind, key  # before it is there, so that it is removed whatever happens
                waiters[waiter] = None
                return
        waiter.place = "any", ""
        self._any[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter; one that was woken already is forgotten already."""
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
        """Take out whoever waits for a change of this allocation, of its job, or of anything, to be woken by `wake`."""
        by_allocation, by_job = self._keyed["allocation"], self._keyed["job"]
        if self._any or by_allocation or by_job:
            self._take(self._any)
            self._any.clear()
            self._take(by_allocation.get(alloc, {}))
            by_allocation.pop(alloc, None)
            self._take(by_job.get(job, {}))
            by_job.pop(job, None)

    def take_all(self) -> None:
        """Take out everybody, to be woken by `wake`."""
        self._take(self._any)
        self._any.clear()
        for by_key in self._keyed.values():
            for waiters in by_key.values():
                self._take(waiters)
            by_key.clear()

    def _take(self, waiters: dict[Waiter, None]) -> None:
        """Note who is to be woken, before they are taken out."""
        self._leaving |= waiters
        for waiter in waiters:
            waiter.place = None

    def wake(self) -> None:
        """Wake each of those who were taken out. Without the lock; any thread may."""
        while self._leaving:
            for waiter in tuple(self._leaving):
                try:
                    self._leaving.pop(waiter, None)  # before: it may wait again at once, and be taken out again
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
    """The reply to a question: its value, at which index, and whose changes could make it different."""

    index: int
    value: T
    kind: Kind
    key: str = ""


Question: TypeAlias = Callable[[], Reply[T]]
"""A function that is called under the lock of the source: it must neither wait nor lock."""


class Source(Protocol):
    """Something that answers questions, and wakes who waits for another answer."""

    def reply(self, question: Question[T], after: int, waiter: Waiter | None) -> Reply[T] | None:
        """Answer a question; register the waiter and return None where the answer's index is not greater than this.

        Without a waiter, and when nobody is to wait any more, it returns the answer in any case.
        """

    def forget(self, waiter: Waiter) -> None:
        """Wake a waiter no more."""


class _ThreadWaiter(Waiter):
    """A thread that waits."""

    __slots__ = ("_woken", "is_over")

    def __init__(self) -> None:
        # A queue of the interpreter's own: no interruption leaves it locked, as one leaves a threading.Event.
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
        """Be ready to sleep: what woke it so far is answered by the question that is asked next."""
        while not self._woken.empty():
            self._woken.get_nowait()

    def sleep(self, deadline: float | None) -> None:
        """Sleep until woken, or until a time of the system's clock."""
        try:
            self._woken.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
        except Empty:
            self.is_over = True


def wait(source: Source, question: Question[T], after: int, timeout: float | None, clock: object) -> Reply[T]:
    """Block this thread until the answer's index is greater than ``after``, for ``timeout`` seconds at most.

    The time is the clock's where it is a `Timer`; else the system's.
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
        if waiter.place is not None:  # an exception in this thread, such as KeyboardInterrupt
            source.forget(waiter)


def _limit(timeout: float, clock: object, end: Callable[[], None]) -> tuple[Callable[[], None] | None, float | None]:
    """End a wait when its time is over; return what cancels that, or until when to wait by the system's clock."""
    if timeout <= 0:
        end()  # also with a clock that stands still
        return None, None
    if isinstance(clock, Timer):
        return clock.call_later(_nanoseconds(timeout), end), None
    return None, time.monotonic() + timeout


def _nanoseconds(seconds: float) -> int:
    """Return a number of seconds in nanoseconds; none that is negative."""
    return max(int(seconds * 1_000_000_000), 0)


class _TaskWaiter(Waiter):
    """A task that waits on its event loop."""

    __slots__ = ("_future", "_is_woken", "_loop", "is_over")

    def __init__(self) -> None:
        self.place = None
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._is_woken = False
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Wake the task, from any thread; a loop that is closed has nobody to wake."""
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
        """End the wait when its time is over; return what cancels that."""
        if timeout <= 0:
            self.end()  # also with a clock that stands still
            return None
        if isinstance(clock, Timer):
            return clock.call_later(_nanoseconds(timeout), self.end_from_any_thread)
        return self._loop.call_later(timeout, self.end).cancel

    def begin(self) -> None:
        """Be ready to sleep: what woke it so far is answered by the question that is asked next."""
        self._is_woken = self.is_over
        self._future = None

    async def sleep(self) -> None:
        """Sleep until woken."""
        if not self._is_woken:
            self._future = self._loop.create_future()
            await self._future


class AsyncWait(Generic[T]):
    """A wait on the running event loop, in two parts: `ask` once, and, where that gives no answer, `finish`.

    Between the two the waiter is registered already, so that the question need not be asked again before it sleeps.
    """

    __slots__ = ("_after", "_question", "_source", "_waiter")

    def __init__(self, source: Source, question: Question[T], after: int) -> None:
        """Wait for an answer whose index is greater than ``after``."""
        self._source = source
        self._question = question
        self._after = after
        self._waiter = _TaskWaiter()

    def ask(self) -> Reply[T] | None:
        """Return the answer where it is new enough; None where it has to be waited for: `finish`, or `close`."""
        self._waiter.begin()
        return self._source.reply(self._question, self._after, None if self._waiter.is_over else self._waiter)

    async def finish(self, timeout: float | None, clock: object) -> Reply[T]:  # noqa: ASYNC109 - as in `wait`
        """Return the answer when it is new enough, or ``timeout`` seconds are over; where cancelled, `close`."""
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
        """Wait no more."""
        if self._waiter.place is not None:
            self._source.forget(self._waiter)


async def wait_async(
    source: Source,
    question: Question[T],
    after: int,
    timeout: float | None,  # noqa: ASYNC109 - as in `wait`
    clock: object,
) -> Reply[T]:
    """Wait on this event loop until the answer's index is greater than ``after``, for ``timeout`` seconds at most.

    Writers may be in any thread. When the wait is cancelled its waiter is freed.
    """
    waiting = AsyncWait(source, question, after)
    reply = waiting.ask()
    return await waiting.finish(timeout, clock) if reply is None else reply
