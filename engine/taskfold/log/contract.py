"""What every log promises, and the checks that all of them make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, Self, TypeAlias, runtime_checkable
from uuid import uuid4

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from taskfold.fold.lifecycle import lifecycle_of
from taskfold.log.entries import Entries, entries_of, event_digest, read_back
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import DialectError, Gone, IdConflict, LogError, UnreadableLog, VersionConflict
from taskfold.model.events import wire_type
from taskfold.model.record import FORMAT, Collected, Compacted, Event, LogHeader, Record

__all__ = [
    "Append",
    "Compacts",
    "EventLog",
    "Ledger",
    "Reader",
    "Recovers",
    "SharedLog",
    "StoredLog",
    "check_header",
    "new_header",
]


class Append(NamedTuple):
    """Records of one allocation that are appended together."""

    alloc: str
    expected_version: int
    records: Sequence[Record]
    lines: Sequence[bytes] = ()
    """Their lines, where they are entries already (`taskfold.log.entries`), at the positions that they name."""


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

        They are appended in their order. An allocation may be named again: what is appended then goes on from what
        came before it. Each write has an index of its own, so that an append may have several of them.
        The records that are returned are those that a reader will get. Raises as `append` does.
        """
        ...

    def append(self, alloc: str, expected_version: int, records: Sequence[Record]) -> list[Record]:
        """Append records to an allocation that is at this version; return those that were new, with their Seq.

        Raises VersionConflict when the allocation is at another version, LogError when the records are not of it,
        IdConflict for the ID of another record, and DecodeError for a record that no reader could read back.
        """
        ...

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended."""
        ...

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record of an ID; None where none was appended."""
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
    """Return the header of a new log of this dialect, written with the present lifecycle table. Raises DecodeError."""
    lifecycle = lifecycle_of(dialect)
    header = LogHeader(
        taskfold=FORMAT,
        dialect=lifecycle.dialect.name,
        region=region,
        lifecycle=lifecycle.fingerprint,
        uuid=str(uuid4()),
    )
    read_back(header, msgspec.json.Decoder(LogHeader).decode)
    return header


def present(header: LogHeader) -> LogHeader:
    """Return the header of a log whose records are brought to the present format; it keeps its UUID, or gets one."""
    return msgspec.structs.replace(header, taskfold=FORMAT, uuid=header.uuid or str(uuid4()))


def taken_header(own: LogHeader, other: LogHeader) -> LogHeader:
    """Return the header of a log that takes the records of another, and is a copy of it."""
    uuid = other.uuid or own.uuid
    return msgspec.structs.replace(own, lifecycle=other.lifecycle, compacted=other.compacted, uuid=uuid)


def check_header(header: LogHeader) -> None:
    """Check that a log can be read here. Raises LogError or DialectError, saying why not."""
    check_format(header.taskfold)
    dialect_of(header.dialect)


def check_format(source_format: int) -> None:
    """Check that records of a format can be read here. Raises LogError."""
    if not 1 <= source_format <= FORMAT:
        raise UnreadableLog(f"the log has record format {source_format}; this taskfold reads the formats 1 to {FORMAT}")


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

    def take(self, header: LogHeader, records: Iterable[Record]) -> None:
        """Copy the records of another log into this one, which is empty: each at its place, and what was removed.

        O(records). Raises LogError where they are not the records of a whole log; then it is to be rolled back.
        """
        ...

    def roll_back(self) -> None:
        """Take back what was appended and not acknowledged, and close the log; one that was begun here is removed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class Compacts(Protocol):
    """A log from which the records of collected allocations can be removed."""

    def compact(self, before_ns: int | None = None) -> int:
        """Remove the records of allocations that were collected (before a time), all but the last of each.

        Return how many records that were. Positions stay what they are; whoever asks for what is gone is told so.
        O(records). Raises LogError: then nothing was removed, or, where a disk fails at the last moment, all of it.
        """
        ...

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the records after a position that are there, in order, whatever was removed between them."""
        ...


@runtime_checkable
class Recovers(Protocol):
    """A log that can be gone on with after one of its calls was interrupted, at whatever instruction."""

    def recover(self) -> None:
        """Be what is stored, where a call was interrupted; else do nothing. For the thread that writes.

        What the interrupted call appended is there whole or not at all, and what was not acknowledged is taken back.
        Every call that writes does so first. O(records), or O(1) for a database. Raises LogError when what is stored
        cannot be read: then the next call tries again.
        """
        ...


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


def kept_records(log: EventLog, after_seq: int = 0) -> Iterator[Record]:
    """Yield the records of a log that are there: enough to fold its state from. O(records)."""
    return log.read_kept(after_seq) if isinstance(log, Compacts) else log.read_all(after_seq)


