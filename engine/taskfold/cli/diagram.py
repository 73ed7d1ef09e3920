"""``taskfold diagram``: the lifecycle of a task, drawn, or the path that one task took."""

from __future__ import annotations

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import NO, Notes, Unanswerable, say
from taskfold.cli._progress import Progress
from taskfold.cli._reading import records_of_one
from taskfold.fold.diagram import diagram as draw
from taskfold.fold.diagram import path_of
from taskfold.model.dialect import DEFAULT_DIALECT, NEWEST_DIALECT
from taskfold.sources.replay import Replay

__all__ = ["diagram"]


@options.command()
@click.argument("source", metavar="[SOURCE]", required=False)
@options.dialect_option(f"The dialect of the lifecycle; default: {DEFAULT_DIALECT}.")
@click.option("--task", metavar="ALLOC/TASK", help="The path of this task in SOURCE, with how often it made each move.")
@options.format_option("mermaid", "dot", "table")
def diagram(source: str | None, dialect: str | None, task: str | None, format: str) -> int:
    """Draw the lifecycle of a task: its states, and the events that lead from one to another.

    With --task, draw only what one task of SOURCE did. ALLOC is the ID of an allocation, or a unique prefix of it.
    """
    if (source is None) != (task is None):
        raise Unanswerable("a path needs both: taskfold diagram --task ALLOC/TASK SOURCE")
    if source is None or task is None:
        click.echo(draw(dialect or DEFAULT_DIALECT, format), nl=False)
        return 0
    if dialect is not None:
        raise Unanswerable("--dialect is of the lifecycle alone: a path has the dialect of its source")
    prefix, slash, name = task.rpartition("/")
    if not slash:
        raise Unanswerable(f"{task!r} names no task: expected ALLOC/TASK, such as 023db46a/main")
    reading = Replay(source, on_note=Notes())
    with Progress("reading", reading):
        records = records_of_one(reading, prefix)
    names = sorted({record.task for record in records if record.task})
    if name not in names:
        has = f"allocation {records[0].alloc} has {', '.join(names) or 'no task'}" if records else "no such allocation"
        say(f"nothing matched: no task {task!r}: {has}")
        return NO
    of_dialect = reading.dialect or NEWEST_DIALECT
    path = path_of((record for record in records if record.task == name), of_dialect)
    click.echo(draw(of_dialect, format, path=path), nl=False)
    return 0
