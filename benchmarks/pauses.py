"""Pauses: how long a full collection of Python's garbage collector stops an engine, in a process of its own.

What the collector tracks it looks at, all of it, each time; taskfold holds allocations, events and records in what is
not tracked. The rival: a plain dict of dicts with a deque of the last events. Budget: 50 ms for 100,000 allocations,
and 500 ms for a million.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from msgspec import Raw

from benchmarks.harness import REPETITIONS, Budget, Row, in_child, tell
from benchmarks.histories import DIALECT, alloc_id
from taskfold import Engine
from taskfold import events as ev
from taskfold.model.record import Placed, Write

_BATCH = 1_000
_EVENTS = (ev.Received(), ev.Started(), ev.Terminated(exit_code=1, message="Exit Code: 1"), ev.Restarting())


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure full collections of 100,000 and a million allocations."""
    for count, limit in ((1_000, 50), (2_000, 500)) if quick else ((100_000, 50), (1_000_000, 500)):
        engine, dicts = (in_child("pauses", kind, count) for kind in ("engine", "dicts"))
        values = {
            "taskfold, an engine with its log in memory": engine["milliseconds"],
            "dict of dicts, deque of event dicts": dicts["milliseconds"],
        }
        note = (
            f"{count * (1 + len(_EVENTS)):,} records; the collector tracks {engine['tracked']:,} objects of the "
            f"process, {dicts['tracked']:,} with dicts"
        )
        yield Row(f"a full collection, {count:,} allocations", "ms", values, budgets=(Budget("≤", limit),), note=note)


# --- in the child ---


def engine(count: int) -> object:
    """Build an engine of so many allocations with a task each."""
    full = Engine(dialect=DIALECT)
    for first in range(0, count, _BATCH):
        numbers = range(first, min(first + _BATCH, count))
        full.append(Write(alloc=alloc_id(number), event=_placement(number)) for number in numbers)
        for event in _EVENTS:
            full.append(Write(alloc=alloc_id(number), task="web", event=event) for number in numbers)
    return full


def _placement(number: int) -> Placed:
    body = f'{{"ID":"{alloc_id(number)}","JobID":"job{number // 100}","NodeID":"node{number % 1_000}"}}'
    return Placed(body=Raw(body.encode()))


def dicts(count: int) -> object:
    """Build what one would write without a library."""
    allocations: dict[str, Any] = {}
    for number in range(count):
        events = deque(({"Type": type(event).__name__, "Time": number} for event in _EVENTS), maxlen=10)
        task = {"State": "pending", "Failed": False, "Restarts": 1, "Events": events}
        allocations[alloc_id(number)] = {"JobID": f"job{number // 100}", "TaskStates": {"web": task}}
    return allocations


def child(kind: str, count: int) -> dict[str, Any]:
    """Build, and return how long each of some full collections takes (milliseconds)."""
    state = {"engine": engine, "dicts": dicts}[kind](count)
    gc.collect()
    pauses = []
    for _ in range(REPETITIONS):
        start = perf_counter()
        gc.collect()
        pauses.append((perf_counter() - start) * 1e3)
    assert state
    return {"tracked": len(gc.get_objects()), "milliseconds": pauses}


if __name__ == "__main__":
    tell(child(sys.argv[2], int(sys.argv[3])))
