"""One decision at work: what the rule books of both generations of Nomad's client have in common.

A `Decision` is made for one report and thrown away. It reads an allocation, which it never changes, and works on copies
of its tasks (`TaskInHand`). Every event that it writes moves the copy by `taskfold.fold.task.apply`, the rule by which
the fold will move the task itself. In the end `step` returns all that was written and is owed. What the generations do
differently is in `nomad_0_5` and `nomad_0_9`, beside this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from taskfold.decision.group import KILL_ATTEMPTS, Group, TaskPlan, kill_backoff_ns
from taskfold.decision.restart import Random, TaskEnd, Tracker, decide_restart
from taskfold.fold.allocation import COMPLETE, FAILED, Allocation, AllocationState, client_status, current_field
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, STATES, Lifecycle, lifecycle_of
from taskfold.fold.status import DISCONNECTED, UNKNOWN, AllocState, is_client_terminal, is_server_terminal, with_status
from taskfold.fold.task import Task, apply
from taskfold.model import events as ev
from taskfold.model import inputs
from taskfold.model.effects import (
    AnyEffect,
    KillTask,
    Outcome,
    ReleaseResources,
    SignalTask,
    StartTask,
    Step,
    StepWrite,
    Timer,
)
from taskfold.model.events import TaskEvent
from taskfold.model.record import Coordinated, Decided, Finished, Record, Updated

__all__ = ["NOT_RUNNING", "Decision", "FoldedAllocation", "TaskInHand"]

NOT_RUNNING = "Task not running"
"""Nomad's words for what cannot be done to a task that does not run."""

FoldedAllocation: TypeAlias = Allocation | AllocationState
"""The allocation that a decision reads: the fold's own, or a state that was handed out."""

_NO_MEMORY: Final = Decided()
_NO_COORDINATION: Final = Coordinated()
_STATES: Final = {state: state for state in STATES}
"""The objects by which `apply` tells states apart; a task without a state is pending, as in Nomad."""
_AWAY: Final = ("lost", "unknown")
"""The ClientStatus of an allocation whose client the servers cannot reach."""


class TaskInHand(Task, kw_only=True, gc=False):
    """A copy of a task, as it stands in the middle of a decision; `taskfold.fold.task.apply` moves it.

    The copy has what rules ask of a task: state, failure and start. Its ring begins empty.
    """

    name: str
    plan: TaskPlan
    is_new: bool = False
    """No record of the task was ever written."""
    memory: Decided = _NO_MEMORY
    """The memory that decisions have of the task; written at the end, if it changed."""
    memory_before: Decided = _NO_MEMORY

    @property
    def is_dead(self) -> bool:
        """Whether the task is dead."""
        return self.state == DEAD

    @property
    def is_pending(self) -> bool:
        """Whether the task is pending."""
        return self.state == PENDING

    @property
    def is_running(self) -> bool:
        """Whether the task is running."""
        return self.state == RUNNING

    @property
    def is_doomed(self) -> bool:
        """Whether the process of a running task is being ended, for good or to be started again."""
        return self.memory.killed or bool(self.memory.restart)


