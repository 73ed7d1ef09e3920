"""The cost of one event among ten thousand, a hundred thousand and a million live tasks with full rings.

Beside it a plain dict of structs, touched in the same order by the same records: more live objects than the processor's
caches hold cost anybody. Budgets, from the smallest to the largest: at most 2.5 times at random, at most 1.3 times when
the records of an allocation come together.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

from msgspec import Struct

from benchmarks.harness import REPETITIONS, Budget, Row, label
from benchmarks.histories import Population
from taskfold.model.record import Record

DICT = label("msgspec", "dict of structs")
TOGETHER = 10


class Seen(Struct, gc=False):
    """What the plain dict keeps of a task."""

    count: int = 0
    time_ns: int = 0
    event: Any = None


class Crowd:
    """So many live tasks, as taskfold and as a plain dict keep them."""

    def __init__(self, count: int) -> None:
        self.population = Population(count)
        self.fold = self.population.filled()
        self.versions = {alloc: Seen() for alloc in self.fold.allocations}

    def costs(self, events: int, burst: int) -> tuple[float, float]:
        """Return the nanoseconds that an event costs taskfold and the dict."""
        ours = theirs = 0.0
        gc.collect()
        for records in self.population.blocks(events, burst):
            start = perf_counter()
            self.fold.apply_all(records)
            middle = perf_counter()
            self._touch(records)
            ours += middle - start
            theirs += perf_counter() - middle
        return ours / events * 1e9, theirs / events * 1e9

    def _touch(self, records: list[Record]) -> None:
        versions = self.versions
        for record in records:
            task = versions[record.alloc]
            task.count += 1
            task.time_ns = record.time_ns
            task.event = record.event


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the three sizes in turns, first at random, then in bursts."""
    sizes, events = ((30, 100, 1_000), 1_000) if quick else ((10_000, 100_000, 1_000_000), 100_000)
    crowds = {size: Crowd(size) for size in sizes}
    yield row(crowds, events, 1, "at random", 2.5)
    yield row(crowds, events, TOGETHER, f"{TOGETHER} records of an allocation at a time", 1.3)


def row(crowds: dict[int, Crowd], events: int, burst: int, what: str, limit: float) -> Row:
    """Measure one order of access; the first round warms up."""
    ours: dict[int, list[float]] = {size: [] for size in crowds}
    theirs: dict[int, list[float]] = {size: [] for size in crowds}
    for repetition in range(REPETITIONS + 1):
        for size, crowd in crowds.items():
            one, other = crowd.costs(events, burst)
            if repetition:
                ours[size].append(one)
                theirs[size].append(other)
    smallest, largest = min(crowds), max(crowds)
    falling = sorted(crowds, reverse=True)
    values = {f"taskfold, {size:,} tasks": ours[size] for size in falling}
    values |= {f"{DICT}, {size:,} tasks": theirs[size] for size in falling}
    grown = median(theirs[largest]) / median(theirs[smallest])
    return Row(
        f"an event {what}",
        "ns",
        values,
        budgets=(Budget("≤", limit, f"taskfold, {smallest:,} tasks"),),
        note=f"the dict of structs itself grows {grown:.1f} ×",
    )
