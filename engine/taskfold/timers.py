"""Timers: which task of which allocation is due when.

They are sorted by time and, where times are equal, by the order in which they were set. One task has one timer at most; a new one replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from sortedcontainers import SortedList

__all__ = ["Due", "Timers"]

_TIDY_FROM: Final = 1_024
"""Up to how many entries nothing is tidied."""


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
        """The entries, and some that were let go of since: those are passed over when their time comes."""
        self._by_task: dict[tuple[str, str], Due] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_task)

    @property
    def next_ns(self) -> int | None:
        """When the next one is due (unix nanoseconds); None without one. O(1), amortized."""
        first = self._first()
        return None if first is None else first.due_ns

    def _first(self) -> Due | None:
        """Return the next entry; what was let go of before it is forgotten for good."""
        while self._sorted:
            first: Due = self._sorted[0]
            if self._is_set(first):
                return first
            del self._sorted[0]
        return None

    def _is_set(self, due: Due) -> bool:
        return self._by_task.get((due.alloc, due.task)) is due

    def get(self, alloc: str, task: str) -> int | None:
        """Return when a task is due (unix nanoseconds); None where it has no timer. O(1)."""
        found = self._by_task.get((alloc, task))
        return None if found is None else found.due_ns

    def set(self, alloc: str, task: str, due_ns: int) -> None:
        """Set the timer of a task, in place of the one it had. O(log n)."""
        self._count += 1
        due = self._by_task[alloc, task] = Due(due_ns, self._count, alloc, task)
        self._sorted.add(due)
        self._tidy()

    def set_all(self, entries: Iterable[tuple[str, str, int]]) -> None:
        """Set the timers of many tasks that have none. O(n log n), and much faster than one after the other."""
        new = []
        for alloc, task, due_ns in entries:
            self._count += 1
            due = self._by_task[alloc, task] = Due(due_ns, self._count, alloc, task)
            new.append(due)
        self._sorted.update(new)

    def discard(self, alloc: str, task: str) -> None:
        """Let the timer of a task go, if it has one. O(1)."""
        self._by_task.pop((alloc, task), None)

    def _tidy(self) -> None:
        """Forget what was let go of, before it is most of all. O(1), amortized."""
        if len(self._sorted) > _TIDY_FROM and len(self._sorted) > 2 * len(self._by_task):
            self._sorted = SortedList(self._by_task.values())

    def pop(self, now_ns: int) -> list[Due]:
        """Take out all that are due by a time, in order. O(log n) for each."""
        found: list[Due] = []
        while (due := self._first()) is not None and due.due_ns <= now_ns:
            del self._sorted[0]
            del self._by_task[due.alloc, due.task]
            found.append(due)
        return found

    def _check(self) -> None:
        """Assert every invariant."""
        self._sorted._check()  # noqa: SLF001 - sortedcontainers' own check, made to be called in tests
        assert [due for due in self._sorted if self._is_set(due)] == sorted(self._by_task.values())
        assert all((due.alloc, due.task) == key for key, due in self._by_task.items())
        assert len(self._sorted) <= max(2 * len(self._by_task), _TIDY_FROM) + 1 or not self._by_task
