"""Logs in files that are only read, while another process writes them: nothing is locked, made or changed.

A reader looks every so often whether there is more, and takes it in when it is asked to (`SharedLog.newest`). What a
compaction removed, a writer that ends and comes again, and a file that is gone for a while are no hindrance; another
log in the place of the one that was opened is refused.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from taskfold.log import sqlite_tables as tables
from taskfold.log.contract import Ledger, OnHole, Reader
from taskfold.log.entries import event_digest
from taskfold.log.lines import blocks
from taskfold.log.ndjson import Content, NdjsonLog, read_content
from taskfold.log.ndjson_lines import decoded, runs_of
from taskfold.log.read_only import ReadOnlyLog
from taskfold.log.sparse import Part
from taskfold.log.sqlite import SqliteLog
from taskfold.log.upcast import record_decoder
from taskfold.model.errors import Gone, LogError, SourceError, TaskfoldError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["NdjsonReader", "SqliteReader"]

_POLL_SECONDS: Final = 0.05
"""How often is looked whether a file has more."""


class _FileReader(ReadOnlyLog):
    """What both kinds of files have in common."""

    path: Path

    def _begin_reading(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.name = self.location = str(self.path)
        self._own(self.name)
        self._is_woken = threading.Event()
        self._taking = threading.Lock()
        """Of taking in what is new: one thread does."""

    def listen(self) -> None:
        """Do nothing: a `wait` looks for itself."""

    def wait(self, seconds: float) -> bool:
        """Wait until there is something new, or so long; tell whether there is."""
        end = time.monotonic() + seconds
        while not self._is_woken.is_set():
            if self._is_changed():
                return True
            rest = end - time.monotonic()
            if rest <= 0:
                return False
            self._is_woken.wait(min(rest, _POLL_SECONDS))
        self._is_woken.clear()
        return False

    def interrupt(self) -> None:
        """End a `wait` at once. Any thread may."""
        self._is_woken.set()

    @abstractmethod
    def _is_changed(self) -> bool:
        """Tell whether there may be something new, or something wrong."""

    def _stat(self) -> os.stat_result:
        """Return what the system says of the file. Raises LogError when there is none."""
        try:
            return self.path.stat()
        except FileNotFoundError:
            raise LogError(f"{self.path}: the log was removed or moved away: put it back") from None
        except OSError as error:
            raise LogError(f"{self.path}: cannot be read: {error.strerror or error}") from None


class NdjsonReader(_FileReader, NdjsonLog):
    """A log in a file of JSON lines that is only read. Opening reads it once (O(records))."""

    def __init__(self, path: str | Path, *, reader: Reader | None = None) -> None:
        """Open a log; ``reader`` takes in its records as they are read. Raises LogError."""
        self._begin_reading(path)
        self._lock = threading.Lock()
        self._pending = []
        self._is_interrupted = False
        self._has_tail = False
        """There is something at the end that may be acknowledged yet."""
        self._newest: Record | None = None
        self._seen: tuple[int, ...] = ()
        self._file = self._begin_anew(reader)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _disown(self) -> None:
        self._file.close()

    def newest(self) -> int:
        """Take in what is new, and return the position of the newest record. O(what is new). Raises LogError."""
        with self._taking:
            try:
                self._take_in()
            except TaskfoldError:
                raise
            except BaseException:  # what is known may not fit what was read
                self._is_interrupted = True
                raise
        return self.seq

    def _take_in(self) -> None:
        named = self._stat()
        if self._is_interrupted or not os.path.samestat(named, os.fstat(self._file.fileno())):
            before, self._file = self._file, self._begin_anew()
            before.close()
        elif named.st_size < self._size:
            raise LogError(f"{self.path}: the log was cut off at byte {named.st_size}, and had {self._size}")
        elif self._has_tail or _looks_of(named) != self._seen:
            self._read_on()
            self._seen = _looks_of(named)
        self._is_interrupted = False

    def _is_changed(self) -> bool:
        with suppress(LogError):
            return _looks_of(self._stat()) != self._seen
        return True

    def _begin_anew(self, reader: Reader | None = None) -> FileIO:
        """Read the file from its beginning: the first time, and when a compaction has put another in its place."""
        known, look = self._newest, _Look(self._newest, reader)
        while True:
            with self._told("read"):
                file = FileIO(self.path)
            try:
                looks = _looks_of(os.fstat(file.fileno()))
                whole = read_content(self.path, reader=look)
                if known is not None:
                    self._check_same(whole, known, look.same)
                if os.path.samestat(self._stat(), os.fstat(file.fileno())):
                    break
            except BaseException:
                file.close()
                raise
            file.close()  # it was replaced in between
        with self._lock:
            self.header, self._ledger, self._blocks, self._size = whole
            self._newest, self._seen, self._has_tail = look.newest, looks, True
        return file

    def _check_same(self, whole: Content, known: Record, same: Record | None) -> None:
        """Check that a log is the one that was read before, however much was removed since. Raises LogError."""
        is_of_it = _is_same(whole.header, self.header)
        is_kept = same == known if same is not None else known.seq <= whole.ledger.compacted_seq
        versions, now = self._ledger.versions.items(), whole.ledger.versions
        if not (is_of_it and is_kept and all(now.get(alloc, 0) >= version for alloc, version in versions)):
            raise LogError(f"{self.path}: another log is there now: close this one, and open it again")

    def _read_on(self) -> None:
        """Read what is sealed after what was read."""
        self._has_tail = False
        with self._opened() as file:
            reader: Any = Part(file, self._size, os.fstat(file.fileno()).st_size)
            seq = self._ledger.seq
            numbered = ((seq + 1 + number, block) for number, block in blocks(reader, self.name))
            try:
                for run in runs_of(numbered, self.name, self.header, self._size, self._note_tail):
                    records = [record for some in decoded(run, self.name, self.header.taskfold) for record in some]
                    with self._lock:
                        self._ledger.note_all(records)
                        self._blocks.note_all(records)
                        self._newest = records[-1] if records else self._newest
                        self._blocks.end(self._ledger.seq, run.size)
                        self._size += run.size
            except SourceError as error:
                raise UnreadableLog(str(error)) from None

    def _note_tail(self, _: object) -> None:
        self._has_tail = True

    def _opened(self) -> BinaryIO:
        """Return the file that was read, to be read again, whatever the path names by now."""
        with self._told("read"):
            if hasattr(os, "pread"):
                return os.fdopen(os.dup(self._file.fileno()), "rb")
            return self.path.open("rb")  # on Windows, where none is replaced while it is open


class _Look:
    """What is remembered of a file that is read from its beginning: its newest record, and the one of a known place."""

    def __init__(self, known: Record | None, reader: Reader | None) -> None:
        self._seq = 0 if known is None else known.seq
        self._reader = reader
        self.newest: Record | None = None
        self.same: Record | None = None

    def begin(self, header: LogHeader) -> None:
        self.newest = self.same = None
        if self._reader is not None:
            self._reader.begin(header)

    def take(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self.newest = records[-1]
        if records[0].seq <= self._seq <= self.newest.seq:
            self.same = next((record for record in records if record.seq == self._seq), None)
        if self._reader is not None:
            self._reader.take(records)


def _looks_of(named: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file that was written from what it was."""
    return named.st_dev, named.st_ino, named.st_size, named.st_mtime_ns


