"""Jobs of short processes, a supervisor that runs them in this process, and a look at what is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from taskfold import Engine
from taskfold.events import TaskEvent, wire_type
from taskfold.log.memory import MemoryLog
from taskfold.supervisor import Supervisor

LATEST_S = 30
NS = 1_000_000_000


def script(name: str, text: str, **more: Any) -> dict[str, Any]:
    """Return a task that runs a shell script."""
    return {"Name": name, "Driver": "raw_exec", "Config": {"command": "/bin/sh", "args": ["-c", text]}, **more}


def job_of(*tasks: dict[str, Any], type: str = "batch", count: int = 1, attempts: int = 0) -> dict[str, Any]:
    """Return a job of one group."""
    policy = {"Attempts": attempts, "Delay": 10_000_000, "Interval": 60 * NS, "Mode": "fail"}
    group = {"Name": "group", "Count": count, "RestartPolicy": policy, "Tasks": list(tasks)}
    return {"ID": "example", "Name": "example", "Type": type, "TaskGroups": [group]}


async def supervised(
    job: dict[str, Any],
    directory: Path,
    *acts: Callable[[Supervisor], object],
    engine: Engine | None = None,
) -> Engine:
    """Run a job to its end, acting when all of its tasks run or are dead, and then again when they do."""
    engine = engine or Engine(MemoryLog("1.1.2"), seed=1)
    supervisor = Supervisor(engine, directory, is_bound=True)
    supervisor.place(job)
    running = asyncio.create_task(supervisor.run())
    for act in acts:
        await eventually(lambda: is_settled(engine) or running.done())
        await asyncio.sleep(0.1)  # what a script has to prepare
        act(supervisor)
    await asyncio.wait_for(running, LATEST_S)
    # Who lost its executor is no child of ours: it was killed, and is gone soon.
    await eventually(lambda: not left_in(directory))
    return engine


def is_settled(engine: Engine) -> bool:
    """Tell whether every task runs or is dead."""
    tasks = [task for snapshot in engine.allocations() for task in snapshot.tasks.values()]
    return bool(tasks) and all(task.state != "pending" for task in tasks)


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(LATEST_S):
        while not holds():
            await asyncio.sleep(0.01)


def run(job: dict[str, Any], directory: Path, *acts: Callable[[Supervisor], object], **more: Any) -> Engine:
    """Run a job to its end."""
    return asyncio.run(supervised(job, directory, *acts, **more))


def types_of(engine: Engine, task: str) -> list[str]:
    """Return the types of all events of a task of the only allocation."""
    (alloc,) = engine.allocations().ids
    return [wire_type(event) for event in events_of(engine, alloc, task)]


def events_of(engine: Engine, alloc: str, task: str) -> list[TaskEvent]:
    """Return all events of a task."""
    return [record.event for record in engine.history(alloc, task) if isinstance(record.event, TaskEvent)]


def left_in(directory: Path) -> list[str]:
    """Return the command lines of the processes that work in a directory: tasks, and their executors."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(directory):
                found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes().decode(errors='replace')}")
    return found
