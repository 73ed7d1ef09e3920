"""Detection of a source's dialect, and of names from a Nomad newer than any known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.events import UnknownEvent
from taskfold.nomad.fields import ALLOCATION_FIELDS
from taskfold.nomad.importing.observation import Observation, Statement
from taskfold.nomad.snapshot import AMBIGUOUS_DIALECT, dialect_of_body
from taskfold.nomad.task_states import TASK_FIELDS

__all__ = ["detect", "dialect_of_statement", "unknown_names"]

_LOOK_AHEAD: Final = 100
"""How many observations are read before the dialect must be decided."""


def detect(statements: Iterable[Statement]) -> tuple[str, Iterator[Statement]]:
    """Return the dialect of statements, and an iterator over all of them. Reads at most 100 ahead.

    The event stream exists since Nomad 1.0.0 only.
    """
    rest = iter(statements)
    first: list[Statement] = []
    for statement in rest:
        first.append(statement)
        name = dialect_of_statement(statement)
        if name is not None:
            return name, chain(first, rest)
        if len(first) == _LOOK_AHEAD:
            break
    # No task states anywhere.
    return AMBIGUOUS_DIALECT, chain(first, rest)


def dialect_of_statement(statement: Statement) -> str | None:
    """Return the dialect that a single statement shows; None if it could be 0.5.0 as well as 0.5.6."""
    if not isinstance(statement, Observation) or statement.kind == "stream":
        return NEWEST_DIALECT
    return dialect_of_body(statement.fields, statement.tasks)


def unknown_names(observation: Observation) -> Iterator[str]:
    """Yield the fields and event types of an observation that no dialect knows: a newer Nomad wrote them."""
    if not observation.fields.keys() <= ALLOCATION_FIELDS.keys():
        yield from sorted(observation.fields.keys() - ALLOCATION_FIELDS.keys())
    for task in (observation.tasks or {}).values():
        for name in task.fields:
            if name not in TASK_FIELDS:
                yield f"TaskStates.{name}"
        if UnknownEvent in map(type, task.events):
            yield from [f"event {event.wire_type!r}" for event in task.events if isinstance(event, UnknownEvent)]
