"""Backups: consistent copies of a log, made while others write it.

A copy is made in a temporary folder beside its target, checked as a whole, brought to disk, and only then moved to its
target; nothing is ever overwritten. SQLite copies its database page by page, in one read transaction; a file of lines
is copied up to its last seal; of PostgreSQL, one transaction (REPEATABLE READ) is copied. Into a store of another kind
the records are copied, with their positions and the compaction mark.
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
    """Copy a log; return the check of the copy. O(records).

    The copy has every record acknowledged before the call. Raises LogError when there is no log, or the copy exists or
    cannot be written; LogError or SourceError when the log is damaged. After an error there is no copy.
    """
    name = str(log)
    if is_new_log(log):
        raise LogError(f"{shown_name(name)}: there is no log")
    source = log_source(log)
    assert isinstance(source, NamedLog)
    kind = source.kind
    if kind.schemes or kind_named(copy) is not kind:
        return _copy_records(kind, name, copy)
    # The store's own copy (pages or lines) if it has one.
    return _put(copy, lambda draft: None if kind.copy(name, draft) else _write_snapshot(kind, name, draft))


def _copy_records(kind: StoreKind, name: str, copy: str | Path) -> LogCheck:
    with kind.snapshot(name) as (header, records):
        return backup_records(header, records, copy)


def _write_snapshot(kind: StoreKind, name: str, draft: Path) -> None:
    with kind.snapshot(name) as (header, records):
        _write(draft, header, records)


def backup_records(header: LogHeader, records: Iterable[list[Record]], copy: str | Path) -> LogCheck:
    """Copy records to a new log, with their positions; return its check. Raises what `backup` raises."""
    kind = kind_named(copy)
    if kind is None or not kind.schemes:
        return _put(copy, lambda draft: _write(draft, header, records))
    if not is_new_log(copy):
        raise _exists(shown_name(str(copy)))
    _write(copy, header, records)
    return check_log(copy)


def _write(copy: str | Path, header: LogHeader, records: Iterable[list[Record]]) -> None:
    """Write a log of these records; on an error, leave nothing behind."""
    log = open_log(copy, header.dialect, header.region)
    try:
        log.take(header, (record for block in records for record in block))
    except BaseException:
        log.roll_back()
        raise
    log.close()


# --- putting the copy in place
# -------------------------------------------------------------------------------------------


def _put(copy: str | Path, make: Callable[[Path], None]) -> LogCheck:
    """Make a copy in a temporary folder, check it, and move it to its target."""
    path, kind = Path(copy).absolute(), kind_named(copy)
    if kind is None:
        raise LogError(f"{copy}: the name of a backup must end in {', '.join(_endings())}, or be the URL of a database")
    _check_free(path, kind)
    with _folder_beside(path) as folder:
        draft = folder / path.name
        make(draft)
        check = check_log(draft)
        if not check.is_whole:
            raise LogError(
                f"the log is damaged, and was not copied: {check.damages[0].message}; "
                "`taskfold log LOG --repair` copies its good records"
            )
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # link(2) fails if the name exists, where rename(2) would overwrite
        except FileExistsError:
            raise _exists(path) from None
    sync_folder(path)
    check.name = str(copy)
    return check


def _endings() -> list[str]:
    """Return the file name endings of all kinds of log."""
    return [ending for kind in kinds() for ending in kind.endings]


def _check_free(path: Path, kind: StoreKind) -> None:
    """Check that the target is free, and has no sidecar files of another database. Raises LogError."""
    if os.path.lexists(path):
        raise _exists(path)
    for sidecar in (path.with_name(path.name + end) for end in kind.sidecars):
        if os.path.lexists(sidecar):
            raise LogError(f"{sidecar}: belongs to another database, and would be read as part of this one: remove it")


def _exists(name: object) -> LogError:
    return LogError(f"{name}: exists already, and is never overwritten: choose another name")


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside a path, and delete it. Raises LogError when it cannot be made or filled."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            yield Path(folder)
    except OSError as error:
        raise LogError(f"{path}: cannot be written: {error.strerror or error}") from None
