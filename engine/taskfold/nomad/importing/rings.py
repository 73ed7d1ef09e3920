"""New events in a ring: the newest 10 events of a task, compared with those of an earlier observation.

Nomad sends the ring, not single events. The new ones follow from comparing both rings by position, as parsed events:
equal events do occur, times are not in order, and the text of an event varies between answers.

Two events are the same if Nomad's own comparison (structs.go TaskEvent.Equal) says so (type, time, message, display
message and Details), and if the known annotations are the same. Absent, null, zero and empty values are equal: the CLI
writes fields that the API leaves out, and an upgraded server writes new fields. A time equals the float next to it: jq
before 1.7, JavaScript and ``nomad operator debug`` make a float of each number, which moves a time by up to 128 ns.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET

from taskfold.model.dialect import EVENTS_PER_TASK
from taskfold.model.events import AnyTaskEvent, Extras, Received, Restarting
from taskfold.nomad.events import EVENT_FIELDS
from taskfold.nomad.messages import derived_details, derived_message

__all__ = ["Growth", "compare", "is_whole", "same_events"]


def same_events(one: tuple[AnyTaskEvent, ...], other: tuple[AnyTaskEvent, ...]) -> bool:
    """Return whether two rings have the same events. O(events).

    >>> from taskfold.events import Started
    >>> same_events((Started(time_ns=1, extras=Extras(details=None, fields={"New": ""})),), (Started(time_ns=1),))
    True
    """
    if one == other:
        return True
    plain, plain_other = _plain(one), _plain(other)
    return plain == plain_other or (len(one) == len(other) and _rounded(plain) == _rounded(plain_other))


def _plain(events: tuple[AnyTaskEvent, ...]) -> tuple[AnyTaskEvent, ...]:
    """Return the events without insignificant parts."""
    return tuple([event if event.extras is None else _without_empty(event, event.extras) for event in events])


def _rounded(events: tuple[AnyTaskEvent, ...]) -> tuple[AnyTaskEvent, ...]:
    """Return the events with the times that a float can hold."""
    return tuple([msgspec.structs.replace(event, time_ns=int(float(event.time_ns))) for event in events])


def _without_empty(event: AnyTaskEvent, extras: Extras) -> AnyTaskEvent:
    """Return an event with the significant part of its extras."""
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
    """The change from one ring to the next."""

    kind: Literal["grown", "rolled back", "anew", "gap"]
    new: tuple[AnyTaskEvent, ...]
    """The new events; for ``rolled back``, the older ones that are shown again."""


def compare(
    old: tuple[AnyTaskEvent, ...], new: tuple[AnyTaskEvent, ...], restarts: int | None, dropped: int = 0
) -> Growth:
    """Return the growth from the old ring to the new one. O(events²), with at most ten events.

    ``restarts`` is the growth of the task's Restarts, None if the dialect has none; ``dropped`` is the number of events
    before the old ring.
    >>> from taskfold.events import Started, Terminated
    >>> known = (Started(time_ns=1),)
    >>> compare(known, (*known, Terminated(time_ns=2)), None).new == (Terminated(time_ns=2),)
    True
    """
    if new == old and not restarts:
        return Growth("grown", ())
    plain_old, plain_new = _plain(old), _plain(new)
    growth = _growth(plain_old, plain_new, new, restarts, dropped)
    if growth is None and old and new:
        growth = _growth(_rounded(plain_old), _rounded(plain_new), new, restarts, dropped)
    if growth is not None:
        return growth
    is_anew = len(new) < EVENTS_PER_TASK and type(new[0]) is Received
    return Growth("anew" if is_anew else "gap", new)


def _growth(
    old: tuple[AnyTaskEvent, ...],
    plain_new: tuple[AnyTaskEvent, ...],
    new: tuple[AnyTaskEvent, ...],
    restarts: int | None,
    dropped: int,
) -> Growth | None:
    """Return the growth of a ring whose plain events are given; None if the old ring does not lead to the new one."""
    shared = len(old) if plain_new == old and not restarts else _shared(old, plain_new, restarts)
    if shared is not None:
        return Growth("grown", new[shared:])
    if plain_new == old:
        # No number of new events is consistent with Restarts, and none is visible.
        return Growth("grown", ())
    return Growth("rolled back", new) if _is_older_copy(old, plain_new, dropped) else None


def _shared(old: tuple[AnyTaskEvent, ...], new: tuple[AnyTaskEvent, ...], restarts: int | None) -> int | None:
    """Return the greatest possible overlap of the rings, in events; None if no overlap is consistent."""
    is_full = len(new) == EVENTS_PER_TASK
    for shared in range(min(len(old), len(new)), -1, -1):
        # A ring that is not full has dropped nothing, so that all known events must be in it.
        is_possible = shared > 0 if is_full else shared == len(old)
        if is_possible and old[len(old) - shared :] == new[:shared] and restarts in {None, _restarts(new[shared:])}:
            return shared
    return None


def _restarts(events: tuple[AnyTaskEvent, ...]) -> int:
    return sum(type(event) is Restarting for event in events)


def _is_older_copy(old: tuple[AnyTaskEvent, ...], new: tuple[AnyTaskEvent, ...], dropped: int) -> bool:
    """Return whether the new ring is an earlier one: it ends inside the old one, or before it.

    A scheduler of Nomad 0.5.x writes back the copy of the task states that it had read (fixed in 0.6.0).
    """
    for shared in range(min(len(old), len(new)), 0, -1):
        before = len(new) - shared
        # A ring that is not full begins with the task's first event, so that the number of events before the old ring
        # is known.
        is_possible = before <= dropped if len(new) == EVENTS_PER_TASK else before == dropped
        if is_possible and new[before:] == old[:shared]:
            return True
    # Without an overlap, times decide, since events before the old ring are not kept.
    return not new or (bool(old) and dropped >= len(new) and max(e.time_ns for e in new) <= min(e.time_ns for e in old))


def is_whole(events: tuple[AnyTaskEvent, ...]) -> bool:
    """Return whether a first ring can hold all events of its task."""
    return not events or (len(events) < EVENTS_PER_TASK and type(events[0]) is Received)
