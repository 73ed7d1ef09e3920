"""The supervisor: it carries out the effects of an engine with real processes, and reports their starts and ends.

It reports in the event loop's thread: each report is recorded before the next effect is carried out, at the price that
the loop waits for the log's disk.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from taskfold.fold.lifecycle import DEAD, RUNNING
from taskfold.live.engine import Engine
from taskfold.log.ownership import Owned
from taskfold.model import inputs
from taskfold.model.effects import KillTask, ReleaseResources, SignalTask, StartTask, Step
from taskfold.model.errors import LogError
from taskfold.model.events import wire_type
from taskfold.model.go.durations import NS_PER_SECOND
from taskfold.model.go.quoting import go_quoted
from taskfold.nomad.groups import named_group
from taskfold.nomad.jobs.canonical import canonical_job
from taskfold.nomad.snapshot import Snapshot
from taskfold.nomad.views.decode import view
from taskfold.nomad.views.job import Job, TaskGroup, TaskView
from taskfold.run.driver import DriverProcess, Handle, TaskDriver
from taskfold.run.environment import Placement, environment_of
from taskfold.run.raw_exec import DRIVER, RawExec, notes_of
from taskfold.run.task_directory import TaskDirectory

__all__ = ["PROCESSES", "Supervisor"]

PROCESSES: Final = "Processes"
"""The field of an allocation for the handles of its processes; allocations without it are not the supervisor's."""

_DRIVER: Final = "Driver"
"""The key beside those of a handle for the driver that has it; raw_exec where it is missing."""
_RECOVERY: Final = "Found"
"""The key for how a later supervisor found the process: ``reattached``, ``ended`` (meanwhile) or ``lost``."""

_Key: TypeAlias = tuple[str, str]
"""An allocation and one of its tasks."""


