"""The parts of an NDJSON log: the header, the runs of lines sealed together, and their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import BinaryIO

import msgspec

from taskfold.log.entries import decoder
from taskfold.log.header import UNSEALED, read_header
from taskfold.log.lines import blocks
from taskfold.log.ndjson.listing import is_listing, listing_header
from taskfold.log.seals import LineRun, Sealed, Tail
from taskfold.log.upcast import upcaster
from taskfold.model.errors import SourceError
from taskfold.model.record import LogHeader, Record

__all__ = [
    "decoded",
    "is_record",
    "opened",
    "read_records",
    "runs_of",
    "tail_note",
    "unsealed_runs",
]


def tail_note(name: str, tail: Tail) -> str:
    """Return the note that the end of a log was not read."""
    return f"{name}: {len(tail.data)} bytes after byte {tail.offset} were never acknowledged, and were skipped"


def read_records(
    stream: BinaryIO, name: str, on_tail: Callable[[Tail], None] = lambda _: None
) -> tuple[LogHeader, Iterator[list[Record]]]:
    """Return the header of an NDJSON log, or of a listing, and its records in blocks, read lazily. O(records).

    Raises SourceError, naming the line, for an invalid line and for damage. ``on_tail`` is called with a torn write at
    the end.
    """
    header, runs = opened(stream, name, on_tail, with_listings=True)
    return header, (records for run in runs for records in decoded(run, name, header.taskfold))


def opened(
    stream: BinaryIO, name: str, on_tail: Callable[[Tail], None], *, with_listings: bool = False
) -> tuple[LogHeader, Iterator[LineRun]]:
    """Return the header of a log, or of a listing if that will do, and the runs of its lines. Raises SourceError."""
    of_blocks = blocks(stream, name)
    _, first = next(of_blocks, (1, b""))
    line, newline, rest = first.partition(b"\n")
    if with_listings and is_listing(line):
        lines = chain([(2, rest)], of_blocks)
        return listing_header(line, name), unsealed_runs(lines, len(line) + len(newline), on_tail)
    header = read_header(line + newline, name)
    return header, runs_of(chain([(2, rest)], of_blocks), name, header, len(line) + len(newline), on_tail)


def runs_of(
    of_blocks: Iterable[tuple[int, bytes]],
    name: str,
    header: LogHeader,
    offset: int = 0,
    on_tail: Callable[[Tail], None] = lambda _: None,
) -> Iterator[LineRun]:
    """Yield whole lines of a log, with their seals checked if its format has seals. Raises SourceError."""
    if header.taskfold != UNSEALED:
        yield from Sealed(name, offset, is_record=is_record, on_tail=on_tail).runs(of_blocks)
    else:
        yield from unsealed_runs(of_blocks, offset, on_tail)


def unsealed_runs(
    of_blocks: Iterable[tuple[int, bytes]], offset: int, on_tail: Callable[[Tail], None]
) -> Iterator[LineRun]:
    """Yield the whole lines of a log without seals, whose first line is at this offset."""
    for number, block in of_blocks:
        end = block.rfind(b"\n") + 1
        yield LineRun(number, block[:end], end)
        if end < len(block):
            on_tail(Tail(number + block.count(b"\n"), offset + end, block[end:]))
        offset += end


def is_record(line: bytes) -> bool:
    """Tell whether a line is a record."""
    try:
        decoder().decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def decoded(run: LineRun, name: str, source: int) -> Iterator[list[Record]]:
    """Decode the records of a run in a given format."""
    bring = upcaster(source)
    try:
        _check_utf8(run.lines)
        yield decoder().decode_lines(run.lines if bring is None else bring(run.lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        yield from ([record] for record in _one_by_one(run, name, bring))


def _check_utf8(text: bytes) -> None:
    """Check text that the decoder keeps as raw JSON. Raises UnicodeDecodeError."""
    if not text.isascii():
        text.decode()


def _one_by_one(run: LineRun, name: str, bring: Callable[[bytes], bytes] | None) -> Iterator[Record]:
    """Decode a run record by record, up to the line that is invalid. Raises SourceError with its number."""
    for place, line in enumerate(run.lines.split(b"\n"), start=run.line):
        if line.strip():
            try:
                _check_utf8(line)
                record = decoder().decode(line if bring is None else bring(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
                raise SourceError(name, f"not a record of a taskfold log: {error}", line=place) from None
            yield record
