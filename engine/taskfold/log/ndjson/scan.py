"""Scanning a file of JSON lines: the whole file, where reading would stop at damage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from stat import S_ISREG
from typing import Any, BinaryIO

import msgspec

from taskfold.log.compression import is_unpacked
from taskfold.log.damage import Damage, LogCheck, Scanned, placeholder_header
from taskfold.log.header import UNSEALED, is_header, read_header
from taskfold.log.lines import blocks, open_bytes
from taskfold.log.ndjson.offsets import Part
from taskfold.log.ndjson.records import is_record, unsealed_runs
from taskfold.log.seals import LineRun, Sealed, Tail, good_end, seal, unsealed
from taskfold.log.upcast import record_decoder
from taskfold.model.dialect import Dialect
from taskfold.model.errors import SourceError
from taskfold.model.record import FORMAT, LogHeader

__all__ = ["scan"]


def scan(
    name: str, dialect: str | Dialect | None = None, *, is_thorough: bool = False
) -> tuple[LogCheck, Iterator[Scanned]]:
    """Return a check to be filled, and everything in a log: records and damage. Raises SourceError."""
    scanned = _lines(name, dialect, is_thorough=is_thorough)
    check = next(scanned)
    assert isinstance(check, LogCheck)
    return check, (each for each in scanned if not isinstance(each, LogCheck))


def _lines(name: str, dialect: str | Dialect | None, *, is_thorough: bool) -> Iterator[LogCheck | Scanned]:
    """Yield a check to be filled, and then records and damage in file order.

    The file is opened once, since standard input and pipes cannot be read again.
    """
    damaged: list[Damage] = []
    with open_bytes(name) as stream:
        of_blocks = blocks(stream if name == "-" else _as_it_is(stream), name)
        _, first = next(of_blocks, (1, b""))
        first, newline, rest = first.partition(b"\n")
        start = len(first) + len(newline)
        try:
            header = _header(first + newline, name, dialect)
        except SourceError as error:
            if dialect is None and not (is_thorough and _is_damaged_header(first + newline)):
                raise
            # The presence of seals shows the format.
            header = placeholder_header(dialect, UNSEALED if rest and unsealed(rest) == rest else FORMAT)
            damaged.append(Damage(message=_without(error, name), line=1, offset=0))
        check = LogCheck(name=name, header=header)
        yield check

        def on_tail(tail: Tail) -> None:
            check.unacknowledged_bytes = len(tail.data)

        def on_damage(error: SourceError, offset: int, data: bytes, is_readable: bool) -> bytes:  # noqa: FBT001 - a callback
            good = good_end(data)
            bad = data.count(b"\n", 0, len(data) - len(good))
            message = f"{_without(error, name)} ({bad} lines were written together)"
            damaged.append(Damage(message=message, line=error.line, offset=offset, is_unreadable=not is_readable))
            return good

        numbered = chain([(2, rest)], of_blocks)
        has_seals = check.header.taskfold != UNSEALED
        sealed = Sealed(name, start, is_record=is_record, on_tail=on_tail, on_damage=on_damage)
        try:
            for run in sealed.runs(numbered) if has_seals else unsealed_runs(numbered, start, on_tail):
                yield from damaged
                damaged.clear()
                yield from _of_run(run, check.header.taskfold, None if has_seals else start)
                start += run.size
        except SourceError as error:  # a truncated gzip file, or a failing disk
            message = f"{_without(error, name)}; nothing after it was read"
            damaged.append(Damage(message=message, line=error.line, is_unreadable=True))
        yield from damaged


def _as_it_is(stream: BinaryIO) -> Any:
    """Return a stream that ends where a file ends now, even if it grows; a pipe is unchanged."""
    if is_unpacked(stream):
        return stream
    status = os.fstat(stream.fileno())
    return Part(stream, 0, status.st_size) if S_ISREG(status.st_mode) else stream


def _header(first: bytes, name: str, dialect: str | Dialect | None) -> LogHeader:
    """Decode the header in the first line. Raises SourceError."""
    if dialect is None and not is_header(first):
        raise SourceError(name, "is not a taskfold log")
    return read_header(first, name)


def _is_damaged_header(first: bytes) -> bool:
    """Tell whether a header line is damaged, rather than of another version of taskfold."""
    match = re.match(rb'\{"taskfold":([0-9]{1,9}),', first)
    source = int(match[1]) if match else 0
    if source == UNSEALED:
        try:
            msgspec.json.decode(first, type=LogHeader)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True
        return False
    return UNSEALED < source <= FORMAT and seal(unsealed(first)) != first


def _of_run(run: LineRun, source: int, offset: int | None) -> Iterator[Scanned]:
    """Yield the records of whole lines, and damage for invalid ones; ``offset`` is their file offset, if known."""
    decode = record_decoder(source)
    for line, text in enumerate(run.lines.split(b"\n"), start=run.line):
        if text.strip():
            try:
                yield decode(text)
            except msgspec.DecodeError as error:
                message = f"not a record of a taskfold log: {error}"
                yield Damage(message=message, line=line, offset=offset, is_unreadable=True)
        if offset is not None:
            offset += len(text) + 1


def _without(error: SourceError, name: str) -> str:
    """Return an error's text without the location."""
    return str(error).removeprefix(name).partition(": ")[2]
