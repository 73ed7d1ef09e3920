"""Read-only logs in files that another process writes: nothing is locked, created or changed.

A reader polls for new records, and reads them on request (`SharedLog.newest`). It survives a compaction, a restart of
the writer, and a file that is missing for a while; another log at the same path is refused.
"""

from __future__ import annotations

import os
import threading
import time
from abc import abstractmethod
from pathlib import Path
from typing import Final

from taskfold.log.read_only import ReadOnlyLog
from taskfold.model.errors import LogError
from taskfold.model.record import LogHeader

__all__ = ["FileReader", "is_of_same_log"]

_POLL_SECONDS: Final = 0.05
"""The interval between two looks at a file."""


class FileReader(ReadOnlyLog):
    """The common base of the readers of both kinds of files."""

    path: Path

    def _begin_reading(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.name = self.location = str(self.path)
        self._own(self.name)
        self._is_woken = threading.Event()
        self._reading_lock = threading.Lock()
        """Held while new records are read: one thread at a time does."""

    def listen(self) -> None:
        """Do nothing: `wait` polls."""

    def wait(self, seconds: float) -> bool:
        """Wait for new records, or until the timeout; tell whether there may be some."""
        end = time.monotonic() + seconds
        while not self._is_woken.is_set():
            if self._is_changed():
                return True
            rest = end - time.monotonic()
            if rest <= 0:
                return False
            self._is_woken.wait(min(rest, _POLL_SECONDS))
        self._is_woken.clear()
        return False

    def interrupt(self) -> None:
        """End a `wait` at once. Safe from any thread."""
        self._is_woken.set()

    @abstractmethod
    def _is_changed(self) -> bool:
        """Tell whether there may be new records, or an error to raise."""

    def _stat(self) -> os.stat_result:
        """Return the status of the file. Raises LogError if there is none."""
        try:
            return self.path.stat()
        except FileNotFoundError:
            raise LogError(f"{self.path}: the log was removed or moved away: put it back") from None
        except OSError as error:
            raise LogError(f"{self.path}: cannot be read: {error.strerror or error}") from None


def is_of_same_log(header: LogHeader, before: LogHeader) -> bool:
    """Tell whether two headers belong to the same log; one of an older format has no UUID until it is converted."""
    is_same = (header.dialect, header.region) == (before.dialect, before.region)
    return is_same and before.uuid in {header.uuid, ""}
