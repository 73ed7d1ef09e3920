"""An observation: what one answer of a real Nomad, or one event of its stream, says of one allocation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct

from taskfold.fold.allocation import Allocation
from taskfold.fold.task import Task
from taskfold.model.dialect import Dialect
from taskfold.model.errors import DecodeError
from taskfold.nomad.fields import (
    ALLOCATION_FIELDS,
    STUB_ONLY,
    fields_from_json,
    is_empty,
    is_untold,
    job_in_stub,
    same_json,
    shown_fields,
)
from taskfold.nomad.importing.facts import Fact
from taskfold.nomad.importing.rings import same_events
from taskfold.nomad.task_states import WireTask, task_states_from_json

__all__ = [
    "UNTOLD",
    "Mismatch",
    "Observation",
    "ObservationKind",
    "Statement",
    "check_statement",
    "mismatches",
    "observation_from_json",
    "other_object",
    "tells",
]

ObservationKind: TypeAlias = Literal["body", "stream", "stub"]
"""Where it comes from: the body of an allocation, a payload of the event stream, or a stub of a list.

What a missing key means depends on it: in a body it is empty (or, where the dialect sends every key, untold), and a
stub tells only what stubs have. A payload of the stream never has the Job, and who keeps bodies may leave it out: where
it is missing, or null, nothing is told of it.
"""


class Observation(Struct, frozen=True, kw_only=True):
    """An allocation at one index, as one source gives it."""

    kind: ObservationKind
    alloc: str
    index: int
    """The ModifyIndex of the allocation, else the index of the event that brought it; 0 where neither is told."""
    fields: Mapping[str, bytes]
    """The top-level fields but the task states: JSON text by Nomad's name."""
    tasks: Mapping[str, WireTask] | None
    """The task states; None where nothing is told of them."""
    write_type: str = ""
    """The Type of the event of the stream that told it: what Nomad calls the write."""
    name: str = ""
    """The file it was read from."""
    line: int = 0


Statement: TypeAlias = Observation | Fact
"""One statement of a source: of an allocation, or of what its Job follows from."""


def tells(kind: ObservationKind, name: str) -> bool:
    """Return whether observations of a kind have a top-level field, if only by leaving it out."""
    if kind == "stub":
        field = ALLOCATION_FIELDS.get(name)
        return field is None or field.in_stub != ""
    # The Job has the two fields that are only in stubs.
    return kind == "body" or name not in STUB_ONLY


_BODY_ONLY: Final = frozenset(name for name, field in ALLOCATION_FIELDS.items() if not field.in_stub) - {
    "AllocatedResources",  # stubs have it where it was asked for
}
UNTOLD: Final = ("Job", "ClientStatus", "ClientDescription", *STUB_ONLY)
"""The keys that say nothing where they are missing: not all observations have them."""


def observation_from_json(
    text: bytes | Raw, kind: ObservationKind | None = None, name: str = "", line: int = 0
) -> Observation:
    """Return the observation of an allocation's JSON. O(length). Its keys say whether it is a body or a stub.

    Raises DecodeError, naming the JSON path, where the text is not the JSON of an allocation.
    """
    fields = fields_from_json(text)
    other = other_object(fields)
    if other:
        raise DecodeError(f"$: expected an allocation, found what looks like {other}")
    return observation_from_fields(fields, kind, name, line)


