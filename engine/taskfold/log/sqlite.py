"""A log in an SQLite database: the one to keep a scheduler's state in. One process writes it, any number read it.

Every record is a row, with the JSON that an NDJSON log has on a line, and a checksum of it. What is appended is
acknowledged when it is on disk (write-ahead log, ``synchronous=FULL``). Opening costs nothing that grows with the log:
versions and IDs are looked up when they are needed.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from taskfold.dialect import Dialect
from taskfold.errors import LogError, SourceError
from taskfold.lines import SQLITE_MAGIC
from taskfold.log.contract import (
    Append,
    Ledger,
    OnHole,
    check_dialect,
    check_header,
    check_whole,
    hole,
    kept_hole,
    new_header,
    removal,
)
from taskfold.log.folder import sync_folder
from taskfold.log.ndjson import is_new
from taskfold.record import FORMAT, LogHeader, Record
from taskfold.upcast import record_decoder, upcaster

__all__ = ["SqliteLog", "is_database", "read_database"]

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

_encode: Final = msgspec.json.Encoder().encode
_decode_header: Final = msgspec.json.Decoder(LogHeader).decode


def is_database(path: str | Path) -> bool:
    """Tell whether a file is an SQLite database, by its first bytes."""
    with Path(path).open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


class _Lookups(Ledger):
    """What the log must remember, looked up in the database where this process has not seen it yet."""

    def __init__(self, database: sqlite3.Connection) -> None:
        super().__init__()
        self._database = database
        self.seq = self._one("SELECT max(seq) FROM records")[0] or 0

    def _one(self, query: str, *values: object) -> Any:
        return self._database.execute(query, values).fetchone()

    def version_of(self, alloc: str) -> int:
        known = self.versions.get(alloc)
        if known is None:
            known = self._one("SELECT max(version) FROM records WHERE alloc = ?", alloc)[0] or 0
        return known

    def knows(self, id: str) -> bool:
        query = "SELECT 1 FROM records WHERE id = ? AND typeof(id) = 'text'"
        return id in self.ids or self._one(query, id) is not None

    def newest_imported(self, alloc: str) -> tuple[int, int]:
        known = self._imported.get(alloc)
        if known is None:
            query = (
                "SELECT \"index\", id FROM records WHERE alloc = ? AND typeof(id) = 'integer' "
                "ORDER BY version DESC LIMIT 1"
            )
            known = self._one(query, alloc) or (0, -1)
        return known

    def forget(self) -> None:
        """Look everything up again: what was noted since may have been taken back."""
        self.ids.clear()
        self.versions.clear()
        self._imported.clear()
        self.seq = self._one("SELECT max(seq) FROM records")[0] or 0


class SqliteLog:
    """A log in an SQLite database.

    One process writes it at a time, and says so in a lock file beside it; readers are never in its way.
    Opening is O(1).
    """

    def __init__(self, path: str | Path, dialect: str | Dialect | None = None, region: str = "global") -> None:
        """Open a log, or begin one where there is none, for which the dialect must be named.

        Raises LogError when the file is something else, cannot be opened, or is written by another process, and
        DialectError when it is of another dialect.
        """
        self.path = Path(path)
        self._is_new = is_new(path)
        if self._is_new and dialect is None:
            raise LogError(f"{self.path}: there is no log, and a new one needs a dialect")
        with _told(self.path):
            self._lock = _locked(self.path)
            try:
                if self._is_new:
                    _begin(self.path, new_header(dialect or "", region))
                self._database = _connected(self.path)
                try:
                    self._open(dialect)
                except BaseException:
                    self._database.close()
                    raise
            except BaseException:
                self._lock.close()
                raise

    def _open(self, dialect: str | Dialect | None) -> None:
        """Check what is there, and make ready to write. Raises LogError and DialectError."""
        self.header = _header_in(self._database, self.path)
        if dialect is not None:
            check_dialect(self.header, dialect)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self.header = _converted(self._database, self.header)
        self._ledger = _Lookups(self._database)

    @property
    def seq(self) -> int:
        """The position of the newest record."""
        return self._ledger.seq

    def append(
        self, alloc: str, expected_version: int, records: Sequence[Record], *, sync: bool = True
    ) -> list[Record]:
        """Append records to an allocation that is at this version; return those that were new. O(records × log n).

        Raises VersionConflict, and LogError when the database refuses the write: then nothing was appended.
        """
        return self.append_all([Append(alloc, expected_version, records)], sync=sync)

    def append_all(self, appends: Sequence[Append], *, sync: bool = True) -> list[Record]:
        """Append records to several allocations in one transaction; return those that were new. O(records × log n).

        With ``sync=False`` it is acknowledged by the next `sync`, and until then nobody else sees it.
        Raises VersionConflict, and LogError when the database refuses the write: then nothing was appended.
        """
        with _told(self.path):
            placed = self._ledger.place(appends)
            if placed:
                self._insert(placed, sync=sync)
                self._ledger.note_placed(placed)
        return placed

    def _insert(self, placed: Sequence[Record], *, sync: bool) -> None:
        """Write rows, all or none."""
        database = self._database
        if not database.in_transaction:
            database.execute("BEGIN IMMEDIATE")
        database.execute("SAVEPOINT append")
        try:
            database.executemany(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", [_row(record) for record in placed]
            )
            database.execute("RELEASE append")
            if sync:
                database.execute("COMMIT")
        except BaseException:
            # A full disk ends the transaction by itself; then there is nothing to go back to.
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK TO append")
            if sync:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
            if not database.in_transaction:
                self._ledger.forget()
            raise

    def sync(self) -> None:
        """Acknowledge what was appended: have it on disk. Raises LogError when that cannot be."""
        with _told(self.path):
            if self._database.in_transaction:
                try:
                    self._database.execute("COMMIT")
                except sqlite3.Error:
                    with suppress(sqlite3.Error):
                        self._database.execute("ROLLBACK")
                    self._ledger.forget()
                    raise

    def roll_back(self) -> None:
        """Take back what was appended and not acknowledged, and close the log; one that was begun here is removed."""
        with _told(self.path):
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            if self._is_new:
                # While the lock is held: nobody else has begun to use either of them.
                self._database.close()
                self.path.unlink()
                _lock_file(self.path).unlink()
            self._close()

    def close(self) -> None:
        """Acknowledge what was appended, and let go of the database."""
        if not self._lock.closed:
            try:
                self.sync()
            finally:
                self._close()

    def _close(self) -> None:
        self._database.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended. O(log n)."""
        with _told(self.path):
            return self._ledger.knows(id)

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(log n + records that are read). Any thread may."""
        asked = {"alloc": alloc, "after": after_version, "newest": self.seq}
        return _read(self.path, self.header, _OF_ALLOCATION, asked, self._hole)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(log n + records that are read), in constant memory. Any thread may."""
        check_whole(self.header, str(self.path), after_seq)
        return _read(self.path, self.header, _OF_ALL, {"after": after_seq, "newest": self.seq}, self._hole)

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the records after a position that are there. O(log n + records that are read). Any thread may."""
        asked = {"after": after_seq, "newest": self.seq}
        return _read(self.path, self.header, _OF_ALL, asked, kept_hole(self.header, str(self.path)))

    def _hole(self, alloc: str | None, place: int, found: int) -> LogError:
        """Say why a place is missing; the header is the newest, since what is read may be removed meanwhile."""
        return hole(self.header, str(self.path), alloc, place, found)

    def compact(self, before_ns: int | None = None) -> int:
        """Remove the records of allocations that were collected (before a time), all but the last of each. O(n).

        The file becomes smaller where there is room for a copy of it. Raises LogError: then nothing was removed, or,
        where a disk fails at the last moment, all of it.
        """
        self.sync()
        found = removal(self.read_kept, before_ns, self.header)
        if found is None:
            return 0
        header = msgspec.structs.replace(self.header, compacted=found.compacted)
        database = self._database
        with _told(self.path):
            database.execute("BEGIN IMMEDIATE")
            try:
                database.executemany("DELETE FROM records WHERE alloc = ? AND version < ?", found.versions.items())
                database.execute("UPDATE header SET text = ?", (_encode(header).decode(),))
                database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
            self.header = header
            with suppress(sqlite3.Error):  # what was removed is removed, and its room is used again
                database.execute("VACUUM")
        return found.records

    def save_checkpoint(self, parts: Iterable[bytes]) -> None:
        """Keep a checkpoint in place of the one before, in one transaction. O(parts). Raises LogError."""
        database = self._database
        with _told(self.path):
            self.sync()
            database.execute("BEGIN IMMEDIATE")
            try:
                database.execute("DELETE FROM checkpoint")
                rows = ((place, zlib.crc32(part), part) for place, part in enumerate(parts))
                database.executemany("INSERT INTO checkpoint VALUES (?, ?, ?)", rows)
                database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; nothing without one. Raises LogError for a part that is damaged."""
        return read_checkpoint_of(self.path)


