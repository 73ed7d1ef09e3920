"""Applying one decoded record: the state, the ring, the counters and the times of a task.

Rivals: a bare trigger of a transitions machine with the same table, which moves the state and keeps no history; and, as
the floor, one plain dict update per record. Budgets: at least 1.0 M/s hot and 10 times the bare trigger; at least
0.35 M/s at random over 50,000 tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.harness import Budget, Row, Run, label, millions_a_second, seconds_of_blocks, take_turns
from benchmarks.histories import DIALECT, Population
from taskfold.events import Restarting, Started, Terminated
from taskfold.fold.lifecycle import PENDING, build_machine, lifecycle_of, trigger_name
from taskfold.fold.task import apply
from taskfold.model.record import Record

TRIGGER = label("transitions", "bare trigger")
FLOOR = "floor: one dict update"
RING = (
    "the ring is a tuple, at which the garbage collector does not look; with a list an event in the processor's caches "
    "costs a sixth less, and collections stop everything for longer"
)
LIFECYCLE = lifecycle_of(DIALECT)


class Model:
    """The smallest model that a machine can move."""

    state = PENDING


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure one hot task, then many at random."""
    scale = 100 if quick else 1
    yield hot(300_000 // scale, 30_000 // scale)
    yield at_random(50_000 // scale, 200_000 // scale)


def hot(count: int, trigger_count: int) -> Row:
    """Measure one task with a full ring, beside a model that goes through the same life."""
    population = Population(1)
    fold = population.filled()
    task = fold.allocations.popitem()[1].tasks["web"]
    machine, model = build_machine(DIALECT), Model()
    triggers = [machine.events[trigger_name(cls)].trigger for cls in (Started, Terminated, Restarting)]

    def taskfold(records: list[Record]) -> None:
        for record in records:
            apply(task, record, LIFECYCLE)

    def transitions() -> None:
        for _ in range(trigger_count // 3):
            for trigger in triggers:
                trigger(model)

    values = take_turns(
        {
            "taskfold, task.apply": _of_blocks(population, count, taskfold),
            TRIGGER: millions_a_second(trigger_count, transitions),
            FLOOR: _of_blocks(Population(1), count, _dict_updates),
        }
    )
    assert (len(task.slots), model.state) == (10, PENDING)
    return Row(
        "hot, one task with a full ring",
        "M/s",
        values,
        better="higher",
        budgets=(Budget("≥", 1.0), Budget("≥", 10, TRIGGER, why=RING)),
        note="Started, Terminated, Restarting in turn",
    )


def at_random(tasks: int, count: int) -> Row:
    """Measure tasks picked at random; every repetition goes on with their lives where the last one ended."""
    population = Population(tasks)
    fold = population.filled()
    states = {alloc: allocation.tasks["web"] for alloc, allocation in fold.allocations.items()}

    def direct(records: list[Record]) -> None:
        for record in records:
            apply(states[record.alloc], record, LIFECYCLE)

    def one_by_one(records: list[Record]) -> None:
        for record in records:
            fold.apply(record)

    values = take_turns(
        {
            "taskfold, task.apply and a dict of tasks": _of_blocks(population, count, direct),
            "taskfold, Fold.apply": _of_blocks(population, count, one_by_one),
            "taskfold, Fold.apply_all": _of_blocks(population, count, fold.apply_all),
            FLOOR: _of_blocks(Population(tasks), count, _dict_updates),
        }
    )
    what = f"at random over {tasks:,} tasks with full rings"
    return Row(what, "M/s", values, better="higher", budgets=(Budget("≥", 0.35, why=RING),))


def _of_blocks(population: Population, count: int, work: Callable[[list[Record]], object]) -> Run:
    """Return a run over the next records, which are decoded while the clock stands still."""
    return lambda: count / seconds_of_blocks(population.blocks(count), work) / 1e6


NEWEST: dict[str, Record] = {}


def _dict_updates(records: list[Record]) -> None:
    for record in records:
        NEWEST[record.alloc] = record
