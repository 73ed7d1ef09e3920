"""A log as a file of JSON lines: a header, then one record a line. For exchange, and for small logs.

A line that was cut off by a crash (the last one, without its newline) was never acknowledged: it is not read, and the
next append puts its own line in its place.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import msgspec

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from taskfold.dialect import Dialect
from taskfold.errors import DialectError, LogError, SourceError
from taskfold.lines import BLOCK_BYTES, blocks, open_bytes
from taskfold.log.contract import Append, Ledger, check_dialect, check_header, new_header
from taskfold.log.sparse import Blocks, UpTo
from taskfold.record import LogHeader, Record

__all__ = ["NdjsonLog", "is_header", "is_new", "read_header", "read_records"]

_decode_header: Final = msgspec.json.Decoder(LogHeader).decode
_encode: Final = msgspec.json.Encoder().encode


@cache
def _decoder() -> msgspec.json.Decoder[Record]:
    """Return the decoder of records, made when it is needed first: an import of this module should not wait for it."""
    return msgspec.json.Decoder(Record)


def is_new(path: str | Path) -> bool:
    """Tell whether a log would be begun there: at a path that has nothing, or an empty file."""
    file = Path(path)
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def is_header(line: bytes) -> bool:
    """Tell whether a line says that it is the header of a taskfold log."""
    return line.lstrip().startswith(b'{"taskfold":')


def read_header(line: bytes, name: str) -> LogHeader:
    """Return the header that a log's first line says. Raises SourceError."""
    try:
        header = _decode_header(line)
        check_header(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LogError, DialectError) as error:
        raise SourceError(name, f"not the header of a taskfold log: {error}", line=1) from None
    return header


def read_records(stream: BinaryIO, name: str) -> tuple[LogHeader, Iterator[list[Record]]]:
    """Return the header of an NDJSON log, and its records in blocks, read as they are asked for. O(records).

    It needs constant memory. Raises SourceError, naming the line, for a line that is neither; the last line may be cut
    off, and then is not read.
    """
    of_blocks = blocks(stream, name)
    _, first = next(of_blocks, (1, b""))
    line, _, rest = first.partition(b"\n")
    return read_header(line, name), _decoded(rest, of_blocks, name)


def _decoded(rest: bytes, of_blocks: Iterable[tuple[int, bytes]], name: str) -> Iterator[list[Record]]:
    """Yield the records of each block of a log."""
    for number, block in chain([(2, rest)], of_blocks):
        whole = block[: block.rfind(b"\n") + 1]
        try:
            _check_utf8(whole)
            yield _decoder().decode_lines(whole)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield from ([record] for record in _one_by_one(whole, name, number))


def _check_utf8(text: bytes) -> None:
    """Check what is not decoded, since it stays JSON text, as well. Raises UnicodeDecodeError."""
    if not text.isascii():
        text.decode()


def _one_by_one(block: bytes, name: str, number: int) -> Iterator[Record]:
    """Yield the records of a block up to the line that cannot be read, and name that line."""
    for place, line in enumerate(block.split(b"\n"), start=number):
        if line.strip():
            try:
                _check_utf8(line)
                record = _decoder().decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise SourceError(name, f"not a record of a taskfold log: {error}", line=place) from None
            yield record


