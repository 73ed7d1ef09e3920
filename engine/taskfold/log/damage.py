"""What a scan of a log finds: its records, and what is not as it was written.

What a seal or a checksum does not vouch for is not a record here, however good it looks.
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

__all__ = ["MAX_DAMAGES", "Damage", "LogCheck", "Row", "Scanned", "records_of_rows", "stand_in"]

MAX_DAMAGES: Final = 1_000
"""How many damages a check keeps; it counts all of them."""


class Damage(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """Something in a log that is not as it was written."""

    message: str
    line: int | None = None
    offset: int | None = None
    """The byte of the file where it begins."""
    seq: int | None = None
    is_unreadable: bool = False
    """It is no record at all, where others are not the ones that were written."""


Scanned: TypeAlias = Record | Damage


class LogCheck(Struct, kw_only=True):
    """What is to be said of a log."""

    name: str
    header: LogHeader
    """With an empty dialect where it cannot be read."""
    records: int = 0
    """How many records are whole."""
    newest: int = 0
    """The newest position of them."""
    damages: list[Damage] = []
    """The first of them."""
    damages_total: int = 0
    unacknowledged_bytes: int = 0
    """What a write that was cut off left at the end: nobody was told that it was written."""

    @property
    def is_whole(self) -> bool:
        """Whether everything is as it was written."""
        return not self.damages_total

    def add(self, damage: Damage) -> None:
        """Count a damage, and keep it while there is room."""
        self.damages_total += 1
        if len(self.damages) < MAX_DAMAGES:
            self.damages.append(damage)


def stand_in(dialect: str | Dialect | None, source: int = FORMAT) -> LogHeader:
    """Return what stands for a header that cannot be read."""
    header = LogHeader(taskfold=source, dialect="") if dialect is None else new_header(dialect)
    return msgspec.structs.replace(header, taskfold=source)


Row: TypeAlias = tuple[int, Any, Any, Any, Any, Any, Any]
"""Seq, alloc, version, index, id, checksum and body, as a database has them."""


def records_of_rows(rows: Iterator[Row | Damage], header: LogHeader) -> Iterator[Scanned]:
    """Yield the records of rows, each checked by its checksum, and its columns by its body."""
    decode = record_decoder(header.taskfold)
    for row in rows:
        if isinstance(row, Damage):
            yield row
            continue
        seq, alloc, version, index, known_by, checksum, body = row
        if not isinstance(body, bytes) or zlib.crc32(body) != checksum:
            yield Damage(message="the record is damaged: its checksum is another one", seq=seq)
            continue
        try:
            record = decode(body)
        except msgspec.DecodeError as error:
            yield Damage(message=f"not a record of a taskfold log: {error}", seq=seq)
            continue
        columns = record.seq, record.alloc, record.version, record.index, None if record.id is UNSET else record.id
        if (seq, alloc, version, index, known_by) != columns:
            yield Damage(message="the columns of the row say something else than its record", seq=seq)
        yield record
