"""A log in memory: for tests, and for engines that need no history after their end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from taskfold.dialect import DEFAULT_DIALECT, Dialect
from taskfold.log.contract import Append, Ledger, new_header
from taskfold.record import Record

__all__ = ["MemoryLog"]


class MemoryLog:
    """A log that ends with its process."""

    def __init__(self, dialect: str | Dialect = DEFAULT_DIALECT, region: str = "global") -> None:
        self.header = new_header(dialect, region)
        self._ledger = Ledger()
        self._records: list[Record] = []
        self._by_allocation: dict[str, list[Record]] = {}

    @property
    def seq(self) -> int:
        """The position of the newest record."""
        return self._ledger.seq

    def append(self, alloc: str, expected_version: int, records: Sequence[Record]) -> list[Record]:
        """Append records to an allocation that is at this version; return those that were new. O(records)."""
        return self.append_all([Append(alloc, expected_version, records)])

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        """Append records to several allocations, all or nothing; return those that were new. O(records)."""
        placed = self._ledger.place(appends)
        # The records first: who reads meanwhile reads up to the ledger's position.
        self._records.extend(placed)
        for record in placed:
            self._by_allocation.setdefault(record.alloc, []).append(record)
        self._ledger.note_placed(placed)
        return placed

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended. O(1)."""
        return id in self._ledger.ids

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(records that are read)."""
        newest = self.seq
        yield from (record for record in self._by_allocation.get(alloc, [])[after_version:] if record.seq <= newest)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(records that are read)."""
        # One after the other, not a copy: whoever wants the first few of many pays for those.
        for place in range(after_seq, self.seq):
            yield self._records[place]

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""
