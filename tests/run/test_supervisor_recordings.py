"""Real processes under the supervisor live as they lived under the recorded Nomads: the same events, states, exits."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.decided import compared
from support.recordings import Scenario, actions, scenarios
from support.servers import LATEST_S
from support.supervising import events_of, eventually, left_in
from support.told_inputs import Told, told
from taskfold import Engine, inputs
from taskfold.cli._jobs import read_jobs
from taskfold.events import TaskEvent
from taskfold.log.memory import MemoryLog
from taskfold.model.dialect import EVENTS_PER_TASK, dialect_of
from taskfold.model.record import Updated
from taskfold.nomad.views.decode import view
from taskfold.nomad.views.job import Job
from taskfold.run.process import Process
from taskfold.run.raw_exec import DRIVER
from taskfold.run.supervisor import PROCESSES, Supervisor

BY_OTHERS = (
    inputs.HealthFailed,
    inputs.KillRequested,
    inputs.NodeLost,
    inputs.RestartRequested,
    inputs.SignalRequested,
    inputs.StopRequested,
)
"""What operators and servers say; everything else has to come from the processes themselves."""

AT_ONCE = 8
"""How many lives go on at a time: in some of them a process has to end within seconds."""
AWAY = "agent_restart_"
"""The scenarios in which the agent was gone for a while: there it is a command, and is killed."""


def can_be_run(found: Told) -> bool:
    """Tell whether an allocation is of raw_exec alone, and needs nothing that only a Nomad can get."""
    told_job = view(msgspec.json.encode(json.loads(found.body)["Job"]), Job, path="$.Job")
    tasks = [task for group in told_job.task_groups for task in group.tasks]
    return all(
        task.driver == DRIVER and not (task.artifacts or task.templates or task.user or task.vault) for task in tasks
    )


CASES = {
    f"{scenario}/{place}": (scenario, found)
    for scenario in scenarios()
    for place, found in enumerate(told(scenario))
    if can_be_run(found)
}


def placed(scenario: Scenario, found: Told) -> dict[str, Any]:
    """Return an allocation as it was placed, of the job as it was submitted where there was one version of it."""
    own = {"DesiredStatus": "run", "DesiredDescription": "", "ClientStatus": "pending", "ClientDescription": ""}
    jobs = read_jobs(str(scenario.path / "job.json"), dialect_of(scenario.version))
    submitted = {"Job": jobs[0].json} if len(jobs) == 1 else {}
    return {**json.loads(found.body), **own, **submitted, PROCESSES: {}}


def begun_ns(found: Told) -> int:
    """Return when the client received an allocation."""
    return min(time_ns for time_ns, _, said in found.inputs if isinstance(said, inputs.PlacementReceived))


async def lived(scenario: Scenario, found: Told, directory: Path) -> tuple[Engine, str]:
    """Run the processes of a recorded allocation; what others said is said when as much has happened as then."""
    engine = Engine(MemoryLog(scenario.version), seed=1)
    body = placed(scenario, found)
    alloc = str(body["ID"])
    engine.place(body)
    supervisor = Supervisor(engine, directory, is_bound=True)
    running = asyncio.create_task(supervisor.run())
    said_then: list[tuple[int, str, inputs.Input | Updated]] = []
    said_then += [entry for entry in found.inputs if isinstance(entry[2], BY_OTHERS)]
    said_then += [(time_ns, "", update) for time_ns, update in found.updates]
    for time_ns, task, said in sorted(said_then, key=lambda entry: entry[0]):
        await eventually(lambda until_ns=time_ns: has_come(engine, supervisor, found, until_ns))
        if isinstance(said, inputs.HealthFailed) and json.loads(found.last_body)["ClientStatus"] == "failed":
            # What was told of the dead is told when they are dead.
            await asyncio.wait_for(asyncio.shield(running), LATEST_S)
        if isinstance(said, Updated):
            engine.update(alloc, {"Job": said.fields["Job"]})
        else:
            engine.report(alloc, task, said)
    await asyncio.wait_for(running, LATEST_S)
    return engine, alloc


def has_come(engine: Engine, supervisor: Supervisor, found: Told, time_ns: int) -> bool:
    """Tell whether each task has had all the events that it had by a time, and has set the traps that it sets."""
    (alloc,) = engine.allocations().ids
    for name, records in found.tasks.items():
        by_then = [r for r in records if r.time_ns < time_ns and isinstance(r.event, TaskEvent)]
        if len(events_of(engine, alloc, name)) < len(by_then):
            return False
    processes = supervisor._processes
    return "trap" not in found.body or all(process.is_started and catches(process) for process in processes.values())


def catches(process: Process) -> bool:
    """Tell whether a process catches or ignores a signal that its job may send."""
    status = Path("/proc", process.status["pid"], "status").read_text(encoding="utf-8")
    caught = int(re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)[1], 16)
    return any(caught & 1 << (number - 1) for number in (signal.SIGINT, signal.SIGUSR1))


async def lived_while_nobody_looked(scenario: Scenario, found: Told, directory: Path) -> tuple[Engine, str]:
    """Run a job by the command; kill that when the agent was gone, begin again when it looked at the task again."""
    directory.mkdir(parents=True)  # noqa: ASYNC240 - in no time
    log = directory / "tasks.db"
    lines = actions(scenario)
    began_s = begun_ns(found) / 1e9 - lines[0]["t_done"]
    told_then = [(began_s + line["t"], line) for line in lines]
    back_s = next(at for at, line in told_then if "started" in line.get("note", ""))
    stop_s = next(at for at, line in told_then if line.get("method") == "DELETE")
    events = [record.time_ns / 1e9 for record in found.records if isinstance(record.event, TaskEvent)]
    since = [at for at in events if back_s <= at < stop_s - 0.1]
    command = [sys.executable, "-m", "taskfold", "run", str(scenario.path / "job.json"), "--log", str(log)]
    pipe = asyncio.subprocess.PIPE
    nowhere = asyncio.subprocess.DEVNULL
    first = await asyncio.create_subprocess_exec(*command, "--dialect", scenario.version, stdout=pipe, stderr=nowhere)
    assert first.stdout is not None
    while "Started" not in (await first.stdout.readline()).decode():
        pass
    first.kill()
    await first.wait()
    if since:  # the process ended meanwhile, else the first that is known of it would be that it was killed
        await eventually(lambda: not left_in(directory))
    second = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    assert second.stdout is not None
    assert second.stderr is not None
    while "its process is" not in (await second.stderr.readline()).decode():
        pass
    for _ in since:
        await second.stdout.readline()
    if since:
        # A shell minds a signal when its child has ended: the last of four seconds lies within the two until SIGKILL.
        await asyncio.sleep(3)
    if any(isinstance(said, inputs.StopRequested) for _, _, said in found.inputs):
        second.send_signal(signal.SIGINT)
    await asyncio.wait_for(second.communicate(), LATEST_S)
    engine = Engine.open(log)
    (alloc,) = engine.allocations().ids
    return engine, alloc


def lasted_ns(name: str) -> int:
    """Return how long the processes of a case lived: the longest begin first, so that none is waited for alone."""
    happened = [r.time_ns for r in CASES[name][1].records if isinstance(r.event, TaskEvent)]
    return max(happened) - min(happened)


@pytest.fixture(scope="module")
def lives(request, tmp_path_factory) -> Iterator[dict[str, tuple[Engine, str]]]:
    """Every case that a test asks for, some at once: most of the time they wait."""
    calls = [item.callspec for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = {call.params["name"] for call in calls}
    directory = tmp_path_factory.mktemp("lives")

    async def all_lives() -> dict[str, tuple[Engine, str]]:
        turns = asyncio.Semaphore(AT_ONCE)

        async def live(name: str) -> tuple[Engine, str]:
            async with turns:
                return await (lived_while_nobody_looked if AWAY in name else lived)(*CASES[name], directory / name)

        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(live(name)) for name in sorted(asked, key=lasted_ns, reverse=True)}
        return {name: task.result() for name, task in tasks.items()}

    found = asyncio.run(all_lives())
    yield found
    for engine, _ in found.values():
        engine.close()


@pytest.mark.parametrize("name", CASES)
def test_real_processes_live_as_they_lived_under_nomad(lives, name) -> None:
    """Only times, and the random part of delays, may differ."""
    scenario, found = CASES[name]
    engine, alloc = lives[name]
    # Where events were lost, what Nomad showed in the end can be compared.
    newest = EVENTS_PER_TASK if found.has_gap else 0
    assert compared(engine, alloc, scenario.version, found, newest=newest) == []


def test_the_recordings_that_can_be_run_are_many() -> None:
    """None is left out since it became something else."""
    assert len(CASES) >= 51
    assert sum(AWAY in name for name in CASES) == 4
