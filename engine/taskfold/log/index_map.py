"""The index map: a sparse table from a Nomad index to the position where it begins in a log."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from taskfold.model.record import Record

__all__ = ["Positions"]

RECORDS_PER_MARK: Final = 1_024


class Positions:
    """For each index, a position after which all its records, and those of greater indexes, lie.

    It stores two integers for each 1,024 records. Indexes need not be in order, since the answers of several polls may
    be imported one after the other; no record is ever missed.
    >>> from taskfold.events import Started
    >>> positions = Positions()
    >>> positions.note_all(
    ...     [Record(seq=n, index=n * 10, alloc="a", version=n, event=Started()) for n in range(1, 3000)]
    ... )
    >>> positions.before(20_000), positions.before(0), positions.newest
    (1024, 0, 29990)
    """

    def __init__(self, records_per_mark: int = RECORDS_PER_MARK) -> None:
        self._records_per_mark = records_per_mark
        self._seqs = array("Q")
        self._newest = array("Q")
        """For each mark, the greatest index up to and including its position."""
        self._count = 0
        self.oldest = 0
        """The index of the first record; 0 if there is none."""
        self.newest = 0
        """The greatest index."""

    def saved(self) -> tuple[list[int], list[int], int, int, int]:
        """Export the table as lists and integers, for `of`."""
        return list(self._seqs), list(self._newest), self._count, self.oldest, self.newest

    @classmethod
    def of(cls, saved: tuple[list[int], list[int], int, int, int]) -> Positions:
        """Rebuild a table from `saved`."""
        index_map = cls()
        seqs, newest, index_map._count, index_map.oldest, index_map.newest = saved
        index_map._seqs.extend(seqs)
        index_map._newest.extend(newest)
        return index_map

    def note_all(self, records: Sequence[Record]) -> None:
        """Add the next records. O(records)."""
        count, newest = self._count, self.newest
        if records and not count:
            self.oldest = records[0].index
        for record in records:
            if count % self._records_per_mark == 0:
                self._seqs.append(record.seq - 1)
                self._newest.append(newest)
            count += 1
            if record.index > newest:  # noqa: PLR1730 - max() would double the cost of this loop
                newest = record.index
        self._count, self.newest = count, newest

    def before(self, index: int) -> int:
        """Return a position after which all records of this index and of greater ones lie. O(log n)."""
        # The last mark before which every index is smaller: the first record of the index lies after it.
        place = bisect_left(self._newest, index)
        return self._seqs[place - 1] if place else 0
