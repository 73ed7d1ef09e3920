"""Task events on the wire: Nomad's flat object with all 20, 21 or 24 fields, and back, without loss.

Reading is strict first: into a tagged union made from the registry, per event type one struct with every field of the
wire, in which a field that does not belong to the type must be zero, and no other field may be. What it
refuses takes the tolerant path, `event_from_object`: types and fields nobody knows, fields set although they do not
belong to the type, floats for integers, nulls. Both give the same typed event where both accept.

Writing is `event_to_object`, which says which fields an event has in a dialect; `taskfold.nomad.events` makes it
text, and fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache, reduce
from itertools import count
from operator import attrgetter, itemgetter, or_
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from taskfold.model.dialect import Dialect
from taskfold.model.errors import DecodeError
from taskfold.model.events import (
    BY_WIRE_TYPE,
    AnyTaskEvent,
    Extras,
    Restarting,
    SiblingTaskFailed,
    TaskEvent,
    Terminated,
    UnknownEvent,
    wire_type,
)
from taskfold.model.go.durations import duration_text
from taskfold.nomad.messages import derived_details, derived_message, details, display_message

__all__ = [
    "EVENT_FIELDS",
    "event_fields",
    "event_from_json",
    "event_from_object",
    "event_losses",
    "event_to_json",
    "event_to_object",
    "event_writers",
    "events_to_json",
    "events_to_text",
    "wrong_type",
]


class WireField(NamedTuple):
    """A field of an event on the wire."""

    zero: str | int | bool | dict[str, str]
    """Go's zero value, which is written when nothing is set (for Details, what a new event has)."""
    since: str


EVENT_FIELDS: Final[dict[str, WireField]] = {
    "Details": WireField({}, "0.7.1"),
    "DiskLimit": WireField(0, "0.5.0"),
    "DisplayMessage": WireField("", "0.7.1"),
    "DownloadError": WireField("", "0.3.1"),
    "DriverError": WireField("", "0.2.0"),
    "DriverMessage": WireField("", "0.5.2"),
    "ExitCode": WireField(0, "0.2.0"),
    "FailedSibling": WireField("", "0.5.0"),
    "FailsTask": WireField(zero=False, since="0.5.0"),
    "GenericSource": WireField("", "0.6.1"),
    "KillError": WireField("", "0.2.0"),
    "KillReason": WireField("", "0.5.0"),
    "KillTimeout": WireField(0, "0.4.1"),
    "Message": WireField("", "0.2.0"),
    "RestartReason": WireField("", "0.3.2"),
    "SetupError": WireField("", "0.5.0"),
    "Signal": WireField(0, "0.2.0"),
    "StartDelay": WireField(0, "0.3.1"),
    "TaskSignal": WireField("", "0.5.0"),
    "TaskSignalReason": WireField("", "0.5.0"),
    "Time": WireField(0, "0.2.0"),
    "Type": WireField("", "0.2.0"),
    "ValidationError": WireField("", "0.3.2"),
    "VaultError": WireField("", "0.5.0"),
}
"""Every field of an event on the wire, in the order in which it is sent. Source: structs.go TaskEvent."""


@cache
def event_fields(dialect: Dialect) -> tuple[str, ...]:
    """Return the fields that events have in a dialect, in the order of the wire: 20, 21 or 24.

    >>> from taskfold.model.dialect import DIALECTS
    >>> [len(event_fields(dialect)) for dialect in DIALECTS.values()]
    [20, 21, 24]
    """
    return tuple(name for name, field in EVENT_FIELDS.items() if dialect.has(field.since))


_TYPED: Final = ("Type", "Time", "FailsTask", "Details", "DisplayMessage")
"""The fields that are not annotations of some type."""


@cache
def _annotations(cls: type[TaskEvent]) -> dict[str, str]:
    """Return the attribute of each annotation of a type, by wire name, in the order of the wire."""
    attributes = dict(zip(cls.__struct_encode_fields__, cls.__struct_fields__, strict=True))
    return {name: attributes[name] for name in EVENT_FIELDS if name in attributes and name not in _TYPED}


# --- reading, strictly ---