class Supervisor(Owned):
    """Runs the tasks of the allocations that it places, on one event loop."""

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        *,
        is_bound: bool = False,
        drivers: Mapping[str, TaskDriver] | None = None,
    ) -> None:
        """Take over the allocations of the engine's log; bound processes end with this one, whatever ends it.

        Beside raw_exec, tasks may have the `drivers`, by the name that jobs have for them.
        """
        self.engine = engine
        self.on_note: Callable[[str], object] = lambda _: None
        """Called with a sentence about each process that is found again, and about variables that a task lacks."""
        self._directory = directory.absolute()
        self._own_with(engine.reader)
        self._drivers: dict[str, TaskDriver] = {DRIVER: RawExec(is_bound=is_bound), **(drivers or {})}
        self._is_stopping = False
        self._over = asyncio.Event()
        self._processes: dict[_Key, DriverProcess] = {}
        self._attempts: dict[_Key, int] = {}
        """The newest attempt to end each process."""
        own = [snapshot for snapshot in engine.allocations() if PROCESSES in snapshot.fields]
        self.allocations = {snapshot.id or "" for snapshot in own}
        """The IDs of the allocations that it runs or has run."""
        self.live = {snapshot.id or "" for snapshot in own if not _is_dead(snapshot)}
        """The IDs of the allocations that have a task that is not dead."""
        engine.on_collect(lambda snapshot, _: self.allocations.discard(snapshot.id or ""))

    def place(self, job: Mapping[str, Any]) -> list[str]:
        """Place the allocations of a job that are not placed yet; return the IDs of all. Raises TaskfoldError.

        The job is as people write it; each allocation has it as the Nomad of the dialect stores it.
        """
        text = self.canonical_job(job)
        whole = view(text, Job, path="$")
        snapshots = map(self.engine.snapshot, tuple(self.allocations))
        standing = {snapshot.name: snapshot.id or "" for snapshot in snapshots if snapshot.desired_status == "run"}
        groups = {
            group.name: [f"{whole.id}.{group.name}[{number}]" for number in range(group.count)]
            for group in whole.task_groups or ()
        }
        for name, names in groups.items():
            if missing := [each for each in names if each not in standing]:
                self._note_unknown(whole, name, missing[0])
        return [
            standing.get(name) or self._place(whole, text, group, name)
            for group, names in groups.items()
            for name in names
        ]

    def canonical_job(self, job: Mapping[str, Any]) -> bytes:
        """Return a job as the Nomad of the dialect stores it. Raises DecodeError."""
        return canonical_job(msgspec.json.encode(job), self.engine.dialect, region=self.engine.reader.region)

    def _note_unknown(self, job: Job, group_name: str, name: str) -> None:
        """Note the variables that the tasks of a group lack."""
        group = named_group(job, group_name)
        assert group is not None
        for task in group.tasks or ():
            if note := notes_of(self._placement(job, group, name), task):
                self.on_note(f"task {task.name!r}: {note}")

    def _place(self, job: Job, text: bytes, group: str, name: str) -> str:
        alloc = str(uuid.uuid4())
        own = {"ID": alloc, "Name": name, "JobID": job.id, "TaskGroup": group, "Job": msgspec.Raw(text)}
        if job.namespace:
            own["Namespace"] = job.namespace
        self.engine.place({**own, "DesiredStatus": "run", PROCESSES: {}})
        self.allocations.add(alloc)
        self.live.add(alloc)
        self._report(alloc, "", inputs.PlacementReceived())
        return alloc

    async def run(self) -> None:
        """Carry out effects until every task is dead, and leave no process behind. Raises LogError."""
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._live()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _live(self) -> None:
        for alloc in tuple(self.allocations):
            self._recover(alloc)
        # It listens before `restore`, so that no effect is missed; a start that both report is begun once.
        carrying = self._group.create_task(self._carry_out(self.engine.steps_async()))
        try:
            for step in self.engine.restore():
                self._carry(step)
            self.live = {alloc for alloc in self.live if not _is_dead(self.engine.snapshot(alloc))}
            self._check_over()
            await self._over.wait()
        finally:
            self._over.set()
            carrying.cancel()
            for process in self._processes.values():
                process.send("SIGKILL")

    def stop(self) -> None:
        """Stop every live allocation as its job says; a second call kills at once."""
        if self._is_stopping:
            self._over.set()
        if not self._over.is_set():
            self._is_stopping = True
            self._group.create_task(self._stop())

    async def _stop(self) -> None:
        for alloc in tuple(self.live):
            self._report(alloc, "", inputs.StopRequested())

    # --- for a reader ---

    def directory_of(self, alloc: str, task: str) -> TaskDirectory:
        """Return the directories of a task."""
        return TaskDirectory(self._directory, alloc, task)

    def processes_of(self, alloc: str) -> dict[str, object]:
        """Return the processes of an allocation that run now, by task."""
        return {task: process for (owner, task), process in self._processes.items() if owner == alloc}

    # --- effects ---

    async def _carry_out(self, steps: AsyncIterator[Step]) -> None:
        async for step in steps:
            self._carry(step)

    def _carry(self, step: Step) -> None:
        for effect in step.effects if step.alloc in self.allocations else ():
            match effect:
                case StartTask(task=task):
                    self._start((step.alloc, task))
                case KillTask(task=task):
                    self._kill((step.alloc, task), effect)
                case SignalTask(task=task, signal=name) if (step.alloc, task) in self._processes:
                    self._processes[step.alloc, task].send(name)
                case ReleaseResources():
                    self.live.discard(step.alloc)
                    for key, process in self._processes.items():
                        if key[0] == step.alloc:  # somebody else reported its end, or it begins too late
                            process.send("SIGKILL")
                    self._check_over()

    def _start(self, key: _Key) -> None:
        """Start a task, unless the same effect started it before; report why it cannot start."""
        if key in self._processes:
            return
        self._report(*key, inputs.SetUp(), id=f"{'/'.join(key)}/SetUp")
        snapshot, directory = self.engine.snapshot(key[0]), self.directory_of(*key)
        try:
            placement, task = self._placement_of(snapshot, key[1])
            environment = environment_of(placement, task, directory)
            process = self._driver_of(task).prepare(task, environment, directory)
        except ValueError as error:
            self._report(*key, inputs.ValidationFailed(error=str(error)))
        except OSError as error:
            is_passing = not isinstance(error, FileNotFoundError)
            self._report(*key, self._worded(key, inputs.StartFailed(error=str(error), recoverable=is_passing)))
        else:
            self._processes[key] = process
            self._group.create_task(self._follow(key, process))
            # The handle is recorded before the process runs: after a crash it is found, or has never begun.
            self._remember(key, {**process.handle, _RECOVERY: "", _DRIVER: task.driver})
            process.go()

    def _driver_of(self, task: TaskView) -> TaskDriver:
        """Return the driver of a task. Raises ValueError if there is none."""
        if task.driver not in self._drivers:
            raise ValueError(f"driver {task.driver!r} is not known here; there is {', '.join(self._drivers)}")
        return self._drivers[task.driver]

    def _worded(self, key: _Key, failure: inputs.StartFailed) -> inputs.StartFailed:
        """Return a failed start in the words of the dialect's driver."""
        what = f"failed to start task {go_quoted(key[1])} for alloc {go_quoted(key[0])}: "
        if self.engine.dialect.has_new_client:
            what = "failed to launch command with executor: rpc error: code = Unknown desc = "
        return msgspec.structs.replace(failure, error=what + failure.error)

    def _kill(self, key: _Key, effect: KillTask) -> None:
        """End a process; one that has not begun gets another effect when it has."""
        process = self._processes.get(key)
        if process is None:
            self._report(*key, inputs.Exited(exit_code=None))
        elif process.is_started and self._attempts.get(key, 0) < effect.attempt:
            self._attempts[key] = effect.attempt
            process.send(effect.signal)
            wait_ns = max(effect.hard_at_ns - self.engine.clock.time_ns(), 0)
            asyncio.get_running_loop().call_later(wait_ns / NS_PER_SECOND, process.send, "SIGKILL")

    # --- reports ---

    async def _follow(self, key: _Key, process: DriverProcess) -> None:
        """Report the start and the end of a process."""
        with closing(process):
            async for report in process.reports():
                if not isinstance(report, inputs.ProcessStarted):
                    del self._processes[key]
                    self._attempts.pop(key, None)
                self._report_of(key, process, report)
        self._check_over()

    def _report_of(self, key: _Key, process: DriverProcess, input: inputs.Input) -> None:
        """Report an input of a process, with an ID, since a supervisor that finds it again may report it again."""
        report = self._worded(key, input) if isinstance(input, inputs.StartFailed) else input
        name = "/".join(map(str, process.handle.values()))
        self._report(*key, report, id=f"{'/'.join(key)}/{name}/{wire_type(input)}")

    def _report(self, alloc: str, task: str, input: inputs.Input, id: str | None = None) -> None:
        # A clock that went back between two runs does not keep reports from being recorded.
        newest_ns = self.engine.reader.read(alloc).modified_ns
        time_ns = newest_ns if newest_ns > self.engine.clock.time_ns() else None
        self.engine.report(alloc, task, input, id=id, time_ns=time_ns)

    def _check_over(self) -> None:
        if not self.live and not self._processes:
            self._over.set()

    # --- after a crash ---

    def _recover(self, alloc: str) -> None:
        """Find the processes of an allocation again, and record how each was found."""
        if alloc in self.live:
            self._report(alloc, "", inputs.PlacementReceived())  # a crash may have come between its placement and this
        snapshot = self.engine.snapshot(alloc)
        for name, entry in _handles(snapshot).items():
            key, driver = (alloc, name), self._drivers.get(entry.get(_DRIVER, DRIVER))
            if driver is None:
                raise LogError(f"task {name!r} of {alloc} was started by driver {entry[_DRIVER]!r}, which is not here")
            handle = {field: value for field, value in entry.items() if field not in {_DRIVER, _RECOVERY}}
            process = driver.find(handle, self.directory_of(*key))
            is_running = snapshot.tasks[name].state == RUNNING
            recovery = "reattached" if process.is_alive else "ended" if process.is_over else "lost"
            if is_running or process.is_alive:
                self._remember(key, {**entry, _RECOVERY: recovery})
                what = ", ".join(f"{field} {value}" for field, value in handle.items())
                self.on_note(f"task {name!r} of {alloc}: its process is {recovery} ({what})")
            if process.is_alive:
                self._processes[key] = process
                self._group.create_task(self._follow(key, process))
            elif process.is_over:
                if process.is_started:
                    self._report_of(key, process, inputs.ProcessStarted())
                self._report_of(key, process, process.end())
            else:
                process.end_orphan()
            if is_running and not process.is_over:
                self._report(alloc, name, inputs.Restored(reattached=process.is_alive))
        if alloc in self.live and self.engine.dialect.has_new_client:
            self._report(alloc, "", inputs.ServerContacted())

    def _remember(self, key: _Key, handle: Handle) -> None:
        """Record the handle of a task's process."""
        alloc, name = key
        self.engine.update(alloc, {PROCESSES: {**_handles(self.engine.snapshot(alloc)), name: handle}})

    def _placement_of(self, snapshot: Snapshot, name: str) -> tuple[Placement, TaskView]:
        """Return the placement of a task, and the task as the job has it now. Raises ValueError if it has none."""
        job = snapshot.view("Job")
        group = named_group(job, snapshot.task_group or "")
        for task in (group.tasks if group else None) or ():
            if group is not None and task.name == name:
                return self._placement(job, group, snapshot.name or ""), task
        raise ValueError(f"the job has no task {name!r} any more")

    def _placement(self, job: Job, group: TaskGroup, name: str) -> Placement:
        region = job.region or self.engine.reader.region
        return Placement(self.engine.dialect, region, job, group, name)


def _handles(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    return msgspec.json.decode(snapshot.fields[PROCESSES], type=dict[str, dict[str, Any]])


def _is_dead(snapshot: Snapshot) -> bool:
    return bool(snapshot.tasks) and all(task.state == DEAD for task in snapshot.tasks.values())
