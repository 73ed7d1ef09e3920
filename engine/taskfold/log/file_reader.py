"""Logs in files that are only read, while another process writes them: nothing is locked, made or changed.

A reader looks every so often whether there is more, and takes it in when it is asked to (`SharedLog.newest`). What a
compaction removed, a writer that ends and comes again, and a file that is gone for a while are no hindrance; another
log in the place of the one that was opened is refused.
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
"""How often is looked whether a file has more."""


class FileReader(ReadOnlyLog):
    """What both kinds of files have in common."""

    path: Path

    def _begin_reading(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.name = self.location = str(self.path)
        self._own(self.name)
        self._is_woken = threading.Event()
        self._taking = threading.Lock()
        """Of taking in what is new: one thread does."""

    def listen(self) -> None:
        """Do nothing: a `wait` looks for itself."""

    def wait(self, seconds: float) -> bool:
        """Wait until there is something new, or so long; tell whether there is."""
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
        """End a `wait` at once. Any thread may."""
        self._is_woken.set()

    @abstractmethod
    def _is_changed(self) -> bool:
        """Tell whether there may be something new, or something wrong."""

    def _stat(self) -> os.stat_result:
        """Return what the system says of the file. Raises LogError when there is none."""
        try:
            return self.path.stat()
        except FileNotFoundError:
            raise LogError(f"{self.path}: the log was removed or moved away: put it back") from None
        except OSError as error:
            raise LogError(f"{self.path}: cannot be read: {error.strerror or error}") from None


def is_of_same_log(header: LogHeader, before: LogHeader) -> bool:
    """Tell whether a header is that of a known log; one of an older format has no UUID until it is converted."""
    is_same = (header.dialect, header.region) == (before.dialect, before.region)
    return is_same and before.uuid in {header.uuid, ""}
