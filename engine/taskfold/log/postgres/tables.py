"""The tables of a log in PostgreSQL, and what every process does with them: connect, begin a log, read records."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, TypeAlias

import msgspec
import psycopg

from taskfold.log.contract import OnHole, check_dialect, kept_hole, new_header
from taskfold.log.entries import INT64, Entry
from taskfold.log.header import header_of, header_text
from taskfold.log.names import shown_name
from taskfold.log.upcast import record_decoder
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, SourceError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["Connection", "is_begun", "read_matching", "read_postgres"]

LOCK_SECONDS: Final = 10
"""How long an append waits for the one before it."""
_CONNECT_SECONDS: Final = 10
_IDLE_SECONDS: Final = 60
"""After how long the server ends the transaction of a process that stands still in it, and keeps the others waiting."""
_ROWS: Final = 1_000
"""How many records are read at a time."""

_SCHEMA: Final = """
CREATE TABLE taskfold_head (header text NOT NULL, seq bigint NOT NULL) WITH (fillfactor = 10);
CREATE TABLE taskfold_records (
    seq bigint PRIMARY KEY,
    alloc text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    index bigint NOT NULL,
    id text COLLATE "C",
    ordinal bigint,
    checksum bigint NOT NULL,
    body text NOT NULL,
    UNIQUE (alloc, version)
);
CREATE UNIQUE INDEX taskfold_records_by_id ON taskfold_records (id) WHERE id IS NOT NULL;
CREATE TABLE taskfold_checkpoint (part integer PRIMARY KEY, checksum bigint NOT NULL, body bytea NOT NULL);
"""
_COLUMNS: Final = "taskfold_records (seq, alloc, version, index, id, ordinal, checksum, body)"
COPY: Final = f"COPY {_COLUMNS} FROM STDIN (FORMAT BINARY)"
INSERT: Final = f"INSERT INTO {_COLUMNS} VALUES"
ROW: Final = "(%s, %s, %s, %s, %s, %s, %s, %s)"
"""The place of a row among those that are inserted together."""
COPIED_TYPES: Final = ("int8", "text", "int8", "int8", "text", "int8", "int8", "text")

OF_ALL: Final = """
SELECT seq, seq, checksum, convert_to(body, 'UTF8') FROM taskfold_records
WHERE seq > %(after)s AND seq <= %(newest)s ORDER BY seq LIMIT %(rows)s
"""
OF_ALLOCATION: Final = """
SELECT seq, version, checksum, convert_to(body, 'UTF8') FROM taskfold_records
WHERE alloc = %(alloc)s AND version > %(after)s AND seq <= %(newest)s ORDER BY version LIMIT %(rows)s
"""

_NEXT_ID: Final = "SELECT min(alloc) FROM taskfold_records WHERE alloc >= %s AND alloc > %s"
"""The next ID, found by the index of (alloc, version), whose order is that of the bytes."""

Connection = psycopg.Connection[tuple[Any, ...]]
Row: TypeAlias = tuple[int, Any, Any, Any, Any, Any, Any]
"""Seq, alloc, version, index, ID, checksum and body."""


def row_of(entry: Entry) -> tuple[object, ...]:
    """Return the row of an entry. Raises OverflowError for an ordinal of more than 64 bits."""
    record, body = entry.record, entry.line
    text = record.id if isinstance(record.id, str) else None
    ordinal = record.id if isinstance(record.id, int) else None
    if ordinal is not None and not -INT64 <= ordinal < INT64:
        raise OverflowError(ordinal)  # what psycopg makes of it depends on its version
    return (
        record.seq,
        record.alloc,
        record.version,
        record.index,
        text,
        ordinal,
        zlib.crc32(body),
        body.decode(),
    )


def connect(url: str) -> Connection:
    """Return a connection."""
    more: dict[str, Any] = {} if "connect_timeout" in url else {"connect_timeout": _CONNECT_SECONDS}
    # What is read has to be the text of the record, and nothing else, whatever the server is set to.
    return psycopg.connect(url, autocommit=True, client_encoding="UTF8", application_name="taskfold", **more)


def connected_writer(url: str) -> Connection:
    """Return a connection whose transactions keep nobody waiting for ever."""
    connection = connect(url)
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
    return connection


def _is_begun(connection: Connection) -> bool:
    # to_regclass may not know yet of what was made while this transaction waited.
    query = "SELECT 1 FROM pg_class WHERE relname = 'taskfold_head' AND pg_table_is_visible(oid)"
    return connection.execute(query).fetchone() is not None


def checked_header(
    connection: Connection, name: str, dialect: str | Dialect | None = None, region: str = ""
) -> tuple[LogHeader, bool]:
    """Return the header of the log, and whether it was begun here. Raises LogError and DialectError."""
    is_new = dialect is not None and not _is_begun(connection) and _begin(connection, new_header(dialect, region))
    header, _ = head(connection, name)
    if dialect is not None:
        check_dialect(header, dialect)
    return header, is_new


def head(connection: Connection, name: str) -> tuple[LogHeader, int]:
    """Return the header of the log, and the newest position. Raises LogError."""
    try:
        row = connection.execute("SELECT header, seq FROM taskfold_head").fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    return head_of(row, name)


def head_of(row: tuple[Any, ...] | None, name: str) -> tuple[LogHeader, int]:
    """Return the header and the position that the row of the head says. Raises LogError."""
    if row is None:
        raise LogError(f"{name}: there is no log, and a new one needs a dialect")
    try:
        return header_of(f"{row[0]}\n".encode()), int(row[1])
    except LogError as error:
        raise UnreadableLog(f"{name}: not the header of a taskfold log: {error}") from None


def _begin(connection: Connection, header: LogHeader) -> bool:
    """Begin a log; tell whether it was begun here: of several who do so at the same time, one does."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('taskfold'))")
        if _is_begun(connection):
            return False
        connection.execute(_SCHEMA)
        connection.execute("INSERT INTO taskfold_head VALUES (%s, 0)", [header_text(header)])
    return True


