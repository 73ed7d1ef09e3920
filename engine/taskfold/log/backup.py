"""Backups: a copy of a log as it is at one moment, whoever writes it meanwhile.

A copy is made in a folder of its own beside its place, checked whole, brought to disk, and only then put at its place,
where nothing is ever overwritten. A database is copied page by page by SQLite itself, in one transaction that reads; a
file of lines up to its last seal; of PostgreSQL what one transaction sees (REPEATABLE READ). Into a store of another
kind the records are copied, each at its place, with the mark of what a compaction removed.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import BinaryIO, Final

from taskfold.log.check import check_log
from taskfold.log.files import new_file
from taskfold.log.folder import sync_folder
from taskfold.log.lines import BLOCK_BYTES, is_database, open_bytes, readable
from taskfold.log.ndjson_lines import is_header, opened, read_records
from taskfold.log.opening import DATABASES, LINES, is_new_log, is_postgres, open_log, read_server_at_once, shown_name
from taskfold.log.scan import LogCheck
from taskfold.log.sparse import Part
from taskfold.model.errors import LogError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["backup", "backup_records"]

_BESIDE_A_DATABASE: Final = ("-wal", "-shm", "-journal")
_PEEK_BYTES: Final = 64


def backup(log: str | Path, copy: str | Path) -> LogCheck:
    """Copy a log; return what is to be said of the copy. O(records).

    What was acknowledged before is in it. Raises LogError when there is no log, the copy exists or cannot be written,
    and LogError or SourceError when the log is damaged: then there is no copy.
    """
    name = str(log)
    if is_new_log(log):
        raise LogError(f"{shown_name(name)}: there is no log")
    path = Path(log).absolute()
    if not is_postgres(name) and not is_postgres(str(copy)):
        is_rows = _is_database(path, name)
        if is_rows and str(copy).endswith(DATABASES):
            return _put(copy, lambda draft: _copy_database(path, draft))
        if not is_rows and str(copy).endswith(LINES) and not _is_packed(path, name):
            return _put(copy, lambda draft: _copy_lines(path, name, draft))
    with _at_once(path, name) as (header, records):
        return backup_records(header, records, copy)


def backup_records(header: LogHeader, records: Iterable[list[Record]], copy: str | Path) -> LogCheck:
    """Copy records into a log of their own, each at its place; return what is to be said of it. Raises as `backup`."""
    if not is_postgres(str(copy)):
        return _put(copy, lambda draft: _write(draft, header, records))
    if not is_new_log(copy):
        raise _exists(shown_name(str(copy)))
    _write(copy, header, records)
    return check_log(copy)


def _write(copy: str | Path, header: LogHeader, records: Iterable[list[Record]]) -> None:
    """Write a log of these records, or none."""
    log = open_log(copy, header.dialect, header.region)
    try:
        log.take(header, (record for block in records for record in block))
    except BaseException:
        log.roll_back()
        raise
    log.close()


# --- where the copy comes to be ---------------------------------------------------------------------------------------


def _put(copy: str | Path, make: Callable[[Path], None]) -> LogCheck:
    """Have a copy made, and put it at its place."""
    path = Path(copy).absolute()
    if not path.name.endswith((*DATABASES, *LINES)):
        raise LogError(f"{copy}: a backup ends in {', '.join((*DATABASES, *LINES))}, or is the URL of a database")
    _check_free(path)
    with _folder_beside(path) as folder:
        draft = folder / path.name
        make(draft)
        found = check_log(draft)
        if not found.is_whole:
            told = f"is damaged, and was not copied: {found.damages[0].message}"
            raise LogError(f"the log {told}; `taskfold log LOG --repair` copies what is good of it")
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # where a name would be overwritten, it fails
        except FileExistsError:
            raise _exists(path) from None
    sync_folder(path)
    found.name = str(copy)
    return found


def _check_free(path: Path) -> None:
    """Refuse to overwrite, or to be mixed with what is left of another database. Raises LogError."""
    if os.path.lexists(path):
        raise _exists(path)
    for left in (path.with_name(path.name + end) for end in _BESIDE_A_DATABASE):
        if path.name.endswith(DATABASES) and os.path.lexists(left):
            raise LogError(f"{left}: is left of another database, and would be taken for a part of this one: remove it")


def _exists(name: object) -> LogError:
    return LogError(f"{name}: exists, and nothing is ever overwritten: name another")


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Lend a folder of which nothing stays. Raises LogError where none can be made, or filled."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            yield Path(folder)
    except OSError as error:
        raise LogError(f"{path}: cannot be written: {error.strerror or error}") from None


# --- what is copied ---------------------------------------------------------------------------------------------------


def _is_database(path: Path, name: str) -> bool:
    with readable(name):
        return is_database(path)


def _is_packed(path: Path, name: str) -> bool:
    with open_bytes(path, name) as stream:
        return isinstance(stream, gzip.GzipFile)


@contextmanager
def _at_once(path: Path, name: str) -> Iterator[tuple[LogHeader, Iterator[list[Record]]]]:
    """Lend a log as it is at one moment: its header, and its records."""
    if is_postgres(name):
        with read_server_at_once(name) as found:
            yield found
    elif _is_database(path, name):
        from taskfold.log.sqlite_tables import read_database

        with tempfile.TemporaryDirectory() as folder:
            _copy_database(path, snapshot := Path(folder) / path.name)
            yield read_database(name, snapshot)
    else:
        with open_bytes(path, name) as stream:
            _check_lines(stream, name)
            yield read_records(stream, name)


def _copy_database(path: Path, draft: Path) -> None:
    """Copy a database as it is now, page by page: one step is one transaction, which keeps no writer waiting."""
    from taskfold.log.sqlite_tables import checked, snapshot

    with snapshot(path) as found:
        checked(path, found)
        new_file(draft).close()  # nobody else's to read
        with closing(sqlite3.connect(draft)) as target:
            found.database.backup(target)


def _copy_lines(path: Path, name: str, draft: Path) -> None:
    """Copy a file of lines up to its last seal, byte for byte: what comes after it was not acknowledged."""
    with open_bytes(path, name) as stream:
        _check_lines(stream, name)
        size = len(stream.readline())
        stream.seek(0)
        _, runs = opened(stream, name, lambda _: None)
        part = Part(stream, 0, size + sum(run.size for run in runs))
        with BufferedWriter(new_file(draft)) as file:
            while block := part.read(BLOCK_BYTES):
                file.write(block)


def _check_lines(stream: BinaryIO, name: str) -> None:
    if not is_header(stream.peek(_PEEK_BYTES)):  # type: ignore[attr-defined]
        raise UnreadableLog(f"{name}: is not a taskfold log; `taskfold import` makes one of what a Nomad said")
