"""``taskfold history``: every event of an allocation or task, and what each changed."""

from __future__ import annotations

from typing import Any

import msgspec

from taskfold.cli import _options as options
from taskfold.cli._changes import Changes
from taskfold.cli._formats import write_rows
from taskfold.cli._guard import NO, Notes, say, write_line
from taskfold.cli._progress import Progress
from taskfold.cli._reading import records_of_one
from taskfold.cli._record_rows import RECORD_COLUMNS, has_type, record_row
from taskfold.cli._screen import Screen
from taskfold.cli._views import show_history
from taskfold.fold.allocation import Fold
from taskfold.log.ndjson.listing import listing_line
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.sources.replay import Replay

__all__ = ["history"]


@options.command()
@options.source_argument
@options.alloc_argument
@options.task_argument
@options.type_option
@options.format_option("table", "csv", "jsonl", "parquet")
@options.skip_bad_option
def history(
    source: str, alloc: str, task: str | None, types: frozenset[str] | None, format: Any, *, skip_bad: bool
) -> int:
    """Show every event of an allocation, or of one of its tasks, with the changes it made.

    ALLOC is the ID of an allocation, or a unique prefix of it. The formats for programs have the records alone, as
    those of `taskfold log` have.
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
    matches = [record for record in records if task in {None, record.task} and has_type(record, types)]
    if not matches:
        say("nothing matched: no record is of these types")
        return NO
    if format == "jsonl":
        write_line(listing_line(reading.dialect or NEWEST_DIALECT))
        for record in matches:
            write_line(msgspec.json.encode(record))
        return 0
    if format != "table":
        write_rows(RECORD_COLUMNS, (tuple(record_row(record)) for record in matches), format)
        return 0
    screen = Screen()
    fold = Fold(reading.dialect or NEWEST_DIALECT, on_illegal="keep")
    show_history(screen, records, Changes(fold, screen.arrow, task), task, types)
    return 0
