"""The contract of every log, and the checks that all logs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable
from uuid import uuid4

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from taskfold.fold.lifecycle import lifecycle_of
from taskfold.log.entries import Entries, entries_of, event_digest, read_back
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import DialectError, Gone, IdConflict, LogError, UnreadableLog, VersionConflict
from taskfold.model.events import wire_type
from taskfold.model.record import FORMAT, Collected, Compacted, LogHeader, Record

__all__ = [
    "Append",
    "CompactableLog",
    "EventLog",
    "Ledger",
    "RecoverableLog",
    "SealingLog",
    "SharedLog",
    "StoredLog",
    "TakesRecords",
    "VersionedLog",
    "check_header",
    "new_header",
]


class Append(NamedTuple):
    """Records of one allocation that are appended together."""

    alloc: str
    expected_version: int
    records: Sequence[Record]
    lines: Sequence[bytes] = ()
    """The encoded records (`taskfold.log.entries`), at the positions they name; empty if they are not encoded yet."""


class EventLog(Protocol):
    """An append-only log of records, of one cluster and one dialect.

    ``Seq`` counts 1, 2, 3 … without a hole; ``Version`` counts 1, 2, 3 … inside each allocation; an append is atomic; a
    record whose ID is in the log already is not appended again.
    One thread at a time appends. Any thread may read meanwhile, and gets the records appended before it began.
    """

    header: LogHeader

    @property
    def seq(self) -> int:
        """The position of the newest record; 0 before the first."""
        ...

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        """Append records to several allocations, all or nothing; return the new ones, with their Seq.

        Records are appended in the given order. An allocation may occur more than once: its later records continue its
        earlier ones. The records of one append may have several indexes, one for each write. Readers get exactly the
        returned records. Raises what `append` raises.
        """
        ...

    def append(self, alloc: str, expected_version: int, records: Sequence[Record]) -> list[Record]:
        """Append records to an allocation at its expected version; return the new ones, with their Seq.

        Raises VersionConflict when the allocation is at another version, LogError when the records belong to another
        allocation, IdConflict when an ID belongs to another record, and DecodeError for a record that no reader could
        decode.
        """
        ...

    def knows(self, id: str) -> bool:
        """Tell whether the log has a record with this ID."""
        ...

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none."""
        ...

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version, in order. Raises Gone where they were compacted."""
        ...

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position, in order. Raises Gone where they were compacted."""
        ...

    def close(self) -> None:
        """Acknowledge all appends, and release every resource. Later appends raise LogError."""
        ...


def new_header(dialect: str | Dialect, region: str = "global") -> LogHeader:
    """Make the header of a new log, with the current lifecycle table. Raises DecodeError and DialectError."""
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


def current_header(header: LogHeader) -> LogHeader:
    """Return a header in the current record format; a header without a UUID gets one."""
    return msgspec.structs.replace(header, taskfold=FORMAT, uuid=header.uuid or str(uuid4()))


def copied_header(own: LogHeader, other: LogHeader) -> LogHeader:
    """Return the header of a copy of a log: the copy's own, with the UUID and the compaction mark of the original."""
    uuid = other.uuid or own.uuid
    return msgspec.structs.replace(own, lifecycle=other.lifecycle, compacted=other.compacted, uuid=uuid)


def check_header(header: LogHeader) -> None:
    """Check that this taskfold can read a log. Raises LogError or DialectError, naming the reason."""
    check_format(header.taskfold)
    dialect_of(header.dialect)


def check_format(source_format: int) -> None:
    """Check that this taskfold can read records of a format. Raises UnreadableLog."""
    if not 1 <= source_format <= FORMAT:
        raise UnreadableLog(f"the log has record format {source_format}; this taskfold reads the formats 1 to {FORMAT}")


def check_dialect(header: LogHeader, dialect: str | Dialect) -> None:
    """Check that a log has this dialect. Raises DialectError."""
    name = dialect_of(dialect).name
    if header.dialect != name:
        msg = f"the log holds dialect {header.dialect}, not {name}: a log holds one dialect"
        raise DialectError(msg)


class StoredLog(EventLog, Protocol):
    """A log in a file or a database: an append may be acknowledged later, and rolled back until then."""

    def append(
        self, alloc: str, expected_version: int, records: Sequence[Record], *, sync: bool = True
    ) -> list[Record]:
        """Append as every log does; with ``sync=False`` the next `sync` acknowledges it."""
        ...

    def append_all(self, appends: Sequence[Append], *, sync: bool = True) -> list[Record]:
        """Append as every log does; with ``sync=False`` the next `sync` acknowledges it."""
        ...

    def sync(self) -> None:
        """Acknowledge all appends: bring them to disk. Raises LogError when that fails."""
        ...

    def take(self, header: LogHeader, records: Iterable[Record]) -> None:
        """Copy all records of another log into this empty one, with their positions and the compaction mark.

        O(records). Raises LogError when the records are not a complete log; the caller must then roll back.
        """
        ...

    def roll_back(self) -> None:
        """Roll back appends that were not acknowledged, and close the log; delete it if this object created it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class CompactableLog(Protocol):
    """A log that can remove the records of collected allocations."""

    def compact(self, before_ns: int | None = None) -> int:
        """Remove the records of collected allocations (collected before a time), except each one's last.

        Return the number of removed records. The others keep their positions; reading a removed one raises Gone.
        O(records). Raises LogError: then none was removed, or, when a disk fails at the last moment, all were.
        """
        ...

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the stored records after a position, in order, skipping compacted ones."""
        ...


