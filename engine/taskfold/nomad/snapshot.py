"""The allocation JSON of ``/v1/allocation/<id>``, and the stubs of ``/v1/allocations``: reading and writing.

An allocation is its task states, which are decoded, and its other top-level fields, which stay JSON text by name
until somebody asks. So whatever a Nomad sends survives a round trip to the letter (floats, 64-bit integers, keys that
nobody knows), and reading costs no more than finding the keys. `Snapshot` gives typed access on demand.

Which fields a dialect sends, and how, is the table of `taskfold.nomad.fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import is_, itemgetter
from sys import getsizeof
from threading import Lock
from typing import Any, Final, Generic, NamedTuple, TypeVar, overload

import msgspec
from msgspec import UNSET, Struct

from taskfold.fold.allocation import CLIENT_DESCRIPTIONS, AllocationState, current_fields
from taskfold.fold.task import TaskState
from taskfold.model.cache import Cache
from taskfold.model.dialect import DEFAULT_DIALECT, DIALECTS, Dialect, dialect_of
from taskfold.model.errors import DecodeError
from taskfold.model.events import AnyTaskEvent, wire_name
from taskfold.nomad.events import event_writers
from taskfold.nomad.fields import (
    ALLOCATION_FIELDS,
    FROM_RECORDS,
    FROM_TASKS,
    allocation_fields,
    body_to_json,
    derived_fields,
    escape_as_go,
    fields_from_json,
    fields_to_json,
    is_empty,
    job_in_stub,
    zero_fields,
)
from taskfold.nomad.task_states import WireTask, task_losses, task_member, task_states_from_json, task_states_to_json

__all__ = [
    "AMBIGUOUS_DIALECT",
    "AllocationTexts",
    "Snapshot",
    "check_types",
    "dialect_of_body",
]


T = TypeVar("T")


class _TypedField(Generic[T]):
    """A top-level field as a typed attribute, decoded when it is asked for; None where the allocation has none."""

    def __init__(self, name: str, kind: type[T]) -> None:
        self.name = name
        # Not strict, since the documented API writes integers as floats.
        self.decode: Callable[[bytes], T | None] = msgspec.json.Decoder(kind | None, strict=False).decode

    @overload
    def __get__(self, snapshot: None, owner: type[Snapshot]) -> _TypedField[T]: ...
    @overload
    def __get__(self, snapshot: Snapshot, owner: type[Snapshot]) -> T | None: ...
    def __get__(self, snapshot: Snapshot | None, owner: type[Snapshot]) -> _TypedField[T] | T | None:
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

    id = _TypedField("ID", str)
    name = _TypedField("Name", str)
    namespace = _TypedField("Namespace", str)
    eval_id = _TypedField("EvalID", str)
    node_id = _TypedField("NodeID", str)
    node_name = _TypedField("NodeName", str)
    job_id = _TypedField("JobID", str)
    task_group = _TypedField("TaskGroup", str)
    desired_status = _TypedField("DesiredStatus", str)
    desired_description = _TypedField("DesiredDescription", str)
    client_status = _TypedField("ClientStatus", str)
    client_description = _TypedField("ClientDescription", str)
    create_index = _TypedField("CreateIndex", int)
    modify_index = _TypedField("ModifyIndex", int)
    alloc_modify_index = _TypedField("AllocModifyIndex", int)
    create_time_ns = _TypedField("CreateTime", int)
    modify_time_ns = _TypedField("ModifyTime", int)

    @staticmethod
    def of(state: AllocationState, dialect: str | Dialect = DEFAULT_DIALECT) -> Snapshot:
        """Return the snapshot of a folded state.

        Unless they were told, the status follows from the tasks, and ModifyTime is that of the newest record.
        """
        resolved_dialect = dialect_of(dialect)
        fields = current_fields(state.placed_body, state.updates)
        tasks = {name: task for name, task in state.tasks.items() if not task.hidden}
        _fill_in_status(fields, tasks, resolved_dialect)
        fields["ModifyIndex"] = b"%d" % state.modify_index
        if state.modified_ns and "ModifyTime" in zero_fields(resolved_dialect):
            fields.setdefault("ModifyTime", b"%d" % state.modified_ns)
        fields.setdefault("ID", msgspec.json.encode(state.id))
        return Snapshot(fields, tasks, resolved_dialect)

    @staticmethod
    def from_json(text: bytes | str, dialect: str | Dialect | None = None) -> Snapshot:
        """Return the snapshot that an allocation's JSON tells; nulls and missing keys are fine.

        Unless it is named, the dialect is told by the keys (`AMBIGUOUS_DIALECT` where they do not tell).

        Raises DecodeError, naming the JSON path, where a value is of a wrong type.
        """
        fields = fields_from_json(text)
        wire_tasks = task_states_from_json(fields.get("TaskStates", b"null"))
        if wire_tasks:
            del fields["TaskStates"]
        tasks = {name: _as_state(task) for name, task in (wire_tasks or {}).items()}
        resolved_dialect = dialect_of(dialect or dialect_of_body(fields, wire_tasks) or AMBIGUOUS_DIALECT)
        _fill_in_status(fields, tasks, resolved_dialect)
        return Snapshot(fields, tasks, resolved_dialect)

    def view(self, name: str) -> Any:
        """Return an opaque part (Job, Metrics, Resources …) as a typed, read-only view; None where there is none.

        Raises DecodeError, naming the JSON path, where a value is of a wrong type, and KeyError for a name that is no
        part: `taskfold.nomad.views.VIEWS` has them all.
        """
        from taskfold.nomad.views.decode import VIEWS, view

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
        fields = self._converted(target, task_states=task_states or not target.has_stub_choices)
        if resources and target.has_stub_choices:
            names = (*names, "AllocatedResources")
            fields.setdefault("AllocatedResources", b"null")
        return fields_to_json({**zero_fields(target, stub=True), **job_in_stub(self.fields), **fields}, names)

    def final_parts(self) -> tuple[bytes, bytes]:
        """Return, as JSON, what a list tells of it but for the task states, and the task states. O(fields, events)."""
        names = set(allocation_fields(self.dialect, stub=True)) - {"TaskStates", "ModifyIndex"}
        fields = {name: text for name, text in self.fields.items() if name in names}
        return fields_to_json(fields), task_states_to_json(self.tasks, self.dialect)

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
        """Return whether the other snapshot is equal, in the same dialect."""
        if not isinstance(other, Snapshot):
            return NotImplemented
        return (self.fields, self.tasks, self.dialect) == (other.fields, other.tasks, other.dialect)

    __hash__ = None  # type: ignore[assignment]  # its mappings cannot be hashed

    def __repr__(self) -> str:
        """Return a short text that tells which allocation it is, and at which index."""
        values = (self.fields.get(name, b"null").decode() for name in ("ID", "ModifyIndex", "ClientStatus"))
        return "<Snapshot of {} at index {}, {}>".format(*values)


_TYPED_FIELDS: Final = tuple(name for name, member in vars(Snapshot).items() if isinstance(member, _TypedField))


def check_types(fields: Mapping[str, bytes]) -> None:
    """Check the types of the top-level fields that have one. O(fields). Raises DecodeError, naming a wrong one."""
    snapshot = Snapshot(fields, {}, DEFAULT_DIALECT)
    for name in _TYPED_FIELDS:
        getattr(snapshot, name)


_DERIVED_DESCRIPTIONS: Final = (b'""', *(b'"%b"' % text.encode() for text in CLIENT_DESCRIPTIONS.values()))
"""Descriptions that a dialect writes by itself, or not: they are not carried to another dialect."""


AMBIGUOUS_DIALECT: Final = "0.5.6"
"""The dialect of JSON that does not show its own: it reads bodies of 0.5.0 as well."""


def _marks() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield, newest first, each dialect with the task field and the top-level fields that tell a body of it."""
    newer = set(ALLOCATION_FIELDS)
    dialects = list(DIALECTS.values())
    for before, dialect in zip((*dialects[-2::-1], None), reversed(dialects), strict=True):
        older = set() if before is None else set(allocation_fields(before))
        yield dialect.name, dialect.told_by, frozenset(newer - older) if before else frozenset()
        newer = older


