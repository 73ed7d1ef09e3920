"""A log as a file of JSON lines: a header, then one record a line. For exchange, and for small logs.

Records that are written together are sealed (`taskfold.log.seals`): they count together or not at all. A torn write
after the last seal was never acknowledged: readers skip it, and the next append replaces it. Logs of format 1 have no
seals: they are read unchanged, and converted to the current format when they are opened for writing.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, NamedTuple

import msgspec

from taskfold.log._base import BaseLog, creates_log
from taskfold.log.compression import is_unpacked
from taskfold.log.contract import (
    Append,
    Ledger,
    Removal,
    TakesRecords,
    check_dialect,
    check_whole,
    copied_header,
    current_header,
    hole_error,
    new_header,
)
from taskfold.log.files import lock, new_file, own_file, sync_folder, take_mode
from taskfold.log.header import header_line, is_header
from taskfold.log.lines import blocks, is_database, open_bytes
from taskfold.log.ndjson.offsets import Blocks, Part
from taskfold.log.ndjson.records import decoded, opened, runs_of
from taskfold.log.seals import LineRun, seal, sealed_lines, unsealed
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, SourceError, UnreadableLog
from taskfold.model.record import FORMAT, LogHeader, Record

__all__ = ["Content", "NdjsonLog", "read_content"]

_BYTES_AT_ONCE: Final = 1 << 16
"""How many bytes of unacknowledged appends are collected before they are written."""

_encode: Final = msgspec.json.Encoder().encode


class Content(NamedTuple):
    """The contents of a file, as far as they are kept in memory."""

    header: LogHeader
    ledger: Ledger
    blocks: Blocks
    size: int
    """The size up to the last seal, in bytes."""


class NdjsonLog(BaseLog):
    """A log in a file of JSON lines.

    One process writes it at a time. Opening reads it once (O(records)), and keeps a number for each allocation. An
    append is acknowledged when it is on disk: at once, or, with ``sync=False``, by the next `sync`. Until then it is
    kept in memory, or, when it grows large, in a draft: a copy of the whole file that replaces the file when it is
    acknowledged.
    """

    seals_appends: ClassVar[bool] = True

    def __init__(
        self,
        path: str | Path,
        dialect: str | Dialect | None = None,
        region: str = "global",
        *,
        reader: TakesRecords | None = None,
    ) -> None:
        """Open a log, or create it, for which the dialect must be given.

        The records are passed to ``reader`` as they are read. Raises LogError when the file is no log or cannot be
        opened, DialectError when it has another dialect.
        """
        self.path = Path(path).absolute()
        self.name = self.location = str(self.path)
        self._own(self.name)
        self._pending: list[Record] = []
        """Records that were appended, and are not in a file."""
        self._pending_lines = bytearray()
        self._draft: FileIO | None = None
        """A copy of the file that also has records not acknowledged."""
        self._replacement: FileIO | None = None
        """The newest file written to replace the log's file."""
        self._is_torn = False
        """A failed write may have left bytes after the last seal."""
        self._lock = threading.Lock()
        """Guards the pending records and the contents in memory; never held during disk I/O."""
        self._is_new = creates_log(self.path, dialect)
        with self._translate_errors():
            if not self._is_new and is_database(self.path):
                raise LogError(f"{self.path}: is an SQLite database, and is never overwritten")
            self._file = _own_file(self.path)
            try:
                self._is_new = creates_log(self.path, dialect)  # again, now that the lock excludes another creator
                if self._is_new:
                    header = new_header(dialect or "", region)
                    self._size = 0
                    self._write(header_line(header))
                    self._set_content(_empty_content(header))
                else:
                    self._set_content(read_content(self.path, dialect, reader))
                # The bytes after it are a torn write that was never acknowledged.
                self._cut_off()
                if self.header.taskfold != FORMAT:
                    self._rewrite(current_header(self.header), self.read_kept())
            except BaseException:
                self._file.close()
                raise

    def _set_content(self, content: Content) -> None:
        """Replace the contents in memory, at once for all readers."""
        with self._lock:
            self.header, self._ledger, self._blocks, self._size = content

    @contextmanager
    def _translate_errors(self, what: str = "written") -> Iterator[None]:
        """Convert errors of the system to LogError with the file's name."""
        try:
            yield
        except OSError as error:
            msg = f"{self.path}: cannot be {what}: {error.strerror or error}"
            raise LogError(msg) from None

    # --- writing ---

    def _append_all(self, appends: Sequence[Append], *, sync: bool) -> list[Record]:
        """Append with one write; with ``sync=False``, many appends share a write. O(records)."""
        new, lines = self._ledger.place(appends)
        if new:
            self._append(new, sealed_lines(lines), sync=sync)
        return new

    def _append(self, records: Sequence[Record], lines: bytes, *, sync: bool) -> None:
        if sync and not self._pending and self._draft is None:
            self._write(lines)
            self._note_written(records, len(lines))
            self._ledger.note_placed(records)
            return
        with self._lock:
            self._pending += records
            self._pending_lines += lines
        self._ledger.note_placed(records)
        if sync:
            self._acknowledge()
        elif len(self._pending_lines) >= _BYTES_AT_ONCE:
            self._spill()

    def _note_written(self, records: Sequence[Record], size: int) -> None:
        """Note that records are in the file."""
        with self._lock:
            self._blocks.note_all(records)
            self._blocks.end(records[-1].seq, size)
            self._size += size

    def _note_pending_written(self, size: int) -> None:
        """Note that the pending records are in the file."""
        records = self._pending
        with self._lock:
            self._blocks.note_all(records)
            self._blocks.end(records[-1].seq, size)
            self._size += size
            self._pending, self._pending_lines = [], bytearray()

    def _acknowledge(self) -> None:
        """Bring the pending records to disk, all or none. On a LogError they stay pending."""
        if self._draft is not None:
            self._spill()
            draft = self._draft
            with self._translate_errors():
                os.fsync(draft.fileno())
                self._replace_by(draft)
        elif self._pending:
            # One write, under one seal.
            lines = seal(unsealed(bytes(self._pending_lines)))
            self._write(lines)
            self._note_pending_written(len(lines))

    def _spill(self) -> None:
        """Write the pending records to the draft; on a LogError they stay pending."""
        with self._translate_errors():
            if self._draft is None:
                self._draft = self._new_draft()
            elif self._draft.tell() != self._size:  # a failed write left bytes there
                self._draft.seek(self._size)
                self._draft.truncate()
            _write_whole(self._draft, self._pending_lines)
        if self._pending:
            self._note_pending_written(len(self._pending_lines))

    def _new_draft(self) -> FileIO:
        """Return a copy of the file, locked, to write on. Raises OSError."""
        draft = _draft_of(self.path)
        file = new_file(draft)
        try:
            take_mode(file, self._file)
            lock(file, draft)
            with self._opened() as source:
                shutil.copyfileobj(source, file, _BYTES_AT_ONCE)
            file.seek(self._size)
            file.truncate()
        except BaseException:
            file.close()
            raise
        return file

    def _drop_draft(self) -> None:
        """Delete the draft, if there is one."""
        if self._draft is not None:
            if _is_at(self._draft, draft := _draft_of(self.path)):
                with suppress(OSError):  # the next draft overwrites it
                    draft.unlink()
            self._draft.close()
            self._draft = None

    def _write(self, data: bytes) -> None:
        """Write after the last seal, and sync; on failure restore the file's length. Raises LogError."""
        with self._translate_errors():
            self._check_size()
            if self._is_torn:  # never write over the remains of another write
                self._cut_off()
            try:
                _write_whole(self._file, data)
                os.fsync(self._file.fileno())
                self._check_place(self._size + len(data))
            except (OSError, LogError):
                self._is_torn = True
                with suppress(OSError, LogError):  # retried before the next write
                    self._cut_off()
                raise

    def _check_size(self) -> None:
        """Check that the file is not shorter than its last seal. Raises LogError."""
        if os.fstat(self._file.fileno()).st_size < self._size:
            self._check_place(self._size)

    def _check_place(self, size: int = 0) -> None:
        """Check that the path still names the open file, and that it has at least this size. Raises LogError.

        Nobody would find a write to another file. The check costs 1 % of a disk sync.
        """
        own = os.fstat(self._file.fileno())
        try:
            there = os.stat(self.name)  # noqa: PTH116 - a Path object would double the cost
        except FileNotFoundError:
            what = "was moved away" if own.st_nlink else "was removed"
            raise LogError(f"{self.path}: the log {what}: nothing more is written until it is back") from None
        if (there.st_ino, there.st_dev) != (own.st_ino, own.st_dev):
            what = "was replaced by another file"
            raise LogError(f"{self.path}: the log {what}: nothing more is written; close it, and open the one there")
        if own.st_size < size:
            what = f"was cut off at byte {own.st_size}, and had {size}"
            raise LogError(f"{self.path}: the log {what}: nothing more is written; close it, and open it again")

    def _cut_off(self) -> None:
        """Truncate the remains of a failed write. Raises OSError, and LogError if the part before them is gone."""
        self._check_size()
        self._file.seek(self._size)
        self._file.truncate()
        self._is_torn = False

    def recover(self) -> None:
        """Rebuild the state in memory from the file if a call was interrupted; else do nothing.

        O(records). Records with a correct seal count; appends that were not acknowledged are rolled back. Raises
        LogError.
        """
        if not self._is_interrupted:
            return
        with self._translate_errors():
            self._check_place()
            self._is_lost = self._is_lost or self._draft is not None or bool(self._pending)
            self._drop_draft()
            content = read_content(self.path)
            with self._lock:
                self._pending, self._pending_lines = [], bytearray()
                self.header, self._ledger, self._blocks, self._size = content
            self._cut_off()
            os.fsync(self._file.fileno())
        self._is_interrupted = False

    def take(self, header: LogHeader, records: Iterable[Record]) -> None:
        """Copy all records of another log into this empty one, with their positions. O(records). Raises LogError."""
        with self._translate_errors():
            self._rewrite(copied_header(self.header, header), iter(records))

    def roll_back(self) -> None:
        """Roll back appends that were not acknowledged, and close the log; delete it if this object created it."""
        with self._translate_errors():
            self._drop_draft()
            if self._is_new and _is_at(self._file, self.path):
                self.path.unlink(missing_ok=True)  # while the lock is held
            self._close()

    def _remove(self, removable: Removal) -> None:
        """Write a new file without the removed records; it replaces the old one once it is on disk."""
        rest = (r for r in self.read_kept() if r.version >= removable.versions.get(r.alloc, 0))
        with self._translate_errors():
            self._rewrite(msgspec.structs.replace(self.header, compacted=removable.compacted), rest)

    def _rewrite(self, header: LogHeader, records: Iterator[Record]) -> None:
        """Write a new file for the log, and replace the old one atomically."""
        draft = _draft_of(self.path)
        file = self._replacement = new_file(draft)
        try:
            take_mode(file, self._file)
            lock(file, draft)
            _, ledger, of_blocks, size = _empty_content(header, _write_whole(file, header_line(header)))
            while some := list(islice(records, _RECORDS_AT_ONCE)):
                steps = [list(step) for _, step in groupby(some, attrgetter("index", "alloc"))]
                length = _write_whole(file, b"".join(map(_sealed, steps)))
                ledger.note_all(some)
                of_blocks.note_all(some)
                of_blocks.end(ledger.seq, length)
                size += length
            os.fsync(file.fileno())
            self._replace_by(file, Content(header, ledger, of_blocks, size))
        except BaseException:
            if file is not self._file:
                file.close()
                with suppress(OSError):
                    draft.unlink()
            raise

    def _replace_by(self, file: FileIO, content: Content | None = None) -> None:
        """Replace the file by the draft, and, if given, the contents in memory."""
        path = self.path.resolve()  # the target, if the path is a symbolic link
        self._check_place()
        try:
            with self._lock:  # readers that have begun continue with the old file
                _draft_of(self.path).replace(path)
                self._file.close()
                self._file = file
                self._draft = None
                if content is not None:
                    self.header, self._ledger, self._blocks, self._size = content
        except BaseException:
            if _is_at(file, path):
                self._file, self._draft, self._is_interrupted = file, None, True
            raise
        with suppress(OSError):  # the old file and the new one are both intact
            sync_folder(path)

    def _close(self) -> None:
        self._is_closed = True
        self._drop_draft()
        self._file.close()

    def _disown(self) -> None:
        """Close the files, whose locks would last as long as this process; the owner keeps its locks."""
        for file in (self._file, self._draft, self._replacement):
            if file is not None:
                file.close()

    # --- reading ---

    def version_of(self, alloc: str) -> int:
        """Return the version of an allocation; 0 before its first record. O(1). In the turn."""
        return self._ledger.version_of(alloc)

    def knows(self, id: str) -> bool:
        """Tell whether the log has a record with this ID. O(1)."""
        return id in self._ledger.ids

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. O(1)."""
        return self._ledger.digest_of(id)

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(bytes from its first record to its last).

        Only lines with the allocation's ID are decoded. Any thread may read, as with `read_all`. Raises Gone where
        records were compacted.
        """
        newest, version = self._ledger.seq, after_version
        alloc_text = msgspec.json.encode(alloc)

        def of_it(run: LineRun) -> LineRun:
            lines = [line for line in run.lines.split(b"\n") if alloc_text in line] if alloc_text in run.lines else []
            return run._replace(lines=b"\n".join([*lines, b""]))

        for record in self._records(lambda of_blocks: of_blocks.span(alloc), of_it):
            if record.alloc == alloc and version < record.version and record.seq <= newest:
                if record.version != version + 1:
                    raise hole_error(self.header, str(self.path), alloc, version + 1, record.version)
                version = record.version
                yield record

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(records read), in constant memory.

        Raises Gone where they were compacted. Any thread may read while another appends. It gets the records appended
        before it began, and none of a failing append.
        """
        check_whole(self.header, str(self.path), after_seq)
        for record in self.read_kept(after_seq):
            if record.seq != after_seq + 1:  # compacted since
                raise hole_error(self.header, str(self.path), None, after_seq + 1, record.seq)
            after_seq = record.seq
            yield record

    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the stored records after a position, skipping compacted ones. O(records read). Any thread may read."""
        newest = self._ledger.seq
        if after_seq >= newest:
            return
        for record in self._records(lambda of_blocks: (of_blocks.of(after_seq), None)):
            if record.seq > newest:
                return
            if record.seq > after_seq:
                yield record

    def _records(
        self, span: Callable[[Blocks], tuple[int, int | None]], narrow: Callable[[LineRun], LineRun] = lambda run: run
    ) -> Iterator[Record]:
        """Yield the records in a range of blocks; ``narrow`` selects lines before they are decoded. Raises LogError."""
        with self._lock:
            pending = self._pending.copy()
            first, last = span(self._blocks)
            start, seq = self._blocks.start(first)
            end = self._size if last is None else min(self._blocks.end_of(last), self._size)
            header, file = self.header, self._opened()
        with file:
            reader: Any = Part(file, start, end)
            name = str(self.path)
            numbered = ((seq + 1 + number, block) for number, block in blocks(reader, name))  # line 1 is the header
            try:
                for run in runs_of(numbered, name, header, start):
                    for records in decoded(narrow(run), name, header.taskfold):
                        yield from records
            except SourceError as error:
                raise UnreadableLog(str(error)) from None
        yield from pending

    def _opened(self) -> BinaryIO:
        """Open the log's file for reading. Raises LogError if another file is at its path."""
        path, own = (self.path, self._file) if self._draft is None else (_draft_of(self.path), self._draft)
        with self._translate_errors("read"):
            file = path.open("rb")
        if not own.closed and not os.path.samestat(os.fstat(file.fileno()), os.fstat(own.fileno())):
            file.close()
            raise LogError(f"{path}: the log was replaced by another file: close it, and open the one there")
        return file


