"""Reading lines of JSON: from files, gzip or not, and standard input, in bounded memory."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

from taskfold.model.errors import SourceError

__all__ = [
    "BLOCK_BYTES",
    "GZIP_MAGIC",
    "MAX_LINE_BYTES",
    "SQLITE_MAGIC",
    "begins_as_database",
    "blocks",
    "is_database",
    "lines",
    "open_bytes",
    "readable",
]

SQLITE_MAGIC: Final = b"SQLite format 3\0"
"""How every SQLite database begins. Source: sqlite.org/fileformat.html."""

_LEAST_PAGE: Final = 512
"""The size of a database is a multiple of the smallest page. Source: as above."""

BLOCK_BYTES: Final = 1 << 18
"""How much is read at once: what is decoded from it still fits the cache when it is folded."""

_BUFFER_BYTES: Final = 1 << 16
"""How much a file is asked for at once where it is read by line."""

MAX_LINE_BYTES: Final = 32 << 20
"""The longest line that is read: an allocation with its job is 5 to 50 kB, a list of a thousand of them 10 MB."""

GZIP_MAGIC: Final = b"\x1f\x8b"
"""How every gzip file begins. Source: RFC 1952, 2.3.1."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what the system and gzip say while reading into a SourceError that names the file."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(name, f"the gzip data is cut off or damaged ({error})") from None
    except IsADirectoryError:
        raise SourceError(name, "is a directory; name a file in it, or a folder of JSON files") from None
    except FileNotFoundError:
        raise SourceError(name, "no such file") from None
    except OSError as error:
        raise SourceError(name, f"cannot be read: {error.strerror or error}") from None


def is_database(path: str | Path) -> bool:
    """Tell whether a file is an SQLite database, which nothing but SQLite may open. Raises OSError.

    Pipes, and whatever else is no file, are none. `taskfold.log.sqlite.files` says why.
    """
    status = Path(path).stat()
    if not S_ISREG(status.st_mode) or not status.st_size:
        return False
    if status.st_size % _LEAST_PAGE:
        return begins_as_database(path)  # a damaged one at most, which nobody has open
    from taskfold.log.sqlite import files as sqlite_files  # few files may be one, and the others need no SQLite

    return sqlite_files.is_claimed(path) or begins_as_database(path)


def begins_as_database(path: str | Path) -> bool:
    """Tell whether a file begins as a database does; only for what SQLite has not open. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


@contextmanager
def open_bytes(path: str | Path, name: str | None = None) -> Iterator[BinaryIO]:
    """Open a file (``-`` is standard input) for reading, unpacked when it is gzip. Raises SourceError.

    What is wrong is told of the name; it is the path's unless another is given. A database is refused: it is SQLite's
    to open.
    """
    is_input = str(path) == "-"
    name = name or str(path)
    with readable(name):
        if not is_input and is_database(path):
            raise SourceError(name, "is an SQLite database")
        raw: BinaryIO = sys.stdin.buffer if is_input else Path(path).open("rb", _BUFFER_BYTES)  # noqa: SIM115 - closed below
        try:
            buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[type-var]
            if buffered.peek(2)[:2] == GZIP_MAGIC:
                with gzip.GzipFile(fileobj=buffered) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield buffered
        finally:
            if not is_input:
                raw.close()


def blocks(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines, each with the number of its first line; the last may lack its newline.

    Raises SourceError for a line that is longer than `MAX_LINE_BYTES`.
    """
    number, rest = 1, b""
    with readable(name):
        # read1 returns what there is, so that a stream that grows slowly is seen as it grows.
        while block := stream.read1(BLOCK_BYTES) if hasattr(stream, "read1") else stream.read(BLOCK_BYTES):
            cut = block.rfind(b"\n") + 1
            if cut == 0:
                rest += block
                if len(rest) > MAX_LINE_BYTES:
                    raise _too_long(name, number)
                continue
            whole = rest + block[:cut]
            yield number, whole
            number += whole.count(b"\n")
            rest = block[cut:]
    if rest:
        yield number, rest


def lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, without its newline, and its number. Raises SourceError as `blocks` does."""
    number = 0
    with readable(name):
        # A line at a time, so that none is copied twice; it comes as soon as it is there.
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if line.endswith(b"\n"):
                line = line[:-1]
            elif len(line) > MAX_LINE_BYTES:
                raise _too_long(name, number)
            if line and not line.isspace():
                yield number, line


def _too_long(name: str, number: int) -> SourceError:
    return SourceError(name, f"the line is longer than {MAX_LINE_BYTES >> 20} MiB", line=number)
