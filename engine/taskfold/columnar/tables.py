"""The five tables of a source: records, tasks, intervals, allocations, deaths, for any tool that reads Arrow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa

from taskfold.columnar.conversion import header_of, records_of, times_of, with_header
from taskfold.columnar.fold import ColumnarFold
from taskfold.columnar.reading import read, steps
from taskfold.columnar.schemas import ALLOCATIONS, DEATHS, INTERVALS, RECORDS, SCHEMAS, TASKS, TEXT, TIME
from taskfold.fold.course import CourseFold, Death
from taskfold.log.registry import LogLike
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import Refused
from taskfold.model.events import wire_type
from taskfold.model.record import FORMAT, LogHeader, Record
from taskfold.nomad.snapshot import Snapshot

__all__ = ["DataTable", "DataTables", "TableBuilder", "tables"]

_ROWS_SHOWN: Final = 20


class MissingExtra(Refused):
    """A distribution that an optional method needs is not installed."""


class DataTable:
    """A table that any tool takes; it is made when it is first asked for, and kept."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make

    @cached_property
    def _table(self) -> Any:
        return self._make()

    def to_arrow(self) -> Any:
        """Return it as a `pyarrow.Table`; its schema says what each column is, and what null means."""
        return self._table

    def to_pandas(self) -> Any:
        """Return it as a `pandas.DataFrame`; whole numbers with nulls keep their type. Raises MissingExtra."""
        pandas = _import("pandas")
        return self._table.to_pandas(
            types_mapper={pa.int64(): pandas.Int64Dtype(), pa.bool_(): pandas.BooleanDtype()}.get
        )

    def to_polars(self) -> Any:
        """Return it as a `polars.DataFrame`. Raises MissingExtra."""
        return _import("polars").from_arrow(self._table)

    def __len__(self) -> int:
        """Return how many rows it has."""
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        """Return its name, and how large it is."""
        return f"<DataTable {self.name}: {len(self):,} rows, {len(self._table.schema)} columns>"

    def _repr_html_(self) -> str:
        """Return the first rows as HTML, as notebooks show them."""
        from html import escape

        names = self._table.schema.names
        columns = [
            [("" if text is None else escape(str(text))) for text in _plain(column.slice(0, _ROWS_SHOWN)).to_pylist()]
            for column in self._table.columns
        ]
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in zip(*columns, strict=True))
        more = f"<p>{len(self):,} rows</p>" if len(self) > _ROWS_SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _plain(column: Any) -> Any:
    """Return a column as Python can show it: times as texts, as it has no type with nanoseconds."""
    return column.cast(pa.string()) if pa.types.is_timestamp(column.type) else column


