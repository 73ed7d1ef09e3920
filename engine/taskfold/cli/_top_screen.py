"""The live screen of ``taskfold top``: tasks, their events, and the log back and forth."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.coordinate import Coordinate
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from taskfold.cli._changes import Changes
from taskfold.cli._reading import naming
from taskfold.cli._screen import STATUS_STYLES, state_cell
from taskfold.cli._views import event_cell, short_id
from taskfold.cli._words import age_text, count_text, instant_text, visible
from taskfold.fold.allocation import AllocationState, Fold
from taskfold.fold.task import TaskState
from taskfold.live.engine import Engine
from taskfold.model.errors import TaskfoldError
from taskfold.model.go.timestamps import is_known_time
from taskfold.model.record import Record
from taskfold.nomad.record_texts import event_text, message_text
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.playback import Playback
from taskfold.sources.replay import parse_at

__all__ = ["MOST_ALLOCATIONS", "SORTS", "TopApp"]

MOST_ALLOCATIONS: Final = 5_000
"""How many allocations are looked at for the table: the first ones by ID, of those that match the filter."""
_MOST_ROWS: Final = 1_000
_REFRESH_SECONDS: Final = 0.5
_FAR: Final = 50
"""How many writes a long step of the time travel has."""

_COLUMNS: Final = ("alloc", "job / group", "status", "task", "state", "restarts", "age", "last event")
_EVENT_COLUMNS: Final = ("index", "time", "task", "change", "event", "message")

HELP: Final = """\
[b]Keys[/b]

 up, down        choose a task
 e, enter        its events, or none
 /               filter: words that its row must have, such as [i]failed web[/i]; escape ends it
 s               sort by the newest change, by restarts, by job, by ID
 left, right     one write back, or on
 shift+left, …   fifty writes back, or on
 home            the first write
 end, f          live again
 g               go to an index, a time (08:29, 24h, yesterday) or a position (@7)
 ?               this page
 q               quit
