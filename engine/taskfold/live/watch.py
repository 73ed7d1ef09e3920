"""Watches: who waits for a change of one allocation, of one job, or of anything.

A waiter is registered under the same lock as the value that it saw, so that no change can come in between; a change
takes the waiters of its keys out and wakes each once. A waiter looks at the value again when it is woken: it may be
woken for nothing, and is never left asleep.

A key has a limited number of waiters; those beyond it wait for any change instead, which wakes them more often, and
costs others nothing. Nothing here locks: whoever owns the state holds its lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

__all__ = ["WAITERS_PER_KEY", "Kind", "Waiter", "Watches"]

Kind: TypeAlias = Literal["allocation", "job", "any"]

WAITERS_PER_KEY: Final = 8_192
"""How many may wait for one allocation or one job by its key. Nomad watches coarser from as many on."""


class Waiter:
    """One who waits.

    ``wake`` is called by the thread that made the change, without any lock: once, and perhaps again where that was
    interrupted.
    """

    __slots__ = ("place", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.place: tuple[Kind, str] | None = None
        """Where it is registered; None when it is not, or was woken."""


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
        self._taken: dict[Waiter, None] = {}

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
        self._taken |= waiters
        for waiter in waiters:
            waiter.place = None

    def wake(self) -> None:
        """Wake each of those who were taken out. Without the lock; any thread may."""
        while self._taken:
            for waiter in tuple(self._taken):
                try:
                    self._taken.pop(waiter, None)  # before: it may wait again at once, and be taken out again
                    waiter.wake()
                except BaseException:
                    self._taken[waiter] = None
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
