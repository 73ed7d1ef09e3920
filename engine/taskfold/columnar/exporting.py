"""Export: the tables of a source as files that data tools read."""

from __future__ import annotations

import sqlite3
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
from msgspec import Struct

from taskfold.columnar.keys import dictionary_of
from taskfold.columnar.reading import ROWS, SLOT, steps
from taskfold.columnar.schemas import SCHEMAS, TEXT, TIME
from taskfold.columnar.tables import TableBuilder, without_zone
from taskfold.log.registry import LogLike, kind_named
from taskfold.model.errors import SourceError

__all__ = ["FORMATS", "VIEWS", "ExportSummary", "TableFormat", "export"]

TableFormat: TypeAlias = Literal["parquet", "arrow", "csv", "sqlite", "duckdb"]
FORMATS: Final[tuple[TableFormat, ...]] = get_args(TableFormat)
"""The formats of tables; the last two are one file with all of them, and views."""
_DATABASES: Final = ("sqlite", "duckdb")
_ENDINGS: Final[dict[str, TableFormat]] = {".sqlite": "sqlite", ".sqlite3": "sqlite", ".duckdb": "duckdb"}

MOST_SLOTS: Final = 4_096
_LEAST_ROWS: Final = 1 << 12
"""The fewest rows of a group of rows in a slot's file, but for the last one."""

VIEWS: Final[dict[str, str]] = {
    "restarts_by_job": (
        "select a.job, count(*) as restarts from intervals i join allocations a on a.alloc = i.alloc "
        "where i.began_with = 'Restarting' group by a.job"
    ),
    "restarts_by_task": (
        "select alloc, task, count(*) as restarts, min(since) as first_at, max(since) as last_at from intervals "
        "where began_with = 'Restarting' group by alloc, task"
    ),
    "last_deaths": (
        "select a.job, d.* from deaths d join allocations a on a.alloc = d.alloc where d.seq = "
        "(select max(e.seq) from deaths e where e.alloc = d.alloc and e.task = d.task)"
    ),
    "time_in_states": (
        "select alloc, task, state, sum(duration_ns) as total_ns, count(*) as intervals from intervals "
        "where duration_ns is not null group by alloc, task, state"
    ),
}
"""The views of a database, in SQL that SQLite and DuckDB share."""


class ExportSummary(Struct, frozen=True, kw_only=True):
    """The files that an export wrote, and how many rows each table has."""

    files: tuple[Path, ...]
    rows: dict[str, int]


def export(
    *sources: LogLike,
    to: str | Path,
    format: TableFormat | None = None,
    slots: int = 1,
    dialect: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> ExportSummary:
    """Write the tables of sources: a folder of Parquet, Arrow or CSV files, or one SQLite or DuckDB file. O(records).

    The format follows from the ending of ``to``, and is Parquet for a folder. ``slots`` divides the records by the
    CRC-32 of their allocation into so many files of Parquet, each with whole allocations. Memory: tasks and
    allocations, and for a database all tables. Nothing is overwritten. Raises SourceError, ValueError.
    """
    path = Path(to)
    if path.suffix not in _ENDINGS and kind_named(path) is not None:
        raise SourceError(str(path), "is the name of a log: a database of tables ends in .sqlite or .duckdb")
    kind = format or _ENDINGS.get(path.suffix, "parquet")
    if not 1 <= slots <= MOST_SLOTS or (slots > 1 and kind != "parquet"):
        raise ValueError(f"slots: expected 1 to {MOST_SLOTS}, and more than one for Parquet only, found {slots}")
    if path.exists() and (kind in _DATABASES or not path.is_dir() or any(path.iterdir())):
        raise SourceError(str(path), "exists already, and is never overwritten: choose another name")
    builder = TableBuilder()
    writer = _Database(path, kind) if kind in _DATABASES else _Folder(path, kind, slots)
    try:
        for batch, records in steps(*sources, dialect=dialect, on_note=on_note):
            intervals, deaths = builder.add(batch, records)
            writer.write("records", pa.Table.from_batches([batch]))
            writer.write("intervals", intervals)
            writer.write("deaths", deaths)
        writer.write("intervals", builder.open_intervals())
        writer.write("tasks", builder.tasks())
        writer.write("allocations", builder.allocations())
        writer.close()
    except BaseException:
        writer.abort()
        raise
    return ExportSummary(files=tuple(writer.files), rows=writer.rows)


class _Writer(ABC):
    """A counter of rows; a subclass puts them into files."""

    def __init__(self) -> None:
        self.rows = dict.fromkeys(SCHEMAS, 0)
        self.files: list[Path] = []

    def write(self, name: str, table: Any) -> None:
        """Write rows of a table."""
        self.rows[name] += table.num_rows
        self.put(name, table)

    @abstractmethod
    def put(self, name: str, table: Any) -> None:
        """Put rows into a file."""

    @abstractmethod
    def close(self) -> None:
        """Write what waits, and close all files."""

    def abort(self) -> None:
        """Remove the files: half of an export is none."""
        for file in self.files:
            file.unlink(missing_ok=True)


class _Folder(_Writer):
    """A file for each table, and for each slot of the records."""

    def __init__(self, path: Path, kind: str, slots: int) -> None:
        super().__init__()
        self._path, self._kind, self._slots = path, kind, slots
        self._writers: dict[str, Any] = {}
        self._waiting: dict[int, list[Any]] = {}
        path.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, table: Any) -> None:
        if name != "records" or self._slots == 1:
            self._append(name, table)
            return
        codes, allocs = dictionary_of(table.column("alloc").combine_chunks())
        slots = np.array([slot_of(alloc, self._slots) for alloc in allocs], np.int64)[codes]
        for slot in np.unique(slots).tolist():
            waiting = self._waiting.setdefault(slot, [])
            waiting.append(table.filter(pa.array(slots == slot)))
            if sum(part.num_rows for part in waiting) >= max(ROWS // self._slots, _LEAST_ROWS):
                self._flush(slot)

    def _flush(self, slot: int) -> None:
        table = pa.concat_tables(self._waiting.pop(slot)).unify_dictionaries()
        metadata = {**table.schema.metadata, SLOT: f"{slot}/{self._slots}".encode()}
        self._append(f"records-{slot:04}", table.replace_schema_metadata(metadata))

    def _append(self, file: str, table: Any) -> None:
        table = table if self._kind == "parquet" else _readable(table, is_flat=self._kind == "csv")
        if file not in self._writers:
            path = self._path / f"{file}.{self._kind}"
            self.files.append(path)
            self._writers[file] = _WRITERS[self._kind](path, table.schema)
        if table.num_rows:
            self._writers[file].write_table(table)

    def close(self) -> None:
        for slot in sorted(self._waiting):
            self._flush(slot)
        for name, schema in SCHEMAS.items():
            if not any(file.partition("-")[0] == name for file in self._writers):
                self._append(name, schema.empty_table())
        for writer in self._writers.values():
            writer.close()

    def abort(self) -> None:
        for writer in self._writers.values():
            with suppress(pa.ArrowException, OSError):
                writer.close()
        super().abort()


def slot_of(alloc: str, slots: int) -> int:
    """Return the slot of an allocation: the CRC-32 of its ID, modulo their number. O(length)."""
    return zlib.crc32(alloc.encode()) % slots


def _parquet_writer(path: Path, schema: Any) -> Any:
    """Return a writer of Parquet: numbers as differences, texts as numbers."""
    numbers = [field.name for field in schema if field.type == TIME or pa.types.is_integer(field.type)]
    texts = [field.name for field in schema if field.type == TEXT]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=texts,
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
    )


