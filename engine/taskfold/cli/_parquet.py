"""Rows as Parquet: it needs the extra ``columnar``, and is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO, Final

import pyarrow as pa
from pyarrow import parquet

from taskfold.model.go.timestamps import is_known_time

__all__ = ["write_parquet"]

_ROWS_AT_ONCE: Final = 65_536
_TYPES: Final[dict[str, Any]] = {
    "text": pa.string(),
    "number": pa.int64(),
    "part": pa.float64(),
    "flag": pa.bool_(),
    "time": pa.timestamp("ns", tz="UTC"),
}


def write_parquet(stream: BinaryIO, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]]) -> int:
    """Write rows as Parquet, a row group for each 65,536, and return how many there were.

    A column is its name and its kind: text, number, part, flag, or time (unix nanoseconds; an unknown one is null).
    """
    schema = pa.schema([pa.field(name, _TYPES[kind]) for name, kind in columns])
    count = 0
    with parquet.ParquetWriter(pa.PythonFile(stream, mode="w"), schema, compression="zstd") as writer:
        for block in _blocks(rows):
            count += len(block)
            arrays = [
                pa.array(_times(values) if kind == "time" else list(values), _TYPES[kind])
                for (_, kind), values in zip(columns, zip(*block, strict=True), strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return count


def _times(times: Iterable[int | None]) -> list[int | None]:
    return [time_ns if is_known_time(time_ns) else None for time_ns in times]


def _blocks(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    rest = iter(rows)
    while block := list(islice(rest, _ROWS_AT_ONCE)):
        yield block
