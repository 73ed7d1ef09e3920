"""Converting text to UTF-8: PowerShell's ``>`` writes UTF-16, and many Windows programs a byte order mark."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Final

from taskfold.model.errors import SourceError

__all__ = ["as_utf8"]

_ENCODINGS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"{\0", "utf-16-le"),
    (b"[\0", "utf-16-le"),
    (b"\0{", "utf-16-be"),
    (b"\0[", "utf-16-be"),
)
"""The first bytes of text in other encodings: a byte order mark, or a bracket."""
_LONGEST_BEGINNING: Final = max(len(beginning) for beginning, _ in _ENCODINGS)


def as_utf8(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    r"""Yield text in any Unicode encoding as UTF-8, block by block. O(bytes).

    Raises SourceError for invalid text. An incomplete character at the end is dropped.

    >>> b"".join(as_utf8([b"\xff\xfe{", b"\0}\0"], "x"))
    b'{}'
    """
    rest = iter(blocks)
    start = b""
    while len(start) < _LONGEST_BEGINNING and (block := next(rest, b"")):
        start += block
    encoding = next((encoding for beginning, encoding in _ENCODINGS if start.startswith(beginning)), None)
    if encoding is None:
        if start:
            yield start
        yield from rest
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    block = start
    try:
        while block:
            text = decoder.decode(block).encode()
            if text:
                yield text
            block = next(rest, b"")
    except UnicodeError as error:
        raise SourceError(name, f"is not the {encoding.upper()} that it begins as: {error}") from None
