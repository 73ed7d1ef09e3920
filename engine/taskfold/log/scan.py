"""Scanning a log: all of it, where reading would end at what is damaged; that is told of, and passed over.

What a seal or a checksum does not vouch for is not a record here, however good it looks.
"""

from __future__ import annotations

import gzip
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from taskfold.log.contract import new_header
from taskfold.log.lines import blocks, is_database, open_bytes, readable
from taskfold.log.ndjson_lines import UNSEALED, DamagedHeader, is_header, is_record, read_header
from taskfold.log.opening import is_postgres, shown_name
from taskfold.log.seals import Run, Sealed, Tail, good_end, seal, unsealed
from taskfold.log.sparse import Part
from taskfold.log.sqlite_head import Head, digest_of
from taskfold.log.upcast import record_decoder
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, SourceError
from taskfold.model.record import FORMAT, LogHeader, Record

__all__ = ["Damage", "LogCheck", "Scanned", "scan"]

_DAMAGES_KEPT: Final = 1_000
"""How many damages are kept; all are counted."""
_ROWS: Final = 1_000
_LEAST_ROW_BYTES: Final = 40
"""No row of a database is smaller: it says how many there may be where the database cannot tell."""


class Damage(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """Something in a log that is not as it was written."""

    message: str
    line: int | None = None
    offset: int | None = None
    """The byte of the file where it begins."""
    seq: int | None = None
    is_unreadable: bool = False
    """It is no record at all, where others are not the ones that were written."""


Scanned: TypeAlias = Record | Damage


class LogCheck(Struct, kw_only=True):
    """What is to be said of a log."""

    name: str
    header: LogHeader
    """With an empty dialect where it cannot be read."""
    records: int = 0
    """How many records are whole."""
    newest: int = 0
    """The newest position of them."""
    damages: list[Damage] = []
    """The first of them."""
    damages_total: int = 0
    unacknowledged_bytes: int = 0
    """What a write that was cut off left at the end: nobody was told that it was written."""

    @property
    def is_whole(self) -> bool:
        """Whether everything is as it was written."""
        return not self.damages_total

    def add(self, damage: Damage) -> None:
        """Count a damage, and keep it while there is room."""
        self.damages_total += 1
        if len(self.damages) < _DAMAGES_KEPT:
            self.damages.append(damage)


def scan(
    name: str, dialect: str | Dialect | None = None, *, is_thorough: bool = False
) -> tuple[LogCheck, Iterator[Scanned]]:
    """Return the header, and all that a log has, whole or not. Raises SourceError."""
    if is_postgres(name):
        from taskfold.log.postgres_tables import scan_postgres

        header, rows = scan_postgres(name)
        return LogCheck(name=shown_name(name), header=header), _of_rows(rows, header)
    if Path(name).is_file():
        with readable(name):
            is_rows = is_database(name)
        if is_rows:
            scanned = _scan_database(name, dialect, is_thorough=is_thorough)
            return next(scanned), scanned  # type: ignore[return-value]  # the check comes first, and no other
    scanned = _lines(name, dialect, is_thorough=is_thorough)
    check = next(scanned)
    assert isinstance(check, LogCheck)
    return check, (found for found in scanned if not isinstance(found, LogCheck))


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(name: str, dialect: str | Dialect | None, *, is_thorough: bool) -> Iterator[LogCheck | Scanned]:
    """Yield what is to be said of a log, and then its records and what is damaged, in the order of the file.

    The file is opened once: standard input and pipes cannot be read again.
    """
    damaged: list[Damage] = []
    with open_bytes(name) as stream:
        of_blocks = blocks(stream if name == "-" else _as_it_is(stream), name)
        _, first = next(of_blocks, (1, b""))
        first, newline, rest = first.partition(b"\n")
        start = len(first) + len(newline)
        try:
            header = _header(first + newline, name, dialect)
        except SourceError as error:
            if dialect is None and not (is_thorough and _is_damaged_header(first + newline)):
                raise
            # Which format it is, is told by whether there are seals.
            header = _stand_in(dialect, UNSEALED if rest and unsealed(rest) == rest else FORMAT)
            damaged.append(Damage(message=_without(error, name), line=1, offset=0))
        check = LogCheck(name=name, header=header)
        yield check

        def on_tail(tail: Tail) -> None:
            check.unacknowledged_bytes = len(tail.data)

        def on_damage(error: SourceError, offset: int, data: bytes, is_readable: bool) -> bytes:  # noqa: FBT001 - as it is called
            good = good_end(data)
            bad = data.count(b"\n", 0, len(data) - len(good))
            told = f"{_without(error, name)} ({bad} lines were written together)"
            damaged.append(Damage(message=told, line=error.line, offset=offset, is_unreadable=not is_readable))
            return good

        numbered = chain([(2, rest)], of_blocks)
        has_seals = check.header.taskfold != UNSEALED
        sealed = Sealed(name, start, is_record=is_record, on_tail=on_tail, on_damage=on_damage)
        try:
            for run in sealed.runs(numbered) if has_seals else _plain(numbered, on_tail):
                yield from damaged
                damaged.clear()
                yield from _of_run(run, check.header.taskfold, None if has_seals else start)
                start += run.size
        except SourceError as error:  # a compressed file that is cut off, a disk that fails
            told = f"{_without(error, name)}; nothing after it was read"
            damaged.append(Damage(message=told, line=error.line, is_unreadable=True))
        yield from damaged


def _as_it_is(stream: BinaryIO) -> Any:
    """Return what ends where a file ends now, whatever is appended to it meanwhile; a pipe ends where it ends."""
    if isinstance(stream, gzip.GzipFile):
        return stream
    found = os.fstat(stream.fileno())
    return Part(stream, 0, found.st_size) if S_ISREG(found.st_mode) else stream


def _header(first: bytes, name: str, dialect: str | Dialect | None) -> LogHeader:
    """Return the header that the first line says. Raises SourceError."""
    if dialect is None and not is_header(first):
        raise SourceError(name, "is not a taskfold log")
    return read_header(first, name)


def _stand_in(dialect: str | Dialect | None, source: int = FORMAT) -> LogHeader:
    """Return what stands for a header that cannot be read."""
    header = LogHeader(taskfold=source, dialect="") if dialect is None else new_header(dialect)
    return msgspec.structs.replace(header, taskfold=source)


def _is_damaged_header(first: bytes) -> bool:
    """Tell whether a line that begins as a header is not as it was written, and not merely of another taskfold."""
    found = re.match(rb'\{"taskfold":([0-9]{1,9}),', first)
    source = int(found[1]) if found else 0
    if source == UNSEALED:
        try:
            msgspec.json.decode(first, type=LogHeader)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True
        return False
    return UNSEALED < source <= FORMAT and seal(unsealed(first)) != first


def _of_run(run: Run, source: int, offset: int | None) -> Iterator[Scanned]:
    """Yield the records of whole lines, and those lines that are none; ``offset`` is where they stand, if known."""
    decode = record_decoder(source)
    for line, text in enumerate(run.lines.split(b"\n"), start=run.line):
        if text.strip():
            try:
                yield decode(text)
            except msgspec.DecodeError as error:
                message = f"not a record of a taskfold log: {error}"
                yield Damage(message=message, line=line, offset=offset, is_unreadable=True)
        if offset is not None:
            offset += len(text) + 1


def _plain(of_blocks: Iterable[tuple[int, bytes]], on_tail: Callable[[Tail], None]) -> Iterator[Run]:
    """Yield the whole lines of a log that has no seals."""
    for number, block in of_blocks:
        end = block.rfind(b"\n") + 1
        yield Run(number, block[:end], end)
        if end < len(block):
            on_tail(Tail(number, end, block[end:]))


def _without(error: SourceError, name: str) -> str:
    """Return what an error says, without where."""
    return str(error).removeprefix(name).partition(": ")[2]


# --- databases --------------------------------------------------------------------------------------------------------

_ROWS_WHERE: Final = 'SELECT seq, alloc, version, "index", id, checksum, body FROM records WHERE'

Row: TypeAlias = tuple[int, Any, Any, Any, Any, Any, Any]
"""Seq, alloc, version, index, id, checksum and body, as a database has them."""


def _of_rows(rows: Iterator[Row | Damage], header: LogHeader) -> Iterator[Scanned]:
    """Yield the records of rows, each checked by its checksum, and its columns by its body."""
    decode = record_decoder(header.taskfold)
    for row in rows:
        if isinstance(row, Damage):
            yield row
            continue
        seq, alloc, version, index, known_by, checksum, body = row
        if not isinstance(body, bytes) or zlib.crc32(body) != checksum:
            yield Damage(message="the record is damaged: its checksum is another one", seq=seq)
            continue
        try:
            record = decode(body)
        except msgspec.DecodeError as error:
            yield Damage(message=f"not a record of a taskfold log: {error}", seq=seq)
            continue
        told = record.seq, record.alloc, record.version, record.index, None if record.id is UNSET else record.id
        if (seq, alloc, version, index, known_by) != told:
            yield Damage(message="the columns of the row say something else than its record", seq=seq)
        yield record


def _scan_database(name: str, dialect: str | Dialect | None, *, is_thorough: bool) -> Iterator[LogCheck | Scanned]:
    """Yield what is to be said of a log, and then its records and what is damaged, all as they are at one moment."""
    from taskfold.log import sqlite_tables as tables

    path = Path(name)
    try:
        with tables.snapshot(path, is_scan=True) as found:
            damaged: list[Damage] = []
            try:
                header = tables.header_in(found.database, path)
            except LogError as error:
                if dialect is None and not (is_thorough and isinstance(error, DamagedHeader)):
                    raise
                header = _stand_in(dialect)
                damaged.append(Damage(message=f"the header cannot be read: {_told(error, path)}"))
            check = LogCheck(name=name, header=header)
            yield check
            head = None
            try:
                tables.check_schema(found.database, path, header)
                head = tables.head_in(found.database, path, header)
                check.unacknowledged_bytes = tables.unacknowledged_in(path, found, header, head)
            except (LogError, sqlite3.Error) as error:
                damaged = damaged or [Damage(message=_told(error, path))]
            yield from damaged
            if is_thorough:
                yield from _told_by_sqlite(found.database)
            yield from _acknowledged(_rows(found.database, path, header, head), header, head)
    except LogError as error:
        raise SourceError(name, _told(error, path)) from None


def _acknowledged(rows: Iterator[Row | Damage], header: LogHeader, head: Head | None) -> Iterator[Scanned]:
    """Yield the records of rows, and, where each is whole, whether they are all that were acknowledged."""
    is_whole, newest, digest = True, 0, 0

    def summed() -> Iterator[Row | Damage]:
        nonlocal newest, digest
        for row in rows:
            if not isinstance(row, Damage):
                newest, digest = row[0], digest + (row[5] if isinstance(row[5], int) else 0)
            yield row

    for found in _of_rows(summed(), header):
        is_whole = is_whole and not isinstance(found, Damage)
        yield found
    if is_whole and head is not None and head.uuid and digest_of([digest]) != head.digest:
        which = "the newest are missing" if newest < head.seq else "are not these"
        yield Damage(message=f"records up to Seq {head.seq} were acknowledged, and {which}", seq=newest)


def _told(error: Exception, path: Path) -> str:
    """Return what an error says, without where."""
    return str(error).removeprefix(f"{path}: ")


def _rows(database: sqlite3.Connection, path: Path, header: LogHeader, head: Head | None) -> Iterator[Row | Damage]:
    """Yield the rows of a database in order of their positions, and what cannot be read."""
    last = _last(database, path, header) if head is None else head.seq
    yield from _between(database, 1, last)
    yield from _outside(database, 1, last)


def _told_by_sqlite(database: sqlite3.Connection) -> Iterator[Damage]:
    """Yield what SQLite itself finds wrong, and what is wrong with the checkpoint."""
    try:
        for (told,) in database.execute(f"PRAGMA integrity_check({_DAMAGES_KEPT})"):
            if told != "ok":
                yield Damage(message=f"SQLite: {' '.join(str(told).split())}")
        for part, checksum, body in database.execute("SELECT part, checksum, body FROM checkpoint ORDER BY part"):
            if not isinstance(body, bytes) or zlib.crc32(body) != checksum:
                yield Damage(message=f"part {part} of the checkpoint is damaged: it is made anew from the records")
    except sqlite3.Error as error:
        yield Damage(message=f"SQLite: {error}")


def _last(database: sqlite3.Connection, path: Path, header: LogHeader) -> int:
    """Return a position that no record is beyond: positions have no holes but those of a compaction."""
    size = sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())
    last = size // _LEAST_ROW_BYTES + (0 if header.compacted is UNSET else header.compacted.seq)
    # From the rows, or, where the last of them are damaged, from an index of theirs.
    for query in (
        "SELECT max(seq) FROM records",
        "SELECT max(+seq) FROM records INDEXED BY sqlite_autoindex_records_1",
    ):
        with suppress(sqlite3.Error):
            found = database.execute(query).fetchone()[0]
            return min(found, last) if isinstance(found, int) else 0
    return last