class SqliteReader(_FileReader, SqliteLog):
    """A log in an SQLite database that is only read. Opening is O(1)."""

    _connect = staticmethod(tables.quiet_reader)

    def __init__(self, path: str | Path) -> None:
        """Open a log. Raises LogError."""
        self._begin_reading(path)
        self._ledger: Ledger = Ledger()
        self._watch: sqlite3.Connection | None = None
        """A connection that knows whether others have written."""
        self._watched = (0, 0)
        """How the file looked when it was opened, where nobody wrote then."""
        self._watches = 0
        self._version: tuple[int, int] | None = None
        """What it said when the newest was taken in."""
        named = self._stat()
        self._place = named.st_dev, named.st_ino
        with tables.snapshot(self.path, connect=self._connect) as found:
            self.header, self._head = tables.checked(self.path, found)
        self.newest()

    def close(self) -> None:
        """Let go of the database."""
        with self._taking:
            self._let_go()

    def _let_go(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record of an ID; None where none was appended. O(log n)."""
        query = "SELECT body FROM records WHERE id = ? AND typeof(id) = 'text'"
        with tables.told(self.path, "read"), closing(self._connect(self.path)) as database:
            row = database.execute(query, (id,)).fetchone()
        if row is None:
            return None
        record = record_decoder(self.header.taskfold)(row[0])
        return event_digest(record.alloc, record.task, record.event)

    def newest(self) -> int:
        """Return the position of the newest record, whoever wrote it. O(log n). Raises LogError."""
        with self._taking, self._gone_or(), tables.told(self.path, "read"):
            version = self._newest_version()
            assert self._watch is not None
            self._watch.execute("BEGIN")
            try:
                header = tables.header_in(self._watch, self.path)
                head = tables.head_in(self._watch, self.path, header)
            finally:
                self._watch.execute("COMMIT")
            if not _is_same(header, self.header) or head.seq < self.seq:
                raise LogError(f"{self.path}: another log is there now: close this one, and open it again")
            self.header, self._head, self._ledger.seq, self._version = header, head, head.seq, version
        return self.seq

    def _hole(self, alloc: str | None, place: int, found: int) -> Gone | UnreadableLog:
        self._take_header()
        return super()._hole(alloc, place, found)

    def _kept_hole(self, alloc: str | None, place: int, found: int) -> Gone | UnreadableLog | None:
        self._take_header()
        return super()._kept_hole(alloc, place, found)

    def _take_header(self) -> None:
        """Take the header as it is now: a compaction may have removed what was just to be read."""
        with closing(self._connect(self.path)) as database:
            header = tables.header_in(database, self.path)
        if _is_same(header, self.header):
            self.header = header

    def _read(self, query: str, asked: dict[str, Any], on_hole: OnHole) -> Iterator[Record]:
        header, head, after = self.header, self._head, asked["after"]

        def check(digest: int) -> None:
            if query is not tables.OF_ALL:
                return
            with closing(self._connect(self.path)) as database:
                # Where somebody has written meanwhile, what was read may have been removed.
                if tables.head_in(database, self.path, header) == head:
                    tables.check_digest(self.path, header, head, after, digest)

        with self._gone_or():
            yield from self._rows(query, {**asked, "newest": head.seq}, on_hole, check)

    @contextmanager
    def _gone_or(self) -> Iterator[None]:
        """Say that the file is gone where it is: that says more than what SQLite finds then. Raises LogError."""
        try:
            yield
        except (LogError, Gone):
            self._stat()
            raise

    def _is_changed(self) -> bool:
        with self._taking, suppress(LogError), tables.told(self.path, "read"):
            return self._newest_version() != self._version
        return True

    def _newest_version(self) -> tuple[int, int]:
        """Return what is another whenever somebody has written. Raises LogError where the file is another one."""
        named = self._stat()
        if (named.st_dev, named.st_ino) != self._place:
            raise LogError(f"{self.path}: the log was replaced by another file: close this one, and open it again")
        is_written = tables.is_written(self.path)
        looks = (0, 0) if is_written else (named.st_size, named.st_mtime_ns)
        # One that was opened before anybody wrote sees nothing of it.
        if self._watch is None or looks != self._watched:
            self._let_go()
            self._watch = self._connect(self.path)
            self._watched = looks
            self._watches += 1
        return self._watches, self._watch.execute("PRAGMA data_version").fetchone()[0]

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; nothing without one. Raises LogError for a part that is damaged."""
        return tables.read_checkpoint_of(self.path, self._connect)


def _is_same(header: LogHeader, known: LogHeader) -> bool:
    """Tell whether a header is that of a known log; one of an older format has no UUID until it is converted."""
    is_same = (header.dialect, header.region) == (known.dialect, known.region)
    return is_same and known.uuid in {header.uuid, ""}
