"""Timers: which task of which allocation is due when, sorted by time, and by the order of setting where times are equal.

One task has one timer at most; a new one replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sortedcontainers import SortedList

__all__ = ["Due", "Timers"]


class Due(NamedTuple):
    """An entry: sorted by time, then by the order in which the timers were set."""

    due_ns: int
    order: int
    alloc: str
    task: str


class Timers:
    """The timers of all tasks.

    >>> timers = Timers()
    >>> timers.set("a", "web", 30), timers.set("a", "db", 10), timers.set("a", "web", 5)
    (None, None, None)
    >>> timers.next_ns, [(due.task, due.due_ns) for due in timers.pop(10)], len(timers)
    (5, [('web', 5), ('db', 10)], 0)
    """

    def __init__(self) -> None:
        self._sorted: SortedList = SortedList()
        self._by_task: dict[tuple[str, str], Due] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._sorted)

    @property
    def next_ns(self) -> int | None:
        """When the next one is due (unix nanoseconds); None without one. O(1)."""
        first: Due | None = self._sorted[0] if self._sorted else None
        return None if first is None else first.due_ns

    def get(self, alloc: str, task: str) -> int | None:
        """Return when a task is due (unix nanoseconds); None where it has no timer. O(1)."""
        found = self._by_task.get((alloc, task))
        return None if found is None else found.due_ns

    def set(self, alloc: str, task: str, due_ns: int) -> None:
        """Set the timer of a task. O(log n)."""
        self.discard(alloc, task)
        self._count += 1
        due = self._by_task[alloc, task] = Due(due_ns, self._count, alloc, task)
        self._sorted.add(due)

    def set_all(self, entries: Iterable[tuple[str, str, int]]) -> None:
        """Set the timers of many tasks that have none. O(n log n), and much faster than one after the other."""
        new = []
        for alloc, task, due_ns in entries:
            self._count += 1
            due = self._by_task[alloc, task] = Due(due_ns, self._count, alloc, task)
            new.append(due)
        self._sorted.update(new)

    def discard(self, alloc: str, task: str) -> None:
        """Let the timer of a task go, if it has one. O(log n)."""
        found = self._by_task.pop((alloc, task), None)
        if found is not None:
            self._sorted.remove(found)

    def pop(self, now_ns: int) -> list[Due]:
        """Take out all that are due by a time, in order. O(log n) for each."""
        found: list[Due] = []
        while self._sorted and self._sorted[0].due_ns <= now_ns:
            due = self._sorted.pop(0)
            del self._by_task[due.alloc, due.task]
            found.append(due)
        return found

    def _check(self) -> None:
        """Assert every invariant."""
        self._sorted._check()  # noqa: SLF001 - sortedcontainers' own check, made to be called in tests
        assert sorted(self._by_task.values()) == list(self._sorted)
        assert all((due.alloc, due.task) == key for key, due in self._by_task.items())
