"""The bounded ring of a task's newest events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from taskfold.model.dialect import EVENTS_PER_TASK
from taskfold.model.events import AnyTaskEvent, TaskEvent

__all__ = ["STAYING", "EventRing"]

STAYING: Final = slice(1 - EVENTS_PER_TASK, None)
"""The shown events that stay visible beside a new one: all of them, or the newest nine."""


class EventRing(Struct, gc=False):
    """The 10 newest events of a task, in order of arrival (never of time), and how many there were in all.

    Adding copies at most 10 references; reading is free, and a returned ring never changes. A tuple of
    what takes part in no cycle is nothing to Python's garbage collector, which would look at a list again and again.

    >>> from taskfold.events import Started
    >>> ring = EventRing()
    >>> for second in range(12):
    ...     ring.append(Started(time_ns=second))
    >>> [event.time_ns for event in ring.events()], ring.total, ring.dropped
    ([2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 12, 2)
    """

    slots: tuple[AnyTaskEvent, ...] = ()
    """The events that are shown, oldest first."""
    total: int = 0
    """How many events were ever appended."""

    @property
    def dropped(self) -> int:
        """How many events are no longer shown."""
        return self.total - len(self.slots)

    def append(self, event: AnyTaskEvent) -> None:
        """Add the newest event; beyond 10 the oldest is dropped. O(1)."""
        self.total += 1
        self.slots = (*self.slots[STAYING], event)

    def events(self) -> tuple[AnyTaskEvent, ...]:
        """Return the events that are shown, oldest first. O(1)."""
        return self.slots

    @property
    def newest(self) -> AnyTaskEvent | None:
        """The newest event, if there is one."""
        return self.slots[-1] if self.slots else None

    def clear(self) -> None:
        """Show no event; the total stays, so that what is no longer shown counts as dropped."""
        self.slots = ()

    @classmethod
    def of(cls, events: tuple[AnyTaskEvent, ...], total: int) -> EventRing:
        """Return a ring that shows these events (at most 10) and has seen so many in all."""
        return cls(events, total)

    def copy(self) -> EventRing:
        """Return a ring of its own with the same events."""
        return EventRing(self.slots, self.total)

    def __len__(self) -> int:
        """Return how many events are shown."""
        return len(self.slots)

    def __iter__(self) -> Iterator[AnyTaskEvent]:
        """Iterate over the events that are shown, oldest first."""
        return iter(self.slots)

    def _check(self) -> None:
        """Assert every invariant; on failure print the ring."""
        try:
            assert len(self.slots) <= EVENTS_PER_TASK, "more events than the capacity"
            assert self.total >= len(self.slots), "fewer events ever than are shown"
            assert all(isinstance(event, TaskEvent) for event in self.slots), "something that is no task event"
        except AssertionError as error:
            error.add_note(repr(self))
            raise
