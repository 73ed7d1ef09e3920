"""Reading lines of JSON from plain or gzip files and from standard input, in bounded memory."""

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
"""The first bytes of every SQLite database. Source: sqlite.org/fileformat.html."""

_LEAST_PAGE: Final = 512
"""The smallest page of SQLite: the size of a database is a multiple of it. Source: as above."""

BLOCK_BYTES: Final = 1 << 18
"""The size of one read: its decoded records still fit the cache when they are folded."""

_BUFFER_BYTES: Final = 1 << 16
"""The buffer of a file that is read line by line."""

MAX_LINE_BYTES: Final = 32 << 20
"""The longest line accepted: an allocation with its job has 5 to 50 kB, a list of a thousand of them 10 MB."""

GZIP_MAGIC: Final = b"\x1f\x8b"
"""The first bytes of every gzip file. Source: RFC 1952, 2.3.1."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Convert errors of the system and of gzip while reading. Raises SourceError with the file's name."""
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
    """Tell whether a file is an SQLite database, which only SQLite may open. Raises OSError.

    False for pipes and other non-files. `taskfold.log.sqlite.files` has the reason.
    """
    status = Path(path).stat()
    if not S_ISREG(status.st_mode) or not status.st_size:
        return False
    if status.st_size % _LEAST_PAGE:
        return begins_as_database(path)  # at most a damaged database, which no process has open
    from taskfold.log.sqlite import files as sqlite_files  # imported late: few files get here

    return sqlite_files.is_claimed(path) or begins_as_database(path)


def begins_as_database(path: str | Path) -> bool:
    """Tell whether a file starts as a database does. Not for a file that SQLite has open. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


@contextmanager
def open_bytes(path: str | Path, name: str | None = None) -> Iterator[BinaryIO]:
    """Open a file (``-``: standard input) for reading, unpacking gzip. Raises SourceError.

    Errors show ``name``, by default the path. A database is refused: only SQLite may open it.
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

    Raises SourceError for a line longer than `MAX_LINE_BYTES`.
    """
    number, rest = 1, b""
    with readable(name):
        # read1 returns at once with the available bytes, so that a slowly growing stream is read as it grows.
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
    """Yield each nonblank line, without its newline, and its number. Raises SourceError as `blocks` does."""
    number = 0
    with readable(name):
        # One line at a time: none is copied twice, and each is yielded as soon as it arrives.
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
