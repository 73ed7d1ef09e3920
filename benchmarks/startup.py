"""``import taskfold`` in a fresh process.

Rivals: importing nothing, and importing only what taskfold depends on: transitions, msgspec and sortedcontainers.
Budget: less than 100 ms.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.harness import ROOT, Budget, Row, environment, seconds, take_turns

LIBRARIES = "import transitions, msgspec, sortedcontainers"
ALONE = "the three libraries alone"


def _statement(code: str) -> float:
    """Return the milliseconds that a statement takes in a fresh process."""
    timed = f"from time import perf_counter; start = perf_counter(); {code}; print((perf_counter() - start) * 1e3)"
    return float(_python(timed).stdout)


def _process(code: str) -> float:
    """Return the milliseconds that a fresh process takes from start to end."""
    return seconds(lambda: _python(code)) * 1e3


def _python(code: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.PIPE)


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the statement alone, and the whole process."""
    repetitions = 2 if quick else 5
    values = take_turns(
        {"import taskfold": lambda: _statement("import taskfold"), ALONE: lambda: _statement(LIBRARIES)},
        repetitions,
    )
    yield Row("the statement", "ms", values, budgets=(Budget("≤", 100),))
    values = take_turns(
        {
            "python -c 'import taskfold'": lambda: _process("import taskfold"),
            ALONE: lambda: _process(LIBRARIES),
            "python -c pass": lambda: _process("pass"),
        },
        repetitions,
    )
    yield Row("the whole process", "ms", values)
