"""Task states on the wire: the ``TaskStates`` of an allocation, read into `WireTask` and written from `TaskState`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from taskfold.fold.lifecycle import STATES
from taskfold.fold.task import TaskState
from taskfold.model.dialect import Dialect
from taskfold.model.errors import DecodeError
from taskfold.model.events import AnyTaskEvent
from taskfold.model.go.timestamps import is_canonical_time, parse_time_ns, time_text
from taskfold.model.record import State
from taskfold.nomad.events import event_from_json, event_from_object, event_losses, events_to_text, wrong_type
from taskfold.nomad.fields import object_to_json

__all__ = [
    "TASK_FIELDS",
    "WireTask",
    "task_losses",
    "task_member",
    "task_state_to_json",
    "task_states_from_json",
    "task_states_to_json",
]


class WireTask(Struct, frozen=True, kw_only=True):
    """A task state as an answer tells it; what it does not tell is unset."""

    state: str | UnsetType = UNSET
    failed: bool | UnsetType = UNSET
    restarts: int | UnsetType = UNSET
    last_restart_ns: int | UnsetType | None = UNSET
    started_at_ns: int | UnsetType | None = UNSET
    finished_at_ns: int | UnsetType | None = UNSET
    events: tuple[AnyTaskEvent, ...] = ()
    fields: Mapping[str, bytes] = {}
    """TaskHandle and whatever nobody knows, where they are not null: JSON text by name. So are instants that are not
    in UTC, as they were written."""


class WireTaskState(Struct, frozen=True, forbid_unknown_fields=True):
    """A task state as the strict path decodes it."""

    Events: list[Raw] | None = None
    Failed: bool | UnsetType = UNSET
    FinishedAt: str | UnsetType | None = UNSET
    LastRestart: str | UnsetType | None = UNSET
    Restarts: int | UnsetType = UNSET
    StartedAt: str | UnsetType | None = UNSET
    State: State | UnsetType = UNSET
    TaskHandle: Raw | UnsetType = UNSET


_decode_strictly: Final = msgspec.json.Decoder(dict[str, WireTaskState] | None).decode
_TIMES: Final = ("FinishedAt", "LastRestart", "StartedAt")
_NULL: Final = b"null"
_decode_texts: Final = msgspec.json.Decoder(dict[str, Raw]).decode

_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def task_states_from_json(text: bytes | Raw, path: str = "$.TaskStates") -> dict[str, WireTask] | None:
    """Return the task states that the text tells, by task; None for ``null``.

    Raises DecodeError, naming the JSON path, where a field is of a wrong type.

    >>> task_states_from_json(b'{"web": {"State": "running", "Failed": false, "Events": null}}')["web"].state
    'running'
    """
    try:
        states = _decode_strictly(text)
    except msgspec.ValidationError:
        return _tolerantly(text, path)
    except _NOT_JSON as error:
        msg = f"{path}: {error}"
        raise DecodeError(msg) from None
    if states is None:
        return None
    try:
        return {name: _wire_task(state) for name, state in states.items()}
    except (msgspec.ValidationError, ValueError):  # an event or a time that the strict path refuses
        return _tolerantly(text, path)


def _check_state(state: str, path: str) -> str:
    """Return a state that a task can have. Raises DecodeError."""
    if state not in _STATES:
        raise wrong_type(f"{path}.State", "pending, running or dead", state)
    return state


_STATES: Final = ("", *STATES)


def _wire_task(wire: WireTaskState) -> WireTask:
    """Return the task state of a strictly decoded one."""
    fields: dict[str, bytes] = {}
    if wire.TaskHandle is not UNSET and (handle := bytes(wire.TaskHandle)) != _NULL:
        fields["TaskHandle"] = handle
    return WireTask(
        state=wire.State,
        failed=wire.Failed,
        restarts=wire.Restarts,
        last_restart_ns=_time("LastRestart", wire.LastRestart, fields),
        started_at_ns=_time("StartedAt", wire.StartedAt, fields),
        finished_at_ns=_time("FinishedAt", wire.FinishedAt, fields),
        events=tuple(map(event_from_json, map(bytes, wire.Events))) if wire.Events else (),
        fields=fields,
    )


def _time(name: str, text: str | UnsetType | None, fields: dict[str, bytes]) -> int | UnsetType | None:
    """Return an instant; add to the fields one that is written in another way than here."""
    if not isinstance(text, str):
        return text
    time_ns, spelled = _instant(text)
    if spelled is not None:
        fields[name] = spelled
    return time_ns


@lru_cache(maxsize=4096)
def _instant(text: str) -> tuple[int | None, bytes | None]:
    """Return an instant, and its JSON where it is written in another way than here: a client not in UTC has an offset.

    The last few thousand are remembered: each is told again with whatever follows it.
    """
    time_ns = parse_time_ns(text)
    is_spelled = time_ns is not None and not is_canonical_time(text)
    return time_ns, msgspec.json.encode(text) if is_spelled else None


def _tolerantly(text: bytes | Raw, path: str) -> dict[str, WireTask] | None:
    """Return the task states of any JSON that can be understood, keeping what nobody knows."""
    try:
        value = msgspec.json.decode(text)
    except _NOT_JSON as error:
        msg = f"{path}: {error}"
        raise DecodeError(msg) from None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    return {name: _told_tolerantly(state, f"{path}.{name}") for name, state in value.items()}


def _told_tolerantly(value: Any, path: str) -> WireTask:
    """Return the task state of an object that the strict decoder refused."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    events = value.get("Events") or []
    if not isinstance(events, list):
        raise wrong_type(f"{path}.Events", "an array", events)
    fields: dict[str, bytes] = {}
    attributes: dict[str, Any] = {
        "events": tuple(event_from_object(event, f"{path}.Events[{n}]") for n, event in enumerate(events)),
    }
    if "State" in value:
        attributes["state"] = _check_state(_value_of(value, "State", str, zero="", path=path), path)
    if "Failed" in value:
        attributes["failed"] = _value_of(value, "Failed", bool, zero=False, path=path)
    if "Restarts" in value:
        attributes["restarts"] = _value_of(value, "Restarts", int, zero=0, path=path)
    for name, attribute in zip(_TIMES, ("finished_at_ns", "last_restart_ns", "started_at_ns"), strict=True):
        if name in value:
            attributes[attribute] = _time_of(name, value[name], path, fields)
    others = {name: part for name, part in value.items() if name not in _TYPED_FIELDS and part is not None}
    return WireTask(**attributes, fields=fields | {name: msgspec.json.encode(part) for name, part in others.items()})


