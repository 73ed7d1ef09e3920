"""Observations: an allocation as one answer of a real Nomad, or one event of its stream, describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
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
    "OPTIONAL_KEYS",
    "Mismatch",
    "Observation",
    "ObservationKind",
    "Statement",
    "check_statement",
    "has_field",
    "mismatches",
    "observation_from_json",
    "other_object",
]

ObservationKind: TypeAlias = Literal["body", "stream", "stub"]
"""The kind of source: the body of an allocation, a payload of the event stream, or a stub of a list.

It decides the meaning of a missing key: in a body it is empty (or, if the dialect sends every key, unknown), in a stub
unknown, unless stubs have it. A payload of the stream never has the Job, and stored bodies may lack it: a missing or
null Job is unknown.
"""


class Observation(Struct, frozen=True, kw_only=True):
    """An allocation at one index, from one source."""

    kind: ObservationKind
    alloc: str
    index: int
    """The ModifyIndex of the allocation, else the index of its stream event; 0 if there is neither."""
    fields: Mapping[str, bytes]
    """The top-level fields without the task states: JSON text by Nomad's name."""
    tasks: Mapping[str, WireTask] | None
    """The task states; None if they are unknown."""
    write_type: str = ""
    """The Type of its stream event: Nomad's name for the write."""
    name: str = ""
    """The file it was read from."""
    line: int = 0


Statement: TypeAlias = Observation | Fact
"""One statement of a source: an observation of an allocation, or a fact on a job."""


def has_field(kind: ObservationKind, name: str) -> bool:
    """Return whether observations of a kind determine a top-level field, if only by leaving it out."""
    if kind == "stub":
        field = ALLOCATION_FIELDS.get(name)
        return field is None or field.in_stub != ""
    # The Job has the two fields that otherwise only stubs have.
    return kind == "body" or name not in STUB_ONLY


_BODY_ONLY: Final = frozenset(name for name, field in ALLOCATION_FIELDS.items() if not field.in_stub) - {
    "AllocatedResources",  # stubs have it on request
}
_OF_EVERY_BODY: Final = ("Job", "Metrics", "AllocModifyIndex")
OPTIONAL_KEYS: Final = ("Job", "ClientStatus", "ClientDescription", *STUB_ONLY)
"""The keys whose absence means nothing, as not all observations have them."""


def _is_newer_stub(fields: Mapping[str, bytes]) -> bool:
    """Tell whether this is a stub of a newer Nomad, with fields that only bodies had, such as NextAllocation."""
    return not STUB_ONLY.isdisjoint(fields) and not any(name in fields for name in _OF_EVERY_BODY)


def observation_from_json(
    text: bytes | Raw, kind: ObservationKind | None = None, name: str = "", line: int = 0
) -> Observation:
    """Make the observation of an allocation's JSON; its keys show whether it is a body or a stub. O(length).

    Raises DecodeError, naming the JSON path, if the text is not the JSON of an allocation.
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
    """Make the observation of an allocation's top-level fields; it keeps the dictionary. O(length).

    ``index`` and ``write_type`` are those of the stream event; the index is used if there is no ModifyIndex. Raises
    DecodeError, naming the JSON path, for a value of a wrong type.
    """
    if kind is None:
        kind = "body" if _BODY_ONLY & fields.keys() and not _is_newer_stub(fields) else "stub"
    for field in _NUMBERS:
        text = fields.get(field)
        if text is not None and not text.isdigit():
            fields[field] = _whole(text)
    alloc, index = _id(fields), _index(fields) or index
    if fields.get("Job") == b"null":
        del fields["Job"]  # null means unknown, as every allocation has a Job
    states = fields.pop("TaskStates", None)
    tasks = None if states is None else task_states_from_json(states)
    if tasks is None:
        # A stub may be requested without task states; elsewhere null, or no key, means that there are none.
        tasks = None if kind == "stub" else {}
    elif not tasks:
        # An empty value, whose text differs from null.
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
"""The fields by which other objects with an ID are recognised: no allocation has them."""

_OWN_FIELDS: Final = ("AllocModifyIndex", "ClientStatus", "DesiredStatus", "TaskGroup", "TaskStates")


def other_object(fields: Mapping[str, object]) -> str:
    """Return the kind of object with these top-level fields, such as ``a job``; an empty text for an allocation.

    >>> other_object({"ID": b'"site"', "JobSummary": b"{}"}), other_object({"ID": b'"2032"', "ClientStatus": b'"lost"'})
    ('a job', '')
    """
    if not fields.keys().isdisjoint(_OWN_FIELDS):
        return ""
    return next((what for names, what in _OTHER_OBJECTS if names <= fields.keys()), "")


def check_statement(observation: object) -> None:
    """Check that an argument is a valid statement. O(fields). Raises DecodeError."""
    if isinstance(observation, Fact):
        return  # a fact, decoded or constructed with checked types
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
    """Return the ID, a text that is not empty. Raises DecodeError."""
    text = fields.get("ID", b"")
    try:
        return _decode_id(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        excerpt = text[:60].decode(errors="replace") or "nothing"
        msg = f"$.ID: expected the ID that every allocation has, found {excerpt}"
        raise DecodeError(msg) from None


_NUMBERS: Final = tuple(name for name, field in ALLOCATION_FIELDS.items() if field.zero == b"0")


def _whole(text: bytes) -> bytes:
    """Return a whole number in the form of a float as Nomad writes it; other texts unchanged.

    >>> _whole(b"1.7954225355757609e+18"), _whole(b"null")
    (b'1795422535575760900', b'null')
    """
    try:
        number = Decimal(text.decode())
    except (ArithmeticError, UnicodeDecodeError):
        return text
    is_whole = number.is_finite() and number.adjusted() <= INDEX_DIGITS and number == number.to_integral_value()
    return b"%d" % number if is_whole else text


def _index(fields: Mapping[str, bytes]) -> int:
    """Return the ModifyIndex, a float in the documented API. Raises DecodeError."""
    text = fields.get("ModifyIndex", b"0")
    if text.isdigit() and len(text) <= INDEX_DIGITS:
        return int(text)
    try:
        return _decode_index(text)
    except msgspec.DecodeError:
        msg = f"$.ModifyIndex: expected a number that counts writes, found {text[:60].decode(errors='replace')}"
        raise DecodeError(msg) from None


INDEX_DIGITS: Final = 18
"""A number with so many digits fits into 64 bits; longer ones are left to the decoder, which knows the limit."""
_decode_id: Callable[[bytes], str] = msgspec.json.Decoder(Annotated[str, msgspec.Meta(min_length=1)]).decode
_decode_index: Callable[[bytes], int] = msgspec.json.Decoder(
    Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)], strict=False
).decode


# --- comparing ---

# The folded state against an observation, of one allocation at one index, key by key.


class Mismatch(NamedTuple):
    """A difference between the folded state and an observation."""

    path: str
    """The JSON path inside the allocation."""
    observed_value: Any
    """The observed value."""
    folded_value: Any
    """The folded value."""


def mismatches(allocation: Allocation, observation: Observation, dialect: Dialect) -> Iterator[Mismatch]:
    """Yield the differences between the folded state and an observation; fields that the observation lacks are skipped.

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
            if name not in observation.fields and name not in OPTIONAL_KEYS and not is_empty(name, had):
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