class Removal(NamedTuple):
    """What a compaction removes."""

    versions: dict[str, int]
    """The allocations that lose records, and the version of the one that they keep."""
    records: int
    """How many records that are."""
    compacted: Compacted


def newest(one: Compacted, other: Compacted) -> Compacted:
    """Return what is removed after two compactions."""
    return Compacted(max(one.seq, other.seq), max(one.index, other.index), max(one.time_ns, other.time_ns))


def removal(read: Callable[[], Iterable[Record]], before_ns: int | None, header: LogHeader) -> Removal | None:
    """Return what can be removed from the records that ``read`` yields; None where that is nothing. O(records)."""
    collected: dict[str, int] = {}
    live: set[str] = set()
    for record in read():
        if not isinstance(record.event, Collected):
            live.add(record.alloc)
        elif record.alloc in live:  # else the others were removed before: those would be more and more
            live.remove(record.alloc)
            if before_ns is None or record.time_ns < before_ns:
                collected[record.alloc] = record.version
    seq, index, time_ns = (0, 0, 0) if header.compacted is UNSET else msgspec.structs.astuple(header.compacted)
    versions: dict[str, int] = {}
    removed = 0
    for record in read() if collected else ():
        if record.version < collected.get(record.alloc, 0):
            versions[record.alloc] = collected[record.alloc]
            removed += 1
            seq, index, time_ns = max(seq, record.seq), max(index, record.index), max(time_ns, record.time_ns)
    return Removal(versions, removed, Compacted(seq, index, time_ns)) if removed else None


def check_whole(header: LogHeader, name: str, after_seq: int) -> None:
    """Check that a log has every record after a position. Raises Gone."""
    if header.compacted is not UNSET and after_seq < header.compacted.seq:
        raise hole(header, name, None, after_seq + 1, header.compacted.seq + 1)


class Reader(Protocol):
    """What takes in the records of a log while it is opened, so that they need not be read again."""

    def begin(self, header: LogHeader) -> None:
        """Begin with no record, of a log with this header; again where the reading begins anew."""
        ...

    def take(self, records: Sequence[Record]) -> None:
        """Take in the next records, in order."""
        ...


OnHole: TypeAlias = Callable[[str | None, int, int], Gone | UnreadableLog | None]
"""Says what is wrong where a place (of an allocation, or of the log) is missing, and which one follows."""


def kept_hole(header: LogHeader, name: str) -> OnHole:
    """Return what says what is wrong where what was removed is passed over."""
    compacted = 0 if header.compacted is UNSET else header.compacted.seq
    return lambda alloc, place, following: (
        None if following <= compacted + 1 else hole(header, name, alloc, place, following)
    )


