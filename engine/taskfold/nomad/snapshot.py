"""The allocation JSON of ``/v1/allocation/<id>``, and the stubs of ``/v1/allocations``: reading and writing.

An allocation is its task states, which are decoded, and its other top-level fields, which stay JSON text by name
until somebody asks. So whatever a Nomad sends survives a round trip to the letter (floats, 64-bit integers, keys that
nobody knows), and reading costs no more than finding the keys. `Snapshot` gives typed access on demand.

Which fields a dialect sends, and how, is the table of `taskfold.nomad.fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, overload

import msgspec
from msgspec import UNSET

from taskfold.fold.allocation import CLIENT_DESCRIPTIONS, AllocationState, current_fields
from taskfold.fold.task import TaskState
from taskfold.model.dialect import DEFAULT_DIALECT, DIALECTS, Dialect, dialect_of
from taskfold.model.errors import DecodeError
from taskfold.model.events import wire_name
from taskfold.nomad.fields import (
    ALLOCATION_FIELDS,
    allocation_fields,
    body_to_json,
    derived_fields,
    fields_from_json,
    fields_to_json,
    is_empty,
    job_in_stub,
    zero_fields,
)
from taskfold.nomad.task_states import ToldTask, task_losses, task_states_from_json, task_states_to_json

__all__ = ["UNTOLD_DIALECT", "Snapshot", "check_types", "told_dialect"]


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

    @staticmethod
    def of(state: AllocationState, dialect: str | Dialect = DEFAULT_DIALECT) -> Snapshot:
        """Return the snapshot of a folded state.

        Unless they were told, the status follows from the tasks, and ModifyTime is that of the newest record.
        """
        found = dialect_of(dialect)
        fields = current_fields(state.placed, state.updates)
        tasks = {name: task for name, task in state.tasks.items() if not task.hidden}
        _fill_in_status(fields, tasks, found)
        fields["ModifyIndex"] = b"%d" % state.modify_index
        if state.modified_ns and "ModifyTime" in zero_fields(found):
            fields.setdefault("ModifyTime", b"%d" % state.modified_ns)
        fields.setdefault("ID", msgspec.json.encode(state.id))
        return Snapshot(fields, tasks, found)

    @staticmethod
    def from_json(text: bytes | str, dialect: str | Dialect | None = None) -> Snapshot:
        """Return the snapshot that an allocation's JSON tells; nulls and missing keys are fine.

        Unless it is named, the dialect is told by the keys (`UNTOLD_DIALECT` where they do not tell).

        Raises DecodeError, naming the JSON path, where a value is of a wrong type.
        """
        fields = fields_from_json(text)
        told = task_states_from_json(fields.get("TaskStates", b"null"))
        if told:
            del fields["TaskStates"]
        tasks = {name: _as_state(task) for name, task in (told or {}).items()}
        found = dialect_of(dialect or told_dialect(fields, told) or UNTOLD_DIALECT)
        _fill_in_status(fields, tasks, found)
        return Snapshot(fields, tasks, found)

    def view(self, name: str) -> Any:
        """Return an opaque part (Job, Metrics, Resources …) as a typed, read-only view; None where there is none.

        Raises DecodeError, naming the JSON path, where a value is of a wrong type, and KeyError for a name that is no
        part: `taskfold.nomad.views.VIEWS` has them all.
        """
        from taskfold.nomad.views import VIEWS, view

        kind, text = VIEWS[name], self.fields.get(name)
        return None if text is None or text == b"null" else view(text, kind, path=f"$.{name}")

    def to_json(self, dialect: str | Dialect | None = None) -> bytes:
        """Return the body of ``/v1/allocation/<id>`` in a dialect (its own unless named). O(fields and events).

        Fields that the other dialect does not have are left out (`losses` names them), and those that only it has are
        written as zero; opaque parts are copied.
        """
        target = self.dialect if dialect is None else dialect_of(dialect)
        return body_to_json(self._converted(target), target, is_foreign=target is not self.dialect)

    def to_stream_json(self, dialect: str | Dialect | None = None) -> bytes:
        """Return the allocation as a payload of ``/v1/event/stream`` has it, in a dialect. O(fields and events).

        It is the body without the Job. Source: every recorded payload; all else is in it as in the body of its index.
        """
        target = self.dialect if dialect is None else dialect_of(dialect)
        return body_to_json(self._converted(target), target, is_foreign=target is not self.dialect, has_job=False)

    def to_stub_json(
        self, dialect: str | Dialect | None = None, *, resources: bool = False, task_states: bool = True
    ) -> bytes:
        """Return the allocation's entry in the list of ``/v1/allocations``, in a dialect. O(fields and events).

        With ``resources=True`` it has its AllocatedResources, with ``task_states=False`` null for its TaskStates, as a
        request with these parameters gets them; a dialect without such choices sends the same entry to every request.
        """
        target = self.dialect if dialect is None else dialect_of(dialect)
        names = allocation_fields(target, stub=True)
        told = self._converted(target, task_states=task_states or not target.has_stub_choices)
        if resources and target.has_stub_choices:
            names = (*names, "AllocatedResources")
            told.setdefault("AllocatedResources", b"null")
        return fields_to_json({**zero_fields(target, stub=True), **job_in_stub(self.fields), **told}, names)

    def final_parts(self) -> tuple[bytes, bytes]:
        """Return, as JSON, what a list tells of it but for the task states, and the task states. O(fields, events)."""
        names = set(allocation_fields(self.dialect, stub=True)) - {"TaskStates", "ModifyIndex"}
        told = {name: text for name, text in self.fields.items() if name in names}
        return fields_to_json(told), task_states_to_json(self.tasks, self.dialect)

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

    def _converted(self, target: Dialect, *, task_states: bool = True) -> dict[str, bytes]:
        """Return the fields with or without the task states, and with a status as the dialect tells it."""
        fields = dict(self.fields)
        if not task_states:
            fields.pop("TaskStates", None)
        elif self.tasks:
            fields["TaskStates"] = task_states_to_json(self.tasks, target)
        if target is not self.dialect:
            if fields.get("ClientDescription") in _DERIVED_DESCRIPTIONS:
                del fields["ClientDescription"]
            _fill_in_status(fields, self.tasks, target)
        return fields

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


_TOLD: Final = tuple(name for name, member in vars(Snapshot).items() if isinstance(member, _Told))


def check_types(fields: Mapping[str, bytes]) -> None:
    """Check the types of the top-level fields that have one. O(fields). Raises DecodeError, naming a wrong one."""
    snapshot = Snapshot(fields, {}, DEFAULT_DIALECT)
    for name in _TOLD:
        getattr(snapshot, name)


_DERIVED_DESCRIPTIONS: Final = (b'""', *(b'"%b"' % text.encode() for text in CLIENT_DESCRIPTIONS.values()))
"""Descriptions that a dialect writes by itself, or not: they are not carried to another dialect."""


UNTOLD_DIALECT: Final = "0.5.6"
"""What JSON is read with that does not tell its dialect: it reads what 0.5.0 wrote as well."""


def _marks() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield, newest first, each dialect with the task field and the top-level fields that tell a body of it."""
    newer = set(ALLOCATION_FIELDS)
    dialects = list(DIALECTS.values())
    for before, dialect in zip((*dialects[-2::-1], None), reversed(dialects), strict=True):
        older = set() if before is None else set(allocation_fields(before))
        yield dialect.name, dialect.told_by, frozenset(newer - older) if before else frozenset()
        newer = older


