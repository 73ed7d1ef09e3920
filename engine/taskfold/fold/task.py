"""The state of one task, and how a record changes it.

`apply` is the fold: written once, on a `Task` that the folder owns and changes in place. `evolve` is the same rule as
a pure function on the frozen `TaskState` that is handed out: copy, and apply. Which state follows an event is asked of
`taskfold.fold.lifecycle`; this module adds what else an event does:

==============  =====================================================================================================
field           rule
==============  =====================================================================================================
Failed          becomes true with any event that has FailsTask, and never false again (all versions)
Restarts        plus one for every `Restarting`; LastRestart is the time of that event (shown since Nomad 0.6.0)
StartedAt       the time of the record that moves the state to running from another (shown since Nomad 0.5.6)
FinishedAt      0.5.6: the time of every record that leaves the task dead, if it ever started;
                1.1.2: of the first such record, also for a task that never started; it stays for ever
==============  =====================================================================================================

Sources: client/alloc_runner.go setTaskState (v0.5.6), client/allocrunner/taskrunner/task_runner.go (new),
and every recording.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from msgspec import UNSET, Struct
from msgspec.structs import force_setattr

from taskfold.fold.counts import UNITS, counts_by_type
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, STATES, Lifecycle
from taskfold.fold.ring import STAYING, EventRing
from taskfold.model.events import AnyTaskEvent, Restarting, TaskEvent
from taskfold.model.record import Decided, Event, Finished, Gap, Observed, Placed, Record, Updated
from taskfold.model.texts import MESSAGES, remember_message

__all__ = ["ANEW", "OnIllegal", "Task", "TaskState", "apply", "evolve"]

OnIllegal: TypeAlias = Literal["raise", "keep"]
"""The treatment of an event that the table refuses: raise IllegalEvent, or keep it, count it and leave the state."""

_TIMES = ("started_at_ns", "finished_at_ns", "last_restart_ns")
_FIELDS = ("state", "failed", "restarts", *_TIMES, "older_events", "hidden")
ANEW: Final = Observed(
    state=PENDING,
    failed=False,
    restarts=0,
    last_restart_ns=None,
    started_at_ns=None,
    finished_at_ns=None,
    older_events=None,
    hidden=False,
)
"""The state of a task whose allocation is placed anew."""
_INTERNED = {state: state for state in STATES}


class TaskState(Struct, frozen=True, kw_only=True):
    """The state of a task after a number of records; immutable once handed out.

    Times are unix nanoseconds, and None where Nomad's zero time is meant.
    """

    state: str = PENDING
    failed: bool = False
    restarts: int = 0
    last_restart_ns: int | None = None
    started_at_ns: int | None = None
    finished_at_ns: int | None = None
    events: tuple[AnyTaskEvent, ...] = ()
    """The 10 newest events in order of arrival, or the older copy that was observed instead."""
    newest_events: tuple[AnyTaskEvent, ...] | None = None
    """The 10 newest events, where `events` shows an older copy; else None."""
    events_total: int = 0
    """How many events the task ever had."""
    irregular: int = 0
    """How many of them the lifecycle table refused."""
    packed_counts: int = 0
    memory: Decided | None = None
    """The memory that decisions have of it; None if the embedder decides."""
    hidden: bool = False
    """The task was observed to be missing from its allocation's task states."""
    fields: Mapping[str, bytes] = {}
    """Other fields of the task on the wire (TaskHandle, and unknown ones), if not null: JSON by name."""

    @property
    def events_dropped(self) -> int:
        """How many events are no longer shown."""
        return self.events_total - len(self.events if self.newest_events is None else self.newest_events)

    @property
    def counts(self) -> dict[str, int]:
        """How many events of each wire type the task ever had, from its whole history."""
        return counts_by_type(self.packed_counts)


class Rest(Struct, gc=False):
    """Rare parts of a task: stored separately, so that a million tasks stay small."""

    irregular: int = 0
    """How many events the lifecycle table refused."""
    older_events: tuple[AnyTaskEvent, ...] | None = None
    """An older copy of the ring that was observed instead of the newest events."""
    hidden: bool = False
    fields: Mapping[str, bytes] = {}
    """Replaced, and never changed, so that snapshots may share it."""


_NO_REST: Final = Rest()


class Task(EventRing, gc=False):
    """A task's state as the folder owns it, and the ring of its events: changed in place by `apply`, never handed out.

    It is one object with its ring, since a fold of many tasks waits for memory more than for anything else.
    """

    state: str = PENDING
    failed: bool = False
    restarts: int = 0
    last_restart_ns: int | None = None
    started_at_ns: int | None = None
    finished_at_ns: int | None = None
    counts: int = 0
    memory: Decided | None = None
    """The memory that decisions have of it: the newest such event itself, which is immutable."""
    rest: Rest | None = None

    @property
    def seldom(self) -> Rest:
        """The rare parts of the task; read-only."""
        return _NO_REST if self.rest is None else self.rest

    def own_rest(self) -> Rest:
        """Return what few tasks have, to be changed."""
        if self.rest is None:
            self.rest = Rest()
        return self.rest

    def freeze(self) -> TaskState:
        """Return the state as it is now. O(1)."""
        newest, rest = self.events(), self.seldom
        return TaskState(
            state=self.state,
            failed=self.failed,
            restarts=self.restarts,
            last_restart_ns=self.last_restart_ns,
            started_at_ns=self.started_at_ns,
            finished_at_ns=self.finished_at_ns,
            events=newest if rest.older_events is None else rest.older_events,
            newest_events=None if rest.older_events is None else newest,
            events_total=self.total,
            irregular=rest.irregular,
            packed_counts=self.counts,
            memory=self.memory,
            hidden=rest.hidden,
            fields=rest.fields,
        )

    @classmethod
    def thaw(cls, state: TaskState) -> Task:
        """Return a separate task that continues from this state. O(1)."""
        newest = state.events if state.newest_events is None else state.newest_events
        older = None if state.newest_events is None else state.events
        rest = Rest(irregular=state.irregular, older_events=older, hidden=state.hidden, fields=state.fields)
        return cls(
            slots=newest,
            total=state.events_total,
            state=_INTERNED.get(state.state, state.state),
            failed=state.failed,
            restarts=state.restarts,
            last_restart_ns=state.last_restart_ns,
            started_at_ns=state.started_at_ns,
            finished_at_ns=state.finished_at_ns,
            counts=state.packed_counts,
            memory=state.memory,
            rest=None if rest == _NO_REST else rest,
        )


