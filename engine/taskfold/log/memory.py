"""A log in memory: for tests, and for engines that need no history after their end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter

import msgspec

from taskfold.dialect import DEFAULT_DIALECT, Dialect
from taskfold.log.contract import Append, Ledger, check_whole, hole, new_header, removal
from taskfold.ownership import Owned
from taskfold.record import LogHeader, Record

__all__ = ["MemoryLog"]


class MemoryLog(Owned):
    """A log that ends with its process."""

    instead = "copy what it holds: `taskfold.ingest`, or `Engine.backup`"

    def __init__(self, dialect: str | Dialect = DEFAULT_DIALECT, region: str = "global") -> None:
        self.header = new_header(dialect, region)
        self._ledger = Ledger()
        self._records: list[Record] = []
        self._by_allocation: dict[str, list[Record]] = {}
        self._compacted: tuple[LogHeader, list[Record], dict[str, list[Record]], dict[str, int]] | None = None
        """What a compaction leaves, until all of it is in place."""
        self._is_interrupted = False
        """A call ended before its end: what is known of the records may not fit them."""
        self._own("this log in memory", "begin one here")

    @property
    def seq(self) -> int:
        """The position of the newest record."""
        return self._ledger.seq

    def append(self, alloc: str, expected_version: int, records: Sequence[Record]) -> list[Record]:
        """Append records to an allocation that is at this version; return those that were new. O(records)."""
        return self.append_all([Append(alloc, expected_version, records)])

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        """Append records to several allocations, all or nothing; return those that were new. O(records)."""
        self.recover()
        placed = [entry.record for entry in self._ledger.place(appends)]
        try:
            # The records first: who reads meanwhile reads up to the ledger's position.
            self._records.extend(placed)
            for record in placed:
                self._by_allocation.setdefault(record.alloc, []).append(record)
            self._ledger.note_placed(placed)
        except BaseException:
            self._is_interrupted = True
            raise
        return placed

    def recover(self) -> None:
        """Be what the list of records says, where a call was interrupted; else do nothing. O(records)."""
        if self._compacted is not None:
            self._put_compacted()
        if self._is_interrupted:
            ledger, by_allocation = Ledger(self.header), dict[str, list[Record]]()
            for record in self._records:
                ledger.note(record)
                by_allocation.setdefault(record.alloc, []).append(record)
            self._ledger, self._by_allocation = ledger, by_allocation
            self._is_interrupted = False

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended. O(1)."""
        return id in self._ledger.ids

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record of an ID; None where none was appended. O(1)."""
        return self._ledger.digest_of(id)

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(records that are read)."""
        newest, records = self.seq, self._by_allocation.get(alloc, ())
        removed = records[0].version - 1 if records else 0
        if after_version < removed:
            raise hole(self.header, "the log", alloc, after_version + 1, removed + 1)
        yield from (record for record in records[after_version - removed :] if record.seq <= newest)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(records that are read)."""
        newest, records = self.seq, self._records  # before the header is looked at, which is the first to change
        check_whole(self.header, "the log", after_seq)
        yield from _after(records, after_seq, newest)

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the records after a position that are there. O(log n + records that are read)."""
        yield from _after(self._records, after_seq, self.seq)

    def compact(self, before_ns: int | None = None) -> int:
        """Remove the records of allocations that were collected (before a time), all but the last of each. O(n)."""
        self.recover()
        found = removal(self.read_kept, before_ns, self.header)
        if found is None:
            return 0
        # New lists: who reads the old ones meanwhile reads them to their end.
        records = [r for r in self._records if r.version >= found.versions.get(r.alloc, 0)]
        last = {alloc: self._by_allocation[alloc][-1:] for alloc in found.versions}
        ids = {r.id: self._ledger.ids[r.id] for r in records if isinstance(r.id, str)}
        header = msgspec.structs.replace(self.header, compacted=found.compacted)
        self._compacted = header, records, {**self._by_allocation, **last}, ids
        self._put_compacted()
        return found.records

    def _put_compacted(self) -> None:
        """Put in place what a compaction left; once more where that was interrupted."""
        assert self._compacted is not None
        self.header, self._records, self._by_allocation, self._ledger.ids = self._compacted
        self._compacted = None

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def _after(records: Sequence[Record], after_seq: int, newest: int) -> Iterator[Record]:
    """Yield the records after a position, up to another."""
    start = bisect_right(records, after_seq, key=attrgetter("seq"))
    # One after the other, not a copy: whoever wants the first few of many pays for those.
    for place in range(start, len(records)):
        if records[place].seq > newest:
            return
        yield records[place]
