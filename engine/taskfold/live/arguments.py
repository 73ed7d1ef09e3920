"""Checks of the arguments of public methods, since type hints do not hold at run time.

Values that a log cannot hold are refused when their entry is made (`taskfold.log.entries`); values that are used before
that, to check a write or decide on an input, are checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from taskfold.log.entries import INT64, read_back
from taskfold.model import events, inputs
from taskfold.model.errors import DecodeError, InputRefused, Refused
from taskfold.model.events import BY_WIRE_TYPE, EVENT_TYPES, TaskEvent, UnknownEvent
from taskfold.model.inputs import AnyInput, Input
from taskfold.model.record import Finished, Placed, Updated, Write

__all__ = [
    "DURABILITIES",
    "Durability",
    "check_address",
    "check_durability",
    "check_event",
    "check_input",
    "check_listener",
    "check_model",
    "check_pairs",
    "check_text",
    "checked_reports",
    "checked_time",
    "checked_writes",
    "not_a_report",
    "not_a_write",
]

Durability: TypeAlias = Literal["batch", "each"]
"""How writes wait for the disk: concurrent ones together, or each by itself."""
DURABILITIES: Final[tuple[Durability, ...]] = get_args(Durability)

_WRITABLE: Final = frozenset({*(row.cls for row in EVENT_TYPES), UnknownEvent, Placed, Updated, Finished})


_A_WRITE: Final = "Write(alloc=..., task=..., event=...)"


def check_text(value: object, path: str) -> None:
    """Check that an argument is a text. O(1). Raises DecodeError."""
    if not isinstance(value, str):
        raise DecodeError(f"{path}: expected a text, found {_kind(value)}")


def checked_time(time_ns: int, path: str = "$.Time") -> int:
    """Return a time if it is whole nanoseconds in signed 64 bits. O(1). Raises DecodeError."""
    if type(time_ns) is int and -INT64 <= time_ns < INT64:
        return time_ns
    if not isinstance(time_ns, int) or isinstance(time_ns, bool):
        raise DecodeError(f"{path}: expected whole unix nanoseconds (time.time_ns()), found {_kind(time_ns)}")
    if not -INT64 <= time_ns < INT64:
        raise DecodeError(f"{path}: expected unix nanoseconds in 64 bits, found {time_ns:.6g}")
    return int(time_ns)


def check_address(alloc: object, task: object, id: object, expected_version: object) -> None:
    """Check the arguments that every write and report shares. O(1). Raises DecodeError."""
    if type(alloc) is type(task) is str and id is expected_version is None:
        return
    check_text(alloc, "$.Alloc")
    check_text(task, "$.Task")
    if id is not None:
        check_text(id, "$.ID")
    if expected_version is not None and (not isinstance(expected_version, int) or isinstance(expected_version, bool)):
        raise DecodeError(f"$.ExpectedVersion: expected a whole number, found {_kind(expected_version)}")


def checked_writes(writes: object) -> tuple[Any, ...]:
    """Return the writes of one append as a tuple; the draft checks each. O(n). Raises DecodeError."""
    if (other := _no_list_of(Write, writes)) is not None:
        raise DecodeError(f"$: expected a list of Writes, such as [{_A_WRITE}], found {other}")
    return tuple(writes)  # type: ignore[arg-type]  # it is iterable


def not_a_write(value: object) -> str:
    """Return the error text for a value that is no Write."""
    return f"expected a Write, such as {_A_WRITE}, found {_kind_or_class(value)}"


def _no_list_of(kind: type, value: object) -> str | None:
    """Return a name for a value that is no iterable of these; None for one that is."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, type)):
        return None
    return "a single one" if isinstance(value, kind) else _kind(value)