def hole(header: LogHeader, name: str, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog:
    """Return the error for records that are missing: removed, or lost."""
    compacted = 0 if header.compacted is UNSET else header.compacted.seq
    if alloc is not None and (compacted or place == 1):
        what = f"the records of allocation {alloc} before version {following} were removed when the log was compacted"
        return Gone(f"{name}: {what}", oldest=following - 1)
    if alloc is None and place <= compacted:
        what = f"records up to position {compacted} were removed when the log was compacted"
        return Gone(f"{name}: {what}: read after {compacted}", oldest=compacted)
    of = "Seq" if alloc is None else f"allocation {alloc}, Version"
    return UnreadableLog(f"{name}: the log is damaged: {of} {place} is missing, and {following} follows")


def is_repeat(id: str, digest: int | None, alloc: str, task: str, event: Event) -> bool:
    """Tell whether a record repeats the one of its ID, whose digest is given. Raises IdConflict for another event."""
    if digest is None:
        return False
    if digest != event_digest(alloc, task, event):
        raise IdConflict(id=id, allocation=alloc, task=task, event=wire_type(event))
    return True


class Ledger:
    """What a log must remember to keep its promises: O(1) memory per allocation, and one text per record with an ID."""

    def __init__(self, header: LogHeader | None = None) -> None:
        self.seq = 0
        self.compacted_seq = 0 if header is None or header.compacted is UNSET else header.compacted.seq
        """Up to where positions may be missing."""
        self.versions: dict[str, int] = {}
        self._imported: dict[str, tuple[int, int]] = {}
        self.ids: dict[str, int] = {}
        """The digest of what was recorded with each ID (`taskfold.log.entries.event_digest`)."""

    def is_repeat(self, record: Record) -> bool:
        """Tell whether a record of this ID was appended before. Raises IdConflict where that was another event."""
        if isinstance(record.id, str):
            return is_repeat(record.id, self.digest_of(record.id), record.alloc, record.task, record.event)
        if isinstance(record.id, int):
            return (record.index, record.id) <= self.newest_imported(record.alloc)
        return False

    def digest_of(self, id: str) -> int | None:
        """Return the digest of the record of an ID; None where none was appended."""
        return self.ids.get(id)

    def newest_imported(self, alloc: str) -> tuple[int, int]:
        """Return the index and the ordinal of the newest record of an allocation that was imported."""
        return self._imported.get(alloc, (0, -1))

    def version_of(self, alloc: str) -> int:
        """Return the version that an allocation is at; 0 before its first record."""
        return self.versions.get(alloc, 0)

    def place(self, appends: Sequence[Append]) -> Entries:
        """Return the entries of the new ones of these records; nothing is remembered until `note_placed` is told.

        Raises VersionConflict, LogError when they are not the next records of their allocations, and what refuses a
        record: IdConflict and DecodeError.
        """
        new: list[Record] = []
        placed_lines: list[bytes] = []
        """The lines of the first of them, as long as those are known."""
        ids: dict[str, int] = {}
        versions: dict[str, int] = {}
        seq = self.seq
        for append in appends:
            version, lines = -1, append.lines
            for place, record in enumerate(append.records):
                if record.id is not UNSET and self._repeats(record, ids):
                    continue
                if version < 0:
                    version = self._version_before(append, record, versions.get(append.alloc))
                version += 1
                if record.version != version or record.alloc != append.alloc:
                    raise LogError(
                        f"allocation {append.alloc} is at version {append.expected_version}: record "
                        f"{version - append.expected_version} must be its version {version}, found version "
                        f"{record.version} of {record.alloc}"
                    )
                seq += 1
                if record.seq != seq:
                    record = replace(record, seq=seq)  # noqa: PLW2901 - from here on it has its place
                elif lines and len(placed_lines) == len(new):
                    placed_lines.append(lines[place])
                new.append(record)
            if version >= 0:
                versions[append.alloc] = version
        return (new, placed_lines) if len(placed_lines) == len(new) else entries_of(new)

    def _version_before(self, append: Append, first: Record, version: int | None) -> int:
        """Return the version that an allocation is at, before the first new record. Raises VersionConflict.

        It is given where the allocation was named before.
        """
        if version is None:
            version = self.version_of(append.alloc)
        if not version and is_remnant(first):
            version = first.version - 1  # of a log that was compacted
        if append.expected_version != version:
            raise VersionConflict(
                allocation=append.alloc, expected_version=append.expected_version, actual_version=version
            )
        return version

    def _repeats(self, record: Record, ids: dict[str, int]) -> bool:
        """Tell whether a record was appended before, or is in this append, whose IDs and their digests are given."""
        if isinstance(record.id, str):
            digest = ids.get(record.id)
            if is_repeat(record.id, digest, record.alloc, record.task, record.event) or self.is_repeat(record):
                return True
            ids[record.id] = event_digest(record.alloc, record.task, record.event)
            return False
        return self.is_repeat(record)

    def note_all(self, records: Sequence[Record]) -> None:
        """Remember records that are in the log now. O(records).

        Raises LogError when one does not follow those before it, which are remembered.
        """
        seq, versions = self.seq, self.versions
        for record in records:
            alloc, version = record.alloc, record.version
            if record.seq != seq + 1 or version != versions.get(alloc, 0) + 1:
                self.seq = seq
                if not self.follows(record):
                    version_before = versions.get(alloc, 0)
                    raise LogError(
                        f"expected Seq {seq + 1} and Version {version_before + 1} of allocation {alloc}, "
                        f"found Seq {record.seq} and Version {version}"
                    )
            seq = record.seq
            versions[alloc] = version
            if record.id is not UNSET:
                self._note_id(record)
        self.seq = seq

    def follows(self, record: Record) -> bool:
        """Tell whether a record is the next one, of the log and of its allocation; or the next where some were removed.

        A compaction leaves the last record of what was collected, and holes in the positions before it.
        """
        version = self.versions.get(record.alloc, 0)
        is_next = record.seq == self.seq + 1 or self.seq < record.seq <= self.compacted_seq + 1
        return is_next and (record.version == version + 1 or (not version and is_remnant(record)))

    def note_placed(self, records: Sequence[Record]) -> None:
        """Remember records that `place` gave, which follow the ones before."""
        if records:
            for record in records:
                self._take(record)
            # The last: who reads meanwhile, or after an interruption, reads up to there, and no part of an append.
            self.seq = records[-1].seq

    def _take(self, record: Record) -> None:
        self.versions[record.alloc] = record.version
        if record.id is not UNSET:
            self._note_id(record)

    def _note_id(self, record: Record) -> None:
        known_by = record.id
        if isinstance(known_by, str):
            self.ids[known_by] = event_digest(record.alloc, record.task, record.event)
        elif isinstance(known_by, int):
            self._imported[record.alloc] = (record.index, known_by)


def is_remnant(record: Record) -> bool:
    """Tell whether a record may be the first of its allocation, whatever its version: what a compaction leaves."""
    return isinstance(record.event, Collected) and record.event.body is not UNSET