class NdjsonLog:
    """A log in a file of JSON lines.

    One process writes it at a time. Opening reads it once (O(records)), and keeps a number per allocation. An append is
    acknowledged when the system has it on disk: at once, or, with ``sync=False``, by the next `sync`.
    """

    def __init__(self, path: str | Path, dialect: str | Dialect | None = None, region: str = "global") -> None:
        """Open a log, or begin one where there is none, for which the dialect must be named.

        Raises LogError when the file is something else or cannot be opened, DialectError when it is of another dialect.
        """
        self.path = Path(path)
        self._ledger = Ledger()
        self._blocks = Blocks()
        self._is_new = is_new(path)
        if self._is_new and dialect is None:
            msg = f"{self.path}: there is no log, and a new one needs a dialect"
            raise LogError(msg)
        if not self._is_new:
            self._read(dialect)
        self._size = self._first_size = 0 if self._is_new else _whole_lines(self.path)
        with self._told():
            # Unbuffered: what a failing disk did not take must not wait in a buffer for the next write.
            self._file = self.path.open("wb" if self._is_new else "r+b", buffering=0)
            try:
                _lock(self._file, self.path)
                self._file.seek(self._size)
                # What follows was cut off while it was written, and never acknowledged.
                self._file.truncate()
            except (OSError, LogError):
                self._file.close()
                raise
        if self._is_new:
            self.header = new_header(dialect or "", region)
            try:
                self._write(_encode(self.header) + b"\n", sync=True)
                self._blocks.begin(self._size)
            except LogError:
                self._file.close()
                raise

    @property
    def seq(self) -> int:
        """The position of the newest record."""
        return self._ledger.seq

    def _read(self, dialect: str | Dialect | None) -> None:
        """Read what is there, and check that it is a log that can go on."""
        name = str(self.path)
        try:
            with open_bytes(self.path) as stream:
                _check_appendable(stream, name)
                of_blocks = blocks(stream, name)
                _, first = next(of_blocks, (1, b""))
                line, newline, rest = first.partition(b"\n")
                self.header = read_header(line, name)
                if dialect is not None:
                    check_dialect(self.header, dialect)
                self._blocks.begin(len(line) + len(newline))
                for number, block in chain([(2, rest)], of_blocks):
                    for records in _decoded(b"", [(number, block)], name):
                        for record in records:
                            self._ledger.note(record)
                            self._blocks.note(record)
                    self._blocks.end(self._ledger.seq, block.rfind(b"\n") + 1)
        except SourceError as error:
            raise LogError(str(error)) from None
        except LogError as error:
            msg = f"{name}, line {self._ledger.seq + 2}: {error}"
            raise LogError(msg) from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the system says into a LogError that names the file."""
        try:
            yield
        except OSError as error:
            msg = f"{self.path}: cannot be written: {error.strerror or error}"
            raise LogError(msg) from None

    def append(
        self, alloc: str, expected_version: int, records: Sequence[Record], *, sync: bool = True
    ) -> list[Record]:
        """Append records to an allocation that is at this version; return those that were new. O(records).

        Raises VersionConflict, and LogError when the system refuses the write: then nothing was appended.
        """
        return self.append_all([Append(alloc, expected_version, records)], sync=sync)

    def append_all(self, appends: Sequence[Append], *, sync: bool = True) -> list[Record]:
        """Append records to several allocations with one write; return those that were new. O(records).

        Raises VersionConflict, and LogError when the system refuses the write: then nothing was appended.
        """
        placed = self._ledger.place(appends)
        if placed:
            data = b"".join([_encode(record) + b"\n" for record in placed])
            self._write(data, sync=sync)
            for record in placed:
                self._blocks.note(record)
                self._ledger.note(record)
            self._blocks.end(self._ledger.seq, len(data))
        return placed

    def _write(self, data: bytes, *, sync: bool) -> None:
        """Write after the last whole line; on failure leave the file as it was."""
        with self._told():
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
                if sync:
                    os.fsync(self._file.fileno())
            except OSError:
                self._file.seek(self._size)
                self._file.truncate()
                raise
        self._size += len(data)

    def sync(self) -> None:
        """Acknowledge what was appended: have the system write it to disk. Raises LogError when it cannot."""
        with self._told():
            os.fsync(self._file.fileno())

    def roll_back(self) -> None:
        """Take back whatever was appended since the log was opened, and close it; a log begun here is removed."""
        with self._told():
            self._file.seek(self._first_size)
            self._file.truncate()
            self._file.close()
            if self._is_new:
                self.path.unlink()

    def close(self) -> None:
        """Acknowledge what was appended, and close the file."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def knows(self, id: str) -> bool:
        """Tell whether a record of this ID was appended. O(1)."""
        return id in self._ledger.ids

    def read(self, alloc: str, after_version: int = 0) -> Iterator[Record]:
        """Yield the records of one allocation after a version. O(bytes from its first record to its last).

        Only the lines that name the allocation are decoded. Any thread may read, as `read_all` says.
        """
        newest = self._ledger.seq
        first, last = self._blocks.span(alloc)
        named = msgspec.json.encode(alloc)
        for number, block in self._blocks_from(first, last):
            lines = [line for line in block.split(b"\n") if named in line] if named in block else []
            for record in chain.from_iterable(_decoded(b"", [(number, b"\n".join([*lines, b""]))], str(self.path))):
                if record.alloc == alloc and after_version < record.version and record.seq <= newest:
                    yield record

    def read_all(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield all records after a position. O(records that are read), in constant memory.

        Any thread may read while another appends: it gets what was appended before it began, and nothing of what an
        append that fails leaves in the file for a moment.
        """
        newest = self._ledger.seq
        if after_seq >= newest:
            return
        for number, block in self._blocks_from(self._blocks.of(after_seq)):
            for record in chain.from_iterable(_decoded(b"", [(number, block)], str(self.path))):
                if record.seq > newest:
                    return
                if record.seq > after_seq:
                    yield record

    def _blocks_from(self, first: int, last: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield the whole lines of the file from one of its blocks to another, a block at a time."""
        start, seq = self._blocks.start(first)
        end = self._size if last is None else min(self._blocks.end_of(last), self._size)
        with self.path.open("rb") as file:
            file.seek(start)
            reader: Any = UpTo(file, end - start)
            for number, block in blocks(reader, str(self.path)):
                yield seq + number + 1, block  # line 1 is the header


def _check_appendable(stream: BinaryIO, name: str) -> None:
    """Refuse to append to anything but a plain log. Raises SourceError."""
    if isinstance(stream, gzip.GzipFile):
        raise SourceError(name, "a compressed log can be read, not appended to")
    if not is_header(stream.peek(64)):  # type: ignore[attr-defined]
        raise SourceError(name, "is not a taskfold log, and nothing is ever overwritten")


def _whole_lines(path: Path) -> int:
    """Return the size of a file up to its last newline: what follows was cut off while it was written."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(end - BLOCK_BYTES, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def _lock(file: FileIO, path: Path) -> None:
    """Refuse a log that another process writes, where the system can tell."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        msg = f"{path}: another process is writing this log"
        raise LogError(msg) from None