def _wire_struct(spelling: str, cls: type[TaskEvent]) -> type[Struct]:
    """Return the strict wire struct of an event type: what belongs to it may be set, whatever else must be zero."""
    fields: list[tuple[str, Any, Any]] = [
        ("Details", dict[str, str] | None | UnsetType, UNSET),
        ("DisplayMessage", str | UnsetType, UNSET),
        ("FailsTask", bool, False),
        ("Time", int, 0),
    ]
    for name, field in EVENT_FIELDS.items():
        if name not in _TYPED:
            kind = type(field.zero) if name in _annotations(cls) else Literal[field.zero]
            fields.append((name, kind, field.zero))
    return msgspec.defstruct(
        f"Wire{cls.__name__}", fields, tag_field="Type", tag=spelling, forbid_unknown_fields=True, frozen=True, gc=False
    )


class _Shape(NamedTuple):
    """The wire places of a type's values that decide its texts: all but the time."""

    cls: type[AnyTaskEvent]
    attributes: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a getter of these attributes as a tuple, also for one, or none."""
    if len(names) > 1:
        return attrgetter(*names)
    if not names:
        return lambda _: ()
    (name,) = names
    get = attrgetter(name)
    return lambda value: (get(value),)


def _wire_shape(cls: type[AnyTaskEvent]) -> _Shape:
    """Return where the values of a type stand on the wire."""
    failing = {"FailsTask": "fails_task"} if "fails_task" in cls.__struct_fields__ else {}
    names = failing | _annotations(cls)
    return _Shape(cls, tuple(names.values()), _getter(tuple(names)))


class _Strict(NamedTuple):
    """The parts of the strict path."""

    decode: Callable[[bytes], Any]
    """Decodes into a tagged union with one struct per spelling of a type."""
    shapes: dict[type[Struct], _Shape]


@cache
def _strict() -> _Strict:
    """Return the strict path, made when it is needed first: an import of this module should not wait for it."""
    structs = {spelling: _wire_struct(spelling, cls) for spelling, cls in BY_WIRE_TYPE.items()}
    union: Any = reduce(or_, structs.values())
    shapes = {wire: _wire_shape(BY_WIRE_TYPE[spelling]) for spelling, wire in structs.items()}
    return _Strict(msgspec.json.Decoder(union).decode, shapes)


@lru_cache(maxsize=4096)
def _derived(cls: type[TaskEvent], attributes: tuple[str, ...], values: tuple[Any, ...]) -> tuple[str, dict[str, str]]:
    """Return the message and the Details of an event of these values: few events differ in more than their time."""
    event = cls(**dict(zip(attributes, values, strict=True)))
    return derived_message(event), derived_details(event)


@lru_cache(maxsize=8192)
def event_from_json(text: bytes) -> AnyTaskEvent:
    """Return the typed event of its JSON text, strictly; the last few thousand texts are remembered.

    Nomad sends an event again with each of the next nine, so most texts of a stream were seen just before. Most of the
    others differ from one of these in their time alone.
    Raises msgspec.ValidationError for what only the tolerant path can read.
    """
    before, key, after = text.rpartition(_TIME_KEY)
    digits = after[:_TIME_DIGITS]
    if not key or not digits.isdigit() or digits.startswith(b"0") or after[_TIME_DIGITS : _TIME_DIGITS + 1] != b",":
        return _event_from_json(text)
    return msgspec.structs.replace(_event_at_zero(before, after[_TIME_DIGITS:]), time_ns=int(digits))


_TIME_KEY: Final = b',"Time":'
"""Outside of a text, wherever it stands: a quote inside of one is escaped."""
_TIME_DIGITS: Final = len("1795422850519993802")
"""An instant between the years 2001 and 2286."""


@lru_cache(maxsize=1024)
def _event_at_zero(before: bytes, after: bytes) -> AnyTaskEvent:
    """Return the event of a JSON text with a hole for its time, strictly: as it would be at 0."""
    return _event_from_json(b"%b%b0%b" % (before, _TIME_KEY, after))


def _event_from_json(text: bytes) -> AnyTaskEvent:
    """Return the typed event of its JSON text, strictly."""
    decode, shapes = _strict()
    wire = decode(text)
    cls, attributes, of_wire = shapes[type(wire)]
    values = of_wire(wire)
    event = cls(time_ns=wire.Time, **dict(zip(attributes, values, strict=True)))
    said_details, said_message = wire.Details, wire.DisplayMessage
    if wire.FailsTask and not event.fails_task:
        return _keep(event, said_details, said_message, {"FailsTask": True})
    if said_details is UNSET and said_message is UNSET:
        return event
    if (said_message, said_details) == _derived(cls, attributes, values):
        return event
    return _keep(event, said_details, said_message, {})


def _keep(
    event: AnyTaskEvent,
    said_details: dict[str, str] | UnsetType | None,
    said_message: str | UnsetType,
    fields: dict[str, Any],
) -> AnyTaskEvent:
    """Return the event with whatever the wire said that does not follow from its annotations."""
    if type(event) is Terminated and said_details:
        if said_details.get("oom_killed") == "true":
            event = msgspec.structs.replace(event, oom_killed=True)
        if said_details.get("exit_code") == "unknown" and not event.exit_code:
            event = msgspec.structs.replace(event, exit_code=None)
    if fields:
        event = msgspec.structs.replace(event, extras=Extras(fields=fields))
    message = UNSET if said_message is UNSET or said_message == derived_message(event) else said_message
    kept_details = UNSET if said_details is UNSET or said_details == derived_details(event) else said_details
    if message is UNSET and kept_details is UNSET:
        return event
    return msgspec.structs.replace(event, extras=Extras(display_message=message, details=kept_details, fields=fields))


# --- reading, tolerantly ---


def event_from_object(value: Any, path: str = "$") -> AnyTaskEvent:
    """Return the typed event of any JSON object, keeping whatever its type does not tell.

    Nulls and missing fields are zero, floats with an integral value are integers (the documented API writes ``1e+10``).
    Raises DecodeError, naming the JSON path, where a field is of a wrong type.

    >>> event = event_from_object({"Type": "Restarting", "StartDelay": 1e10, "New": [1]})
    >>> event.start_delay_ns, event.extras.fields
    (10000000000, {'New': [1]})
    """
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise wrong_type(path, "an object", value)
    spelling = _typed_field(value, "Type", path)
    cls = BY_WIRE_TYPE.get(spelling, UnknownEvent)
    attribute_of = _annotations(cls)
    attributes: dict[str, Any] = {"wire_type": spelling} if cls is UnknownEvent else {}
    fields: dict[str, Any] = {}
    for name, part in value.items():
        if name not in EVENT_FIELDS:
            fields[name] = part
        elif name in attribute_of:
            attributes[attribute_of[name]] = _typed_field(value, name, path)
        elif name not in _TYPED:
            typed = _typed_field(value, name, path)
            if typed != EVENT_FIELDS[name].zero:
                fields[name] = typed
    if "fails_task" in cls.__struct_fields__:
        attributes["fails_task"] = _typed_field(value, "FailsTask", path)
    elif _typed_field(value, "FailsTask", path):
        fields["FailsTask"] = True
    event = cls(time_ns=_typed_field(value, "Time", path), **attributes)
    message = _typed_field(value, "DisplayMessage", path) if value.get("DisplayMessage") is not None else UNSET
    return _keep(event, _details(value, path), message, fields)


def _details(value: Mapping[str, Any], path: str) -> dict[str, str] | UnsetType | None:
    """Return the Details that an object says: null is told apart from a missing field."""
    details = value.get("Details", UNSET)
    if details is UNSET or details is None:
        return details
    if not isinstance(details, dict):
        raise wrong_type(f"{path}.Details", "an object of texts", details)
    for key, text in details.items():
        if text is not None and not isinstance(text, str):
            raise wrong_type(f"{path}.Details.{key}", "a text", text)
    return {key: text or "" for key, text in details.items()}


def _typed_field(value: Mapping[str, Any], name: str, path: str) -> Any:
    """Return a field as the type that the wire gives it."""
    content, zero = value.get(name), EVENT_FIELDS[name].zero
    if content is None:
        return zero
    if type(zero) is int and type(content) is float and content.is_integer():
        return int(content)
    if type(content) is not type(zero):
        shape = {str: "a text", int: "an integer", bool: "true or false"}[type(zero)]
        raise wrong_type(f"{path}.{name}", shape, content)
    return content


def wrong_type(path: str, shape: str, value: Any) -> DecodeError:
    """Return the error that names the path, what belongs there, and what was found."""
    text = msgspec.json.encode(value).decode()
    excerpt = text if len(text) <= _EXCERPT_LENGTH else text[:_EXCERPT_LENGTH] + "…"
    return DecodeError(f"{path}: expected {shape}, found {excerpt}")


_EXCERPT_LENGTH: Final = 60
"""How much of a wrong value an error shows."""


# --- writing ---


def event_to_object(event: TaskEvent, dialect: Dialect) -> dict[str, Any]:
    """Return the event as the wire's object, with every field that the dialect has, in the order of the wire.

    What the dialect cannot express (say, Details in 0.5.6) is left out; `event_losses` names it.
    """
    zeros = _zeros(dialect)
    fields = zeros | _values(event, dialect)
    if "Details" in zeros:
        fields["Details"], fields["DisplayMessage"] = details(event), display_message(event)
    elif len(fields) > len(zeros):
        fields = {name: value for name, value in fields.items() if name in zeros}
    if event.extras is None or not event.extras.fields:
        return fields
    others = {n: v for n, v in event.extras.fields.items() if n in fields or n not in EVENT_FIELDS}
    return dict(sorted((fields | others).items()))


@cache
def _zeros(dialect: Dialect) -> dict[str, Any]:
    """Return the zero value of each field that the dialect has, in the order of the wire."""
    return {name: EVENT_FIELDS[name].zero for name in event_fields(dialect)}


def event_losses(event: TaskEvent, dialect: Dialect) -> list[str]:
    """Return the wire names of what a dialect cannot express of an event."""
    fields = event_fields(dialect)
    names = {name for name, value in _values(event, dialect).items() if value != EVENT_FIELDS[name].zero}
    if event.extras is not None:
        names |= set(event.extras.fields) & set(EVENT_FIELDS)
        names |= {
            n
            for n, v in (("Details", event.extras.details), ("DisplayMessage", event.extras.display_message))
            if v is not UNSET
        }
    if type(event) is Terminated and (event.oom_killed or event.exit_code is None):
        names.add("Details")
    return sorted(names.difference(fields))


def _values(event: TaskEvent, dialect: Dialect) -> dict[str, Any]:
    """Return the fields of the typed event itself, by wire name."""
    values: dict[str, Any] = {name: getattr(event, attribute) for name, attribute in _annotations(type(event)).items()}
    if values.get("ExitCode", 0) is None:
        values["ExitCode"] = 0
    values["FailsTask"] = event.fails_task
    values["Time"] = event.time_ns
    values["Type"] = _spelling(event, dialect)
    return values


def _spelling(event: TaskEvent, dialect: Dialect) -> str:
    return dialect.sibling_type if type(event) is SiblingTaskFailed else wire_type(event)


# --- as text ---

# The JSON text of events: what `event_to_object` says, written by way of remembered texts.
#
# Most events of a cluster differ in their time alone: exit codes, reasons and timeouts are few. So the text around the
# time is remembered by whatever else an event says. Only the delay of a restart has hardly the same value twice, since
# it has jitter: its text has holes wherever the delay is told, too. The rules stay in one place, since every remembered
# text was written by `event_to_object`, and where its holes are is found by a probe.


def event_to_json(event: TaskEvent, dialect: Dialect) -> bytes:
    """Return the event as the wire's JSON text, with every field that the dialect has. O(fields).

    >>> from taskfold.model.dialect import DIALECTS
    >>> from taskfold.events import Started
    >>> event_to_json(Started(time_ns=5), DIALECTS["0.5.6"])[:64]
    b'{"DiskLimit":0,"DownloadError":"","DriverError":"","DriverMessag'
    """
    return event_writers(dialect)[type(event)](event).encode()


def events_to_json(events: Iterable[TaskEvent], dialect: Dialect) -> bytes:
    """Return the events as a JSON array, each as `event_to_json` writes it. O(events)."""
    return events_to_text(events, dialect).encode()


def events_to_text(events: Iterable[TaskEvent], dialect: Dialect) -> str:
    """Return the events as the text of a JSON array, each as `event_to_json` writes it. O(events)."""
    writers = event_writers(dialect)
    return f"[{','.join([writers[type(event)](event) for event in events])}]"


def _general_text(event: TaskEvent, dialect: Dialect) -> str:
    """Return the text of any event."""
    return msgspec.json.encode(event_to_object(event, dialect)).decode()


# Text, not bytes: Python puts a number into text much faster than into bytes.
_Writer: TypeAlias = Callable[[Any], str]

_REMEMBERED: Final = 256
"""How many texts are remembered for each type in each dialect; a text has less than 1 kB as a rule."""


class _Writers(dict[type[TaskEvent], _Writer]):
    """The writers of each type of event in one dialect, made when they are used first."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.dialect = dialect

    def __missing__(self, cls: type[TaskEvent]) -> _Writer:
        writer = self[cls] = _writer(cls, self.dialect)
        return writer


