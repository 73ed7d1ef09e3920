"""pytest in a process of its own, with the plugin of taskfold and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def pytest_in(folder: Path, *options: str) -> tuple[int, str]:
    """Run pytest with this plugin and no other; return the exit status and the output."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "taskfold.testing.plugin",
        *options,
    ]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        command, cwd=folder, env=os.environ | alone, capture_output=True, text=True, check=False, timeout=240
    )
    return ran.returncode, ran.stdout + ran.stderr
