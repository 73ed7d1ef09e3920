"""``taskfold diff``: what is different between two points of a source."""

from __future__ import annotations

import sys
from typing import Any, Final

import click
import msgspec

from taskfold.cli import options
from taskfold.cli.guard import NO, Unanswerable, say
from taskfold.cli.progress import Progress
from taskfold.sources.diff import Difference
from taskfold.sources.diff import diff as differences
from taskfold.sources.replay import At

__all__ = ["diff"]

_LONGEST: Final = 60
"""A value that is longer is told to be different, and not shown."""


@click.command()
@options.source_argument
@click.option("--from", "first", type=options.POINT, required=True, help="The first point: an index or a time.")
@click.option("--to", "last", type=options.POINT, help="The last point; the end unless told.")
@options.alloc_option
@options.task_option
@options.format_option("table", "jsonl")
def diff(source: str, first: At, last: At | None, alloc: str | None, task: str | None, format: str) -> int:
    """Show what is different between two points of a log, or of any other source.

    Times that change with every write are left out. jsonl prints one difference a line, with its values.
    """
    with Progress("reading"):
        found = [
            each
            for each in differences(source, first, last)
            if each.alloc.startswith(alloc or "") and task in {None, each.task}
        ]
    named = sorted({each.alloc for each in found})
    if alloc is not None and len(named) > 1 and alloc not in named:
        raise Unanswerable(f"{len(named)} allocations begin with {alloc!r}: {', '.join(named[:3])}")
    if not found:
        say("nothing is different")
        return NO
    if format == "jsonl":
        for each in found:
            sys.stdout.buffer.write(msgspec.json.encode(each) + b"\n")
        return 0
    _show(found)
    return 0


def _show(found: list[Difference]) -> None:
    from taskfold.cli.screen import Column, Screen, Table
    from taskfold.cli.wording import count_text, short_ids, visible

    screen = Screen()
    shown = short_ids({each.alloc for each in found})
    columns = (Column("ALLOC"), Column("TASK", least=8), Column("FIELD"), Column("CHANGED"))
    Table(screen, columns).show(
        (
            shown[each.alloc],
            visible(each.task or "-"),
            visible(each.field),
            visible(f"{_text(each.before)} {screen.arrow} {_text(each.after)}"),
        )
        for each in found
    )
    allocations = count_text(len({each.alloc for each in found}), "allocation")
    screen.caption(f"{count_text(len(found), 'difference')} in {allocations}")


def _text(value: Any) -> str:
    """Return a value in a few words."""
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else "…"
