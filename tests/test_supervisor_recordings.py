"""Real processes under the supervisor live as they lived under the recorded Nomads: the same events, states, exits."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recordings import Scenario, actions, scenarios
from taskfold import Engine, inputs
from taskfold.cli.jobs import read_jobs
from taskfold.codecs.views import view
from taskfold.codecs.views_job import Job
from taskfold.dialect import EVENTS_PER_TASK, dialect_of
from taskfold.drivers.raw_exec import DRIVER
from taskfold.events import TaskEvent
from taskfold.log.memory import MemoryLog
from taskfold.record import Updated
from taskfold.supervisor import PROCESSES, Supervisor
from test_decides_like_nomad import compared
from told_inputs import Told, told

BY_OTHERS = (
    inputs.HealthFailed,
    inputs.KillRequested,
    inputs.NodeLost,
    inputs.RestartRequested,
    inputs.SignalRequested,
    inputs.StopRequested,
)
"""What operators and servers say; everything else has to come from the processes themselves."""

LATEST_S = 40
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
    submitted = {"Job": jobs[0].told} if len(jobs) == 1 else {}
    return {**json.loads(found.body), **own, **submitted, PROCESSES: {}}


def begun_ns(found: Told) -> int:
    """Return when the client received an allocation."""
    return min(time_ns for time_ns, _, said in found.inputs if isinstance(said, inputs.Placed))


async def lived(scenario: Scenario, found: Told, directory: Path) -> tuple[Engine, str]:
    """Run the processes of a recorded allocation, with what others said at the times at which they said it."""
    engine = Engine(MemoryLog(scenario.version), seed=1)
    body = placed(scenario, found)
    alloc = str(body["ID"])
    engine.place(body)
    supervisor = Supervisor(engine, directory, is_bound=True)
    running = asyncio.create_task(supervisor.run())
    began = time.monotonic_ns() - begun_ns(found)
    said_then: list[tuple[int, str, inputs.Input | Updated]] = []
    said_then += [entry for entry in found.inputs if isinstance(entry[2], BY_OTHERS)]
    said_then += [(time_ns, "", update) for time_ns, update in found.updates]
    for time_ns, task, said in sorted(said_then, key=lambda entry: entry[0]):
        await asyncio.sleep((began + time_ns - time.monotonic_ns()) / 1e9)
        if isinstance(said, inputs.HealthFailed) and json.loads(found.last_body)["ClientStatus"] == "failed":
            # What was told of the dead is told when they are dead.
            await asyncio.wait_for(asyncio.shield(running), LATEST_S)
        if isinstance(said, Updated):
            engine.update(alloc, {"Job": said.fields["Job"]})
        else:
            engine.report(alloc, task, said)
    await asyncio.wait_for(running, LATEST_S)
    return engine, alloc


async def lived_while_nobody_looked(scenario: Scenario, found: Told, directory: Path) -> tuple[Engine, str]:
    """Run a job by the command; kill that when the agent was gone, begin again when it looked at the task again."""
    directory.mkdir(parents=True)  # noqa: ASYNC240 - nothing else waits yet
    log = directory / "tasks.db"
    lines = actions(scenario)
    began_s = begun_ns(found) / 1e9 - lines[0]["t_done"]
    told_then = [(began_s + line["t"], line) for line in lines]
    gone_s = next(at for at, line in told_then if "SIGINT" in line.get("note", ""))
    back_s = next(at for at, line in told_then if "started" in line.get("note", ""))
    stop_s = next(at for at, line in told_then if line.get("method") == "DELETE")
    events = [record.time_ns / 1e9 for record in found.records if isinstance(record.event, TaskEvent)]
    # An agent that is back takes seconds until it looks after its tasks.
    since = [at for at in events if back_s <= at < stop_s - 0.1]
    back_s = max([back_s, *since[:1]])
    command = [sys.executable, "-m", "taskfold", "run", str(scenario.path / "job.json"), "--log", str(log)]
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.DEVNULL}
    first = await asyncio.create_subprocess_exec(*command, "--dialect", scenario.version, **pipes)
    assert first.stdout is not None
    while "Started" not in (await first.stdout.readline()).decode():
        pass
    await asyncio.sleep(gone_s - max(at for at in events if at < gone_s))
    first.kill()
    await first.wait()
    await asyncio.sleep(back_s - gone_s)
    second = await asyncio.create_subprocess_exec(*command, **pipes)
    assert second.stdout is not None
    for _ in since:
        await second.stdout.readline()
    with suppress(TimeoutError):
        await asyncio.wait_for(second.wait(), stop_s - max([back_s, *since]))
    if second.returncode is None:
        second.send_signal(signal.SIGINT)
    await asyncio.wait_for(second.communicate(), LATEST_S)
    engine = Engine.open(log)
    (alloc,) = engine.allocations().ids
    return engine, alloc


@pytest.fixture(scope="module")
def lives(tmp_path_factory) -> Iterator[dict[str, tuple[Engine, str]]]:
    """Every case, all at once: most of the time they wait."""
    directory = tmp_path_factory.mktemp("lives")

    async def all_lives() -> list[tuple[Engine, str]]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task((lived_while_nobody_looked if AWAY in name else lived)(*case, directory / name))
                for name, case in CASES.items()
            ]
        return [task.result() for task in tasks]

    found = dict(zip(CASES, asyncio.run(all_lives()), strict=True))
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
