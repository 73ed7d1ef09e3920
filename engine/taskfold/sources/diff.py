"""The differences between two points of a log, or of any other source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from taskfold.fold.allocation import AllocationState, Fold
from taskfold.fold.task import TaskState
from taskfold.log.registry import LogLike
from taskfold.model.events import wire_name
from taskfold.model.go.timestamps import time_text
from taskfold.nomad.fields import shown_fields
from taskfold.nomad.record_texts import ALWAYS_DIFFERENT
from taskfold.nomad.task_states import TASK_FIELDS
from taskfold.sources.replay import At, Replay

__all__ = ["Difference", "diff", "differences"]

_TIMES: Final = ("started_at_ns", "finished_at_ns", "last_restart_ns")
_FACTS: Final = ("state", "failed", "restarts", "events_total", *_TIMES)
_RARE_FACTS: Final = {"hidden": False, "irregular": 0}
"""Facts that few tasks have, with their values for all others, and for a task that did not exist."""
_TOLD_BY_FACTS: Final = TASK_FIELDS - {"TaskHandle"}
"""Fields of the wire that facts tell: another spelling of the same instant is no difference."""


class Difference(Struct, frozen=True, kw_only=True, rename=wire_name):
    """One value that differs between the two points."""

    alloc: str
    task: str = ""
    """The task; empty for the allocation itself."""
    field: str
    """Nomad's name of a top-level field; for a task State, Failed, Restarts, EventsTotal, a time, Hidden (from its
    allocation's task states), Irregular (events that the lifecycle table refused), or another field of the wire."""
    before: Any = None
    """The value at the first point, as JSON values; None if there was none."""
    after: Any = None


def diff(
    source: LogLike,
    first: At | int | str,
    last: At | int | str | None = None,
    *,
    dialect: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    skip_bad: bool = False,
) -> Iterator[Difference]:
    """Return the differences between the points ``first`` and ``last`` (default: the end), sorted by allocation.

    A point is an index, a time, or an `At`. O(records), twice; memory for two states. Raises what `taskfold.replay`
    raises.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> log = folder.name + "/log.jsonl"
    >>> from taskfold import Engine
    >>> from taskfold.events import Received, Started
    >>> with Engine.open(log, dialect="1.1.2") as engine:
    ...     engine.place({"ID": "a"})
    ...     for event in (Received(), Started()):
    ...         _ = engine.record("a", "web", event)
    >>> [(one.task, one.field, one.before, one.after) for one in diff(log, 2, 3) if one.task][:2]
    [('web', 'State', 'pending', 'running'), ('web', 'EventsTotal', 1, 2)]
    >>> folder.cleanup()
    """
    return _differences(
        *(Replay(source, at=at, dialect=dialect, on_note=on_note, skip_bad=skip_bad) for at in (first, last))
    )


def _differences(first: Replay, last: Replay) -> Iterator[Difference]:
    """Yield the differences between the final states of two replays."""
    before, after = first.fold(), last.fold()
    for alloc in sorted({*before, *after}):
        yield from differences(alloc, _state_of(before, alloc), _state_of(after, alloc), after)


def _state_of(fold: Fold, alloc: str) -> AllocationState | None:
    allocation = fold.allocations.get(alloc)
    return None if allocation is None else allocation.freeze()


def differences(
    alloc: str, before: AllocationState | None, after: AllocationState | None, fold: Fold
) -> Iterator[Difference]:
    """Yield the differences between two states of an allocation; None means that it did not exist."""
    one, other = _fields(before, fold), _fields(after, fold)
    for name in sorted({*one, *other} - ALWAYS_DIFFERENT):
        if one.get(name) != other.get(name):
            yield Difference(alloc=alloc, field=name, before=_value(one.get(name)), after=_value(other.get(name)))
    tasks, later = (before.tasks if before else {}), (after.tasks if after else {})
    for task in sorted({*tasks, *later}):
        yield from _of_task(alloc, task, tasks.get(task), later.get(task))


def _fields(state: AllocationState | None, fold: Fold) -> dict[str, bytes]:
    """Return the top-level fields of an allocation, including those that follow from its tasks."""
    return {} if state is None else shown_fields(state, fold.dialect)


def _value(text: bytes | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


def _of_task(alloc: str, task: str, before: TaskState | None, after: TaskState | None) -> Iterator[Difference]:
    for name in _FACTS:
        one, other = (None if state is None else getattr(state, name) for state in (before, after))
        if one != other:
            if name in _TIMES:
                one, other = (None if time_ns is None else time_text(time_ns) for time_ns in (one, other))
            yield Difference(alloc=alloc, task=task, field=wire_name(name), before=one, after=other)
    for name, default in _RARE_FACTS.items():
        one, other = (default if state is None else getattr(state, name) for state in (before, after))
        if one != other:
            yield Difference(alloc=alloc, task=task, field=wire_name(name), before=one, after=other)
    earlier, later = ({} if state is None else state.fields for state in (before, after))
    for name in sorted({*earlier, *later} - _TOLD_BY_FACTS):
        if earlier.get(name) != later.get(name):
            one, other = _value(earlier.get(name)), _value(later.get(name))
            yield Difference(alloc=alloc, task=task, field=name, before=one, after=other)
