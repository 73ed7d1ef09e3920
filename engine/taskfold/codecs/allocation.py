"""The allocation JSON of ``/v1/allocation/<id>``, and the stubs of ``/v1/allocations``: reading and writing.

An allocation is its task states, which are decoded, and its other top-level fields, which stay JSON text by name
until somebody asks. So whatever a Nomad sends survives a round trip to the letter (floats, 64-bit integers, keys that
nobody knows), and reading costs no more than finding the keys. `Snapshot` gives typed access on demand.

What a dialect sends is one table, `ALLOCATION_FIELDS`. Writing is exact: keys in alphabetical order, every key (0.5.x)
or none that is empty (1.1.2), zero values and zero times as that Nomad writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final, Generic, NamedTuple, TypeVar, overload

import msgspec
from msgspec import UNSET, Raw

from taskfold.allocation import CLIENT_DESCRIPTIONS, AllocationState, client_status
from taskfold.codecs.task_states import ToldTask, task_losses, task_states_from_json, task_states_to_json
from taskfold.dialect import DEFAULT_DIALECT, DIALECTS, NEWEST_DIALECT, Dialect, dialect_of, version_key
from taskfold.errors import DecodeError
from taskfold.lifecycle import PENDING
from taskfold.task import TaskState

__all__ = [
    "ALLOCATION_FIELDS",
    "AllocationField",
    "Snapshot",
    "allocation_fields",
    "compact",
    "current_fields",
    "fields_from_json",
    "fields_to_json",
    "is_empty",
    "same_json",
    "told_dialect",
]


T = TypeVar("T")


class AllocationField(NamedTuple):
    """A top-level field of an allocation."""

    zero: bytes
    """Go's zero value as JSON."""
    since: str
    in_stub: str = ""
    """Since which Nomad the stubs of a list have it; empty when they do not."""
    in_body: bool = True


_NO_TRANSITION: Final = b'{"ForceReschedule":null,"Migrate":null,"Reschedule":null}'

ALLOCATION_FIELDS: Final[dict[str, AllocationField]] = {
    "AllocModifyIndex": AllocationField(b"0", "0.3.0"),
    "AllocStates": AllocationField(b"null", "0.11.2"),
    "AllocatedResources": AllocationField(b"null", "0.9.0"),
    "ClientDescription": AllocationField(b'""', "0.1.0", "0.1.0"),
    "ClientStatus": AllocationField(b'""', "0.1.0", "0.1.0"),
    "CreateIndex": AllocationField(b"0", "0.1.0", "0.1.0"),
    "CreateTime": AllocationField(b"0", "0.3.0", "0.3.0"),
    "DeploymentID": AllocationField(b'""', "0.6.0"),
    "DeploymentStatus": AllocationField(b"null", "0.6.0", "0.6.0"),
    "DesiredDescription": AllocationField(b'""', "0.1.0", "0.1.0"),
    "DesiredStatus": AllocationField(b'""', "0.1.0", "0.1.0"),
    "DesiredTransition": AllocationField(_NO_TRANSITION, "0.8.0", "0.8.4"),
    "EvalID": AllocationField(b'""', "0.1.0", "0.1.0"),
    "FollowupEvalID": AllocationField(b'""', "0.8.0", "0.8.0"),
    "ID": AllocationField(b'""', "0.1.0", "0.1.0"),
    "Job": AllocationField(b"null", "0.1.0"),
    "JobID": AllocationField(b'""', "0.1.0", "0.1.0"),
    "JobType": AllocationField(b'""', "0.9.0", "0.9.0", in_body=False),
    "JobVersion": AllocationField(b"0", "0.6.0", "0.6.0", in_body=False),
    "Metrics": AllocationField(b"null", "0.1.0"),
    "ModifyIndex": AllocationField(b"0", "0.1.0", "0.1.0"),
    "ModifyTime": AllocationField(b"0", "0.7.1", "0.7.1"),
    "Name": AllocationField(b'""', "0.1.0", "0.1.0"),
    "Namespace": AllocationField(b'""', "0.7.0", "0.9.0"),
    "NetworkStatus": AllocationField(b"null", "1.0.0"),
    "NextAllocation": AllocationField(b'""', "0.8.0"),
    "NodeID": AllocationField(b'""', "0.1.0", "0.1.0"),
    "NodeName": AllocationField(b'""', "0.9.2", "0.9.2"),
    "PreemptedAllocations": AllocationField(b"null", "0.9.0", "0.9.2"),
    "PreemptedByAllocation": AllocationField(b'""', "0.9.0", "0.9.2"),
    "PreviousAllocation": AllocationField(b'""', "0.5.0"),
    "RescheduleTracker": AllocationField(b"null", "0.8.0", "0.8.4"),
    "Resources": AllocationField(b"null", "0.1.0"),
    "SharedResources": AllocationField(b"null", "0.5.0"),
    "TaskGroup": AllocationField(b'""', "0.1.0", "0.1.0"),
    "TaskResources": AllocationField(b"null", "0.1.0"),
    "TaskStates": AllocationField(b"null", "0.2.0", "0.2.0"),
}
"""Every top-level field of the dialects, in the order of the wire. Source: structs.go Allocation and AllocListStub."""


