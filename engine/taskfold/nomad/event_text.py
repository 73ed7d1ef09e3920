"""The JSON text of events: what `event_to_object` says, written by way of remembered texts.

Most events of a cluster differ in their time alone: exit codes, reasons and timeouts are few. So the text around the
time is remembered by whatever else an event says. Only the delay of a restart has hardly the same value twice, since
it has jitter: its text has holes wherever the delay is told, too. The rules stay in one place, since every remembered
text was written by `event_to_object`, and where its holes are is found by a probe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import count
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from taskfold.model.dialect import Dialect
from taskfold.model.duration import duration_text
from taskfold.model.events import Restarting, TaskEvent
from taskfold.nomad.events import event_to_object

__all__ = ["event_to_json", "event_writers", "events_to_json", "events_to_text"]


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
    """What writes the events of each type in one dialect, made when the type is written first."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.dialect = dialect

    def __missing__(self, cls: type[TaskEvent]) -> _Writer:
        writer = self[cls] = _writer(cls, self.dialect)
        return writer


event_writers: Final = cache(_Writers)
"""Return what writes the events of each type in a dialect, as the text of JSON."""


def _writer(cls: type[TaskEvent], dialect: Dialect) -> _Writer:
    """Return what writes the events of one type, and remembers the texts around what differs."""
    delayed = cls is Restarting
    apart = {"time_ns", "kept"} | ({"start_delay_ns"} if delayed else set())
    names = [name for name in cls.__struct_fields__ if name not in apart]
    values: Callable[[TaskEvent], Any] = attrgetter(*names) if names else lambda _: ()
    texts: dict[Any, Any] = {}

    def write(event: Any) -> str:
        key, kept = values(event), event.kept
        if kept is not None:
            if kept.fields:
                return _general_text(event, dialect)
            said = kept.details
            key = key, kept.display_message, tuple(said.items()) if isinstance(said, dict) else said
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
    told = "".join(_around_time(replace(event, start_delay_ns=0), dialect))
    # The delay of the probe looks like nothing else in the text.
    probes = ((str(delay_ns), duration_text(delay_ns), delay_ns) for delay_ns in count(1_234_567_891))
    *forms, delay_ns = next(probe for probe in probes if probe[0] not in told and probe[1] not in told)
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