def records(
    connection: Connection, name: str, header: LogHeader, query: str, values: dict[str, Any], on_hole: OnHole
) -> Iterator[Record]:
    """Yield records, some at a time, each time after the last place that was read.

    Raises LogError for damage, and what ``on_hole`` returns where records are missing.
    """
    decode = record_decoder(header.taskfold)
    values["rows"] = _ROWS
    while rows := connection.execute(query, values, binary=True).fetchall():
        for seq, place, checksum, body in rows:
            if place != values["after"] + 1 and (error := on_hole(values.get("alloc"), values["after"] + 1, place)):
                raise error
            values["after"] = place
            if zlib.crc32(body) != checksum:
                raise UnreadableLog(f"{name}, Seq {seq}: the record is damaged: its checksum is another one")
            try:
                yield decode(body)
            except msgspec.DecodeError as error:
                raise UnreadableLog(f"{name}, Seq {seq}: not a record of a taskfold log: {error}") from None
        if len(rows) < _ROWS:
            return


def bodies(connection: Connection) -> Iterator[tuple[int, bytes]]:
    """Yield the position and the text of every record, some at a time."""
    query = "SELECT seq, convert_to(body, 'UTF8') FROM taskfold_records WHERE seq > %s ORDER BY seq LIMIT %s"
    seq = 0
    while rows := connection.execute(query, [seq, _ROWS]).fetchall():
        for seq, body in rows:
            yield seq, body


def is_begun(url: str) -> bool:
    """Tell whether a database has a log. Raises LogError when it cannot be reached."""
    with translate_errors(shown_name(url), "read"), connect(url) as connection:
        return _is_begun(connection)


def read_postgres(url: str) -> tuple[LogHeader, Iterator[list[Record]]]:
    """Return the header of a log in a database, and its records in blocks, read as asked for, all as of one moment.

    Raises SourceError.
    """
    blocks = _blocks(url)
    header = next(blocks)
    assert isinstance(header, LogHeader)
    return header, blocks  # type: ignore[return-value]  # the header comes first, and no other


def newest_of(url: str) -> int:
    """Return the position of the newest record. Raises SourceError."""
    name = shown_name(url)
    try:
        with translate_errors(name, "read"), connect(url) as connection:
            return head(connection, name)[1]
    except LogError as error:
        raise _source_error(name, error) from None


@contextmanager
def snapshot(url: str) -> Iterator[Connection]:
    """Open a log as it is at one moment, whoever writes it meanwhile."""
    with connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            yield connection


def _blocks(url: str) -> Iterator[LogHeader | list[Record]]:
    """Yield the header, and then the records in blocks."""
    name = shown_name(url)
    try:
        with translate_errors(name, "read"), snapshot(url) as connection:
            header, newest = head(connection, name)
            yield header
            values = {"after": 0, "newest": newest}
            yield from batched(records(connection, name, header, OF_ALL, values, kept_hole(header, name)))
    except LogError as error:
        raise _source_error(name, error) from None