def _row(record: Record) -> tuple[object, ...]:
    body = _encode(record)
    known_by = record.id if isinstance(record.id, (str, int)) else None
    return record.seq, record.alloc, record.version, record.index, known_by, zlib.crc32(body), body


_OF_ALL: Final = """
SELECT seq, seq, checksum, body FROM records WHERE seq > :after AND seq <= :newest ORDER BY seq LIMIT :rows
"""
_OF_ALLOCATION: Final = """
SELECT seq, version, checksum, body FROM records
WHERE alloc = :alloc AND version > :after AND seq <= :newest ORDER BY version LIMIT :rows
"""


def _raise(error: LogError | None) -> None:
    if error is not None:
        raise error


def _read(path: Path, header: LogHeader, query: str, asked: dict[str, Any], on_hole: OnHole) -> Iterator[Record]:
    """Yield records, some at a time, each time after the last place that was read.

    Raises LogError for damage, and what ``on_hole`` returns where records are missing.
    """
    decode = record_decoder(header.taskfold)
    asked["rows"] = _ROWS
    with _told(path, "read"), closing(reader(path)) as database:
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
        with _told(path, "read"):
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
        for record in _read(path, header, _OF_ALL, asked, kept_hole(header, name)):
            block.append(record)
            if len(block) == _ROWS:
                yield block
                block = []
    except LogError as error:
        raise SourceError(name, str(error).removeprefix(f"{name}").lstrip(":, ")) from None
    if block:
        yield block


