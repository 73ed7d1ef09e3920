"""The offsets of a log's records in its file: a sparse table, so that reading can start near any position."""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import BinaryIO, Final

from taskfold.log.lines import BLOCK_BYTES
from taskfold.model.record import Record

__all__ = ["Blocks", "Part"]

_SPAN_BITS: Final = 32
_LAST_BLOCK: Final = (1 << _SPAN_BITS) - 1


class Blocks:
    """A sparse table from positions to file offsets, and from allocations to blocks.

    It stores two integers for each 256 KiB of file, and one for each allocation.
    """

    def __init__(self) -> None:
        self._seqs = array("Q")
        """The position before each block."""
        self._offsets = array("Q")
        self._spans: dict[str, int] = {}
        """The first and the last block of each allocation, packed into one integer, which takes less memory than a
        pair."""
        self._bytes = 0
        """The size of the newest block so far."""

    def begin(self, offset: int) -> None:
        """Start with the first record, at this offset."""
        self._seqs.append(0)
        self._offsets.append(offset)

    def note_all(self, records: Sequence[Record]) -> None:
        """Note records of the newest block. O(records)."""
        block, spans = len(self._seqs) - 1, self._spans
        for alloc in {record.alloc for record in records}:
            span = spans.get(alloc)
            if span is None:
                spans[alloc] = block << _SPAN_BITS | block
            elif span & _LAST_BLOCK != block:
                spans[alloc] = span & ~_LAST_BLOCK | block

    def end(self, seq: int, size: int) -> None:
        """Note that the file grew by so many bytes, up to a position; a full block is closed, and the next begins."""
        self._bytes += size
        if self._bytes >= BLOCK_BYTES:
            offset = self._offsets[-1] + self._bytes
            self._bytes = 0
            self._offsets.append(offset)
            self._seqs.append(seq)

    def of(self, seq: int) -> int:
        """Return the block with the record after a position."""
        return max(bisect_right(self._seqs, seq) - 1, 0)

    def span(self, alloc: str) -> tuple[int, int]:
        """Return the first and the last block of an allocation."""
        span = self._spans.get(alloc, 0)
        return span >> _SPAN_BITS, span & _LAST_BLOCK

    def start(self, block: int) -> tuple[int, int]:
        """Return the offset of a block, and the position before it."""
        return self._offsets[block], self._seqs[block]

    def end_of(self, block: int) -> int:
        """Return the end of a block; the newest has none."""
        return self._offsets[block + 1] if block + 1 < len(self._offsets) else sys.maxsize


class Part:
    """A part of a file, read with pread: a fork that reads on moves nobody else's file position."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self._start = start
        self._end = end

    def read(self, size: int) -> bytes:
        """Read so many bytes, or the remaining ones."""
        size = min(size, self._end - self._start)
        if hasattr(os, "pread"):
            data = os.pread(self._file.fileno(), size, self._start)
        else:  # on Windows, which has no forks
            self._file.seek(self._start)
            data = self._file.read(size)
        self._start += len(data)
        return data
