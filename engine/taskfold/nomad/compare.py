"""Whether the folded state is what was observed: at one index of one allocation, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from msgspec import UNSET

from taskfold.fold.allocation import Allocation
from taskfold.fold.task import Task
from taskfold.model.dialect import Dialect
from taskfold.nomad.fields import (
    STUB_ONLY,
    is_empty,
    is_untold,
    job_in_stub,
    same_json,
    shown_fields,
)
from taskfold.nomad.observation import UNTOLD, Observation
from taskfold.nomad.rings import same_events
from taskfold.nomad.task_states import ToldTask

__all__ = ["Difference", "divergences"]


class Difference(NamedTuple):
    """A place where the folded state is not what was observed."""

    path: str
    """The JSON path inside the allocation."""
    expected: Any
    """What was observed."""
    found: Any
    """What the records fold to."""


def divergences(known: Allocation, observation: Observation, dialect: Dialect) -> Iterator[Difference]:
    """Yield each place where the folded state differs from an observation; what is not told is not compared.

    O(length of the observation), without a copy of the state.
    """
    if known.modify_index != observation.index:
        yield Difference("$.ModifyIndex", observation.index, known.modify_index)
    yield from _fields(known, observation, dialect)
    if observation.tasks is not None:
        yield from _tasks(known.tasks, observation.tasks)


def _fields(known: Allocation, observation: Observation, dialect: Dialect) -> Iterator[Difference]:
    found = shown_fields(known, dialect)
    if not STUB_ONLY.isdisjoint(observation.fields):
        found = job_in_stub(found) | found
    if "ModifyIndex" in observation.fields:
        found["ModifyIndex"] = observation.fields["ModifyIndex"]
    for name, text in observation.fields.items():
        had = found.get(name)
        if had is None:
            if not is_untold(name, text, dialect):
                yield Difference(f"$.{name}", text.decode(), None)
        elif not (same_json(text, had) or (is_untold(name, text, dialect) and is_untold(name, had, dialect))):
            yield Difference(f"$.{name}", text.decode(), had.decode())
    if dialect.omits_empty and observation.kind != "stub":
        for name, had in found.items():
            if name not in observation.fields and name not in UNTOLD and not is_empty(name, had):
                yield Difference(f"$.{name}", None, had.decode())


_TOLD: Final = ("state", "failed", "restarts", "last_restart_ns", "started_at_ns", "finished_at_ns")


def _tasks(known: Mapping[str, Task], told: Mapping[str, ToldTask]) -> Iterator[Difference]:
    for name, task in known.items():
        if name not in told and not task.seldom.hidden:
            yield Difference(f"$.TaskStates.{name}", None, task.state)
    for name, expected in told.items():
        path = f"$.TaskStates.{name}"
        found = known.get(name)
        if found is None or found.seldom.hidden:
            yield Difference(path, expected.state, None)
            continue
        for attribute in _TOLD:
            value, had = getattr(expected, attribute), getattr(found, attribute)
            if value is not UNSET and value != had:
                yield Difference(f"{path}.{attribute}", value, had)
        events = found.events() if found.seldom.shown is None else found.seldom.shown
        if not same_events(events, expected.events):
            yield Difference(f"{path}.events", expected.events, events)
        fields = found.seldom.fields
        for key in fields.keys() | expected.fields.keys():
            one, other = expected.fields.get(key), fields.get(key)
            if one is None or other is None or not same_json(one, other):
                yield Difference(f"{path}.{key}", one, other)