_MARKS: Final = tuple(_marks())
_ATTRIBUTES: Final = {wire_name(attribute): attribute for attribute in WireTask.__struct_fields__}


def dialect_of_body(fields: Mapping[str, bytes], tasks: Mapping[str, WireTask] | None) -> str | None:
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


def _as_state(wire: WireTask) -> TaskState:
    """Return the state that an answer tells, with nothing known of what came before."""
    times = (wire.last_restart_ns, wire.started_at_ns, wire.finished_at_ns)
    last_restart_ns, started_at_ns, finished_at_ns = (time if isinstance(time, int) else None for time in times)
    return TaskState(
        state=wire.state or "",
        failed=wire.failed is True,
        restarts=wire.restarts if isinstance(wire.restarts, int) else 0,
        last_restart_ns=last_restart_ns,
        started_at_ns=started_at_ns,
        finished_at_ns=finished_at_ns,
        events=wire.events,
        events_total=len(wire.events),
        fields=wire.fields,
    )


# --- bodies that are read again and again ---

# The texts of allocations that are read one at a time, again and again: only what has changed is written anew.
#
# Between two reads of an allocation mostly an event or two have come. What surrounds them is kept as a frame with holes
# for what follows from the tasks, and so is the text of each event that is told again with the next nine. Nothing is
# kept of an allocation that was read once: a reader of many, one after the other, neither gains nor loses.
#
# The rules stay where they are: a frame is what `Snapshot` writes of the allocation, with probes where its holes are.