_MARKS: Final = tuple(_marks())
_ATTRIBUTES: Final = {wire_name(attribute): attribute for attribute in ToldTask.__struct_fields__}


def told_dialect(fields: Mapping[str, bytes], tasks: Mapping[str, ToldTask] | None) -> str | None:
    """Return the dialect that an allocation's JSON tells by itself; None where it could be 0.5.0 as well as 0.5.6.

    What no older dialect has tells it: a top-level field, or a field of the first task state (`Dialect.told_by`).
    """
    task = next(iter((tasks or {}).values()), None)
    for name, told_by, marks in _MARKS:
        if not marks.isdisjoint(fields):
            return name
        if task is not None and (not told_by or getattr(task, _ATTRIBUTES[told_by]) is not UNSET):
            return name
    return None


def _fill_in_status(fields: dict[str, bytes], tasks: Mapping[str, TaskState], dialect: Dialect) -> None:
    """Fill in ClientStatus and ClientDescription where they are not told: they follow from the tasks."""
    for name, text in derived_fields(tasks, dialect).items():
        if not is_empty(name, text):
            fields.setdefault(name, text)


def _as_state(told: ToldTask) -> TaskState:
    """Return the state that an answer tells, with nothing known of what came before."""
    times = (told.last_restart_ns, told.started_at_ns, told.finished_at_ns)
    last_restart_ns, started_at_ns, finished_at_ns = (time if isinstance(time, int) else None for time in times)
    return TaskState(
        state=told.state or "",
        failed=told.failed is True,
        restarts=told.restarts if isinstance(told.restarts, int) else 0,
        last_restart_ns=last_restart_ns,
        started_at_ns=started_at_ns,
        finished_at_ns=finished_at_ns,
        events=told.events,
        events_total=len(told.events),
        fields=told.fields,
    )
