"""Changes: what each write did, and the newest of them, for those who follow an engine."""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

from taskfold.fold.allocation import AllocationState
from taskfold.model.record import Record

__all__ = ["Change", "RecentChanges"]

_STATES: Final = 2_048
"""How many states of the newest changes are kept for those who follow: what is older is read from the log."""


class Change(Struct, frozen=True, gc=False):
    """What one write did: its records, and each allocation that it changed, as it was afterwards."""

    first_seq: int
    last_seq: int
    index: int
    allocations: tuple[tuple[AllocationState, tuple[Record, ...]], ...]


class RecentChanges:
    """The newest changes, while somebody follows. Nothing here locks: whoever owns the state holds its lock.

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
        """The position from which on every change is here."""
        self._state_count = 0

    def __len__(self) -> int:
        """Return how many states of allocations it keeps."""
        return self._state_count

    def follow(self, after_seq: int) -> None:
        """Keep the changes after a position from now on, until `unfollow` was called as often."""
        self.followers += 1
        if self.followers == 1:
            self._after_seq = after_seq

    def unfollow(self) -> None:
        """Undo one `follow`."""
        self.followers -= 1
        if not self.followers:
            self.forget(self._after_seq)

    def forget(self, seq: int) -> None:
        """Forget what there is; what comes up to a position is only in the log."""
        self._changes.clear()
        self._state_count = 0
        self._after_seq = seq

    def add(self, change: Change) -> None:
        """Keep the next change, and let the oldest go. O(1), amortized."""
        self._changes.append(change)
        self._state_count += len(change.allocations)
        while self._state_count > _STATES:
            oldest = self._changes.popleft()
            self._state_count -= len(oldest.allocations)
            self._after_seq = oldest.last_seq

    def after(self, seq: int, limit: int = 64) -> list[Change] | None:
        """Return the next changes after a position, if they are here; None when the log must be read. O(kept)."""
        if seq < self._after_seq:
            return None
        # From the right: who follows is near the end.
        changes: list[Change] = []
        for change in reversed(self._changes):
            if change.last_seq <= seq:
                break
            if change.first_seq <= seq:
                return None  # a position inside a write
            changes.append(change)
        changes.reverse()
        return changes[:limit]
