"""``taskfold report``: what tasks went through, a row a task, or a job, a node, a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
from msgspec.structs import replace

from taskfold.cli import _options as options
from taskfold.cli._formats import DataColumn, write_rows
from taskfold.cli._guard import Notes, Unanswerable, no_match
from taskfold.cli._progress import Progress
from taskfold.cli._reading import Selection, matching_ids
from taskfold.cli._screen import Column, Screen, Table, state_cell
from taskfold.cli._views import counts_text
from taskfold.cli._words import age_text, count_text, instant_text, short_ids, visible
from taskfold.model.errors import DecodeError
from taskfold.sources.replay import At, Replay
from taskfold.sources.summary import (
    Flapping,
    GroupKey,
    GroupSummary,
    Summaries,
    TaskSummary,
    grouped,
    summaries_of,
)

__all__ = ["report"]

T = TypeVar("T")

_TASK_COLUMNS: Final = (
    DataColumn("alloc"),
    DataColumn("task"),
    DataColumn("job"),
    DataColumn("group"),
    DataColumn("namespace"),
    DataColumn("node"),
    DataColumn("status"),
    DataColumn("state"),
    DataColumn("failed", "flag"),
    DataColumn("restarts", "number"),
    DataColumn("deaths", "number"),
    DataColumn("pending_ns", "number"),
    DataColumn("running_ns", "number"),
    DataColumn("dead_ns", "number"),
    DataColumn("availability", "part"),
    DataColumn("reason"),
    DataColumn("message"),
    DataColumn("exit_code", "number"),
    DataColumn("signal", "number"),
    DataColumn("last_seen", "time"),
    DataColumn("gaps", "number"),
)
_GROUP_COLUMNS: Final = (
    DataColumn("name"),
    DataColumn("allocations", "number"),
    DataColumn("tasks", "number"),
    DataColumn("restarts", "number"),
    DataColumn("deaths", "number"),
    DataColumn("failed", "number"),
    DataColumn("pending_ns", "number"),
    DataColumn("running_ns", "number"),
    DataColumn("dead_ns", "number"),
    DataColumn("availability", "part"),
    DataColumn("reasons"),
    DataColumn("last_seen", "time"),
    DataColumn("gaps", "number"),
)
_ATTRIBUTES: Final = {"last_seen": "last_seen_ns"}
"""The attribute of a column, where it is not its name."""

_TASK_TABLE: Final = (
    Column("ALLOC"),
    Column("JOB / GROUP", least=16),
    Column("TASK", least=8),
    Column("STATE"),
    Column("RESTARTS", right=True),
    Column("PENDING", right=True),
    Column("RUNNING", right=True),
    Column("DEAD", right=True),
    Column("AVAILABLE", right=True),
    Column("EXIT", right=True),
    Column("LAST SEEN (UTC)"),
    Column("WHY IT DIED"),
)
_NARROW_TASK_TABLE: Final = (0, 2, 3, 4, 8, 9, 11)
"""The columns that a narrow terminal shows."""
_GROUP_TABLE: Final = (
    Column("ALLOCATIONS", right=True),
    Column("TASKS", right=True),
    Column("RESTARTS", right=True),
    Column("DEATHS", right=True),
    Column("FAILED", right=True),
    Column("PENDING", right=True),
    Column("RUNNING", right=True),
    Column("DEAD", right=True),
    Column("AVAILABLE", right=True),
    Column("LAST SEEN (UTC)"),
    Column("WHY THEY DIED"),
)
_NARROW_GROUP_TABLE: Final = (0, 1, 3, 4, 5, 9, 11)
_TITLES: Final[dict[GroupKey, str]] = {"job": "JOB", "node": "NODE", "group": "JOB / GROUP"}

_SORTS: Final[dict[str, Callable[[Any], Any]]] = {
    "restarts": lambda row: -row.restarts,
    "deaths": lambda row: -row.deaths,
    "pending": lambda row: -row.pending_ns,
    "running": lambda row: -row.running_ns,
    "dead": lambda row: -row.dead_ns,
    "availability": lambda row: (row.availability is None, row.availability),
    "last-seen": lambda row: -(row.last_seen_ns or 0),
    "name": lambda _: 0,
}
"""The key of each order: the worst, the longest, the newest first; rows that are equal, by name."""


@options.command()
@options.sources_argument
@options.at_option
@options.alloc_option
@options.task_option
@options.job_option
@options.node_option
@options.status_option
@click.option("--since", type=options.INSTANT, help="Only what happened at or after this time.")
@click.option("--until", type=options.INSTANT, help="Only what happened at or before this time.")
@click.option("--by", type=click.Choice(tuple(_TITLES)), help="A row for each job, node or group; default: a task.")
@click.option(
    "--flapping",
    type=options.FLAPPING,
    help="Only tasks that were started again so often within so long, such as 5/1h.",
)
@click.option("--sort", type=click.Choice(tuple(_SORTS)), default="restarts", show_default=True, help="The order.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many rows.")
@options.format_option("table", "csv", "jsonl", "parquet")
@options.skip_bad_option
def report(
    sources: tuple[str, ...],
    at: At | None,
    by: GroupKey | None,
    flapping: Flapping | None,
    sort: str,
    limit: int | None,
    format: Any,
    *,
    skip_bad: bool,
    **filters: Any,
) -> int:
    """Show what tasks went through: restarts, times in each state, availability, and why they died.

    Ages and times end at the newest time of the source. Availability is the part of the time that a task ran, of the
    time that it was to run. The formats for programs have one row a task, with times in nanoseconds.
    """
    selection = Selection(**filters)
    since_ns, until_ns = selection.since, selection.until
    if until_ns is not None and at is not None:
        raise Unanswerable("--at and --until are both an end: name one of them")
    if until_ns is not None and since_ns is not None and until_ns < since_ns:
        raise Unanswerable("--until is before --since: nothing can be in between")
    end = at if until_ns is None else At(time_ns=until_ns)
    reading = Replay(*sources, at=end, on_note=Notes(), skip_bad=skip_bad)
    with Progress("reading", reading):
        summaries = summaries_of(reading, since_ns=since_ns, until_ns=until_ns, flapping=flapping)
        # The time chooses what is counted, and no allocation.
        tasks = _matching(summaries, replace(selection, since=None, until=None))
    rows: list[Any] = tasks if by is None else list(grouped(tasks, by))
    rows.sort(key=_SORTS[sort])
    if format != "table":
        columns = _TASK_COLUMNS if by is None else _GROUP_COLUMNS
        names = [_ATTRIBUTES.get(column.name, column.name) for column in columns]
        write_rows(columns, ([getattr(row, name) for name in names] for row in rows[:limit]), format)
    elif rows:
        screen = Screen()
        if by is None:
            _show_tasks(screen, rows[:limit])
        else:
            _show_groups(screen, rows[:limit], by)
        _caption(screen, tasks, len(rows) - len(rows[:limit]), summaries)
    return 0 if rows else no_match(sum(len(each.tasks) for each in summaries.fold.allocations.values()), "task")


def _matching(summaries: Summaries, selection: Selection) -> list[TaskSummary]:
    """Return the summaries of the tasks that match, sorted by job, allocation and task."""
    ids = set(matching_ids(summaries.fold, selection))
    try:
        found_tasks = list(summaries.of_tasks(lambda alloc, task: alloc in ids and selection.task in {None, task}))
    except DecodeError as error:
        raise Unanswerable(str(error)) from None
    return sorted(found_tasks, key=lambda each: (each.job or "", each.alloc, each.task))


def _show_tasks(screen: Screen, rows: Sequence[TaskSummary]) -> None:
    short = short_ids({row.alloc for row in rows})
    columns = _fitting(screen, _TASK_TABLE, _NARROW_TASK_TABLE)
    Table(screen, columns).show(
        _fitting(
            screen,
            (
                visible(short[row.alloc]),
                " / ".join(visible(part) for part in (row.job, row.group) if part) or "-",
                visible(row.task),
                state_cell(row.state, failed=row.failed),
                str(row.restarts),
                *_times(row),
                _exit_text(row),
                instant_text(row.last_seen_ns),
                row.message or "-",
            ),
            _NARROW_TASK_TABLE,
        )
        for row in rows
    )


def _show_groups(screen: Screen, rows: Sequence[GroupSummary], by: GroupKey) -> None:
    titled = (Column(_TITLES[by], least=16), *_GROUP_TABLE)
    Table(screen, _fitting(screen, titled, _NARROW_GROUP_TABLE)).show(
        _fitting(
            screen,
            (
                visible(row.name) or "-",
                *(f"{number:,}" for number in (row.allocations, row.tasks, row.restarts, row.deaths, row.failed)),
                *_times(row),
                instant_text(row.last_seen_ns),
                row.reasons or "-",
            ),
            _NARROW_GROUP_TABLE,
        )
        for row in rows
    )


def _fitting(screen: Screen, cells: Sequence[T], narrow: Sequence[int]) -> list[T]:
    """Return all cells, or those that a narrow terminal shows."""
    return [cells[place] for place in narrow] if screen.is_narrow else list(cells)


def _times(row: TaskSummary | GroupSummary) -> tuple[str, ...]:
    spans = (row.pending_ns, row.running_ns, row.dead_ns)
    return (*map(age_text, spans), "-" if row.availability is None else f"{row.availability:.1%}")


def _exit_text(row: TaskSummary) -> str:
    code = "-" if row.exit_code is None else str(row.exit_code)
    return f"{code}, signal {row.signal}" if row.signal else code


def _caption(screen: Screen, tasks: Sequence[TaskSummary], missing: int, summaries: Summaries) -> None:
    """Write the line below the table: how much there is of what, and until when the times count."""
    counts = [
        count_text(len({each.alloc for each in tasks}), "allocation"),
        count_text(len(tasks), "task"),
        count_text(sum(each.restarts for each in tasks), "restart"),
        count_text(sum(each.deaths for each in tasks), "death"),
    ]
    more = f"; {count_text(missing, 'row')} more" if missing else ""
    end = f"; times until {instant_text(summaries.end_ns)}Z" if tasks else ""
    screen.caption(f"{counts_text(counts, gaps=sum(each.gaps for each in tasks))}{more}{end}")