class Decision:
    """A decision at work."""

    __slots__ = (
        "_effects",
        "_entries",
        "_memory",
        "_notes",
        "_tasks",
        "_timers",
        "allocation",
        "dialect",
        "group",
        "has_death",
        "has_move",
        "lifecycle",
        "now_ns",
        "outcome",
        "rng",
    )

    def __init__(self, allocation: FoldedAllocation, group: Group, now_ns: int, rng: Random) -> None:
        self.allocation = allocation
        self.group = group
        self.dialect = group.dialect
        self.lifecycle: Lifecycle = lifecycle_of(group.dialect)
        self.now_ns = now_ns
        self.rng = rng
        self.outcome: Outcome = "decided"
        self._tasks: dict[str, TaskInHand] = {}
        self._entries: list[StepWrite] = []
        self._effects: list[AnyEffect] = []
        self._timers: list[Timer] = []
        self._notes: list[tuple[str, str]] = []
        self._memory: Coordinated | None = None
        self.has_death = False
        """A task became dead."""
        self.has_move = False
        """A task changed its state."""

    # --- what it reads ---

    def task(self, name: str) -> TaskInHand:
        """Return a task as it stands. Raises UnknownTask if neither group nor allocation has a task of this name.

        O(1).
        """
        task = self._tasks.get(name)
        if task is not None:
            return task
        state = self.allocation.tasks.get(name)
        plan = self.group.tasks.get(name) or self.group.plan(name, is_recorded=state is not None)
        if state is None:
            task = TaskInHand(name=name, plan=plan, is_new=True)
        else:
            memory = state.memory or _NO_MEMORY
            task = TaskInHand(
                name=name,
                plan=plan,
                state=_STATES.get(state.state, PENDING),
                failed=state.failed,
                started_at_ns=state.started_at_ns,
                memory=memory,
                memory_before=memory,
            )
        self._tasks[name] = task
        return task

    def names(self) -> list[str]:
        """Return the names of all tasks: those of the job in its order, then those that the job does not have."""
        plans = self.group.tasks
        return [*plans, *(name for name in self.allocation.tasks if name not in plans)]

    def tasks(self) -> list[TaskInHand]:
        """Return all tasks that have a record, as they stand, in the order of `names`."""
        return [task for name in self.names() if not (task := self.task(name)).is_new]

    @property
    def memory(self) -> Coordinated:
        """The memory that decisions have of the allocation as a whole."""
        return self._memory or self.allocation.memory or _NO_COORDINATION

    def field(self, name: str) -> Any:
        """Return a top-level field of the allocation, decoded; None if the allocation does not have it."""
        text = current_field(self.allocation.placed_body, self.allocation.updates, name)
        try:
            return None if text is None else _DECODERS[name](text)
        except msgspec.ValidationError:
            return None

    def is_starting(self, task: TaskInHand) -> bool:
        """Tell whether the time to start a pending task has come, so that a driver may be at it."""
        at_ns = task.memory.start_at_ns
        return at_ns is not None and at_ns <= self.now_ns

    @property
    def client_status(self) -> str:
        """The ClientStatus before the input: as a server or client set it, else as it follows from the tasks."""
        return self.field("ClientStatus") or client_status(self.allocation.tasks.values()) or PENDING

    @property
    def is_over(self) -> bool:
        """Whether the allocation had ended before the input, or had to stop: no task begins in it any more."""
        tasks = self.allocation.tasks.values()
        return (
            self.is_stopped
            or is_client_terminal(self.field("ClientStatus") or "")
            or (bool(tasks) and all(task.state == DEAD for task in tasks))
        )

    @property
    def is_stopped(self) -> bool:
        """Whether the servers had asked for the end before the input; the client need not have heard of it."""
        return is_server_terminal(self.field("DesiredStatus") or "")

    @property
    def takes_ended(self) -> bool:
        """Whether a task that is placed is taken only to end: the allocation was stopped before its client had it."""
        # A lost allocation is what its client says, when that comes back. Without a job the first task is all there is.
        has_room = not self.group.is_open or not self.allocation.tasks
        return self.is_stopped and self.field("ClientStatus") not in {COMPLETE, FAILED} and has_room

    @property
    def has_to_end(self) -> bool:
        """Whether a task lives that nothing ends yet, though the servers ask for the end of all."""
        waits_for_leader = self.memory.stop_waits or self.memory.group_waits
        return not waits_for_leader and any(_lives_on(task) for task in self.tasks())

    def is_unwanted(self, task: TaskInHand) -> bool:
        """Tell whether a task must not run any more, since the servers ask for the end of its allocation."""
        return self.is_stopped and not task.plan.is_poststop

    def kill_timeout_ns(self, plan: TaskPlan) -> int:
        """Return how long a process may take to end by itself (nanoseconds)."""
        return plan.kill_timeout_ns

    # --- what it writes ---

    def emit(self, task: TaskInHand, event: TaskEvent) -> None:
        """Write an event now, and move the task as the fold will; an event that the dialect lacks is left out."""
        if type(event) in self.lifecycle.rules:
            self._write(task, event if event.time_ns else msgspec.structs.replace(event, time_ns=self.now_ns))

    def has_event(self, event: TaskEvent) -> bool:
        """Tell whether the dialect has this type of event: 0.5.0 has neither Task Setup nor Leader Task Dead."""
        return type(event) in self.lifecycle.rules

    def _write(self, task: TaskInHand, event: Any) -> None:
        """Write an event of the dialect, which moves the task. Raises IllegalEvent."""
        before, name = task.state, task.name
        apply(
            task,
            Record(index=0, alloc="", version=0, task=name, time_ns=self.now_ns, event=event),
            self.lifecycle,
        )
        self._entries.append(StepWrite(name, event))
        task.is_new = False
        if task.state != before:
            self.has_move = True
            self.has_death = self.has_death or task.is_dead

    def finish(self, task: TaskInHand) -> None:
        """Make the task dead without an event of its own."""
        self._write(task, Finished())

    def update(self, fields: Mapping[str, Any], cleared: tuple[str, ...] = ()) -> None:
        """Change top-level fields of the allocation."""
        texts = {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()}
        self._entries.append(StepWrite("", Updated(fields=texts, cleared=cleared)))

    def set_status(self, status: str | None, fields: Mapping[str, Any] | None = None) -> None:
        """Set a ClientStatus that does not follow from the tasks; None makes it follow from them again."""
        changes = dict(fields or {})
        cleared: list[str] = []
        if status is not None:
            changes["ClientStatus"] = status
        else:
            cleared.append("ClientStatus")
            if self.field("ClientDescription") == DISCONNECTED:
                cleared.append("ClientDescription")
        states = msgspec.convert(self.field("AllocStates") or [], list[AllocState])
        if status == UNKNOWN or states or self.dialect.lists_lost:
            value = status or client_status(self.allocation.tasks.values()) or PENDING
            changes["AllocStates"] = with_status(states, value, self.now_ns)
        self.update(changes, tuple(cleared))

    def remember(self, task: TaskInHand, **changes: Any) -> None:
        """Change what decisions remember of a task."""
        task.memory = msgspec.structs.replace(task.memory, **changes)

    def coordinate(self, **changes: Any) -> None:
        """Change what decisions remember of the allocation as a whole."""
        self._memory = msgspec.structs.replace(self.memory, **changes)

    def note(self, task: str, sentence: str, outcome: Outcome | None = None) -> None:
        """Add a sentence that says what was not done, and why; set the outcome."""
        self._notes.append((task, sentence))
        if outcome is not None:
            self.outcome = outcome

    # --- what the embedder owes ---

    def start(self, task: TaskInHand) -> None:
        """Start a task now."""
        self.remember(task, start_at_ns=self.now_ns)
        self.owe_start(task, self.now_ns)

    def kill(self, task: TaskInHand, delay_ns: int = 0) -> None:
        """End the process of a task, now or after its shutdown delay (nanoseconds)."""
        if delay_ns > 0:
            self._kill_at(task, self.now_ns + delay_ns)
        else:
            attempt = task.memory.kill_attempts + 1
            self.remember(task, kill_attempts=attempt, kill_at_ns=None)
            self.owe_kill(task, attempt)

    def kill_again(self, task: TaskInHand) -> bool:
        """Plan the next attempt to kill a task; return False if there is none left."""
        attempts = task.memory.kill_attempts
        if attempts >= KILL_ATTEMPTS:
            return False
        self._kill_at(task, self.now_ns + kill_backoff_ns(attempts))
        return True

    def _kill_at(self, task: TaskInHand, due_ns: int) -> None:
        """Plan a kill at this time."""
        self.remember(task, kill_at_ns=due_ns)
        self._timers.append(Timer(task=task.name, kind="kill", due_ns=due_ns))

    def owe_kill(self, task: TaskInHand, attempt: int) -> None:
        """Owe the end of a process; nothing is remembered."""
        timeout_ns = self.kill_timeout_ns(task.plan)
        self._effects.append(
            KillTask(
                task=task.name,
                signal=task.plan.kill_signal,
                timeout_ns=timeout_ns,
                hard_at_ns=self.now_ns + timeout_ns,
                attempt=attempt,
            )
        )

    def owe_start(self, task: TaskInHand, at_ns: int) -> None:
        """Owe a start; nothing is remembered."""
        self._effects.append(StartTask(task=task.name, at_ns=at_ns))

    def owe_timer(self, task: TaskInHand, due_ns: int) -> None:
        """Owe a report of the time; nothing is remembered."""
        self._timers.append(Timer(task=task.name, kind="kill" if task.is_running else "start", due_ns=due_ns))

    def signal(self, task: TaskInHand, signal: str) -> None:
        """Owe a signal to the process of a task."""
        self._effects.append(SignalTask(task=task.name, signal=signal))

    # --- what both generations do ---

    def restart(self, task: TaskInHand, result: TaskEnd) -> None:
        """Apply the restart policy to a task that ended or could not be started."""
        memory = task.memory
        start_ns = memory.window_start_ns
        tracker = Tracker(self.now_ns if start_ns is None else start_ns, memory.window_count)
        verdict = decide_restart(
            task.plan.policy,
            tracker,
            result,
            after_success=task.plan.after_success,
            now_ns=self.now_ns,
            rng=self.rng,
            dialect=self.dialect,
        )
        if verdict.decision == "Restarting":
            self._start_again(task, verdict.tracker, verdict.delay_ns, verdict.reason)
        elif verdict.decision == "Not Restarting":
            self._write(task, ev.NotRestarting(time_ns=self.now_ns, restart_reason=verdict.reason))
        else:
            if verdict.decision == "Killed":
                self._write(task, ev.Killed(time_ns=self.now_ns))
            self.finish(task)

    def _start_again(self, task: TaskInHand, tracker: Tracker, delay_ns: int, reason: str) -> None:
        """Start a task again after a delay (nanoseconds)."""
        self._write(task, ev.Restarting(time_ns=self.now_ns, start_delay_ns=delay_ns, restart_reason=reason))
        start_at_ns = self.now_ns + delay_ns
        # The memory is a new one: ending the old process is over.
        task.memory = Decided(
            window_start_ns=tracker.window_start_ns, window_count=tracker.count, start_at_ns=start_at_ns
        )
        if delay_ns > 0:
            self._timers.append(Timer(task=task.name, kind="start", due_ns=start_at_ns))
        else:
            self.owe_start(task, start_at_ns)

    def terminated(self, exit: inputs.Exited) -> ev.Terminated:
        """Return the event that tells how a process ended."""
        return ev.Terminated(
            time_ns=self.now_ns,
            exit_code=exit.exit_code,
            signal=exit.signal,
            message=exit.error,
            oom_killed=exit.oom_killed,
        )

    # --- the end of it ---

    def step(self) -> Step:
        """Return the decision: the events, the memory for later decisions, and the effects owed.

        O(tasks that were touched), or O(tasks of the group) if one died.
        """
        entries = self._entries
        if self._is_back():
            self.set_status(None)
        for task in self._tasks.values():
            # Of a dead task nothing is remembered: every input comes too late for it.
            if task.memory is not task.memory_before and task.state != DEAD:
                entries.append(StepWrite(task.name, task.memory))
        if self._memory is not None and self._memory != self.allocation.memory:
            entries.append(StepWrite("", self._memory))
        if self.has_death and all(task.is_dead for task in self.tasks()):
            self._effects.append(ReleaseResources())
        return Step(
            alloc=self.allocation.id,
            time_ns=self.now_ns,
            writes=tuple(entries),
            effects=tuple(self._effects),
            timers=tuple(self._timers),
            outcome=self.outcome,
            notes=tuple(self._notes),
        )

    def _is_back(self) -> bool:
        """Tell whether the client of a lost allocation speaks again: its tasks tell its status then."""
        text = current_field(self.allocation.placed_body, self.allocation.updates, "ClientStatus")
        if text is None or self.field("ClientStatus") not in _AWAY:  # most allocations have none
            return False
        return any(isinstance(entry.event, (TaskEvent, Finished)) for entry in self._entries)


def _lives_on(task: TaskInHand) -> bool:
    """Tell whether a task lives that a stop of its allocation has to end."""
    return not (task.is_dead or task.memory.killed or task.plan.is_poststop)


_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "AllocStates": msgspec.json.Decoder(list[Any] | None).decode,
    "ClientDescription": msgspec.json.Decoder(str | None).decode,
    "ClientStatus": msgspec.json.Decoder(str | None).decode,
    "DesiredStatus": msgspec.json.Decoder(str | None).decode,
    "DesiredTransition": msgspec.json.Decoder(dict[str, Any] | None).decode,
    "NetworkStatus": msgspec.json.Decoder(Any).decode,
}
"""The decoders of the top-level fields that decisions read."""
