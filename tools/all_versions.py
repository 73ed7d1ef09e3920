"""The suite on every Python that the project supports and this machine has, and with the lowest versions it admits.

A Python between the oldest and the newest runs the part that touches the interpreter (`BETWEEN` is left out there).
``make test-all`` runs it. Each run has an environment of its own under .venvs/; ``--tested PYTHON`` names one that has
passed the suite already, so that its version is not run again. In the end every Python opens the logs that every other
one has written (`tests/support/crossing.py`). What was run, and which Pythons are missing, is told last.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / ".venvs"
PYTHONS: Final = ("3.11", "3.12", "3.13")

OF_TOOLS: Final = ("test_benchmarks", "http/test_openapi", "test_typing")
"""Tests of what the tools make of the code: no Python and no lower bound of a user's requirement changes that."""

OF_TEXT: Final = (
    "test_circles",
    "test_documents",
    "test_floors",
    "test_names",
    "test_places",
    "test_prose",
    "test_schemas",
    "test_survivors",
    "test_trials",
    "pictures/test_in_a_browser",
)
"""Tests of text (the source, the documents, the schemas), or in a browser: every Python gives them the same."""

BETWEEN: Final = ("columnar", "decision", "fold", "http/nomad", "nomad", "pictures", "sources", "testing")
"""Tests that touch neither threads, event loops, processes nor files of logs: a Python that is neither the oldest nor
the newest leaves them out."""

NOT_LOWEST: Final = ("schemathesis", "taskfold")
"""schemathesis asks for newer releases of rich, pytest and Hypothesis than the lowest that are admitted."""


class Environment(NamedTuple):
    """Where the suite runs once."""

    name: str
    python: str
    requirements: Sequence[str]
    resolution: str
    tests: Sequence[str]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return FOLDER / self.name

    @property
    def executable(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python"

    def make(self) -> None:
        """Install it, unless it is there and what is required has not changed. Raises CalledProcessError."""
        content = (ROOT / "pyproject.toml").read_bytes() + repr(self).encode()
        stamp, digest = self.folder / ".installed", hashlib.sha256(content).hexdigest()
        if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
            return
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", self.python, self.folder], check=True)
        install = [*uv, "pip", "install", "--quiet", "--python", self.executable, "--resolution", self.resolution]
        subprocess.run([*install, *self.requirements], cwd=ROOT, check=True)
        stamp.write_text(digest, encoding="ascii")

    def run(self, options: Sequence[str]) -> bool:
        """Run its tests; tell whether they passed."""
        command = [self.executable, "-m", "pytest", "-q", *self.tests, *options]
        return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def environments(pythons: dict[str, str], tested: str) -> Iterator[Environment]:
    """Yield what is to be run, the lowest versions first."""
    suite = [f"--ignore=tests/{name}.py" for name in (*OF_TOOLS, *OF_TEXT)]
    lowest = next(iter(pythons.items()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = [each for each in project["optional-dependencies"]["dev"] if _name_of(each) not in NOT_LOWEST]
    own = ["--editable", ".[cli,columnar,duckdb,http,postgres,testing,tui,zstd]", *tools]
    yield Environment("lowest", lowest[1], own, "lowest-direct", suite)
    files = [f"tests/{name}.py" for name in OF_TOOLS if name != "test_benchmarks"]
    yield Environment("lowest-tools", lowest[1], ["--editable", ".[dev]"], "lowest-direct", files)
    for version, python in pythons.items():
        if version != tested:
            less = [] if version in {PYTHONS[0], PYTHONS[-1]} else [f"--ignore=tests/{name}" for name in BETWEEN]
            yield Environment(version, python, ["--editable", ".[dev]"], "highest", [*suite, *less])


def _name_of(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0]


def pythons_here() -> dict[str, str]:
    """Return the Pythons of this machine, by version: on PATH, or of pyenv."""
    paths = {}
    roots = {Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv"), Path.home() / ".pyenv"}
    for version in PYTHONS:
        of_pyenv = sorted(each for root in roots for each in root.glob(f"versions/{version}.*/bin/python"))
        for python in (*map(str, reversed(of_pyenv)), shutil.which(f"python{version}"), sys.executable):
            if python is not None and version_of(python) == version:
                paths[version] = python
                break
    return paths


def version_of(python: str) -> str:
    """Return the version of a Python such as 3.12; nothing where it does not run, as a stub of pyenv's does not."""
    command = [python, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
    try:
        run = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return ""
    return run.stdout.strip() if not run.returncode else ""


def cross(pythons: dict[str, Path]) -> list[str]:
    """Have each Python write logs, and each open those of all; return what failed."""
    problems = []
    script = ROOT / "tests" / "support" / "crossing.py"
    with tempfile.TemporaryDirectory() as folder:
        for what in ("write", "read"):
            for by, python in pythons.items():
                for of in [by] if what == "write" else pythons:
                    logs = Path(folder) / of
                    logs.mkdir(exist_ok=True)
                    if subprocess.run([python, script, what, logs], cwd=ROOT, check=False).returncode:
                        problems.append(f"{by} cannot {what} the logs of {of}")
    return problems


def say(text: str) -> None:
    """Say something between the outputs of what is run."""
    sys.stdout.write(f"== {text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run everything, and say what was run; 1 when something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tested", metavar="PYTHON", default="", help="a Python that has passed the suite already")
    parser.add_argument("--only", metavar="NAME", action="append", help="only this environment, such as lowest or 3.13")
    arguments, options = parser.parse_known_args()
    pythons = pythons_here()
    tested = version_of(arguments.tested) if arguments.tested else ""
    lines, crossing, has_failed = [], {tested: Path(arguments.tested)} if tested else {}, False
    for environment in environments(pythons, tested):
        if arguments.only and environment.name not in arguments.only:
            continue
        say(f"{environment.name}: {environment.python}, {environment.resolution} versions")
        began = perf_counter()
        environment.make()
        has_passed = environment.run(options)
        has_failed |= not has_passed
        lines.append(f"{environment.name} {'passed' if has_passed else 'FAILED'} ({perf_counter() - began:.0f} s)")
        crossing[environment.name] = environment.executable
    problems = cross(crossing)
    lines += problems or [f"logs of {', '.join(crossing)} are read on each other"]
    if tested:
        lines.append(f"{tested} was tested before")
    lines += [f"Python {version} is missing" for version in PYTHONS if version not in pythons]
    say("; ".join(lines))
    return int(has_failed or bool(problems))


if __name__ == "__main__":
    sys.exit(main())