_TYPED_FIELDS: Final = ("Events", "Failed", "Restarts", "State", *_TIMES)
TASK_FIELDS: Final = frozenset((*_TYPED_FIELDS, "TaskHandle"))
"""The fields of a task state that some dialect has."""


def _value_of(value: dict[str, Any], name: str, kind: type, *, zero: Any, path: str) -> Any:
    """Return a field as the type that the wire gives it; null is zero, and a float may stand for an integer."""
    content = value.get(name)
    if content is None:
        return zero
    if kind is int and type(content) is float and content.is_integer():
        return int(content)
    if type(content) is not kind:
        raise wrong_type(f"{path}.{name}", {str: "a text", bool: "true or false", int: "an integer"}[kind], content)
    return content


def _time_of(name: str, content: Any, path: str, fields: dict[str, bytes]) -> int | None:
    if content is None:
        return None
    if not isinstance(content, str):
        raise wrong_type(f"{path}.{name}", "an instant", content)
    try:
        time_ns = _time(name, content, fields)
    except ValueError as error:
        raise DecodeError(f"{path}.{name}: {error}") from None
    assert time_ns is not UNSET, "a text tells an instant, or none"
    return time_ns


def task_states_to_json(tasks: Mapping[str, TaskState], dialect: Dialect) -> bytes:
    """Return the ``TaskStates`` map of these tasks, sorted by name (Go's own order is random). O(events)."""
    names = sorted([name for name, task in tasks.items() if not task.hidden])
    members = [task_member(name, tasks[name], events_to_text(tasks[name].events, dialect), dialect) for name in names]
    return f"{{{','.join(members)}}}".encode()