@cache
def allocation_fields(dialect: Dialect, *, stub: bool = False) -> tuple[str, ...]:
    """Return the top-level fields that a dialect's allocations (or its stubs in a list) have, in the order of the wire.

    >>> len(allocation_fields(dialect_of("0.5.6"))), len(allocation_fields(dialect_of("0.5.6"), stub=True))
    (21, 14)
    """
    version = version_key(dialect.name)

    def has(field: AllocationField) -> bool:
        since = field.in_stub if stub else field.since
        return (field.in_body or stub) and since != "" and version_key(since) <= version

    return tuple(name for name, field in ALLOCATION_FIELDS.items() if has(field))


_STUB_ONLY: Final = frozenset(name for name, field in ALLOCATION_FIELDS.items() if not field.in_body)


@cache
def _zeros(dialect: Dialect) -> dict[str, bytes]:
    """Return the zero value of each field that a dialect's bodies have."""
    return {name: ALLOCATION_FIELDS[name].zero for name in allocation_fields(dialect)}


def is_empty(name: str, text: bytes) -> bool:
    """Tell whether this JSON text is an empty value of the field: what 1.1.2 leaves out.

    >>> is_empty("NodeName", b'""'), is_empty("NodeName", b'"a"'), is_empty("PreemptedAllocations", b"[]")
    (True, False, True)
    """
    field = ALLOCATION_FIELDS.get(name)
    return text in _EMPTY or (field is not None and text == field.zero)


_EMPTY: Final = frozenset((b'""', b"0", b"null", b"false", b"[]", b"{}"))
_EMPTY_LENGTH: Final = max(map(len, _EMPTY)) + 1


def same_json(one: bytes, other: bytes) -> bool:
    """Tell whether two JSON texts say the same: the order of keys, which Go's maps have at random, aside."""
    if one == other or (one.isdigit() and other.isdigit()):
        return one == other
    return bool(msgspec.json.decode(one) == msgspec.json.decode(other))


def compact(text: bytes | str | Raw) -> bytes:
    """Return a JSON text without the white space between its parts, which Nomad does not write. O(length).

    Raises msgspec.DecodeError where the text is no JSON; text that is compact already is not looked at closely.
    """
    raw = text.encode() if isinstance(text, str) else bytes(text)
    if b'": ' in raw or b', "' in raw or b"\n" in raw:
        return msgspec.json.format(raw, indent=-1)
    return raw


_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode


