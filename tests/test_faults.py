"""A file system that fails below a log, at every call in turn: the caller is told, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ONCE, FROM_THEN_ON, SHORT = 0, 1, 2


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile faults.c. Skips, loudly, where that cannot be done."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler, or no Linux: the file system cannot be made to fail below SQLite")
    path = tmp_path_factory.mktemp("faults") / "faults.so"
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", path, HERE / "faults.c", "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    return path


def runs(library: Path, folder: Path, name: str, error: str, mode: int) -> list[dict]:
    """Return what became of a log whose n-th call failed, for every n, until nothing failed any more."""
    folder = folder.resolve()
    settings = {"LD_PRELOAD": str(library), "TASKFOLD_FAULTS": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, HERE / "failing_log.py", folder, name, error, str(mode)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("mode", [ONCE, FROM_THEN_ON, SHORT], ids=["once", "from then on", "short"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", ["x.db", "x.jsonl"])
def test_whatever_call_fails_it_is_told_and_nothing_acknowledged_is_lost(library, tmp_path, name, error, mode):
    found = runs(library, tmp_path, name, error, mode)

    assert [one for one in found if one["wrong"]] == []
    assert found[-1]["over"], "every call was made to fail once"
    assert found[-1]["told"] == []
    assert len(found) > (30 if name == "x.db" else 10)
    told = {sentence for one in found for sentence in one["told"]}
    assert told
    # An append that was refused makes conflicts of those that were to follow it.
    assert all(str(tmp_path.resolve()) in sentence or "is at version" in sentence for sentence in told)
