"""A log in an SQLite database, for a scheduler's state: one process writes it, any number read it.

Every record is a row, with the JSON of an NDJSON line and its checksum. An append is acknowledged when it is on disk
(write-ahead log, ``synchronous=FULL``). Opening is O(1): versions and IDs are looked up on demand.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from taskfold.log._base import BaseLog, creates_log
from taskfold.log.contract import (
    Append,
    HoleCheck,
    Ledger,
    Removal,
    check_dialect,
    check_whole,
    copied_header,
    hole_check,
    hole_error,
    new_header,
)
from taskfold.log.entries import Entries, digest_in, entries_of
from taskfold.log.files import lock, own_file
from taskfold.log.header import header_text
from taskfold.log.sqlite import tables
from taskfold.log.sqlite.files import sidecar
from taskfold.log.sqlite.head import Head, digest_of
from taskfold.log.sqlite.wal import lock_file
from taskfold.model.dialect import Dialect
from taskfold.model.errors import Gone, LogError, TaskfoldError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["SqliteLog"]

_RECORDS_AT_ONCE: Final = 1_000


_VERSIONS_KEPT: Final = 4_096
"""The most versions cached; others are looked up."""


class _Lookups(Ledger):
    """A ledger that looks up the database; it caches the newest versions, and no IDs."""

    def __init__(self, database: sqlite3.Connection, seq: int) -> None:
        super().__init__()
        self._database = database
        self.seq = seq

    def _one(self, query: str, *values: object) -> Any:
        return self._database.execute(query, values).fetchone()

    def version_of(self, alloc: str) -> int:
        version = self.versions.get(alloc)
        if version is None:
            version = self._one("SELECT max(version) FROM records WHERE alloc = ?", alloc)[0] or 0
            self.versions[alloc] = version
        return version

    def digest_of(self, id: str) -> int | None:
        row = self._one("SELECT body FROM records WHERE id = ? AND typeof(id) = 'text'", id)
        return None if row is None else digest_in(row[0])

    def newest_imported(self, alloc: str) -> tuple[int, int]:
        newest = self._imported.get(alloc)
        if newest is None and not self.version_of(alloc):
            newest = (0, -1)
        if newest is None:
            query = (
                "SELECT \"index\", id FROM records WHERE alloc = ? AND typeof(id) = 'integer' "
                "ORDER BY version DESC LIMIT 1"
            )
            # An append asks for each of its records.
            newest = self._imported[alloc] = self._one(query, alloc) or (0, -1)
        return newest

    def _take(self, record: Record) -> None:
        self.seq = record.seq
        self.versions[record.alloc] = record.version
        if isinstance(record.id, int):
            self._imported[record.alloc] = (record.index, record.id)

    def note_placed(self, records: Sequence[Record]) -> None:
        super().note_placed(records)
        if max(len(self.versions), len(self._imported)) > _VERSIONS_KEPT:
            self.versions.clear()
            self._imported.clear()

    def forget(self, seq: int) -> None:
        """Empty the cache, after a rollback to this position."""
        self.versions.clear()
        self._imported.clear()
        self.seq = seq


class SqliteLog(BaseLog):
    """A log in an SQLite database.

    One process writes it at a time, and holds a lock file beside it; readers never block it, nor it them. Opening is
    O(1).
    """

    _SETTLED = (TaskfoldError, sqlite3.Error, OverflowError)
    _connect: tables.Connect = staticmethod(tables.reader)
    """Opens a connection that reads."""

    def __init__(self, path: str | Path, dialect: str | Dialect | None = None, region: str = "global") -> None:
        """Open a log, or create it, for which the dialect must be given.

        Raises LogError when the file is no log, cannot be opened, or is written by another process, and DialectError
        when it has another dialect.
        """
        self.path = Path(path).absolute()
        self.name = self.location = str(self.path)
        self._own(self.name)
        self._has_pending = False
        """Some appends are not acknowledged."""
        self._removals = 0
        """Odd during a compaction; a change shows that a read missed records of a compaction."""
        self._is_new = creates_log(self.path, dialect)
        with tables.translate_errors(self.path):
            self._lock = _locked(self.path)
            try:
                self._is_new = creates_log(self.path, dialect)  # again, now that the lock excludes another creator
                if self._is_new:
                    tables.begin(self.path, new_header(dialect or "", region))
                tables.roll_back_journal(self.path)
                # With a read-only connection. A writing one, when closed, would copy the readable part of a damaged
                # write-ahead log into the database, and delete the rest.
                with tables.snapshot(self.path, is_own=True) as view:
                    self.header, _ = tables.check_snapshot(self.path, view)
                    tables.check_integrity(view.database, self.path)
                if dialect is not None:
                    check_dialect(self.header, dialect)
                self._database = tables.connected(self.path)
                try:
                    self._open()
                except BaseException:
                    self._database.close()
                    raise
            except BaseException:
                self._lock.close()
                raise

    def _open(self) -> None:
        """Open the writing connection. Raises LogError."""
        database = self._database
        tables.write_ahead(database, self.path)
        database.execute("PRAGMA synchronous = FULL")
        self.header = tables.converted(database, self.header)
        self._reload()
        newest = database.execute("SELECT max(seq) FROM records").fetchone()[0] or 0
        if newest != self._head.seq:
            raise UnreadableLog(
                f"{self.path}: the log is damaged: its newest record has Seq {newest}, where Seq {self._head.seq} was "
                f"acknowledged; `taskfold log {self.path} --check` lists the damage"
            )
        self._names = str(self.path), str(sidecar(self.path, "-wal"))
        self._files = self._file_identities()

    def _reload(self) -> None:
        """Load the state from the database, dropping any that was rolled back."""
        self._head = tables.head_in(self._database, self.path, self.header)
        """The head of the last commit."""
        self._digest = self._head.digest
        """The digest of all records, including pending ones."""
        self._lookups = self._ledger = _Lookups(self._database, self._head.seq)

    def _file_identities(self) -> tuple[tuple[int, int] | None, ...]:
        """Return device and inode of the files now at the paths of the database and its write-ahead log."""
        return tuple(map(_identity, self._names))

    def _check_files(self) -> None:
        """Check that the open files are still the ones at their paths. Raises LogError."""
        if (files := self._file_identities()) != self._files:
            is_other = files[0] != self._files[0]
            name = self.path.name if is_other else sidecar(self.path, "-wal").name
            raise LogError(
                f"{self.path}: {name} was moved, removed or replaced while the log was open, so that nothing can be "
                "acknowledged: move it back, or open the log again"
            )

    def append_all(self, appends: Sequence[Append], *, sync: bool = True) -> list[Record]:
        """Append records to several allocations in one transaction; return the new ones. O(records × log n).

        With ``sync=False`` the next `sync` acknowledges it, and until then no other process sees it. Raises
        VersionConflict, and LogError when the database refuses the write: then nothing was appended.
        """
        with tables.translate_errors(self.path):
            return super().append_all(appends, sync=sync)

    def _append_all(self, appends: Sequence[Append], *, sync: bool) -> list[Record]:
        entries = self._ledger.place(appends)
        new = entries[0]
        if new:
            self._insert(entries, sync=sync)
            self._ledger.note_placed(new)
        return new

    def sync(self) -> None:
        """Acknowledge all appends: bring them to disk. Raises LogError when that fails."""
        with tables.translate_errors(self.path):
            super().sync()

    def _acknowledge(self) -> None:
        if self._database.in_transaction:
            self._commit(self.seq, has_pending=False)

    def _note_interruption(self) -> None:
        super()._note_interruption()
        # Recover at once, since readers do not: an alarm's TimeoutError is an OSError, and looks like a disk error.
        with suppress(LogError):  # the next write retries
            self.recover()

    def recover(self) -> None:
        """Rebuild the state in memory from the database if a call was interrupted; else do nothing. O(1).

        Appends that were not acknowledged are rolled back. Raises LogError.
        """
        if self._is_interrupted:
            with tables.translate_errors(self.path):
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                    self._is_lost = self._is_lost or self._has_pending
                self._has_pending = False
                self.header = tables.header_in(self._database, self.path)
                self._reload()
                self._removals += self._removals % 2
            self._is_interrupted = False

    def _insert(self, entries: Entries, *, sync: bool) -> None:
        """Insert rows, all or none; earlier appends that are not acknowledged stay pending."""
        database = self._database
        has_pending = database.in_transaction
        # A savepoint, only when records are pending: SQLite then saves each changed page a second time.
        database.execute("SAVEPOINT append" if has_pending else "BEGIN IMMEDIATE")
        records, lines = entries
        checksums = list(map(zlib.crc32, lines))
        try:
            database.executemany(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", tables.rows_of(records, checksums, lines)
            )
        except BaseException:
            # A full disk rolls back the whole transaction; then there is no savepoint left.
            with suppress(sqlite3.Error):
                for back in ("ROLLBACK TO append", "RELEASE append") if has_pending else ("ROLLBACK",):
                    database.execute(back)
            self._note_lost(is_pending=has_pending)
            raise
        if has_pending:
            database.execute("RELEASE append")
        self._digest += digest_of(checksums)
        if sync:
            self._commit(records[-1].seq, has_pending=has_pending)
        else:
            self._has_pending = True

    def _commit(self, seq: int, *, has_pending: bool) -> None:
        head = self._head.after(seq, self._digest)
        try:
            self._end_with(head)
            self._has_pending = False
        except BaseException:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            self._note_lost(is_pending=has_pending)
            raise

    def _end_with(self, head: Head) -> None:
        """Commit with a new head, unless the files at the log's paths are no longer the open ones."""
        tables.write_head(self._database, head)
        self._check_files()
        self._database.execute("COMMIT")
        self._head = head

    def _note_lost(self, *, is_pending: bool) -> None:
        """Note that pending records were lost, if SQLite ended the transaction; the next `sync` must then raise."""
        if not self._database.in_transaction:
            self._is_lost = is_pending
            self._digest = self._head.digest
            self._lookups.forget(self._head.seq)

    def take(self, header: LogHeader, records: Iterable[Record]) -> None:
        """Copy all records of another log into this empty one, with their positions. O(records × log n)."""
        with tables.translate_errors(self.path):
            self._guarded(self._take_all, copied_header(self.header, header), iter(records))

    def _take_all(self, header: LogHeader, records: Iterator[Record]) -> None:
        ledger = Ledger(header)
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("UPDATE header SET text = ?", (header_text(header),))
        self._head = self._head._replace(uuid=header.uuid)
        while some := list(islice(records, _RECORDS_AT_ONCE)):
            ledger.note_all(some)
            self._insert(entries_of(some), sync=False)
            self._ledger.note_placed(some)
        self._sync()
        self.header = header

    def roll_back(self) -> None:
        """Roll back appends that were not acknowledged, and close the log; delete it if this object created it."""
        with tables.translate_errors(self.path):
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            if self._is_new:
                # While the lock is held, so that no other process has begun to use them.
                self._database.close()
                self.path.unlink(missing_ok=True)
                lock_file(self.path).unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        """Release every resource. Safe to repeat after an interruption."""
        self._is_closed = True
        try:
            self._database.close()
        finally:
            self._lock.close()

    def _disown(self) -> None:
        """Close the lock file, whose lock would last as long as this process; the owner keeps its lock."""
        self._lock.close()

    def version_of(self, alloc: str) -> int:
        """Return the version of an allocation; 0 before its first record. O(log n). In the turn."""
        with tables.translate_errors(self.path):
            return self._ledger.version_of(alloc)

    def knows(self, id: str) -> bool:
        """Tell whether the log has a record with this ID. O(log n)."""
        return self.digest_of(id) is not None

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. O(log n)."""
        with tables.translate_errors(self.path):
            return self._ledger.digest_of(id)

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(log n + records read). Safe from any thread."""
        values = {"alloc": alloc, "after": after_version}
        return self._read(tables.OF_ALLOCATION, values, self._hole_error)

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(log n + records read), in constant memory. Safe from any thread."""
        check_whole(self.header, str(self.path), after_seq)
        return self._read(tables.OF_ALL, {"after": after_seq}, self._hole_error)

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the stored records after a position, skipping compacted ones. O(log n + records read).

        Safe from any thread. From the beginning, or from the checkpoint's position, the digest of the records is
        checked, too.
        """
        return self._read(tables.OF_ALL, {"after": after_seq}, self._check_hole)

    def _read(self, query: str, values: dict[str, Any], on_hole: HoleCheck) -> Iterator[Record]:
        """Read the acknowledged records in batches: no read transaction stays open between two of them."""
        removals, head, after = self._removals, self._head, values["after"]

        def check(digest: int) -> None:
            if query is tables.OF_ALL and removals == self._removals and removals % 2 == 0:
                tables.check_digest(self.path, self.header, head, after, digest)

        return self._rows(query, {**values, "newest": head.seq}, on_hole, check)

    def _rows(
        self, query: str, values: dict[str, Any], on_hole: HoleCheck, on_end: Callable[[int], None]
    ) -> Iterator[Record]:
        header = self.header
        with tables.translate_errors(self.path, "read"), closing(self._connect(self.path)) as database:
            if tables.header_in(database, self.path).uuid != header.uuid:
                raise LogError(f"{self.path}: was replaced by another log while it was open: open it again")
            yield from tables.read_rows(database, self.path, header.taskfold, query, values, on_hole, on_end)

    def _hole_error(self, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog:
        """Return the error for a missing record, with the newest header: records may be compacted during the read."""
        return hole_error(self.header, str(self.path), alloc, place, following)

    def _check_hole(self, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog | None:
        """Return the error for a missing record that was not compacted."""
        return hole_check(self.header, str(self.path))(alloc, place, following)

    def _remove(self, removable: Removal) -> None:
        """Remove rows in one transaction; shrink the file if there is room for a copy of it."""
        with tables.translate_errors(self.path):
            self._guarded(self._delete, removable)

    def _delete(self, removable: Removal) -> None:
        before, header = self.header, msgspec.structs.replace(self.header, compacted=removable.compacted)
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            head = self._without(removable.versions)
            database.executemany("DELETE FROM records WHERE alloc = ? AND version < ?", removable.versions.items())
            database.execute("UPDATE header SET text = ?", (header_text(header),))
            # Before the commit, for concurrent readers: announcing too many missing records is harmless.
            self._removals += 1
            self.header = header
            self._end_with(head)
        except BaseException:
            self.header = before
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        finally:
            self._removals += self._removals % 2
        self._digest = head.digest
        with suppress(sqlite3.Error):  # the rows are removed, and their space is reused
            database.execute("VACUUM")
            # In a commit of its own, so that the next commit is known to come after it.
            database.execute("BEGIN IMMEDIATE")
            self._commit(head.seq, has_pending=False)

    def _without(self, versions: dict[str, int]) -> Head:
        """Return the head after the removal of each allocation's records before a version."""
        head = self._head
        query = """
        SELECT ifnull(sum(checksum), 0), ifnull(sum(checksum) FILTER (WHERE seq <= ?), 0) FROM records
        WHERE alloc = ? AND version < ?
        """
        removed = of_checkpoint = 0
        for alloc, version in versions.items():
            sums = self._database.execute(query, (head.checkpoint_seq, alloc, version)).fetchone()
            removed, of_checkpoint = removed + sums[0], of_checkpoint + sums[1]
        after = head.after(head.seq, head.digest - removed)
        return after._replace(checkpoint_digest=digest_of([head.checkpoint_digest, -of_checkpoint]))

    def save_checkpoint(self, parts: Iterable[bytes]) -> None:
        """Replace the checkpoint, in one transaction. O(parts). Raises LogError."""
        with tables.translate_errors(self.path):
            self._guarded(self._save_checkpoint, parts)

    def _save_checkpoint(self, parts: Iterable[bytes]) -> None:
        database = self._database
        self._sync()
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM checkpoint")
            rows = ((place, zlib.crc32(part), part) for place, part in enumerate(parts))
            database.executemany("INSERT INTO checkpoint VALUES (?, ?, ?)", rows)
            head = self._head.after(self._head.seq, self._head.digest)
            self._end_with(head._replace(checkpoint_seq=head.seq, checkpoint_digest=head.digest))
        except BaseException:
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; none if there is none. Raises LogError for a damaged part."""
        return tables.read_checkpoint_of(self.path)


def _identity(name: str) -> tuple[int, int] | None:
    """Return device and inode of the file at a path; None if there is none."""
    try:
        status = os.stat(name)  # noqa: PTH116 - each append calls it twice
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _locked(path: Path) -> Any:
    """Return the lock file of a log, locked. Raises LogError when another process holds it, if the system can tell."""
    file = own_file(lock_file(path))
    try:
        lock(file, path)
        try:
            status = lock_file(path).stat()
        except FileNotFoundError:
            status = None
        if status is not None and os.path.samestat(status, os.fstat(file.fileno())):
            return file
    except BaseException:
        file.close()
        raise
    file.close()  # it was deleted together with its log
    return _locked(path)