"""


class TaskRow(NamedTuple):
    """A task in the table."""

    alloc: str
    task: str
    job: str
    restarts: int
    time_ns: int
    """When its last event was (unix nanoseconds); 0 where no event tells."""
    words: str
    """The words that a filter looks at, in lower case."""
    cells: tuple[Text | str, ...]
    """Its cells, with an empty one for the age."""


SORTS: Final[dict[str, Callable[[TaskRow], Any]]] = {
    "newest change": lambda row: -row.time_ns,
    "restarts": lambda row: (-row.restarts, -row.time_ns),
    "job": lambda row: (row.job, row.alloc, row.task),
    "ID": lambda row: (row.alloc, row.task),
}


class _Help(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q,enter", "dismiss", "back")]

    def compose(self) -> ComposeResult:
        yield Static(HELP, id="help")
        yield Footer()


class TopApp(App[None]):
    """The screen over an engine; it follows the engine until the time travel begins."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #point { height: 1; background: $primary; color: $text; padding: 0 1; }
    #point.past { background: $warning; color: $text; }
    #counts { height: 1; padding: 0 1; }
    #tasks { height: 1fr; }
    #events { height: 40%; border-top: solid $primary; }
    #entry { dock: bottom; height: 3; }
    #help { width: 70; height: auto; padding: 1 2; border: round $primary; background: $surface; }
    _Help { align: center middle; }
    .hidden { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e,enter", "events", "events"),
        Binding("slash", "filter", "filter"),
        Binding("s", "sort", "sort"),
        Binding("left", "move(-1)", "back", priority=True),
        Binding("right", "move(1)", "on", priority=True),
        Binding("shift+left", f"move(-{_FAR})", "far back", show=False, priority=True),
        Binding("shift+right", f"move({_FAR})", "far on", show=False, priority=True),
        Binding("home", "first", "first", show=False, priority=True),
        Binding("f", "live", "live"),
        Binding("end", "live", "live", show=False, priority=True),
        Binding("g", "go", "go to"),
        Binding("question_mark", "help", "help"),
        Binding("escape", "leave", "leave", show=False),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, engine: Engine, name: str) -> None:
        """Take an engine, and the name of what it shows."""
        super().__init__()
        self.alongside: Callable[[], Awaitable[object]] | None = None
        """Runs beside the screen: a recorder, if the source is an agent."""
        self._engine = engine
        self._source_name = name
        self._point = Static(id="point")
        self._counts = Static(id="counts")
        self._tasks: DataTable[Any] = DataTable(id="tasks", cursor_type="row", zebra_stripes=True)
        self._events: DataTable[Any] = DataTable(id="events", cursor_type="row", classes="hidden")
        self._entry = Input(id="entry", classes="hidden")
        self._playback: Playback | None = None
        """The point in the past; None while the screen is live."""
        self._rows: dict[str, tuple[int, list[TaskRow]]] = {}
        """The rows of each allocation, with the version that they show."""
        self._visible_rows: list[TaskRow] = []
        self._index = -1
        self._filter = ""
        self._sort = next(iter(SORTS))
        self._is_going = False
        """Whether the entry asks for a point, and not for a filter."""
        self._problem = ""

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield self._point
        yield self._counts
        with Vertical():
            yield self._tasks
            yield self._events
        yield self._entry
        yield Footer()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave the keys that move to the entry while it is in use, and to the help."""
        del parameters
        return action not in {"move", "first", "live"} or (self._tasks.has_focus or self._events.has_focus)

    def on_mount(self) -> None:
        """Begin to follow the engine."""
        self.title = self._source_name
        self._tasks.add_columns(*_COLUMNS)
        self._events.add_columns(*_EVENT_COLUMNS)
        self._tasks.focus()
        self.refresh_tasks()
        self.set_interval(_REFRESH_SECONDS, self._refresh_live)
        if self.alongside is not None:
            self.run_worker(self._run_alongside(self.alongside), exclusive=False)

    async def _run_alongside(self, alongside: Callable[[], Awaitable[object]]) -> None:
        """Run what runs beside the screen; its error stands in the second line."""
        try:
            await alongside()
        except TaskfoldError as error:
            self._problem = str(error)
            self.refresh_tasks()

    # --- the table ---

    def _refresh_live(self) -> None:
        if self._playback is None and self._engine.index != self._index:
            self.refresh_tasks()
        elif self._playback is None:
            self._show_ages()

    def refresh_tasks(self) -> None:
        """Show the state at the point: all rows that the filter lets pass, sorted."""
        self._index = self._engine.index
        ids = self._ids()
        words = self._filter.lower().split()
        rows = [row for alloc in ids for row in self._rows_of(alloc) if all(word in row.words for word in words)]
        rows.sort(key=SORTS[self._sort])
        if self._playback is None:
            for alloc in self._rows.keys() - set(ids):  # collected meanwhile
                del self._rows[alloc]
        selected = self._selected
        self._visible_rows = rows[:_MOST_ROWS]
        table = self._tasks
        table.clear()
        now_ns = self._now_ns()
        for row in self._visible_rows:
            table.add_row(*_with_age(row, now_ns))
        if selected is not None:
            place = next((n for n, row in enumerate(self._visible_rows) if row[:2] == selected[:2]), 0)
            table.move_cursor(row=place)
        self._show_point(len(rows))
        self._show_events()

    def _ids(self) -> list[str]:
        """Return the allocations at the point, sorted; no more than can be looked at in time."""
        if self._playback is None:
            return self._engine.reader.ids()[:MOST_ALLOCATIONS]
        return sorted(self._playback)[:MOST_ALLOCATIONS]

    def _rows_of(self, alloc: str) -> list[TaskRow]:
        if self._playback is not None:
            return list(_rows(self._playback[alloc], self._engine))
        version = self._engine.reader.version(alloc)
        entry = self._rows.get(alloc)
        if entry is None or entry[0] != version:
            state = self._engine.reader.find(alloc)
            entry = self._rows[alloc] = (version, [] if state is None else list(_rows(state, self._engine)))
        return entry[1]

    def _now_ns(self) -> int:
        """Return the time that ages are counted from: now, or the time of the point."""
        if self._playback is not None:
            return self._playback.at.time_ns or 0
        return self._engine.clock.time_ns()

    def _show_ages(self) -> None:
        now_ns, column = self._now_ns(), _COLUMNS.index("age")
        for place, row in enumerate(self._visible_rows):
            self._tasks.update_cell_at(Coordinate(place, column), _age(row, now_ns))

    def _show_point(self, count: int) -> None:
        """Show what is looked at, at which point, and how much of it."""
        point = self._point
        point.set_class(self._playback is not None, "past")
        if self._playback is None:
            text = f"{self._source_name}  live, index {self._engine.index}, dialect {self._engine.dialect.name}"
        else:
            at = self._playback.at
            time = instant_text(at.time_ns) + "Z" if at.time_ns else "the beginning"
            place = f"write {self._playback.place:,} of {len(self._playback):,}"
            text = f"{self._source_name}  {time}, index {at.index}, {place}"
        point.update(Text(text))
        total = len(self._engine.reader) if self._playback is None else sum(1 for _ in self._playback)
        parts = [count_text(total, "allocation")]
        if self._playback is None:
            parts += [f"{number:,} {status or '-'}" for status, number in self._engine.reader.count_by_status().items()]
        parts.append(f"{count_text(count, 'task')} by {self._sort}")
        if count > _MOST_ROWS:
            parts.append(f"the first {_MOST_ROWS:,} are shown")
        if total > MOST_ALLOCATIONS:
            parts.append(f"of the first {MOST_ALLOCATIONS:,} allocations by ID")
        if self._filter:
            parts.append(f"with {self._filter!r}")
        line = Text(", ".join(parts))
        if self._problem:
            line = Text(self._problem, style="bold red")
        self._counts.update(line)

    @property
    def _selected(self) -> TaskRow | None:
        place = self._tasks.cursor_row
        return self._visible_rows[place] if 0 <= place < len(self._visible_rows) else None

    # --- the events of a task ---

    @on(DataTable.RowHighlighted, "#tasks")
    def _on_highlight(self) -> None:
        self._show_events()

    @on(DataTable.RowSelected, "#tasks")
    def _on_select(self) -> None:
        self.action_events()

    def action_events(self) -> None:
        """Show the events of the task under the cursor, or hide them."""
        self._events.toggle_class("hidden")
        self._show_events()

    def _show_events(self) -> None:
        table, row = self._events, self._selected
        if table.has_class("hidden"):
            return
        table.clear()
        if row is None:
            return
        try:
            records = self._engine.history(row.alloc)
        except TaskfoldError as error:
            table.add_row("", "", "", "", "", str(error))
            return
        end = None if self._playback is None else self._playback.at.seq
        changes = Changes(Fold(self._engine.dialect, on_illegal="keep"), "→", row.task or None)
        for record in records:
            if end is not None and record.seq > end:
                break
            changed = changes.apply(record)
            if record.task in {row.task, ""}:
                table.add_row(*_event_cells(record, changed))
        table.move_cursor(row=table.row_count - 1)

    # --- the point ---

    def action_move(self, writes: int) -> None:
        """Move the point in time by so many writes."""
        try:
            playback = self._playback
            if playback is None:
                if writes > 0:
                    return
                playback = Playback(self._engine)
            playback.move(writes)
        except TaskfoldError as error:
            self._problem = str(error)
            self.refresh_tasks()
            return
        self._playback, self._problem = playback, ""
        self.refresh_tasks()

    def action_first(self) -> None:
        """Move to the first write."""
        self.action_move(-sys.maxsize)
        self.action_move(1)

    def action_live(self) -> None:
        """Return to the present."""
        self._playback = None
        self.refresh_tasks()

    # --- the entry ---

    def action_filter(self) -> None:
        """Ask for the words that a row must have."""
        self._ask("words that a row must have", self._filter, is_going=False)

    def action_go(self) -> None:
        """Ask for a point."""
        self._ask("an index, a time (08:29, 24h, yesterday) or a position (@7)", "", is_going=True)

    def _ask(self, what: str, text: str, *, is_going: bool) -> None:
        entry = self._entry
        entry.placeholder, entry.value, self._is_going = what, text, is_going
        entry.remove_class("hidden")
        entry.focus()

    @on(Input.Changed, "#entry")
    def _on_change(self, event: Input.Changed) -> None:
        if not self._is_going and not self._entry.has_class("hidden"):
            self._filter = event.value
            self.refresh_tasks()

    @on(Input.Submitted, "#entry")
    def _on_submit(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        is_going = self._is_going
        self.action_leave()
        if is_going and text:
            try:
                at = parse_at(text, self._engine.clock.time_ns())
                playback = self._playback or Playback(self._engine)
                playback.move_to(at)
            except (TaskfoldError, ValueError) as error:
                self.notify(str(error), severity="error")
                return
            self._playback = playback
            self.refresh_tasks()

    def action_leave(self) -> None:
        """Leave the entry; without one, leave the filter, then the past."""
        entry = self._entry
        if not entry.has_class("hidden"):
            self._is_going = False
            entry.add_class("hidden")
            self._tasks.focus()
        elif self._filter:
            self._filter = ""
            self.refresh_tasks()
        elif self._playback is not None:
            self.action_live()

    def action_sort(self) -> None:
        """Sort by the next of the orders."""
        names = list(SORTS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self.refresh_tasks()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(_Help())


def _rows(state: AllocationState, engine: Engine) -> Iterator[TaskRow]:
    """Yield the rows of an allocation: a task each, or one without a task."""
    snapshot = Snapshot.of(state, engine.dialect)
    with naming(state.id):
        status, job = snapshot.client_status or "-", snapshot.job_id or "-"
        group, node = snapshot.task_group or "", snapshot.node_id or ""
    where = " / ".join(visible(part) for part in (job, group) if part)
    head = (visible(short_id(state.id)), where, Text(visible(status), style=STATUS_STYLES.get(status, "")))
    tasks: Sequence[tuple[str, TaskState | None]] = sorted(snapshot.tasks.items()) or [("", None)]
    for name, task in tasks:
        event = task.events[-1] if task is not None and task.events else None
        time_ns = event.time_ns if event is not None and is_known_time(event.time_ns) else 0
        cells = (
            *head,
            visible(name) or "-",
            "-" if task is None else state_cell(task.state, failed=task.failed),
            "-" if task is None else str(task.restarts),
            "",
            event_cell(event),
        )
        words = f"{state.id} {node} {' '.join(map(str, cells))}".lower()
        yield TaskRow(state.id, name, job, 0 if task is None else task.restarts, time_ns, words, cells)


def _age(row: TaskRow, now_ns: int) -> str:
    return age_text(max(now_ns - row.time_ns, 0)) if row.time_ns else "-"


def _with_age(row: TaskRow, now_ns: int) -> list[Text | str]:
    cells = list(row.cells)
    cells[_COLUMNS.index("age")] = _age(row, now_ns)
    return cells


def _event_cells(record: Record, changed: Text) -> list[Text | str]:
    return [
        str(record.index),
        instant_text(record.time_ns),
        visible(record.task) or "-",
        changed,
        event_text(record),
        message_text(record),
    ]
