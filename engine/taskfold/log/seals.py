"""Seals: the checksums that make an NDJSON log's writes atomic and its damage visible.

The last line of every write has a last member, ``"Seal"``: the CRC-32 of all bytes since the previous seal. So the
lines of one write count together or not at all, and a flipped bit anywhere is found. Bytes after the last seal were
never acknowledged.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from taskfold.model.errors import SourceError

__all__ = ["LineRun", "Sealed", "Tail", "good_end", "seal", "sealed_lines", "unsealed"]

# A JSON text cannot have an unescaped quote inside, and one brace before the newline closes the record itself.
_SEAL: Final = re.compile(rb',"Seal":"([0-9a-f]{8})"\}\n')
_SEAL_BYTES: Final = len(b',"Seal":"00000000"}\n')
_END: Final = b"}\n"
_SEALED_AND_MORE: Final = re.compile(rb',"Seal":"[0-9a-f]{8}"\}[^\n]')
"""A whole sealed line whose newline was changed to another character."""
_SUM_AT_FIRST: Final = 0xFFFFFFFF
"""The initial value of a CRC-32, and the mask of its result."""


@cache
def _sums_before() -> tuple[int, ...]:
    """Return the inverse CRC-32 table: by a checksum's first byte, the term that removes one byte from it."""
    table = [0] * 256
    for byte in range(256):
        entry = zlib.crc32(bytes([byte ^ 0xFF])) ^ 0xFF000000
        table[entry >> 24] = (entry << 8 & 0xFFFFFFFF) ^ byte
    return tuple(table)


class LineRun(NamedTuple):
    """Consecutive whole lines of a log, without their seals."""

    line: int
    """The number of the first line."""
    lines: bytes
    size: int
    """Their bytes in the file, seals included."""


class Tail(NamedTuple):
    """The bytes after the last seal, from a torn write: they were never acknowledged."""

    line: int
    offset: int
    data: bytes


def seal(lines: bytes) -> bytes:
    r"""Add a seal over all lines to the last one. O(length).

    >>> seal(b'{"Seq":1}\n{"Seq":2}\n')
    b'{"Seq":1}\n{"Seq":2,"Seal":"6bd692b3"}\n'
    """
    body = lines.removesuffix(_END)
    return b'%b,"Seal":"%08x"}\n' % (body, zlib.crc32(body))


def sealed_lines(lines: Iterable[bytes]) -> bytes:
    """Join the lines of one write, each with its newline, and seal them. O(length)."""
    return seal(b"".join([line + b"\n" for line in lines]))


def unsealed(lines: bytes) -> bytes:
    """Remove the seals from lines. O(length)."""
    return _SEAL.sub(_END, lines)


OnDamage: TypeAlias = Callable[[SourceError, int, bytes, bool], bytes]
"""Called with damage: the error, its byte, the damaged bytes, and whether they decode. Returns the good bytes at their
end."""


