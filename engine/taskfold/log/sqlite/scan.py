"""Scanning a database: all of it, where reading would stop at damage."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import UNSET

from taskfold.log.damage import MAX_DAMAGES, Damage, LogCheck, RecordRow, Scanned, placeholder_header, records_of_rows
from taskfold.log.header import DamagedHeader
from taskfold.log.sqlite import tables
from taskfold.log.sqlite.head import Head, digest_of
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, SourceError
from taskfold.model.record import LogHeader

__all__ = ["scan"]

_ROWS: Final = 1_000
_LEAST_ROW_BYTES: Final = 40
"""The smallest row of a database: with the file's size, it bounds the number of rows if the database cannot count them.
"""


def scan(
    name: str, dialect: str | Dialect | None = None, *, is_thorough: bool = False
) -> tuple[LogCheck, Iterator[Scanned]]:
    """Return a check to be filled, and everything in a log: records and damage. Raises SourceError."""
    scanned = _scan_database(name, dialect, is_thorough=is_thorough)
    return next(scanned), scanned  # type: ignore[return-value]  # the check comes first, and no other


_ROWS_WHERE: Final = 'SELECT seq, alloc, version, "index", id, checksum, body FROM records WHERE'


def _scan_database(name: str, dialect: str | Dialect | None, *, is_thorough: bool) -> Iterator[LogCheck | Scanned]:
    """Yield a check to be filled, and then records and damage, as of one moment."""
    path = Path(name)
    try:
        with tables.snapshot(path, is_scan=True) as view:
            damaged: list[Damage] = []
            try:
                header = tables.header_in(view.database, path)
            except LogError as error:
                if dialect is None and not (is_thorough and isinstance(error, DamagedHeader)):
                    raise
                header = placeholder_header(dialect)
                damaged.append(Damage(message=f"the header cannot be read: {_without_path(error, path)}"))
            check = LogCheck(name=name, header=header)
            yield check
            head = None
            try:
                tables.check_schema(view.database, path, header)
                head = tables.head_in(view.database, path, header)
                check.unacknowledged_bytes = tables.unacknowledged_in(path, view, header, head)
            except (LogError, sqlite3.Error) as error:
                damaged = damaged or [Damage(message=_without_path(error, path))]
            yield from damaged
            if is_thorough:
                yield from _integrity_damage(view.database)
            yield from _acknowledged(_rows(view.database, path, header, head), header, head)
    except LogError as error:
        raise SourceError(name, _without_path(error, path)) from None


def _acknowledged(rows: Iterator[RecordRow | Damage], header: LogHeader, head: Head | None) -> Iterator[Scanned]:
    """Yield the records of rows, and damage if, though each is intact, they are not all that were acknowledged."""
    is_whole, newest, digest = True, 0, 0

    def summed() -> Iterator[RecordRow | Damage]:
        nonlocal newest, digest
        for row in rows:
            if not isinstance(row, Damage):
                newest, digest = row[0], digest + (row[5] if isinstance(row[5], int) else 0)
            yield row

    for item in records_of_rows(summed(), header):
        is_whole = is_whole and not isinstance(item, Damage)
        yield item
    if is_whole and head is not None and head.uuid and digest_of([digest]) != head.digest:
        which = "the newest are missing" if newest < head.seq else "are not these"
        yield Damage(message=f"records up to Seq {head.seq} were acknowledged, and {which}", seq=newest)


def _without_path(error: Exception, path: Path) -> str:
    """Return an error's text without the path."""
    return str(error).removeprefix(f"{path}: ")


def _rows(
    database: sqlite3.Connection, path: Path, header: LogHeader, head: Head | None
) -> Iterator[RecordRow | Damage]:
    """Yield the rows of a database in order of their positions, and the damage among them."""
    last = _last(database, path, header) if head is None else head.seq
    yield from _between(database, 1, last)
    yield from _outside(database, 1, last)


def _integrity_damage(database: sqlite3.Connection) -> Iterator[Damage]:
    """Yield damage that SQLite itself finds, and damage of the checkpoint."""
    try:
        for (message,) in database.execute(f"PRAGMA integrity_check({MAX_DAMAGES})"):
            if message != "ok":
                yield Damage(message=f"SQLite: {' '.join(str(message).split())}")
        for part, checksum, body in database.execute("SELECT part, checksum, body FROM checkpoint ORDER BY part"):
            if not isinstance(body, bytes) or zlib.crc32(body) != checksum:
                yield Damage(message=f"part {part} of the checkpoint is damaged: it will be rebuilt from the records")
    except sqlite3.Error as error:
        yield Damage(message=f"SQLite: {error}")


def _last(database: sqlite3.Connection, path: Path, header: LogHeader) -> int:
    """Return the greatest position possible: only a compaction leaves holes."""
    size = sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())
    last = size // _LEAST_ROW_BYTES + (0 if header.compacted is UNSET else header.compacted.seq)
    # From the rows, or, if the last of them are damaged, from an index.
    for query in (
        "SELECT max(seq) FROM records",
        "SELECT max(+seq) FROM records INDEXED BY sqlite_autoindex_records_1",
    ):
        with suppress(sqlite3.Error):
            newest = database.execute(query).fetchone()[0]
            return min(newest, last) if isinstance(newest, int) else 0
    return last


def _between(database: sqlite3.Connection, first: int, last: int) -> Iterator[RecordRow | Damage]:
    """Yield the rows between two positions, and the unreadable ones as damage."""
    lost: range | None = None
    why = ""
    for start in range(first, last + 1, _ROWS):
        for row in _some(database, start, min(start + _ROWS - 1, last)):
            if not isinstance(row, _Lost):
                yield row
            elif lost is not None and lost.stop == row.seq:
                lost = range(lost.start, row.seq + 1)
            else:
                if lost is not None:
                    yield _unreadable(lost, why)
                lost, why = range(row.seq, row.seq + 1), row.why
    if lost is not None:
        yield _unreadable(lost, why)


class _Lost(NamedTuple):
    """A position whose row cannot be read."""

    seq: int
    why: str


def _some(database: sqlite3.Connection, first: int, last: int) -> Iterator[RecordRow | _Lost]:
    """Yield the rows between two positions; where a range cannot be read, split it, down to single rows."""
    waiting = [(first, last)]
    while waiting:
        start, end = waiting.pop()
        try:
            yield from database.execute(f"{_ROWS_WHERE} seq BETWEEN ? AND ? ORDER BY seq", (start, end)).fetchall()
        except sqlite3.Error as error:
            if start == end:
                yield _Lost(start, str(error))
            else:
                middle = (start + end) // 2
                waiting += [(middle + 1, end), (start, middle)]


def _outside(database: sqlite3.Connection, first: int, last: int) -> Iterator[Damage]:
    """Yield damage for rows at impossible positions. Unreadable rows were reported before."""
    for query, bound in (
        ("SELECT seq FROM records WHERE seq < ?", first),
        ("SELECT seq FROM records WHERE seq > ?", last),
    ):
        with suppress(sqlite3.Error):
            for (seq,) in database.execute(query, (bound,)):
                yield Damage(message="no log of this size has such a position: the record was skipped", seq=seq)


def _unreadable(lost: range, why: str) -> Damage:
    which = f"Seq {lost[0]}" if len(lost) == 1 else f"Seq {lost[0]} to {lost[-1]}"
    return Damage(message=f"{which} cannot be read ({why})", seq=lost[0])
