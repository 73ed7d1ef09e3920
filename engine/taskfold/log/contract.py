"""What every log promises, and the checks that all of them make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, Self, runtime_checkable

import msgspec
from msgspec import UNSET

from taskfold.dialect import Dialect, dialect_of
from taskfold.errors import DialectError, LogError, VersionConflict
from taskfold.lifecycle import lifecycle_of
from taskfold.record import FORMAT, LogHeader, Record

__all__ = ["Append", "EventLog", "Ledger", "SharedLog", "StoredLog", "check_header", "new_header"]


class Append(NamedTuple):
    """Records of one allocation that are appended together."""

    alloc: str
    expected_version: int
    records: Sequence[Record]


class EventLog(Protocol):
    """An append-only log of records, of one cluster and one dialect.

    ``Seq`` counts 1, 2, 3 … without a hole; ``Version`` counts 1, 2, 3 … inside each allocation; an append is whole or
    not at all; what was appended once is not appended again.

    One thread at a time appends; any thread may read meanwhile, and gets what was appended before it began.
    """

    header: LogHeader

    @property
    def seq(self) -> int:
        """The position of the newest record; 0 before the first."""
        ...

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        """Append records to several allocations, all or nothing; return those that were new, with their Seq.

        Each allocation may be named once. Raises as `append` does.
        """
        ...

    def append(self, alloc: str, expected_version: int, records: Sequence[Record]) -> list[Record]:
        """Append records to an allocation that is at this version; return those that were new, with their Seq.

        Raises VersionConflict when the allocation is at another version, and LogError when the records are not of it.
        """
        ...

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended."""
        ...

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version, in order."""
        ...

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position, in order."""
        ...

    def close(self) -> None:
        """Acknowledge what was appended, and let go of what is held. Nothing can be appended afterwards."""
        ...


def new_header(dialect: str | Dialect, region: str = "global") -> LogHeader:
    """Return the header of a new log of this dialect, written with the present lifecycle table."""
    lifecycle = lifecycle_of(dialect)
    return LogHeader(taskfold=FORMAT, dialect=lifecycle.dialect.name, region=region, lifecycle=lifecycle.fingerprint)


def check_header(header: LogHeader) -> None:
    """Check that a log can be read here. Raises LogError or DialectError, saying why not."""
    if header.taskfold != FORMAT:
        msg = f"the log has record format {header.taskfold}; this taskfold reads format {FORMAT}"
        raise LogError(msg)
    dialect_of(header.dialect)


def check_dialect(header: LogHeader, dialect: str | Dialect) -> None:
    """Check that a log is of this dialect. Raises DialectError."""
    name = dialect_of(dialect).name
    if header.dialect != name:
        msg = f"the log holds dialect {header.dialect}, not {name}: a log holds one dialect"
        raise DialectError(msg)


class StoredLog(EventLog, Protocol):
    """A log in a file or a database: what was appended may be acknowledged later, and taken back until then."""

    def append(
        self, alloc: str, expected_version: int, records: Sequence[Record], *, sync: bool = True
    ) -> list[Record]:
        """Append as every log does; with ``sync=False`` it is acknowledged by the next `sync`."""
        ...

    def append_all(self, appends: Sequence[Append], *, sync: bool = True) -> list[Record]:
        """Append as every log does; with ``sync=False`` it is acknowledged by the next `sync`."""
        ...

    def sync(self) -> None:
        """Acknowledge what was appended: have it on disk. Raises LogError when that cannot be."""
        ...

    def roll_back(self) -> None:
        """Take back what was appended and not acknowledged, and close the log; one that was begun here is removed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class SharedLog(EventLog, Protocol):
    """A log that other processes may write, too: a writer takes turns with them, and readers hear of them."""

    def begin_turn(self) -> int:
        """Keep everybody else from appending until `end_turn`, or the next append; return the newest position.

        Turns may be inside one another. Raises LogError when somebody else holds the log for too long.
        """
        ...

    def end_turn(self) -> None:
        """Undo one `begin_turn`."""
        ...

    def append_all(self, appends: Sequence[Append], *, sync: bool = True, after_seq: int | None = None) -> list[Record]:
        """Append as every log does; with ``after_seq`` nothing is appended unless the log is at that position."""
        ...

    def newest(self) -> int:
        """Return the position of the newest record, whoever wrote it. Raises LogError."""
        ...

    def listen(self) -> None:
        """Begin to hear of appends: whatever is committed from now on ends a `wait`. Raises LogError."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait until somebody has appended since the last call, or so long; tell whether. Raises LogError."""
        ...

    def interrupt(self) -> None:
        """End a `wait` at once. Any thread may."""
        ...


