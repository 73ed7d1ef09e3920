"""Timers: the due times of tasks.

They are sorted by time and, at equal times, by the order in which they were set. A task has at most one timer; a new
one replaces it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from msgspec import Struct

__all__ = ["Alarm", "Timers"]

_TIDY_FROM: Final = 1_024
"""The queue is not tidied while it has at most so many entries."""


class Alarm(Struct, order=True, frozen=True, gc=False):
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
        self._times: list[int] = []
        """A heap of all due times, and of some times without any timer, which are skipped.

        A heap, not a sorted list, since each report sets a timer, and many are discarded. Plain integers: among a
        million they are compared twice as fast as tuples.
        """
        self._at: dict[int, Alarm | deque[Alarm]] = {}
        """The entries by due time: usually one, else several in order."""
        self._by_allocation: dict[str, Alarm | dict[str, Alarm]] = {}
        """The timers by allocation: usually one, else several by task."""
        self._length = 0
        self._count = 0
        self._entry_count = 0
        """The number of entries, including discarded ones."""

    def __len__(self) -> int:
        """Return the number of timers."""
        return self._length

    @property
    def next_ns(self) -> int | None:
        """The time of the next timer (unix nanoseconds); None if there is none. O(1), amortized O(log n)."""
        first = self.first
        return None if first is None else first.due_ns

    @property
    def first(self) -> Alarm | None:
        """The next timer; None if there is none. O(1), amortized O(log n)."""
        while self._at:
            entries = self._at[self._times[0]]
            first = entries[0] if isinstance(entries, deque) else entries
            if self._is_set(first):
                return first
            # Discarded entries are removed here, so that each is looked at once.
            self._entry_count -= 1
            if isinstance(entries, deque) and len(entries) > 1:
                entries.popleft()
            else:
                del self._at[heappop(self._times)]
        return None

    def _is_set(self, due: Alarm) -> bool:
        return self._timer_of(due.alloc, due.task) is due

    def _timer_of(self, alloc: str, task: str) -> Alarm | None:
        timers = self._by_allocation.get(alloc)
        if isinstance(timers, dict):
            return timers.get(task)
        return timers if timers is not None and timers.task == task else None

    def get(self, alloc: str, task: str) -> int | None:
        """Return the due time of a task (unix nanoseconds); None if it has no timer. O(1)."""
        alarm = self._timer_of(alloc, task)
        return None if alarm is None else alarm.due_ns

    def set(self, alloc: str, task: str, due_ns: int) -> None:
        """Set the timer of a task, replacing any it has. O(log n)."""
        if self._note(alloc, task, due_ns):
            heappush(self._times, due_ns)
        self._tidy()

    def set_all(self, entries: Iterable[tuple[str, str, int]]) -> None:
        """Set the timers of many tasks that have none. O(n), and much faster than one by one."""
        self._times += [due_ns for alloc, task, due_ns in entries if self._note(alloc, task, due_ns)]
        heapify(self._times)

    def _note(self, alloc: str, task: str, due_ns: int) -> bool:
        """Add an entry; tell whether its time is new."""
        self._count += 1
        due = Alarm(due_ns, self._count, alloc, task)
        timers = self._by_allocation.setdefault(alloc, due)
        if isinstance(timers, dict):
            self._length += task not in timers
            timers[task] = due
        elif timers is due:
            self._length += 1
        elif timers.task == task:
            self._by_allocation[alloc] = due
        else:
            self._length += 1
            self._by_allocation[alloc] = {timers.task: timers, task: due}
        self._entry_count += 1
        return _put(self._at, due)

    def discard(self, alloc: str, task: str) -> None:
        """Discard the timer of a task, if it has one. O(1), amortized O(log n)."""
        self._take_out(alloc, task)
        self._tidy()

    def _take_out(self, alloc: str, task: str) -> None:
        timers = self._by_allocation.get(alloc)
        if isinstance(timers, dict) and len(timers) > 1:
            self._length -= timers.pop(task, None) is not None
        elif self._timer_of(alloc, task) is not None:
            del self._by_allocation[alloc]
            self._length -= 1

    def forget(self, alloc: str) -> None:
        """Discard the timers of all tasks of an allocation. O(1), amortized O(log n) for each."""
        timers = self._by_allocation.pop(alloc, None)
        if timers is not None:
            self._length -= len(timers) if isinstance(timers, dict) else 1
            self._tidy()

    def _tidy(self) -> None:
        """Remove discarded entries before they are the majority. O(n log n) then, amortized O(log n)."""
        if self._entry_count <= _TIDY_FROM or self._entry_count <= 2 * self._length:
            return
        self._at = {}
        for due in sorted(self):
            _put(self._at, due)
        self._entry_count = self._length
        self._times = sorted(self._at)

    def __iter__(self) -> Iterator[Alarm]:
        """Yield every timer, grouped by allocation."""
        for timers in self._by_allocation.values():
            yield from _timers(timers)

    def pop(self, now_ns: int) -> list[Alarm]:
        """Remove and return all timers due by a time, in order. O(log n) for each, amortized."""
        alarms: list[Alarm] = []
        times = self._times
        while self._at and (first_ns := times[0]) <= now_ns:
            heappop(times)
            entries = _entries(self._at.pop(first_ns))
            self._entry_count -= len(entries)
            for due in entries:
                if self._is_set(due):
                    self._take_out(due.alloc, due.task)
                    alarms.append(due)
        self._tidy()
        return alarms

    def _check(self) -> None:
        """Assert every invariant."""
        times = self._times
        assert all(times[(place - 1) // 2] <= times[place] for place in range(1, len(times)))
        assert sorted(times) == sorted(self._at)
        entries = [due for entry in self._at.values() for due in _entries(entry)]
        assert len(entries) == self._entry_count
        assert self._entry_count <= max(2 * self._length, _TIDY_FROM)
        assert sorted(filter(self._is_set, entries)) == sorted(self)
        assert len(list(self)) == self._length
        for alloc, timers in self._by_allocation.items():
            assert timers, alloc
            assert all(due.alloc == alloc and self._is_set(due) for due in _timers(timers))


def _put(at: dict[int, Alarm | deque[Alarm]], due: Alarm) -> bool:
    """Add an entry to those of its time; tell whether it is the first. O(1)."""
    entry = at.setdefault(due.due_ns, due)
    if entry is due:
        return True
    if isinstance(entry, deque):
        entry.append(due)
    else:
        at[due.due_ns] = deque((entry, due))
    return False


def _entries(entry: Alarm | deque[Alarm]) -> Sequence[Alarm]:
    """Return the alarms of a time."""
    return entry if isinstance(entry, deque) else (entry,)


def _timers(timers: Alarm | dict[str, Alarm]) -> Iterable[Alarm]:
    """Return the timers of an allocation."""
    return timers.values() if isinstance(timers, dict) else (timers,)
