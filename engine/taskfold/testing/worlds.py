"""A world in one object: an engine, a clock that is moved by hand, and drivers that behave as a script says.

`World` is a scheduler with everything that a real one has but processes and time: what the engine owes is carried out
by simulated drivers, and time passes only when the world is told to run. The same seed gives the same log, byte for
byte, in any process.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from taskfold.live.engine import Engine
from taskfold.log.contract import EventLog
from taskfold.log.memory import MemoryLog
from taskfold.model import effects, inputs
from taskfold.model.clock import ManualClock
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect, dialect_of
from taskfold.model.effects import Step
from taskfold.model.inputs import Input
from taskfold.testing.histories import BEGIN_NS

__all__ = ["Run", "World"]

_SECOND: Final = 1_000_000_000
_START_NS: Final = 50_000_000
"""How long a process takes to start."""
_KILL_NS: Final = 100_000_000
"""How long a process takes to end when it is told to."""
_NEEDS: Final = "a job needs an ID and TaskGroups; each group a Name and Tasks, each task a Name"


class Run(Struct, frozen=True, kw_only=True):
    """How one run of a task goes."""

    after_ns: int | None = None
    """How long the process runs by itself (nanoseconds); None runs until somebody ends it."""
    exit_code: int = 0
    signal: int = 0
    oom_killed: bool = False
    fails_to_start: str = ""
    """The error of the driver, where the process cannot be started."""
    ignores_kill: bool = False
    """The process ends only when its time to end is over."""

    def __post_init__(self) -> None:
        """Raise ValueError for a time that no process can run."""
        if self.after_ns is not None and self.after_ns < 0:
            raise ValueError(f"a process runs 0 ns or longer, not {self.after_ns}; None runs until it is ended")

    def exit(self) -> inputs.Exited:
        """Return how the process ends by itself."""
        return inputs.Exited(exit_code=self.exit_code, signal=self.signal, oom_killed=self.oom_killed)


class _Process(Struct):
    """A simulated process."""

    alloc: str
    task: str
    run: Run
    number: int
    is_alive: bool = True
    is_started: bool = False
    """When it will end is settled."""
    end: inputs.Exited | None = None
    """How it ended; None while it runs."""

    def id(self, what: str) -> str:
        """Return the ID of a report on this process; reporting it again is a repeat."""
        return f"{self.alloc}/{self.task}/{self.number}/{what}"


def _names(things: Any, where: str) -> list[str]:
    """Return the names of groups or tasks; raise ValueError where something has none."""
    if not isinstance(things, Sequence) or isinstance(things, str) or not things:
        raise ValueError(f"{_NEEDS}: there is no {where}")
    for place, thing in enumerate(things):
        if not isinstance(thing, Mapping) or not isinstance(thing.get("Name"), str) or not thing["Name"]:
            raise ValueError(f"{_NEEDS}: {where}[{place}] has no Name")
    return [thing["Name"] for thing in things]


def _tasks_by_group(job: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the tasks of each group of a job; raise ValueError where it lacks what a job needs."""
    if not isinstance(job.get("ID"), str) or not job["ID"]:
        raise ValueError(f"{_NEEDS}: there is no ID")
    groups = _names(job.get("TaskGroups"), "TaskGroups")
    return {
        name: _names(job["TaskGroups"][place].get("Tasks"), f"TaskGroups[{place}].Tasks")
        for place, name in enumerate(groups)
    }


