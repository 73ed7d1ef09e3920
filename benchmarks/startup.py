"""``import taskfold`` in a fresh process: where Python finds it compiled (``.pyc``), as after a first import, and not.

Names are imported when they are used: the engine's share is a row of its own, as is the command line.
Rivals: importing nothing, and importing only what taskfold depends on: transitions, msgspec and sortedcontainers.
Budget: compiled, at most 60 ms for the statement, and at most twice the three libraries.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import ROOT, Budget, Row, environment, seconds, take_turns

LIBRARIES = "import transitions, msgspec, sortedcontainers"
COMMAND_LINE = "from taskfold.cli import main; main()"
ALONE = "the three libraries alone"


class Interpreter:
    """Fresh processes that look for what is compiled in a folder of their own, whatever stands beside the sources.

    So taskfold, its libraries and Python's own modules are treated alike, however each was installed.
    """

    def __init__(self, compiled: Path, *, is_kept: bool) -> None:
        """Name the folder; what is compiled is kept there, or nowhere."""
        self._environment = environment() | {"PYTHONPYCACHEPREFIX": str(compiled)}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if not is_kept:
            self._environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def statement(self, code: str) -> float:
        """Return the milliseconds that a statement takes in a fresh process."""
        timed = f"from time import perf_counter; start = perf_counter(); {code}; print((perf_counter() - start) * 1e3)"
        return float(self._run(timed).stdout)

    def process(self, code: str) -> float:
        """Return the milliseconds that a fresh process takes from start to end."""
        return seconds(lambda: self._run(code)) * 1e3

    def _run(self, code: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=ROOT, env=self._environment, check=True, stdout=subprocess.PIPE)


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the statement alone, compiled and not, and the whole process."""
    repetitions = 2 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        # The warm-up leaves what it compiles.
        warm = Interpreter(Path(folder, "compiled"), is_kept=True)
        missing = Interpreter(Path(folder, "nothing"), is_kept=False)
        for interpreter, what, budgets in (
            (warm, "the statement, compiled before", (Budget("≤", 60), Budget("≤", 2, ALONE))),
            (missing, "the statement, compiled by it", ()),
        ):
            values = take_turns(
                {
                    "import taskfold": lambda interpreter=interpreter: interpreter.statement("import taskfold"),
                    "import taskfold; taskfold.Engine": lambda interpreter=interpreter: interpreter.statement(
                        "import taskfold; taskfold.Engine"
                    ),
                    ALONE: lambda interpreter=interpreter: interpreter.statement(LIBRARIES),
                },
                repetitions,
            )
            yield Row(what, "ms", values, budgets=budgets)
        values = take_turns(
            {
                "python -c 'import taskfold'": lambda: warm.process("import taskfold"),
                "taskfold --help": lambda: warm.process("import sys; sys.argv[1:] = ['--help']; " + COMMAND_LINE),
                ALONE: lambda: warm.process(LIBRARIES),
                "python -c pass": lambda: warm.process("pass"),
            },
            repetitions,
        )
        yield Row("the whole process, compiled before", "ms", values)
