"""The tables of a log in PostgreSQL, and the operations shared by writers and readers: connect, create, read."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import msgspec
import psycopg

from taskfold.log.contract import HoleCheck, check_dialect, hole_check, new_header
from taskfold.log.damage import RecordRow
from taskfold.log.entries import INT64, Entry
from taskfold.log.header import header_of, header_text
from taskfold.log.names import shown_name
from taskfold.log.upcast import record_decoder
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, SourceError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["PostgresConnection", "is_begun", "read_matching", "read_postgres"]

LOCK_SECONDS: Final = 10
"""The timeout of an append that waits for another."""
_CONNECT_SECONDS: Final = 10
_IDLE_SECONDS: Final = 60
"""After so long, the server ends an idle transaction, which would block other processes."""
_ROWS: Final = 1_000
"""How many records one query reads."""

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
"""The placeholders of one row in an INSERT of several."""
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
"""The next ID, from the index on (alloc, version), which sorts by bytes."""

PostgresConnection = psycopg.Connection[tuple[Any, ...]]


def row_of(entry: Entry) -> tuple[object, ...]:
    """Return the row of an entry. Raises OverflowError for an ordinal of more than 64 bits."""
    record, body = entry.record, entry.line
    text = record.id if isinstance(record.id, str) else None
    ordinal = record.id if isinstance(record.id, int) else None
    if ordinal is not None and not -INT64 <= ordinal < INT64:
        raise OverflowError(ordinal)  # psycopg's own error depends on its version
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


def connect(url: str) -> PostgresConnection:
    """Open a connection."""
    more: dict[str, Any] = {} if "connect_timeout" in url else {"connect_timeout": _CONNECT_SECONDS}
    # The text of a record must arrive unchanged, whatever encoding the server prefers.
    return psycopg.connect(url, autocommit=True, client_encoding="UTF8", application_name="taskfold", **more)


def connected_writer(url: str) -> PostgresConnection:
    """Open a connection whose transactions cannot block others for ever."""
    connection = connect(url)
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
    return connection


def _is_begun(connection: PostgresConnection) -> bool:
    # to_regclass may not see a table created while this transaction waited.
    query = "SELECT 1 FROM pg_class WHERE relname = 'taskfold_head' AND pg_table_is_visible(oid)"
    return connection.execute(query).fetchone() is not None


def checked_header(
    connection: PostgresConnection, name: str, dialect: str | Dialect | None = None, region: str = ""
) -> tuple[LogHeader, bool]:
    """Return the header of the log, and whether this call created it. Raises LogError and DialectError."""
    is_new = dialect is not None and not _is_begun(connection) and _begin(connection, new_header(dialect, region))
    header, _ = head(connection, name)
    if dialect is not None:
        check_dialect(header, dialect)
    return header, is_new


def head(connection: PostgresConnection, name: str) -> tuple[LogHeader, int]:
    """Return the header of the log, and the newest position. Raises LogError."""
    try:
        row = connection.execute("SELECT header, seq FROM taskfold_head").fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    return head_of(row, name)


def head_of(row: tuple[Any, ...] | None, name: str) -> tuple[LogHeader, int]:
    """Decode the row of the head to header and position. Raises LogError."""
    if row is None:
        raise LogError(f"{name}: there is no log, and a new one needs a dialect")
    try:
        return header_of(f"{row[0]}\n".encode()), int(row[1])
    except LogError as error:
        raise UnreadableLog(f"{name}: not the header of a taskfold log: {error}") from None


def _begin(connection: PostgresConnection, header: LogHeader) -> bool:
    """Create a log; tell whether this call did: of several processes at once, one does."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('taskfold'))")
        if _is_begun(connection):
            return False
        connection.execute(_SCHEMA)
        connection.execute("INSERT INTO taskfold_head VALUES (%s, 0)", [header_text(header)])
    return True


