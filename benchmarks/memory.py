"""Memory of live tasks, each built from decoded lines of a log as in a replay, in a process of its own.

Rivals: a plain dict of dicts with a deque of the last ten events as dicts; and a transitions model per task, which
keeps no history. Budgets: 500 B for a task without an event, 1.5 kB for one with a full ring, 2 GB for a million.
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
    REPETITIONS,
    SIZE,
    Budget,
    Row,
    Run,
    in_child,
    label,
    peak_bytes,
    resident_bytes,
    take_turns,
    tell,
)
from benchmarks.histories import DIALECT, FULL, Population, alloc_id, decode_lines
from taskfold.fold.allocation import Fold
from taskfold.fold.lifecycle import build_machine

MODELS = 1_000
DICTS = "dict of dicts, deque of event dicts"
OBJECTS = "an event is an object of Python, and each of its header, time and place in a tuple costs; columns would not"
ADD_MODEL = label("transitions", "a model for each, no history")


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure bytes per task, a million of them, and how long creating them takes."""
    count, traced, million = (1_000, 100, 2_000) if quick else (10_000, 5_000, 1_000_000)
    models, repetitions = (MODELS // 20, 1) if quick else (MODELS, REPETITIONS)
    for events, steps, limit in (("no event yet", 0, 500), ("a full ring", FULL, 1_500)):
        for tasks_each in (1, 4):
            what = f"a task with {events}, {tasks_each} to an allocation"
            sides = [("taskfold", "taskfold"), (DICTS, "dicts")]
            runs = {name: _bytes(kind, count, steps, tasks_each) for name, kind in sides}
            if (steps, tasks_each) == (0, 1):
                runs[ADD_MODEL] = _bytes("models", models, 0, 1)
            budgets = (Budget("≤", limit, why=OBJECTS),)
            note = f"growth of the process by {count:,}, allocations and their IDs included"
            yield Row(what, "B", take_turns(runs, repetitions, warm_up=False), budgets=budgets, note=note, words=SIZE)
            allocated = {name: [_bytes(kind, traced, steps, tasks_each, "traced")()] for name, kind in sides}
            yield Row(f"{what}, by tracemalloc", "B", allocated, budgets=budgets, words=SIZE)
    for tasks_each in (1, 4):
        peak = {"taskfold": [in_child("memory", "taskfold", million, FULL, tasks_each)["peak"] / 1e9]}
        what = f"{million:,} tasks with full rings, {tasks_each} to an allocation: peak of the process"
        yield Row(what, "GB", peak, budgets=(Budget("≤", 2, why=OBJECTS),), words=SIZE)
    yield creating(million, models, min(repetitions, 3))


def _bytes(*arguments: object) -> Run:
    """Return a run of a child that tells the bytes of a task."""
    return lambda: in_child("memory", *arguments)["bytes"]


def creating(count: int, models: int, repetitions: int) -> Row:
    """Measure how long the first record of so many tasks takes to be applied."""

    def run(kind: str, tasks: int, steps: int) -> Run:
        return lambda: in_child("memory", kind, tasks, steps, 1)["seconds"] * count / tasks

    values = take_turns(
        {
            "taskfold, Fold.apply_all": run("taskfold", count, 1),
            DICTS: run("dicts", count, 1),
            ADD_MODEL: run("models", models, 0),
        },
        repetitions,
        warm_up=False,
    )
    note = f"from decoded records; add_model extrapolated from {models:,}, which flatters it: it is quadratic"
    return Row(f"creating {count:,} tasks", "s", values, note=note)


# --- in the child ---

Build = Callable[[int, int, int], tuple[object, float]]


def _blocks(count: int, steps: int, tasks_each: int) -> Iterator[bytes]:
    """Yield the lines of a log; without steps, of tasks that were seen before their first event."""
    if steps:
        yield from Population(count, tasks_each).filling(steps)
        return
    for first in range(0, count, 1_000):
        tasks = range(first, min(first + 1_000, count))
        yield "".join(
            f'{{"Index":1,"Alloc":"{alloc_id(task // tasks_each)}","Version":1,"Task":"task-{task % tasks_each}",'
            '"Event":{"Type":"Finished","Dies":false}}\n'
            for task in tasks
        ).encode()


def taskfold(count: int, steps: int, tasks_each: int) -> tuple[object, float]:
    """Build a fold; return it, and the seconds without the decoding."""
    fold, elapsed = Fold(DIALECT), 0.0
    for block in _blocks(count, steps, tasks_each):
        records = decode_lines(block)
        start = perf_counter()
        fold.apply_all(records)
        elapsed += perf_counter() - start
    return fold, elapsed


def dicts(count: int, steps: int, tasks_each: int) -> tuple[object, float]:
    """Build what one would write without a library."""
    allocations: dict[str, Any] = {}
    decode, elapsed = msgspec.json.Decoder().decode_lines, 0.0
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
            if record["Event"]["Type"] != "Finished":
                task["Events"].append(record["Event"])
        elapsed += perf_counter() - start
    return allocations, elapsed


def models(count: int, _steps: int, _tasks_each: int) -> tuple[object, float]:
    """Build a transitions model for each task."""
    machine = build_machine(DIALECT)
    start = perf_counter()
    for _ in range(count):
        machine.add_model(Model())
    return machine, perf_counter() - start


class Model:
    """A task as transitions knows it."""


def child(kind: str, count: int, steps: int, tasks_each: int, *, traced: bool) -> dict[str, float]:
    """Build the tasks, and return what they cost."""
    build: Build = {"taskfold": taskfold, "dicts": dicts, "models": models}[kind]
    build(10, steps, tasks_each)
    gc.collect()
    if traced:
        tracemalloc.start()
    before = resident_bytes()
    state, elapsed = build(count, steps, tasks_each)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] if traced else resident_bytes() - before
    assert state
    return {"bytes": grown / count, "peak": peak_bytes(), "seconds": elapsed}


if __name__ == "__main__":
    tell(child(sys.argv[2], *map(int, sys.argv[3:6]), traced="traced" in sys.argv))
