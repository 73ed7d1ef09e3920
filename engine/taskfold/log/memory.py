"""A log in memory: for tests, and for engines whose history may end with them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

from taskfold.log.contract import Append, Ledger, check_whole, copied_header, hole_error, new_header, removal
from taskfold.log.ownership import Owned
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect
from taskfold.model.record import LogHeader, Record

__all__ = ["MemoryLog"]


class MemoryLog(Owned):
    """A log that ends with its process."""

    instead = "copy its records instead: `taskfold.ingest`, or `Engine.backup`"

    def __init__(self, dialect: str | Dialect = DEFAULT_DIALECT, region: str = "global") -> None:
        self.header = new_header(dialect, region)
        self._ledger = Ledger()
        self._records = Records()
        self._by_allocation: dict[str, Link] = {}
        self._compacted: tuple[LogHeader, Records, dict[str, Link], dict[str, int]] | None = None
        """The result of a compaction, until it is completely in place."""
        self._is_interrupted = False
        """A call was interrupted: the bookkeeping may differ from the records."""
        self._own("this log in memory", "begin one here")

    @property
    def seq(self) -> int:
        """The position of the newest record."""
        return self._ledger.seq

    def append(self, alloc: str, expected_version: int, records: Sequence[Record]) -> list[Record]:
        """Append records to an allocation at its expected version; return the new ones. O(records)."""
        return self.append_all([Append(alloc, expected_version, records)])

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        """Append records to several allocations, all or nothing; return the new ones. O(records)."""
        self.recover()
        new, _ = self._ledger.place(appends)
        try:
            # The records first: readers read up to the ledger's position.
            self._records.extend(new)
            for record in new:
                self._by_allocation[record.alloc] = with_record(self._by_allocation.get(record.alloc), record)
            self._ledger.note_placed(new)
        except BaseException:
            self._is_interrupted = True
            raise
        return new

    def take(self, header: LogHeader, records: Iterable[Record]) -> None:
        """Copy all records of another log into this empty one, with their positions. O(records).

        Raises LogError when the records are not a complete log.
        """
        header, copied = copied_header(self.header, header), list(records)
        Ledger(header).note_all(copied)
        self.header = header
        self._records.extend(copied)
        self._rebuild()

    def recover(self) -> None:
        """Rebuild the bookkeeping from the records if a call was interrupted; else do nothing. O(records)."""
        if self._compacted is not None:
            self._put_compacted()
        if self._is_interrupted:
            self._rebuild()
            self._is_interrupted = False

    def _rebuild(self) -> None:
        """Rebuild the ledger and the links from the list of records. O(records)."""
        ledger, by_allocation = Ledger(self.header), dict[str, Link]()
        records = list(self._records.after(0))
        ledger.note_all(records)
        for record in records:
            by_allocation[record.alloc] = with_record(by_allocation.get(record.alloc), record)
        self._ledger, self._by_allocation = ledger, by_allocation

    def version_of(self, alloc: str) -> int:
        """Return the version of an allocation; 0 before its first record. O(1). In the turn."""
        return self._ledger.version_of(alloc)

    def knows(self, id: str) -> bool:
        """Tell whether the log has a record with this ID. O(1)."""
        return id in self._ledger.ids

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. O(1)."""
        return self._ledger.digest_of(id)

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield records of an allocation after a version. O(records read). Raises Gone where they were compacted."""
        newest = self.seq
        links = links_after(self._by_allocation.get(alloc), after_version)
        first = records_of(links[0])[0].version if links else 0
        if first > after_version + 1:
            raise hole_error(self.header, "the log", alloc, after_version + 1, first)
        records = (record for link in links for record in records_of(link) if record.version > after_version)
        yield from _up_to(newest, records)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(records read). Raises Gone where they were compacted."""
        newest, records = self.seq, self._records  # before the header is read, since a compaction changes it first
        check_whole(self.header, "the log", after_seq)
        yield from _up_to(newest, records.after(after_seq))

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the stored records after a position, skipping compacted ones. O(log n + records read)."""
        yield from _up_to(self.seq, self._records.after(after_seq))

    def compact(self, before_ns: int | None = None) -> int:
        """Remove the records of collected allocations (collected before a time), except each one's last. O(records)."""
        self.recover()
        removable = removal(self.read_kept, before_ns, self.header)
        if removable is None:
            return 0
        # New objects: readers of the old ones read those to their end.
        records = Records()
        records.extend([r for r in self._records.after(0) if r.version >= removable.versions.get(r.alloc, 0)])
        last: dict[str, Link] = {
            alloc: with_record(None, records_of(self._by_allocation[alloc])[-1]) for alloc in removable.versions
        }
        ids = {r.id: self._ledger.ids[r.id] for r in records.after(0) if isinstance(r.id, str)}
        header = msgspec.structs.replace(self.header, compacted=removable.compacted)
        self._compacted = header, records, {**self._by_allocation, **last}, ids
        self._put_compacted()
        return removable.records

    def _put_compacted(self) -> None:
        """Put the result of a compaction in place. Safe to repeat after an interruption."""
        assert self._compacted is not None
        self.header, self._records, self._by_allocation, self._ledger.ids = self._compacted
        self._compacted = None

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _up_to(newest: int, records: Iterator[Record]) -> Iterator[Record]:
    """Yield records up to a position."""
    # Lazily, not as a copy: a caller who wants the first few of many records pays for those alone.
    return takewhile(lambda record: record.seq <= newest, records)


# The records below are held in tuples: the garbage collector untracks a tuple that cannot be part of a cycle. In lists,
# every full collection would visit every record of the log.

_PIECE: Final = 1_024


class Records:
    """Records in the order of their positions; one thread adds while others read."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Record, ...]] = []
        self._newest: list[Record] = []

    def extend(self, records: Sequence[Record]) -> None:
        """Add the next records: all, or, if interrupted, none. O(records), amortized."""
        newest = self._newest
        if len(newest) >= _PIECE:
            # An interruption or a reader between the two steps finds the records in both places; `after` skips the
            # second copy.
            if not self._pieces or self._pieces[-1][-1] is not newest[-1]:
                self._pieces.append(tuple(newest))
            self._newest = newest = []
        newest.extend(records)

    def after(self, seq: int) -> Iterator[Record]:
        """Yield the records after a position. O(log n + records read)."""
        newest, pieces = self._newest, self._pieces  # in this order: records that are moved meanwhile are in both
        first = bisect_right(pieces, seq, key=_last_seq)
        for piece in (*pieces[first:], newest):
            for place in range(bisect_right(piece, seq, key=_seq), len(piece)):
                yield piece[place]
                seq = piece[place].seq


_seq: Final = attrgetter("seq")


def _last_seq(piece: tuple[Record, ...]) -> int:
    return piece[-1].seq


Link: TypeAlias = tuple[Any, ...]
"""A link of a chain of one allocation's records: the link before (None for the first), and then its records."""

_LINK: Final = 16
"""The most records in a link, since adding one copies the link."""


def with_record(link: Link | None, record: Record) -> Link:
    """Return an allocation's newest link after adding a record. O(1)."""
    if link is None or len(link) > _LINK:
        return link, record
    return *link, record


def records_of(link: Link) -> tuple[Record, ...]:
    """Return the records of one link, in order: at least one."""
    return link[1:]


def links_after(link: Link | None, version: int) -> list[Link]:
    """Return the links with the records after a version, oldest first. O(records found)."""
    links: list[Link] = []
    while link is not None:
        links.append(link)
        if records_of(link)[0].version <= version + 1:
            break
        link = link[0]
    links.reverse()
    return links
