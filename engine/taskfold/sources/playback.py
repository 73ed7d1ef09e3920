"""Playback: the state of an engine's allocations as it was, write by write, back and forth."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

from taskfold.fold.allocation import AllocationState, Fold
from taskfold.live.engine import Engine
from taskfold.model.errors import UnknownAllocation
from taskfold.model.record import Record
from taskfold.sources.replay import At

__all__ = ["Playback"]

_WINDOW: Final = 1_000
"""How many records are kept before and after the point, so that a step back does not fold the log anew."""


class Playback:
    """The state at a point of an engine's log; the point moves by writes, to an index, or to a time.

    A write is all records of one index in a row. What a compaction removed from the log is not there at any point.
    Memory: the state, and 24 bytes for each write. A move costs the records between the two points; one far back, the
    records before the new point.

    >>> engine = Engine(dialect="1.1.2")
    >>> for status in ("pending", "running", "complete"):
    ...     engine.place({"ID": "a", "ClientStatus": status}) if "a" not in engine.reader else None
    ...     _ = engine.update("a", {"ClientDescription": status})
    >>> playback = Playback(engine)
    >>> playback.move(-1)
    >>> playback.at.index, bytes(playback["a"].updates["ClientDescription"])
    (3, b'"running"')
    """

    def __init__(self, engine: Engine) -> None:
        """Begin at the newest write. O(records of the log). Raises LogError."""
        self._reader, self._dialect = engine.reader, engine.dialect
        self._seqs, self._indexes, self._times = array("Q"), array("Q"), array("Q")
        self._place = 0
        self._base = Fold(self._dialect, on_illegal="keep")
        self._base_place = 0
        self._window: list[Record] = []
        self._window_place = 0
        self._state = Fold(self._dialect, on_illegal="keep")
        """The allocations that changed after the base."""
        self.read()
        self.move_to_end()

    def read(self) -> int:
        """Read the new writes of the log; the point stays. Return their number. Raises LogError."""
        before = len(self._seqs)
        for record in self._reader.kept_after(self._seqs[-1] if self._seqs else 0):
            if not self._indexes or record.index != self._indexes[-1]:
                for column in (self._seqs, self._indexes, self._times):
                    column.append(0)
                self._indexes[-1] = record.index
            self._seqs[-1] = record.seq
            self._times[-1] = max(record.time_ns, self._times[-2] if len(self._times) > 1 else 0)
        return len(self._seqs) - before

    # --- the point ---

    @property
    def at(self) -> At:
        """The point: index, time (the newest so far, unix nanoseconds) and position of its write."""
        if not self._place:
            return At(index=0, time_ns=0, seq=0)
        last = self._place - 1
        return At(index=self._indexes[last], time_ns=self._times[last], seq=self._seqs[last])

    @property
    def place(self) -> int:
        """The number of writes up to the point."""
        return self._place

    def __len__(self) -> int:
        """Return the number of writes that were read."""
        return len(self._seqs)

    def move(self, writes: int) -> None:
        """Move the point by so many writes, back where it is negative, as far as the log goes. Raises LogError."""
        self._go(self._place + writes)

    def move_to(self, at: At) -> None:
        """Move to the last write at or before an index, a time or a position. Raises LogError."""
        if at.seq is not None:
            self._go(bisect_right(self._seqs, at.seq))
        elif at.time_ns is not None:
            self._go(bisect_right(self._times, at.time_ns))
        elif at.index is not None:
            # Indexes of several sources need not grow: the last write whose index is not greater.
            self._go(max((n for n, index in enumerate(self._indexes, 1) if index <= at.index), default=0))
        else:
            self.move_to_end()

    def move_to_end(self) -> None:
        """Move to the newest write that was read. Raises LogError."""
        self._go(len(self._seqs))

    # --- the state there ---

    def __iter__(self) -> Iterator[str]:
        """Iterate over the IDs of the allocations, the ones that were collected left out."""
        changed = self._state.allocations
        for alloc, allocation in self._base.allocations.items():
            if not changed.get(alloc, allocation).collected:
                yield alloc
        for alloc, allocation in changed.items():
            if alloc not in self._base and not allocation.collected:
                yield alloc

    def __contains__(self, alloc: object) -> bool:
        """Tell whether an allocation was known, collected or not."""
        return alloc in self._state or alloc in self._base

    def __getitem__(self, alloc: str) -> AllocationState:
        """Return an allocation as it was. Raises UnknownAllocation."""
        for fold in (self._state, self._base):
            if alloc in fold:
                return fold[alloc]
        raise UnknownAllocation(f"no allocation {alloc!r} was known at {self.at}")

    # --- moving ---

    def _go(self, place: int) -> None:
        """Make the state after so many writes."""
        place = max(0, min(place, len(self._seqs)))
        end = self._seqs[place - 1] if place else 0
        if not self._base_place <= place <= self._window_place:
            self._load(place)
        self._state = Fold(self._dialect, on_illegal="keep")
        changed, base = self._state.allocations, self._base.allocations
        for record in self._window:
            if record.seq > end:
                break
            if record.alloc not in changed and record.alloc in base:
                changed[record.alloc] = base[record.alloc].copy()
            self._state.apply(record)
        self._place = place

    def _load(self, place: int) -> None:
        """Move the base to some records before a place, and read the window around it."""
        end = self._seqs[place - 1] if place else 0
        # The last write that ends at least a window of records before the place.
        base_place = bisect_right(self._seqs, end - _WINDOW) if end > _WINDOW else 0
        if base_place < self._base_place:
            self._base, self._base_place = Fold(self._dialect, on_illegal="keep"), 0
        base_seq = self._seqs[base_place - 1] if base_place else 0
        window_place = min(max(bisect_left(self._seqs, end + _WINDOW) + 1, place), len(self._seqs))
        window_seq = self._seqs[window_place - 1] if window_place else 0
        self._window = []
        for record in self._reader.kept_after(self._seqs[self._base_place - 1] if self._base_place else 0):
            if record.seq > window_seq:
                break
            if record.seq <= base_seq:
                self._base.apply(record)
            else:
                self._window.append(record)
        self._base_place, self._window_place = base_place, window_place