event_writers: Final = cache(_Writers)
"""Return the writer of each type of event in a dialect, as the text of JSON."""


def _writer(cls: type[TaskEvent], dialect: Dialect) -> _Writer:
    """Return the writer of one type of event, which remembers the texts around the parts that differ."""
    delayed = cls is Restarting
    apart = {"time_ns", "extras"} | ({"start_delay_ns"} if delayed else set())
    names = [name for name in cls.__struct_fields__ if name not in apart]
    values: Callable[[TaskEvent], Any] = attrgetter(*names) if names else lambda _: ()
    texts: dict[Any, Any] = {}

    def write(event: Any) -> str:
        key, extras = values(event), event.extras
        if extras is not None:
            if extras.fields:
                return _general_text(event, dialect)
            details = extras.details
            key = key, extras.display_message, tuple(details.items()) if isinstance(details, dict) else details
        around: Any = texts.get(key)
        if around is None:
            if len(texts) >= _REMEMBERED:
                texts.clear()
            around = texts[key] = (_around_delay if delayed else _around_time)(event, dialect)
        if delayed:
            return _with_delay(around, event)
        before, after = around
        return f"{before}{event.time_ns}{after}"

    return write


def _around_time(event: TaskEvent, dialect: Dialect) -> tuple[str, str]:
    """Return the text of an event before its time, and after it."""
    # No text of an annotation looks like this, since its quotation marks would be escaped.
    before, name, after = _general_text(replace(event, time_ns=0), dialect).rpartition('"Time":')
    return before + name, after.removeprefix("0")


