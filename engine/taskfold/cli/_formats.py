"""Rows for programs: CSV, JSON lines and Parquet, all with the same columns."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from taskfold.cli._guard import Unanswerable, write_line
from taskfold.model.go.timestamps import is_known_time, time_text

__all__ = ["ROW_FORMATS", "DataColumn", "RowFormat", "write_rows"]

RowFormat: TypeAlias = Literal["csv", "jsonl", "parquet"]
ROW_FORMATS: Final[tuple[RowFormat, ...]] = ("csv", "jsonl", "parquet")


class DataColumn(NamedTuple):
    """A column of rows for programs."""

    name: str
    kind: Literal["text", "number", "part", "flag", "time"] = "text"
    """A time is unix nanoseconds; a part is a number from 0 to 1."""


def write_rows(columns: Sequence[DataColumn], rows: Iterable[Sequence[Any]], format: RowFormat) -> int:
    """Write rows to standard output, as they come, and return how many there were. O(rows), in constant memory.

    A value may be None, which is an empty field in CSV. Raises Unanswerable where Parquet cannot be written.
    """
    return _WRITERS[format](columns, rows)


def _text_of_time(time_ns: int | None) -> str | None:
    return time_text(time_ns) if time_ns is not None and is_known_time(time_ns) else None


def _plain(columns: Sequence[DataColumn], row: Sequence[Any]) -> list[Any]:
    """Return the values of a row as texts and numbers."""
    pairs = zip(columns, row, strict=True)
    return [_text_of_time(value) if column.kind == "time" else value for column, value in pairs]


def _write_csv(columns: Sequence[DataColumn], rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")

    def write(values: Iterable[Any]) -> None:
        writer.writerow(values)
        # Lines end as the standard of the format has it nowhere else in this project: as all output does.
        write_line(line.getvalue()[:-1].encode("utf-8", "backslashreplace"))
        line.seek(0)
        line.truncate()

    write(column.name for column in columns)
    for count, row in enumerate(rows, start=1):  # noqa: B007 - the number of the last
        write(str(value).lower() if isinstance(value, bool) else value for value in _plain(columns, row))
    return count


def _write_jsonl(columns: Sequence[DataColumn], rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    names = [column.name for column in columns]
    for count, row in enumerate(rows, start=1):  # noqa: B007 - the number of the last
        write_line(msgspec.json.encode(dict(zip(names, _plain(columns, row), strict=True))))
    return count


def _write_parquet(columns: Sequence[DataColumn], rows: Iterable[Sequence[Any]]) -> int:
    if sys.stdout.isatty():
        raise Unanswerable("Parquet is no text for a terminal: write it into a file, with > FILE.parquet")
    try:
        from taskfold.cli._parquet import write_parquet
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise Unanswerable("--format parquet needs an extra: pip install 'taskfold[columnar]'") from None
    kinds = [(column.name, column.kind) for column in columns]
    return write_parquet(sys.stdout.buffer, kinds, rows)


_WRITERS: Final[Mapping[RowFormat, Callable[[Sequence[DataColumn], Iterable[Sequence[Any]]], int]]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
