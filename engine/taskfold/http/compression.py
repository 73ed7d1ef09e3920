"""Compressed answers, as the agents compress them."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import Final

__all__ = ["accepts_gzip", "gzip_body", "gzip_small"]

_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""No time, no name, an unknown system: what Go writes."""

_LEVEL: Final = 1
"""The fastest: it makes a body of 9 kB 2.2 kB in 43 µs, where the best makes it 2.0 kB in 118 µs."""

_SYNC: Final = b"\x00\x00\xff\xff"
"""How an empty stored block ends."""

_HEADER_BITS: Final = 11
"""The header of that block, and what pads it, are at most so many bits before its end."""


def accepts_gzip(value: bytes) -> bool:
    """Tell whether an Accept-Encoding header takes gzip: by its name, with a weight that is not zero.

    >>> accepts_gzip(b"deflate, gzip;q=0.5"), accepts_gzip(b"gzip;q=0, *")
    (True, False)
    """
    if value in {b"gzip", b"gzip, deflate"}:
        return True
    for coding in value.split(b","):
        name, *parameters = (part.strip().lower() for part in coding.split(b";"))
        if name == b"gzip":
            return all(_weight(parameter) > 0 for parameter in parameters if parameter.startswith(b"q="))
    return False


def _weight(parameter: bytes) -> float:
    """Return the weight that a parameter tells; none where it is no number, since Go drops such a coding."""
    try:
        return float(parameter[2:])
    except ValueError:
        return 0.0


def gzip_body(data: bytes) -> bytes:
    """Return a body compressed. O(length)."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@lru_cache(maxsize=256)  # they are the same few errors
def gzip_small(data: bytes) -> bytes:
    """Return a short text compressed to the length that Go gives it, since that length is told.

    >>> len(gzip_small(b"Invalid method"))
    38
    """
    return _HEADER + _deflated(data) + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def _deflated(data: bytes) -> bytes:
    """Return the raw stream as Go ends it: the data in blocks that are not the last, then an empty one that is."""
    packer = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS)
    blocks = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
    # zlib's own empty block is like Go's but for the bit that calls it the last, which stands where the data ended.
    whole = int.from_bytes(blocks, "little")
    end = (len(blocks) - len(_SYNC)) * 8
    for bit in range(end - 3, end - _HEADER_BITS, -1):
        last = (whole | 1 << bit).to_bytes(len(blocks), "little")
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            unpacked = unpacker.decompress(last)
        except zlib.error:
            continue
        if unpacker.eof and unpacked == data and not unpacker.unused_data:
            return last
    return blocks + b"\x03\x00"