_HOLES: Final = ("ClientDescription", "ClientStatus", "ModifyIndex", "ModifyTime", "TaskStates")
"""Fields that may differ between reads though the allocation was neither placed nor updated."""

_UNTOLD_HOLES: Final = (*FROM_TASKS, "ModifyTime")
"""Those of them that are holes only where they are not told."""

_PROBE: Final = b"\0%b\0"
"""Stands where a hole is: no JSON text has a zero byte in it."""

_READ_ONCE_AT_MOST: Final = 4_096
"""Of how many allocations it is known that they were read once."""

_SMALL: Final = 1_024
"""About how many bytes an entry needs beside its texts."""


class _Frame(Struct, frozen=True):
    """A body with holes."""

    pieces: list[bytes]
    """Every other one is a hole."""
    pick: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]
    """Gets what fills the holes, from the texts of `_HOLES`."""
    size: int

    def fill(self, derived: Mapping[str, bytes], state: AllocationState, task_states: bytes) -> bytes:
        """Return the body with its holes filled. O(length)."""
        pieces = self.pieces.copy()
        description, status = derived["ClientDescription"], derived["ClientStatus"]
        texts = description, status, b"%d" % state.modify_index, b"%d" % state.modified_ns, task_states
        pieces[1::2] = self.pick(texts)
        return b"".join(pieces)


class _Ring(NamedTuple):
    """Events of a task, and the text of each."""

    events: tuple[AnyTaskEvent, ...]
    texts: list[str]


class _Entry(Struct, frozen=True):
    """The texts of one allocation in the cache."""

    placed_body: bytes
    updates: Mapping[str, bytes | None]
    body: _Frame | None
    stream_body: _Frame | None
    rings: dict[str, _Ring]
    size: int


class AllocationTexts:
    """Bodies of allocations in one dialect, with what is kept of those that were read more than once.

    Any thread may read. What is kept has ``limit_bytes`` at most.

    >>> from taskfold.fold.allocation import Fold
    >>> from taskfold.model.dialect import DIALECTS
    >>> from taskfold.events import Received
    >>> from taskfold.model.record import Record
    >>> fold = Fold("0.5.6")
    >>> record = Record(index=7, alloc="a", version=1, task="web", time_ns=1, event=Received(time_ns=5))
    >>> texts = AllocationTexts(DIALECTS["0.5.6"], limit_bytes=65_536)
    >>> state = fold.apply(record).freeze()
    >>> all(texts.body(state) == Snapshot.of(state, "0.5.6").to_json() for _ in range(3))
    True
    """

    def __init__(self, dialect: Dialect, limit_bytes: int) -> None:
        self.dialect = dialect
        self._cache: Cache[str, _Entry] = Cache(limit_bytes)
        self._read_once: set[str] = set()
        self._lock = Lock()

    @property
    def size(self) -> int:
        """The size of the cache in bytes."""
        return self._cache.size

    def snapshot(self, state: AllocationState) -> Snapshot:
        """Return the snapshot of a folded state, which writes its bodies by way of what is kept."""
        return _KeptSnapshot(state, self)

    def body(self, state: AllocationState) -> bytes:
        """Return the body of a state, as `Snapshot.to_json` writes it. O(fields and events)."""
        return self._body(state, has_job=True)

    def stream_body(self, state: AllocationState) -> bytes:
        """Return the body of a state, as `Snapshot.to_stream_json` writes it. O(fields and events)."""
        return self._body(state, has_job=False)

    def _body(self, state: AllocationState, *, has_job: bool) -> bytes:
        tasks = {name: task for name, task in state.tasks.items() if not task.hidden}
        entry = self._cache.get(state.id)
        # Without these, what is a hole with them is left out.
        has_holes = tasks and state.modify_index and state.modified_ns
        if not has_holes or (entry is None and self._is_first(state.id)):
            return self._plain(state, has_job=has_job)
        is_framed = entry is not None and entry.placed_body == state.placed_body and entry.updates == state.updates
        body, stream_body = (entry.body, entry.stream_body) if entry is not None and is_framed else (None, None)
        frame = body if has_job else stream_body
        if frame is None:
            frame = _frame(state, self.dialect, has_job=has_job)
            if frame is None:
                return self._plain(state, has_job=has_job)
            body, stream_body = (frame, stream_body) if has_job else (body, frame)
        before = {} if entry is None else entry.rings
        rings: dict[str, _Ring] = {}
        members = []
        for name in sorted(tasks):
            task = tasks[name]
            ring = rings[name] = self._ring(task.events, before.get(name))
            members.append(task_member(name, task, f"[{','.join(ring.texts)}]", self.dialect))
        text = f"{{{','.join(members)}}}"
        task_states = escape_as_go(text.encode())
        # A character may have up to four bytes: as many in the whole as in the widest of its parts.
        size = _SMALL + getsizeof(text) + (0 if body is None else body.size)
        size += 0 if stream_body is None else stream_body.size
        with self._lock:
            self._cache.keep(state.id, _Entry(state.placed_body, state.updates, body, stream_body, rings, size))
        return frame.fill(derived_fields(tasks, self.dialect), state, task_states)

    def _plain(self, state: AllocationState, *, has_job: bool) -> bytes:
        snapshot = Snapshot.of(state, self.dialect)
        return snapshot.to_json() if has_job else snapshot.to_stream_json()

    def _is_first(self, alloc: str) -> bool:
        """Return whether an allocation is read for the first time, as far as is remembered."""
        with self._lock:
            if alloc in self._read_once:
                self._read_once.remove(alloc)
                return False
            if len(self._read_once) >= _READ_ONCE_AT_MOST:
                self._read_once.clear()
            self._read_once.add(alloc)
        return True

    def _ring(self, events: tuple[AnyTaskEvent, ...], before: _Ring | None) -> _Ring:
        """Return events with their texts, of which those are taken that are there already."""
        texts = [] if before is None else _texts_of(before, events)
        if len(texts) < len(events):
            writers = event_writers(self.dialect)
            texts += [writers[type(event)](event) for event in events[len(texts) :]]
        return _Ring(events, texts)


