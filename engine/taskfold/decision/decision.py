"""What both clients of Nomad, the old and the new one, have in common when they decide: one decision at work.

A `Client` is made for one input and thrown away. It reads the allocation, which it never changes, and works on copies
of the few fields of a task that decide (`Now`); what it emits moves them by the lifecycle table, as the fold will do.
In the end `step` gives all that was emitted. What is different is in `nomad_0_5` and `nomad_0_9`, beside this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from taskfold.decision.client_state import AllocationLike, Now, TaskLike
from taskfold.decision.group import KILL_ATTEMPTS, Group, TaskPlan, kill_backoff_ns
from taskfold.decision.restart import Random, Result, Tracker, decide_restart
from taskfold.fold.allocation import COMPLETE, FAILED, client_status, current_field
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, Lifecycle, lifecycle_of
from taskfold.fold.status import DISCONNECTED, UNKNOWN, AllocState, is_client_terminal, is_server_terminal, with_status
from taskfold.model import events as ev
from taskfold.model import inputs as given
from taskfold.model.effects import AnyEffect, Collect, KillTask, Outcome, SignalTask, StartTask, Step, Timer, Written
from taskfold.model.events import TaskEvent
from taskfold.model.record import Coordinated, Decided, Finished, Updated

__all__ = ["NOT_RUNNING", "Client"]

NOT_RUNNING = "Task not running"
"""Nomad's words for what cannot be done to a task that does not run."""

_NOTHING = Decided()
_UNCOORDINATED = Coordinated()


