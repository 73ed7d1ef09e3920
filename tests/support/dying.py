"""A worker that dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def die_once(flag: str) -> None:
    """Kill this process unless the flag says that one has been killed."""
    try:
        Path(flag).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
