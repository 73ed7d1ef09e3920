"""The changes that each record of an allocation makes, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from rich.text import Text

from taskfold.cli._reading import naming
from taskfold.cli._record_words import scalar_text, significant_fields
from taskfold.cli._screen import FAILED_STYLE, STATE_STYLES, STATUS_STYLES
from taskfold.cli._words import count_text, instant_text, visible
from taskfold.fold.allocation import Fold, client_status
from taskfold.fold.task import Task, TaskState
from taskfold.model.record import Finished, Observed, Record, Updated
from taskfold.nomad.fields import shown_fields
from taskfold.nomad.snapshot import Snapshot
from taskfold.nomad.task_states import TASK_FIELDS

__all__ = ["Changes"]

_LONGEST_VALUE: Final = 32
_DATE_LENGTH: Final = len("2026-11-23 ")
_TIMES: Final = {"started_at_ns": "started", "finished_at_ns": "finished", "last_restart_ns": "last restart"}


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
        """Fold the next record, and describe its changes. O(1), or O(fields) for an `Updated` allocation."""
        self._id = record.alloc
        if not record.task:
            return _text(self._of_allocation(record))
        allocation = self._fold.allocations.get(record.alloc)
        task = None if allocation is None else allocation.tasks.get(record.task)
        before = TaskState() if task is None else task.freeze()
        after = self._fold.apply(record).tasks[record.task].freeze()
        return _text([*self._of_task(before, after, record), *self._of_status()])

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

    def _of_task(self, before: TaskState, after: TaskState, record: Record) -> Iterator[_Part]:
        if after.state != before.state:
            yield _Part(f"{before.state} {self._arrow} {after.state}", STATE_STYLES.get(after.state, ""))
        if after.failed != before.failed:
            yield _Part("failed", FAILED_STYLE) if after.failed else _Part("no longer failed")
        if after.restarts != before.restarts:
            yield _Part(f"restarts {after.restarts}")
        if isinstance(record.event, Observed) or (isinstance(record.event, Finished) and not record.event.dies):
            yield from _of_times(before, after)
        if after.hidden != before.hidden:
            yield _Part("hidden" if after.hidden else "shown again")
        if after.irregular > before.irregular:
            yield _Part(f"irregular: not legal when {before.state}", "magenta")
        changed = {
            name
            for name in after.fields.keys() | before.fields.keys()
            # A new spelling of an instant is no change.
            if name not in TASK_FIELDS - {"TaskHandle"} and after.fields.get(name) != before.fields.get(name)
        }
        yield from (_Part(visible(name)) for name in sorted(changed))

    def _of_status(self) -> Iterator[_Part]:
        """Yield the status of the allocation, if the record changed it."""
        if self._task is not None:
            return
        status = client_status(t for t in self._fold.owned(self._id).tasks.values() if not t.seldom.hidden)
        if status is not None and status != self._status:
            self._status = status
            yield _Part(f"allocation {status}", STATUS_STYLES.get(status, ""))

    def _of_allocation(self, record: Record) -> Iterator[_Part]:
        allocation = self._fold.allocations.get(record.alloc)
        before = {} if allocation is None else shown_fields(allocation, self._fold.dialect)
        allocation = self._fold.apply(record)
        if not isinstance(record.event, Updated):
            return
        after = shown_fields(allocation, self._fold.dialect)
        for name in significant_fields(record.event):
            yield _Part(visible(name) + self._of_value(before.get(name), after.get(name)))

    def _of_value(self, before: bytes | None, after: bytes | None) -> str:
        """Return the old and the new value of a field, if both are short."""
        if any(text is not None and (text[:1] in b"{[" or len(text) > _LONGEST_VALUE) for text in (before, after)):
            return ""
        return f" {scalar_text(before)} {self._arrow} {scalar_text(after)}"


def _of_times(before: TaskState, after: TaskState) -> Iterator[_Part]:
    """Yield the changed times, with their time of day."""
    for name, word in _TIMES.items():
        time_ns = getattr(after, name)
        if time_ns != getattr(before, name):
            yield _Part(f"{word} {instant_text(time_ns)[_DATE_LENGTH:] if time_ns else 'never'}")


def _text(parts: Iterator[_Part] | list[_Part]) -> Text:
    text = Text()
    for part in parts:
        text.append(", " if text else "").append(part.text, style=part.style)
    return text
