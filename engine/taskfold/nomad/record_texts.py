"""Records in words: the name of the event, and its message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET

from taskfold.fold.course import REASONS, Death
from taskfold.model.events import Killing, SiblingTaskFailed, TaskEvent, wire_type
from taskfold.model.go.timestamps import time_text
from taskfold.model.record import Collected, Coordinated, Decided, Finished, Gap, Observed, Placed, Record, Updated
from taskfold.model.words import count_text, visible
from taskfold.nomad.fields import fields_from_json
from taskfold.nomad.messages import display_message

__all__ = ["ALWAYS_DIFFERENT", "death_text", "event_text", "message_text", "scalar_text", "significant_fields"]

ALWAYS_DIFFERENT: Final = frozenset(("ModifyTime", "AllocModifyIndex", "ModifyIndex"))
"""Fields that change with every write, and are therefore not reported."""


def scalar_text(text: bytes | None) -> str:
    """Return a short JSON value as text, without the quotes of a string.

    >>> scalar_text(b'"run"'), scalar_text(b"12"), scalar_text(None)
    ('run', '12', 'nothing')
    """
    if text is None or text in {b'""', b"null"}:
        return "nothing"
    return visible(text.strip(b'"').decode(errors="replace"))


def significant_fields(event: Updated) -> list[str]:
    """Return the changed fields, except those that change with every write."""
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
    """Return the message of a record."""
    event = record.event
    if isinstance(event, TaskEvent):
        return visible(display_message(event))
    if isinstance(event, Placed) and record.task:
        return "the task was created again, with an empty history"
    return _INTERNAL_TEXTS[type(event)](event)


_TELLING: Final = frozenset(("not-restarting", "driver-failure", "setup-failure", "validation-failure", "exit-code"))
"""The reasons of deaths whose events say more."""


def death_text(death: Death) -> str:
    """Return why a task died, in words.

    >>> from taskfold.model.events import Terminated
    >>> death_text(Death(alloc="a", task="web", time_ns=7, index=3, reason="exit-code", event=Terminated(exit_code=2)))
    'its process failed: Exit Code: 2'
    """
    event, more = death.event, ""
    if isinstance(event, SiblingTaskFailed):
        more = event.failed_sibling
    elif isinstance(event, TaskEvent) and (death.reason in _TELLING or _has_text(event)):
        more = display_message(event)
    return visible(f"{REASONS[death.reason]}: {more}" if more else REASONS[death.reason])


def _has_text(event: TaskEvent) -> bool:
    """Tell whether somebody gave a reason for a kill."""
    has_own = event.extras is not None and event.extras.display_message is not UNSET
    return isinstance(event, Killing) and (has_own or bool(event.kill_reason))


def _placed_text(event: Placed) -> str:
    fields = {} if event.body is UNSET else fields_from_json(event.body)
    parts = [
        f"{word} {scalar_text(fields[name])[:most]}"
        for word, name, most in (("job", "JobID", None), ("group", "TaskGroup", None), ("node", "NodeID", 8))
        if name in fields
    ]
    return f"first seen: {', '.join(parts)}" if parts else "first seen"


def _updated_text(event: Updated) -> str:
    names = significant_fields(event)
    if event.write_type:
        names.append(f"as {event.write_type}")
    if event.job_source:
        names.append("as the stream tells of the job")
    return ", ".join(map(visible, names)) if names else "written again, without a change"


def _observed_text(event: Observed) -> str:
    names = [name for name in event.__struct_fields__ if getattr(event, name) is not UNSET]
    words = ", ".join(name.removesuffix("_ns").replace("_", " ") for name in names)
    return f"to the observed values: {words}"


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
