"""Waiting in process: what a write costs while many wait for something else, and what a waiter costs.

The rival is the same write while nobody waits. Budget: 100,000 waiters on other keys change nothing, ± 20 %.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from benchmarks.harness import REPETITIONS, SIZE, Budget, Row, in_child, resident_bytes, take_turns, tell
from taskfold import Engine
from taskfold import events as ev
from taskfold.live.directory import Directory, ListEntry
from taskfold.live.waiters import Waiter

WRITES = 2_000
DIALECT = "1.1.2"


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure writes, and bytes."""
    waiters, allocations = (2_000, 2_000) if quick else (100_000, 100_000)
    repetitions = 1 if quick else REPETITIONS
    alone, crowded = Engine(dialect=DIALECT), Engine(dialect=DIALECT)
    for engine in (alone, crowded):
        engine.place({"ID": "a", "JobID": "job"})
        engine.record("a", "web", ev.Received())
    for number in range(waiters):
        crowded.store.watches.add(Waiter(lambda: None), "allocation", f"other{number}")
    gc.collect()
    values = take_turns(
        {
            f"taskfold, Engine.record with {waiters:,} waiters on other keys": lambda: _microseconds(crowded),
            "the same with none": lambda: _microseconds(alone),
        },
        3 * repetitions,
    )
    yield Row("a write into a log in memory", "µs", values, budgets=(Budget("≤", 1.2, "the same with none"),))
    for what, kind in (("a waiter that is a thread's", "sync"), ("a waiter on an event loop, with its task", "async")):
        runs = {f"taskfold, {waiters:,} of them": [in_child("waiting", kind, waiters) for _ in range(repetitions)]}
        yield Row(what, "B", runs, words=SIZE, note="registered for keys of their own; a thread's stack not included")
    runs = {"taskfold": [in_child("waiting", "directory", allocations) for _ in range(repetitions)]}
    yield Row("an entry of the directory, in all its orders", "B", runs, words=SIZE, note=f"of {allocations:,}")


def _microseconds(engine: Engine) -> float:
    """Return how long a write takes."""
    began = perf_counter()
    for _ in range(WRITES):
        engine.record("a", "web", ev.Received())
    return (perf_counter() - began) / WRITES * 1e6


def _sync(count: int) -> int:
    engine = Engine(dialect=DIALECT)
    keys = [f"key{number}" for number in range(count)]
    before = resident_bytes()
    for key in keys:
        engine.store.watches.add(Waiter(key.strip), "allocation", key)
    return resident_bytes() - before


def _async(count: int) -> int:
    engine = Engine(dialect=DIALECT)
    keys = [f"key{number}" for number in range(count)]
    for key in keys:
        engine.place({"ID": key})

    async def hold() -> int:
        before = resident_bytes()
        tasks = [asyncio.create_task(engine.wait_async(key, after=count, timeout=300)) for key in keys]
        await asyncio.sleep(0)  # each of them runs until it waits
        assert len(engine.store.watches) == count
        growth = resident_bytes() - before
        assert len(tasks) == count
        tell(growth / count)
        return growth

    return asyncio.run(hold())


def _directory(count: int) -> int:
    ids = [f"{number:08x}-e0d6-9486-5e05-397ed2b184af" for number in range(count)]
    directory = Directory()
    before = resident_bytes()
    for number, alloc in enumerate(ids):
        job, node = f"job{number // 100}", f"node{number % 1_000}"
        directory.put(alloc, ListEntry("default", job, node, "running", number + 1, 2 * number + 300))
    return resident_bytes() - before


if __name__ == "__main__":
    KINDS: dict[str, Any] = {"sync": _sync, "async": _async, "directory": _directory}
    kind, number = sys.argv[2], int(sys.argv[3])
    gc.collect()
    tell(KINDS[kind](number) / number)
