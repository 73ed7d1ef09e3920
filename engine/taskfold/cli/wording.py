"""The words of the command line: instants, spans of time, sizes, counts, and what an event says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import UNSET

from taskfold.model.duration import is_known_time, time_text
from taskfold.model.events import TaskEvent, wire_type
from taskfold.model.record import Collected, Coordinated, Decided, Finished, Gap, Observed, Placed, Record, Updated
from taskfold.nomad.fields import fields_from_json
from taskfold.nomad.messages import display_message
from taskfold.sources.diff import ALWAYS_DIFFERENT

__all__ = [
    "age_text",
    "bytes_text",
    "count_text",
    "event_text",
    "instant_text",
    "message_text",
    "one_line",
    "scalar_text",
    "short_ids",
    "telling_fields",
    "visible",
]

_NS_PER_MS: Final = 1_000_000
_NS_PER_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_TEN_SECONDS: Final = 10
_KILO: Final = 1000
_ID_LENGTHS: Final = (8, 13, 18, 23)
"""Where a UUID may be cut off: before its dashes."""


def visible(text: str) -> str:
    r"""Return a text in which nothing can move the cursor: whatever does not print is escaped.

    >>> print(visible("red\x1b[31m\n"))
    red\x1b[31m\n
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    r"""Return a text on one line.

    >>> one_line("No such option.\n  Did you mean it?")
    'No such option. Did you mean it?'
    """
    return visible(" ".join(text.split()))


def instant_text(time_ns: int | None) -> str:
    """Return an instant in UTC with milliseconds; a dash for one that is not known.

    >>> instant_text(1_795_422_850_519_993_802), instant_text(0)
    ('2026-11-23 08:34:10.519', '-')
    """
    if time_ns is None or not is_known_time(time_ns):
        return "-"
    seconds, rest = divmod(time_ns, _NS_PER_SECOND)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest // _NS_PER_MS:03d}"
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"


def age_text(age_ns: int) -> str:
    """Return a span of time in at most two units.

    >>> [age_text(seconds * 10**9) for seconds in (0, 9, 59, 90, 7_260, 200_000)]
    ['0.0s', '9.0s', '59s', '1m30s', '2h01m', '2d07h']
    """
    seconds = age_ns // _NS_PER_SECOND
    if seconds < _TEN_SECONDS:
        return f"{age_ns // 100 / 10 / _NS_PER_MS:.1f}s"
    if seconds < _MINUTE:
        return f"{seconds}s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}m{seconds % _MINUTE:02d}s"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h{seconds % _HOUR // _MINUTE:02d}m"
    return f"{seconds // _DAY}d{seconds % _DAY // _HOUR:02d}h"


def bytes_text(size: int) -> str:
    """Return a size in the unit that reads best.

    >>> bytes_text(640), bytes_text(11_842), bytes_text(129_200_000)
    ('640 B', '11.8 kB', '129.2 MB')
    """
    if size < _KILO:
        return f"{size} B"
    scaled, unit = size / _KILO, "kB"
    for larger in ("MB", "GB", "TB"):
        if scaled < _KILO:
            break
        scaled, unit = scaled / _KILO, larger
    return f"{scaled:.1f} {unit}"


def count_text(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count_text(1, "task"), count_text(2, "task"), count_text(46_000, "record")
    ('1 task', '2 tasks', '46,000 records')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return the shortest usual form of each ID: eight characters, unless two IDs share them. O(IDs).

    >>> short_ids(["96a085a8-084d-c810-328b-418ef77f6ea5", "2032"])
    {'96a085a8-084d-c810-328b-418ef77f6ea5': '96a085a8', '2032': '2032'}
    """
    short = {}
    left = list(ids)
    for length in _ID_LENGTHS:
        seen = Counter(alloc[:length] for alloc in left)
        short.update({alloc: alloc[:length] for alloc in left if seen[alloc[:length]] == 1})
        left = [alloc for alloc in left if seen[alloc[:length]] > 1]
    return short | {alloc: alloc for alloc in left}


def scalar_text(text: bytes | None) -> str:
    """Return what a short JSON value says, without the quotes of a string.

    >>> scalar_text(b'"run"'), scalar_text(b"12"), scalar_text(None)
    ('run', '12', 'nothing')
    """
    if text is None or text in {b'""', b"null"}:
        return "nothing"
    return visible(text.strip(b'"').decode(errors="replace"))


def telling_fields(event: Updated) -> list[str]:
    """Return the fields that changed, without those that change with every write."""
    return sorted({*event.fields, *event.cleared} - ALWAYS_DIFFERENT)


_INTERNAL_NAMES: Final = {
    Placed: "placed",
    Updated: "updated",
    Finished: "ended",
    Observed: "corrected",
    Gap: "GAP",
    Collected: "collected",
    Decided: "decided",
    Coordinated: "decided",
}


def event_text(record: Record) -> str:
    """Return the name of a record's event: Nomad's type, or a word in small letters for what Nomad never shows."""
    event = record.event
    if isinstance(event, Finished) and not event.dies:
        return "times moved"
    return _INTERNAL_NAMES.get(type(event)) or visible(wire_type(event))


def message_text(record: Record) -> str:
    """Return what a record says, in words."""
    event = record.event
    if isinstance(event, TaskEvent):
        return visible(display_message(event))
    if isinstance(event, Placed) and record.task:
        return "the task was created anew, with an empty history"
    return _INTERNAL_TEXTS[type(event)](event)


def _placed_text(event: Placed) -> str:
    fields = {} if event.body is UNSET else fields_from_json(event.body)
    parts = [
        f"{word} {scalar_text(fields[name])[:most]}"
        for word, name, most in (("job", "JobID", None), ("group", "TaskGroup", None), ("node", "NodeID", 8))
        if name in fields
    ]
    return f"first seen: {', '.join(parts)}" if parts else "first seen"


def _updated_text(event: Updated) -> str:
    names = telling_fields(event)
    if event.write_type:
        names.append(f"as {event.write_type}")
    if event.job_source:
        names.append("as the stream tells of the job")
    return ", ".join(map(visible, names)) if names else "written again, with nothing new"


def _observed_text(event: Observed) -> str:
    names = [name for name in event.__struct_fields__ if getattr(event, name) is not UNSET]
    words = ", ".join(name.removesuffix("_ns").replace("_", " ") for name in names)
    return f"to what was seen and no event explains: {words}"


def _gap_text(event: Gap) -> str:
    lost = event.restarts - event.restarts_before
    return f"events were lost here, {count_text(lost, 'restart')} among them" if lost > 0 else "events were lost here"


def _decided_text(event: Decided) -> str:
    parts = []
    if event.killed or event.restart:
        parts.append(f"to end it{' and start it again' if event.restart else ''}, attempt {event.kill_attempts}")
    elif event.start_at_ns is not None:
        parts.append(f"to start it at {time_text(event.start_at_ns)}")
    if event.window_start_ns is not None:
        parts.append(f"{count_text(event.window_count, 'restart')} since {time_text(event.window_start_ns)}")
    return "; ".join(parts) or "nothing more"


def _coordinated_text(event: Coordinated) -> str:
    parts = [f"tasks of the step {event.stage} may start"] if event.stage else []
    if event.group_kill:
        parts.append("the others are killed")
    if event.stop_waits or event.group_waits:
        parts.append("when the leader is dead")
    return ", ".join(parts) or "nothing more"


_INTERNAL_TEXTS: Final[dict[type, Callable[[Any], str]]] = {
    Placed: _placed_text,
    Updated: _updated_text,
    Finished: lambda _: "without an event",
    Observed: _observed_text,
    Gap: _gap_text,
    Collected: lambda event: f"the allocation was collected{event.reason and ': '}{event.reason}",
    Decided: _decided_text,
    Coordinated: _coordinated_text,
}
