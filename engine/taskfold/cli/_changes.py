"""The changes that each record of an allocation makes, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec
from rich.text import Text

from taskfold.cli._reading import naming
from taskfold.cli._screen import FAILED_STYLE, STATE_STYLES, STATUS_STYLES
from taskfold.cli._words import count_text, instant_text, visible
from taskfold.fold.allocation import AllocationState, Fold, client_status
from taskfold.fold.lifecycle import PENDING
from taskfold.fold.task import Task
from taskfold.model.go.timestamps import parse_time_ns
from taskfold.model.record import Finished, Observed, Record, Updated
from taskfold.nomad.record_texts import scalar_text
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.diff import Difference, differences

__all__ = ["Changes"]

_LONGEST_VALUE: Final = 32
_DATE_LENGTH: Final = len("2026-11-23 ")
_TIMES: Final = {"StartedAt": "started", "FinishedAt": "finished", "LastRestart": "last restart"}


class _Part(NamedTuple):
    text: str
    style: str = ""


class Changes:
    """A fold of the records of one allocation that describes each change."""

    def __init__(self, fold: Fold, arrow: str, task: str | None = None) -> None:
        """Take an empty fold, and the only task to describe, if any."""
        self._fold = fold
        self._arrow = arrow
        self._task = task
        self._status: str | None = None
        self._id = ""

    def apply(self, record: Record) -> Text:
        """Fold the next record, and describe its changes. O(fields of the allocation)."""
        self._id = record.alloc
        allocation = self._fold.allocations.get(record.alloc)
        before = None if allocation is None else allocation.freeze()
        after = self._fold.apply(record).freeze()
        changes = differences(record.alloc, before, after, self._fold)
        if record.task:
            own = [change for change in changes if change.task == record.task]
            return _text([*self._of_task(before, own, record), *self._of_status()])
        is_update = isinstance(record.event, Updated)
        return _text([self._of_field(change) for change in changes if is_update and not change.task])

    @property
    def irregular(self) -> int:
        """How many events the lifecycle table refused."""
        return sum(task.seldom.irregular for task in self._tasks())

    def title(self) -> str:
        """Return the title of the allocation or task."""
        snapshot = self._snapshot()
        with naming(self._id):
            parts = (("job", snapshot.job_id), ("group", snapshot.task_group), ("task", self._task))
        return ", ".join(
            [f"allocation {visible(self._id)}", *(f"{word} {visible(name)}" for word, name in parts if name)]
        )

    def now(self) -> str:
        """Describe the state of the allocation or task after the records so far."""
        if self._task is None:
            with naming(self._id):
                return visible(self._snapshot().client_status or "-")
        return ", ".join(
            f"{task.state}{', failed' if task.failed else ''}, {count_text(task.restarts, 'restart')}"
            for task in self._tasks()
        )

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self._fold[self._id], self._fold.dialect)

    def _tasks(self) -> list[Task]:
        tasks = self._fold.owned(self._id).tasks
        return list(tasks.values()) if self._task is None else [tasks[self._task]]

    def _of_task(
        self, before: AllocationState | None, changes: Iterable[Difference], record: Record
    ) -> Iterator[_Part]:
        """Yield the changes of the task of a record; a new task is pending, without restarts."""
        task = None if before is None else before.tasks.get(record.task)
        state = PENDING if task is None else task.state
        event = record.event
        tells_times = isinstance(event, Observed) or (isinstance(event, Finished) and not event.dies)
        for change in changes:
            if change.field == "State":
                if change.after != state:
                    yield _Part(f"{state} {self._arrow} {change.after}", STATE_STYLES.get(change.after, ""))
            elif change.field == "Irregular":
                yield _Part(f"irregular: not legal when {state}", "magenta")
            elif change.field in _TIMES:
                if tells_times:
                    yield _Part(f"{_TIMES[change.field]} {_time_of_day(change.after)}")
            elif change.field != "EventsTotal" and (change.after or change.before):
                yield _FACTS.get(change.field, _of_other)(change)

    def _of_status(self) -> Iterator[_Part]:
        """Yield the status of the allocation, if the record changed it."""
        if self._task is not None:
            return
        status = client_status(t for t in self._fold.owned(self._id).tasks.values() if not t.seldom.hidden)
        if status is not None and status != self._status:
            self._status = status
            yield _Part(f"allocation {status}", STATUS_STYLES.get(status, ""))

    def _of_field(self, change: Difference) -> _Part:
        """Return the name of a top-level field, with its old and new value if both are short."""
        texts = [None if value is None else msgspec.json.encode(value) for value in (change.before, change.after)]
        if any(text is not None and (text[:1] in b"{[" or len(text) > _LONGEST_VALUE) for text in texts):
            return _Part(visible(change.field))
        before, after = map(scalar_text, texts)
        return _Part(f"{visible(change.field)} {before} {self._arrow} {after}")


def _of_other(change: Difference) -> _Part:
    return _Part(visible(change.field))


_FACTS: Final[Mapping[str, Callable[[Difference], _Part]]] = {
    "Failed": lambda change: _Part("failed", FAILED_STYLE) if change.after else _Part("no longer failed"),
    "Restarts": lambda change: _Part(f"restarts {change.after}"),
    "Hidden": lambda change: _Part("hidden" if change.after else "shown again"),
}


def _time_of_day(text: str | None) -> str:
    """Return the time of day of an instant; "never" if there is none."""
    return "never" if text is None else instant_text(parse_time_ns(text))[_DATE_LENGTH:]


def _text(parts: Iterator[_Part] | list[_Part]) -> Text:
    text = Text()
    for part in parts:
        text.append(", " if text else "").append(part.text, style=part.style)
    return text