def read_content(path: Path, dialect: str | Dialect | None = None, reader: TakesRecords | None = None) -> Content:
    """Read a file of lines, and check that it is a log to append to. O(records). Raises LogError and DialectError."""
    name = str(path)
    ledger = Ledger()
    try:
        with open_bytes(path) as stream:
            _check_appendable(stream, name)
            size = len(stream.readline())
            stream.seek(0)
            header, runs = opened(stream, name, lambda _: None)
            if dialect is not None:
                check_dialect(header, dialect)
            if reader is not None:
                reader.begin(header)
            _, ledger, of_blocks, size = _empty_content(header, size)
            for run in runs:
                for records in decoded(run, name, header.taskfold):
                    ledger.note_all(records)
                    of_blocks.note_all(records)
                    if reader is not None:
                        reader.take(records)
                of_blocks.end(ledger.seq, run.size)
                size += run.size
    except SourceError as error:
        raise UnreadableLog(str(error)) from None
    except LogError as error:
        msg = f"{name}, line {ledger.seq + 2}: {error}"
        raise type(error)(msg) from None
    return Content(header, ledger, of_blocks, size)


_RECORDS_AT_ONCE: Final = 256


def _empty_content(header: LogHeader, size: int | None = None) -> Content:
    """Return the contents of a file with a header (of so many bytes) and no records."""
    of_blocks = Blocks()
    size = len(header_line(header)) if size is None else size
    of_blocks.begin(size)
    return Content(header, Ledger(header), of_blocks, size)


def _draft_of(path: Path) -> Path:
    """Return the path of the draft of a log: beside the log's file, also when the path is a symbolic link."""
    return (real := path.resolve()).with_name(f"{real.name}-new")


def _is_at(file: FileIO, path: Path) -> bool:
    """Tell whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (OSError, ValueError):
        return False


def _sealed(records: Sequence[Record]) -> bytes:
    """Return the sealed lines of records that are written together."""
    return sealed_lines(map(_encode, records))


def _write_whole(file: FileIO, data: bytes | bytearray) -> int:
    """Write all bytes, in as many calls as the system needs; return their number."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    return len(data)


def _check_appendable(stream: BinaryIO, name: str) -> None:
    """Check that a file is an uncompressed log. Raises SourceError."""
    if is_unpacked(stream):
        raise SourceError(name, "a compressed log can be read, not appended to")
    if not is_header(stream.peek(64)):  # type: ignore[attr-defined]
        raise SourceError(name, "is not a taskfold log, and is never overwritten")


def _own_file(path: Path) -> FileIO:
    """Open and lock the file of a log; retry if it was removed or replaced meanwhile."""
    while True:
        file = own_file(os.path.realpath(path))  # the log's own name may be a symbolic link
        try:
            lock(file, path)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