def _around_delay(event: Restarting, dialect: Dialect) -> _Pieces:
    """Return the text of a restart in pieces: its holes are its time and, in each form, its delay."""
    plain = "".join(_around_time(replace(event, start_delay_ns=0), dialect))
    # The delay of the probe looks like nothing else in the text.
    probes = ((str(delay_ns), duration_text(delay_ns), delay_ns) for delay_ns in count(1_234_567_891))
    *forms, delay_ns = next(probe for probe in probes if probe[0] not in plain and probe[1] not in plain)
    before, after = _around_time(replace(event, start_delay_ns=delay_ns), dialect)
    pieces = [*re.split(f"({'|'.join(map(re.escape, forms))})", before), _TIME, after]
    return pieces, itemgetter(*[[*forms, _TIME].index(hole) for hole in pieces[1::2]])


_TIME: Final = ""

_Pieces: TypeAlias = tuple[list[str], Callable[[tuple[str, str, str]], tuple[str, ...]]]
"""Every other piece is a hole; what they are filled with is picked from the delay as number and text, and the time."""


def _with_delay(around: _Pieces, event: Restarting) -> str:
    """Return the text of a restart, the holes filled."""
    pieces, pick = around
    filled = pieces.copy()
    delay_ns = event.start_delay_ns
    filled[1::2] = pick((str(delay_ns), duration_text(delay_ns), str(event.time_ns)))
    return "".join(filled)