def read_matching(url: str, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
    """Return the header of a log, and the records of the one allocation whose ID begins like this, or is this.

    Where several begin so, their IDs without records; all as of one moment. O(log n) for each ID, and O(records) of the
    one. Raises SourceError.
    """
    name = shown_name(url)
    try:
        with translate_errors(name, "read"), snapshot(url) as connection:
            header, newest = head(connection, name)
            ids = list(_ids(connection, prefix))
            if len(ids) > 1 and ids[0] != prefix:
                return header, {alloc: [] for alloc in ids}
            on_hole = kept_hole(header, name)
            values = {"after": 0, "newest": newest}
            return header, {
                alloc: list(records(connection, name, header, OF_ALLOCATION, {**values, "alloc": alloc}, on_hole))
                for alloc in ids[:1]
            }
    except LogError as error:
        raise _source_error(name, error) from None


def _ids(connection: Connection, prefix: str) -> Iterator[str]:
    """Yield the IDs that begin like this, in order, each found by the index; none after one that is this."""
    if "\0" in prefix:
        return  # which no text of PostgreSQL has
    last = ""
    while row := connection.execute(_NEXT_ID, [prefix, last]).fetchone():
        alloc: str | None = row[0]
        if alloc is None or not alloc.startswith(prefix):
            return
        yield alloc
        if alloc == prefix:
            return
        last = alloc


@contextmanager
def read_at_once(url: str) -> Iterator[tuple[LogHeader, Iterator[list[Record]]]]:
    """Lend the header of a log, and its records in blocks, as one transaction sees them. Raises LogError."""
    name = shown_name(url)
    with translate_errors(name, "read"), snapshot(url) as connection:
        header, newest = head(connection, name)
        values = {"after": 0, "newest": newest}
        yield header, batched(records(connection, name, header, OF_ALL, values, kept_hole(header, name)))


def batched(records_to_batch: Iterator[Record]) -> Iterator[list[Record]]:
    """Yield records in blocks."""
    while block := list(islice(records_to_batch, _ROWS)):
        yield block


def checkpoint_parts(connection: Connection, name: str) -> Iterator[bytes]:
    """Yield the parts of the checkpoint. Raises LogError for a part that is damaged."""
    query = "SELECT part, checksum, body FROM taskfold_checkpoint ORDER BY part"
    for part, checksum, body in connection.cursor().stream(query):
        if zlib.crc32(body) != checksum:
            raise UnreadableLog(f"{name}: part {part} of the checkpoint is damaged")
        yield body


def read_checkpoint(url: str) -> Iterator[bytes]:
    """Yield the parts of the checkpoint of a log. Raises LogError for a part that is damaged."""
    name = shown_name(url)
    with translate_errors(name, "read"), snapshot(url) as connection:
        yield from checkpoint_parts(connection, name)


def scan_postgres(url: str) -> tuple[LogHeader, Iterator[Row]]:
    """Return the header of a log, and its rows with all columns, whole or not, all as of one moment.

    Raises SourceError.
    """
    rows = _rows(url)
    header = next(rows)
    assert isinstance(header, LogHeader)
    return header, rows  # type: ignore[return-value]  # the header comes first, and no other


def _rows(url: str) -> Iterator[LogHeader | Row]:
    """Yield the header, and then the rows."""
    query = """
    SELECT seq, alloc, version, index, id, ordinal, checksum, convert_to(body, 'UTF8') FROM taskfold_records
    WHERE seq > %s ORDER BY seq LIMIT %s
    """
    name = shown_name(url)
    seq = 0
    try:
        with translate_errors(name, "read"), snapshot(url) as connection:
            yield head(connection, name)[0]
            while rows := connection.execute(query, [seq, _ROWS]).fetchall():
                for seq, alloc, version, index, text, ordinal, checksum, body in rows:
                    yield seq, alloc, version, index, text if ordinal is None else ordinal, checksum, body
    except LogError as error:
        raise _source_error(name, error) from None


def _source_error(name: str, error: LogError) -> SourceError:
    return SourceError(name, str(error).removeprefix(name).lstrip(":, "))


@contextmanager
def translate_errors(name: str, what: str = "written") -> Iterator[None]:
    """Turn what the database says into a LogError that names it; what interrupted it is raised as itself."""
    try:
        yield
    except Exception as error:
        if (interruption := _interruption(error)) is not None:
            raise interruption from None
        if isinstance(error, psycopg.errors.LockNotAvailable):
            raise LogError(
                f"{name}: another process has held the log for {LOCK_SECONDS} seconds, and holds it still"
            ) from None
        if isinstance(error, psycopg.Error | OverflowError | UnicodeError):
            is_too_big = isinstance(error, OverflowError | psycopg.errors.NumericValueOutOfRange)
            why = "a number has more than 64 bits" if is_too_big else sentence(error)
            raise LogError(f"{name}: cannot be {what} (PostgreSQL): {why}") from None
        raise


def _interruption(error: BaseException | None) -> BaseException | None:
    """Return what interrupted a call (KeyboardInterrupt, say), where what psycopg cleans up then failed, too."""
    while error is not None and isinstance(error, Exception):
        error = error.__context__
    return error


def sentence(error: BaseException) -> str:
    """Return the first line of what the database says."""
    return (str(error).strip() or repr(error)).partition("\n")[0]