def records(
    connection: PostgresConnection, name: str, header: LogHeader, query: str, values: dict[str, Any], on_hole: HoleCheck
) -> Iterator[Record]:
    """Yield records in batches; each query continues after the last record.

    Raises LogError for damage, and the error that ``on_hole`` returns for missing records.
    """
    decode = record_decoder(header.taskfold)
    values["rows"] = _ROWS
    while rows := connection.execute(query, values, binary=True).fetchall():
        for seq, place, checksum, body in rows:
            if place != values["after"] + 1 and (error := on_hole(values.get("alloc"), values["after"] + 1, place)):
                raise error
            values["after"] = place
            if zlib.crc32(body) != checksum:
                raise UnreadableLog(f"{name}, Seq {seq}: the record is damaged: its checksum does not match")
            try:
                yield decode(body)
            except msgspec.DecodeError as error:
                raise UnreadableLog(f"{name}, Seq {seq}: not a record of a taskfold log: {error}") from None
        if len(rows) < _ROWS:
            return


def bodies(connection: PostgresConnection) -> Iterator[tuple[int, bytes]]:
    """Yield the position and the text of every record, read in batches."""
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
    """Return the header of a log in a database, and its records in blocks, read lazily, as of one moment.

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
def snapshot(url: str) -> Iterator[PostgresConnection]:
    """Open a connection that sees a log as of one moment."""
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
            yield from batched(records(connection, name, header, OF_ALL, values, hole_check(header, name)))
    except LogError as error:
        raise _source_error(name, error) from None


def read_matching(url: str, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
    """Return the header of a log, and the records of the only allocation whose ID starts with a prefix, or is it.

    If several IDs start with it, return them without records. As of one moment. O(log n) for each ID, and O(records) of
    the allocation. Raises SourceError.
    """
    name = shown_name(url)
    try:
        with translate_errors(name, "read"), snapshot(url) as connection:
            header, newest = head(connection, name)
            ids = list(_ids(connection, prefix))
            if len(ids) > 1 and ids[0] != prefix:
                return header, {alloc: [] for alloc in ids}
            on_hole = hole_check(header, name)
            values = {"after": 0, "newest": newest}
            return header, {
                alloc: list(records(connection, name, header, OF_ALLOCATION, {**values, "alloc": alloc}, on_hole))
                for alloc in ids[:1]
            }
    except LogError as error:
        raise _source_error(name, error) from None


def _ids(connection: PostgresConnection, prefix: str) -> Iterator[str]:
    """Yield the IDs with this prefix, in order, each found by the index; stop after an exact match."""
    if "\0" in prefix:
        return  # U+0000, which no text in PostgreSQL can have
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
    """Yield the header of a log, and its records in blocks, from one transaction. Raises LogError."""
    name = shown_name(url)
    with translate_errors(name, "read"), snapshot(url) as connection:
        header, newest = head(connection, name)
        values = {"after": 0, "newest": newest}
        yield header, batched(records(connection, name, header, OF_ALL, values, hole_check(header, name)))


def batched(records_to_batch: Iterator[Record]) -> Iterator[list[Record]]:
    """Yield records in blocks."""
    while block := list(islice(records_to_batch, _ROWS)):
        yield block


def checkpoint_parts(connection: PostgresConnection, name: str) -> Iterator[bytes]:
    """Yield the parts of the checkpoint. Raises LogError for a damaged part."""
    query = "SELECT part, checksum, body FROM taskfold_checkpoint ORDER BY part"
    for part, checksum, body in connection.cursor().stream(query):
        if zlib.crc32(body) != checksum:
            raise UnreadableLog(f"{name}: part {part} of the checkpoint is damaged")
        yield body


def read_checkpoint(url: str) -> Iterator[bytes]:
    """Yield the parts of the checkpoint of a log. Raises LogError for a damaged part."""
    name = shown_name(url)
    with translate_errors(name, "read"), snapshot(url) as connection:
        yield from checkpoint_parts(connection, name)


def scan_postgres(url: str) -> tuple[LogHeader, Iterator[RecordRow]]:
    """Return the header of a log, and its rows with all columns, intact or not, as of one moment.

    Raises SourceError.
    """
    rows = _rows(url)
    header = next(rows)
    assert isinstance(header, LogHeader)
    return header, rows  # type: ignore[return-value]  # the header comes first, and no other


def _rows(url: str) -> Iterator[LogHeader | RecordRow]:
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
    """Convert errors of the database to LogError with its name; an interruption is raised as itself."""
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
    """Return the interruption (such as KeyboardInterrupt) behind an error that psycopg's clean-up raised; else None."""
    while error is not None and isinstance(error, Exception):
        error = error.__context__
    return error


def sentence(error: BaseException) -> str:
    """Return the first line of a database error."""
    return (str(error).strip() or repr(error)).partition("\n")[0]