def _between(database: sqlite3.Connection, first: int, last: int) -> Iterator[Row | Damage]:
    """Yield the rows from one position to another, and which of them cannot be read."""
    lost: range | None = None
    why = ""
    for start in range(first, last + 1, _ROWS):
        for found in _some(database, start, min(start + _ROWS - 1, last)):
            if not isinstance(found, _Lost):
                yield found
            elif lost is not None and lost.stop == found.seq:
                lost = range(lost.start, found.seq + 1)
            else:
                if lost is not None:
                    yield _unreadable(lost, why)
                lost, why = range(found.seq, found.seq + 1), found.why
    if lost is not None:
        yield _unreadable(lost, why)


class _Lost(NamedTuple):
    """A position that cannot be read."""

    seq: int
    why: str


def _some(database: sqlite3.Connection, first: int, last: int) -> Iterator[Row | _Lost]:
    """Yield the rows from one position to another; where they cannot be read together, by halves, and one by one."""
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
    """Yield the rows whose positions no row can have. What cannot be read was told of before."""
    for query, bound in (
        ("SELECT seq FROM records WHERE seq < ?", first),
        ("SELECT seq FROM records WHERE seq > ?", last),
    ):
        with suppress(sqlite3.Error):
            for (seq,) in database.execute(query, (bound,)):
                yield Damage(message="no log of this size has such a position: the record was passed over", seq=seq)


def _unreadable(lost: range, why: str) -> Damage:
    which = f"Seq {lost[0]}" if len(lost) == 1 else f"Seq {lost[0]} to {lost[-1]}"
    return Damage(message=f"{which} cannot be read ({why})", seq=lost[0])
