"""Memory of live tasks, each built from decoded lines of a log as in a replay, in a process of its own.

Rivals: a plain dict of dicts with a deque of the last ten events as dicts; and a transitions model per task, which
keeps no history. Budgets: at most 500 B for a task without an event, 1.5 kB for one with a full ring, 2 GB for a million.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import msgspec

from benchmarks.harness import (
    SIZE,
    Budget,
    Row,
    in_child,
    named,
    peak_bytes,
    resident_bytes,
    take_turns,
    tell,
)
from benchmarks.histories import DIALECT, FULL, Population, alloc_id, decode_lines
from taskfold.allocation import Fold
from taskfold.lifecycle import build_machine

MODELS = 2_000
DICTS = "dict of dicts, deque of event dicts"
ADD_MODEL = named("transitions", f"add_model, extrapolated from {MODELS:,}, no history")


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure bytes per task, a million of them, and how long creating them takes."""
    count, traced, million = (400, 200, 10_000) if quick else (20_000, 5_000, 1_000_000)
    for events, limit in (("no event yet", 500), ("a full ring", 1_500)):
        steps = FULL if limit > 500 else 0
        for tasks_each in (1, 4):
            yield per_task(f"one task with {events}, {tasks_each} to an allocation", count, steps, tasks_each, limit)
        allocated = {
            f"taskfold, {tasks_each} to an allocation": [_child("trace", traced, steps, tasks_each)["bytes"]]
            for tasks_each in (1, 4)
        }
        note = "its own allocation and ID included"
        yield Row(f"one task with {events}, as allocated (tracemalloc)", "B", allocated, note=note, words=SIZE)
    for tasks_each in (1, 4):
        peak = [_child("taskfold", million, FULL, tasks_each)["peak"] / 1e9]
        what = f"{million:,} tasks with full rings, {tasks_each} to an allocation: peak of the process"
        yield Row(what, "GB", {"taskfold": peak}, budgets=(Budget("≤", 2),), words=SIZE)
    yield creating(million)


def _child(kind: str, count: int, steps: int, tasks_each: int = 1) -> dict[str, float]:
    return in_child("memory", kind, count, steps, tasks_each)


def per_task(what: str, count: int, steps: int, tasks_each: int, limit: int) -> Row:
    """Measure by how much the process grows."""
    values = take_turns(
        {
            "taskfold": lambda: _child("taskfold", count, steps, tasks_each)["bytes"],
            DICTS: lambda: _child("dicts", count, steps, tasks_each)["bytes"],
            ADD_MODEL: lambda: _child("models", MODELS, 0)["bytes"],
        }
    )
    return Row(what, "B", values, budgets=(Budget("≤", limit),), note=f"growth of the process by {count:,}", words=SIZE)


def creating(count: int) -> Row:
    """Measure how long the first record of so many tasks takes to be applied."""
    values = take_turns(
        {
            "taskfold, Fold.apply_all": lambda: _child("taskfold", count, 1)["seconds"],
            DICTS: lambda: _child("dicts", count, 1)["seconds"],
            ADD_MODEL: lambda: _child("models", MODELS, 0)["seconds"] * count / MODELS,
        },
        repetitions=3,
    )
    note = "one to an allocation, from decoded records; add_model is quadratic, so that the extrapolation flatters it"
    return Row(f"creating {count:,} tasks", "s", values, note=note)


# --- in the child ---

Build = Callable[[int, int, int], tuple[object, float]]


def _blocks(count: int, steps: int, tasks_each: int) -> Iterator[bytes]:
    """Yield the lines of a log; without steps, of tasks that are placed and have no event."""
    if steps:
        yield from Population(count, tasks_each).filling(steps)
        return
    names = ("web", "sidecar", "log-shipper", "metrics")
    for first in range(0, count, 1_000):
        tasks = range(first, min(first + 1_000, count))
        yield b"".join(
            b'{"Index":1,"Alloc":"%b","Version":1,"Task":"%b","Event":{"Type":"Placed"}}\n'
            % (alloc_id(task // tasks_each), names[task % tasks_each].encode())
            for task in tasks
        )


def taskfold(count: int, steps: int, tasks_each: int) -> tuple[object, float]:
    """Build a fold; return it, and the seconds without the decoding."""
    fold, taken = Fold(DIALECT), 0.0
    for block in _blocks(count, steps, tasks_each):
        records = decode_lines(block)
        start = perf_counter()
        fold.apply_all(records)
        taken += perf_counter() - start
    return fold, taken


def dicts(count: int, steps: int, tasks_each: int) -> tuple[object, float]:
    """Build what one would write without a library."""
    allocations: dict[str, Any] = {}
    decode, taken = msgspec.json.Decoder().decode_lines, 0.0
    for block in _blocks(count, steps, tasks_each):
        records = decode(block)
        start = perf_counter()
        for record in records:
            tasks = allocations.setdefault(record["Alloc"], {})
            task = tasks.get(record["Task"])
            if task is None:
                task = tasks[record["Task"]] = {
                    "State": "pending", "Failed": False, "Restarts": 0, "StartedAt": None, "FinishedAt": None,
                    "Events": deque(maxlen=10),
                }  # fmt: skip
            if record["Event"]["Type"] != "Placed":
                task["Events"].append(record["Event"])
        taken += perf_counter() - start
    return allocations, taken


def models(count: int, _steps: int, _tasks_each: int) -> tuple[object, float]:
    """Build a transitions model for each task."""
    machine = build_machine(DIALECT)
    start = perf_counter()
    for _ in range(count):
        machine.add_model(Model())
    return machine, perf_counter() - start


class Model:
    """A task as transitions knows it."""


def child(kind: str, count: int, steps: int, tasks_each: int) -> dict[str, float]:
    """Build the tasks, and return what they cost."""
    build: Build = {"taskfold": taskfold, "trace": taskfold, "dicts": dicts, "models": models}[kind]
    build(100, steps, tasks_each)
    gc.collect()
    if kind == "trace":
        tracemalloc.start()
    before = resident_bytes()
    kept, taken = build(count, steps, tasks_each)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] if kind == "trace" else resident_bytes() - before
    assert kept
    return {"bytes": grown / count, "peak": peak_bytes(), "seconds": taken}


if __name__ == "__main__":
    tell(child(sys.argv[2], *map(int, sys.argv[3:])))