def apply(  # noqa: C901, PLR0912 - the hot path: a call would cost a tenth of all this
    task: Task, record: Record, lifecycle: Lifecycle, on_illegal: OnIllegal = "raise"
) -> None:
    """Change the task by one record. O(1).

    Raises IllegalEvent, and changes nothing, when the table refuses the event; with ``on_illegal="keep"`` the event
    is kept and counted as irregular instead, and the state stays.
    """
    event: Any = record.event  # a task event from here on, which mypy cannot see in the look-up
    cls = type(event)
    rule = lifecycle.rules.get(cls)
    if rule is None:
        _apply_other(task, event)
        return
    unit = rule.unit
    if not unit:
        _apply_finished(task, record, lifecycle)
        return
    state = task.state
    target = rule.targets[state]
    if target is None:
        if on_illegal != "keep":
            raise lifecycle.illegal(record.task, state, event)
        task.own_rest().irregular += 1
    # Nothing above changes the state; nothing below fails.
    task.counts += unit
    task.total += 1
    task.slots = (*task.slots[STAYING], event)
    if task.rest is not None:
        task.rest.older_events = None
    name = rule.text
    if name:
        # The few texts of a cluster are shared: a task may hold ten, and a log has each as a text of its own.
        text = getattr(event, name)
        if text:
            same = MESSAGES.get(text)
            if same is None:
                remember_message(text)
            elif same is not text:
                force_setattr(event, name, same)
    if (rule.may_fail or event.extras is not None) and event.fails_task:
        task.failed = True
    if cls is Restarting:
        task.restarts += 1
        task.last_restart_ns = event.time_ns
    if target is not state and target is not None:
        task.state = target
        if target is RUNNING:
            task.started_at_ns = record.time_ns
    if target is DEAD:
        _set_finished_at(task, record.time_ns, lifecycle)


def _set_finished_at(task: Task, time_ns: int, lifecycle: Lifecycle) -> None:
    """Set FinishedAt as the dialect does when a record leaves the task dead."""
    if lifecycle.dialect.finished_at_moves:
        if task.started_at_ns is not None:
            task.finished_at_ns = time_ns
    elif task.finished_at_ns is None:
        task.finished_at_ns = time_ns


def _apply_finished(task: Task, record: Record, lifecycle: Lifecycle) -> None:
    """Make the task dead without a task event, or only move its times."""
    event = record.event
    assert isinstance(event, Finished)
    if event.dies:
        task.state = lifecycle.rules[Finished].targets[task.state] or DEAD
        _set_finished_at(task, record.time_ns, lifecycle)
    _set_fields(task, event, _TIMES)


def _apply_other(task: Task, event: Event) -> None:
    """Change the task by an event that is not in the dialect's table."""
    if isinstance(event, TaskEvent):
        # A type that this dialect does not know never moves the state; it counts as itself where another knows it.
        task.counts += UNITS[type(event)]
        task.append(event)
        if task.rest is not None:
            task.rest.older_events = None
        task.failed = task.failed or event.fails_task
    elif isinstance(event, Decided):
        task.memory = event
    elif isinstance(event, Observed):
        _set_fields(task, event, _FIELDS)
    elif isinstance(event, Gap):
        task.clear()
        _set_fields(task, event, _FIELDS)
    elif isinstance(event, Placed):
        # Created anew: a fresh state, but what was counted stays counted.
        task.clear()
        task.memory = None
        task.own_rest().fields = {}
        _set_fields(task, ANEW, _FIELDS)
    elif isinstance(event, Updated):
        fields = {name: text for name, text in task.seldom.fields.items() if name not in event.cleared}
        task.own_rest().fields = fields | {name: bytes(text) for name, text in event.fields.items()}


def _set_fields(task: Task, event: Finished | Observed | Gap, names: tuple[str, ...]) -> None:
    """Set each of these fields that the event tells."""
    for name in names:
        value = getattr(event, name, UNSET)
        if value is not UNSET:
            owner = task.own_rest() if name in {"older_events", "hidden"} else task
            setattr(owner, name, _INTERNED.get(value, value) if name == "state" else value)


def evolve(state: TaskState, record: Record, lifecycle: Lifecycle, on_illegal: OnIllegal = "raise") -> TaskState:
    """Return the state after one record; the state that was given stays as it was. O(1).

    >>> from taskfold.events import Started
    >>> from taskfold.fold.lifecycle import lifecycle_of
    >>> record = Record(index=1, alloc="a", version=1, task="web", time_ns=7, event=Started(time_ns=5))
    >>> after = evolve(TaskState(), record, lifecycle_of("0.5.6"))
    >>> after.state, after.started_at_ns, after.counts
    ('running', 7, {'Started': 1})

    Raises IllegalEvent when the table refuses the event.
    """
    task = Task.thaw(state)
    apply(task, record, lifecycle, on_illegal)
    return task.freeze()
