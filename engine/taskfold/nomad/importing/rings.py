"""New events in a ring: the newest 10 events of a task, compared with those of an earlier observation.

Nomad sends the ring, not the events. Which of them are new follows from comparing both rings by position, as parsed
events: equal events do occur, times are not in order, and the text of an event differs from one answer to the next.

Two events are the same where Nomad's own comparison (structs.go TaskEvent.Equal) says so: type, time, message, display
message and Details; and where the annotations that are known are the same, too. What is absent, null, zero or empty is
one: a command writes fields that the API leaves out, and a server that was upgraded writes fields that are new.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET

from taskfold.model.dialect import EVENTS_PER_TASK
from taskfold.model.events import Extras, Received, Restarting, TaskEvent
from taskfold.nomad.events import EVENT_FIELDS
from taskfold.nomad.messages import derived_details, derived_message

__all__ = ["Growth", "compare", "is_whole", "same_events"]


def same_events(one: tuple[TaskEvent, ...], other: tuple[TaskEvent, ...]) -> bool:
    """Return whether two rings show the same events. O(events).

    >>> from taskfold.events import Started
    >>> same_events((Started(time_ns=1, extras=Extras(details=None, fields={"New": ""})),), (Started(time_ns=1),))
    True
    """
    return one == other or _plain(one) == _plain(other)


def _plain(events: tuple[TaskEvent, ...]) -> tuple[TaskEvent, ...]:
    """Return the events without what makes no difference."""
    return tuple([event if event.extras is None else _without_empty(event, event.extras) for event in events])


def _without_empty(event: TaskEvent, extras: Extras) -> TaskEvent:
    """Return an event with what it keeps as far as that tells it from another one."""
    message, details = extras.display_message or UNSET, _set(extras.details or {})
    plain = Extras(
        display_message=UNSET if message == derived_message(event) else message,
        details=UNSET if details in ({}, _set(derived_details(event))) else details,
        fields={name: value for name, value in extras.fields.items() if name in EVENT_FIELDS and value},
    )
    return msgspec.structs.replace(event, extras=None if plain == Extras() else plain)


def _set(details: dict[str, str]) -> dict[str, str]:
    """Return the Details that are not empty."""
    return {name: text for name, text in details.items() if text}


class Growth(NamedTuple):
    """The growth of a ring."""

    kind: Literal["grown", "rolled back", "anew", "gap"]
    new: tuple[TaskEvent, ...]
    """The events that were not known before; for ``rolled back``, the older ones that are shown again."""


def compare(old: tuple[TaskEvent, ...], new: tuple[TaskEvent, ...], restarts: int | None, dropped: int = 0) -> Growth:
    """Return the growth of the old ring into the new one. O(events²), of which there are ten.

    ``restarts`` is by how much the task's Restarts grew, and None where the dialect does not tell it; ``dropped``
    is how many events came before the old ring.

    >>> from taskfold.events import Started, Terminated
    >>> known = (Started(time_ns=1),)
    >>> compare(known, (*known, Terminated(time_ns=2)), None).new == (Terminated(time_ns=2),)
    True
    """
    if new == old and not restarts:
        return Growth("grown", ())
    plain_old, plain_new = _plain(old), _plain(new)
    shared = len(old) if plain_new == plain_old and not restarts else _shared(plain_old, plain_new, restarts)
    if shared is not None:
        return Growth("grown", new[shared:])
    if plain_new == plain_old:
        # No number of new events explains what Restarts tells, and none is seen.
        return Growth("grown", ())
    if _is_older_copy(plain_old, plain_new, dropped):
        return Growth("rolled back", new)
    is_anew = len(new) < EVENTS_PER_TASK and type(new[0]) is Received
    return Growth("anew" if is_anew else "gap", new)


def _shared(old: tuple[TaskEvent, ...], new: tuple[TaskEvent, ...], restarts: int | None) -> int | None:
    """Return the greatest number of new events that the old ring has, too; None when no number of them fits."""
    is_full = len(new) == EVENTS_PER_TASK
    for shared in range(min(len(old), len(new)), -1, -1):
        # A ring that is not full has dropped nothing, so that all that was known must be there.
        is_possible = shared > 0 if is_full else shared == len(old)
        if is_possible and old[len(old) - shared :] == new[:shared] and restarts in {None, _restarts(new[shared:])}:
            return shared
    return None


def _restarts(events: tuple[TaskEvent, ...]) -> int:
    return sum(type(event) is Restarting for event in events)


def _is_older_copy(old: tuple[TaskEvent, ...], new: tuple[TaskEvent, ...], dropped: int) -> bool:
    """Return whether the new ring is an earlier one: it ends inside the old one, or before that begins.

    A scheduler of Nomad 0.5.x writes back the copy of the task states that it had read (fixed in 0.6.0).
    """
    for shared in range(min(len(old), len(new)), -1, -1):
        before = len(new) - shared
        # A ring that is not full begins with the task's first event: then we know how many came before the old ring.
        is_possible = before <= dropped if len(new) == EVENTS_PER_TASK else before == dropped
        if is_possible and shared > 0 and new[before:] == old[:shared]:
            return True
    # Nothing is shared: then time must tell, since what comes before the old ring is not kept.
    return not new or (bool(old) and dropped >= len(new) and max(e.time_ns for e in new) <= min(e.time_ns for e in old))


def is_whole(events: tuple[TaskEvent, ...]) -> bool:
    """Return whether a first ring can hold all events of its task."""
    return not events or (len(events) < EVENTS_PER_TASK and type(events[0]) is Received)
