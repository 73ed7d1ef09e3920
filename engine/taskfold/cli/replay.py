"""``taskfold replay``: the state of every allocation, at any index or time."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from taskfold.cli import _options as options
from taskfold.cli._guard import Notes, no_match, say, write_line
from taskfold.cli._progress import Progress
from taskfold.cli._reading import Selection, fold_of, matching_ids
from taskfold.cli._screen import Screen
from taskfold.cli._views import show_replay
from taskfold.cli._words import count_text
from taskfold.fold.allocation import Fold
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.replay import At, Replay

__all__ = ["replay"]

_PRETTY_INDENT: Final = 4


@options.command()
@options.sources_argument
@options.at_option
@options.alloc_option
@options.task_option
@options.job_option
@options.node_option
@options.status_option
@options.since_option
@options.until_option
@options.format_option("table", "json", "jsonl")
@options.skip_bad_option
@options.dialect_option("Write the JSON of this dialect; default: the source's.")
def replay(
    sources: tuple[str, ...], at: At | None, format: str, dialect: str | None, *, skip_bad: bool, **filters: Any
) -> int:
    """Show the state of every allocation, as it was at any index or time.

    The JSON formats print Nomad's own JSON of each allocation, sorted by ID.
    """
    selection = Selection(**filters)
    reading = Replay(*sources, at=at, on_note=Notes(), skip_bad=skip_bad)
    with Progress("reading", reading):
        folded = fold_of(reading, with_deaths=format == "table")
        ids = matching_ids(folded.fold, selection)
    if format == "table" and ids:
        show_replay(Screen(), folded, ids, reading.at, selection.task)
    elif format != "table":
        _write_allocations(folded.fold, ids, dialect, is_array=format == "json")
    return 0 if ids else no_match(len(folded.fold), "allocation")


def _write_allocations(fold: Fold, ids: list[str], dialect: str | None, *, is_array: bool) -> None:
    """Write each allocation's own JSON, and note what the dialect cannot express."""
    target = dialect or fold.dialect.name
    lost: list[str] = []
    bodies: list[bytes] = []
    for alloc in ids:
        snapshot = Snapshot.of(fold[alloc], fold.dialect)
        if target != fold.dialect.name:
            lost += snapshot.losses(target)
        if is_array:
            bodies.append(snapshot.to_json(target))
        else:
            write_line(snapshot.to_json(target))
    if is_array:
        write_line(msgspec.json.format(b"[%b]" % b",".join(bodies), indent=_PRETTY_INDENT))
    if lost:
        say(f"note: dialect {target} cannot express {count_text(len(lost), 'path')}, such as {lost[0]}: left out")
