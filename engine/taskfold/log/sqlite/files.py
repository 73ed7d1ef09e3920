"""The files of a database, and their rule: only SQLite opens a file that may be a database.

On POSIX, closing any descriptor of a file releases all locks that the process holds on it. So ``open`` on a database,
in the process that writes it, removes SQLite's locks, and another process may then delete the write-ahead log in use.
SQLite keeps track of its own descriptors, and defers closing them until no lock is held.
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

__all__ = ["SqliteConnection", "is_claimed", "sidecar", "unshared", "uri"]

_CODE: Final = 0xFF
"""The mask of a primary result code of SQLite, without the extended part."""

_opening: Final = threading.RLock()
_connections: Final[Counter[tuple[int, int]]] = Counter()
"""The number of this process's connections to each file, by device and inode."""


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release)


class SqliteConnection(Owned, sqlite3.Connection):
    """A connection that is counted while it is open.

    As SQLite demands, a fork neither uses nor closes it: its locks belong to the parent process.
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
        """Close the connection."""
        with _opening:
            super().close()
            if self._file is not None:
                _connections[self._file] -= 1
                if not _connections[self._file]:
                    del _connections[self._file]
                self._file = None

    def _prepare_fork(self) -> None:
        import ctypes  # noqa: F401 - importing in a fork is not safe

    def _disown(self) -> None:
        """Keep the object alive for ever in this process, so that it is never closed."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


@contextmanager
def unshared(path: Path) -> Iterator[bool]:
    """Keep this process from opening a database, and tell whether it has it open; if not, plain files may be opened.

    Only connections of this class count.
    """
    with _opening:
        status = Path(path).stat()
        yield (status.st_dev, status.st_ino) not in _connections


def sidecar(path: Path, end: str) -> Path:
    """Return the path of a sidecar file of a database: ``-wal``, ``-shm`` or ``-journal``."""
    return path.with_name(path.name + end)


def uri(path: Path, *options: str) -> str:
    """Return the URI of a database for reading only."""
    return f"file:{quote(str(path.absolute()))}?{'&'.join(('mode=ro', *options))}"


def is_claimed(path: str | Path) -> bool:
    """Tell whether a file is a database to SQLite, or open in it, so that nothing else may open it. Raises OSError.

    A file that is not claimed is at most a damaged database.
    """
    status = Path(path).stat()
    with _opening:
        if (status.st_dev, status.st_ino) in _connections:
            return True
    try:
        # Look at the file alone, without its write-ahead log: no lock is taken, and nothing is written.
        with closing(sqlite3.connect(uri(Path(path), "immutable=1"), uri=True)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        # SQLite has not opened a file that it rejects, so that no lock can be lost.
        is_looked_at = error.sqlite_errorcode & _CODE in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}
        return not is_looked_at
    return True
