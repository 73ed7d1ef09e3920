"""Which dialect a source speaks, and whether a newer Nomad than we know wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from msgspec import UNSET

from taskfold.codecs.allocation import ALLOCATION_FIELDS, allocation_fields
from taskfold.dialect import DIALECTS, NEWEST_DIALECT
from taskfold.events import UnknownEvent
from taskfold.nomad.observation import Observation

__all__ = ["detect", "unknown_names"]

_LOOK_AHEAD: Final = 100
"""How many observations are looked at before the dialect must be decided."""

_OLD_FIELDS: Final = frozenset(allocation_fields(DIALECTS["0.5.6"]))


def detect(observations: Iterable[Observation]) -> tuple[str, Iterator[Observation]]:
    """Return the dialect that the observations speak, and all of them again. It looks at 100 of them at most.

    Fields that 0.5.6 does not have tell the newest dialect; task states with times tell 0.5.6, without them 0.5.0.
    """
    rest = iter(observations)
    seen: list[Observation] = []
    for observation in rest:
        seen.append(observation)
        name = _told(observation)
        if name is not None:
            return name, chain(seen, rest)
        if len(seen) == _LOOK_AHEAD:
            break
    # No task states anywhere: 0.5.6 reads 0.5.0 as well.
    return "0.5.6", chain(seen, rest)


def _told(observation: Observation) -> str | None:
    """Return the dialect that one observation tells by itself."""
    if observation.kind == "stream" or (observation.fields.keys() & ALLOCATION_FIELDS.keys()) - _OLD_FIELDS:
        return NEWEST_DIALECT
    for task in (observation.tasks or {}).values():
        if task.restarts is not UNSET:
            return NEWEST_DIALECT
        return "0.5.0" if task.started_at_ns is UNSET else "0.5.6"
    return None


def unknown_names(observation: Observation) -> Iterator[str]:
    """Yield the fields and event types of an observation that no dialect knows: a newer Nomad wrote them."""
    yield from sorted(observation.fields.keys() - ALLOCATION_FIELDS.keys())
    for task in (observation.tasks or {}).values():
        for name in task.fields:
            if name != "TaskHandle":
                yield f"TaskStates.{name}"
        for event in task.events:
            if isinstance(event, UnknownEvent):
                yield f"event {event.wire_type!r}"
