"""The tables of a log in SQLite, and what every process does with them: begin a log, open it, read records."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from taskfold.errors import LogError, SourceError
from taskfold.lines import SQLITE_MAGIC
from taskfold.log.contract import OnHole, kept_hole
from taskfold.log.entries import Entry
from taskfold.log.files import new_file
from taskfold.log.folder import sync_folder
from taskfold.log.ndjson_lines import header_of, header_text
from taskfold.record import FORMAT, LogHeader, Record
from taskfold.upcast import record_decoder, upcaster

__all__ = ["is_database", "newest_in", "read_checkpoint_of", "read_database", "read_header_of", "reader"]

_APPLICATION_ID: Final = 0x74666C64
"""``tfld``: what tells a log from any other database."""
_ROWS: Final = 1_000
"""How many records are read at a time: no reader holds the database for longer."""

_SCHEMA: Final = f"""
PRAGMA application_id = {_APPLICATION_ID};
CREATE TABLE header (text TEXT NOT NULL);
CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    alloc TEXT NOT NULL,
    version INTEGER NOT NULL,
    "index" INTEGER NOT NULL,
    id,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (alloc, version)
);
CREATE TABLE checkpoint (part INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX records_by_id ON records (id) WHERE typeof(id) = 'text';
"""


def is_database(path: str | Path) -> bool:
    """Tell whether a file is an SQLite database, by its first bytes."""
    with Path(path).open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def row_of(entry: Entry) -> tuple[object, ...]:
    """Return the row of an entry."""
    record, body = entry.record, entry.line
    known_by = record.id if isinstance(record.id, (str, int)) else None
    return record.seq, record.alloc, record.version, record.index, known_by, zlib.crc32(body), body


OF_ALL: Final = """
SELECT seq, seq, checksum, body FROM records WHERE seq > :after AND seq <= :newest ORDER BY seq LIMIT :rows
"""
OF_ALLOCATION: Final = """
SELECT seq, version, checksum, body FROM records
WHERE alloc = :alloc AND version > :after AND seq <= :newest ORDER BY version LIMIT :rows
"""


def _raise(error: LogError | None) -> None:
    if error is not None:
        raise error


def read_rows(path: Path, header: LogHeader, query: str, asked: dict[str, Any], on_hole: OnHole) -> Iterator[Record]:
    """Yield records, some at a time, each time after the last place that was read.

    Raises LogError for damage, and what ``on_hole`` returns where records are missing.
    """
    decode = record_decoder(header.taskfold)
    asked["rows"] = _ROWS
    with told(path, "read"), closing(reader(path)) as database:
        while rows := database.execute(query, asked).fetchall():
            for seq, place, checksum, body in rows:
                if place != asked["after"] + 1:
                    _raise(on_hole(asked.get("alloc"), asked["after"] + 1, place))
                asked["after"] = place
                if not isinstance(body, bytes) or zlib.crc32(body) != checksum:
                    raise LogError(f"{path}, Seq {seq}: the record is damaged: its checksum is another one")
                try:
                    yield decode(body)
                except msgspec.DecodeError as error:
                    raise LogError(f"{path}, Seq {seq}: not a record of a taskfold log: {error}") from None
            if len(rows) < _ROWS:
                return


def read_database(name: str) -> tuple[LogHeader, Iterator[list[Record]]]:
    """Return the header of a log in a database, and its records in blocks, read as asked for. Raises SourceError."""
    path = Path(name)
    try:
        with told(path, "read"):
            header = _checked_header(path)
    except LogError as error:
        raise SourceError(name, str(error).removeprefix(f"{name}: ")) from None
    return header, _blocks(name, path, header)


def newest_in(name: str) -> int | None:
    """Return the position of the newest record of a log in a database; None where it cannot tell."""
    with suppress(sqlite3.Error), closing(reader(Path(name))) as database:
        found = database.execute("SELECT max(seq) FROM records").fetchone()[0]
        return found if isinstance(found, int) else None
    return None


def _blocks(name: str, path: Path, header: LogHeader) -> Iterator[list[Record]]:
    asked = {"after": 0, "newest": 2**63 - 1}
    block: list[Record] = []
    try:
        for record in read_rows(path, header, OF_ALL, asked, kept_hole(header, name)):
            block.append(record)
            if len(block) == _ROWS:
                yield block
                block = []
    except LogError as error:
        raise SourceError(name, str(error).removeprefix(f"{name}").lstrip(":, ")) from None
    if block:
        yield block


@contextmanager
def told(path: Path, what: str = "written") -> Iterator[None]:
    """Turn what SQLite or the system says into a LogError that names the file."""
    try:
        yield
    except (sqlite3.Error, OverflowError) as error:  # an index of more than 63 bits is one
        raise LogError(f"{path}: cannot be {what} (SQLite): {error}") from None
    except OSError as error:
        raise LogError(f"{path}: cannot be {what}: {error.strerror or error}") from None


def connected(path: Path) -> sqlite3.Connection:
    """Return the connection that writes. Raises LogError when the file is no database."""
    if not is_database(path):
        raise LogError(f"{path}: is not a taskfold log, and nothing is ever overwritten")
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def read_checkpoint_of(path: Path) -> Iterator[bytes]:
    """Yield the parts of the checkpoint of a log. Raises LogError for a part that is damaged."""
    with told(path, "read"), closing(reader(path)) as database:
        for part, checksum, body in database.execute("SELECT part, checksum, body FROM checkpoint ORDER BY part"):
            if zlib.crc32(body) != checksum:
                raise LogError(f"{path}: part {part} of the checkpoint is damaged")
            yield body


def converted(database: sqlite3.Connection, header: LogHeader) -> LogHeader:
    """Bring the records of an older format to the present one, all or none; return the header that says so."""
    bring = upcaster(header.taskfold)
    if bring is None:
        return header
    header = msgspec.structs.replace(header, taskfold=FORMAT)
    try:
        database.execute("BEGIN IMMEDIATE")
        query = "SELECT seq, checksum, body FROM records WHERE seq > ? ORDER BY seq LIMIT ?"
        seq = 0
        while rows := database.execute(query, (seq, _ROWS)).fetchall():
            for seq, checksum, body in rows:
                # What is damaged stays so, and is named when it is read.
                if zlib.crc32(body) == checksum and (brought := bring(body)) != body:
                    found = (brought, zlib.crc32(brought), seq)
                    database.execute("UPDATE records SET body = ?, checksum = ? WHERE seq = ?", found)
        database.execute("UPDATE header SET text = ?", (header_text(header),))
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    return header


def reader(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads."""
    name = f"file:{quote(str(path.absolute()))}?mode=ro"
    if not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
        # Readers share a file beside the database, which cannot be made here; but then nobody writes, either.
        name += "&immutable=1"
    # Whoever reads may go on in another thread.
    return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)


