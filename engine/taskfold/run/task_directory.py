"""The directories of a task, as Nomad lays them out: what the tasks of an allocation share, and what is its own.

Nomad lets everybody write into them (0777), since its tasks are of other users than it is. Here they are of the same
one, and what tasks keep is its owner's alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import quote

from taskfold.log.files import own_folder

__all__ = ["TaskDirectory"]

_SHARED: Final = "alloc"
_LOGS: Final = "logs"


class TaskDirectory:
    """Where a task works and keeps what it has, below a root; it is made by `make`, and stays over restarts."""

    def __init__(self, root: Path, alloc: str, task: str) -> None:
        """Name the directories, whatever the names of the allocation and the task are."""
        self.alloc = alloc
        self.shared = root / _part(alloc) / _SHARED
        """Of all tasks of the allocation."""
        self.path = root / _part(alloc) / _part(task)
        """Where its process begins."""
        self.local = self.path / "local"
        self.secrets = self.path / "secrets"

    def make(self) -> None:
        """Make what is missing. Raises OSError, also for a link or another user's."""
        for folder in (
            *(self.shared / name for name in ("data", _LOGS, "tmp")),
            self.local,
            self.secrets,
            self.path / "tmp",
        ):
            own_folder(folder)

    def output(self, stream: str) -> Path:
        """Return the file that keeps what a task writes to ``stdout`` or ``stderr``."""
        return self.shared / _LOGS / f"{self.path.name}.{stream}.0"


def _part(name: str) -> str:
    """Return a name as one part of a path, which is neither a way out nor the place of what is shared."""
    return "%61lloc" if name == _SHARED else quote(name, safe="").replace(".", "%2E")
