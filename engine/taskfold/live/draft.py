"""Drafts: writes that are checked in order, each against the state that the writes before it will leave.

Nothing changes before the draft is committed, by one append to the log. A refused write is noted with its place, and
the writes after it are checked as if it were absent, so that the caller gets all refusals at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from taskfold.fold.allocation import Allocation
from taskfold.fold.lifecycle import PENDING
from taskfold.live.arguments import check_address, check_event, check_text, checked_time, not_a_write
from taskfold.live.overlay import Overlay, StateLike
from taskfold.log.contract import Append, is_repeat
from taskfold.log.entries import UNWRITABLE, Entry, entry_of, problem_of
from taskfold.model.dialect import dialect_of
from taskfold.model.errors import (
    AlreadyPlaced,
    DecodeError,
    IdConflict,
    LogError,
    Refused,
    TaskfoldError,
    UnknownAllocation,
    VersionConflict,
)
from taskfold.model.events import TaskEvent
from taskfold.model.record import LogHeader, Placed, Record, Updated, Write
from taskfold.nomad.fields import FROM_LOG, FROM_RECORDS, FROM_TASKS, compact, fields_from_json, fields_to_json
from taskfold.nomad.importing.observation import other_object
from taskfold.nomad.snapshot import Snapshot, check_types

__all__ = ["Draft", "placing", "updating"]


def placing(allocation: Snapshot | Mapping[str, Any] | bytes | str, time_ns: int | None = None) -> Write:
    """Make the write that places an allocation. Raises DecodeError when it is invalid, or has no ID."""
    fields = dict(allocation.fields) if isinstance(allocation, Snapshot) else fields_from_json(_text(allocation))
    if "ID" not in fields:
        raise DecodeError("$.ID: expected the ID of the allocation, found nothing")
    try:
        alloc = msgspec.json.decode(fields["ID"], type=str)
    except (msgspec.DecodeError, UnicodeError):
        raise DecodeError(f"$.ID: expected a text, found {fields['ID'][:60].decode(errors='replace')}") from None
    return Write(alloc=alloc, event=Placed(body=_placed_body(fields)), time_ns=time_ns)


def updating(
    alloc: str,
    fields: Mapping[str, Any],
    *,
    time_ns: int | None = None,
    id: str | None = None,
    expected_version: int | None = None,
) -> Write:
    """Make the write that changes top-level fields. Raises DecodeError for a value that is not JSON."""
    event = Updated(fields=_to_json_fields(fields))
    return Write(alloc=alloc, event=event, time_ns=time_ns, id=id, expected_version=expected_version)


def _text(allocation: Mapping[str, Any] | bytes | str) -> bytes | str:
    """Return an allocation as JSON text. Raises DecodeError for a value that is not JSON, or no object."""
    if isinstance(allocation, (bytes, str)):
        return allocation
    if not isinstance(allocation, Mapping):
        raise DecodeError(
            "$: expected an allocation as JSON text, as a mapping or as a Snapshot, "
            f"found a value of type {type(allocation).__name__}"
        )
    try:
        return msgspec.json.encode(allocation if isinstance(allocation, dict) else dict(allocation))
    except UNWRITABLE as error:
        raise DecodeError(f"the allocation cannot be written as JSON: {problem_of(error)}") from None


def _placed_body(fields: Mapping[str, bytes]) -> Raw:
    """Return the body of a placement: the fields, except those that follow from records."""
    left_out = (*FROM_RECORDS, *FROM_TASKS)
    return Raw(fields_to_json({name: text for name, text in fields.items() if name not in left_out}))


def _to_json_fields(fields: Mapping[str, Any]) -> dict[str, Raw]:
    """Return fields as JSON text by name. Raises DecodeError for a value that is not JSON."""
    if not isinstance(fields, Mapping):
        raise DecodeError(f"$: expected fields by name, found a value of type {type(fields).__name__}")
    texts = {}
    for name, value in fields.items():
        check_text(name, "$")
        try:
            text = compact(value) if isinstance(value, Raw) else msgspec.json.encode(value)
            msgspec.json.decode(text)
        except UNWRITABLE as error:
            raise DecodeError(problem_of(error).replace("$", f"$.{name}", 1)) from None
        texts[name] = Raw(text)
    return texts


def _stored_job(job: bytes | Raw, header: LogHeader) -> bytes:
    """Return a Job in the form that the log stores. Raises DecodeError, and Refused for a job of a newer Nomad."""
    # Imported at first use, as the job schema is large.
    from taskfold.nomad.groups import ignored_parts
    from taskfold.nomad.jobs.canonical import placed_job

    dialect = dialect_of(header.dialect)
    job_text = placed_job(bytes(job), dialect, header.region)
    if problems := ignored_parts(bytes(job), dialect):
        raise Refused(
            f"{'; '.join(problems)}: the log is of dialect {dialect.name}, whose Nomad would ignore that: "
            "remove it, or use a log of a newer dialect"
        )
    return job_text


def _with_stored_job(event: Any, header: LogHeader) -> Any:
    """Return an event with its Job in the form that the log stores, if it has one. Raises DecodeError."""
    if isinstance(event, Placed) and event.body is not UNSET:
        fields = fields_from_json(event.body)
        if "Job" in fields:
            return Placed(body=Raw(fields_to_json({**fields, "Job": _stored_job(fields["Job"], header)})))
    elif isinstance(event, Updated) and "Job" in event.fields:
        job_text = Raw(_stored_job(event.fields["Job"], header))
        return Updated(fields={**event.fields, "Job": job_text}, cleared=event.cleared)
    return event


class Draft(Overlay):
    """Pending writes; they share one index and, unless a write has its own, one time."""

    def __init__(self, base: StateLike, time_ns: int) -> None:
        super().__init__(base)
        self.refusals: list[tuple[int, TaskfoldError]] = []
        """The refused writes, by their place from 0, with the errors."""
        self.time_ns = time_ns
        """The time of writes that have none."""
        self._index = self.index + 1
        self._entries: list[Entry | None] = []
        """For each write, its entry; None for a repeat or a refusal."""

    def add(self, write: Write) -> None:
        """Check a write, and draft its record. O(tasks of the allocation)."""
        try:
            entry = self._entry(write)
        except TaskfoldError as refusal:
            self.refusals.append((len(self._entries), refusal))
            entry = None
        self._entries.append(entry)

    @property
    def new_records(self) -> list[Record]:
        """The records to be appended, in order, without repeats. O(writes)."""
        return [entry.record for entry in self._entries if entry is not None]

    def _entry(self, write: Write) -> Entry | None:
        """Return the entry of a write; None for a repeat. Raises its refusal."""
        if self.is_closed:
            raise LogError("the engine is closed")
        if not isinstance(write, Write):
            raise DecodeError(f"$: {not_a_write(write)}")
        check_address(write.alloc, write.task, write.id, write.expected_version)
        check_event(write.event)
        if write.id is not None and self._is_repeat(write, write.id):
            return None
        allocation = self.find(write.alloc)
        version = 0 if allocation is None else allocation.version
        if write.expected_version is not None and write.expected_version != version:
            raise VersionConflict(
                allocation=write.alloc, expected_version=write.expected_version, actual_version=version
            )
        time_ns = self.time_ns if write.time_ns is None else checked_time(write.time_ns)
        entry = entry_of(
            Record(
                seq=self.seq + 1,
                index=self._index,
                alloc=write.alloc,
                version=version + 1,
                task=write.task,
                time_ns=time_ns,
                id=UNSET if write.id is None else write.id,
                event=self._event(write, allocation, time_ns),
            )
        )
        self.take(entry.record)
        return entry

    def _is_repeat(self, write: Write, id: str) -> bool:
        """Return whether a write was recorded or drafted before. Raises IdConflict if the ID is another write's."""
        digest = self.digest_of(id)
        try:
            return is_repeat(id, digest, write.alloc, write.task, write.event)
        except IdConflict:
            # A job is recorded in canonical form, and a repeat may have the original form.
            job_text = _with_stored_job(write.event, self.header)
            if job_text is write.event:
                raise
            return is_repeat(id, digest, write.alloc, write.task, job_text)

    def _event(self, write: Write, allocation: Allocation | None, time_ns: int) -> Any:
        """Return the event to record, complete. Raises the refusal of the write."""
        event = write.event
        if isinstance(event, Placed):
            return self._new_placing(write, event, allocation, time_ns)
        if allocation is None:
            raise UnknownAllocation(f"no allocation {write.alloc!r} is known")
        if isinstance(event, Updated):
            return self._new_update(write, event)
        if not write.task:
            raise Refused(f"{type(event).__name__} happens to a task: name it")
        if isinstance(event, TaskEvent) and not checked_time(event.time_ns, "$.Event.Time"):
            event = msgspec.structs.replace(event, time_ns=time_ns)
        task = allocation.tasks.get(write.task)
        state = PENDING if task is None else task.state
        if not self.lifecycle.may(state, event):
            raise self.lifecycle.illegal(write.task, state, event)
        return event

    def _new_placing(self, write: Write, event: Placed, allocation: Allocation | None, time_ns: int) -> Placed:
        """Return a placement with the indexes of a new allocation. Source: UpsertAllocs, in every version."""
        if write.task:
            raise Refused(f"an allocation is placed, not a task: leave {write.task!r} out")
        if allocation is not None:
            raise AlreadyPlaced(allocation=write.alloc, actual_version=allocation.version)
        fields = {} if event.body is UNSET else fields_from_json(event.body)
        other = other_object(fields)
        if other:
            raise DecodeError(f"$: expected an allocation, found what looks like {other}")
        own_id = fields.setdefault("ID", msgspec.json.encode(write.alloc))
        if not write.alloc or msgspec.json.decode(own_id) != write.alloc:
            raise DecodeError(f"$.ID: expected {write.alloc!r}, found {own_id[:60].decode(errors='replace')}")
        fields["CreateIndex"] = fields["AllocModifyIndex"] = b"%d" % self._index
        if fields.get("CreateTime", b"0") == b"0":
            fields["CreateTime"] = b"%d" % time_ns
        check_types(fields)
        if "Job" in fields:
            fields["Job"] = _stored_job(fields["Job"], self.header)
        return Placed(body=_placed_body(fields))

    def _new_update(self, write: Write, event: Updated) -> Updated:
        """Return an update with the index of a server's write. Source: UpsertAllocs, in every version."""
        if write.task:
            raise Refused(f"fields of an allocation are updated, not of a task: leave {write.task!r} out")
        for name in (*event.fields, *event.cleared):
            if name in FROM_LOG:
                raise DecodeError(f"$.{name}: follows from what is recorded, and cannot be updated")
        if event.write_type:
            raise DecodeError("$.WriteType: is set by the observation of a Nomad alone, and cannot be given")
        if event.job_source:
            raise DecodeError("$.JobSource: is set by an import alone, and cannot be given")
        if not event.fields and not event.cleared:
            raise DecodeError("$: expected a field to update, found none")
        check_types({name: bytes(text) for name, text in event.fields.items()})
        fields = {**event.fields, "AllocModifyIndex": Raw(b"%d" % self._index)}
        if "Job" in fields:
            fields["Job"] = Raw(_stored_job(fields["Job"], self.header))
        return Updated(fields=fields, cleared=event.cleared)

    def appends(self) -> list[Append]:
        """Return the appends of the new records, in order. O(writes)."""
        if len(self._entries) == 1:  # the usual case
            (only,) = self._entries
            return (
                [] if only is None else [Append(only.record.alloc, only.record.version - 1, [only.record], [only.line])]
            )
        appends: list[Append] = []
        records: list[Record] = []
        lines: list[bytes] = []
        for entry in self._entries:
            if entry is not None:
                record = entry.record
                if not records or records[-1].alloc != record.alloc:
                    records, lines = [], []
                    appends.append(Append(record.alloc, record.version - 1, records, lines))
                records.append(record)
                lines.append(entry.line)
        return appends

    def records(self) -> list[Record | None]:
        """Return, for each write, its record as the log will hold it; None for a repeat."""
        return [None if entry is None else entry.record for entry in self._entries]