@contextmanager
def _told(path: Path, what: str = "written") -> Iterator[None]:
    """Turn what SQLite or the system says into a LogError that names the file."""
    try:
        yield
    except (sqlite3.Error, OverflowError) as error:  # an index of more than 63 bits is one
        raise LogError(f"{path}: cannot be {what} (SQLite): {error}") from None
    except OSError as error:
        raise LogError(f"{path}: cannot be {what}: {error.strerror or error}") from None


def _connected(path: Path) -> sqlite3.Connection:
    """Return the connection that writes. Raises LogError when the file is no database."""
    if not is_database(path):
        raise LogError(f"{path}: is not a taskfold log, and nothing is ever overwritten")
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def read_checkpoint_of(path: Path) -> Iterator[bytes]:
    """Yield the parts of the checkpoint of a log. Raises LogError for a part that is damaged."""
    with _told(path, "read"), closing(reader(path)) as database:
        for part, checksum, body in database.execute("SELECT part, checksum, body FROM checkpoint ORDER BY part"):
            if zlib.crc32(body) != checksum:
                raise LogError(f"{path}: part {part} of the checkpoint is damaged")
            yield body


def _converted(database: sqlite3.Connection, header: LogHeader) -> LogHeader:
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
        database.execute("UPDATE header SET text = ?", (_encode(header).decode(),))
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
    with _told(path, "read"):
        return _checked_header(path)


def _checked_header(path: Path) -> LogHeader:
    """Return the header of the log in a database. Raises LogError when it is none, or cannot be read here."""
    if not is_database(path):
        raise LogError(f"{path}: is not a taskfold log, and nothing is ever overwritten")
    with closing(reader(path)) as database:
        return _header_in(database, path)


def _header_in(database: sqlite3.Connection, path: Path) -> LogHeader:
    """Return the header of the log in a database. Raises LogError when it is none, or cannot be read here."""
    if database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise LogError(f"{path}: is an SQLite database, but not a taskfold log, and nothing is ever overwritten")
    found = database.execute("SELECT text FROM header").fetchone()
    try:
        header = _decode_header(found[0] if found else b"")
    except msgspec.DecodeError as error:
        raise LogError(f"{path}: not the header of a taskfold log: {error}") from error
    check_header(header)
    return header


def _begin(path: Path, header: LogHeader) -> None:
    """Begin a log: it is there whole, or not at all."""
    draft = path.with_name(f"{path.name}-new")
    _remove(draft)
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as database:
            database.executescript(f"PRAGMA synchronous = FULL; BEGIN; {_SCHEMA}")
            database.execute("INSERT INTO header VALUES (?)", (_encode(header).decode(),))
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


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}-lock")


def _locked(path: Path) -> Any:
    """Return the lock file of a log, locked. Raises LogError when another process has it, where the system can tell."""
    lock = _lock_file(path).open("ab")
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise LogError(f"{path}: another process is writing this log") from None
    return lock
