"""The directories of a task, as Nomad lays them out: those that the tasks of an allocation share, and its own.

Nomad lets everybody write into them (0777), since it runs tasks as other users. Here tasks run as the same user, and
only that user may read and write.
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
    """The directories of a task below a root; `make` makes them, and they outlive restarts."""

    def __init__(self, root: Path, alloc: str, task: str) -> None:
        """Name the directories; any name of an allocation and a task is safe."""
        self.alloc = alloc
        self.shared = root / _part(alloc) / _SHARED
        """The directory of all tasks of the allocation."""
        self.path = root / _part(alloc) / _part(task)
        """The working directory of the process."""
        self.local = self.path / "local"
        self.secrets = self.path / "secrets"

    def make(self) -> None:
        """Make the directories that are missing. Raises OSError, also for a link or a directory of another user."""
        for folder in (
            *(self.shared / name for name in ("data", _LOGS, "tmp")),
            self.local,
            self.secrets,
            self.path / "tmp",
        ):
            own_folder(folder)

    def output(self, stream: str) -> Path:
        """Return the file of the task's ``stdout`` or ``stderr``."""
        return self.shared / _LOGS / f"{self.path.name}.{stream}.0"


def _part(name: str) -> str:
    """Return a name as one part of a path, which neither leaves its parent nor is the shared directory."""
    return "%61lloc" if name == _SHARED else quote(name, safe="").replace(".", "%2E")