def fields_from_json(text: bytes | str | Raw) -> dict[str, bytes]:
    """Return the top-level fields of an allocation's JSON: the text of each, by name. O(length).

    Raises DecodeError when the text is not a JSON object.
    """
    try:
        return {name: bytes(raw) for name, raw in _decode_object(compact(text)).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"not the JSON of an allocation: {error}"
        raise DecodeError(msg) from None


def fields_to_json(fields: Mapping[str, bytes]) -> bytes:
    """Return the JSON object of these fields, keys in alphabetical order, with what Go escapes escaped."""
    out = _encode_sorted({name: Raw(text) for name, text in fields.items()})
    # Go escapes U+2028 and U+2029, msgspec does not. One byte is searched first: that is 30 times faster than three.
    if b"\xe2" in out:
        out = out.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return out


_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode


def current_fields(placed: bytes, updates: Mapping[str, bytes | None] | None) -> dict[str, bytes]:
    """Return the top-level fields of an allocation as they are after its updates. O(fields)."""
    fields = fields_from_json(placed)
    for name, text in (updates or {}).items():
        if text is None:
            fields.pop(name, None)
        else:
            fields[name] = text
    return fields


class _Told(Generic[T]):
    """A top-level field as a typed attribute, decoded when it is asked for; None where the allocation has none."""

    def __init__(self, name: str, kind: type[T]) -> None:
        self.name = name
        # Not strict, since the documented API writes integers as floats.
        self.decode: Callable[[bytes], T | None] = msgspec.json.Decoder(kind | None, strict=False).decode

    @overload
    def __get__(self, snapshot: None, owner: type[Snapshot]) -> _Told[T]: ...
    @overload
    def __get__(self, snapshot: Snapshot, owner: type[Snapshot]) -> T | None: ...
    def __get__(self, snapshot: Snapshot | None, owner: type[Snapshot]) -> _Told[T] | T | None:
        if snapshot is None:
            return self
        text = snapshot.fields.get(self.name)
        try:
            return None if text is None else self.decode(text)
        except msgspec.ValidationError as error:
            msg = f"$.{self.name}: {error}"
            raise DecodeError(msg) from None


class Snapshot:
    """An allocation at one index: typed access, and JSON in any dialect. It never changes.

    Reading from text costs O(length), writing O(fields and events).

    >>> text = b'{"ID": "2032", "JobID": "example", "ModifyIndex": 9, "TaskStates": {"redis": {"State": "running"}}}'
    >>> snapshot = Snapshot.from_json(text)
    >>> snapshot.job_id, snapshot.modify_index, snapshot.tasks["redis"].state, snapshot.client_status
    ('example', 9, 'running', 'running')
    """

    __slots__ = ("dialect", "fields", "tasks")

    def __init__(self, fields: Mapping[str, bytes], tasks: Mapping[str, TaskState], dialect: str | Dialect) -> None:
        self.fields = fields
        """The top-level fields but the task states: JSON text by Nomad's name."""
        self.tasks = tasks
        self.dialect = dialect_of(dialect)

    id = _Told("ID", str)
    name = _Told("Name", str)
    namespace = _Told("Namespace", str)
    eval_id = _Told("EvalID", str)
    node_id = _Told("NodeID", str)
    node_name = _Told("NodeName", str)
    job_id = _Told("JobID", str)
    task_group = _Told("TaskGroup", str)
    desired_status = _Told("DesiredStatus", str)
    desired_description = _Told("DesiredDescription", str)
    client_status = _Told("ClientStatus", str)
    client_description = _Told("ClientDescription", str)
    create_index = _Told("CreateIndex", int)
    modify_index = _Told("ModifyIndex", int)
    alloc_modify_index = _Told("AllocModifyIndex", int)
    create_time_ns = _Told("CreateTime", int)
    modify_time_ns = _Told("ModifyTime", int)

    @classmethod
    def of(cls, state: AllocationState, dialect: str | Dialect = DEFAULT_DIALECT) -> Snapshot:
        """Return the snapshot of a folded state: the status follows from the tasks, unless it was told otherwise."""
        found = dialect_of(dialect)
        fields = current_fields(state.placed, state.updates)
        tasks = {name: task for name, task in state.tasks.items() if not task.hidden}
        derive_status(fields, tasks, found)
        fields["ModifyIndex"] = b"%d" % state.modify_index
        fields.setdefault("ID", msgspec.json.encode(state.id))
        return cls(fields, tasks, found)

    @classmethod
    def from_json(cls, text: bytes | str, dialect: str | Dialect | None = None) -> Snapshot:
        """Return the snapshot that an allocation's JSON tells; nulls and missing keys are fine.

        Unless it is named, the dialect is told by the keys (0.5.6, where they are those of 0.5.0 as well).

        Raises DecodeError, naming the JSON path, where a value is of a wrong type.
        """
        fields = fields_from_json(text)
        told = task_states_from_json(fields.get("TaskStates", b"null"))
        if told:
            del fields["TaskStates"]
        tasks = {name: _as_state(task) for name, task in (told or {}).items()}
        found = dialect_of(dialect or told_dialect(fields, told) or "0.5.6")
        derive_status(fields, tasks, found)
        return cls(fields, tasks, found)

    def view(self, name: str) -> Any:
        """Return an opaque part (Job, Metrics, Resources …) as a typed, read-only view; None where there is none.

        Raises DecodeError, naming the JSON path, where a value is of a wrong type, and KeyError for a name that is no
        part: `taskfold.codecs.views.VIEWS` has them all.
        """
        from taskfold.codecs.views import VIEWS, view

        kind, text = VIEWS[name], self.fields.get(name)
        return None if text is None or text == b"null" else view(text, kind, path=f"$.{name}")

    def to_json(self, dialect: str | Dialect | None = None) -> bytes:
        """Return the body of ``/v1/allocation/<id>`` in a dialect (its own unless named). O(fields and events).

        Fields that the other dialect does not have are left out (`losses` names them), and those that only it has are
        written as zero; opaque parts are copied.
        """
        return fields_to_json(self._written(self.dialect if dialect is None else dialect_of(dialect)))

    def to_stub_json(self, dialect: str | Dialect | None = None, *, resources: bool = False) -> bytes:
        """Return the allocation's entry in the list of ``/v1/allocations``, in a dialect. O(fields and events).

        With ``resources=True`` it has its AllocatedResources, as a request with that parameter gets them (since 1.0.0).
        """
        target = self.dialect if dialect is None else dialect_of(dialect)
        names = allocation_fields(target, stub=True)
        told = self._converted(target)
        fields = {name: told.get(name, ALLOCATION_FIELDS[name].zero) for name in names} | self._of_job(names)
        if resources and "AllocatedResources" in allocation_fields(target):
            fields["AllocatedResources"] = told.get("AllocatedResources", b"null")
        return fields_to_json(fields)

    def losses(self, dialect: str | Dialect) -> list[str]:
        """Return the JSON paths of what a dialect cannot express of this allocation."""
        target = dialect_of(dialect)
        if target is self.dialect:
            return []
        names = allocation_fields(target)
        lost = [
            f"$.{name}"
            for name, text in sorted(self.fields.items())
            if name in ALLOCATION_FIELDS
            and name not in names
            and not is_empty(name, text)
            and ALLOCATION_FIELDS[name].in_body
        ]
        for name, task in sorted(self.tasks.items()):
            lost.extend(f"$.TaskStates.{name}{path}" for path in task_losses(task, target))
        return lost

    def _converted(self, target: Dialect) -> dict[str, bytes]:
        """Return the fields with the task states, and with a status as the dialect tells it."""
        fields = dict(self.fields)
        if self.tasks:
            fields["TaskStates"] = task_states_to_json(self.tasks, target)
        if target is not self.dialect:
            if fields.get("ClientDescription") in _DERIVED_DESCRIPTIONS:
                del fields["ClientDescription"]
            derive_status(fields, self.tasks, target)
        return fields

    def _written(self, target: Dialect) -> dict[str, bytes]:
        """Return the fields that a body has in a dialect: what nobody knows, and what that dialect has."""
        told, zeros = self._converted(target), _zeros(target)
        if target is not self.dialect or not _STUB_ONLY.isdisjoint(told):
            for name in (told.keys() & ALLOCATION_FIELDS.keys()) - zeros.keys():
                del told[name]
        if not target.omits_empty:
            return zeros | told
        if told.get("DesiredTransition") == _NO_TRANSITION:
            del told["DesiredTransition"]
        return {name: text for name, text in told.items() if len(text) >= _EMPTY_LENGTH or text not in _EMPTY}

    def _of_job(self, names: tuple[str, ...]) -> dict[str, bytes]:
        """Return what a stub tells of the job, where the job is known."""
        job = self.fields.get("Job", b"null")
        if not job.startswith(b"{") or "JobVersion" not in names:
            return {}
        told = fields_from_json(job)
        return {"JobVersion": told.get("Version", b"0"), "JobType": told.get("Type", b'""')}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the tasks."""
        return iter(self.tasks)

    def __eq__(self, other: object) -> bool:
        """Tell whether the other snapshot says the same, in the same dialect."""
        if not isinstance(other, Snapshot):
            return NotImplemented
        return (self.fields, self.tasks, self.dialect) == (other.fields, other.tasks, other.dialect)

    __hash__ = None  # type: ignore[assignment]  # its mappings cannot be hashed

    def __repr__(self) -> str:
        """Return a short text that tells which allocation it is, and at which index."""
        told = (self.fields.get(name, b"null").decode() for name in ("ID", "ModifyIndex", "ClientStatus"))
        return "<Snapshot of {} at index {}, {}>".format(*told)


_DERIVED_DESCRIPTIONS: Final = (b'""', *(b'"%b"' % text.encode() for text in CLIENT_DESCRIPTIONS.values()))
"""Descriptions that a dialect writes by itself, or not: they are not carried to another dialect."""


_OLD_FIELDS: Final = frozenset(allocation_fields(DIALECTS["0.5.6"]))


def told_dialect(fields: Mapping[str, bytes], tasks: Mapping[str, ToldTask] | None) -> str | None:
    """Return the dialect that an allocation's JSON tells by itself; None where it could be 0.5.0 as well as 0.5.6.

    Fields that 0.5.6 does not have tell the newest dialect; task states with times tell 0.5.6, without them 0.5.0.
    """
    if (fields.keys() & ALLOCATION_FIELDS.keys()) - _OLD_FIELDS:
        return NEWEST_DIALECT
    for task in (tasks or {}).values():
        if task.restarts is not UNSET:
            return NEWEST_DIALECT
        return "0.5.0" if task.started_at_ns is UNSET else "0.5.6"
    return None


def derive_status(fields: dict[str, bytes], tasks: Mapping[str, TaskState], dialect: Dialect) -> None:
    """Fill in ClientStatus and ClientDescription where they are not told: they follow from the tasks."""
    status = client_status(tasks.values()) if tasks else PENDING
    fields.setdefault("ClientStatus", b'"%b"' % (status or "").encode())
    if dialect.describes_status and tasks:
        fields.setdefault("ClientDescription", b'"%b"' % CLIENT_DESCRIPTIONS.get(status or "", "").encode())


def _as_state(told: ToldTask) -> TaskState:
    """Return the state that an answer tells, with nothing known of what came before."""
    times = (told.last_restart_ns, told.started_at_ns, told.finished_at_ns)
    last_restart_ns, started_at_ns, finished_at_ns = (time if isinstance(time, int) else None for time in times)
    return TaskState(
        state=told.state,
        failed=told.failed,
        restarts=told.restarts if isinstance(told.restarts, int) else 0,
        last_restart_ns=last_restart_ns,
        started_at_ns=started_at_ns,
        finished_at_ns=finished_at_ns,
        events=told.events,
        events_total=len(told.events),
        fields=told.fields,
    )
