"""The rules of decisions: the consequences of an input, as Nomad's client decides them.

Theory of operation
===================

`decide` takes the folded state of an allocation, an input, the time and a source of randomness. It returns a `Step`:
events to append, effects that the embedder owes, and timers. It changes nothing, and equal arguments get equal answers.
The answer is recorded, so that a replay never decides again. What no event can tell (an open restart window, a kill
under way) is recorded as internal events.

An input meets a task in one of four places, and `RULES` tells which of them it fits:

* **pending**: the task waits for others, for its delay, or for a driver that is starting it;
* **running**;
* **ending**: the task still runs, but its process is being ended, for good or to be started again;
* **dead**.

If an input does not fit, nothing is appended, and the outcome of the step tells why: ``late`` after the end of what the
input is about, ``repeated`` when the input was taken before, ``impossible`` when the task is not where it has to be. So
a driver does no harm that reports an exit twice, or a start after a kill; in the latter case the effect is a kill.

The rule books of the two generations of Nomad's client are `nomad_0_5` and `nomad_0_9`, beside this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from taskfold.decision.decision import Decision, FoldedAllocation, TaskInHand
from taskfold.decision.group import Group
from taskfold.decision.nomad_0_5 import Nomad05
from taskfold.decision.nomad_0_9 import Nomad09
from taskfold.decision.restart import Random
from taskfold.fold.lifecycle import PENDING, RUNNING
from taskfold.fold.status import DISCONNECTED, UNKNOWN, is_client_terminal
from taskfold.fold.task import Task, TaskState
from taskfold.model import events as ev
from taskfold.model import inputs
from taskfold.model.effects import Outcome, Step
from taskfold.model.errors import InputRefused
from taskfold.model.events import wire_type
from taskfold.model.inputs import NEW_CLIENT_ONLY, OF_ALLOCATION, OF_EITHER, Input
from taskfold.model.record import Decided

__all__ = ["ALLOCATION_RULES", "HEARS", "RULES", "Place", "decide", "decide_all", "due_of", "owed", "place_of"]

Place: TypeAlias = Literal["pending", "running", "ending", "dead"]
"""Place an input meets a task."""

RuleBook: TypeAlias = Nomad05 | Nomad09
"""A decision by the rules of one generation of Nomad's client."""

_RULE_BOOKS: Final[dict[bool, type[RuleBook]]] = {False: Nomad05, True: Nomad09}
"""The rule book by whether the dialect has the new client."""


def decide(
    allocation: FoldedAllocation, group: Group, input: Input, *, task: str = "", now_ns: int, rng: Random
) -> Step:
    """Return what follows from an input at this time (unix nanoseconds).

    O(1), or O(tasks of the group) if a task dies or the input is about all of them.

    >>> import random
    >>> from taskfold.fold.allocation import Allocation
    >>> from taskfold.model.policy import RestartPolicy
    >>> from taskfold.decision.group import TaskPlan
    >>> policy = RestartPolicy(attempts=2, interval_ns=60 * 10**9, delay_ns=10**9, mode="fail")
    >>> group = Group.of([TaskPlan(name="web", policy=policy)], "1.1.2")
    >>> step = decide(Allocation("a"), group, inputs.PlacementReceived(), now_ns=5, rng=random.Random(1))
    >>> step.events, step.effects
    ((('web', Received(time_ns=5, extras=None)),), (StartTask(task='web', at_ns=5),))

    Raises InputRefused for an input that the dialect lacks, for a task that is named or missing against the rule of the
    input, and for a negative exit code. Raises UnknownTask for a task that the group does not have.
    """
    return decide_all(allocation, group, ((task, input),), now_ns=now_ns, rng=rng)


