"""``taskfold diff``: the differences between two points of a source."""

from __future__ import annotations

from typing import Any, Final

import click
import msgspec

from taskfold.cli import _options as options
from taskfold.cli._guard import NO, Notes, Unanswerable, say, write_line
from taskfold.cli._progress import Progress
from taskfold.cli._screen import Column, Screen, Table
from taskfold.cli._words import count_text, short_ids, visible
from taskfold.sources.diff import Difference
from taskfold.sources.diff import diff as difference_between
from taskfold.sources.replay import At

__all__ = ["diff"]

_LONGEST: Final = 60
"""Longer values are replaced by an ellipsis."""


@options.command()
@options.source_argument
@click.option("--from", "first", type=options.POINT, required=True, help="The first point: an index or a time.")
@click.option("--to", "last", type=options.POINT, help="The last point; default: the end.")
@options.alloc_option
@options.task_option
@options.skip_bad_option
@options.format_option("table", "jsonl")
def diff(
    source: str, first: At, last: At | None, alloc: str | None, task: str | None, format: str, *, skip_bad: bool
) -> int:
    """Show the differences between two points of a log, or of any other source.

    Fields that change with every write are left out. jsonl prints one difference a line, with its values.
    """
    with Progress("reading"):
        differences = [
            each
            for each in difference_between(source, first, last, on_note=Notes(), skip_bad=skip_bad)
            if each.alloc.startswith(alloc or "") and task in {None, each.task}
        ]
    allocations = sorted({each.alloc for each in differences})
    if alloc is not None and len(allocations) > 1 and alloc not in allocations:
        raise Unanswerable(f"{len(allocations)} allocations begin with {alloc!r}: {', '.join(allocations[:3])}")
    if not differences:
        say("nothing is different")
        return NO
    if format == "jsonl":
        for each in differences:
            write_line(msgspec.json.encode(each))
        return 0
    _show(differences)
    return 0


def _show(differences: list[Difference]) -> None:
    screen = Screen()
    short = short_ids({each.alloc for each in differences})
    columns = (Column("ALLOC"), Column("TASK", least=8), Column("FIELD"), Column("CHANGED"))
    Table(screen, columns).show(
        (
            short[each.alloc],
            visible(each.task or "-"),
            visible(each.field),
            visible(f"{_text(each.before)} {screen.arrow} {_text(each.after)}"),
        )
        for each in differences
    )
    allocations = count_text(len({each.alloc for each in differences}), "allocation")
    screen.caption(f"{count_text(len(differences), 'difference')} in {allocations}")


def _text(value: Any) -> str:
    """Return a value in a few words."""
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else "…"