_WRITERS: Final[dict[str, Callable[[Path, Any], Any]]] = {
    "parquet": _parquet_writer,
    "arrow": lambda path, schema: pa.ipc.new_file(path, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")),
    "csv": pa.csv.CSVWriter,
}


def _readable(table: Any, *, is_flat: bool) -> Any:
    """Return a table for readers with fewer types: texts as texts, and, where flat, lists and maps as JSON."""
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if field.type == TEXT:
            column = column.cast(pa.string())
        elif is_flat and (pa.types.is_list(field.type) or pa.types.is_map(field.type)):
            make = dict if pa.types.is_map(field.type) else list
            column = pa.array([msgspec.json.encode(make(value)).decode() for value in column.to_pylist()], pa.string())
        elif is_flat and field.type == TIME:
            column = column.cast(pa.string())
        table = table.set_column(place, field.with_type(column.type), column)
    return table


class _Database(_Writer):
    """One file with all tables, and the views."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__()
        self.files.append(path)
        self._kind = kind
        self._tables: dict[str, list[Any]] = {name: [schema.empty_table()] for name, schema in SCHEMAS.items()}

    def put(self, name: str, table: Any) -> None:
        self._tables[name].append(table)

    def close(self) -> None:
        tables = {
            name: pa.concat_tables([part.replace_schema_metadata(None) for part in parts]).unify_dictionaries()
            for name, parts in self._tables.items()
        }
        (_write_sqlite if self._kind == "sqlite" else _write_duckdb)(self.files[0], tables)


def _statements() -> Iterator[str]:
    yield from (f"create view {name} as {query}" for name, query in VIEWS.items())


def _write_duckdb(path: Path, tables: dict[str, Any]) -> None:
    from taskfold.columnar.tables import _import

    with _import("duckdb").connect(str(path)) as connection:
        for name, table in tables.items():
            connection.register("rows_of_table", without_zone(table))
            connection.execute(f"create table {name} as select * from rows_of_table")  # noqa: S608 - our own names
            connection.unregister("rows_of_table")
        for statement in _statements():
            connection.execute(statement)


def _write_sqlite(path: Path, tables: dict[str, Any]) -> None:
    connection = sqlite3.connect(path)
    try:
        with connection:
            for name, table in tables.items():
                flat = _readable(table, is_flat=True)
                columns = ", ".join(f"{field.name} {_sqlite_type(field.type)}" for field in flat.schema)
                connection.execute(f"create table {name} ({columns})")
                places = ", ".join("?" * len(flat.schema))
                for batch in flat.to_batches(max_chunksize=ROWS):
                    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                    connection.executemany(f"insert into {name} values ({places})", rows)  # noqa: S608 - our own names
            for statement in _statements():
                connection.execute(statement)
    finally:
        connection.close()


def _sqlite_type(kind: Any) -> str:
    return "integer" if pa.types.is_integer(kind) or pa.types.is_boolean(kind) else "text"
