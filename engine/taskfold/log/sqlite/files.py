"""The files of a database, and the rule for them: what may be a database is opened by SQLite, and by nothing else.

Whoever closes any descriptor of a file lets go of all locks that its process holds on it (POSIX). So a look at a
database with ``open`` in the process that writes it takes its locks away, and another process may then remove the
write-ahead log that is being written. SQLite knows what it has open, and keeps such a descriptor until it has no locks.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from taskfold.log.ownership import Owned

__all__ = ["Connection", "is_claimed", "neighbour", "unshared", "uri"]

_CODE: Final = 0xFF
"""What a code of SQLite's says without its details."""

_opening: Final = threading.RLock()
_connections: Final[Counter[tuple[int, int]]] = Counter()
"""How many connections of this process have a file open, by its device and inode."""


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release)


class Connection(Owned, sqlite3.Connection):
    """A connection that is counted while it is open.

    A fork neither uses nor closes it, as SQLite demands: its locks are those of its process.
    """

    _file: tuple[int, int] | None = None

    def __init__(self, database: str, *args: Any, **more: Any) -> None:
        with _opening:
            super().__init__(database, *args, **more)
            (path,) = (file for _, name, file in self.execute("PRAGMA database_list") if name == "main")
            with suppress(OSError):
                status = Path(path).stat()
                self._file = status.st_dev, status.st_ino
                _connections[self._file] += 1
        self._own(path)

    def close(self) -> None:
        """Close it."""
        with _opening:
            super().close()
            if self._file is not None:
                _connections[self._file] -= 1
                if not _connections[self._file]:
                    del _connections[self._file]
                self._file = None

    def _prepare_fork(self) -> None:
        import ctypes  # noqa: F401 - there is no safe time for it in a fork

    def _disown(self) -> None:
        """Keep it from ever being freed here."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


@contextmanager
def unshared(path: Path) -> Iterator[bool]:
    """Keep this process from opening a database, and tell whether it has not: then its files may be opened and closed.

    A connection that others made, and did not close, counts not.
    """
    with _opening:
        status = Path(path).stat()
        yield (status.st_dev, status.st_ino) not in _connections


def neighbour(path: Path, end: str) -> Path:
    """Return a file that SQLite keeps beside a database: ``-wal``, ``-shm`` or ``-journal``."""
    return path.with_name(path.name + end)


def uri(path: Path, *options: str) -> str:
    """Return the URI of a database that is only read."""
    return f"file:{quote(str(path.absolute()))}?{'&'.join(('mode=ro', *options))}"


def is_claimed(path: str | Path) -> bool:
    """Tell whether SQLite takes a file for a database, or has it open, so that nobody else may open it. Raises OSError.

    A file that is not claimed may be a damaged database at most.
    """
    status = Path(path).stat()
    with _opening:
        if (status.st_dev, status.st_ino) in _connections:
            return True
    try:
        # What it is of itself is asked, without what a write-ahead log adds to it: no lock, and nothing is written.
        with closing(sqlite3.connect(uri(Path(path), "immutable=1"), uri=True)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        # What it cannot open, or calls no database, it has not open, either: nobody's locks are lost.
        is_looked_at = error.sqlite_errorcode & _CODE in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}
        return not is_looked_at
    return True
