"""What the commands show in tables: allocations with their tasks, records, and what each record changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from rich.text import Text

from taskfold.cli.changes import Changes
from taskfold.cli.reading import Folded
from taskfold.cli.screen import Cell, Column, Screen, Table
from taskfold.cli.styles import STATUS_STYLES, state_cell
from taskfold.cli.wording import age_text, count_text, event_text, instant_text, message_text, short_ids, visible
from taskfold.codecs.allocation import Snapshot
from taskfold.events import TaskEvent, wire_type
from taskfold.messages import display_message
from taskfold.record import Gap, InternalEvent, Record
from taskfold.replay import At
from taskfold.task import TaskState

T = TypeVar("T")

__all__ = ["log_rows", "show_history", "show_replay"]

_REPLAY: Final = (
    Column("ALLOC"),
    Column("JOB / GROUP", least=12),
    Column("STATUS"),
    Column("TASK", least=8),
    Column("STATE"),
    Column("RESTARTS", right=True),
    Column("AGE", right=True),
    Column("LAST EVENT"),
)
LOG_COLUMNS: Final = (
    Column("SEQ", right=True),
    Column("INDEX", right=True),
    Column("TIME (UTC)"),
    Column("ALLOC"),
    Column("VERSION", right=True),
    Column("TASK", least=8),
    Column("EVENT"),
    Column("MESSAGE"),
)
_HISTORY: Final = (
    Column("VERSION", right=True),
    Column("INDEX", right=True),
    Column("TIME (UTC)"),
    Column("TASK", least=8),
    Column("EVENT"),
    Column("CHANGED", least=20),
    Column("MESSAGE"),
)
_TASK: Final = 3
"""The place of the task among the columns of a history."""


def show_replay(screen: Screen, folded: Folded, ids: Sequence[str], at: At, task: str | None) -> None:
    """Write a table of these allocations, one row for each of their tasks, and a line that counts them."""
    fold = folded.fold
    newest_ns = folded.newest_ns
    short = short_ids(fold)
    groups: list[tuple[tuple[str, int, str], list[list[Cell]]]] = []
    tasks_total = irregular = 0
    for alloc in ids:
        snapshot = Snapshot.of(fold[alloc], fold.dialect)
        shown = {name: state for name, state in sorted(snapshot.tasks.items()) if task in {None, name}}
        tasks_total += len(shown)
        irregular += sum(state.irregular for state in shown.values())
        head = _allocation_cells(snapshot, short[alloc], is_collected=fold.owned(alloc).collected)
        rows = _task_rows(screen, head, shown, newest_ns)
        groups.append(((snapshot.job_id or "", snapshot.create_index or 0, alloc), rows))
    groups.sort(key=lambda group: group[0])
    Table(screen, _REPLAY).show(row for _, rows in groups for row in rows)
    counts = [
        count_text(len(ids), "allocation")
        if len(ids) == len(fold)
        else f"{len(ids):,} of {count_text(len(fold), 'allocation')}"
    ]
    counts.append(count_text(tasks_total, "task"))
    gaps = sum(folded.gaps[alloc] for alloc in ids)
    if gaps:
        counts.append(f"{count_text(gaps, 'gap')} where events were lost")
    if irregular:
        counts.append(count_text(irregular, "irregular event"))
    where = f"index {max(fold.owned(alloc).modify_index for alloc in fold)}"
    if at.index is not None:
        where = f"asked for index {at.index}, the newest until then is {where}"
    elif at.time_ns is not None:
        where = f"asked for {instant_text(at.time_ns)}Z, the newest until then is {where}"
    screen.caption(f"{', '.join(counts)}; {where}; ages at {instant_text(newest_ns)}Z; dialect {fold.dialect.name}")


def _allocation_cells(snapshot: Snapshot, short: str, *, is_collected: bool) -> tuple[str, str, Text]:
    """Return the cells that the rows of one allocation share."""
    status = snapshot.client_status or "-"
    name = " / ".join(visible(part) for part in (snapshot.job_id, snapshot.task_group) if part) or "-"
    cell = Text(visible(status), style=STATUS_STYLES.get(status, ""))
    return visible(short), name, cell.append(", collected") if is_collected else cell


def _task_rows(
    screen: Screen, head: tuple[str, str, Text], tasks: dict[str, TaskState], newest_ns: int
) -> list[list[Cell]]:
    """Return one row for each task; the allocation is named once on a terminal, and on every row of plain text."""
    if not tasks:
        return [[*head, "-", "-", "-", "-", "no task state yet"]]
    rows: list[list[Cell]] = []
    for name, state in tasks.items():
        first: tuple[Cell, ...] = head if screen.is_plain or not rows else ("", "", "")
        event = state.events[-1] if state.events else None
        age = "-" if event is None or not event.time_ns else age_text(newest_ns - event.time_ns)
        restarts = str(state.restarts)
        rows.append(
            [*first, visible(name), state_cell(state.state, failed=state.failed), restarts, age, _event_cell(event)]
        )
    return rows


def _event_cell(event: TaskEvent | None) -> Text:
    if event is None:
        return Text("-")
    cell, message = Text(visible(wire_type(event))), visible(display_message(event))
    return cell.append(f": {message}", style="dim") if message else cell


def log_rows(records: Iterator[Record]) -> Iterator[list[Cell]]:
    """Yield a row of `LOG_COLUMNS` for each record."""
    for record in records:
        style = _style(record)
        yield [
            str(record.seq),
            str(record.index),
            instant_text(record.time_ns),
            visible(_short(record.alloc)),
            str(record.version),
            visible(record.task) or "-",
            Text(event_text(record), style=style),
            Text(message_text(record), style=style),
        ]


_UUID_LENGTH: Final = 36
_SHORT_LENGTH: Final = 8


def _short(id: str) -> str:
    """Return the first part of a UUID, and any other ID whole: a log that is still being read knows no better."""
    return id[:_SHORT_LENGTH] if len(id) == _UUID_LENGTH and id[_SHORT_LENGTH] == "-" else id


def _style(record: Record) -> str:
    """Return how a record stands out: a gap must be seen, what Nomad never shows may be overlooked."""
    if isinstance(record.event, Gap):
        return "bold yellow"
    return "dim" if isinstance(record.event, InternalEvent) else ""


def show_history(screen: Screen, records: Sequence[Record], changes: Changes, task: str | None) -> None:
    """Write every record of one allocation (or of one of its tasks), what each changed, and a line that counts them."""
    screen.line(Text(f"allocation {visible(records[0].alloc)}", style="bold"))
    columns = _without_task(_HISTORY) if task else _HISTORY
    shown: list[Record] = []

    def rows() -> Iterator[list[Cell]]:
        for record in records:
            changed = changes.apply(record)
            if task in {None, record.task}:
                shown.append(record)
                row = _history_row(record, changed)
                yield _without_task(row) if task else row

    Table(screen, columns, wraps=True).show(rows())
    counts = [count_text(sum(isinstance(record.event, TaskEvent) for record in shown), "event")]
    counts.append(count_text(len(shown), "record"))
    gaps = sum(isinstance(record.event, Gap) for record in shown)
    if gaps:
        counts.append(f"{count_text(gaps, 'gap')} where events were lost")
    if changes.irregular(task):
        counts.append(count_text(changes.irregular(task), "irregular event"))
    screen.caption(f"{', '.join(counts)}; now {changes.now(task)}")


def _history_row(record: Record, changed: Text) -> list[Cell]:
    style = _style(record)
    return [
        str(record.version),
        str(record.index),
        instant_text(record.time_ns),
        visible(record.task) or "-",
        Text(event_text(record), style=style),
        changed,
        Text(message_text(record), style=style),
    ]


def _without_task(cells: Sequence[T]) -> list[T]:
    return [cell for place, cell in enumerate(cells) if place != _TASK]
