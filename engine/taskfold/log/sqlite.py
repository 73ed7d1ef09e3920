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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import msgspec

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from taskfold.dialect import Dialect
from taskfold.errors import LogError
from taskfold.log import sqlite_tables as tables
from taskfold.log.contract import Append, Ledger, check_dialect, check_whole, hole, kept_hole, new_header, removal
from taskfold.log.entries import Entry, digest_in
from taskfold.log.files import own_file
from taskfold.log.ndjson_lines import header_text, is_new
from taskfold.record import Record

__all__ = ["SqliteLog"]


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

    def digest_of(self, id: str) -> int | None:
        digest = self.ids.get(id)
        if digest is None:
            row = self._one("SELECT body FROM records WHERE id = ? AND typeof(id) = 'text'", id)
            digest = None if row is None else digest_in(row[0])
        return digest

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
        self._is_closed = False
        self._is_lost = False
        """What was appended and not acknowledged is not there any more."""
        self._has_pending = False
        """Something was appended and not acknowledged yet."""
        self._is_interrupted = False
        """A call ended before its end: what is known of the database may not fit it."""
        self._is_new = self._is_to_begin(dialect)
        with tables.told(self.path):
            self._lock = _locked(self.path)
            try:
                self._is_new = self._is_to_begin(dialect)  # again, now that nobody else can begin one
                if self._is_new:
                    tables.begin(self.path, new_header(dialect or "", region))
                self._database = tables.connected(self.path)
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
        self.header = tables.header_in(self._database, self.path)
        if dialect is not None:
            check_dialect(self.header, dialect)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self.header = tables.converted(self._database, self.header)
        self._ledger = _Lookups(self._database)

    def _is_to_begin(self, dialect: str | Dialect | None) -> bool:
        """Tell whether a log is to be begun. Raises LogError where its dialect is not named."""
        if is_new(self.path) and dialect is None:
            raise LogError(f"{self.path}: there is no log, and a new one needs a dialect")
        return is_new(self.path)

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
        with tables.told(self.path):
            self.recover()
            try:
                entries = self._ledger.place(appends)
                placed = [entry.record for entry in entries]
                if placed:
                    self._insert(entries, sync=sync)
                    self._ledger.note_placed(placed)
            except (LogError, sqlite3.Error, OverflowError):
                raise  # what became of the write is known
            except BaseException:
                self._is_interrupted = True
                raise
        return placed

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Have what the database says told, and what interrupts a write noted."""
        with tables.told(self.path):
            self.recover()
            try:
                yield
            except (LogError, sqlite3.Error, OverflowError):
                raise  # what became of the write is known
            except BaseException:
                self._is_interrupted = True
                raise

    def recover(self) -> None:
        """Be what is in the database, where a call was interrupted; else do nothing. O(1). Raises LogError.

        What was not acknowledged yet is taken back.
        """
        if self._is_interrupted:
            with tables.told(self.path):
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                    self._is_lost = self._is_lost or self._has_pending
                self._has_pending = False
                self._ledger.forget()
                self.header = tables.header_in(self._database, self.path)
            self._is_interrupted = False

    def _insert(self, entries: Sequence[Entry], *, sync: bool) -> None:
        """Write rows, all or none; what was appended before, and is not acknowledged yet, stays."""
        database = self._database
        has_pending = database.in_transaction
        if not has_pending:
            database.execute("BEGIN IMMEDIATE")
        database.execute("SAVEPOINT append")
        try:
            database.executemany(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", [tables.row_of(entry) for entry in entries]
            )
        except BaseException:
            # A full disk ends the transaction by itself; then there is nothing to go back to.
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK TO append")
                database.execute("RELEASE append")
            if not has_pending:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
            self._note_lost(is_pending=has_pending)
            raise
        database.execute("RELEASE append")
        if sync:
            self._commit(has_pending=has_pending)
        else:
            self._has_pending = True

    def _commit(self, *, has_pending: bool) -> None:
        try:
            self._database.execute("COMMIT")
            self._has_pending = False
        except BaseException:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            self._note_lost(is_pending=has_pending)
            raise

    def _note_lost(self, *, is_pending: bool) -> None:
        """Note that nothing is pending any more, where the transaction has ended; `sync` must not be silent then."""
        if not self._database.in_transaction:
            self._is_lost = is_pending
            self._ledger.forget()

    def sync(self) -> None:
        """Acknowledge what was appended: have it on disk. Raises LogError when that cannot be."""
        with self._writing():
            if self._is_lost:
                self._is_lost = False
                raise LogError(f"{self.path}: what was not acknowledged yet was taken back when a later call failed")
            if self._database.in_transaction:
                self._commit(has_pending=False)

    def roll_back(self) -> None:
        """Take back what was appended and not acknowledged, and close the log; one that was begun here is removed."""
        with tables.told(self.path):
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            if self._is_new:
                # While the lock is held: nobody else has begun to use either of them.
                self._database.close()
                self.path.unlink(missing_ok=True)
                _lock_file(self.path).unlink(missing_ok=True)
            self._close()

    def close(self) -> None:
        """Acknowledge what was appended, and let go of the database."""
        try:
            if not self._is_closed:
                self.sync()
        finally:
            self._close()

    def _close(self) -> None:
        """Let go of everything; once more where that was interrupted."""
        self._is_closed = True
        try:
            self._database.close()
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended. O(log n)."""
        return self.digest_of(id) is not None

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record of an ID; None where none was appended. O(log n)."""
        with tables.told(self.path):
            return self._ledger.digest_of(id)

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(log n + records that are read). Any thread may."""
        asked = {"alloc": alloc, "after": after_version, "newest": self.seq}
        return tables.read_rows(self.path, self.header, tables.OF_ALLOCATION, asked, self._hole)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(log n + records that are read), in constant memory. Any thread may."""
        check_whole(self.header, str(self.path), after_seq)
        return tables.read_rows(
            self.path, self.header, tables.OF_ALL, {"after": after_seq, "newest": self.seq}, self._hole
        )

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the records after a position that are there. O(log n + records that are read). Any thread may."""
        asked = {"after": after_seq, "newest": self.seq}
        return tables.read_rows(self.path, self.header, tables.OF_ALL, asked, kept_hole(self.header, str(self.path)))

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
        with self._writing():
            try:
                database.execute("BEGIN IMMEDIATE")
                database.executemany("DELETE FROM records WHERE alloc = ? AND version < ?", found.versions.items())
                database.execute("UPDATE header SET text = ?", (header_text(header),))
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
        with self._writing():
            self.sync()
            try:
                database.execute("BEGIN IMMEDIATE")
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
        return tables.read_checkpoint_of(self.path)


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}-lock")


def _locked(path: Path) -> Any:
    """Return the lock file of a log, locked. Raises LogError when another process has it, where the system can tell."""
    lock = own_file(_lock_file(path))
    try:
        if fcntl is None:
            return lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogError(f"{path}: another process is writing this log") from None
        try:
            named = _lock_file(path).stat()
        except FileNotFoundError:
            named = None
        if named is not None and os.path.samestat(named, os.fstat(lock.fileno())):
            return lock
    except BaseException:
        lock.close()
        raise
    lock.close()  # it was removed with the log that it was of
    return _locked(path)