def task_member(name: str, task: TaskState, ring: str, dialect: Dialect) -> str:
    """Return a member of ``TaskStates``: the name of a task, and its state with the text of its events."""
    return f"{_key(name)}:{_task_text(task, ring, dialect)}"


@lru_cache(maxsize=256)
def _key(name: str) -> str:
    """Return the name of a task as JSON: few tasks differ in their names."""
    return msgspec.json.encode(name).decode()


def task_state_to_json(task: TaskState, dialect: Dialect) -> bytes:
    """Return one task state as the wire's JSON text, with every key that the dialect has. O(events)."""
    return _task_text(task, events_to_text(task.events, dialect), dialect).encode()


def _task_text(task: TaskState, ring: str, dialect: Dialect) -> str:
    """Return one task state with the text of its events: every key that the dialect has, in alphabetical order."""
    begin = f'{{"Events":{ring if task.events else "null"},"Failed":{"true" if task.failed else "false"}'
    end = f'"State":"{task.state}"'
    if not dialect.has_times:
        text = f"{begin},{end}}}"
    else:
        finished_at, started_at = _time_text(task.finished_at_ns, dialect), _time_text(task.started_at_ns, dialect)
        if not dialect.has_restarts:
            text = f'{begin},"FinishedAt":{finished_at},"StartedAt":{started_at},{end}}}'
        else:
            restarts = f'"LastRestart":{_time_text(task.last_restart_ns, dialect)},"Restarts":{task.restarts}'
            text = f'{begin},"FinishedAt":{finished_at},{restarts},"StartedAt":{started_at},{end},"TaskHandle":null}}'
    return _with_fields(text, task) if task.fields else text


def _with_fields(text: str, task: TaskState) -> str:
    """Return the text of a task state with what else the wire says of the task."""
    texts = {name: bytes(raw) for name, raw in _decode_texts(text).items()}
    times = _instants(task)
    texts |= {
        name: text
        for name, text in task.fields.items()
        if name not in times or (name in texts and _is_of(text, times[name]))
    }
    return object_to_json(texts, tuple(texts)).decode()


def _instants(task: TaskState) -> dict[str, int | None]:
    return dict(zip(_TIMES, (task.finished_at_ns, task.last_restart_ns, task.started_at_ns), strict=True))


def _is_of(text: bytes, time_ns: int | None) -> bool:
    """Return whether a text is the one of this instant, and not of an older one."""
    return time_ns is not None and parse_time_ns(msgspec.json.decode(text, type=str)) == time_ns


def _time_text(time_ns: int | None, dialect: Dialect) -> str:
    """Return an instant as JSON; the zero time as the dialect writes it."""
    text = dialect.zero_time if time_ns is None else time_text(time_ns)
    return "null" if text is None else f'"{text}"'


def task_losses(task: TaskState, dialect: Dialect) -> list[str]:
    """Return the JSON paths, inside the task state, of what a dialect cannot express of it."""
    losses = {
        ".StartedAt": not dialect.has_times and task.started_at_ns is not None,
        ".FinishedAt": not dialect.has_times and task.finished_at_ns is not None,
        ".Restarts": not dialect.has_restarts and task.restarts > 0,
        ".LastRestart": not dialect.has_restarts and task.last_restart_ns is not None,
        ".TaskHandle": not dialect.has_restarts and "TaskHandle" in task.fields,
    }
    lost = [path for path, is_lost in losses.items() if is_lost]
    for place, event in enumerate(task.events):
        lost.extend(f".Events[{place}].{name}" for name in event_losses(event, dialect))
    return lost