class Ledger:
    """What a log must remember to keep its promises: O(1) memory per allocation, and one text per record with an ID."""

    def __init__(self) -> None:
        self.seq = 0
        self.versions: dict[str, int] = {}
        self._imported: dict[str, tuple[int, int]] = {}
        self.ids: set[str] = set()

    def is_repeat(self, record: Record) -> bool:
        """Tell whether a record of this ID was appended before."""
        if isinstance(record.id, str):
            return self.knows(record.id)
        if isinstance(record.id, int):
            return (record.index, record.id) <= self.newest_imported(record.alloc)
        return False

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended."""
        return id in self.ids

    def newest_imported(self, alloc: str) -> tuple[int, int]:
        """Return the index and the ordinal of the newest record of an allocation that was imported."""
        return self._imported.get(alloc, (0, -1))

    def version_of(self, alloc: str) -> int:
        """Return the version that an allocation is at; 0 before its first record."""
        return self.versions.get(alloc, 0)

    def place(self, appends: Sequence[Append]) -> list[Record]:
        """Return the new ones of these records with their Seq; nothing is remembered until `note` is told.

        Raises VersionConflict, and LogError when they are not the next records of their allocations.
        """
        placed: list[Record] = []
        ids: set[str] = set()
        named: set[str] = set()
        for alloc, expected_version, records in appends:
            if alloc in named:
                raise LogError(f"allocation {alloc} is named twice in one append")
            named.add(alloc)
            new = self._new(records, ids)
            found = self.version_of(alloc)
            if new and expected_version != found:
                raise VersionConflict(allocation=alloc, expected=expected_version, found=found)
            for place, record in enumerate(new, start=1):
                if record.alloc != alloc or record.version != found + place:
                    msg = (
                        f"allocation {alloc} is at version {found}: record {place} must be its version "
                        f"{found + place}, found version {record.version} of {record.alloc}"
                    )
                    raise LogError(msg)
                seq = self.seq + len(placed) + 1
                placed.append(record if record.seq == seq else msgspec.structs.replace(record, seq=seq))
        return placed

    def _new(self, records: Sequence[Record], ids: set[str]) -> list[Record]:
        """Return the records that are no repeats, also not of one another."""
        new = []
        for record in records:
            if record.id is not UNSET:
                if self.is_repeat(record) or record.id in ids:
                    continue
                if isinstance(record.id, str):
                    ids.add(record.id)
            new.append(record)
        return new

    def note(self, record: Record) -> None:
        """Remember a record that is in the log now. Raises LogError when it does not follow the ones before."""
        version = self.versions.get(record.alloc, 0)
        if record.seq != self.seq + 1 or record.version != version + 1:
            msg = (
                f"expected Seq {self.seq + 1} and Version {version + 1} of allocation {record.alloc}, "
                f"found Seq {record.seq} and Version {record.version}"
            )
            raise LogError(msg)
        self._take(record)

    def note_placed(self, placed: Sequence[Record]) -> None:
        """Remember records that `place` gave, which follow the ones before."""
        for record in placed:
            self._take(record)

    def _take(self, record: Record) -> None:
        self.seq = record.seq
        self.versions[record.alloc] = record.version
        if isinstance(record.id, str):
            self.ids.add(record.id)
        elif isinstance(record.id, int):
            self._imported[record.alloc] = (record.index, record.id)
