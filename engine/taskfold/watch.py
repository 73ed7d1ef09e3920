"""Watches: who waits for a change of one allocation, of one job, or of anything.

A waiter is registered under the same lock as the value that it saw, so that no change can come in between; a change
takes the waiters of its keys out and wakes each once. A waiter looks at the value again when it is woken: it may be
woken for nothing, and is never left asleep.

A key has a limited number of waiters; those beyond it wait for any change instead, which wakes them more often, and
costs others nothing. Nothing here locks: whoever owns the state holds its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias

__all__ = ["WAITERS_PER_KEY", "Kind", "Waiter", "Watches", "wake"]

Kind: TypeAlias = Literal["allocation", "job", "any"]

WAITERS_PER_KEY: Final = 8_192
"""How many may wait for one allocation or one job by its key. Nomad watches coarser from as many on."""


class Waiter:
    """One who waits; ``wake`` is called once at most, by the thread that made the change, without any lock."""

    __slots__ = ("place", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.place: tuple[Kind, str] | None = None
        """Where it is registered; None when it is not, or was woken."""


class Watches:
    """The waiters by key. Every operation is O(1), or O(waiters that are woken).

    >>> watches = Watches()
    >>> watches.add(Waiter(lambda: print("woken")), "allocation", "a")
    >>> wake(watches.take("b", "example"))
    >>> wake(watches.take("a", "example"))
    woken
    >>> len(watches)
    0
    """

    def __init__(self, waiters_per_key: int = WAITERS_PER_KEY) -> None:
        self._limit = waiters_per_key
        # Dictionaries as ordered sets: first come, first woken.
        self._keyed: dict[Kind, dict[str, dict[Waiter, None]]] = {"allocation": {}, "job": {}}
        self._any: dict[Waiter, None] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many are waiting."""
        return self._count

    def add(self, waiter: Waiter, kind: Kind, key: str = "") -> None:
        """Have a waiter woken by the next change of a key; of anything where the key has its limit of waiters."""
        assert waiter.place is None
        if kind != "any":
            waiters = self._keyed[kind].get(key)
            if waiters is None:
                waiters = self._keyed[kind][key] = {}
            if len(waiters) < self._limit:
                waiters[waiter] = None
                waiter.place = kind, key
                self._count += 1
                return
        self._any[waiter] = None
        waiter.place = "any", ""
        self._count += 1

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter; one that was woken already is forgotten already."""
        if waiter.place is None:
            return
        kind, key = waiter.place
        if kind == "any":
            del self._any[waiter]
        else:
            waiters = self._keyed[kind][key]
            del waiters[waiter]
            if not waiters:
                del self._keyed[kind][key]
        waiter.place = None
        self._count -= 1

    def take(self, alloc: str, job: str) -> list[Waiter]:
        """Take out whoever waits for a change of this allocation, of its job, or of anything."""
        if not self._count:
            return []
        taken = [*self._any, *self._keyed["allocation"].pop(alloc, ()), *self._keyed["job"].pop(job, ())]
        self._any.clear()
        self._forget(taken)
        return taken

    def take_all(self) -> list[Waiter]:
        """Take out everybody."""
        taken = list(self._any)
        for by_key in self._keyed.values():
            for waiters in by_key.values():
                taken += waiters
            by_key.clear()
        self._any.clear()
        self._forget(taken)
        return taken

    def _forget(self, taken: list[Waiter]) -> None:
        for waiter in taken:
            waiter.place = None
        self._count -= len(taken)

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
        assert self._count == len(keyed) + len(self._any)


def wake(waiters: Iterable[Waiter]) -> None:
    """Wake each of these, who were taken out before."""
    for waiter in waiters:
        waiter.wake()
