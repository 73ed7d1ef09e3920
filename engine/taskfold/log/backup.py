"""Backups: a copy of a log as it is at one moment, whoever writes it meanwhile.

A copy is made in a folder of its own beside its place, checked whole, brought to disk, and only then put at its place,
where nothing is ever overwritten. A database is copied page by page by SQLite itself, in one transaction that reads; a
file of lines up to its last seal; of PostgreSQL what one transaction sees (REPEATABLE READ). Into a store of another
kind the records are copied, each at its place, with the mark of what a compaction removed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from taskfold.log.check import check_log
from taskfold.log.damage import LogCheck
from taskfold.log.files import sync_folder
from taskfold.log.names import shown_name
from taskfold.log.registry import is_new_log, kind_named, kinds, log_source, open_log
from taskfold.log.store_kind import NamedLog, StoreKind
from taskfold.model.errors import LogError
from taskfold.model.record import LogHeader, Record

__all__ = ["backup", "backup_records"]


def backup(log: str | Path, copy: str | Path) -> LogCheck:
    """Copy a log; return what is to be said of the copy. O(records).

    What was acknowledged before is in it. Raises LogError when there is no log, the copy exists or cannot be written,
    and LogError or SourceError when the log is damaged: then there is no copy.
    """
    name = str(log)
    if is_new_log(log):
        raise LogError(f"{shown_name(name)}: there is no log")
    source = log_source(log)
    assert isinstance(source, NamedLog)
    kind = source.kind
    if kind.schemes or kind_named(copy) is not kind:
        return _copy_records(kind, name, copy)
    # Page by page or line by line, where the store can.
    return _put(copy, lambda draft: None if kind.copy(name, draft) else _write_snapshot(kind, name, draft))


def _copy_records(kind: StoreKind, name: str, copy: str | Path) -> LogCheck:
    with kind.snapshot(name) as (header, records):
        return backup_records(header, records, copy)


def _write_snapshot(kind: StoreKind, name: str, draft: Path) -> None:
    with kind.snapshot(name) as (header, records):
        _write(draft, header, records)


def backup_records(header: LogHeader, records: Iterable[list[Record]], copy: str | Path) -> LogCheck:
    """Copy records into a log of their own, each at its place; return what is to be said of it. Raises as `backup`."""
    kind = kind_named(copy)
    if kind is None or not kind.schemes:
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
    path, kind = Path(copy).absolute(), kind_named(copy)
    if kind is None:
        raise LogError(f"{copy}: a backup ends in {', '.join(_endings())}, or is the URL of a database")
    _check_free(path, kind)
    with _folder_beside(path) as folder:
        draft = folder / path.name
        make(draft)
        check = check_log(draft)
        if not check.is_whole:
            raise LogError(
                f"the log is damaged, and was not copied: {check.damages[0].message}; "
                "`taskfold log LOG --repair` copies what is good of it"
            )
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # where a name would be overwritten, it fails
        except FileExistsError:
            raise _exists(path) from None
    sync_folder(path)
    check.name = str(copy)
    return check


def _endings() -> list[str]:
    """Return how the names of logs end."""
    return [ending for kind in kinds() for ending in kind.endings]


def _check_free(path: Path, kind: StoreKind) -> None:
    """Refuse to overwrite, or to be mixed with what is left of another database. Raises LogError."""
    if os.path.lexists(path):
        raise _exists(path)
    for neighbour in (path.with_name(path.name + end) for end in kind.neighbours):
        if os.path.lexists(neighbour):
            raise LogError(
                f"{neighbour}: is left of another database, and would be taken for a part of this one: remove it"
            )


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
