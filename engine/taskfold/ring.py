"""The bounded ring of a task's newest events."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field

from taskfold.dialect import EVENTS_PER_TASK
from taskfold.events import TaskEvent

__all__ = ["EventRing"]

_AFTER = (*range(1, EVENTS_PER_TASK), 0)
"""The place after each place, around the ring."""


_NO_EVENTS: list[TaskEvent] = []
"""The slots of every ring without events: shared, and never changed."""


class EventRing(Struct, gc=False):
    """The 10 newest events of a task, in order of arrival (never of time), and how many there were in all.

    Adding costs O(1); reading copies at most 10 references, so that what was read never changes afterwards.

    >>> from taskfold.events import Started
    >>> ring = EventRing()
    >>> for second in range(12):
    ...     ring.append(Started(time_ns=second))
    >>> [event.time_ns for event in ring.events()], ring.total, ring.dropped
    ([2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 12, 2)
    """

    slots: list[TaskEvent] = field(default_factory=lambda: _NO_EVENTS)
    oldest: int = -1
    """The place of the oldest event in `slots` once they are full, and -1 before."""
    total: int = 0
    """How many events were ever appended."""

    @property
    def dropped(self) -> int:
        """How many events are no longer shown."""
        return self.total - len(self.slots)

    def append(self, event: TaskEvent) -> None:
        """Add the newest event; beyond 10 the oldest is dropped. O(1)."""
        self.total += 1
        oldest = self.oldest
        if oldest >= 0:
            self.slots[oldest] = event
            self.oldest = _AFTER[oldest]
            return
        # A new list of the exact size: list.append would keep room for 16.
        self.slots = slots = [*self.slots, event]
        if len(slots) == EVENTS_PER_TASK:
            self.oldest = 0

    def events(self) -> tuple[TaskEvent, ...]:
        """Return the events that are shown, oldest first. O(1), as there are at most 10."""
        slots, oldest = self.slots, self.oldest
        return (*slots[oldest:], *slots[:oldest]) if oldest > 0 else tuple(slots)

    @property
    def newest(self) -> TaskEvent | None:
        """The newest event, if there is one."""
        return self.slots[self.oldest - 1 if self.oldest > 0 else -1] if self.slots else None

    def clear(self) -> None:
        """Show no event; the total stays, so that what is no longer shown counts as dropped."""
        self.slots = _NO_EVENTS
        self.oldest = -1

    @classmethod
    def of(cls, events: tuple[TaskEvent, ...], total: int) -> EventRing:
        """Return a ring that shows these events (at most 10) and has seen so many in all."""
        return cls(list(events) or _NO_EVENTS, 0 if len(events) == EVENTS_PER_TASK else -1, total)

    def copy(self) -> EventRing:
        """Return a ring of its own with the same events."""
        return EventRing.of(self.events(), self.total)

    def __len__(self) -> int:
        """Return how many events are shown."""
        return len(self.slots)

    def __iter__(self) -> Iterator[TaskEvent]:
        """Iterate over the events that are shown, oldest first."""
        return iter(self.events())

    def _check(self) -> None:
        """Assert every invariant; on failure print the ring."""
        try:
            assert len(self.slots) <= EVENTS_PER_TASK, "more events than the capacity"
            assert -1 <= self.oldest < EVENTS_PER_TASK, "the oldest place is outside the slots"
            assert (self.oldest >= 0) == (len(self.slots) == EVENTS_PER_TASK), (
                "wrapped before it was full, or not after"
            )
            assert self.total >= len(self.slots), "fewer events ever than are shown"
            assert all(isinstance(event, TaskEvent) for event in self.slots), "something that is no task event"
        except AssertionError as error:
            error.add_note(repr(self))
            raise
