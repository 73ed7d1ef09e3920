"""Changes: the effect of each write on allocations, and a buffer of the newest changes for followers."""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

from taskfold.fold.allocation import AllocationState
from taskfold.model.record import Record

__all__ = ["Change", "RecentChanges"]

_STATES: Final = 2_048
"""How many allocation states the buffer holds; older changes are read from the log."""


class Change(Struct, frozen=True, gc=False):
    """The effect of one write: its records, and the state of each changed allocation after it."""

    first_seq: int
    last_seq: int
    index: int
    allocations: tuple[tuple[AllocationState, tuple[Record, ...]], ...]


class RecentChanges:
    """A buffer of the newest changes, filled while there are followers. The owner's lock protects it.

    >>> recent = RecentChanges()
    >>> recent.follow(after_seq=7)
    >>> recent.add(Change(8, 9, 4, ()))
    >>> [change.index for change in recent.after(7)], recent.after(9), recent.after(6), recent.after(8)
    ([4], [], None, None)
    """

    def __init__(self) -> None:
        self.followers = 0
        self._changes: deque[Change] = deque()
        self._after_seq = 0
        """The position after which every change is in the buffer."""
        self._state_count = 0

    def __len__(self) -> int:
        """Return how many allocation states it holds."""
        return self._state_count

    def follow(self, after_seq: int) -> None:
        """Start buffering the changes after a position; ends with as many calls of `unfollow`."""
        self.followers += 1
        if self.followers == 1:
            self._after_seq = after_seq

    def unfollow(self) -> None:
        """Undo one `follow`."""
        self.followers -= 1
        if not self.followers:
            self.forget(self._after_seq)

    def forget(self, seq: int) -> None:
        """Empty the buffer; changes up to a position are only in the log."""
        self._changes.clear()
        self._state_count = 0
        self._after_seq = seq

    def add(self, change: Change) -> None:
        """Add the next change, and drop the oldest ones beyond the limit. O(1), amortized."""
        self._changes.append(change)
        self._state_count += len(change.allocations)
        while self._state_count > _STATES:
            oldest = self._changes.popleft()
            self._state_count -= len(oldest.allocations)
            self._after_seq = oldest.last_seq

    def after(self, seq: int, limit: int = 64) -> list[Change] | None:
        """Return the next changes after a position; None if they are only in the log. O(changes in the buffer)."""
        if seq < self._after_seq:
            return None
        # From the right, as followers are near the end.
        changes: list[Change] = []
        for change in reversed(self._changes):
            if change.last_seq <= seq:
                break
            if change.first_seq <= seq:
                return None  # a position inside a write
            changes.append(change)
        changes.reverse()
        return changes[:limit]