@runtime_checkable
class RecoverableLog(Protocol):
    """A log that stays usable after a call was interrupted at any instruction."""

    def recover(self) -> None:
        """Rebuild the state in memory from the store if a call was interrupted; else do nothing.

        For the writing thread. The interrupted append is in the log whole or not at all; appends that were not
        acknowledged are rolled back. Every call that writes recovers first. O(records), or O(1) for a database. Raises
        LogError when the store cannot be read; the next call tries again.
        """
        ...


@runtime_checkable
class SealingLog(Protocol):
    """A log that seals each append: damage costs what comes after it, so that small appends lose less."""

    seals_appends: ClassVar[bool]


@runtime_checkable
class VersionedLog(Protocol):
    """A log that knows an allocation's version without reading its records, for the thread with the turn."""

    def version_of(self, alloc: str) -> int:
        """Return the version of an allocation; 0 before its first record. Raises LogError."""
        ...


@runtime_checkable
class SharedLog(EventLog, Protocol):
    """A log that several processes write: writers take turns, and readers are notified."""

    def begin_turn(self) -> int:
        """Lock out all other writers until `end_turn`, or the next append; return the newest position.

        Turns nest. Raises LogError when another process holds the lock for too long.
        """
        ...

    def end_turn(self) -> None:
        """End the turn of one `begin_turn`."""
        ...

    def append_all(self, appends: Sequence[Append], *, sync: bool = True, after_seq: int | None = None) -> list[Record]:
        """Append as every log does; with ``after_seq``, append only if the log is at that position."""
        ...

    def newest(self) -> int:
        """Return the position of the newest record, including those of other processes. Raises LogError."""
        ...

    def listen(self) -> None:
        """Subscribe to appends: from now on every commit ends a `wait`. Raises LogError."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait for an append since the last call, or until the timeout; tell whether there was one. Raises LogError."""
        ...

    def interrupt(self) -> None:
        """End a `wait` at once. Safe from any thread."""
        ...


def kept_records(log: EventLog, after_seq: int = 0) -> Iterator[Record]:
    """Yield all stored records, skipping compacted ones: enough to fold the state. O(records)."""
    return log.read_kept(after_seq) if isinstance(log, CompactableLog) else log.read_all(after_seq)


class Removal(NamedTuple):
    """The records that a compaction removes."""

    versions: dict[str, int]
    """By allocation that loses records: the version of its last record, which stays."""
    records: int
    """The number of removed records."""
    compacted: Compacted


def newest(one: Compacted, other: Compacted) -> Compacted:
    """Merge the marks of two compactions."""
    return Compacted(max(one.seq, other.seq), max(one.index, other.index), max(one.time_ns, other.time_ns))


def removal(read: Callable[[], Iterable[Record]], before_ns: int | None, header: LogHeader) -> Removal | None:
    """Find the records that a compaction removes; None if there are none. O(records)."""
    collected: dict[str, int] = {}
    live: set[str] = set()
    for record in read():
        if not isinstance(record.event, Collected):
            live.add(record.alloc)
        elif record.alloc in live:  # an earlier compaction left only this record
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
    """Check that no record after a position was compacted. Raises Gone."""
    if header.compacted is not UNSET and after_seq < header.compacted.seq:
        raise hole_error(header, name, None, after_seq + 1, header.compacted.seq + 1)


class TakesRecords(Protocol):
    """A consumer of a log's records while the log is opened, so that they are not read a second time."""

    def begin(self, header: LogHeader) -> None:
        """Reset to no records, of a log with this header. Called again when reading restarts."""
        ...

    def take(self, records: Sequence[Record]) -> None:
        """Consume the next records, in order."""
        ...


HoleCheck: TypeAlias = Callable[[str | None, int, int], Gone | UnreadableLog | None]
"""A hole check: given allocation (None: the log), missing number and next number, returns the error, or None."""


def hole_check(header: LogHeader, name: str) -> HoleCheck:
    """Return the hole check for reads that skip compacted records."""
    compacted = 0 if header.compacted is UNSET else header.compacted.seq
    return lambda alloc, place, following: (
        None if following <= compacted + 1 else hole_error(header, name, alloc, place, following)
    )


