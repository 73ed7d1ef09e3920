"""Reading compressed files: gzip, bzip2, xz and Zstandard, recognised by their first bytes.

Adjacent members are one file, as for the tools that compress them.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BufferedReader
from typing import Any, BinaryIO, Final, NamedTuple

from taskfold.model.errors import SourceError

__all__ = ["COMPRESSIONS", "GZIP_MAGIC", "compression_of", "is_damage", "is_unpacked", "unpacked"]

GZIP_MAGIC: Final = b"\x1f\x8b"
"""The first bytes of every gzip file. Source: RFC 1952, 2.3.1."""


class Compression(NamedTuple):
    """A format of compressed files."""

    title: str
    ending: str
    """The ending of names of such files."""
    magic: bytes
    """The first bytes of such files."""
    opens: Callable[[BinaryIO], Any]
    """Opens a compressed stream."""


def _gzip(stream: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=stream)


def _bzip2(stream: BinaryIO) -> Any:
    return import_module("bz2").BZ2File(stream)


def _xz(stream: BinaryIO) -> Any:
    return import_module("lzma").LZMAFile(stream)


def _zstd(stream: BinaryIO) -> Any:
    from taskfold.log.zstd import ZstdFile

    return ZstdFile(stream)


COMPRESSIONS: Final = (
    Compression("gzip", ".gz", GZIP_MAGIC, _gzip),
    Compression("bzip2", ".bz2", b"BZh", _bzip2),
    Compression("xz", ".xz", b"\xfd7zXZ\0", _xz),
    Compression("Zstandard", ".zst", b"\x28\xb5\x2f\xfd", _zstd),
)
"""Every supported compression. Sources: RFC 1952, RFC 8878, the manual of bzip2, and tukaani.org/xz."""

_LONGEST_MAGIC: Final = max(len(compression.magic) for compression in COMPRESSIONS)


def compression_of(beginning: bytes) -> Compression | None:
    """Return the compression of a file that begins like this; None for an uncompressed file."""
    return next((each for each in COMPRESSIONS if beginning.startswith(each.magic)), None)


@contextmanager
def unpacked(stream: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Open a buffered stream, unpacking what is compressed. Raises SourceError if a module for that is missing."""
    compression = compression_of(stream.peek(_LONGEST_MAGIC)[:_LONGEST_MAGIC])  # type: ignore[attr-defined]
    if compression is None:
        yield stream
        return
    try:
        opened = compression.opens(stream)
    except ImportError:
        raise SourceError(
            name,
            f"is compressed with {compression.title}, which this Python cannot read: "
            f"install taskfold[zstd], or pipe the output of `zstd -dc` into `-`"
            if compression.title == "Zstandard"
            else f"is compressed with {compression.title}, which this Python was built without",
        ) from None
    with opened:
        yield opened


def is_unpacked(stream: BinaryIO) -> bool:
    """Tell whether a stream from `unpacked` has compressed data."""
    return not isinstance(stream, BufferedReader)


_ERRORS: Final = (EOFError, gzip.BadGzipFile, zlib.error)
_NAMES: Final = ("LZMAError", "ZstdError")


def is_damage(error: Exception) -> bool:
    """Tell whether an error means that compressed data is incomplete or damaged."""
    # The modules of the others are imported on demand; bz2 raises an OSError without a number.
    return (
        isinstance(error, _ERRORS) or type(error).__name__ in _NAMES or (type(error) is OSError and error.errno is None)
    )