def _texts_of(ring: _Ring, events: tuple[AnyTaskEvent, ...]) -> list[str]:
    """Return the texts that a ring has of the first events of a later one: as many as are the very same objects."""
    first = events[0] if events else None
    for place, event in enumerate(ring.events):
        if event is first:
            # An event never changes. Equal ones would not do: 1 equals 1.0.
            is_same = all(map(is_, ring.events[place:], events))
            return ring.texts[place:] if is_same and len(ring.events) - place <= len(events) else []
    return []


def _frame(state: AllocationState, dialect: Dialect, *, has_job: bool) -> _Frame | None:
    """Return the body of a state with holes; None where its fields hold what looks like a probe."""
    own_fields = current_fields(state.placed_body, state.updates)
    fields = dict(Snapshot.of(state, dialect).fields)
    holes = [name for name in _UNTOLD_HOLES if name in fields and name not in own_fields] + list(FROM_RECORDS)
    fields |= {name: _PROBE % name.encode() for name in holes}
    snapshot = Snapshot(fields, {}, dialect)
    pieces = (snapshot.to_json() if has_job else snapshot.to_stream_json()).split(b"\0")
    names = [name.decode(errors="replace") for name in pieces[1::2]]
    if sorted(names) != sorted(holes):
        return None
    return _Frame(pieces, itemgetter(*map(_HOLES.index, names)), sum(map(len, pieces)))


class _KeptSnapshot(Snapshot):
    """A snapshot that writes its bodies by way of what is kept, and finds its fields when they are asked for."""

    __slots__ = ("_plain", "_state", "_texts")

    def __init__(self, state: AllocationState, texts: AllocationTexts) -> None:
        self.dialect = texts.dialect
        self._state = state
        self._texts = texts
        self._plain: Snapshot | None = None

    def _plain_snapshot(self) -> Snapshot:
        """Return the plain snapshot of the state."""
        if self._plain is None:
            self._plain = Snapshot.of(self._state, self.dialect)
        return self._plain

    @property
    def fields(self) -> Mapping[str, bytes]:  # type: ignore[override]  # it is read as the attribute is
        """The top-level fields but the task states: JSON text by Nomad's name."""
        return self._plain_snapshot().fields

    @property
    def tasks(self) -> Mapping[str, TaskState]:  # type: ignore[override]
        """The tasks that are shown, by name."""
        return self._plain_snapshot().tasks

    def to_json(self, dialect: str | Dialect | None = None) -> bytes:
        """Return the body of ``/v1/allocation/<id>`` in a dialect, as every snapshot does."""
        return self._texts.body(self._state) if dialect is None else super().to_json(dialect)

    def to_stream_json(self, dialect: str | Dialect | None = None) -> bytes:
        """Return the allocation as a payload of ``/v1/event/stream`` has it, as every snapshot does."""
        return self._texts.stream_body(self._state) if dialect is None else super().to_stream_json(dialect)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied and pickled as a plain snapshot: what is kept belongs to this process."""
        return Snapshot, (self.fields, self.tasks, self.dialect.name)
