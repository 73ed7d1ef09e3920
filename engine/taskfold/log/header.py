"""The text of a log's header: the first line of a file, and the same text in a database."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Struct

from taskfold.log.contract import check_format, check_header
from taskfold.log.seals import seal, unsealed
from taskfold.model.errors import DialectError, LogError, SourceError, UnreadableLog
from taskfold.model.record import LogHeader

__all__ = [
    "UNSEALED",
    "DamagedHeader",
    "header_line",
    "header_of",
    "header_text",
    "is_header",
    "read_header",
]

UNSEALED: Final = 1
"""The record format whose lines have no seals."""

_FIRST_WITH_UUID: Final = 3
_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_decode_header: Final = msgspec.json.Decoder(LogHeader).decode
_encode: Final = msgspec.json.Encoder().encode


class _Format(Struct):
    """The fields that the header of every format has."""

    taskfold: int


def is_header(line: bytes) -> bool:
    """Tell whether a line is the header of a taskfold log."""
    return line.lstrip().startswith(b'{"taskfold":')


class DamagedHeader(UnreadableLog):
    """The header is missing, or differs from the one that was written."""


def header_line(header: LogHeader) -> bytes:
    """Encode a header as the first line of a log, with its seal."""
    return seal(_encode(header) + b"\n")


def header_text(header: LogHeader) -> str:
    """Encode a header as a database stores it: the line of a file, with its seal, without the newline."""
    return header_line(header).decode().removesuffix("\n")


def header_of(line: bytes) -> LogHeader:
    """Decode a header line. Raises LogError and DialectError, naming the problem."""
    try:
        source = msgspec.json.decode(unsealed(line), type=_Format).taskfold
        check_format(source)
        if source != UNSEALED and b'"Seal"' not in line:
            raise UnreadableLog(f"it has no seal; the format of a log without seals is {UNSEALED}")
        if source != UNSEALED and seal(unsealed(line)) != line:
            raise DamagedHeader("it is damaged: it differs from what was written")
        header = _decode_header(line if source == UNSEALED else unsealed(line))
        if source >= _FIRST_WITH_UUID and not _UUID.fullmatch(header.uuid):
            raise DamagedHeader(f"expected a UUID, found {header.uuid!r}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedHeader(str(error)) from None
    check_header(header)
    return header


def read_header(line: bytes, name: str) -> LogHeader:
    """Decode the first line of a log. Raises SourceError."""
    try:
        return header_of(line)
    except (LogError, DialectError) as error:
        raise SourceError(name, f"not the header of a taskfold log: {error}", line=1) from None
