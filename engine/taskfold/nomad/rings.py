"""What is new in a ring of events: the newest 10 of a task, seen again later.

Nomad sends the ring, not the events. Which of them are new follows from comparing both rings by position, as parsed
events: equal events do occur, times are not in order, and the text of an event differs from one answer to the next.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from taskfold.dialect import EVENTS_PER_TASK
from taskfold.events import Received, Restarting, TaskEvent

__all__ = ["Growth", "compare"]


class Growth(NamedTuple):
    """How a ring grew."""

    kind: Literal["grown", "rolled back", "anew", "gap"]
    new: tuple[TaskEvent, ...]
    """The events that were not known before; for ``rolled back``, the older ones that are shown again."""


def compare(old: tuple[TaskEvent, ...], new: tuple[TaskEvent, ...], restarts: int | None, dropped: int = 0) -> Growth:
    """Return how the ring that was known grew into the one that is seen now. O(events²), of which there are ten.

    ``restarts`` is by how much the task's Restarts grew, and None where the dialect does not tell it; ``dropped``
    is how many events came before the ring that was known.

    >>> from taskfold.events import Started, Terminated
    >>> known = (Started(time_ns=1),)
    >>> compare(known, (*known, Terminated(time_ns=2)), None).new == (Terminated(time_ns=2),)
    True
    """
    known = len(old) if new == old and not restarts else _known(old, new, restarts)
    if known is not None:
        return Growth("grown", new[known:])
    if new == old:
        # No number of new events explains what Restarts tells, and none is seen.
        return Growth("grown", ())
    if _is_older_copy(old, new, dropped):
        return Growth("rolled back", new)
    is_anew = len(new) < EVENTS_PER_TASK and type(new[0]) is Received
    return Growth("anew" if is_anew else "gap", new)


def _known(old: tuple[TaskEvent, ...], new: tuple[TaskEvent, ...], restarts: int | None) -> int | None:
    """Return how many of the events that are seen were known, at most; None when no number of them fits."""
    is_full = len(new) == EVENTS_PER_TASK
    for known in range(min(len(old), len(new)), -1, -1):
        # A ring that is not full has dropped nothing, so that all that was known must be there.
        is_possible = known > 0 if is_full else known == len(old)
        if is_possible and old[len(old) - known :] == new[:known] and restarts in {None, _restarts(new[known:])}:
            return known
    return None


def _restarts(events: tuple[TaskEvent, ...]) -> int:
    return sum(type(event) is Restarting for event in events)


def _is_older_copy(old: tuple[TaskEvent, ...], new: tuple[TaskEvent, ...], dropped: int) -> bool:
    """Tell whether the new ring is one that was shown before: it ends inside the old one, or before that begins.

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
    """Tell whether a ring that is seen for the first time can hold all events of its task."""
    return not events or (len(events) < EVENTS_PER_TASK and type(events[0]) is Received)