def read_header_of(path: Path) -> LogHeader:
    """Return the header of the log in a database. Raises LogError."""
    with told(path, "read"):
        return _checked_header(path)


def _checked_header(path: Path) -> LogHeader:
    """Return the header of the log in a database. Raises LogError when it is none, or cannot be read here."""
    if not is_database(path):
        raise LogError(f"{path}: is not a taskfold log, and nothing is ever overwritten")
    with closing(reader(path)) as database:
        return header_in(database, path)


def header_in(database: sqlite3.Connection, path: Path) -> LogHeader:
    """Return the header of the log in a database. Raises LogError when it is none, or cannot be read here."""
    if database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise LogError(f"{path}: is an SQLite database, but not a taskfold log, and nothing is ever overwritten")
    found = database.execute("SELECT text FROM header").fetchone()
    try:
        return header_of(f"{found[0] if found else ''}\n".encode())
    except LogError as error:
        raise type(error)(f"{path}: not the header of a taskfold log: {error}") from None


def begin(path: Path, header: LogHeader) -> None:
    """Begin a log: it is there whole, or not at all."""
    draft = path.with_name(f"{path.name}-new")
    _remove(draft)
    new_file(draft).close()  # what SQLite puts beside a database has the mode of that
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as database:
            database.executescript(f"PRAGMA synchronous = FULL; BEGIN; {_SCHEMA}")
            database.execute("INSERT INTO header VALUES (?)", (header_text(header),))
            database.execute("COMMIT")
            # Now, so that no journal but a write-ahead log ever stands beside it: readers could not roll one back.
            database.execute("PRAGMA journal_mode = WAL")
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            _remove(draft)
        raise
    sync_folder(path)


def _remove(draft: Path) -> None:
    """Remove a database, and what SQLite leaves beside one."""
    for end in ("", "-journal", "-wal", "-shm"):
        draft.with_name(draft.name + end).unlink(missing_ok=True)
