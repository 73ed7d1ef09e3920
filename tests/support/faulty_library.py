"""A library that, preloaded, makes calls of the file system fail."""

from __future__ import annotations

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