def observation_from_fields(
    fields: dict[str, bytes],
    kind: ObservationKind | None = None,
    name: str = "",
    line: int = 0,
    *,
    index: int = 0,
    write_type: str = "",
) -> Observation:
    """Return the observation of the top-level fields of an allocation; it takes the dictionary. O(length).

    ``index`` and ``write_type`` are those of the event that brought it; the index stands in for a ModifyIndex.
    Raises DecodeError, naming the JSON path, where a value is of a wrong type.
    """
    if kind is None:
        kind = "body" if _BODY_ONLY & fields.keys() else "stub"
    alloc, index = _id(fields), _index(fields) or index
    if fields.get("Job") == b"null":
        del fields["Job"]  # an allocation has one always: this says no more than that it is not told
    states = fields.pop("TaskStates", None)
    tasks = None if states is None else task_states_from_json(states)
    if tasks is None:
        # A stub may be asked for without task states; elsewhere null, or no key, says that there are none.
        tasks = None if kind == "stub" else {}
    elif not tasks:
        # Told to be empty, which is not the same text as null.
        fields["TaskStates"] = b"{}"
    return Observation(
        kind=kind,
        alloc=alloc,
        index=index,
        fields=fields,
        tasks=tasks,
        write_type=write_type,
        name=name,
        line=line,
    )


_OTHER_OBJECTS: Final[tuple[tuple[frozenset[str], str], ...]] = tuple(
    (frozenset(names.split()), what)
    for names, what in (
        ("TriggeredBy", "an evaluation"),
        ("Datacenter Status", "a node"),
        ("SchedulingEligibility", "a node"),
        ("JobID StatusDescription", "a deployment"),
        ("JobID Status TaskGroups", "a deployment"),
        ("JobModifyIndex", "a job"),
        ("JobSummary", "a job"),
        ("Datacenters", "a job"),
        ("TaskGroups", "a job"),
        ("PluginID", "a volume"),
        ("AccessMode", "a volume"),
        ("Provider Version", "a plugin"),
        ("ControllersHealthy", "a plugin"),
        ("ServiceName", "a service"),
        ("Target Policy", "a scaling policy"),
        ("Target Enabled", "a scaling policy"),
        ("Status", "another object of Nomad"),
    )
)
"""The fields by which other objects with an ID are recognised: an allocation has none of them."""

_OWN_FIELDS: Final = ("AllocModifyIndex", "ClientStatus", "DesiredStatus", "TaskGroup", "TaskStates")


def other_object(fields: Mapping[str, object]) -> str:
    """Return the kind of object that has these top-level fields, such as ``a job``; an empty text for an allocation.

    >>> other_object({"ID": b'"site"', "JobSummary": b"{}"}), other_object({"ID": b'"2032"', "ClientStatus": b'"lost"'})
    ('a job', '')
    """
    if not fields.keys().isdisjoint(_OWN_FIELDS):
        return ""
    return next((what for names, what in _OTHER_OBJECTS if names <= fields.keys()), "")


def check_statement(observation: object) -> None:
    """Check that an argument is something that the importer can look into. O(fields). Raises DecodeError."""
    if isinstance(observation, Fact):
        return  # whoever made one decoded it, or made it by hand, as any other object of this library
    if not isinstance(observation, Observation):
        raise DecodeError(
            "$: expected an Observation (taskfold.nomad.observation_from_json makes one), "
            f"found a value of type {type(observation).__name__}"
        )
    is_well_typed = (
        isinstance(observation.alloc, str)
        and type(observation.index) is int
        and _is_mapping(observation.fields, bytes)
        and (observation.tasks is None or _is_mapping(observation.tasks, WireTask))
    )
    if not is_well_typed:
        raise DecodeError("$: an Observation has JSON text by name as its fields, and a WireTask by name as its tasks")


