"""Reading lines of JSON from plain or compressed files and from standard input, in bounded memory."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

from taskfold.log.compression import is_damage, unpacked
from taskfold.model.errors import SourceError

__all__ = [
    "BLOCK_BYTES",
    "MAX_LINE_BYTES",
    "SQLITE_MAGIC",
    "begins_as_database",
    "blocks",
    "is_database",
    "open_bytes",
    "open_packed",
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


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Convert errors of the system and of decompression while reading. Raises SourceError with the file's name."""
    try:
        yield
    except IsADirectoryError:
        raise SourceError(name, "is a directory; name a file in it, or a folder of JSON files") from None
    except FileNotFoundError:
        raise SourceError(name, "no such file") from None
    except Exception as error:
        if is_damage(error):
            raise SourceError(name, f"the compressed data is cut off or damaged ({error})") from None
        if isinstance(error, OSError):
            raise SourceError(name, f"cannot be read: {error.strerror or error}") from None
        raise


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
def open_packed(path: str | Path, name: str | None = None) -> Iterator[io.BufferedReader]:
    """Open a file (``-``: standard input) for reading, without unpacking. Raises SourceError.

    Errors show ``name``, by default the path. A database is refused: only SQLite may open it.
    """
    is_input = str(path) == "-"
    name = name or str(path)
    with readable(name):
        if not is_input and is_database(path):
            raise SourceError(name, "is an SQLite database")
        raw: BinaryIO = sys.stdin.buffer if is_input else Path(path).open("rb", _BUFFER_BYTES)  # noqa: SIM115 - closed below
        try:
            yield raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[arg-type]
        finally:
            if not is_input:
                raw.close()


@contextmanager
def open_bytes(path: str | Path, name: str | None = None) -> Iterator[BinaryIO]:
    """Open a file (``-``: standard input) for reading, unpacking what is compressed. Raises SourceError.

    Errors show ``name``, by default the path.
    """
    name = name or str(path)
    with open_packed(path, name) as packed, readable(name), unpacked(packed, name) as stream:
        yield stream


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


def _too_long(name: str, number: int) -> SourceError:
    return SourceError(name, f"the line is longer than {MAX_LINE_BYTES >> 20} MiB", line=number)
