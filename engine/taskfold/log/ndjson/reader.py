"""A read-only log in a file of JSON lines, followed while another process writes it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from taskfold.log.contract import TakesRecords
from taskfold.log.file_reader import FileReader, is_of_same_log
from taskfold.log.lines import blocks
from taskfold.log.ndjson.log import Content, NdjsonLog, read_content
from taskfold.log.ndjson.offsets import Part
from taskfold.log.ndjson.records import decoded, runs_of
from taskfold.model.errors import LogError, SourceError, TaskfoldError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = ["NdjsonReader"]


class NdjsonReader(FileReader, NdjsonLog):
    """A read-only log in a file of JSON lines. Opening reads it once (O(records))."""

    def __init__(self, path: str | Path, *, reader: TakesRecords | None = None) -> None:
        """Open a log; its records are passed to ``reader`` as they are read. Raises LogError."""
        self._begin_reading(path)
        self._lock = threading.Lock()
        self._pending = []
        self._is_interrupted = False
        self._has_tail = False
        """The file has bytes after the last seal, which may be acknowledged later."""
        self._newest: Record | None = None
        self._last_state: tuple[int, ...] = ()
        self._file = self._read_from_start(reader)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _disown(self) -> None:
        self._file.close()

    def newest(self) -> int:
        """Read the new records, and return the position of the newest. O(new records). Raises LogError."""
        with self._reading_lock:
            try:
                self._read_new()
            except TaskfoldError:
                raise
            except BaseException:  # the state in memory may not match the file
                self._is_interrupted = True
                raise
        return self.seq

    def _read_new(self) -> None:
        status = self._stat()
        if self._is_interrupted or not os.path.samestat(status, os.fstat(self._file.fileno())):
            before, self._file = self._file, self._read_from_start()
            before.close()
        elif status.st_size < self._size:
            raise LogError(f"{self.path}: the log was cut off at byte {status.st_size}, and had {self._size}")
        elif self._has_tail or _state_of(status) != self._last_state:
            self._read_more()
            self._last_state = _state_of(status)
        self._is_interrupted = False

    def _is_changed(self) -> bool:
        with suppress(LogError):
            return _state_of(self._stat()) != self._last_state
        return True

    def _read_from_start(self, reader: TakesRecords | None = None) -> FileIO:
        """Read the file from its beginning: at first, and after a compaction replaced it."""
        before_it, look = self._newest, _Look(self._newest, reader)
        while True:
            with self._translate_errors("read"):
                file = FileIO(self.path)
            try:
                state = _state_of(os.fstat(file.fileno()))
                whole = read_content(self.path, reader=look)
                if before_it is not None:
                    self._check_same(whole, before_it, look.same)
                if os.path.samestat(self._stat(), os.fstat(file.fileno())):
                    break
            except BaseException:
                file.close()
                raise
            file.close()  # it was replaced meanwhile
        with self._lock:
            self.header, self._ledger, self._blocks, self._size = whole
            self._newest, self._last_state, self._has_tail = look.newest, state, True
        return file

    def _check_same(self, whole: Content, last_read: Record, same: Record | None) -> None:
        """Check that a file is the log that was read before, or a compaction of it. Raises LogError."""
        is_of_it = is_of_same_log(whole.header, self.header)
        is_kept = same == last_read if same is not None else last_read.seq <= whole.ledger.compacted_seq
        versions, now = self._ledger.versions.items(), whole.ledger.versions
        if not (is_of_it and is_kept and all(now.get(alloc, 0) >= version for alloc, version in versions)):
            raise LogError(f"{self.path}: another log is there now: close this one, and open it again")

    def _read_more(self) -> None:
        """Read the lines sealed since the last reading."""
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
        """Duplicate the file that was read, even if the path names another one now."""
        with self._translate_errors("read"):
            if hasattr(os, "pread"):
                return os.fdopen(os.dup(self._file.fileno()), "rb")
            return self.path.open("rb")  # on Windows, where an open file cannot be replaced


class _Look:
    """A look at a file from its beginning: remembers its newest record, and the record at a known position."""

    def __init__(self, last_read: Record | None, reader: TakesRecords | None) -> None:
        self._seq = 0 if last_read is None else last_read.seq
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


def _state_of(status: os.stat_result) -> tuple[int, ...]:
    """Return the values that change when a file is written or replaced."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
