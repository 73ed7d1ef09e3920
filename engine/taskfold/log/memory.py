"""A log in memory: for tests, and for engines that need no history after their end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

from taskfold.log.contract import Append, Ledger, check_whole, hole, new_header, removal, taken_header
from taskfold.log.ownership import Owned
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect
from taskfold.model.record import LogHeader, Record

__all__ = ["MemoryLog"]


class MemoryLog(Owned):
    """A log that ends with its process."""

    instead = "copy what it holds: `taskfold.ingest`, or `Engine.backup`"

    def __init__(self, dialect: str | Dialect = DEFAULT_DIALECT, region: str = "global") -> None:
        self.header = new_header(dialect, region)
        self._ledger = Ledger()
        self._records = Records()
        self._by_allocation: dict[str, Link] = {}
        self._compacted: tuple[LogHeader, Records, dict[str, Link], dict[str, int]] | None = None
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
        new, _ = self._ledger.place(appends)
        try:
            # The records first: who reads meanwhile reads up to the ledger's position.
            self._records.extend(new)
            for record in new:
                self._by_allocation[record.alloc] = longer(self._by_allocation.get(record.alloc), record)
            self._ledger.note_placed(new)
        except BaseException:
            self._is_interrupted = True
            raise
        return new

    def take(self, header: LogHeader, records: Iterable[Record]) -> None:
        """Copy the records of another log into this one, which is empty: each at its place. O(records).

        Raises LogError where they are not the records of a whole log.
        """
        header, copied = taken_header(self.header, header), list(records)
        Ledger(header).note_all(copied)
        self.header = header
        self._records.extend(copied)
        self._note_anew()

    def recover(self) -> None:
        """Be what the list of records says, where a call was interrupted; else do nothing. O(records)."""
        if self._compacted is not None:
            self._put_compacted()
        if self._is_interrupted:
            self._note_anew()
            self._is_interrupted = False

    def _note_anew(self) -> None:
        """Know what the list of records says, whatever was known before. O(records)."""
        ledger, by_allocation = Ledger(self.header), dict[str, Link]()
        records = list(self._records.after(0))
        ledger.note_all(records)
        for record in records:
            by_allocation[record.alloc] = longer(by_allocation.get(record.alloc), record)
        self._ledger, self._by_allocation = ledger, by_allocation

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended. O(1)."""
        return id in self._ledger.ids

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record of an ID; None where none was appended. O(1)."""
        return self._ledger.digest_of(id)

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(records that are read)."""
        newest = self.seq
        links = links_after(self._by_allocation.get(alloc), after_version)
        first = records_of(links[0])[0].version if links else 0
        if first > after_version + 1:
            raise hole(self.header, "the log", alloc, after_version + 1, first)
        records = (record for link in links for record in records_of(link) if record.version > after_version)
        yield from _up_to(newest, records)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(records that are read)."""
        newest, records = self.seq, self._records  # before the header is looked at, which is the first to change
        check_whole(self.header, "the log", after_seq)
        yield from _up_to(newest, records.after(after_seq))

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the records after a position that are there. O(log n + records that are read)."""
        yield from _up_to(self.seq, self._records.after(after_seq))

    def compact(self, before_ns: int | None = None) -> int:
        """Remove the records of allocations that were collected (before a time), all but the last of each. O(n)."""
        self.recover()
        removable = removal(self.read_kept, before_ns, self.header)
        if removable is None:
            return 0
        # New ones: who reads the old ones meanwhile reads them to their end.
        records = Records()
        records.extend([r for r in self._records.after(0) if r.version >= removable.versions.get(r.alloc, 0)])
        last: dict[str, Link] = {
            alloc: longer(None, records_of(self._by_allocation[alloc])[-1]) for alloc in removable.versions
        }
        ids = {r.id: self._ledger.ids[r.id] for r in records.after(0) if isinstance(r.id, str)}
        header = msgspec.structs.replace(self.header, compacted=removable.compacted)
        self._compacted = header, records, {**self._by_allocation, **last}, ids
        self._put_compacted()
        return removable.records

    def _put_compacted(self) -> None:
        """Put in place what a compaction left; once more where that was interrupted."""
        assert self._compacted is not None
        self.header, self._records, self._by_allocation, self._ledger.ids = self._compacted
        self._compacted = None

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def _up_to(newest: int, records: Iterator[Record]) -> Iterator[Record]:
    """Yield records up to a position."""
    # One after the other, not a copy: whoever wants the first few of many pays for those.
    return takewhile(lambda record: record.seq <= newest, records)


# What follows holds records in tuples: Python's garbage collector soon sees that no cycle can go through one, and never
# looks at it again. In a list it would look at every record of the log in every full collection.

_PIECE: Final = 1_024


class Records:
    """Records in the order of their positions, for one thread that adds and others that read meanwhile."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Record, ...]] = []
        self._newest: list[Record] = []

    def extend(self, records: Sequence[Record]) -> None:
        """Add the next records: all of them, or, where that is interrupted, none. O(records), amortized."""
        newest = self._newest
        if len(newest) >= _PIECE:
            # Interrupted or read between the two, they are there twice, and passed over once.
            if not self._pieces or self._pieces[-1][-1] is not newest[-1]:
                self._pieces.append(tuple(newest))
            self._newest = newest = []
        newest.extend(records)

    def after(self, seq: int) -> Iterator[Record]:
        """Yield the records after a position. O(log n + records that are read)."""
        newest, pieces = self._newest, self._pieces  # in this order: what is moved meanwhile is in both
        first = bisect_right(pieces, seq, key=_last_seq)
        for piece in (*pieces[first:], newest):
            for place in range(bisect_right(piece, seq, key=_seq), len(piece)):
                yield piece[place]
                seq = piece[place].seq


_seq: Final = attrgetter("seq")


def _last_seq(piece: tuple[Record, ...]) -> int:
    return piece[-1].seq


Link: TypeAlias = tuple[Any, ...]
"""The link before (None without one), and then records of one allocation: what they are is known to what follows."""

_LINK: Final = 16
"""How many records a link has, since adding one copies it."""


def longer(link: Link | None, record: Record) -> Link:
    """Return the newest link of an allocation with one more record. O(1)."""
    if link is None or len(link) > _LINK:
        return link, record
    return *link, record


def records_of(link: Link) -> tuple[Record, ...]:
    """Return the records of a link itself, in order: at least one."""
    return link[1:]


def links_after(link: Link | None, version: int) -> list[Link]:
    """Return the links that have the records after a version, oldest first. O(records that are found)."""
    links: list[Link] = []
    while link is not None:
        links.append(link)
        if records_of(link)[0].version <= version + 1:
            break
        link = link[0]
    links.reverse()
    return links
