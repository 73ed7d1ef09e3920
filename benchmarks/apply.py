"""Applying one decoded record: the state, the ring, the counters and the times of a task.

Rivals: a bare trigger of a transitions machine with the same table, which moves the state and keeps no history; and, as
the floor, one plain dict update per record. Budgets: at least 1.0 M/s hot and 10 times the bare trigger; at least
0.35 M/s at random over 50,000 tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.harness import Budget, Row, Run, millions_a_second, named, take_turns
from benchmarks.histories import DIALECT, Population
from taskfold.lifecycle import PENDING, build_machine, lifecycle_of, trigger_name
from taskfold.record import Record
from taskfold.task import Task, apply

TRIGGER = named("transitions", "bare trigger")
LIFECYCLE = lifecycle_of(DIALECT)


class Model:
    """The smallest model that a machine can move."""

    state = PENDING


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure one hot task, then many at random."""
    scale = 100 if quick else 1
    yield hot(300_000 // scale, 30_000 // scale)
    yield at_random(50_000 // scale, 450_000 // scale)


def hot(count: int, trigger_count: int) -> Row:
    """Measure one task with a full ring. Both counts are multiples of three: every repetition begins pending."""
    population = Population(1)
    task = population.filled().allocations.popitem()[1].tasks["web"]
    records = population.records(count)
    machine, model = build_machine(DIALECT), Model()
    triggers = [machine.events[trigger_name(type(record.event))].trigger for record in records[:trigger_count]]

    def taskfold() -> None:
        for record in records:
            apply(task, record, LIFECYCLE)

    def transitions() -> None:
        for trigger in triggers:
            trigger(model)

    values = take_turns(
        {
            "taskfold, task.apply": millions_a_second(count, taskfold),
            TRIGGER: millions_a_second(trigger_count, transitions),
            "floor: one dict update": millions_a_second(count, lambda: _dict_updates(records)),
        }
    )
    assert (task.state, model.state, len(task.slots)) == (PENDING, PENDING, 10)
    return Row(
        "hot, one task with a full ring",
        "M/s",
        values,
        better="higher",
        budgets=(Budget("≥", 1.0), Budget("≥", 10, TRIGGER)),
        note="Started, Terminated, Restarting in turn",
    )


def at_random(tasks: int, count: int) -> Row:
    """Measure tasks picked at random, as many records in each repetition, which go on where the last one ended."""
    population = Population(tasks)
    fold = population.filled()
    known: dict[str, Task] = {alloc: allocation.tasks["web"] for alloc, allocation in fold.allocations.items()}
    batch: list[Record] = []

    def direct() -> None:
        for record in batch:
            apply(known[record.alloc], record, LIFECYCLE)

    def one_by_one() -> None:
        for record in batch:
            fold.apply(record)

    def prepared(work: Callable[[], object], *, moves: bool = True) -> Run:
        """Return a run with records of its own, decoded before the clock starts."""

        def run() -> float:
            batch[:] = population.records(count)
            rate = millions_a_second(count, work)()
            if not moves:
                fold.apply_all(batch)
            return rate

        return run

    values = take_turns(
        {
            "taskfold, task.apply and a dict of tasks": prepared(direct),
            "taskfold, Fold.apply": prepared(one_by_one),
            "taskfold, Fold.apply_all": prepared(lambda: fold.apply_all(batch)),
            "floor: one dict update": prepared(lambda: _dict_updates(batch), moves=False),
        }
    )
    return Row(
        f"at random over {tasks:,} tasks with full rings",
        "M/s",
        values,
        better="higher",
        budgets=(Budget("≥", 0.35),),
    )


def _dict_updates(records: list[Record]) -> dict[str, Record]:
    newest = {}
    for record in records:
        newest[record.alloc] = record
    return newest