class World:
    """Allocations that live on simulated drivers.

    `job` is a job in Nomad's JSON, with one group or more. `scripts` says for a task how its runs go, one after the
    other; the last one goes on. A task without a script runs for a while and fails at the rate `failure_rate`.
    Raises ValueError for a job that lacks what it needs, and for scripts of tasks that it does not have.

    >>> job = {"ID": "example", "Type": "batch", "TaskGroups": [{"Name": "group", "Tasks": [{"Name": "web"}],
    ...     "RestartPolicy": {"Attempts": 3, "Interval": 10**12, "Delay": 10**9, "Mode": "fail"}}]}
    >>> world = World(job, scripts={"web": [Run(after_ns=3 * 10**9, exit_code=1)] * 2 + [Run(after_ns=10**9)]})
    >>> world.run_until_idle()
    >>> world.engine.snapshot(world.allocs[0]).client_status, world.engine.task(world.allocs[0], "web").restarts
    ('complete', 2)
    """

    def __init__(
        self,
        job: Mapping[str, Any],
        *,
        dialect: str | Dialect = DEFAULT_DIALECT,
        seed: int = 0,
        scripts: Mapping[str, Sequence[Run]] | None = None,
        failure_rate: float = 0.2,
        log: EventLog | None = None,
        count: int = 1,
    ) -> None:
        tasks_by_group = _tasks_by_group(job)
        tasks = {task for names in tasks_by_group.values() for task in names}
        if strangers := sorted({*(scripts or {})} - tasks):
            raise ValueError(f"the job has no task {strangers[0]!r} for a script: it has {', '.join(sorted(tasks))}")
        if not 0 <= failure_rate <= 1:
            raise ValueError(f"a failure rate is a number from 0 to 1, not {failure_rate}")
        self.dialect = dialect_of(dialect)
        self.job = job
        self.seed = seed
        self.scripts = {task: deque(runs) for task, runs in (scripts or {}).items()}
        self.failure_rate = failure_rate
        self.log = MemoryLog(self.dialect.name) if log is None else log
        self.clock = ManualClock(BEGIN_NS)
        self.allocs: list[str] = []
        self.collected: set[str] = set()
        self.dropped = 0
        """How many messages of drivers were lost."""
        self._drop_next = 0
        self._rng = random.Random(f"world {seed}")
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._turn = 0
        self._processes: dict[tuple[str, str], _Process] = {}
        self._runs: dict[tuple[str, str], int] = {}
        self._begin()
        for group in tasks_by_group:
            for _ in range(count):
                self.place(group)

    def _begin(self) -> None:
        """Make an engine of the log."""
        self.engine = Engine(self.log, clock=self.clock, seed=self.seed)
        self.engine.on_step(self._carry_out)

    # --- what a test does ---

    def place(self, group: str) -> str:
        """Place another allocation of a group, and return its ID."""
        alloc = f"{len(self.allocs) + 1:08x}-0000-4000-8000-{self.seed % 2**48:012x}"
        body = {"ID": alloc, "JobID": self.job["ID"], "TaskGroup": group, "Job": self.job, "DesiredStatus": "run"}
        self.engine.place(body)
        self.allocs.append(alloc)
        self.engine.report(alloc, "", inputs.PlacementReceived())
        return alloc

    def report(self, alloc: str, task: str, event: Input) -> Step:
        """Report something that the script does not do, such as `inputs.StopRequested()`."""
        return self.engine.report(alloc, task, event)

    def run_until_idle(self, *, limit_ns: int = 365 * 24 * 3600 * _SECOND) -> None:
        """Let time pass until nothing is due and no process ends by itself.

        Raises AssertionError when that takes longer than `limit_ns` (nanoseconds): something goes on for ever, as a
        task whose policy has the mode delay.
        """
        end_ns = self.clock.time_ns() + limit_ns
        while (next_ns := self.next_ns()) is not None:
            if next_ns > end_ns:
                raise AssertionError(f"it is not idle after {limit_ns // _SECOND} s: run_for(...) runs a part of it")
            self._step(next_ns)

    def run_for(self, duration_ns: int) -> None:
        """Let a time pass (nanoseconds), with all that happens in it."""
        end_ns = self.clock.time_ns() + duration_ns
        while (next_ns := self.next_ns()) is not None and next_ns <= end_ns:
            self._step(next_ns)
        self.clock.advance(end_ns - self.clock.time_ns())

    def next_ns(self) -> int | None:
        """Return when something happens next (unix nanoseconds); None when nothing will. O(1)."""
        times = [self._agenda[0][0]] if self._agenda else []
        due_ns = self.engine.next_due()
        return min([*times, due_ns] if due_ns is not None else times, default=None)

    def crash(self, *, processes_survive: bool = True) -> None:
        """Let the scheduler die and come again on its log; messages that were under way are lost.

        Its processes live on and are found again, with how those ended that nobody heard of; or they have died with it.
        """
        self._agenda = [entry for entry in self._agenda if isinstance(entry[2], _Exit)] if processes_survive else []
        self._begin()
        for (alloc, task), process in sorted(self._processes.items()):
            if alloc in self.collected:
                continue
            if process.end is not None:
                self._report_end(process)
            elif process.is_alive:
                process.is_alive = processes_survive
                self.engine.report(alloc, task, inputs.Restored(reattached=processes_survive))
        if not processes_survive and self.dialect.has_new_client:
            for alloc in self.allocs:
                if alloc not in self.collected:
                    self.engine.report(alloc, "", inputs.ServerContacted())
        for step in self.engine.restore():
            self._carry_out(step)

    def lose(self, messages: int = 1) -> None:
        """Lose the next messages of drivers: they are never reported."""
        self._drop_next += messages

    # --- what drivers do ---

    def _step(self, time_ns: int) -> None:
        """Let what comes next happen."""
        self.clock.advance(max(time_ns - self.clock.time_ns(), 0))
        if self._agenda and self._agenda[0][0] <= time_ns:
            heapq.heappop(self._agenda)[2]()
        else:
            self.engine.due()

    def _plan(self, in_ns: int, action: Callable[[], None]) -> None:
        self._turn += 1
        heapq.heappush(self._agenda, (self.clock.time_ns() + in_ns, self._turn, action))

    def _message(self, alloc: str, task: str, message: Input, id: str | None = None) -> None:
        """Report what a driver says, unless it is to be lost."""
        if self._drop_next:
            self._drop_next -= 1
            self.dropped += 1
            return
        self.engine.report(alloc, task, message, id=id)

    def _report_end(self, process: _Process) -> None:
        """Report the whole life of a process, as far as nobody has."""
        assert process.end is not None
        self.engine.report(process.alloc, process.task, inputs.ProcessStarted(), id=process.id("started"))
        self.engine.report(process.alloc, process.task, process.end, id=process.id("exited"))

    def _carry_out(self, step: Step) -> None:
        """Do what a step owes."""
        for effect in step.effects:
            match effect:
                case effects.StartTask():
                    self._start(step.alloc, effect.task)
                case effects.KillTask():
                    self._kill(step.alloc, effect)
                case effects.ReleaseResources():
                    self.collected.add(step.alloc)

    def _next_run(self, task: str) -> Run:
        """Return how the next run of a task goes."""
        runs = self.scripts.get(task)
        if runs:
            return runs.popleft() if len(runs) > 1 else runs[0]
        fails = self._rng.random() < self.failure_rate
        return Run(
            after_ns=self._rng.randrange(1, 600) * _SECOND, exit_code=self._rng.choice((1, 2, 137)) if fails else 0
        )

    def _start(self, alloc: str, task: str) -> None:
        """Start a process, unless the task has one."""
        key = (alloc, task)
        there = self._processes.get(key)
        if there is not None and there.is_alive:
            # It was found again, or nobody heard that it had started.
            self._plan(_START_NS, lambda: self._started(there))
            return
        run = self._next_run(task)
        number = self._runs[key] = self._runs.get(key, 0) + 1
        process = self._processes[key] = _Process(alloc, task, run, number, is_alive=not run.fails_to_start)
        self._plan(_START_NS, lambda: self._started(process))

    def _started(self, process: _Process) -> None:
        run = process.run
        if run.fails_to_start:
            self._message(process.alloc, process.task, inputs.StartFailed(error=run.fails_to_start))
            return
        if run.after_ns is not None and not process.is_started:
            process.is_started = True
            self._plan(run.after_ns, _Exit(self, process, run.exit()))
        self._message(process.alloc, process.task, inputs.ProcessStarted(), process.id("started"))

    def _kill(self, alloc: str, effect: effects.KillTask) -> None:
        """End the process of a task; without one there is nothing whose exit code could be known."""
        process = self._processes.get((alloc, effect.task))
        if process is None or not process.is_alive:
            self._plan(0, lambda: self._message(alloc, effect.task, inputs.Exited(exit_code=None)))
            return
        if process.run.ignores_kill:
            in_ns, end = effect.timeout_ns, inputs.Exited(exit_code=137, signal=9)
        else:
            in_ns, end = min(_KILL_NS, effect.timeout_ns), inputs.Exited(exit_code=143, signal=15)
        self._plan(in_ns, _Exit(self, process, end))

    def _check(self) -> None:
        """Raise AssertionError where the engine is not whole."""
        self.engine._check()  # noqa: SLF001 - what its own tests ask, too


class _Exit:
    """The end of a process, which happens whether or not anybody looks."""

    def __init__(self, world: World, process: _Process, end: inputs.Exited) -> None:
        self.world = world
        self.process = process
        self.end = end

    def __call__(self) -> None:
        """End the process, and have that reported; it ends once."""
        if self.process.is_alive:
            self.process.is_alive = False
            self.process.end = self.end
            name = self.process.id("exited")
            self.world._message(self.process.alloc, self.process.task, self.end, name)  # noqa: SLF001 - its world
