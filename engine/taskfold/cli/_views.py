"""The tables of `replay`, `log`, `history` and `run`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from rich import table as rich_table
from rich.text import Text

from taskfold.cli._changes import Changes
from taskfold.cli._reading import Folded, naming
from taskfold.cli._record_rows import has_type
from taskfold.cli._screen import STATUS_STYLES, Cell, Column, Screen, Table, TableRow, state_cell
from taskfold.cli._words import age_text, count_text, instant_text, short_ids, visible
from taskfold.fold.course import Death
from taskfold.fold.lifecycle import DEAD
from taskfold.fold.task import TaskState
from taskfold.live.engine import Engine
from taskfold.model.events import TaskEvent, wire_type
from taskfold.model.go.timestamps import is_known_time
from taskfold.model.record import Gap, InternalEvent, Record, Updated
from taskfold.nomad.messages import display_message
from taskfold.nomad.record_texts import event_text, message_text
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.replay import At

__all__ = ["counts_text", "event_cell", "live_table", "short_id", "show_history", "show_log", "show_replay"]

T = TypeVar("T")

_ALLOCATION: Final = (Column("ALLOC"), Column("JOB / GROUP", least=16), Column("STATUS"))
_TASKS: Final = (
    Column("TASK", least=8),
    Column("STATE"),
    Column("RESTARTS", right=True),
    Column("AGE", right=True),
    Column("LAST EVENT"),
)
_REASON: Final = Column("REASON")
"""It stands before the last event, where deaths are known."""
_LIVE: Final = (Column("ALLOCATION"), *_TASKS)
_LOG: Final = (
    Column("SEQ", right=True),
    Column("INDEX", right=True),
    Column("TIME (UTC)"),
    Column("ALLOC"),
    Column("VERSION", right=True),
    Column("TASK", least=8),
)
_HISTORY: Final = (
    Column("VERSION", right=True),
    Column("INDEX", right=True),
    Column("TIME (UTC)"),
    Column("TASK", least=8),
    Column("CHANGED", least=20),
)
_EVENT: Final = (Column("EVENT"), Column("MESSAGE"))
_NARROW_EVENT: Final = (Column("EVENT"),)
_TASK: Final = 3
"""The place of the task among the columns of a history."""
_DATE_LENGTH: Final = len("2026-11-23")
_INDENT: Final = "  "
_UUID_LENGTH: Final = 36
_SHORT_LENGTH: Final = 8


def show_replay(screen: Screen, folded: Folded, ids: Sequence[str], at: At, task: str | None) -> None:
    """Write a table of these allocations, a row per task, and a line of counts."""
    fold, newest_ns, short = folded.fold, folded.fold.newest_time_ns(), short_ids(folded.fold)
    groups: list[tuple[tuple[str, int, str], list[TableRow]]] = []
    tasks_total = irregular = 0
    for alloc in ids:
        snapshot = Snapshot.of(fold[alloc], fold.dialect)
        tasks = {name: state for name, state in sorted(snapshot.tasks.items()) if task in {None, name}}
        tasks_total += len(tasks)
        irregular += sum(state.irregular for state in tasks.values())
        with naming(alloc):
            head = _allocation_cells(snapshot, short[alloc], is_collected=fold.owned(alloc).collected)
            key = (snapshot.job_id or "", snapshot.create_index or 0, alloc)
        rows = [
            _with_reason(_task_cells(name, state, newest_ns), state, folded.deaths.get((alloc, name)), snapshot)
            for name, state in tasks.items()
        ] or [_with_reason(_NO_TASK, None, None, snapshot)]
        groups.append((key, list(_grouped(screen, head, rows))))
    groups.sort(key=lambda group: group[0])
    of_task = (*_TASKS[:-1], _REASON, _TASKS[-1])
    columns = of_task if screen.is_narrow else (*_ALLOCATION, *of_task)
    Table(screen, columns).show(row for _, rows in groups for row in rows)
    of_all = "" if len(ids) == len(fold) else f"{len(ids):,} of "
    counted = counts_text(
        [of_all + count_text(len(fold), "allocation"), count_text(tasks_total, "task")],
        gaps=sum(folded.gaps[alloc] for alloc in ids),
        irregular=irregular,
    )
    newest_index = max(fold.owned(alloc).modify_index for alloc in fold)
    ages = f"ages at {instant_text(newest_ns)}Z; " if newest_ns else ""
    screen.caption(f"{counted}; {_point_text(at)}newest index {newest_index}; {ages}dialect {fold.dialect.name}")


def counts_text(counts: list[str], *, gaps: int, irregular: int = 0) -> str:
    """Return counts as one text; gaps and irregular events are added when there are any."""
    remarks = [count_text(gaps, "gap") + " where events were lost"] if gaps else []
    remarks += [count_text(irregular, "irregular event")] if irregular else []
    return ", ".join([*counts, *remarks])


def _point_text(at: At) -> str:
    if at.index is not None:
        return f"as of index {at.index}, "
    if at.seq is not None:
        return f"as of position {at.seq}, "
    return "" if at.time_ns is None else f"as of {instant_text(at.time_ns)}Z, "


def _allocation_cells(snapshot: Snapshot, short: str, *, is_collected: bool) -> tuple[str, str, Text]:
    """Return the cells that the rows of one allocation share."""
    status = snapshot.client_status or "-"
    name = " / ".join(visible(part) for part in (snapshot.job_id, snapshot.task_group) if part) or "-"
    cell = Text(visible(status), style=STATUS_STYLES.get(status, ""))
    return visible(short), name, cell.append(", collected") if is_collected else cell


def live_table(engine: Engine, allocations: Iterable[str]) -> rich_table.Table:
    """Return a table of these allocations as they are now, a row per task, without collected ones."""
    table, now_ns = rich_table.Table(box=None, expand=True), engine.clock.time_ns()
    for column in _LIVE:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    table.columns[-1].ratio = 1  # the others keep their widths
    snapshots = [engine.snapshot(alloc) for alloc in tuple(allocations) if alloc in engine.reader]
    for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.create_index or 0):
        for name, state in snapshot.tasks.items():
            table.add_row(visible(snapshot.name or ""), *_task_cells(name, state, now_ns))
    return table


def _task_cells(name: str, state: TaskState, newest_ns: int) -> list[Cell]:
    event = state.events[-1] if state.events else None
    age = age_text(newest_ns - event.time_ns) if event is not None and is_known_time(event.time_ns) else "-"
    return [visible(name), state_cell(state.state, failed=state.failed), str(state.restarts), age, event_cell(event)]


_NO_TASK: Final[list[Cell]] = ["-", "-", "-", "-", "no task state yet"]


def _with_reason(cells: list[Cell], state: TaskState | None, death: Death | None, snapshot: Snapshot) -> list[Cell]:
    """Return the cells with the reason why a task is dead, or its node is lost, before the last event."""
    is_over = state is not None and (state.state == DEAD or snapshot.client_status == "lost")
    return [*cells[:-1], death.reason if is_over and death is not None else "-", cells[-1]]


def event_cell(event: TaskEvent | None) -> Text:
    """Return the newest event of a task in one cell; a dash without one."""
    if event is None:
        return Text("-")
    cell, message = Text(visible(wire_type(event))), visible(display_message(event))
    return cell.append(f": {message}", style="dim") if message else cell


def _grouped(screen: Screen, head: tuple[str, str, Text], rows: list[list[Cell]]) -> Iterator[TableRow]:
    """Yield the rows of one allocation: named in a line above them, in the first, or, in plain text, in each."""
    if screen.is_narrow:
        yield Text(_INDENT).join([Text(head[0], style="bold"), Text(head[1]), head[2]])
        yield from ([f"{_INDENT}{row[0]}", *row[1:]] for row in rows)
        return
    for place, row in enumerate(rows):
        yield [*(head if screen.is_plain or not place else ("", "", "")), *row]


def show_log(screen: Screen, records: Iterable[Record]) -> None:
    """Write a row per record, as the records come."""
    columns = (*_LOG, *(_NARROW_EVENT if screen.is_narrow else _EVENT))
    Table(screen, columns).show(
        [
            str(record.seq),
            str(record.index),
            instant_text(record.time_ns),
            visible(short_id(record.alloc)),
            str(record.version),
            visible(record.task) or "-",
            *_event_cells(screen, record, message_text(record)),
        ]
        for record in records
    )


def _event_cells(screen: Screen, record: Record, message: str) -> list[Cell]:
    """Return the event and its message: two cells, or one on a narrow terminal."""
    style = _style(record)
    event = Text(event_text(record), style=style)
    if not screen.is_narrow:
        return [event, Text(message, style=style)]
    return [event.append(f": {message}", style="" if style else "dim")] if message else [event]


def short_id(alloc: str) -> str:
    """Return the first part of a UUID, and any other ID whole: other IDs of the log are unknown yet."""
    is_uuid = len(alloc) == _UUID_LENGTH and alloc[_SHORT_LENGTH] == "-"
    return alloc[:_SHORT_LENGTH] if is_uuid else alloc


def _style(record: Record) -> str:
    """Return the style of a record: a gap stands out, an internal event is dim."""
    if isinstance(record.event, Gap):
        return "bold yellow"
    return "dim" if isinstance(record.event, InternalEvent) else ""


def show_history(
    screen: Screen, records: Sequence[Record], changes: Changes, task: str | None, types: frozenset[str] | None = None
) -> None:
    """Write every record of one allocation (or of one of its tasks) with its changes, and a line of counts."""
    pairs = [(record, changes.apply(record)) for record in records]
    pairs_shown = [
        (record, changed) for record, changed in pairs if task in {None, record.task} and has_type(record, types)
    ]
    days = {instant_text(record.time_ns)[:_DATE_LENGTH] for record, _ in pairs_shown}
    # On a terminal the day is written once, if it is the same for all.
    day = min(days) if len(days) == 1 and not screen.is_plain else ""
    screen.line(Text(changes.title() + (f", {day}" if day else ""), style="bold"))
    rows = [_history_row(screen, record, changed, len(day) + 1 if day else 0) for record, changed in pairs_shown]
    columns = (*_HISTORY, *(_NARROW_EVENT if screen.is_narrow else _EVENT))
    if task:
        Table(screen, _without_task(columns), wraps=True).show(map(_without_task, rows))
    else:
        Table(screen, columns, wraps=True).show(rows)
    events = sum(isinstance(record.event, TaskEvent) for record, _ in pairs_shown)
    gaps = sum(isinstance(record.event, Gap) for record, _ in pairs_shown)
    counts = [count_text(events, "event"), count_text(len(pairs_shown), "record")]
    screen.caption(f"{counts_text(counts, gaps=gaps, irregular=changes.irregular)}; now {changes.now()}")


def _history_row(screen: Screen, record: Record, changed: Text, date_length: int) -> list[Cell]:
    # The fields that an update changed stand among what changed.
    message = "" if isinstance(record.event, Updated) and changed else message_text(record)
    return [
        str(record.version),
        str(record.index),
        instant_text(record.time_ns)[date_length:],
        visible(record.task) or "-",
        changed,
        *_event_cells(screen, record, message),
    ]


def _without_task(cells: Sequence[T]) -> list[T]:
    return [cell for place, cell in enumerate(cells) if place != _TASK]
