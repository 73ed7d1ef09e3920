"""The lines of an NDJSON log: its header, the runs of lines that are sealed together, and the records in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from taskfold.log.contract import check_format, check_header
from taskfold.log.entries import decoder
from taskfold.log.lines import blocks
from taskfold.log.seals import Run, Sealed, Tail, seal, unsealed
from taskfold.log.upcast import upcaster
from taskfold.model.errors import DialectError, LogError, SourceError, UnreadableLog
from taskfold.model.record import LogHeader, Record

__all__ = [
    "UNSEALED",
    "DamagedHeader",
    "header_line",
    "header_of",
    "header_text",
    "is_header",
    "is_new",
    "is_record",
    "read_header",
    "read_records",
    "tail_note",
]

UNSEALED: Final = 1
"""The record format whose lines have no seals."""

_FIRST_WITH_UUID: Final = 3
_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_decode_header: Final = msgspec.json.Decoder(LogHeader).decode
_encode: Final = msgspec.json.Encoder().encode


class _Format(Struct):
    """What a header of any format says."""

    taskfold: int


def is_new(path: str | Path) -> bool:
    """Tell whether a log would be begun there: at a path that has nothing, or an empty file."""
    file = Path(path)
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def is_header(line: bytes) -> bool:
    """Tell whether a line says that it is the header of a taskfold log."""
    return line.lstrip().startswith(b'{"taskfold":')


class DamagedHeader(UnreadableLog):
    """A header is none, or not the one that was written."""


def header_line(header: LogHeader) -> bytes:
    """Return the first line of a log: its header, sealed."""
    return seal(_encode(header) + b"\n")


def header_text(header: LogHeader) -> str:
    """Return the header as databases have it: the line of a file, with its seal."""
    return header_line(header).decode().removesuffix("\n")


def header_of(line: bytes) -> LogHeader:
    """Return the header that a line says. Raises LogError and DialectError, saying what is wrong with it."""
    try:
        source = msgspec.json.decode(unsealed(line), type=_Format).taskfold
        check_format(source)
        if source != UNSEALED and b'"Seal"' not in line:
            raise UnreadableLog(f"it has no seal; the format of a log without seals is {UNSEALED}")
        if source != UNSEALED and seal(unsealed(line)) != line:
            raise DamagedHeader("it is damaged: what is there is not what was written")
        header = _decode_header(line if source == UNSEALED else unsealed(line))
        if source >= _FIRST_WITH_UUID and not _UUID.fullmatch(header.uuid):
            raise DamagedHeader(f"expected a UUID, found {header.uuid!r}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedHeader(str(error)) from None
    check_header(header)
    return header


def read_header(line: bytes, name: str) -> LogHeader:
    """Return the header that a log's first line says. Raises SourceError."""
    try:
        return header_of(line)
    except (LogError, DialectError) as error:
        raise SourceError(name, f"not the header of a taskfold log: {error}", line=1) from None


def tail_note(name: str, tail: Tail) -> str:
    """Say what was not read at the end of a log."""
    return f"{name}: {len(tail.data)} bytes after byte {tail.offset} were never acknowledged, and were passed over"


def read_records(
    stream: BinaryIO, name: str, on_tail: Callable[[Tail], None] = lambda _: None
) -> tuple[LogHeader, Iterator[list[Record]]]:
    """Return the header of an NDJSON log, and its records in blocks, read as they are asked for. O(records).

    It needs constant memory. Raises SourceError, naming the line, for a line that is neither, and for damage;
    ``on_tail`` is told of what was never acknowledged at the end, and is not read.
    """
    header, runs = opened(stream, name, on_tail)
    return header, (records for run in runs for records in decoded(run, name, header.taskfold))


def opened(stream: BinaryIO, name: str, on_tail: Callable[[Tail], None]) -> tuple[LogHeader, Iterator[Run]]:
    """Return the header of a log, and what comes after it. Raises SourceError."""
    of_blocks = blocks(stream, name)
    _, first = next(of_blocks, (1, b""))
    line, newline, rest = first.partition(b"\n")
    header = read_header(line + newline, name)
    return header, runs_of(chain([(2, rest)], of_blocks), name, header, len(line) + len(newline), on_tail)


def runs_of(
    of_blocks: Iterable[tuple[int, bytes]],
    name: str,
    header: LogHeader,
    offset: int = 0,
    on_tail: Callable[[Tail], None] = lambda _: None,
) -> Iterator[Run]:
    """Yield whole lines of a log, checked where its format has seals. Raises SourceError."""
    if header.taskfold != UNSEALED:
        yield from Sealed(name, offset, is_record=is_record, on_tail=on_tail).runs(of_blocks)
        return
    for number, block in of_blocks:
        end = block.rfind(b"\n") + 1
        yield Run(number, block[:end], end)
        if end < len(block):
            on_tail(Tail(number + block.count(b"\n"), offset + end, block[end:]))
        offset += end


def is_record(line: bytes) -> bool:
    """Tell whether a line is a record, and nothing more."""
    try:
        decoder().decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def decoded(run: Run, name: str, source: int) -> Iterator[list[Record]]:
    """Yield the records of a run that is of a format."""
    bring = upcaster(source)
    try:
        _check_utf8(run.lines)
        yield decoder().decode_lines(run.lines if bring is None else bring(run.lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        yield from ([record] for record in _one_by_one(run, name, bring))


def _check_utf8(text: bytes) -> None:
    """Check what is not decoded, since it stays JSON text, as well. Raises UnicodeDecodeError."""
    if not text.isascii():
        text.decode()


def _one_by_one(run: Run, name: str, bring: Callable[[bytes], bytes] | None) -> Iterator[Record]:
    """Yield the records of a run up to the line that cannot be read, and name that line."""
    for place, line in enumerate(run.lines.split(b"\n"), start=run.line):
        if line.strip():
            try:
                _check_utf8(line)
                record = decoder().decode(line if bring is None else bring(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
                raise SourceError(name, f"not a record of a taskfold log: {error}", line=place) from None
            yield record
