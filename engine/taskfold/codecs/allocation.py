"""The allocation JSON of ``/v1/allocation/<id>``, and the stubs of ``/v1/allocations``: reading and writing.

An allocation is its task states, which are decoded, and its other top-level fields, which stay JSON text by name
until somebody asks. So whatever a Nomad sends survives a round trip to the letter (floats, 64-bit integers, keys that
nobody knows), and reading costs no more than finding the keys. `Snapshot` gives typed access on demand.

Which fields a dialect sends, and how, is the table of `taskfold.codecs.fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, overload

import msgspec
from msgspec import UNSET

from taskfold.allocation import CLIENT_DESCRIPTIONS, AllocationState, client_status
from taskfold.codecs.fields import (
    ALLOCATION_FIELDS,
    allocation_fields,
    current_fields,
    fields_from_json,
    fields_to_json,
    is_empty,
    written,
)
from taskfold.codecs.task_states import ToldTask, task_losses, task_states_from_json, task_states_to_json
from taskfold.dialect import DEFAULT_DIALECT, DIALECTS, NEWEST_DIALECT, Dialect, dialect_of
from taskfold.errors import DecodeError
from taskfold.lifecycle import PENDING
from taskfold.task import TaskState

__all__ = ["Snapshot", "derive_status", "told_dialect"]


T = TypeVar("T")


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
        target = self.dialect if dialect is None else dialect_of(dialect)
        return fields_to_json(written(self._converted(target), target, is_foreign=target is not self.dialect))

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