def _is_mapping(value: object, kind: type) -> bool:
    """Return whether a value is a mapping of names to values of a type."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(part, kind) for name, part in value.items()
    )


def _id(fields: Mapping[str, bytes]) -> str:
    """Return the ID, which must be a text that is not empty."""
    text = fields.get("ID", b"")
    try:
        return _decode_id(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        excerpt = text[:60].decode(errors="replace") or "nothing"
        msg = f"$.ID: expected the ID that every allocation has, found {excerpt}"
        raise DecodeError(msg) from None


def _index(fields: Mapping[str, bytes]) -> int:
    """Return the ModifyIndex; the documented API may have it as a float."""
    text = fields.get("ModifyIndex", b"0")
    if text.isdigit() and len(text) <= INDEX_DIGITS:
        return int(text)
    try:
        return _decode_index(text)
    except msgspec.DecodeError:
        msg = f"$.ModifyIndex: expected a number that counts writes, found {text[:60].decode(errors='replace')}"
        raise DecodeError(msg) from None


INDEX_DIGITS: Final = 18
"""A number of so many digits fits into 64 bits; others are left to the decoder, which knows the limit."""
_decode_id: Callable[[bytes], str] = msgspec.json.Decoder(Annotated[str, msgspec.Meta(min_length=1)]).decode
_decode_index: Callable[[bytes], int] = msgspec.json.Decoder(
    Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)], strict=False
).decode


# --- comparing ---

# Whether the folded state is what was observed: at one index of one allocation, key by key.


class Mismatch(NamedTuple):
    """A place where the folded state is not what was observed."""

    path: str
    """The JSON path inside the allocation."""
    observed_value: Any
    """The observed value."""
    folded_value: Any
    """The folded value."""


def mismatches(allocation: Allocation, observation: Observation, dialect: Dialect) -> Iterator[Mismatch]:
    """Yield each place where the folded state differs from an observation; fields that it lacks are not compared.

    O(length of the observation), without a copy of the state.
    """
    if allocation.modify_index != observation.index:
        yield Mismatch("$.ModifyIndex", observation.index, allocation.modify_index)
    yield from _fields(allocation, observation, dialect)
    if observation.tasks is not None:
        yield from _tasks(allocation.tasks, observation.tasks)


def _fields(allocation: Allocation, observation: Observation, dialect: Dialect) -> Iterator[Mismatch]:
    folded_fields = shown_fields(allocation, dialect)
    if not STUB_ONLY.isdisjoint(observation.fields):
        folded_fields = job_in_stub(folded_fields) | folded_fields
    if "ModifyIndex" in observation.fields:
        folded_fields["ModifyIndex"] = observation.fields["ModifyIndex"]
    for name, text in observation.fields.items():
        had = folded_fields.get(name)
        if had is None:
            if not is_untold(name, text, dialect):
                yield Mismatch(f"$.{name}", text.decode(), None)
        elif not (same_json(text, had) or (is_untold(name, text, dialect) and is_untold(name, had, dialect))):
            yield Mismatch(f"$.{name}", text.decode(), had.decode())
    if dialect.omits_empty and observation.kind != "stub":
        for name, had in folded_fields.items():
            if name not in observation.fields and name not in UNTOLD and not is_empty(name, had):
                yield Mismatch(f"$.{name}", None, had.decode())


_SETTINGS: Final = ("state", "failed", "restarts", "last_restart_ns", "started_at_ns", "finished_at_ns")


def _tasks(tasks: Mapping[str, Task], wire_tasks: Mapping[str, WireTask]) -> Iterator[Mismatch]:
    for name, task in tasks.items():
        if name not in wire_tasks and not task.seldom.hidden:
            yield Mismatch(f"$.TaskStates.{name}", None, task.state)
    for name, wire in wire_tasks.items():
        path = f"$.TaskStates.{name}"
        folded_task = tasks.get(name)
        if folded_task is None or folded_task.seldom.hidden:
            yield Mismatch(path, wire.state, None)
            continue
        for attribute in _SETTINGS:
            value, had = getattr(wire, attribute), getattr(folded_task, attribute)
            if value is not UNSET and value != had:
                yield Mismatch(f"{path}.{attribute}", value, had)
        events = folded_task.events() if folded_task.seldom.older_events is None else folded_task.seldom.older_events
        if not same_events(events, wire.events):
            yield Mismatch(f"{path}.events", wire.events, events)
        fields = folded_task.seldom.fields
        for key in fields.keys() | wire.fields.keys():
            one, other = wire.fields.get(key), fields.get(key)
            if one is None or other is None or not same_json(one, other):
                yield Mismatch(f"{path}.{key}", one, other)