def hole_error(header: LogHeader, name: str, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog:
    """Return the error for missing records: Gone if they were compacted, UnreadableLog if they are lost."""
    compacted = 0 if header.compacted is UNSET else header.compacted.seq
    if alloc is not None and (compacted or place == 1):
        what = f"the records of allocation {alloc} before version {following} were removed when the log was compacted"
        return Gone(f"{name}: {what}", oldest=following - 1)
    if alloc is None and place <= compacted:
        what = f"records up to position {compacted} were removed when the log was compacted"
        return Gone(f"{name}: {what}: read after {compacted}", oldest=compacted)
    of = "Seq" if alloc is None else f"allocation {alloc}, Version"
    return UnreadableLog(f"{name}: the log is damaged: {of} {place} is missing, and {following} follows")


def is_repeat(id: str, digest: int | None, alloc: str, task: str, event: Struct) -> bool:
    """Tell whether a record repeats the one with its ID, given its digest. Raises IdConflict for another event."""
    if digest is None:
        return False
    if digest != event_digest(alloc, task, event):
        raise IdConflict(id=id, allocation=alloc, task=task, event=wire_type(event))
    return True


class Ledger:
    """The bookkeeping behind a log's guarantees. O(1) memory for each allocation, one text for each ID."""

    def __init__(self, header: LogHeader | None = None) -> None:
        self.seq = 0
        self.compacted_seq = 0 if header is None or header.compacted is UNSET else header.compacted.seq
        """Up to this position, positions may be missing."""
        self.versions: dict[str, int] = {}
        self._imported: dict[str, tuple[int, int]] = {}
        self.ids: dict[str, int] = {}
        """By ID, the digest of its record (`taskfold.log.entries.event_digest`)."""

    def is_repeat(self, record: Record) -> bool:
        """Tell whether the log has a record with this ID. Raises IdConflict if its event is another one."""
        if isinstance(record.id, str):
            return is_repeat(record.id, self.digest_of(record.id), record.alloc, record.task, record.event)
        if isinstance(record.id, int):
            return (record.index, record.id) <= self.newest_imported(record.alloc)
        return False

    def digest_of(self, id: str) -> int | None:
        """Return the digest of the record with this ID; None if there is none."""
        return self.ids.get(id)

    def newest_imported(self, alloc: str) -> tuple[int, int]:
        """Return the index and the ordinal of the newest imported record of an allocation."""
        return self._imported.get(alloc, (0, -1))

    def version_of(self, alloc: str) -> int:
        """Return the version of an allocation; 0 before its first record."""
        return self.versions.get(alloc, 0)

    def place(self, appends: Sequence[Append]) -> Entries:
        """Encode the new ones of these records, with positions. Nothing is remembered before `note_placed`.

        Raises VersionConflict, LogError when the records do not continue their allocations, IdConflict and DecodeError.
        """
        new: list[Record] = []
        placed_lines: list[bytes] = []
        """The given lines of the first records, up to the first record that must be encoded anew."""
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
                    record = replace(record, seq=seq)  # noqa: PLW2901 - the record gets its position
                elif lines and len(placed_lines) == len(new):
                    placed_lines.append(lines[place])
                new.append(record)
            if version >= 0:
                versions[append.alloc] = version
        return (new, placed_lines) if len(placed_lines) == len(new) else entries_of(new)

    def _version_before(self, append: Append, first: Record, version: int | None) -> int:
        """Return the version of an allocation before its first new record. Raises VersionConflict.

        ``version`` is set when the allocation occurred earlier in this append.
        """
        if version is None:
            version = self.version_of(append.alloc)
        if not version and is_remnant(first):
            version = first.version - 1  # its earlier records were compacted
        if append.expected_version != version:
            raise VersionConflict(
                allocation=append.alloc, expected_version=append.expected_version, actual_version=version
            )
        return version

    def _repeats(self, record: Record, ids: dict[str, int]) -> bool:
        """Tell whether the log, or this append, has the record; ``ids`` has the digests of this append by ID."""
        if isinstance(record.id, str):
            digest = ids.get(record.id)
            if is_repeat(record.id, digest, record.alloc, record.task, record.event) or self.is_repeat(record):
                return True
            ids[record.id] = event_digest(record.alloc, record.task, record.event)
            return False
        return self.is_repeat(record)

    def note_all(self, records: Sequence[Record]) -> None:
        """Remember records that are in the log. O(records).

        Raises LogError at the first that does not follow the one before; those before it stay remembered.
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
        """Tell whether a record is the next one of the log and of its allocation, allowing for compacted records.

        A compaction leaves only the last record of a collected allocation, so positions before it may be missing.
        """
        version = self.versions.get(record.alloc, 0)
        is_next = record.seq == self.seq + 1 or self.seq < record.seq <= self.compacted_seq + 1
        return is_next and (record.version == version + 1 or (not version and is_remnant(record)))

    def note_placed(self, records: Sequence[Record]) -> None:
        """Remember records returned by `place`, once the log has them."""
        if records:
            for record in records:
                self._take(record)
            # Set last: a reader meanwhile, or after an interruption, reads up to this position, never part of an
            # append.
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
    """Tell whether a record is one that a compaction leaves: the first of its allocation, at any version."""
    return isinstance(record.event, Collected) and record.event.body is not UNSET
