"""How everything is measured: the contestants take turns, so that a machine that drifts is unfair to none.

A run is a function without arguments that does the work once and returns one number in the unit of its row. Each runs
once to warm up, then five times, A B A B …; the collector has run before each and is left on, as users have it.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final, Literal, TypeVar

ROOT: Final = Path(__file__).parent.parent
REPETITIONS: Final = 5

T = TypeVar("T")
Run = Callable[[], float]


@dataclass(frozen=True)
class Budget:
    """What taskfold should reach: in the unit of the row or, with a rival, as a multiple of what the rival reaches.

    At least so many times a rival means so many times as fast; at most so many times, that much of its cost.
    """

    sense: Literal["≥", "≤"]
    limit: float
    against: str = ""
    why: str = ""
    """Why it is missed where it is, and what would be needed: one sentence, shown with a miss only."""


@dataclass(frozen=True)
class Row:
    """One measurement: what every contestant reached, taskfold first."""

    what: str
    unit: str
    values: Mapping[str, list[float]]
    better: Literal["higher", "lower"] = "lower"
    budgets: tuple[Budget, ...] = ()
    note: str = ""
    words: tuple[str, str] = field(default=("faster", "slower"))
    """How a ratio is told: what taskfold is when it wins, and when it loses."""

    @property
    def ours(self) -> str:
        """The first contestant."""
        return next(iter(self.values))

    def times(self, rival: str) -> float:
        """Return what taskfold reached as a multiple of a rival: the median over the repetitions, turn by turn."""
        ours, theirs = self.values[self.ours], self.values[rival]
        if len(ours) != len(theirs):
            return median(ours) / median(theirs)
        return median(one / other for one, other in zip(ours, theirs, strict=True))

    def measured(self, budget: Budget) -> float:
        """Return the number that a budget is about."""
        if not budget.against:
            return median(self.values[self.ours])
        times = self.times(budget.against)
        return 1 / times if budget.sense == "≥" and self.better == "lower" else times


SIZE: Final = ("smaller", "larger")


def label(distribution: str, what: str) -> str:
    """Return the name of a rival with its version."""
    return f"{distribution} {version(distribution)}, {what}"


def seconds(work: Callable[[], object]) -> float:
    """Return how long the work takes; what it returns is freed after the clock has stopped."""
    gc.collect()
    start = perf_counter()
    result = work()
    elapsed = perf_counter() - start
    del result
    return elapsed


def seconds_of_blocks(blocks: Iterable[T], work: Callable[[T], object]) -> float:
    """Return how long the work takes in all; making the blocks is not counted."""
    gc.collect()
    elapsed = 0.0
    for block in blocks:
        start = perf_counter()
        work(block)
        elapsed += perf_counter() - start
    return elapsed


def millions_a_second(count: int, work: Callable[[], object]) -> Run:
    """Return a run of work that handles so many things."""
    return lambda: count / seconds(work) / 1e6


def microseconds_each(count: int, work: Callable[[], object]) -> Run:
    """Return a run of work that handles so many things."""
    return lambda: seconds(work) / count * 1e6


def take_turns(
    runs: Mapping[str, Run], repetitions: int = REPETITIONS, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return what every contestant reached, after a warm-up of each; a process of its own needs none."""
    if warm_up:
        for run in runs.values():
            run()
    values: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(repetitions):
        for who, run in runs.items():
            values[who].append(run())
    return values


def in_child(subject: str, *arguments: object) -> Any:
    """Run ``python -m benchmarks.SUBJECT --child ARGUMENTS`` and return what it tells: a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{subject}", "--child", *map(str, arguments)]
    return json.loads(subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.PIPE).stdout)


def environment() -> dict[str, str]:
    """Return an environment in which a child imports taskfold from this checkout."""
    paths = [str(ROOT / "engine"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def tell(value: object) -> None:
    """Tell the parent what was measured; the child ends at once, without taking its data apart."""
    print(json.dumps(value), flush=True)
    os._exit(0)


def resident_bytes() -> int:
    """Return how much memory this process has now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most memory that this process ever had."""
    return _status("VmHWM")


def _status(name: str) -> int:
    # Not resource.getrusage: on Linux its maximum is inherited from the parent, and there is no current value.
    status = Path("/proc/self/status")
    if not status.exists():
        sys.exit("memory is measured on Linux only")
    return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith(name))
