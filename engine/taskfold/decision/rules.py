"""Decide: what follows from an input, as Nomad's client decides it.

Theory of operation
===================

`decide` takes what is known of an allocation (folded state), what is reported or asked for (an input), the time and a
source of randomness, and returns a `Step`: events to append, effects that the embedder owes, and timers. It changes
nothing, asks nothing, and says the same whenever it is asked the same. Its answer is recorded, so that a replay never
decides again; what no event can tell (an open restart window, a kill under way) it records as internal events.

An input meets a task in one of four places, and `RULES` says which of them it fits:

* **pending**: it waits for others, for its delay, or somebody is starting it;
* **running**;
* **ending**: it runs still, but its process was told to end, for good or to be started again;
* **dead**.

Where it does not fit, nothing is appended, and the step's outcome says why: ``late`` after the end of what it speaks
of, ``repeated`` when it was taken before, ``impossible`` when the task is not where it would have to be. So a driver
that reports an exit twice, or a start after the task was killed, does no harm; in the last case the effect is to end
what runs.

What the two generations of Nomad's client do differently is in `nomad_0_5` and `nomad_0_9`, beside this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from taskfold.decision.client_state import AllocationLike, Now
from taskfold.decision.decision import Client
from taskfold.decision.group import Group
from taskfold.decision.nomad_0_5 import OldClient
from taskfold.decision.nomad_0_9 import NewClient
from taskfold.decision.restart import Random
from taskfold.fold.lifecycle import PENDING, RUNNING
from taskfold.fold.status import DISCONNECTED, UNKNOWN, is_client_terminal
from taskfold.model import events as ev
from taskfold.model import inputs as given
from taskfold.model.effects import Outcome, Step
from taskfold.model.errors import InputRefused
from taskfold.model.inputs import NEW_CLIENT_ONLY, OF_ALLOCATION, OF_EITHER, Input
from taskfold.model.record import Decided

__all__ = ["HEARS", "RULES", "decide", "decide_all", "due_of", "owed"]

Where: TypeAlias = Literal["pending", "running", "ending", "dead"]


def decide(allocation: AllocationLike, group: Group, said: Input, *, task: str = "", now_ns: int, rng: Random) -> Step:
    """Return what follows from an input. O(1), or O(tasks of the group) where a task dies or all are concerned.

    >>> import random
    >>> from taskfold.fold.allocation import Allocation
    >>> from taskfold.model.policy import RestartPolicy
    >>> from taskfold.decision.group import TaskPlan
    >>> policy = RestartPolicy(attempts=2, interval_ns=60 * 10**9, delay_ns=10**9, mode="fail")
    >>> group = Group.of([TaskPlan(name="web", policy=policy)], "1.1.2")
    >>> step = decide(Allocation("a"), group, given.Placed(), now_ns=5, rng=random.Random(1))
    >>> step.events, step.effects
    ((('web', Received(time_ns=5, kept=None)),), (StartTask(task='web', at_ns=5),))

    Raises InputRefused for an input of another dialect, one that names a task where it should not, and a negative exit
    code, and UnknownAllocation for a task that the group has not.
    """
    return decide_all(allocation, group, ((task, said),), now_ns=now_ns, rng=rng)


def decide_all(
    allocation: AllocationLike, group: Group, said: Sequence[tuple[str, Input]], *, now_ns: int, rng: Random
) -> Step:
    """Return what follows from inputs that were learnt together, each with its task, as `decide` does from one.

    What follows for the group follows when all are taken: a task that ended, too, is not ended because of another.
    O(inputs and tasks of the group). Raises as `decide` does, whichever of them is refused.
    """
    client: OldClient | NewClient = (NewClient if group.dialect.has_new_client else OldClient)(
        allocation, group, now_ns, rng
    )
    outcomes: list[Outcome] = []
    for task, one in said:
        if not task and len(said) > 1:
            raise InputRefused(
                f"{type(one).__name__}: what is reported together happens to tasks, name the task of each"
            )
        client.outcome = "decided"
        _take(client, task, one)
        outcomes.append(client.outcome)
    client.outcome = _of_all(outcomes)
    if not HEARS.isdisjoint(type(one) for _, one in said) and client.is_stopped and client.has_to_end:
        client.stop()
    if client.died or client.moved:
        client.settle()
    return client.step()


def _of_all(outcomes: Sequence[Outcome]) -> Outcome:
    """Return what became of several: they are decided if any is."""
    return "decided" if "decided" in outcomes or not outcomes else outcomes[0]


def _take(client: OldClient | NewClient, task: str, said: Input) -> None:
    """Take one input. Raises InputRefused and UnknownAllocation."""
    kind, group = type(said), client.group
    if kind in NEW_CLIENT_ONLY and not group.dialect.has_new_client:
        raise InputRefused(f"{kind.__name__} does not exist in dialect {group.dialect.name}")
    if isinstance(said, given.Exited) and said.exit_code is not None and said.exit_code < 0:
        raise InputRefused(
            f"$.ExitCode: {said.exit_code} is no exit code; a process that signal n ended has 128 + n, and the signal: "
            "report `Exited.of_returncode(process.returncode)`"
        )
    if task:
        if kind in OF_ALLOCATION:
            raise InputRefused(f"{kind.__name__} is of an allocation, not of a task: leave {task!r} out")
        _of_task(client, client.task(task), said)
    elif kind in OF_ALLOCATION or kind in OF_EITHER:
        _OF_ALLOCATION[kind](client, said)
    else:
        raise InputRefused(f"{kind.__name__} happens to a task: name it")


HEARS: Final = frozenset({given.Placed, given.Restored, given.ServerContacted, given.Reconnected})
"""What tells that the client knows now what the servers want; what they wanted while it was away, it did not hear."""


# --- of a task ---


class _Rule(NamedTuple):
    """What is done with an input of a task."""

    does: Callable[[Any, Now, Any], None]
    fits: tuple[Where, ...]
    """Where the task has to be."""
    otherwise: dict[Where, Outcome]
    """What comes of it elsewhere; impossible unless named."""


def _of_task(client: OldClient | NewClient, task: Now, said: Input) -> None:
    if task.is_new and client.is_over and not (isinstance(said, given.Placed) and client.takes_ended):
        client.note(task.name, _OVER, "late")
        _end_unwanted(client, task, said)
        return
    if task.is_new and client.group.is_open:
        client.note(task.name, _NAMED)
    rule = RULES[type(said)]
    where = _where(client, task)
    if where in rule.fits:
        rule.does(client, task, said)
        return
    outcome = rule.otherwise.get(where, "late" if where == "dead" else "impossible")
    client.note(task.name, _why(task, where, said), outcome)
    if where == "dead":
        _end_unwanted(client, task, said)


def _end_unwanted(client: Client, task: Now, said: Input) -> None:
    """Owe the end of a process that runs though nobody wants it any more."""
    if isinstance(said, given.Started):
        client.owe_kill(task, 1)


def _where(client: Client, task: Now) -> Where:
    if task.state == RUNNING:
        return "ending" if client.doomed(task) else "running"
    return "pending" if task.state == PENDING else "dead"


def _why(task: Now, where: Where, said: Input) -> str:
    """Say why an input does not fit."""
    name = type(said).__name__
    if where == "ending":
        return f"{name} comes too late: the task's process is being ended"
    state = "not known to be placed yet" if task.is_new else task.state
    return f"{name} does not fit: the task is {state}"


def _started(client: OldClient | NewClient, task: Now, _: given.Started) -> None:
    killed = task.decided.killed
    client.emit(task, ev.Started(time_ns=client.now_ns))
    if killed:
        # It was killed while it was being started: what runs now is to end.
        client.end_started(task)


def _placed(client: OldClient | NewClient, task: Now, _: given.Placed) -> None:
    if task.is_new:
        if client.is_stopped:
            client.take_ended(task)
        else:
            client.place(task)
        client.moved = True
    else:
        client.note(task.name, "the task is placed already", "repeated")


def _exited(client: OldClient | NewClient, task: Now, said: given.Exited) -> None:
    if task.is_running:
        client.exited(task, said)
    else:
        client.aborted(task)


def _kill_failed(client: OldClient | NewClient, task: Now, said: given.KillFailed) -> None:
    if not client.kill_failed(task):
        client.kill_gave_up(task, said)


def _kill_one(client: OldClient | NewClient, task: Now, said: given.KillRequested) -> None:
    if task.decided.killed:
        client.note(task.name, "the task is being killed already", "repeated")
    else:
        client.kill_one(task, said)


def _restart(client: OldClient | NewClient, task: Now, said: given.RestartRequested) -> None:
    if said.failure and not client.dialect.has_new_client:
        raise InputRefused(f"a restart because of a failure does not exist in dialect {client.dialect.name}")
    if client.needs_running(task):
        client.restart_asked(task, said)
    else:
        client.outcome = "impossible"


def _signal(client: OldClient | NewClient, task: Now, said: given.SignalRequested) -> None:
    if client.needs_running(task):
        client.signal_asked(task, said)
    else:
        client.outcome = "impossible"


def _template(client: OldClient | NewClient, task: Now, said: given.TemplateChanged) -> None:
    if said.change_mode == "noop":
        return
    if client.needs_running(task):
        client.template_changed(task, said)
    else:
        client.outcome = "impossible"


def _setup_failed_of(client: OldClient | NewClient, task: Now, said: given.SetupFailed) -> None:
    was_running = task.is_running
    client.setup_failed(task, said)
    if was_running:
        client.owe_kill(task, 1)


def _restored(client: OldClient | NewClient, task: Now, said: given.Restored) -> None:
    client.restored(task, said)


def _timer(client: OldClient | NewClient, task: Now, said: given.TimerDue) -> None:
    due_ns = due_of(task)
    if due_ns is None or (said.kind == "kill") != task.is_running:
        client.note(task.name, f"the task has no {said.kind} timer", "late")
    elif due_ns > client.now_ns:
        client.note(task.name, f"the {said.kind} timer is due at {due_ns}, not yet at {client.now_ns}", "impossible")
    elif task.is_running:
        client.kill(task)
    elif task.decided.killed:
        # It was killed when its time had come, before anybody was told to start it.
        client.aborted(task)
    else:
        client.owe_start(task, due_ns)


_NAMED: Final = "no job tells the tasks of the allocation: this one is taken as a service with the default policy"
_OVER: Final = "the allocation has ended, or is to be stopped: nothing new begins in it"

_LATE: Final[dict[Where, Outcome]] = {"running": "late", "ending": "late"}
_REPEATED: Final[dict[Where, Outcome]] = {"running": "repeated", "ending": "repeated"}

RULES: Final[dict[type[Input], _Rule]] = {
    given.Placed: _Rule(_placed, ("pending", "running", "ending", "dead"), {}),
    given.SetUp: _Rule(lambda c, t, said: c.emit(t, ev.TaskSetup(message=said.message)), ("pending",), _LATE),
    given.DownloadBegun: _Rule(lambda c, t, _: c.emit(t, ev.DownloadingArtifacts()), ("pending",), _LATE),
    given.DownloadFailed: _Rule(lambda c, t, said: c.download_failed(t, said), ("pending",), _LATE),
    given.HookFailed: _Rule(lambda c, t, said: c.hook_failed(t, said), ("pending",), _LATE),
    given.ValidationFailed: _Rule(lambda c, t, said: c.validation_failed(t, said), ("pending",), _LATE),
    given.SetupFailed: _Rule(_setup_failed_of, ("pending", "running"), {}),
    given.Started: _Rule(_started, ("pending",), _REPEATED),
    given.StartFailed: _Rule(lambda c, t, said: c.start_failed(t, said), ("pending",), _LATE),
    given.Exited: _Rule(_exited, ("pending", "running", "ending"), {}),
    given.DriverMessage: _Rule(lambda c, t, said: c.driver_message(t, said), ("pending", "running", "ending"), {}),
    given.KillRequested: _Rule(_kill_one, ("pending", "running", "ending"), {}),
    given.KillFailed: _Rule(_kill_failed, ("ending",), {}),
    given.RestartRequested: _Rule(_restart, ("pending", "running", "dead"), {"ending": "repeated"}),
    given.SignalRequested: _Rule(_signal, ("pending", "running", "ending", "dead"), {}),
    given.TemplateChanged: _Rule(_template, ("pending", "running", "dead"), {"ending": "late"}),
    given.TemplateBlocked: _Rule(
        lambda c, t, said: c.template_blocked(t, said), ("pending", "running", "ending", "dead"), {}
    ),
    given.Restored: _Rule(_restored, ("pending", "running", "ending"), {}),
    given.TimerDue: _Rule(_timer, ("pending", "running", "ending"), {}),
}


# --- of an allocation ---

_ENDED: Final = "the allocation has ended already"


def _place_all(client: OldClient | NewClient, said: given.Placed) -> None:
    if not client.names():
        raise InputRefused("the allocation has no job that tells its tasks: name the task that is placed")
    if client.is_over and not client.takes_ended:
        client.note("", _OVER, "late")
        return
    new = [task for name in client.names() if (task := client.task(name)).is_new]
    for task in new:
        _placed(client, task, said)
    if not new:
        client.note("", "the allocation is placed already", "repeated")


def _stop(client: OldClient | NewClient, said: given.StopRequested) -> None:
    if client.is_stopped:
        if client.has_to_end:
            client.stop()
        else:
            client.note("", "the allocation is to be stopped already", "repeated")
        return
    fields: dict[str, Any] = {"DesiredStatus": said.desired, "DesiredDescription": said.description}
    if said.migrate and client.dialect.has_new_client:
        wishes = {"ForceReschedule": None, "Reschedule": None} | (client.field("DesiredTransition") or {})
        fields["DesiredTransition"] = wishes | {"Migrate": True}
    client.update(fields)
    if client.has_to_end or not is_client_terminal(client.client_status):
        client.stop()


def _kill_all(client: OldClient | NewClient, said: given.KillRequested) -> None:
    client.kill_all(said)


def _each(client: OldClient | NewClient, said: Input) -> None:
    """Do the same with every task; it is done if any task was concerned."""
    outcomes: list[Outcome] = []
    for task in client.all():
        client.outcome = "decided"
        _of_task(client, task, said)
        outcomes.append(client.outcome)
    client.outcome = _of_all(outcomes)


def _setup_failed(client: OldClient | NewClient, said: given.SetupFailed) -> None:
    if is_client_terminal(client.client_status):
        client.note("", _ENDED, "late")
    else:
        client.allocation_setup_failed(said)


def _reconnected(client: OldClient | NewClient, _: given.Reconnected) -> None:
    assert isinstance(client, NewClient)
    client.reconnected()


def _server_contacted(client: OldClient | NewClient, _: given.ServerContacted) -> None:
    assert isinstance(client, NewClient)
    client.server_contacted()


def _health_failed(client: OldClient | NewClient, _: given.HealthFailed) -> None:
    assert isinstance(client, NewClient)
    client.health_failed()


def _lost(client: OldClient | NewClient, _: given.NodeLost) -> None:
    _away(client, "lost", {"DesiredStatus": "stop", "DesiredDescription": "alloc is lost since its node is down"})


def _disconnected(client: OldClient | NewClient, _: given.Disconnected) -> None:
    _away(client, UNKNOWN, {"ClientDescription": DISCONNECTED})


def _away(client: OldClient | NewClient, status: str, fields: dict[str, str]) -> None:
    if is_client_terminal(client.client_status):
        client.note("", _ENDED, "late")
    else:
        client.tell_status(status, fields)


_OF_ALLOCATION: Final[dict[type[Input], Callable[[Any, Any], None]]] = {
    given.Placed: _place_all,
    given.SetupFailed: _setup_failed,
    given.StopRequested: _stop,
    given.KillRequested: _kill_all,
    given.RestartRequested: _each,
    given.SignalRequested: _each,
    given.Restored: _each,
    given.ServerContacted: _server_contacted,
    given.HealthFailed: _health_failed,
    given.NodeLost: _lost,
    given.Disconnected: _disconnected,
    given.Reconnected: _reconnected,
}


# --- what is due ---


def due_of(task: Any) -> int | None:
    """Return when a task has to be started, or killed, and the embedder is to be told (unix nanoseconds); else None.

    ``task`` has a state and what decisions remember of it. A time that has passed is one that nobody has reported on.
    """
    decided: Decided | None = task.decided
    if decided is None:
        return None
    if task.state == PENDING:
        return decided.start_at_ns
    return decided.kill_at_ns if task.state == RUNNING else None


def owed(allocation: AllocationLike, group: Group, *, now_ns: int, rng: Random) -> Step:
    """Return what is owed where the embedder was away: starts and kills that nobody reported on, and timers.

    O(tasks). Nothing is decided: the same effects were owed before.
    """
    client = (NewClient if group.dialect.has_new_client else OldClient)(allocation, group, now_ns, rng)
    for name in allocation.tasks:
        task = client.task(name)
        due_ns = due_of(task)
        if due_ns is not None and due_ns > now_ns:
            client.owe_timer(task, due_ns)
        elif due_ns is not None and task.state == PENDING and not task.decided.killed:
            client.owe_start(task, due_ns)
        elif client.doomed(task) and not task.is_dead:
            client.owe_kill(task, max(task.decided.kill_attempts, 1))
    return client.step()
