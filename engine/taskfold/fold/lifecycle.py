"""The lifecycle of a task: every rule that moves a state lives in this file.

Theory of operation
===================

A task is **pending**, **running** or **dead**. It is moved by events, one at a time. For each dialect there is one
table, `TABLES`, which says for every event type and every state which state follows:

* a state: the event is legal there, and this is the state afterwards (often the same one);
* ``None``: no Nomad of that dialect does this. The event is *illegal* there: it is refused and nothing changes;
* the event type is not in the table: that Nomad does not know the type. It is *unknown*: kept, never refused,
  and it never moves the state.

Three things surprise those who expect a state machine in Nomad, and the tables show them:

* Nomad has no table. Its code passes the new state beside the event, and a task often becomes dead with **no event at
  all**. So there is an internal event, `Finished`, which is a row like the others.
* **Terminated and Killed do not end a task.** They leave a running task running; what follows settles it:
  `Restarting` (to pending), `Not Restarting` (to dead), or `Finished`.
* **Dead is not the end** in the newest dialect: a dead task may be restarted with its group, and late notes
  (`Killing`, `Alloc Unhealthy`, `Template`) are appended to dead tasks.

Everything else is made from the tables, so that a rule is written once:

* `build_machine` makes a `transitions.Machine`: one trigger per event type, named after its wire string in
  snake_case; rows that keep the state are *internal* transitions, since otherwise enter and exit callbacks would run
  for a `Terminated`. It is the definition that runs whenever somebody listens (see `taskfold.fold.binding`);
* `Lifecycle.rules` is a dense look-up compiled by **asking that machine**, state by state and trigger by trigger, with
  a throw-away probe. It is used when nobody listens, at a hundredth of the cost, and a test proves the two equal;
* `Lifecycle.allowed`, `may` and `explain`, and the diagrams, are read from the machine too.

What the tables cannot say: besides the state, events carry effects on the fields of a task state (Failed, Restarts,
StartedAt, FinishedAt). Those rules are few and live in `taskfold.fold.task`, which asks this module for the next state.

Sources are cited in each row: file and function of Nomad v0.5.6, of the newer code ("new", up to 2.0.6-dev, read
together with recordings of 1.1.2), or "seen" where a recording of a real Nomad shows the pair.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from msgspec import Struct

from taskfold.fold.counts import UNITS
from taskfold.model import events as ev
from taskfold.model.dialect import DIALECTS, Dialect, dialect_of
from taskfold.model.errors import IllegalEvent
from taskfold.model.events import TaskEvent, wire_type
from taskfold.model.record import Finished, InternalEvent

if TYPE_CHECKING:
    from transitions import Machine

__all__ = ["DEAD", "PENDING", "RUNNING", "STATES", "TABLES", "Lifecycle", "Row", "build_machine", "lifecycle_of"]

PENDING: Final = "pending"
RUNNING: Final = "running"
DEAD: Final = "dead"
STATES: Final = (PENDING, RUNNING, DEAD)


class Row(NamedTuple):
    """The state that follows an event, for each state it may arrive in; None where it is illegal."""

    pending: str | None
    running: str | None
    dead: str | None
    source: str


EventClass: TypeAlias = type[TaskEvent] | type[InternalEvent]
LifecycleTable: TypeAlias = dict[EventClass, Row]
LifecycleEvent: TypeAlias = TaskEvent | Finished | type[TaskEvent] | type[Finished]

_TABLE_0_5_6: Final[LifecycleTable] = {
    # To be run: the client has the task and prepares it.
    ev.Received: Row(PENDING, None, None, "task_runner.go MarkReceived; seen"),
    ev.TaskSetup: Row(PENDING, None, None, "task_runner.go buildTaskDir; seen"),
    ev.DownloadingArtifacts: Row(PENDING, None, None, "task_runner.go prestart; seen"),
    ev.FailedArtifactDownload: Row(PENDING, None, None, "task_runner.go prestart; seen"),
    ev.BuildingTaskDirectory: Row(PENDING, None, None, "structs.go constant; no emitter"),
    # The driver's messages force the state to pending, whatever the task does, also while it runs.
    ev.Driver: Row(PENDING, PENDING, PENDING, "task_runner.go createDriver emitter"),
    # It cannot be run.
    ev.SetupFailure: Row(DEAD, DEAD, None, "task_runner.go Run, prestart, updatedTokenHandler; seen"),
    ev.FailedValidation: Row(DEAD, None, None, "task_runner.go Run; seen"),
    ev.DriverFailure: Row(PENDING, None, None, "task_runner.go run after startTask; seen"),
    # It runs, ends, and runs again or not.
    ev.Started: Row(RUNNING, None, None, "task_runner.go run; seen"),
    ev.Terminated: Row(None, RUNNING, None, "task_runner.go run, waitErrorToEvent; seen"),
    ev.Restarting: Row(PENDING, PENDING, None, "task_runner.go shouldRestart; seen"),
    ev.NotRestarting: Row(DEAD, DEAD, None, "task_runner.go shouldRestart; seen"),
    # Somebody asks. Requests to a task that does not run are dropped, so from pending these two are only possible
    # where a driver's message has hidden that it runs; and then they say running again.
    ev.RestartSignaled: Row(RUNNING, RUNNING, None, "task_runner.go run restartCh; seen"),
    ev.Signaling: Row(RUNNING, RUNNING, None, "task_runner.go run signalCh; seen"),
    # It is ended. While it runs, Killing and Killed leave it running until the runner's loop ends (Finished);
    # while it does not, the first of these is the end.
    ev.Killing: Row(DEAD, RUNNING, None, "task_runner.go killTask, or stored as destroy event; seen"),
    ev.Killed: Row(DEAD, RUNNING, DEAD, "task_runner.go killTask, or stored as destroy event, at times twice; seen"),
    ev.SiblingTaskFailed: Row(DEAD, RUNNING, None, "alloc_runner.go setTaskState; seen"),
    ev.LeaderTaskDead: Row(DEAD, RUNNING, None, "alloc_runner.go setTaskState; seen"),
    ev.DiskResourcesExceeded: Row(PENDING, RUNNING, None, "structs.go constant; no emitter"),
    # The end of the runner's loop has no event on the wire; on a dead task it comes again after Not Restarting.
    Finished: Row(DEAD, DEAD, DEAD, "task_runner.go Run, (dead, nil); seen"),
}

_LATER_THAN_0_5_0: Final = {row.cls for row in ev.EVENT_TYPES if not DIALECTS["0.5.0"].has(row.since)}

_TABLE_0_5_0: Final[LifecycleTable] = {cls: row for cls, row in _TABLE_0_5_6.items() if cls not in _LATER_THAN_0_5_0}

_NOTE: Final = (PENDING, RUNNING, DEAD)
"""Appended in any state, and never moves it."""

_TABLE_1_1_2: Final[LifecycleTable] = {
    # To be run. Most events only tell what happened; the state moves with Started, Restarting, Not Restarting.
    ev.Received: Row(PENDING, None, None, "new: task_runner.go NewTaskRunner; seen"),
    ev.TaskSetup: Row(PENDING, None, None, "new: task_dir_hook.go; seen"),
    ev.DownloadingArtifacts: Row(PENDING, None, None, "new: artifact_hook.go; seen"),
    ev.FailedArtifactDownload: Row(PENDING, None, None, "new: artifact_hook.go; seen"),
    ev.BuildingTaskDirectory: Row(PENDING, None, None, "structs.go constant; no emitter"),
    ev.Driver: Row(*_NOTE, "new: alloc_runner.go GetTaskEventHandler"),
    # It cannot be run: a Not Restarting or Finished that follows makes it dead.
    ev.SetupFailure: Row(PENDING, RUNNING, None, "new: task_runner.go MarkFailedKill; seen"),
    ev.FailedValidation: Row(PENDING, None, None, "new: task_runner.go runDriver; seen"),
    ev.DriverFailure: Row(PENDING, None, None, "new: task_runner.go runDriver; seen"),
    # It runs, ends, and runs again or not. From dead: restarted with its whole group (since 1.3.4).
    # From pending, Terminated and Killed follow a shutdown delay, which shows a running task as pending (since 1.5.0).
    ev.Started: Row(RUNNING, None, RUNNING, "new: task_runner.go runDriver; seen"),
    ev.Terminated: Row(PENDING, RUNNING, None, "new: task_runner.go emitExitResultEvent; seen"),
    ev.Restarting: Row(PENDING, PENDING, PENDING, "new: task_runner.go shouldRestart; seen"),
    ev.NotRestarting: Row(DEAD, DEAD, None, "new: task_runner.go shouldRestart; seen"),
    # Somebody asks.
    ev.RestartSignaled: Row(None, RUNNING, DEAD, "new: client.go RestartAllocation, with all tasks also dead; seen"),
    ev.Signaling: Row(None, RUNNING, None, "new: alloc_runner.go Signal; seen"),
    # It is ended. A Killing is appended even to tasks of the group that are dead already.
    ev.Killing: Row(*_NOTE, "new: alloc_runner.go killTasks; seen"),
    ev.Killed: Row(PENDING, RUNNING, None, "new: task_runner.go shouldRestart; seen"),
    ev.WaitingForShutdownDelay: Row(PENDING, PENDING, None, "new: task_runner.go handleKill"),
    ev.SkippingShutdownDelay: Row(PENDING, PENDING, None, "new: task_runner.go handleKill"),
    ev.SiblingTaskFailed: Row(PENDING, RUNNING, None, "new: alloc_runner.go handleTaskStateUpdates; seen"),
    ev.LeaderTaskDead: Row(PENDING, RUNNING, None, "new: alloc_runner.go handleTaskStateUpdates; seen"),
    ev.MainTasksDead: Row(PENDING, RUNNING, None, "new: alloc_runner.go handleTaskStateUpdates; seen"),
    ev.DiskResourcesExceeded: Row(PENDING, RUNNING, None, "structs.go constant; no emitter"),
    # The client was restarted and found the task gone.
    ev.FailedRestoringTask: Row(PENDING, PENDING, None, "new: task_runner.go Restore; seen"),
    # Notes.
    ev.Generic: Row(*_NOTE, "Nomad 0.6.1 to 0.7.0, a message"),
    ev.Template: Row(*_NOTE, "new: template.go handleFirstRender; seen"),
    ev.AllocUnhealthy: Row(*_NOTE, "new: alloc_runner_hooks.go SetHealth; seen"),
    ev.TaskHookFailed: Row(*_NOTE, "new: task_runner_hooks.go emitHookError; seen"),
    ev.TaskHookMessage: Row(*_NOTE, "new: template.go, script or skipped signal"),
    ev.PluginBecameHealthy: Row(*_NOTE, "new: plugin_supervisor_hook.go"),
    ev.PluginBecameUnhealthy: Row(*_NOTE, "new: plugin_supervisor_hook.go"),
    ev.Reconnected: Row(*_NOTE, "new: alloc_runner.go Reconnect"),
    ev.Pausing: Row(*_NOTE, "new: task_sched.go, enterprise"),
    ev.Running: Row(*_NOTE, "new: task_sched.go, enterprise"),
    Finished: Row(DEAD, DEAD, DEAD, "new: task_runner.go Run, (dead, nil); seen"),
}

TABLES: Final[dict[str, LifecycleTable]] = {"0.5.0": _TABLE_0_5_0, "0.5.6": _TABLE_0_5_6, "1.1.2": _TABLE_1_1_2}
"""The lifecycle of each dialect."""


def trigger_name(cls: EventClass) -> str:
    """Return the name of the trigger of an event type: its wire string in snake_case.

    >>> trigger_name(ev.SiblingTaskFailed), trigger_name(ev.TaskHookFailed)
    ('sibling_task_failed', 'task_hook_failed')
    """
    return str(cls.__struct_config__.tag).lower().replace(" ", "_")


def build_machine(dialect: str | Dialect) -> Machine:
    """Return a new machine of this dialect's table, without a model.

    The states are pending, running and dead; there is one trigger per event type; a row that keeps the state is an
    internal transition; nothing is automatic, and an illegal trigger raises ``transitions.MachineError``.
    """
    # A program that only reads Nomad's JSON needs no machine.
    from transitions import Machine

    name = dialect_of(dialect).name
    machine = Machine(
        model=None,
        states=list(STATES),
        initial=PENDING,
        auto_transitions=False,
        ignore_invalid_triggers=False,
        send_event=True,
        name=f"task lifecycle {name}",
    )
    for cls, row in TABLES[name].items():
        for state, target in zip(STATES, row[:3], strict=True):
            if target is not None:
                machine.add_transition(trigger_name(cls), state, None if target == state else target)
    return machine


class _Probe:
    """A throw-away model: what the machine is asked with."""

    state = PENDING


def _ask(machine: Machine, trigger: str, state: str) -> str | None:
    """Return the state in which the machine leaves a model that is in this state; None when it refuses."""
    from transitions import MachineError

    probe: Any = _Probe()
    probe.state = state
    try:
        machine.events[trigger].trigger(probe)
    except MachineError:
        return None
    return str(probe.state)


class Rule(Struct, frozen=True):
    """The compiled rules of an event type."""

    targets: dict[str, str | None]
    """The state that follows, by the state it arrives in; None where it is illegal."""
    unit: int
    """The amount that one such event adds to the packed counts of a task; 0 for an internal event."""
    may_fail: bool
    """Whether events of this type have FailsTask as a field; for others it can only be kept."""
    text: str
    """Its field with a text of drivers and hooks; empty without one."""


def _text_of(cls: type[Struct]) -> str:
    """Return the first field that is a text; empty without one."""
    # Every field of an event has a default, and that of a text is the empty one.
    defaults = zip(cls.__struct_fields__, cls.__struct_defaults__, strict=False)
    return next((name for name, default in defaults if default == ""), "")


class Lifecycle:
    """The compiled lifecycle of one dialect: made from its machine, and immutable."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.machine = build_machine(dialect)
        self.rules: dict[type[Any], Rule] = {
            cls: Rule(
                # Interned, so that states can be told apart with `is`, which is faster.
                self._targets(cls),
                UNITS[cls] if issubclass(cls, TaskEvent) else 0,
                "fails_task" in cls.__struct_fields__,
                _text_of(cls),
            )
            for cls in TABLES[dialect.name]
        }

    def __repr__(self) -> str:
        """Return whose lifecycle it is, and how much it knows."""
        return f"<Lifecycle of dialect {self.dialect.name}: {len(self.rules)} event types, {len(STATES)} states>"

    def _targets(self, cls: EventClass) -> dict[str, str | None]:
        """Return what the machine does with this event in each state; one that is not told is pending, as in Nomad."""
        targets = {state: _interned(_ask(self.machine, trigger_name(cls), state)) for state in STATES}
        return targets | {"": targets[PENDING]}

    def target(self, state: str, event: LifecycleEvent) -> str | None:
        """Return the state after this event; None when it is illegal there. An unknown type keeps the state. O(1).

        >>> from taskfold import events
        >>> lifecycle_of("1.1.2").target("running", events.Restarting())
        'pending'
        """
        rule = self.rules.get(event if isinstance(event, type) else type(event))
        # Look-ups use `get` here and below; a coverage watcher notes the subscript of `task.apply`.
        return state if rule is None else rule.targets.get(state)

    def may(self, state: str, event: LifecycleEvent) -> bool:
        """Tell whether the event is legal (or unknown, which is never refused) in this state. O(1)."""
        return self.target(state, event) is not None

    def allowed(self, state: str) -> tuple[str, ...]:
        """Return the wire types that are legal in this state, in the order of the table. O(types).

        >>> lifecycle_of("0.5.6").allowed("dead")
        ('Driver', 'Killed')
        """
        return tuple(
            str(cls.__struct_config__.tag)
            for cls, rule in self.rules.items()
            if rule.targets.get(state) is not None and issubclass(cls, TaskEvent)
        )

    def explain(self, state: str, event: LifecycleEvent) -> str:
        """Say in a sentence what the event does in this state, and where the rule comes from.

        >>> from taskfold import events
        >>> print(lifecycle_of("0.5.6").explain("running", events.Terminated()))
        Terminated leaves a running task running (0.5.6: task_runner.go run, waitErrorToEvent; seen).
        """
        cls: EventClass = event if isinstance(event, type) else type(event)
        name = wire_type(event) if isinstance(event, TaskEvent) else str(cls.__struct_config__.tag)
        row = TABLES[self.dialect.name].get(cls)
        if row is None:
            return f"{name} is not a type of dialect {self.dialect.name}: it is kept and leaves a {state} task {state}."
        source = f"({self.dialect.name}: {row.source})"
        target = self.target(state, event)
        if target is None:
            legal = " or ".join(s for s in STATES if self.target(s, event) is not None)
            return f"{name} is illegal for a {state} task; it is legal for a task that is {legal} {source}."
        if target == state:
            return f"{name} leaves a {state} task {state} {source}."
        return f"{name} moves a {state} task to {target} {source}."

    def illegal(self, task: str, state: str, event: TaskEvent | Finished) -> IllegalEvent:
        """Return the error that names the task, its state, the event and what would be allowed."""
        return IllegalEvent(
            task=task,
            state=state,
            event=wire_type(event),
            allowed=self.allowed(state),
            dialect=self.dialect.name,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the table: a log or a checkpoint carries it, so that another table is noticed."""
        import hashlib

        rows = sorted(
            (trigger_name(cls), *(rule.targets.get(s) or "-" for s in STATES)) for cls, rule in self.rules.items()
        )
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _interned(state: str | None) -> str | None:
    """Return the module's own object for this state."""
    return None if state is None else STATES[STATES.index(state)]


@cache
def _lifecycle(name: str) -> Lifecycle:
    return Lifecycle(dialect_of(name))


def lifecycle_of(dialect: str | Dialect) -> Lifecycle:
    """Return the compiled lifecycle of a dialect; it is made once.

    Raises DialectError for a name that is not a dialect.
    """
    return _lifecycle(dialect_of(dialect).name)
