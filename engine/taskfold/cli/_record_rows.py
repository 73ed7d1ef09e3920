"""Records as rows for programs, and their selection by type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from taskfold.cli._formats import DataColumn
from taskfold.model.events import Terminated, wire_type
from taskfold.model.record import Record
from taskfold.nomad.record_texts import message_text

__all__ = ["RECORD_COLUMNS", "has_type", "record_row"]

RECORD_COLUMNS: Final = (
    DataColumn("seq", "number"),
    DataColumn("index", "number"),
    DataColumn("time", "time"),
    DataColumn("alloc"),
    DataColumn("version", "number"),
    DataColumn("task"),
    DataColumn("type"),
    DataColumn("exit_code", "number"),
    DataColumn("signal", "number"),
    DataColumn("message"),
    DataColumn("event"),
)
"""The columns of a record: the event itself is JSON, and says all that the others leave out."""


def record_row(record: Record) -> Iterator[Any]:
    """Yield the values of a record's columns. O(length)."""
    event = record.event
    yield from (record.seq, record.index, record.time_ns, record.alloc, record.version, record.task or None)
    yield wire_type(event)
    yield from (event.exit_code, event.signal or None) if isinstance(event, Terminated) else (None, None)
    yield message_text(record)
    yield msgspec.json.encode(event).decode()


def has_type(record: Record, types: frozenset[str] | None) -> bool:
    """Tell whether a record is of one of these types, in small letters; None means any."""
    return types is None or wire_type(record.event).lower() in types