class Sealed:
    """A reader of blocks of whole lines that checks every seal."""

    def __init__(
        self,
        name: str,
        offset: int = 0,
        *,
        is_record: Callable[[bytes], bool],
        on_tail: Callable[[Tail], None] = lambda _: None,
        on_damage: OnDamage | None = None,
    ) -> None:
        """Take the log's name, the offset of the first block, and a test whether a line is a record.

        ``on_tail`` is called with the bytes after the last seal, ``on_damage`` with damage; without it, damage raises
        SourceError.
        """
        self._name = name
        self._offset = offset
        self._is_record = is_record
        self._on_tail = on_tail
        self._on_damage = on_damage
        self._line = 1
        self._unsealed_parts: list[bytes] = []
        """Whole lines whose seal has not been read; a seal itself is never split between blocks."""
        self._sum = 0
        """The checksum of these lines."""

    def runs(self, blocks: Iterable[tuple[int, bytes]]) -> Iterator[LineRun]:
        """Yield the lines whose seals are correct. O(length).

        Raises SourceError, with line and offset, at a seal that is wrong; the lines before it were yielded.
        """
        for number, block in blocks:
            if not self._unsealed_parts:
                self._line = number
            yield from self._of_block(block)
        rest = self._take_held(b"")
        lines = rest.split(b"\n")[:-1]
        if _SEALED_AND_MORE.search(rest) or not all(map(self._is_record, lines)):
            self._damaged(rest)
        elif rest:
            self._on_tail(Tail(self._line, self._offset, rest))

    def _of_block(self, block: bytes) -> Iterator[LineRun]:
        # One regular expression splits lines and seals: no Python code runs for each seal, as a write may be a single
        # record.
        *sealed, rest = _SEAL.split(block)
        if sealed and not self._fits(sealed[::2], sealed[1::2]):
            yield from self._of_damaged_block(block)
            return
        if sealed:
            lines = b"".join([*self._unsealed_parts, _END.join(sealed[::2]), _END])
            size = sum(map(len, self._unsealed_parts)) + len(block) - len(rest)
            self._unsealed_parts.clear()
            self._sum = 0
            yield LineRun(self._line, lines, size)
            self._line += lines.count(b"\n")
            self._offset += size
        self._hold(rest)

    def _fits(self, texts: list[bytes], sums: list[bytes]) -> bool:
        """Tell whether every checksum is correct; the first covers the lines held from earlier blocks, too."""
        computed = (zlib.crc32(texts[0], self._sum), *map(zlib.crc32, islice(texts, 1, None)))
        return computed == struct.unpack(f">{len(sums)}I", bytes.fromhex(b"".join(sums).decode()))

    def _hold(self, part: bytes) -> None:
        """Hold lines whose seal has not been read."""
        if part:
            self._unsealed_parts.append(part)
            self._sum = zlib.crc32(part, self._sum)

    def _of_damaged_block(self, block: bytes) -> Iterator[LineRun]:
        while block:
            end, bad_end = self._good(block)
            if end:
                yield self._run(self._take_held(block[:end]))
            if not bad_end:
                self._hold(block[end:])
                return
            damaged = self._take_held(block[end:bad_end])
            good = self._damaged(damaged)
            self._pass(damaged.removesuffix(good))
            if good:
                yield self._run(good)
            block = block[bad_end:]

    def _good(self, block: bytes) -> tuple[int, int]:
        """Return the end of the good part of a block, and the end of the first wrong seal; 0 if there is none."""
        end, found_sum = 0, self._sum
        with memoryview(block) as view:
            for match in _SEAL.finditer(block):
                if zlib.crc32(view[end : match.start()], found_sum) != int(match[1], 16):
                    return end, match.end()
                end, found_sum = match.end(), 0
        return end, 0

    def _take_held(self, part: bytes) -> bytes:
        """Return a part with the lines held before it."""
        whole = b"".join([*self._unsealed_parts, part])
        self._unsealed_parts.clear()
        self._sum = 0
        return whole

    def _run(self, whole: bytes) -> LineRun:
        run = LineRun(self._line, unsealed(whole), len(whole))
        self._pass(whole)
        return run

    def _pass(self, part: bytes) -> None:
        """Advance line and offset over bytes that were read."""
        self._line += part.count(b"\n")
        self._offset += len(part)

    def _damaged(self, damaged: bytes) -> bytes:
        """Report damage, at the first line that is no record if there is one; return the good bytes."""
        at, line, is_readable = self._offset, self._line, False
        for text in unsealed(damaged).split(b"\n")[:-1]:
            if not self._is_record(text):
                break
            at += len(text) + 1
            line += 1
        else:
            at, line, is_readable = self._offset, self._line, True
        message = f"the log is damaged at byte {at}: its content differs from what was written"
        if self._on_damage is None:
            raise SourceError(self._name, message, line=line)
        return self._on_damage(SourceError(self._name, message, line=line), at, damaged, is_readable)


def good_end(damaged: bytes) -> bytes:
    """Return the good lines at the end of damaged ones, if only the seal before them was damaged. O(length).

    The checksum is run backwards, byte by byte, from the last seal to the line where it started.
    """
    match = _SEAL.search(damaged, max(len(damaged) - _SEAL_BYTES, 0))
    if match is None:
        return b""
    sums_before = _sums_before()
    end, sum_then = match.start(), int(match[1], 16) ^ _SUM_AT_FIRST
    good = end
    while (start := damaged.rfind(b"\n", 0, end - 1) + 1) > 0:
        for byte in reversed(damaged[start:end]):
            sum_then = sums_before[sum_then >> 24] ^ (sum_then << 8 & 0xFFFFFFFF) ^ byte
        if sum_then == _SUM_AT_FIRST:
            good = start
        end = start
    return damaged[good:] if good < match.start() else b""
