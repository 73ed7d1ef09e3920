"""A scheduler beside the model: `SchedulerMachine` drives both, and compares them after each step.

The model is a `taskfold.Core`, the same that an engine decides with. Three agreements make a run repeatable, and a
scheduler comparable that knows nothing of taskfold:

* **Time is the machine's.** A scheduler learns the time by `start` and `advance` alone. The machine never passes by a
  moment at which something is due.
* **A process obeys.** It runs as soon as its scheduler starts it, until the machine ends it (`exit`) or its scheduler
  does; then it has ended at once.
* **Who may choose says what it chose.** The random part of a delay is the scheduler's. Its `TaskStatus.due_ns` says
  when the task starts again; the machine looks whether the policy allows that, and has the model wait as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Final, Protocol, TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.strategies import SearchStrategy
from msgspec import Struct

from taskfold.decision.rules import due_of
from taskfold.fold.lifecycle import PENDING
from taskfold.fold.task import TaskState
from taskfold.live.core import Core
from taskfold.model import effects, inputs
from taskfold.model import events as ev
from taskfold.model.dialect import DEFAULT_DIALECT, EVENTS_PER_TASK
from taskfold.model.effects import Step
from taskfold.model.events import wire_type
from taskfold.model.go.durations import NS_PER_SECOND, duration_text
from taskfold.model.inputs import Input
from taskfold.model.policy import MINIMUM_INTERVAL_NS, MODE_DELAY
from taskfold.model.record import Record
from taskfold.testing.deviations import Deviation, FieldDeviation
from taskfold.testing.histories import BEGIN_NS
from taskfold.testing.strategies import jobs

__all__ = ["AllocationStatus", "SchedulerAdapter", "SchedulerMachine", "TaskStatus"]

_Json: TypeAlias = Mapping[str, Any]

_ALLOC: Final = "203266e5-e0d6-9486-5e05-397ed2b184af"
_TOLERANCE_NS: Final = 1_000_000
"""How exact a time has to be: a scheduler may count in seconds with a fraction."""
_NOT_SIMULATED: Final = frozenset(map(wire_type, (ev.TaskSetup(), ev.DownloadingArtifacts(), ev.Driver())))
"""The types of events that tell how a task is prepared; that is no part of this, and they are not compared."""
_KILLED: Final = inputs.Exited(exit_code=143, signal=15)
_NO_PROCESS: Final = inputs.Exited(exit_code=None)


class TaskStatus(Struct, frozen=True, kw_only=True):
    """A task as a scheduler sees it; what is None is not compared, but for `due_ns`."""

    state: str
    """``pending``, ``running`` or ``dead``."""
    due_ns: int | None = None
    """When it will be started again (unix nanoseconds), where it waits for that; else None."""
    failed: bool | None = None
    restarts: int | None = None
    events: Sequence[str] | None = None
    """The types of its events in Nomad's words, oldest first; the newest ten at least."""


class AllocationStatus(Struct, frozen=True, kw_only=True):
    """An allocation as a scheduler sees it."""

    tasks: Mapping[str, TaskStatus]
    client_status: str | None = None
    """``pending``, ``running``, ``complete`` or ``failed``; None is not compared."""


class SchedulerAdapter(Protocol):
    """The adapter of a scheduler that `SchedulerMachine` drives.

    Its processes are simulated by the adapter: one that is started runs, one that is killed has ended with exit code
    143, both at once. What it cannot do, of `kill`, `restart`, `signal` and `crash`, `SchedulerMachine.without` names:
    that is never called.
    """

    def start(self, job: dict[str, Any], now_ns: int) -> None:
        """Place one allocation of the job's only group, at this time (unix nanoseconds). Called once, first."""

    def advance(self, now_ns: int) -> None:
        """Let the time be this (unix nanoseconds), and do what is due by then."""

    def exit(self, task: str, exit_code: int) -> None:
        """Let the process of a running task end by itself."""

    def kill(self) -> None:
        """Stop the allocation: somebody wants all of it ended."""

    def restart(self, task: str) -> None:
        """Restart a running task: somebody wants that."""

    def signal(self, task: str, signal: str) -> None:
        """Send a running task a signal, such as ``SIGHUP``: somebody wants that."""

    def crash(self) -> None:
        """Let the scheduler die, and come again with what it has stored. Its processes live on."""

    def observe(self) -> AllocationStatus:
        """Return how the allocation stands."""


