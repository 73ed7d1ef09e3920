"""The result of scanning a log: its intact records, and its damage.

A record that no seal or checksum confirms counts as damage, however plausible it looks.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from taskfold.log.contract import new_header
from taskfold.log.upcast import record_decoder
from taskfold.model.dialect import Dialect
from taskfold.model.record import FORMAT, LogHeader, Record

__all__ = ["MAX_DAMAGES", "Damage", "LogCheck", "RecordRow", "Scanned", "placeholder_header", "records_of_rows"]

MAX_DAMAGES: Final = 1_000
"""The most damages that a check stores; it counts all."""


class Damage(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """A part of a log that differs from the written one."""

    message: str
    line: int | None = None
    offset: int | None = None
    """Its first byte in the file."""
    seq: int | None = None
    is_unreadable: bool = False
    """It cannot be decoded at all; otherwise it decodes, but is not the record that was written."""


Scanned: TypeAlias = Record | Damage


class LogCheck(Struct, kw_only=True):
    """The result of checking a log."""

    name: str
    header: LogHeader
    """Its dialect is empty if the header cannot be read."""
    records: int = 0
    """The number of intact records."""
    newest: int = 0
    """The newest position among them."""
    damages: list[Damage] = []
    """The first `MAX_DAMAGES` of them."""
    damages_total: int = 0
    unacknowledged_bytes: int = 0
    """The size of a torn write at the end: it was never acknowledged."""

    @property
    def is_whole(self) -> bool:
        """Whether there is no damage."""
        return not self.damages_total

    def add(self, damage: Damage) -> None:
        """Count a damage, and store it while there is room."""
        self.damages_total += 1
        if len(self.damages) < MAX_DAMAGES:
            self.damages.append(damage)


def placeholder_header(dialect: str | Dialect | None, source: int = FORMAT) -> LogHeader:
    """Make a placeholder for a header that cannot be read."""
    header = LogHeader(taskfold=source, dialect="") if dialect is None else new_header(dialect)
    return msgspec.structs.replace(header, taskfold=source)


RecordRow: TypeAlias = tuple[int, Any, Any, Any, Any, Any, Any]
"""Seq, alloc, version, index, id, checksum and body: the columns of a database row."""


def records_of_rows(rows: Iterator[RecordRow | Damage], header: LogHeader) -> Iterator[Scanned]:
    """Yield the records of database rows, each verified against its checksum and its columns."""
    decode = record_decoder(header.taskfold)
    for row in rows:
        if isinstance(row, Damage):
            yield row
            continue
        seq, alloc, version, index, known_by, checksum, body = row
        if not isinstance(body, bytes) or zlib.crc32(body) != checksum:
            yield Damage(message="the record is damaged: its checksum does not match", seq=seq)
            continue
        try:
            record = decode(body)
        except msgspec.DecodeError as error:
            yield Damage(message=f"not a record of a taskfold log: {error}", seq=seq)
            continue
        columns = record.seq, record.alloc, record.version, record.index, None if record.id is UNSET else record.id
        if (seq, alloc, version, index, known_by) != columns:
            yield Damage(message="the columns of the row differ from its record", seq=seq)
        yield record
