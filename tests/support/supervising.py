"""Jobs of short processes, a supervisor that runs them in this process, and a look at what is left of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.servers import LATEST_S
from taskfold import Engine
from taskfold.events import Started, TaskEvent, wire_type
from taskfold.fold.lifecycle import DEAD, RUNNING
from taskfold.log.memory import MemoryLog
from taskfold.run.supervisor import Supervisor

NS = 1_000_000_000

READY = "echo >> ready"
"""How a script says that it has prepared what it has to: its traps, and its children."""
FOREVER = f"{READY}; while :; do sleep 0.05; done"


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
    """Run a job to its end, acting when all of its tasks are ready or dead, and then again when they are."""
    engine = engine or Engine(MemoryLog("1.1.2"), seed=1)
    supervisor = Supervisor(engine, directory, is_bound=True)
    supervisor.place(job)
    running = asyncio.create_task(supervisor.run())
    for act in acts:
        await eventually(lambda: is_settled(supervisor, directory) or running.done())
        acted = act(supervisor)
        if inspect.isawaitable(acted):
            await acted
    await asyncio.wait_for(running, LATEST_S)
    # Who lost its executor is no child of ours: it was killed, and is gone soon.
    await eventually(lambda: not left_in(directory))
    return engine


def is_settled(supervisor: Supervisor, directory: Path) -> bool:
    """Tell whether every task is dead, or has a process of this supervisor's that is ready, and is to stay."""
    keys = [(alloc, name) for alloc in supervisor.allocations for name in supervisor.engine.snapshot(alloc).tasks]
    return bool(keys) and all(_is_settled(supervisor, directory, *key) for key in keys)


def _is_settled(supervisor: Supervisor, directory: Path, alloc: str, name: str) -> bool:
    task, process = supervisor.engine.task(alloc, name), supervisor._processes.get((alloc, name))
    if task.state == DEAD:
        return True
    if task.state != RUNNING or process is None or not process.is_started:
        return False
    if task.memory is not None and task.memory.restart:
        return False
    if READY.encode() not in supervisor.engine.snapshot(alloc).fields["Job"]:
        return True
    told = directory / alloc / name / "ready"
    begun = sum(isinstance(event, Started) for event in events_of(supervisor.engine, alloc, name))
    return told.exists() and told.read_text(encoding="utf-8").count("\n") == begun


def output(directory: Path, alloc: str, task: str = "main", stream: str = "stdout") -> Path:
    """Return the file that keeps what a task writes."""
    return directory / alloc / "alloc" / "logs" / f"{task}.{stream}.0"


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