def _import(name: str) -> Any:
    """Import what an optional method needs. Raises MissingExtra."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra(f"this needs {name}: pip install {name}") from None


class DataTables:
    """The tables of sources. Each is made when it is first asked for; those that one pass makes are made together.

    >>> import taskfold as tf
    >>> log = tf.MemoryLog("1.1.2")
    >>> engine = tf.Engine(log)
    >>> engine.place({"ID": "a", "JobID": "example"})
    >>> _ = engine.record("a", "web", tf.events.Started())
    >>> tf.tables(log).tasks.to_arrow().select(["alloc", "task", "state"]).to_pylist()
    [{'alloc': 'a', 'task': 'web', 'state': 'running'}]
    >>> tf.tables(log).allocations
    <DataTable allocations: 1 rows, 15 columns>
    """

    def __init__(self, *sources: LogLike, dialect: str | None = None) -> None:
        """Take sources, as `taskfold.replay` and `taskfold.columnar.read` do. Nothing is read yet."""
        self._sources = sources
        self._dialect = dialect
        self.records = DataTable("records", self._make_records)
        """The records of the log: `schemas.RECORDS`."""
        self.tasks = DataTable("tasks", lambda: self._numbers[0])
        """The state of each task: `schemas.TASKS`."""
        self.intervals = DataTable("intervals", lambda: self._numbers[1])
        """The intervals in one state: `schemas.INTERVALS`."""
        self.allocations = DataTable("allocations", lambda: self._courses[0])
        """The allocations, with their jobs: `schemas.ALLOCATIONS`."""
        self.deaths = DataTable("deaths", lambda: self._courses[1])
        """The deaths of tasks, with their reasons: `schemas.DEATHS`."""

    def __repr__(self) -> str:
        """Return its sources."""
        return f"<DataTables of {', '.join(map(str, self._sources))}>"

    def _make_records(self) -> Any:
        batches = list(read(*self._sources, dialect=self._dialect))
        return pa.Table.from_batches(batches, batches[0].schema if batches else RECORDS).unify_dictionaries()

    @cached_property
    def _numbers(self) -> tuple[Any, Any]:
        builder = TableBuilder(has_courses=False)
        ended = [builder.add(batch, records) for batch, records in steps(*self._sources, dialect=self._dialect)]
        return builder.tasks(), _joined([table for table, _ in ended] + [builder.open_intervals()], INTERVALS)

    @cached_property
    def _courses(self) -> tuple[Any, Any]:
        builder = TableBuilder(has_numbers=False)
        ended = [builder.add(batch, records) for batch, records in steps(*self._sources, dialect=self._dialect)]
        return builder.allocations(), _joined([table for _, table in ended], DEATHS)

    def sql(self, query: str) -> DataTable:
        """Return the answer of a query of SQL, by DuckDB: the tables have their names. Raises MissingExtra.

        Times have no zone there: they are UTC. Errors of the query are those of DuckDB.
        """
        connection = _import("duckdb").connect()
        for name in SCHEMAS:
            if re.search(rf"\b{name}\b", query):
                connection.register(name, without_zone(getattr(self, name).to_arrow()))
        answer = connection.sql(query).to_arrow_table()
        return DataTable("answer", lambda: answer)


def tables(*sources: LogLike, dialect: str | None = None) -> DataTables:
    """Return the tables of sources: records, tasks, intervals, allocations, deaths. Nothing is read yet.

    Needs ``pip install 'taskfold[columnar]'``; `DataTables.sql` needs ``'taskfold[duckdb]'``.
    """
    return DataTables(*sources, dialect=dialect)


def without_zone(table: Any) -> Any:
    """Return a table whose times have no zone; they are UTC. O(columns)."""
    for place, field in enumerate(table.schema):
        if field.type == TIME:
            table = table.set_column(place, field.name, table.column(place).cast(pa.timestamp("ns")))
    return table


def _joined(parts: Sequence[Any], schema: Any) -> Any:
    return pa.concat_tables([schema.empty_table(), *parts]).unify_dictionaries()


class TableBuilder:
    """A fold of batches into tables, in one pass: numbers by arrays, deaths and allocations by objects."""

    def __init__(self, *, has_numbers: bool = True, has_courses: bool = True) -> None:
        self.header = LogHeader(taskfold=FORMAT, dialect=NEWEST_DIALECT)
        """The header of the log, once a batch was added."""
        self._has_numbers, self._has_courses = has_numbers, has_courses
        self._fold: ColumnarFold | None = None
        self._course: CourseFold | None = None

    def add(self, batch: Any, records: Iterable[Record] | None = None) -> tuple[Any, Any]:
        """Fold a batch; return the intervals that ended in it, and the deaths. Raises as `ColumnarFold.apply` does."""
        self.header = header_of(batch.schema) or self.header
        intervals = deaths = None
        if self._has_numbers:
            self._fold = self._fold or ColumnarFold(self.header.dialect)
            intervals = self._fold.apply(batch, intervals=True)
        if self._has_courses:
            self._course = self._course or CourseFold(self.header.dialect)
            records = records_of(batch) if records is None else records
            parts = (each for record in records for each in self._course.apply(record))
            deaths = table_of_deaths([each for each in parts if isinstance(each, Death)])
        return intervals, deaths

    def tasks(self) -> Any:
        """Return the table of tasks. O(tasks)."""
        return self._with_header(TASKS.empty_table() if self._fold is None else self._fold.tasks())

    def open_intervals(self) -> Any:
        """Return the intervals that have not ended. O(tasks)."""
        return INTERVALS.empty_table() if self._fold is None else self._fold.open_intervals()

    def allocations(self) -> Any:
        """Return the table of allocations. O(allocations)."""
        if self._course is None:
            return self._with_header(ALLOCATIONS.empty_table())
        fold = self._course.fold
        return self._with_header(
            _table_of(
                [_row_of(Snapshot.of(fold[alloc], fold.dialect), fold.owned(alloc)) for alloc in fold], ALLOCATIONS
            )
        )

    def _with_header(self, table: Any) -> Any:
        return table.cast(with_header(table.schema, self.header))


def _row_of(snapshot: Snapshot, allocation: Any) -> dict[str, Any]:
    return {
        "alloc": allocation.id,
        "name": snapshot.name,
        "namespace": snapshot.namespace,
        "job": snapshot.job_id,
        "task_group": snapshot.task_group,
        "node": snapshot.node_id,
        "node_name": snapshot.node_name,
        "eval": snapshot.eval_id,
        "desired_status": snapshot.desired_status,
        "client_status": snapshot.client_status,
        "created_at": snapshot.create_time_ns or 0,
        "modified_at": allocation.modified_ns,
        "modify_index": allocation.modify_index,
        "version": allocation.version,
        "collected": allocation.collected,
    }


def table_of_deaths(deaths: Iterable[Death]) -> Any:
    """Return deaths as a table of the schema `DEATHS`. O(deaths)."""
    rows = [
        {
            "alloc": death.alloc,
            "task": death.task,
            "time": death.time_ns or 0,
            "modify_index": death.index,
            "seq": death.seq,
            "reason": death.reason,
            "event_type": None if death.event is None else wire_type(death.event),
            "failed": death.failed,
            "exit_code": death.exit_code,
            "signal": death.signal or None,
            "oom_killed": death.oom_killed,
            "ran_ns": death.ran_ns,
            "restarts": death.restarts,
        }
        for death in deaths
    ]
    return _table_of(rows, DEATHS)


def _table_of(rows: Sequence[dict[str, Any]], schema: Any) -> Any:
    """Return rows as a table; a time (unix nanoseconds) that is 0 becomes null."""
    arrays = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if field.type == TIME:
            arrays.append(times_of(np.array(values, np.int64), 0))
        elif field.type == TEXT:
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
