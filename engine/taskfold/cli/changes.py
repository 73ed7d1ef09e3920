"""What each record of an allocation changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from rich.text import Text

from taskfold.allocation import Fold, client_status
from taskfold.cli.styles import FAILED_STYLE, STATE_STYLES, STATUS_STYLES
from taskfold.cli.wording import count_text, instant_text, scalar_text, visible
from taskfold.codecs.allocation import Snapshot, current_fields
from taskfold.record import Finished, Gap, Observed, Record, Updated
from taskfold.task import Task, TaskState

__all__ = ["Changes"]

_LONGEST_VALUE: Final = 32
_DATE_LENGTH: Final = len("2026-11-23 ")
_BORING: Final = frozenset(("ModifyTime", "AllocModifyIndex", "ModifyIndex"))
"""Fields that change with every write."""
_TIMES: Final = {"started_at_ns": "started", "finished_at_ns": "finished", "last_restart_ns": "last restart"}
_TELLS_TIMES: Final = (Finished, Observed, Gap)
"""Events that set times by themselves; elsewhere the times follow from what is shown anyway."""


class _Part(NamedTuple):
    text: str
    style: str = ""


class Changes:
    """Folds the records of one allocation, one after the other, and tells what each changed."""

    def __init__(self, fold: Fold, arrow: str) -> None:
        self._fold = fold
        self._arrow = arrow
        self._status: str | None = None
        self._id = ""

    def apply(self, record: Record) -> Text:
        """Fold the next record, and return what it changed. O(1), or O(fields) for an `Updated` allocation."""
        self._id = record.alloc
        if not record.task:
            return _text(self._of_allocation(record))
        allocation = self._fold.allocations.get(record.alloc)
        task = None if allocation is None else allocation.tasks.get(record.task)
        before = TaskState() if task is None else task.freeze()
        after = self._fold.apply(record).tasks[record.task].freeze()
        return _text([*self._of_task(before, after, record), *self._of_status()])

    def irregular(self, task: str | None) -> int:
        """Return how many events the lifecycle table refused, of one task or of all."""
        return sum(found.irregular for found in self._tasks(task))

    def now(self, task: str | None) -> str:
        """Say what the task, or the allocation, is after the records so far."""
        if task is None:
            snapshot = Snapshot.of(self._fold[self._id], self._fold.dialect)
            return f"{visible(snapshot.client_status or '-')}, job {visible(snapshot.job_id or '-')}"
        return ", ".join(
            f"{found.state}{', failed' if found.failed else ''}, {count_text(found.restarts, 'restart')}"
            for found in self._tasks(task)
        )

    def _tasks(self, name: str | None) -> list[Task]:
        tasks = self._fold.owned(self._id).tasks
        return list(tasks.values()) if name is None else [tasks[name]]

    def _of_task(self, before: TaskState, after: TaskState, record: Record) -> Iterator[_Part]:
        if after.state != before.state:
            yield _Part(f"{before.state} {self._arrow} {after.state}", STATE_STYLES.get(after.state, ""))
        if after.failed != before.failed:
            yield _Part("failed", FAILED_STYLE) if after.failed else _Part("no longer failed")
        if after.restarts != before.restarts:
            yield _Part(f"restarts {after.restarts}")
        if isinstance(record.event, _TELLS_TIMES):
            yield from _of_times(before, after)
        if after.hidden != before.hidden:
            yield _Part("hidden" if after.hidden else "shown again")
        if after.irregular > before.irregular:
            yield _Part(f"irregular: not legal when {before.state}", "magenta")
        changed = {
            name
            for name in after.fields.keys() | before.fields.keys()
            if after.fields.get(name) != before.fields.get(name)
        }
        yield from (_Part(visible(name)) for name in sorted(changed))

    def _of_status(self) -> Iterator[_Part]:
        """Tell when the status of the allocation follows the task to another one."""
        status = client_status(t for t in self._fold.owned(self._id).tasks.values() if not t.hidden)
        if status is not None and status != self._status:
            self._status = status
            yield _Part(f"allocation {status}", STATUS_STYLES.get(status, ""))

    def _of_allocation(self, record: Record) -> Iterator[_Part]:
        allocation = self._fold.allocations.get(record.alloc)
        before = {} if allocation is None else current_fields(allocation.placed, allocation.updates)
        allocation = self._fold.apply(record)
        if not isinstance(record.event, Updated):
            return
        after = current_fields(allocation.placed, allocation.updates)
        for name in sorted({*record.event.fields, *record.event.cleared} - _BORING):
            yield _Part(visible(name) + self._of_value(before.get(name), after.get(name)))

    def _of_value(self, before: bytes | None, after: bytes | None) -> str:
        """Return what a field was and is, where both are short."""
        if any(text is not None and (text[:1] in b"{[" or len(text) > _LONGEST_VALUE) for text in (before, after)):
            return ""
        return f" {scalar_text(before)} {self._arrow} {scalar_text(after)}"


def _of_times(before: TaskState, after: TaskState) -> Iterator[_Part]:
    """Tell which times moved, and to what time of the day."""
    for name, word in _TIMES.items():
        time_ns = getattr(after, name)
        if time_ns != getattr(before, name):
            yield _Part(f"{word} {instant_text(time_ns)[_DATE_LENGTH:] if time_ns else 'never'}")


def _text(parts: Iterator[_Part] | list[_Part]) -> Text:
    text = Text()
    for part in parts:
        text.append(", " if text else "").append(part.text, style=part.style)
    return text
