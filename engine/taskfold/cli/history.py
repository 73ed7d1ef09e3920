"""``taskfold history``: every event of an allocation or task, and what each changed."""

from __future__ import annotations

from taskfold.cli import _options as options
from taskfold.cli._changes import Changes
from taskfold.cli._guard import NO, Notes, say
from taskfold.cli._progress import Progress
from taskfold.cli._reading import records_of_one
from taskfold.cli._screen import Screen
from taskfold.cli._views import show_history
from taskfold.fold.allocation import Fold
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.sources.replay import Replay

__all__ = ["history"]


@options.command()
@options.source_argument
@options.alloc_argument
@options.task_argument
@options.skip_bad_option
def history(source: str, alloc: str, task: str | None, *, skip_bad: bool) -> int:
    """Show every event of an allocation, or of one of its tasks, with the changes it made.

    ALLOC is the ID of an allocation, or a unique prefix of it.
    """
    reading = Replay(source, on_note=Notes(), skip_bad=skip_bad)
    with Progress("reading", reading):
        records = records_of_one(reading, alloc)
    if not records:
        say(f"nothing matched: no allocation begins with {alloc!r}")
        return NO
    names = sorted({record.task for record in records if record.task})
    if task is not None and task not in names:
        say(f"nothing matched: allocation {records[0].alloc} has no task {task!r}; it has {', '.join(names) or 'none'}")
        return NO
    screen = Screen()
    fold = Fold(reading.dialect or NEWEST_DIALECT, on_illegal="keep")
    show_history(screen, records, Changes(fold, screen.arrow, task), task)
    return 0