_RUNNING: Final = st.runner().flatmap(lambda machine: st.sampled_from(machine.running))
"""The tasks that have a process."""


# Older releases of Hypothesis look for the name of a precondition each time, and read the source of a lambda for it.


def _has_process(machine: SchedulerMachine) -> bool:
    return bool(machine.running)


def _can_kill(machine: SchedulerMachine) -> bool:
    return "kill" not in machine.without


def _can_restart(machine: SchedulerMachine) -> bool:
    return "restart" not in machine.without and bool(machine.running)


def _can_signal(machine: SchedulerMachine) -> bool:
    return "signal" not in machine.without and bool(machine.running)


def _can_crash(machine: SchedulerMachine) -> bool:
    return "crash" not in machine.without


class SchedulerMachine(RuleBasedStateMachine):
    """Drives a scheduler and the model side by side. Inherit, say how a scheduler is made, and let pytest run it.

    .. code-block:: python

        class MyMachine(SchedulerMachine):
            dialect = "1.1.2"

            def make_scheduler(self):
                return MyAdapter()

        TestMyScheduler = MyMachine.TestCase

    After each step it compares, for each task: its state, whether it failed, its restarts, when it starts again, and
    the types of its newest ten events; and the status of the allocation. A `Deviation` says what differs, and after
    which steps; Hypothesis makes them few.
    """

    dialect: ClassVar[str] = DEFAULT_DIALECT
    """The Nomad whose rules the scheduler keeps."""
    without: ClassVar[frozenset[str]] = frozenset()
    """The actions that the scheduler lacks: some of ``kill``, ``restart``, ``signal``, ``crash``. None is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._now_ns = BEGIN_NS
        self._steps: list[str] = []
        self._scheduler = self.make_scheduler()
        self._model: _Model

    # --- what a user says ---

    def make_scheduler(self) -> SchedulerAdapter:
        """Return the adapter of a new scheduler."""
        raise NotImplementedError("say how the scheduler is made: def make_scheduler(self): return MyAdapter()")

    def jobs(self) -> SearchStrategy[Any]:
        """Return the jobs to try, each of one group; those of `strategies.jobs` with short policies by default.

        It is asked once for each class: to make a strategy takes longer than to draw a job from it.
        """
        return _short_jobs(self.dialect)

    _jobs: ClassVar[SearchStrategy[dict[str, Any]]]
    """The jobs that the class named."""

    def _shown_jobs(self) -> SearchStrategy[dict[str, Any]]:
        cls = type(self)
        if "_jobs" not in vars(cls):
            cls._jobs = self.jobs().map(_ShownJob)
        return cls._jobs

    # --- what happens ---

    @initialize(job=st.runner().flatmap(lambda machine: machine._shown_jobs()))  # noqa: SLF001 - its own
    def start(self, job: dict[str, Any]) -> None:
        """Place the allocation."""
        self._steps.append(f"start {_ShownJob(job)}")
        self._scheduler.start(dict(job), self._now_ns)
        self._model = _Model(self.dialect, job, self._now_ns)
        self._follow(lambda: self._model.report("", inputs.PlacementReceived(), self._now_ns))

    @precondition(_has_process)
    @rule(task=_RUNNING)
    def fail(self, task: str) -> None:
        """Let a process end by itself, with an exit code that is no success."""
        self._exit(task, 1)

    @precondition(_has_process)
    @rule(task=_RUNNING)
    def succeed(self, task: str) -> None:
        """Let a process end by itself, with exit code 0."""
        self._exit(task, 0)

    def _exit(self, task: str, exit_code: int) -> None:
        self._steps.append(f"exit {task} with {exit_code}")
        self._scheduler.exit(task, exit_code)
        self._model.processes.discard(task)
        self._follow(lambda: self._model.report(task, inputs.Exited(exit_code=exit_code), self._now_ns))

    @precondition(_can_kill)
    @rule()
    def kill(self) -> None:
        """Stop the allocation."""
        self._steps.append("kill")
        self._scheduler.kill()
        self._follow(lambda: self._model.report("", inputs.StopRequested(), self._now_ns))

    @precondition(_can_restart)
    @rule(task=_RUNNING)
    def restart(self, task: str) -> None:
        """Restart a task that runs."""
        self._steps.append(f"restart {task}")
        self._scheduler.restart(task)
        self._follow(lambda: self._model.report(task, inputs.RestartRequested(), self._now_ns))

    @precondition(_can_signal)
    @rule(task=_RUNNING)
    def signal(self, task: str) -> None:
        """Send a task that runs a signal."""
        self._steps.append(f"signal {task} SIGHUP")
        self._scheduler.signal(task, "SIGHUP")
        self._follow(lambda: self._model.report(task, inputs.SignalRequested(signal="SIGHUP"), self._now_ns))

    @precondition(_can_crash)
    @rule()
    def crash(self) -> None:
        """Let the scheduler die and come again."""
        self._steps.append("crash")
        self._scheduler.crash()
        self._follow(lambda: self._model.crash(self._now_ns))

    @rule()
    def wait_until_due(self) -> None:
        """Let time pass until the next task starts again; a second where none does."""
        # Without a precondition: Hypothesis takes such a rule out of a run with less ado.
        due_ns = self._model.core.next_due()
        if due_ns is None:
            self.wait(1)
        else:
            self._steps.append("wait until a task is due")
            self._advance(due_ns)

    @rule(seconds=st.sampled_from([1, 10, 60, 3600]))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self._steps.append(f"wait {duration_text(seconds * NS_PER_SECOND)}")
        self._advance(self._now_ns + seconds * NS_PER_SECOND)

    # --- side by side ---

    @property
    def running(self) -> list[str]:
        """The tasks that have a process, in the order of their names."""
        return sorted(self._model.processes)

    def _advance(self, until_ns: int) -> None:
        """Let time pass, from one moment at which something is due to the next."""
        while (due_ns := self._model.core.next_due()) is not None and due_ns <= until_ns:
            self._move(due_ns)
        self._move(max(until_ns, self._now_ns))

    def _move(self, now_ns: int) -> None:
        self._pass_to(now_ns)
        self._follow(lambda: self._model.due(self._now_ns))

    def _pass_to(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self._scheduler.advance(now_ns)

    def _follow(self, do: Callable[[], None]) -> None:
        """Have the model do what the scheduler has done, and compare. Raises Deviation."""
        status = self._observe()
        do()
        while (due_ns := self._next_due(status)) is not None and due_ns - self._now_ns <= _TOLERANCE_NS:
            # One of both starts a task now, the other in a moment.
            self._pass_to(max(due_ns, self._now_ns))
            status = self._observe()
            self._model.due(self._now_ns)
        if deviations := list(self._model.deviations(status, self._now_ns)):
            raise Deviation("scheduler", self.dialect, deviations, self._steps)

    def _observe(self) -> AllocationStatus:
        """Return how the scheduler stands, and let the model choose what it chose."""
        status = self._scheduler.observe()
        self._model.choices.starts = {name: task.due_ns for name, task in status.tasks.items()}
        return status

    def _next_due(self, status: AllocationStatus) -> int | None:
        """Return when something is due next, in the model or to come in the scheduler (unix nanoseconds)."""
        model_ns = self._model.core.next_due()
        times = [] if model_ns is None else [model_ns]
        times += [
            task.due_ns for task in status.tasks.values() if task.due_ns is not None and task.due_ns > self._now_ns
        ]
        return min(times, default=None)


class _ShownJob(dict[str, Any]):
    """A job that is shown in a line."""

    def __repr__(self) -> str:
        """Return its type, its tasks and its policy."""
        group = self["TaskGroups"][0]
        policy = group.get("RestartPolicy")
        texts = [f"{self.get('Type', 'service')} job of {', '.join(map(_task_text, group['Tasks']))}"]
        if policy is not None:
            interval, delay = duration_text(policy["Interval"]), duration_text(policy["Delay"])
            texts.append(f"attempts {policy['Attempts']} in {interval}, delay {delay}, mode {policy['Mode']}")
        return f"<{'; '.join(texts)}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002, FBT001 - as Hypothesis and IPython call it
        """Print it as `repr` has it."""
        printer.text(repr(self))


def _task_text(task: _Json) -> str:
    hook = task.get("Lifecycle") or {}
    roles = [
        *(["leader"] if task.get("Leader") else []),
        *([hook["Hook"]] if hook else []),
        *(["sidecar"] if hook.get("Sidecar") else []),
    ]
    return f"{task['Name']} ({' '.join(roles)})" if roles else str(task["Name"])


@cache
def _short_jobs(dialect: str) -> SearchStrategy[dict[str, Any]]:
    """Return jobs with short policies: made once, since that takes as long as a few steps do."""
    return st.builds(_with_short_policy, jobs(dialect), st.sampled_from([0, 1, 2]))


def _with_short_policy(job: dict[str, Any], attempts: int) -> dict[str, Any]:
    """Return a job whose attempts are soon used up, and whose delays take some time."""
    for group in job["TaskGroups"]:
        policy = group["RestartPolicy"]
        count = max(attempts, 1) if policy["Mode"] == MODE_DELAY else attempts
        delay_ns = max(policy["Delay"], NS_PER_SECOND)
        interval_ns = max(policy["Interval"], count * delay_ns, MINIMUM_INTERVAL_NS)
        group["RestartPolicy"] = {**policy, "Attempts": count, "Delay": delay_ns, "Interval": interval_ns}
    return job


class _Choices:
    """The source of randomness of the model, which chooses what the scheduler chose, within what it is asked."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.task = ""
        self.starts: dict[str, int | None] = {}
        """When the scheduler starts each task that waits for that (unix nanoseconds)."""
        self.limits_ns: dict[str, tuple[int, int]] = {}
        """When each task may start at the earliest and the latest, where the scheduler could choose."""

    def randrange(self, stop: int, /) -> int:
        """Return the number that makes the delay the scheduler's; `stop` is the delay of the policy."""
        self.limits_ns[self.task] = (self.now_ns + stop, self.now_ns + stop + stop // 4)
        start_ns = self.starts.get(self.task)
        extra_ns = 0 if start_ns is None else start_ns - self.now_ns - stop
        return min(max(4 * extra_ns, 0), stop - 1)


class _Model:
    """The same allocation, as taskfold decides on it; its processes begin and end at once."""

    def __init__(self, dialect: str, job: _Json, now_ns: int) -> None:
        self.core = Core(dialect)
        self.choices = _Choices()
        self.processes: set[str] = set()
        """The tasks that have a process."""
        self._records: list[Record] = []
        group = job["TaskGroups"][0]["Name"]
        body = {"ID": _ALLOC, "JobID": job["ID"], "TaskGroup": group, "Job": dict(job), "DesiredStatus": "run"}
        self.core.place(body, time_ns=now_ns)

    def report(self, task: str, input: Input, now_ns: int) -> None:
        """Report something, and carry out what follows."""
        self._carry_out([self._decide(task, input, now_ns)], now_ns)

    def due(self, now_ns: int) -> None:
        """Carry out what is due."""
        self._carry_out(self.core.due(now_ns, rng=self.choices), now_ns)

    def crash(self, now_ns: int) -> None:
        """Continue from the records; the processes are found again."""
        self._records += self.core.ready()
        self.core = Core(self.core.dialect)
        self.core.apply(self._records)
        for task in sorted(self.processes):
            self.report(task, inputs.Restored(reattached=True), now_ns)
        self._carry_out(self.core.restore(now_ns, rng=self.choices), now_ns)

    def _decide(self, task: str, input: Input, now_ns: int) -> Step:
        self.choices.task, self.choices.now_ns = task, now_ns
        self.choices.limits_ns.pop(task, None)
        return self.core.report(_ALLOC, task, input, now_ns=now_ns, rng=self.choices)

    def _carry_out(self, steps: Iterable[Step], now_ns: int) -> None:
        """Start and end processes until nothing is owed."""
        owed = deque(effect for step in steps for effect in step.effects)
        while owed:
            effect = owed.popleft()
            if isinstance(effect, effects.StartTask):
                self.processes.add(effect.task)
                step = self._decide(effect.task, inputs.ProcessStarted(), now_ns)
            elif isinstance(effect, effects.KillTask):
                end = _KILLED if effect.task in self.processes else _NO_PROCESS
                self.processes.discard(effect.task)
                step = self._decide(effect.task, end, now_ns)
            else:
                continue
            owed.extend(step.effects)

    def deviations(self, status: AllocationStatus, now_ns: int) -> Iterator[FieldDeviation]:
        """Yield where a scheduler deviates."""
        state = self.core.read(_ALLOC)
        for name in {**state.tasks, **status.tasks}:
            task, actual = state.tasks.get(name), status.tasks.get(name)
            if task is None or actual is None:
                yield FieldDeviation(name, "state", task and task.state, actual and actual.state)
            else:
                yield from _task_deviations(name, task, actual)
                due_ns = due_of(task) if task.state == PENDING else None
                if task.state == actual.state and not _is_same_time(due_ns, actual.due_ns):
                    limits_ns = self.choices.limits_ns.get(name, (due_ns,) * 2)
                    texts = [_wait_text(limits_ns, now_ns), _wait_text((actual.due_ns,) * 2, now_ns)]
                    yield FieldDeviation(name, "starts again", *texts)
        if status.client_status is not None and state.client_status != status.client_status:
            yield FieldDeviation("", "client status", state.client_status, status.client_status)


def _task_deviations(name: str, task: TaskState, actual: TaskStatus) -> Iterator[FieldDeviation]:
    """Yield where a task deviates; what the scheduler does not say is passed over."""
    for field in ("state", "failed", "restarts"):
        model, value = getattr(task, field), getattr(actual, field)
        if value is not None and model != value:
            yield FieldDeviation(name, field, model, value)
    if actual.events is not None:
        types = tuple(map(wire_type, task.events))
        others = tuple(each for each in actual.events if each not in _NOT_SIMULATED)
        if len(actual.events) >= EVENTS_PER_TASK:
            size = min(len(types), len(others))
            types, others = types[-size:], others[-size:]
        if types != others:
            yield FieldDeviation(name, "events", types, others)


def _is_same_time(due_ns: int | None, other_ns: int | None) -> bool:
    if due_ns is None or other_ns is None:
        return due_ns is other_ns
    return abs(due_ns - other_ns) <= _TOLERANCE_NS


def _wait_text(limits_ns: tuple[int | None, int | None], now_ns: int) -> str:
    """Return how long a task waits, at least and at most."""
    least_ns, most_ns = limits_ns
    if least_ns is None or most_ns is None:
        return "never"
    texts = [
        f"-{duration_text(-wait)}" if (wait := each - now_ns) < 0 else duration_text(wait)
        for each in (least_ns, most_ns)
    ]
    return f"in {' to '.join(dict.fromkeys(texts))}"
