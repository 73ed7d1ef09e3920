"""``taskfold why``: the chain of causes that led a task to its end, in sentences."""

from __future__ import annotations

import click
import msgspec
from rich.text import Text

from taskfold.cli import _options as options
from taskfold.cli._completion import complete_allocation
from taskfold.cli._guard import NO, Notes, say, write_line
from taskfold.cli._progress import Progress
from taskfold.cli._reading import records_of_one
from taskfold.cli._screen import Column, Screen, Table
from taskfold.cli._words import instant_text, visible
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.nomad.causes import Explanation, explanation_of
from taskfold.sources.replay import At, Replay

__all__ = ["why"]

_COLUMNS = (
    Column("TIME (UTC)"),
    Column("INDEX", right=True),
    Column("TASK", least=8),
    Column("WHAT HAPPENED"),
)


@options.command()
@options.source_argument
@click.argument("alloc", metavar="ALLOC[/TASK]", shell_complete=complete_allocation)
@options.task_argument
@options.at_option
@options.format_option("table", "jsonl")
@options.skip_bad_option
def why(source: str, alloc: str, task: str | None, at: At | None, format: str, *, skip_bad: bool) -> int:
    """Show why a task is dead, or was started again: what led to it, in sentences, in order.

    ALLOC is the ID of an allocation, or a unique prefix of it; without a task, each of its tasks is explained.
    """
    prefix, slash, name = alloc.rpartition("/")
    if slash and task is None:
        alloc, task = prefix, name
    reading = Replay(source, at=at, on_note=Notes(), skip_bad=skip_bad)
    with Progress("reading", reading):
        records = records_of_one(reading, alloc)
    if not records:
        say(f"nothing matched: no allocation begins with {alloc!r}")
        return NO
    names = sorted({record.task for record in records if record.task})
    if not names or (task is not None and task not in names):
        wanting = f"task {task!r}" if task is not None else "task"
        say(f"nothing matched: allocation {records[0].alloc} has no {wanting}; it has {', '.join(names) or 'none'}")
        return NO
    dialect = reading.dialect or NEWEST_DIALECT
    explanations = [explanation_of(records, dialect, each) for each in (names if task is None else [task])]
    if format == "jsonl":
        for each in explanations:
            write_line(msgspec.json.encode(each))
        return 0
    screen = Screen()
    for place, each in enumerate(explanations):
        if place:
            screen.line("")
        _show(screen, each)
    return 0


def _show(screen: Screen, explanation: Explanation) -> None:
    """Write the chain of one task: the conclusion, and a row for each cause."""
    screen.line(Text(explanation.conclusion, style="bold"))
    rows = (
        (instant_text(cause.time_ns), str(cause.index), visible(cause.task) or "-", cause.text)
        for cause in explanation.causes
    )
    Table(screen, _COLUMNS, wraps=True).show(rows)
    for note in explanation.notes:
        screen.line(Text(f"note: {note}", style="dim"))
