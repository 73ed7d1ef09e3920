"""Deciding: a report with all that it does, a pure decision, timers, and the cost among many live tasks.

A report decides, records in a memory log, folds, lists and plans. Rivals: bare triggers of a transitions machine for
the same events, which decide nothing and keep nothing; for the timers, a heap of the same tuples, which cannot let one
go. Budgets: 28,000 reports a second (deciding alone takes 5 µs, so that 100,000 are out of reach); 5 µs to add a
to a million, and to pop one; at most 1.3 times the cost of a report from ten thousand to a million live tasks.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from benchmarks.harness import REPETITIONS, Budget, Row, Run, label, microseconds_each, seconds, take_turns
from taskfold import Engine, ManualClock, inputs
from taskfold.decision.rules import decide
from taskfold.events import Restarting, Started, Terminated
from taskfold.fold.lifecycle import PENDING, build_machine, trigger_name
from taskfold.live.timers import Alarm, Timers

DIALECT = "1.1.2"
TRIGGERS = label("transitions", "bare triggers of the same events")
HEAP = "heapq, push"
REPORTS = (
    "each report takes its turn, decides, is encoded and decoded again before it counts, folds, and moves timers and "
    "the directory; more needs several reports in one append"
)
HEAP_POP = "heapq, pop"
TASKS = 4
STARTED, EXITED = inputs.ProcessStarted(), inputs.Exited(exit_code=1)
_POLICY = {"Attempts": 1_000_000, "Interval": 10**15, "Delay": 1, "Mode": "fail"}
_GROUP = {"Name": "group", "RestartPolicy": _POLICY, "Tasks": [{"Name": f"task-{n}"} for n in range(TASKS)]}
_JOB = {"ID": "example", "Type": "service", "TaskGroups": [_GROUP]}


class Model:
    """The smallest model that a machine can move."""

    state = PENDING


class Crowd:
    """An engine with so many live tasks, and where each of them is."""

    def __init__(self, tasks: int) -> None:
        self.engine = Engine(dialect=DIALECT, clock=ManualClock(1), seed=1)
        self.allocs = [f"{number:08x}" for number in range(max(tasks // TASKS, 1))]
        for alloc in self.allocs:
            self.engine.place({"ID": alloc, "JobID": "example", "TaskGroup": "group", "Job": _JOB})
            self.engine.report(alloc, "", inputs.PlacementReceived())
        self.rng = random.Random(7)

    def cycles(self, count: int) -> Callable[[], None]:
        """Return work: so many tasks, chosen at random, are started and exit."""
        subjects = [(self.rng.choice(self.allocs), f"task-{self.rng.randrange(TASKS)}") for _ in range(count)]
        report = self.engine.report

        def work() -> None:
            for alloc, task in subjects:
                report(alloc, task, STARTED)
                report(alloc, task, EXITED)

        return work


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure reports, timers, and how the cost grows."""
    scale = 100 if quick else 1
    small = Crowd(10_000 // scale)
    yield reports(small, 20_000 // scale)
    yield from timers(1_000_000 // scale, 50_000 // scale)
    yield growth(small, Crowd(1_000_000 // scale), 20_000 // scale)


def reports(crowd: Crowd, count: int) -> Row:
    """Measure a report, and what it is made of."""
    machine, model = build_machine(DIALECT), Model()
    triggers = [machine.events[trigger_name(cls)].trigger for cls in (Started, Terminated, Restarting)]

    def transitions() -> None:
        for _ in range(count // 2):
            for trigger in triggers:
                trigger(model)

    values = take_turns(
        {
            "taskfold, Engine.report": _a_second(count, lambda: crowd.cycles(count // 2)),
            "taskfold, decide alone": _a_second(count, lambda: _decisions(crowd, count)),
            TRIGGERS: _a_second(count, lambda: transitions),
        }
    )
    return Row(
        "reports of Started and Exited in turn, 10,000 live tasks",
        "k/s",
        values,
        better="higher",
        budgets=(Budget("≥", 28, why=REPORTS),),
        note="Exited is decided as Restarting; a memory log",
    )


def _a_second(count: int, prepare: Callable[[], Callable[[], object]]) -> Run:
    """Return a run that counts thousands a second; preparing is not counted."""

    def run() -> float:
        work = prepare()
        return count / seconds(work) / 1e3

    return run


def _decisions(crowd: Crowd, count: int) -> Callable[[], None]:
    """Return work: pure decisions on a task that is pending, and on one that runs."""
    engine, rng = crowd.engine, random.Random(7)
    alloc, task = crowd.allocs[0], "task-0"
    if engine.task(alloc, task).state == PENDING:
        engine.report(alloc, task, STARTED)
    running = engine.store.read(alloc)
    engine.report(alloc, task, EXITED)
    pending = engine.store.read(alloc)
    group = engine.group(alloc)

    def work() -> None:
        for _ in range(count // 2):
            decide(pending, group, STARTED, task=task, now_ns=2, rng=rng)
            decide(running, group, EXITED, task=task, now_ns=2, rng=rng)

    return work


def timers(count: int, more: int) -> Iterator[Row]:
    """Measure a timer that is added to many, and one that is popped from them."""
    rng = random.Random(7)
    entries = [(f"{number:08x}", "web", rng.randrange(10**12)) for number in range(count)]
    added = [(f"+{number:08x}", "web", rng.randrange(10**12)) for number in range(more)]
    ours: dict[str, list[float]] = {"taskfold, add": [], HEAP: []}
    popped: dict[str, list[float]] = {"taskfold, pop": [], HEAP_POP: []}
    for _ in range(REPETITIONS):
        for name, value in (*_timers(entries, added), *_heap(entries, added)):
            (ours if name in ours else popped)[name].append(value)
    yield Row(f"a timer added to {count:,}", "µs", ours, budgets=(Budget("≤", 5),))
    yield Row(f"a timer popped from {count:,}", "µs", popped, budgets=(Budget("≤", 5),))


def _timers(entries: list[tuple[str, str, int]], added: list[tuple[str, str, int]]) -> Iterator[tuple[str, float]]:
    timers = Timers()
    timers.set_all(entries)

    def add() -> None:
        for entry in added:
            timers.set(*entry)

    def pop() -> None:
        for _ in added:
            next_ns = timers.next_ns
            assert next_ns is not None
            timers.pop(next_ns)

    yield "taskfold, add", microseconds_each(len(added), add)()
    yield "taskfold, pop", microseconds_each(len(added), pop)()


def _heap(entries: list[tuple[str, str, int]], added: list[tuple[str, str, int]]) -> Iterator[tuple[str, float]]:
    heap: list[Any] = [Alarm(due_ns, place, alloc, task) for place, (alloc, task, due_ns) in enumerate(entries)]
    heapq.heapify(heap)

    def push() -> None:
        for place, (alloc, task, due_ns) in enumerate(added, start=len(entries)):
            heapq.heappush(heap, Alarm(due_ns, place, alloc, task))

    def pop() -> None:
        for _ in added:
            heapq.heappop(heap)

    yield HEAP, microseconds_each(len(added), push)()
    yield HEAP_POP, microseconds_each(len(added), pop)()


def growth(small: Crowd, large: Crowd, count: int) -> Row:
    """Measure a report among few and among many live tasks, in turns."""
    few, many = "taskfold, 10,000 live tasks", "taskfold, 1,000,000 live tasks"
    values: dict[str, list[float]] = {many: [], few: []}
    for repetition in range(REPETITIONS + 1):
        for name, crowd in ((few, small), (many, large)):
            work = crowd.cycles(count // 2)
            start = perf_counter()
            work()
            each_us = (perf_counter() - start) / count * 1e6
            if repetition:
                values[name].append(each_us)
    return Row(
        "a report of a task chosen at random",
        "µs",
        values,
        budgets=(Budget("≤", 1.3, few),),
        note=f"{TASKS} tasks to an allocation",
    )