def decide_all(
    allocation: FoldedAllocation, group: Group, reports: Sequence[tuple[str, Input]], *, now_ns: int, rng: Random
) -> Step:
    """Return what follows from inputs that were learnt together, each with its task, as `decide` does from one.

    What follows for the group follows after the last of them: no task is ended because of another that ended with it.
    O(inputs and tasks of the group). Raises as `decide` does, if any input is refused.
    """
    decision: RuleBook = _RULE_BOOKS[group.dialect.has_new_client](allocation, group, now_ns, rng)
    outcomes: list[Outcome] = []
    hears = False
    for task, report in reports:
        if not task and len(reports) > 1:
            raise InputRefused(
                f"{wire_type(report)}: what is reported together happens to tasks, name the task of each"
            )
        decision.outcome = "decided"
        _take(decision, task, report)
        outcomes.append(decision.outcome)
        hears = hears or type(report) in HEARS
    if len(outcomes) > 1:
        decision.outcome = _of_all(outcomes)
    if hears and decision.is_stopped and decision.has_to_end:
        decision.stop()
    if decision.has_death or decision.has_move:
        decision.settle()
    return decision.step()


def _of_all(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of several reports: decided if any was decided."""
    return "decided" if "decided" in outcomes or not outcomes else outcomes[0]


def _take(decision: RuleBook, task: str, report: Input) -> None:
    """Take one input. Raises InputRefused and UnknownTask."""
    kind, group = type(report), decision.group
    if kind in NEW_CLIENT_ONLY and not group.dialect.has_new_client:
        raise InputRefused(f"{wire_type(report)} does not exist in dialect {group.dialect.name}")
    if isinstance(report, inputs.Exited) and report.exit_code is not None and report.exit_code < 0:
        raise InputRefused(
            f"$.ExitCode: {report.exit_code} is no exit code; a process that signal n ended has 128 + n, and the "
            "signal: report `Exited.of_returncode(process.returncode)`"
        )
    if task:
        if kind in OF_ALLOCATION:
            raise InputRefused(f"{wire_type(report)} is of an allocation, not of a task: leave {task!r} out")
        _of_task(decision, decision.task(task), report)
    elif kind in OF_ALLOCATION or kind in OF_EITHER:
        ALLOCATION_RULES[kind](decision, report)
    else:
        raise InputRefused(f"{wire_type(report)} happens to a task: name it")


HEARS: Final = frozenset({inputs.PlacementReceived, inputs.Restored, inputs.ServerContacted, inputs.NodeReconnected})
"""The inputs by which a client hears what the servers ask for; while it was away, it did not hear of a stop."""


# --- of a task ---


class _Rule(NamedTuple):
    """The rule of an input about a task."""

    does: Callable[[Any, TaskInHand, Any], None]
    """The consequences if the input fits."""
    fits: tuple[Place, ...]
    otherwise: Mapping[Place, Outcome] = {}
    """The outcome elsewhere; by default late for a dead task, else impossible."""


def _of_task(decision: RuleBook, task: TaskInHand, report: Input) -> None:
    if task.is_new and decision.is_over and not (isinstance(report, inputs.PlacementReceived) and decision.takes_ended):
        decision.note(task.name, _OVER, "late")
        _owe_end(decision, task, report)
        return
    if task.is_new and decision.group.is_open:
        decision.note(task.name, _NO_JOB)
    does, fits, otherwise = RULES[type(report)]
    place = place_of(task)
    if place in fits:
        does(decision, task, report)
        return
    if place == "running" and isinstance(decision, Nomad05) and decision.started_anew(task, report):
        return
    outcome = otherwise.get(place, "late" if place == "dead" else "impossible")
    decision.note(task.name, _why(task, place, report), outcome)
    if place == "dead":
        _owe_end(decision, task, report)


def _owe_end(decision: Decision, task: TaskInHand, report: Input) -> None:
    """Owe a kill of a process that was started after the end of its task."""
    if isinstance(report, inputs.ProcessStarted):
        decision.owe_kill(task, 1)


def place_of(task: TaskInHand) -> Place:
    """Return where an input meets a task. O(1)."""
    state = task.state
    if state == RUNNING:
        return "ending" if task.is_doomed else "running"
    return "pending" if state == PENDING else "dead"


def _why(task: TaskInHand, place: Place, report: Input) -> str:
    """Return why an input does not fit."""
    name = wire_type(report)
    if place == "ending":
        return f"{name} comes too late: the task's process is being ended"
    state = "not known to be placed yet" if task.is_new else task.state
    return f"{name} does not fit: the task is {state}"


def _started(decision: RuleBook, task: TaskInHand, _: inputs.ProcessStarted) -> None:
    decision.emit(task, ev.Started(time_ns=decision.now_ns))
    if task.memory.killed:
        # The task was killed while it was being started: the process that runs now has to end.
        decision.end_started(task)


def _place_one(decision: RuleBook, task: TaskInHand, _: inputs.PlacementReceived) -> None:
    if task.is_new:
        if decision.is_stopped:
            decision.take_ended(task)
        else:
            decision.place(task)
        decision.has_move = True
    else:
        decision.note(task.name, "the task is placed already", "repeated")


def _exited(decision: RuleBook, task: TaskInHand, report: inputs.Exited) -> None:
    if task.is_running:
        decision.exited(task, report)
    else:
        decision.aborted(task)


def _kill_failed(decision: RuleBook, task: TaskInHand, report: inputs.KillFailed) -> None:
    if not decision.kill_again(task):
        decision.kill_gave_up(task, report)


def _kill_one(decision: RuleBook, task: TaskInHand, report: inputs.KillRequested) -> None:
    if task.memory.killed:
        decision.note(task.name, "the task is being killed already", "repeated")
    else:
        decision.kill_one(task, report)


def _restart(decision: RuleBook, task: TaskInHand, report: inputs.RestartRequested) -> None:
    if report.failure and not decision.dialect.has_new_client:
        raise InputRefused(f"a restart because of a failure does not exist in dialect {decision.dialect.name}")
    if decision.check_running(task):
        decision.restart_asked(task, report)
    else:
        decision.outcome = "impossible"


def _signal(decision: RuleBook, task: TaskInHand, report: inputs.SignalRequested) -> None:
    if decision.check_running(task):
        decision.signal_asked(task, report)
    else:
        decision.outcome = "impossible"


def _template(decision: RuleBook, task: TaskInHand, report: inputs.TemplateChanged) -> None:
    if report.change_mode == "noop":
        return
    if decision.check_running(task):
        decision.template_changed(task, report)
    else:
        decision.outcome = "impossible"


def _setup_failed_of(decision: RuleBook, task: TaskInHand, report: inputs.SetupFailed) -> None:
    was_running = task.is_running
    decision.setup_failed(task, report)
    if was_running:
        decision.owe_kill(task, 1)


def _restored(decision: RuleBook, task: TaskInHand, report: inputs.Restored) -> None:
    decision.restored(task, report)


def _timer(decision: RuleBook, task: TaskInHand, report: inputs.TimerDue) -> None:
    due_ns = _due_ns(task.state, task.memory)
    if due_ns is None or (report.kind == "kill") != task.is_running:
        decision.note(task.name, f"the task has no {report.kind} timer", "late")
    elif due_ns > decision.now_ns:
        decision.note(
            task.name, f"the {report.kind} timer is due at {due_ns}, not yet at {decision.now_ns}", "impossible"
        )
    elif task.is_running:
        decision.kill(task)
    elif task.memory.killed:
        # The task was killed at its time to start, before the embedder was told to start it.
        decision.aborted(task)
    else:
        decision.owe_start(task, due_ns)


_NO_JOB: Final = "no job tells the tasks of the allocation: this one is taken as a service with the default policy"
_OVER: Final = "the allocation has ended, or is to be stopped: nothing new begins in it"

_LATE: Final[dict[Place, Outcome]] = {"running": "late", "ending": "late"}
_REPEATED: Final[dict[Place, Outcome]] = {"running": "repeated", "ending": "repeated"}

RULES: Final[dict[type[Input], _Rule]] = {
    inputs.PlacementReceived: _Rule(_place_one, ("pending", "running", "ending", "dead")),
    inputs.SetUp: _Rule(
        lambda decision, task, report: decision.emit(task, ev.TaskSetup(message=report.message)), ("pending",), _LATE
    ),
    inputs.DownloadBegun: _Rule(
        lambda decision, task, _: decision.emit(task, ev.DownloadingArtifacts()), ("pending",), _LATE
    ),
    inputs.DownloadFailed: _Rule(
        lambda decision, task, report: decision.download_failed(task, report), ("pending",), _LATE
    ),
    inputs.HookFailed: _Rule(lambda decision, task, report: decision.hook_failed(task, report), ("pending",), _LATE),
    inputs.ValidationFailed: _Rule(
        lambda decision, task, report: decision.validation_failed(task, report), ("pending",), _LATE
    ),
    inputs.SetupFailed: _Rule(_setup_failed_of, ("pending", "running")),
    inputs.ProcessStarted: _Rule(_started, ("pending",), _REPEATED),
    inputs.StartFailed: _Rule(lambda decision, task, report: decision.start_failed(task, report), ("pending",), _LATE),
    inputs.Exited: _Rule(_exited, ("pending", "running", "ending")),
    inputs.DriverMessage: _Rule(
        lambda decision, task, report: decision.driver_message(task, report), ("pending", "running", "ending")
    ),
    inputs.KillRequested: _Rule(_kill_one, ("pending", "running", "ending")),
    inputs.KillFailed: _Rule(_kill_failed, ("ending",)),
    inputs.RestartRequested: _Rule(_restart, ("pending", "running", "dead"), {"ending": "repeated"}),
    inputs.SignalRequested: _Rule(_signal, ("pending", "running", "ending", "dead")),
    inputs.TemplateChanged: _Rule(_template, ("pending", "running", "dead"), {"ending": "late"}),
    inputs.TemplateBlocked: _Rule(
        lambda decision, task, report: decision.template_blocked(task, report),
        ("pending", "running", "ending", "dead"),
    ),
    inputs.Restored: _Rule(_restored, ("pending", "running", "ending")),
    inputs.TimerDue: _Rule(_timer, ("pending", "running", "ending")),
}
"""The places where an input of a task fits, and the consequences there."""


# --- of an allocation ---

_ENDED: Final = "the allocation has ended already"


def _place_all(decision: RuleBook, report: inputs.PlacementReceived) -> None:
    if not decision.names():
        raise InputRefused("the allocation has no job that tells its tasks: name the task that is placed")
    if decision.is_over and not decision.takes_ended:
        decision.note("", _OVER, "late")
        return
    new = [task for name in decision.names() if (task := decision.task(name)).is_new]
    for task in new:
        _place_one(decision, task, report)
    if not new:
        decision.note("", "the allocation is placed already", "repeated")


def _stop(decision: RuleBook, report: inputs.StopRequested) -> None:
    if decision.is_stopped:
        if decision.has_to_end:
            decision.stop()
        else:
            decision.note("", "the allocation is to be stopped already", "repeated")
        return
    fields: dict[str, Any] = {"DesiredStatus": report.desired, "DesiredDescription": report.description}
    if report.migrate and decision.dialect.has_new_client:
        wishes = {"ForceReschedule": None, "Reschedule": None} | (decision.field("DesiredTransition") or {})
        fields["DesiredTransition"] = wishes | {"Migrate": True}
    decision.update(fields)
    if decision.has_to_end or not is_client_terminal(decision.client_status):
        decision.stop()


def _kill_all(decision: RuleBook, report: inputs.KillRequested) -> None:
    decision.kill_all(report)


def _each(decision: RuleBook, report: Input) -> None:
    """Apply the rule of a task to every task; the outcome is decided if it is for any of them."""
    outcomes: list[Outcome] = []
    for task in decision.tasks():
        decision.outcome = "decided"
        _of_task(decision, task, report)
        outcomes.append(decision.outcome)
    decision.outcome = _of_all(outcomes)


def _setup_failed(decision: RuleBook, report: inputs.SetupFailed) -> None:
    if is_client_terminal(decision.client_status):
        decision.note("", _ENDED, "late")
    else:
        decision.allocation_setup_failed(report)


def _reconnected(decision: RuleBook, _: inputs.NodeReconnected) -> None:
    assert isinstance(decision, Nomad09)
    decision.reconnected()


def _server_contacted(decision: RuleBook, _: inputs.ServerContacted) -> None:
    assert isinstance(decision, Nomad09)
    decision.server_contacted()


def _health_failed(decision: RuleBook, _: inputs.HealthFailed) -> None:
    assert isinstance(decision, Nomad09)
    decision.health_failed()


def _lost(decision: RuleBook, _: inputs.NodeLost) -> None:
    _away(decision, "lost", {"DesiredStatus": "stop", "DesiredDescription": "alloc is lost since its node is down"})


def _disconnected(decision: RuleBook, _: inputs.NodeDisconnected) -> None:
    _away(decision, UNKNOWN, {"ClientDescription": DISCONNECTED})


def _away(decision: RuleBook, status: str, fields: dict[str, str]) -> None:
    if is_client_terminal(decision.client_status):
        decision.note("", _ENDED, "late")
    else:
        decision.set_status(status, fields)


ALLOCATION_RULES: Final[dict[type[Input], Callable[[Any, Any], None]]] = {
    inputs.PlacementReceived: _place_all,
    inputs.SetupFailed: _setup_failed,
    inputs.StopRequested: _stop,
    inputs.KillRequested: _kill_all,
    inputs.RestartRequested: _each,
    inputs.SignalRequested: _each,
    inputs.Restored: _each,
    inputs.ServerContacted: _server_contacted,
    inputs.HealthFailed: _health_failed,
    inputs.NodeLost: _lost,
    inputs.NodeDisconnected: _disconnected,
    inputs.NodeReconnected: _reconnected,
}
"""The consequences of an input of an allocation as a whole, in any state of its tasks."""


# --- what is due ---


def due_of(task: Task | TaskState) -> int | None:
    """Return when a task has to be started or killed, and the embedder has to hear of it (unix nanoseconds), or None.

    A time in the past is one that was not reported yet.
    """
    return None if task.memory is None else _due_ns(task.state, task.memory)


def _due_ns(state: str, memory: Decided) -> int | None:
    if state == PENDING:
        return memory.start_at_ns
    return memory.kill_at_ns if state == RUNNING else None


def owed(allocation: FoldedAllocation, group: Group, *, now_ns: int, rng: Random) -> Step:
    """Return what is owed after the embedder was away: starts and kills that were not reported yet, and timers.

    O(tasks). Nothing is decided: the same effects were owed before.
    """
    decision: RuleBook = _RULE_BOOKS[group.dialect.has_new_client](allocation, group, now_ns, rng)
    for name in allocation.tasks:
        task = decision.task(name)
        due_ns = _due_ns(task.state, task.memory)
        if due_ns is not None and due_ns > now_ns:
            decision.owe_timer(task, due_ns)
        elif due_ns is not None and task.is_pending and not task.memory.killed:
            decision.owe_start(task, due_ns)
        elif task.is_doomed and not task.is_dead:
            decision.owe_kill(task, max(task.memory.kill_attempts, 1))
        elif isinstance(decision, Nomad05) and decision.is_started_anew(task) and task.memory.start_at_ns is not None:
            decision.owe_start(task, task.memory.start_at_ns)
    return decision.step()