def _kind_or_class(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else _kind(value)


def check_durability(durability: object) -> None:
    """Check a durability setting. Raises Refused."""
    if durability not in DURABILITIES:
        choices = " or ".join(map(repr, DURABILITIES))
        raise Refused(f"expected a durability of {choices}, found {durability!r}")


def check_listener(listener: object) -> None:
    """Check that a listener is callable, since otherwise every later write would raise. O(1).

    Raises DecodeError.
    """
    if not callable(listener):
        raise DecodeError(f"$: expected a function that listens, found {_kind(listener)}")


def check_model(task: object, model: object) -> None:
    """Check the arguments of a binding. O(1). Raises DecodeError."""
    check_text(task, "$.Task")
    if not task:
        raise DecodeError("$.Task: a model is bound to a task: name it")
    if isinstance(model, type):
        raise DecodeError(f"$: {_a_class(model, 'a model')}")


def check_event(event: Any) -> None:
    """Check that an argument is an event that can be recorded. O(1).

    >>> from taskfold.inputs import Exited
    >>> check_event(Exited())
    Traceback (most recent call last):
    ...
    taskfold.errors.DecodeError: $.Event: inputs.Exited is an input: report it; the event is events.Terminated

    Raises DecodeError, whose text names the right call.
    """
    if type(event) not in _WRITABLE:
        raise DecodeError(f"$.Event: {_not_an_event(event)}")
    if not isinstance(event, TaskEvent):  # other events are checked before their entry is made
        read_back(event, _decode_internal)


_decode_internal: Final[Callable[[bytes], Any]] = msgspec.json.Decoder(Placed | Updated | Finished).decode


def _not_an_event(event: object) -> str:
    name = type(event).__name__
    if isinstance(event, type):
        return _a_class(event, "an event")
    if isinstance(event, Input):
        same = _EVENT_OF_INPUT.get(type(event), "")
        return f"inputs.{name} is an input: report it" + (f"; the event is events.{same}" if same else "")
    if isinstance(event, TaskEvent):
        return f"{name} is no event type of Nomad's: record events.UnknownEvent(wire_type={name!r})"
    if isinstance(event, str) and event in BY_WIRE_TYPE:
        return f"expected an event, found a text: write events.{BY_WIRE_TYPE[event].__name__}()"
    if isinstance(event, msgspec.Struct):
        return f"{name} is no event that can be written"
    return f"expected an event (taskfold.events), found {_kind(event)}"


_EVENT_OF_INPUT: Final[dict[type[Input], str]] = {
    inputs.Exited: "Terminated",
    inputs.DownloadBegun: "DownloadingArtifacts",
    inputs.DownloadFailed: "FailedArtifactDownload",
    inputs.DriverMessage: "Driver",
    inputs.HealthFailed: "AllocUnhealthy",
    inputs.HookFailed: "TaskHookFailed",
    inputs.KillRequested: "Killing",
    inputs.PlacementReceived: "Received",
    inputs.NodeReconnected: "Reconnected",
    inputs.RestartRequested: "RestartSignaled",
    inputs.SetUp: "TaskSetup",
    inputs.SetupFailed: "SetupFailure",
    inputs.SignalRequested: "Signaling",
    inputs.StartFailed: "DriverFailure",
    inputs.ProcessStarted: "Started",
    inputs.TemplateBlocked: "Template",
    inputs.ValidationFailed: "FailedValidation",
}
"""For each input, the event that a caller probably means who records the input."""

_INPUT_OF_EVENT: Final = {getattr(events, name): cls.__name__ for cls, name in _EVENT_OF_INPUT.items()}

_decode_input: Final[Callable[[bytes], AnyInput]] = msgspec.json.Decoder(AnyInput).decode


def check_input(value: Any) -> None:
    """Check that an argument is an input with fields of the right types. O(length of its JSON).

    Raises InputRefused, whose text names the right call.
    """
    if type(value) not in inputs.INPUTS:
        raise InputRefused(_not_an_input(value))
    try:
        read_back(value, _decode_input)
    except DecodeError as error:
        raise InputRefused(f"inputs.{type(value).__name__} cannot be decided on: {error}") from None


def check_pairs(pairs: object) -> None:
    """Check that inputs reported together are pairs of a task and an input. O(n). Raises InputRefused."""
    right = 'expected a list of pairs, each a task and an input, such as [("web", inputs.Exited())]'
    if not isinstance(pairs, (list, tuple)):
        raise InputRefused(f"{right}, found {_kind(pairs)}")
    if not pairs:
        raise InputRefused(f"{right}, found none")
    for place, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:  # noqa: PLR2004 - a pair
            raise InputRefused(f"{right}; entry {place} is {_kind(pair)}")


_A_REPORT: Final = 'PostedInput(alloc="69e8e345", task="web", input=Exited())'


def checked_reports(reports: object) -> tuple[Any, ...]:
    """Return the reports of one append as a tuple; each is checked when it is decided. O(n). Raises InputRefused."""
    if (other := _no_list_of(inputs.PostedInput, reports)) is not None:
        raise InputRefused(f"expected a list of reports, such as [inputs.{_A_REPORT}], found {other}")
    return tuple(reports)  # type: ignore[arg-type]  # it is iterable


def not_a_report(value: object) -> str:
    """Return the error text for a value that is no report."""
    return f"expected a report, such as inputs.{_A_REPORT}, found {_kind_or_class(value)}"


def _not_an_input(value: object) -> str:
    name = type(value).__name__
    if isinstance(value, type):
        return _a_class(value, "an input")
    if isinstance(value, TaskEvent):
        same = _INPUT_OF_EVENT.get(type(value), "")
        return f"events.{name} is an event: record it" + (f"; the input is inputs.{same}" if same else "")
    if isinstance(value, Finished):
        return "Finished is an event: record it; the input is inputs.Exited"
    if isinstance(value, Input):
        return f"{name} is no input that taskfold decides on; taskfold.inputs has all that there are"
    return f"expected an input (taskfold.inputs), found {_kind(value)}"


def _a_class(value: type, kind_name: str) -> str:
    return f"expected {kind_name}, found the class {value.__name__}: write {value.__name__}()"


def _kind(value: object) -> str:
    """Describe a value in a few words; only short values are shown themselves."""
    if value is None:
        return "nothing"
    if isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < INT64):
        return f"{value} ({type(value).__name__})"
    return f"a value of type {type(value).__name__}"