class Client:
    """A decision at work."""

    __slots__ = (
        "_coordinated",
        "_effects",
        "_notes",
        "_tasks",
        "_timers",
        "_written",
        "allocation",
        "dialect",
        "died",
        "group",
        "lifecycle",
        "moved",
        "now_ns",
        "outcome",
        "rng",
    )

    def __init__(self, allocation: AllocationLike, group: Group, now_ns: int, rng: Random) -> None:
        self.allocation = allocation
        self.group = group
        self.dialect = group.dialect
        self.lifecycle: Lifecycle = lifecycle_of(group.dialect)
        self.now_ns = now_ns
        self.rng = rng
        self.outcome: Outcome = "decided"
        self._tasks: dict[str, Now] = {}
        self._written: list[Written] = []
        self._effects: list[AnyEffect] = []
        self._timers: list[Timer] = []
        self._notes: list[tuple[str, str]] = []
        self._coordinated: Coordinated | None = None
        self.died = False
        """A task became dead."""
        self.moved = False
        """A task changed its state."""

    # --- what is known ---

    def task(self, name: str) -> Now:
        """Return a task as it stands. Raises UnknownAllocation where neither group nor allocation has this name."""
        found = self._tasks.get(name)
        if found is None:
            known: TaskLike | None = self.allocation.tasks.get(name)
            plan = self.group.plan(name, is_known=known is not None)
            if known is None:
                found = Now(name, plan, PENDING, False, None, _NOTHING, True)  # noqa: FBT003 - in order
            else:
                found = Now(
                    name, plan, known.state or PENDING, known.failed, known.started_at_ns, known.decided or _NOTHING
                )
            self._tasks[name] = found
        return found

    def names(self) -> list[str]:
        """Return the names of all tasks, in the order of the job; those that it does not tell come last."""
        planned = self.group.tasks
        return [*planned, *(name for name in self.allocation.tasks if name not in planned)]

    def all(self) -> list[Now]:
        """Return all tasks that were placed, as they stand, in the order of the job."""
        return [task for name in self.names() if not (task := self.task(name)).is_new]

    @property
    def coordinated(self) -> Coordinated:
        """What is remembered of the allocation as a whole."""
        return self._coordinated or self.allocation.coordinated or _UNCOORDINATED

    def field(self, name: str) -> Any:
        """Return a top-level field of the allocation, decoded; None where it has none."""
        text = current_field(self.allocation.placed, self.allocation.updates, name)
        try:
            return None if text is None else _DECODERS[name](text)
        except msgspec.ValidationError:
            return None

    def is_starting(self, task: Now) -> bool:
        """Tell whether a pending task was to be started by now, so that somebody may be at it."""
        at_ns = task.decided.start_at_ns
        return at_ns is not None and at_ns <= self.now_ns

    # --- what is said ---

    def emit(self, task: Now, event: TaskEvent) -> None:
        """Have an event appended, and move the task as the fold will; one that the dialect lacks is left out."""
        if self.knows(event):
            self._move(task, event if event.time_ns else msgspec.structs.replace(event, time_ns=self.now_ns))

    def knows(self, event: TaskEvent) -> bool:
        """Tell whether the dialect has this type of event: 0.5.0 has neither Task Setup nor Leader Task Dead."""
        return type(event) in self.lifecycle.rules

    def _move(self, task: Now, event: Any) -> None:
        target = self.lifecycle.target(task.state, event)
        if target is None:
            raise self.lifecycle.illegal(task.name, task.state, event)
        self._written.append(Written(task.name, event))
        task.is_new = False
        if isinstance(event, TaskEvent) and event.fails_task:
            task.failed = True
        if target != task.state:
            self.moved = True
            self.died = self.died or target == DEAD
            task.state = target
            if target == RUNNING:
                task.started_at_ns = self.now_ns

    def finish(self, task: Now) -> None:
        """Have the task become dead with no event of its own."""
        self._move(task, Finished())

    def update(self, fields: Mapping[str, Any], cleared: tuple[str, ...] = ()) -> None:
        """Have top-level fields of the allocation changed."""
        texts = {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()}
        self._written.append(Written("", Updated(fields=texts, cleared=cleared)))

    @property
    def client_status(self) -> str:
        """The ClientStatus as it was before the input: as it was told, or as it follows from the tasks."""
        return self.field("ClientStatus") or client_status(self.allocation.tasks.values()) or PENDING

    @property
    def is_over(self) -> bool:
        """Whether the allocation had ended before the input, or was to be stopped: no other task is placed then."""
        tasks = self.allocation.tasks.values()
        return (
            self.is_stopped
            or is_client_terminal(self.field("ClientStatus") or "")
            or (bool(tasks) and all(task.state == DEAD for task in tasks))
        )

    @property
    def is_stopped(self) -> bool:
        """Whether the servers had wanted its end before the input; the client need not have heard of that."""
        return is_server_terminal(self.field("DesiredStatus") or "")

    @property
    def takes_ended(self) -> bool:
        """Whether a task that is placed is taken only to end: the allocation was stopped before its client had it."""
        # A lost one is what its client says, when that comes back. Where no job tells the tasks, the first is all.
        has_room = not self.group.is_open or not self.allocation.tasks
        return self.is_stopped and self.field("ClientStatus") not in {COMPLETE, FAILED} and has_room

    @property
    def has_to_end(self) -> bool:
        """Whether a task lives that nobody has begun to end, as all have to end where the servers want that."""
        waits = self.coordinated.stop_waits or self.coordinated.group_waits  # for the leader's end
        return not waits and any(self._lives_on(task) for task in self.all())

    def _lives_on(self, task: Now) -> bool:
        return not (task.is_dead or task.decided.killed or task.plan.is_poststop)

    def is_unwanted(self, task: Now) -> bool:
        """Tell whether a task is not to run any more, since the servers want its allocation to end."""
        return self.is_stopped and not task.plan.is_poststop

    def tell_status(self, told: str | None, fields: Mapping[str, Any] | None = None) -> None:
        """Tell a ClientStatus that does not follow from the tasks, or with None no such one any more."""
        changed = dict(fields or {}) if told is None else {**(fields or {}), "ClientStatus": told}
        cleared = ["ClientStatus"] if told is None else []
        if told is None and self.field("ClientDescription") == DISCONNECTED:
            cleared.append("ClientDescription")
        states = msgspec.convert(self.field("AllocStates") or [], list[AllocState])
        if told == UNKNOWN or states or self.dialect.lists_lost:
            value = told or client_status(self.allocation.tasks.values()) or PENDING
            changed["AllocStates"] = with_status(states, value, self.now_ns)
        self.update(changed, tuple(cleared))

    def remember(self, task: Now, **changes: Any) -> None:
        """Remember something of a task."""
        task.decided = msgspec.structs.replace(task.decided, **changes)
        task.remembers = True

    def coordinate(self, **changes: Any) -> None:
        """Remember something of the allocation as a whole."""
        self._coordinated = msgspec.structs.replace(self.coordinated, **changes)

    def note(self, task: str, sentence: str, outcome: Outcome | None = None) -> None:
        """Say what was not done, and why."""
        self._notes.append((task, sentence))
        if outcome is not None:
            self.outcome = outcome

    # --- what is owed ---

    def start(self, task: Now) -> None:
        """Have a task started now."""
        self.remember(task, start_at_ns=self.now_ns)
        self._effects.append(StartTask(task=task.name, at_ns=self.now_ns))

    def kill(self, task: Now, delay_ns: int = 0) -> None:
        """Have the process of a task ended: now, or after its shutdown delay."""
        if delay_ns > 0:
            due_ns = self.now_ns + delay_ns
            self.remember(task, kill_at_ns=due_ns)
            self._timers.append(Timer(task=task.name, kind="kill", due_ns=due_ns))
        else:
            attempt = task.decided.kill_attempts + 1
            self.remember(task, kill_attempts=attempt, kill_at_ns=None)
            self.owe_kill(task, attempt)

    def owe_kill(self, task: Now, attempt: int) -> None:
        """Owe the end of a process, without anything to remember."""
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

    def owe_start(self, task: Now, at_ns: int) -> None:
        """Owe a start, without anything to remember."""
        self._effects.append(StartTask(task=task.name, at_ns=at_ns))

    def owe_timer(self, task: Now, due_ns: int) -> None:
        """Owe a report of the time, without anything to remember."""
        self._timers.append(Timer(task=task.name, kind="kill" if task.is_running else "start", due_ns=due_ns))

    def signal(self, task: Now, signal: str) -> None:
        """Have a signal sent."""
        self._effects.append(SignalTask(task=task.name, signal=signal))

    def kill_timeout_ns(self, plan: TaskPlan) -> int:
        """Return how long a process may take to end by itself."""
        return plan.kill_timeout_ns

    # --- what both clients do ---

    def restart(self, task: Now, result: Result) -> None:
        """Do what the restart policy says of a task that ended or could not be started."""
        held = task.decided
        start_ns = held.window_start_ns
        tracker = Tracker(self.now_ns if start_ns is None else start_ns, held.window_count)
        decided = decide_restart(
            task.plan.policy,
            tracker,
            result,
            after_success=task.plan.after_success,
            now_ns=self.now_ns,
            rng=self.rng,
            dialect=self.dialect,
        )
        if decided.decision == "Restarting":
            self._again(task, decided.tracker, decided.delay_ns, decided.reason)
        elif decided.decision == "Not Restarting":
            self._move(task, ev.NotRestarting(time_ns=self.now_ns, restart_reason=decided.reason))
        else:
            if decided.decision == "Killed":
                self._move(task, ev.Killed(time_ns=self.now_ns))
            self.finish(task)

    def _again(self, task: Now, tracker: Tracker, delay_ns: int, reason: str) -> None:
        """Have a task started again after a delay."""
        self._move(task, ev.Restarting(time_ns=self.now_ns, start_delay_ns=delay_ns, restart_reason=reason))
        start_at_ns = self.now_ns + delay_ns
        # Whatever was remembered of ending its process is over with it.
        task.decided = Decided(
            window_start_ns=tracker.window_start_ns, window_count=tracker.count, start_at_ns=start_at_ns
        )
        task.remembers = True
        if delay_ns > 0:
            self._timers.append(Timer(task=task.name, kind="start", due_ns=start_at_ns))
        else:
            self._effects.append(StartTask(task=task.name, at_ns=start_at_ns))

    def terminated(self, exited: given.Exited) -> ev.Terminated:
        """Return the event that says how a process ended."""
        return ev.Terminated(
            time_ns=self.now_ns,
            exit_code=exited.exit_code,
            signal=exited.signal,
            message=exited.error,
            oom_killed=exited.oom_killed,
        )

    def kill_failed(self, task: Now) -> bool:
        """Plan the next attempt to kill; tell whether there is one."""
        attempts = task.decided.kill_attempts
        if attempts >= KILL_ATTEMPTS:
            return False
        due_ns = self.now_ns + kill_backoff_ns(attempts)
        self.remember(task, kill_at_ns=due_ns)
        self._timers.append(Timer(task=task.name, kind="kill", due_ns=due_ns))
        return True

    def doomed(self, task: Now) -> bool:
        """Tell whether the process of a running task is being ended, for good or to be started again."""
        return task.decided.killed or bool(task.decided.restart)

    # --- the end of it ---

    def step(self) -> Step:
        """Return all that was said, with what is to be remembered after what happened."""
        written = self._written
        if self._is_back():
            self.tell_status(None)
        for task in self._tasks.values():
            # Of a dead task nothing needs to be remembered: what comes after its end comes too late.
            if task.remembers and task.state != DEAD:
                written.append(Written(task.name, task.decided))
        if self._coordinated is not None and self._coordinated != self.allocation.coordinated:
            written.append(Written("", self._coordinated))
        if self.died and all(task.is_dead for task in self.all()):
            self._effects.append(Collect())
        return Step(
            alloc=self.allocation.id,
            time_ns=self.now_ns,
            written=tuple(written),
            effects=tuple(self._effects),
            timers=tuple(self._timers),
            outcome=self.outcome,
            notes=tuple(self._notes),
        )

    def _is_back(self) -> bool:
        """Tell whether a client speaks again of an allocation that counted as lost: its tasks tell its status then."""
        if self.field("ClientStatus") not in _AWAY:
            return False
        return any(isinstance(found.event, (TaskEvent, Finished)) for found in self._written)


_AWAY = ("lost", "unknown")

_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "AllocStates": msgspec.json.Decoder(list[Any] | None).decode,
    "ClientDescription": msgspec.json.Decoder(str | None).decode,
    "ClientStatus": msgspec.json.Decoder(str | None).decode,
    "DesiredStatus": msgspec.json.Decoder(str | None).decode,
    "DesiredTransition": msgspec.json.Decoder(dict[str, Any] | None).decode,
    "NetworkStatus": msgspec.json.Decoder(Any).decode,
}
"""What reads the top-level fields that decisions look at."""
