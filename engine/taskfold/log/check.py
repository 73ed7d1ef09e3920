"""Checking a log, and copying what is good of one that is damaged. Nothing of the log itself is ever changed.

A scan goes through all of a log and passes over what is damaged, which it tells of, where reading would end there. What
a seal or a checksum does not vouch for is not copied, however good it looks.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from taskfold.dialect import Dialect
from taskfold.errors import LogError, SourceError
from taskfold.lines import blocks, open_bytes
from taskfold.log.contract import Ledger, StoredLog, new_header
from taskfold.log.ndjson import UNSEALED, is_header, is_record, read_header
from taskfold.log.opening import is_new_log, is_postgres, open_log, shown_name
from taskfold.log.seals import Run, Sealed, Tail, good_end
from taskfold.record import Collected, LogHeader, Record
from taskfold.upcast import record_decoder

__all__ = ["Damage", "LogCheck", "Repair", "check_log", "is_log", "kept_checkpoint", "repair", "scan"]

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


class Repair(Struct, kw_only=True):
    """What was copied of a log, and what was not."""

    check: LogCheck
    records: int = 0
    """How many records were copied."""
    left_out: dict[str, tuple[int, int]] = {}
    """The allocations that lack records: the first version that is not there, and how many whole ones came after it."""

    @property
    def is_whole(self) -> bool:
        """Whether everything was copied."""
        return self.check.is_whole and not self.left_out


def check_log(name: str | Path) -> LogCheck:
    """Return what is wrong with a log, all of it. O(records); memory for a number per allocation.

    Raises SourceError for what is no log, or cannot be read at all.
    """
    check, scanned = scan(str(name), None, is_thorough=True)
    for _ in _checked(check, scanned):
        pass
    return check


def repair(name: str | Path, into: str | Path, dialect: str | Dialect | None = None) -> Repair:
    """Copy what is good of a log into a new one, with positions of its own. O(records).

    Of an allocation that lacks a record only those before it are copied, since the others would mean something else.
    ``dialect`` is needed where the header cannot be read. Raises SourceError for what is no log, and LogError when the
    new one cannot be written, or exists.
    """
    check, scanned = scan(str(name), dialect)
    if not is_new_log(into):
        raise LogError(f"{shown_name(str(into))}: exists, and nothing is ever overwritten: name another")
    done = Repair(check=check)
    target = open_log(into, check.header.dialect, check.header.region)
    try:
        _copy(_checked(check, scanned), target, done)
    except BaseException:
        target.roll_back()
        raise
    target.close()
    return done


def _copy(records: Iterator[Record], target: StoredLog, done: Repair) -> None:
    versions: dict[str, int] = {}
    for record in records:
        known = versions.get(record.alloc, 0)
        is_remnant = not known and isinstance(record.event, Collected)
        if record.alloc in done.left_out or not (record.version == known + 1 or is_remnant):
            missing, count = done.left_out.get(record.alloc, (known + 1, 0))
            done.left_out[record.alloc] = missing, count + 1
            continue
        target.append(record.alloc, record.version - 1, [record], sync=False)
        versions[record.alloc] = record.version
        done.records += 1


def _checked(check: LogCheck, scanned: Iterator[Scanned]) -> Iterator[Record]:
    """Yield the records that are whole; note what is damaged, and where records are missing."""
    ledger = Ledger(check.header)
    for found in scanned:
        if isinstance(found, Damage):
            check.add(found)
            continue
        if not ledger.follows(found):
            version = ledger.versions.get(found.alloc, 0)
            message = (
                f"expected Seq {ledger.seq + 1} and Version {version + 1} of allocation {found.alloc}, "
                f"found Seq {found.seq} and Version {found.version}"
            )
            check.add(Damage(message=message, seq=found.seq))
        ledger.note_placed([found])
        check.records += 1
        check.newest = max(check.newest, found.seq)
        yield found


def is_log(name: str) -> bool:
    """Tell whether a name is that of a log, by how it begins; standard input is read once, and is not asked."""
    if name == "-" or Path(name).is_dir():
        return False
    if is_postgres(name):
        return True
    from taskfold.log.sqlite import is_database

    with open_bytes(name) as stream:
        start = stream.peek(_ROWS)[:_ROWS]  # type: ignore[attr-defined]
    return is_header(start) or is_database(name)


def kept_checkpoint(name: str) -> Iterator[bytes]:
    """Yield the parts of the checkpoint that a log keeps; none that is damaged, or that cannot be read."""
    with suppress(LogError):
        if is_postgres(name):
            from taskfold.log.postgres_tables import read_checkpoint

            yield from read_checkpoint(name)
        else:
            from taskfold.log.sqlite import is_database, read_checkpoint_of

            if is_database(name):
                yield from read_checkpoint_of(Path(name))


def scan(
    name: str, dialect: str | Dialect | None = None, *, is_thorough: bool = False
) -> tuple[LogCheck, Iterator[Scanned]]:
    """Return the header, and all that a log has, whole or not. Raises SourceError."""
    if is_postgres(name):
        from taskfold.log.postgres_tables import scan_postgres

        header, rows = scan_postgres(name)
        return LogCheck(name=shown_name(name), header=header), _of_rows(rows, header)
    with open_bytes(name) as stream:
        start = stream.peek(_ROWS)[:_ROWS]  # type: ignore[attr-defined]
    from taskfold.log.sqlite import is_database

    if Path(name).is_file() and is_database(name):
        return _scan_database(name, dialect, is_thorough=is_thorough)
    if not is_header(start) and dialect is None:
        raise SourceError(name, "is not a taskfold log")
    return _scan_lines(name, dialect)


# --- lines ------------------------------------------------------------------------------------------------------------


def _scan_lines(name: str, dialect: str | Dialect | None) -> tuple[LogCheck, Iterator[Scanned]]:
    with open_bytes(name) as stream:
        first = stream.readline()
    damaged: list[Scanned] = []
    try:
        header = read_header(first, name)
    except SourceError as error:
        if dialect is None:
            raise
        header = new_header(dialect)
        damaged.append(Damage(message=_without(error, name), line=1, offset=0))
    check = LogCheck(name=name, header=header)
    return check, _lines(check, len(first), damaged)


def _lines(check: LogCheck, start: int, damaged: list[Scanned]) -> Iterator[Scanned]:
    """Yield the records of lines, and what is damaged, in the order of the file."""

    def on_tail(tail: Tail) -> None:
        check.unacknowledged_bytes = len(tail.data)

    def on_damage(error: SourceError, offset: int, data: bytes, is_readable: bool) -> bytes:  # noqa: FBT001 - as it is called
        good = good_end(data)
        bad = data.count(b"\n", 0, len(data) - len(good))
        what = f"{_without(error, check.name)} ({bad} lines were written together)"
        damaged.append(Damage(message=what, line=error.line, offset=offset, is_unreadable=not is_readable))
        return good

    decode = record_decoder(check.header.taskfold)
    with open_bytes(check.name) as stream:
        stream.readline()
        of_blocks = ((number + 1, block) for number, block in blocks(stream, check.name))
        if check.header.taskfold == UNSEALED:
            runs = _plain(of_blocks, on_tail)
        else:
            sealed = Sealed(check.name, start, is_record=is_record, on_tail=on_tail, on_damage=on_damage)
            runs = sealed.runs(of_blocks)
        offset = start
        for run in runs:
            yield from damaged
            damaged.clear()
            for line, text in enumerate(run.lines.split(b"\n"), start=run.line):
                if text.strip():
                    try:
                        yield decode(text)
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
                        message = f"not a record of a taskfold log: {error}"
                        where = offset if check.header.taskfold == UNSEALED else None
                        yield Damage(message=message, line=line, offset=where, is_unreadable=True)
                offset += len(text) + 1
            offset -= 1
        yield from damaged


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
        except (msgspec.DecodeError, KeyError) as error:
            yield Damage(message=f"not a record of a taskfold log: {error}", seq=seq)
            continue
        told = record.seq, record.alloc, record.version, record.index, record.id
        if (seq, alloc, version, index, UNSET if known_by is None else known_by) != told:
            yield Damage(message="the columns of the row say something else than its record", seq=seq)
        yield record


def _scan_database(
    name: str, dialect: str | Dialect | None, *, is_thorough: bool
) -> tuple[LogCheck, Iterator[Scanned]]:
    from taskfold.log.sqlite import read_header_of

    damages: list[Damage] = []
    try:
        header = read_header_of(Path(name))
    except LogError as error:
        if dialect is None:
            raise SourceError(name, str(error).removeprefix(f"{name}: ")) from None
        header = new_header(dialect)
        damages.append(Damage(message=f"the header cannot be read: {error}"))
    check = LogCheck(name=name, header=header)
    for damage in damages:
        check.add(damage)
    return check, _of_rows(_rows(Path(name), is_thorough=is_thorough), header)


def _rows(path: Path, *, is_thorough: bool) -> Iterator[Row | Damage]:
    """Yield the rows of a database in order of their positions, and what cannot be read."""
    from taskfold.log.sqlite import reader

    with closing(reader(path)) as database:
        if is_thorough:
            yield from _told_by_sqlite(database)
        yield from _between(database, 1, _last(database, path))


def _told_by_sqlite(database: sqlite3.Connection) -> Iterator[Damage]:
    """Yield what SQLite itself finds wrong, and what is wrong with the checkpoint."""
    try:
        for (told,) in database.execute(f"PRAGMA integrity_check({_DAMAGES_KEPT})"):
            if told != "ok":
                yield Damage(message=f"SQLite: {' '.join(told.split())}")
        for part, checksum, body in database.execute("SELECT part, checksum, body FROM checkpoint ORDER BY part"):
            if not isinstance(body, bytes) or zlib.crc32(body) != checksum:
                yield Damage(message=f"part {part} of the checkpoint is damaged: it is made anew from the records")
    except sqlite3.Error as error:
        yield Damage(message=f"SQLite: {error}")


def _last(database: sqlite3.Connection, path: Path) -> int:
    """Return a position that no record is beyond."""
    last = path.stat().st_size // _LEAST_ROW_BYTES
    with suppress(sqlite3.Error):
        found = database.execute("SELECT max(seq) FROM records").fetchone()[0]
        last = found if isinstance(found, int) else 0
    return last


def _between(database: sqlite3.Connection, first: int, last: int) -> Iterator[Row | Damage]:
    """Yield the rows from one position to another; where they cannot be read, those that can be one by one."""
    query = (
        'SELECT seq, alloc, version, "index", id, checksum, body FROM records WHERE seq BETWEEN ? AND ? ORDER BY seq'
    )
    waiting = [(start, min(start + _ROWS - 1, last)) for start in range(first, last + 1, _ROWS)]
    waiting.reverse()
    lost: list[int] = []
    while waiting:
        start, end = waiting.pop()
        try:
            rows = database.execute(query, (start, end)).fetchall()
        except sqlite3.Error as error:
            if start == end:
                lost.append(start)
                if not waiting or waiting[-1][0] != start + 1 or len(lost) == _ROWS:
                    yield _unreadable(lost, error)
                    lost.clear()
                continue
            middle = (start + end) // 2
            waiting += [(middle + 1, end), (start, middle)]
            continue
        if lost:
            yield _unreadable(lost, None)
            lost.clear()
        yield from rows


def _unreadable(lost: list[int], error: sqlite3.Error | None) -> Damage:
    which = f"Seq {lost[0]}" if len(lost) == 1 else f"Seq {lost[0]} to {lost[-1]}"
    return Damage(message=f"{which} cannot be read{f' ({error})' if error else ''}", seq=lost[0])
