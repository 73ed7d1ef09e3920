"""The testing kit: histories, worlds and a simulated cluster, each as fast as a run of many examples needs it.

There is no rival that does the same. Beside a simulation with its invariants stands the same one without a check, so
that the price of the checks is seen, and one whose records go into a log. Budgets: 2,000 histories of 20 events a
second, 20,000 inputs a second in a world, 50,000 records a second in a simulation with all its checks. The seconds are
those of the processor: each of these is one thread, which waits for nothing but the disk of a log.
"""

from __future__ import annotations

import gc
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.harness import Budget, Row, Run, take_turns
from taskfold import MemoryLog
from taskfold.log.registry import open_log
from taskfold.testing import Simulation, World, history_of
from taskfold.testing._drawing import CHOICES
from taskfold.testing.invariants import Checker

EVENTS = 20
DIALECTS = ("1.1.2", "0.5.6")
_POLICY = {"Attempts": 1_000_000, "Interval": 10**15, "Delay": 1, "Mode": "fail"}
_GROUP = {"Name": "group", "RestartPolicy": _POLICY, "Tasks": [{"Name": "web"}]}
_JOB = {"ID": "example", "Type": "service", "TaskGroups": [_GROUP]}
_SHARED = "it was measured while other work shared the two processors and their caches"
_SLOW = (
    "half of the time is the engine's, which takes 20 to 50 µs for a report that gives 1.6 records, and a fifth the "
    f"checks'; and {_SHARED}"
)


class _Unchecked(Checker):
    """A checker that looks at nothing."""

    def records(self, _: Any) -> tuple[set[str], bool]:
        return set(), False

    def step(self, *_: Any) -> None:
        return

    def collected(self, _: Any) -> None:
        return

    def restored(self, core: Any, *, now_ns: int) -> None:  # noqa: ARG002
        self.core = core

    def owed_again(self, _: Any, *, now_ns: int) -> None:  # noqa: ARG002
        return

    def all(self) -> None:
        return


def seconds(work: Callable[[], object]) -> float:
    """Return how many seconds of the processor the work takes."""
    gc.collect()
    start = process_time()
    work()
    return process_time() - start


def histories(count: int) -> float:
    """Return how many histories a second are made of random choices, in thousands."""
    rng = random.Random(7)
    numbers = [[rng.randrange(CHOICES) for _ in range(EVENTS)] for _ in range(count)]
    return count / seconds(lambda: [history_of(each, "1.1.2") for each in numbers]) / 1e3


def drawn(count: int) -> float:
    """Return how many histories a second Hypothesis draws, in thousands."""
    from hypothesis import HealthCheck, Phase, given, settings

    from taskfold.testing import strategies

    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck])
    @given(strategies.histories("1.1.2", min_size=EVENTS, max_size=EVENTS))
    def look(_: object) -> None:
        return

    return count / seconds(look) / 1e3


def world(hours: float) -> float:
    """Return how many inputs a second a world takes, timers that are due among them, in thousands."""
    lived = World(_JOB, seed=7, count=20, failure_rate=1.0)
    steps: list[object] = []
    lived.engine.on_step(steps.append)
    elapsed = seconds(lambda: lived.run_for(int(hours * 3600 * 10**9)))
    return len(steps) / elapsed / 1e3


def simulation(allocations: int, dialect: str, *, checks: bool = True, into: str | None = None) -> float:
    """Return how many records a second a simulation of an hour makes, in thousands."""
    with tempfile.TemporaryDirectory() as folder:
        log = (
            None if into is None else MemoryLog(dialect) if into == "memory" else open_log(Path(folder, into), dialect)
        )
        simulated = Simulation(allocations=allocations, seed=7, hours=1, dialect=dialect, log=log)
        if not checks:
            simulated.checker = _Unchecked(simulated.core)
            simulated._check_rest = lambda: None  # type: ignore[method-assign]  # noqa: SLF001
        start = process_time()
        summary = simulated.run()
        elapsed = process_time() - start
        assert not summary.violations, summary.violations
        if log is not None:
            log.close()
    return summary.records / elapsed / 1e3


def measure(*, quick: bool) -> Iterator[Row]:
    """Yield the rows."""
    scale = 40 if quick else 1
    count = 4_000 // scale
    runs: dict[str, Run] = {
        "taskfold, history_of random choices": lambda: histories(count),
        "taskfold, drawn by Hypothesis": lambda: drawn(count // 4),
    }
    yield Row(
        f"histories of {EVENTS} events",
        "k/s",
        take_turns(runs, 1 if quick else 5, warm_up=not quick),
        better="higher",
        budgets=(Budget("≥", 2),),
        note="without shrinking",
    )
    yield Row(
        "inputs in a world of 20 allocations",
        "k/s",
        take_turns({"taskfold, World.run_for": lambda: world(20 / scale)}, 1 if quick else 5, warm_up=not quick),
        better="higher",
        budgets=(Budget("≥", 20, why=_SHARED),),
        note="each decided, appended and folded by an engine",
    )
    allocations = 80 // scale
    for dialect in DIALECTS:
        simulations: dict[str, Run] = {
            "taskfold, with all checks": lambda dialect=dialect: simulation(allocations, dialect),
            "taskfold, without a check": lambda dialect=dialect: simulation(allocations, dialect, checks=False),
            "taskfold, with all checks, into a MemoryLog": lambda dialect=dialect: simulation(
                allocations, dialect, into="memory"
            ),
            "taskfold, with all checks, into a SqliteLog": lambda dialect=dialect: simulation(
                allocations, dialect, into="log.db"
            ),
        }
        yield Row(
            f"records of a simulated cluster of {allocations} allocations, dialect {dialect}",
            "k/s",
            take_turns(simulations, 1 if quick else 3, warm_up=False),
            better="higher",
            budgets=(Budget("≥", 50, why=_SLOW),),
        )
