"""A file system that fails below a log, at every call in turn: the caller is told, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.faulty_library import FROM_THEN_ON, HERE, ONCE, SHORT, library

__all__ = ["library"]  # a fixture


def runs(preloaded: Path, folder: Path, name: str, error: str, mode: int) -> list[dict]:
    """Return what became of a log whose n-th call failed, for every n, until nothing failed any more."""
    folder = folder.resolve()
    settings = {"LD_PRELOAD": str(preloaded), "TASKFOLD_FAULTS": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
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
