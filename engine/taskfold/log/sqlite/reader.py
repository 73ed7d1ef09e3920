"""A read-only log in an SQLite database, followed while another process writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from taskfold.log.contract import HoleCheck, Ledger
from taskfold.log.entries import event_digest
from taskfold.log.file_reader import FileReader, is_of_same_log
from taskfold.log.sqlite import tables
from taskfold.log.sqlite.log import SqliteLog
from taskfold.log.upcast import record_decoder
from taskfold.model.errors import Gone, LogError, UnreadableLog
from taskfold.model.record import Record

__all__ = ["SqliteReader"]


class SqliteReader(FileReader, SqliteLog):
    """A read-only log in an SQLite database. Opening is O(1)."""

    _connect = staticmethod(tables.quiet_reader)

    def __init__(self, path: str | Path) -> None:
        """Open a log. Raises LogError."""
        self._begin_reading(path)
        self._ledger: Ledger = Ledger()
        self._watch: sqlite3.Connection | None = None
        """A connection whose data version changes when another process commits."""
        self._watched = (0, 0)
        """The file's status when it was opened, if no process was writing."""
        self._watches = 0
        self._version: tuple[int, int] | None = None
        """The data version at the last look."""
        status = self._stat()
        self._place = status.st_dev, status.st_ino
        with tables.snapshot(self.path, connect=self._connect) as view:
            self.header, self._head = tables.check_snapshot(self.path, view)
        self.newest()

    def close(self) -> None:
        """Release the database."""
        with self._reading_lock:
            self._close_watch()

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. O(log n)."""
        query = "SELECT body FROM records WHERE id = ? AND typeof(id) = 'text'"
        with tables.translate_errors(self.path, "read"), closing(self._connect(self.path)) as database:
            row = database.execute(query, (id,)).fetchone()
        if row is None:
            return None
        record = record_decoder(self.header.taskfold)(row[0])
        return event_digest(record.alloc, record.task, record.event)

    def newest(self) -> int:
        """Return the position of the newest record, including those of other processes. O(log n). Raises LogError."""
        with self._reading_lock, self._gone_or(), tables.translate_errors(self.path, "read"):
            version = self._newest_version()
            assert self._watch is not None
            self._watch.execute("BEGIN")
            try:
                header = tables.header_in(self._watch, self.path)
                head = tables.head_in(self._watch, self.path, header)
            finally:
                self._watch.execute("COMMIT")
            if not is_of_same_log(header, self.header) or head.seq < self.seq:
                raise LogError(f"{self.path}: another log is there now: close this one, and open it again")
            self.header, self._head, self._ledger.seq, self._version = header, head, head.seq, version
        return self.seq

    def _hole_error(self, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog:
        self._take_header()
        return super()._hole_error(alloc, place, following)

    def _check_hole(self, alloc: str | None, place: int, following: int) -> Gone | UnreadableLog | None:
        self._take_header()
        return super()._check_hole(alloc, place, following)

    def _take_header(self) -> None:
        """Read the header again: a compaction may have removed records of this read."""
        with closing(self._connect(self.path)) as database:
            header = tables.header_in(database, self.path)
        if is_of_same_log(header, self.header):
            self.header = header

    def _read(self, query: str, values: dict[str, Any], on_hole: HoleCheck) -> Iterator[Record]:
        header, head, after = self.header, self._head, values["after"]

        def check(digest: int) -> None:
            if query is not tables.OF_ALL:
                return
            with closing(self._connect(self.path)) as database:
                # After a commit of another process, records of this read may have been compacted.
                if tables.head_in(database, self.path, header) == head:
                    tables.check_digest(self.path, header, head, after, digest)

        with self._gone_or():
            yield from self._rows(query, {**values, "newest": head.seq}, on_hole, check)

    @contextmanager
    def _gone_or(self) -> Iterator[None]:
        """If the file is gone, raise that instead of SQLite's consequent error. Raises LogError."""
        try:
            yield
        except (LogError, Gone):
            self._stat()
            raise

    def _is_changed(self) -> bool:
        with self._reading_lock, suppress(LogError), tables.translate_errors(self.path, "read"):
            return self._newest_version() != self._version
        return True

    def _newest_version(self) -> tuple[int, int]:
        """Return a value that changes with every commit. Raises LogError if another file is at the path."""
        status = self._stat()
        if (status.st_dev, status.st_ino) != self._place:
            raise LogError(f"{self.path}: the log was replaced by another file: close this one, and open it again")
        is_written = tables.is_written(self.path)
        looks = (0, 0) if is_written else (status.st_size, status.st_mtime_ns)
        # A connection opened before the first commit does not see any.
        if self._watch is None or looks != self._watched:
            self._close_watch()
            self._watch = self._connect(self.path)
            self._watched = looks
            self._watches += 1
        return self._watches, self._watch.execute("PRAGMA data_version").fetchone()[0]

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; none if there is none. Raises LogError for a damaged part."""
        return tables.read_checkpoint_of(self.path, self._connect)
