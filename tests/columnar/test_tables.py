"""The tables of a source are what the folds say, in every tool that reads them."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import duckdb
import pytest

import taskfold as tf
from support.columns import rows_in
from taskfold.columnar.schemas import SCHEMAS
from taskfold.columnar.tables import MissingExtra
from taskfold.errors import SourceError
from taskfold.fold.course import REASONS

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"


@pytest.fixture(scope="module")
def tables() -> tf.DataTables:
    return tf.tables(STREAM)


def test_every_table_has_the_columns_of_its_schema(tables: tf.DataTables) -> None:
    for name, schema in SCHEMAS.items():
        table = getattr(tables, name).to_arrow()
        assert table.num_rows > 0
        assert table.schema.remove_metadata() == schema.remove_metadata(), name
        for field in schema:
            if not field.nullable:
                assert table.column(field.name).null_count == 0, (name, field.name)


def test_a_row_of_the_deaths_is_each_death_that_the_course_tells(tables: tf.DataTables) -> None:
    deaths = list(tf.deaths(tf.replay(STREAM), "1.1.2"))
    rows = rows_in(tables.deaths.to_arrow())
    assert [(row["alloc"], row["task"], row["seq"], row["reason"]) for row in rows] == [
        (death.alloc, death.task, death.seq, death.reason) for death in deaths
    ]
    for death, row in zip(deaths, rows, strict=True):
        for name in ("exit_code", "failed", "oom_killed", "ran_ns", "restarts"):
            assert row[name] == getattr(death, name)
        assert (row["time"], row["signal"] or 0) == (death.time_ns, death.signal)
    assert {row["reason"] for row in rows} <= set(REASONS)


def test_a_row_of_the_intervals_is_each_interval_that_the_course_tells(tables: tf.DataTables) -> None:
    expected = {(i.alloc, i.task, i.state, i.since_seq, i.until_seq) for i in tf.intervals(tf.replay(STREAM), "1.1.2")}
    rows = rows_in(tables.intervals.to_arrow())
    assert {(r["alloc"], r["task"], r["state"], r["began_seq"], r["ended_seq"]) for r in rows} == expected
    assert len(rows) == len(expected)


def test_a_row_of_the_allocations_is_what_a_snapshot_says(tables: tf.DataTables) -> None:
    rows = {row["alloc"]: row for row in rows_in(tables.allocations.to_arrow())}
    snapshots = list(tf.replay(STREAM).snapshots())
    assert len(rows) == len(snapshots)
    for snapshot in snapshots:
        row = rows[snapshot.id or ""]
        assert (row["job"], row["task_group"], row["node"]) == (snapshot.job_id, snapshot.task_group, snapshot.node_id)
        assert (row["client_status"], row["desired_status"]) == (snapshot.client_status, snapshot.desired_status)
        assert (row["created_at"], row["modify_index"]) == (snapshot.create_time_ns, snapshot.modify_index)


def test_pandas_polars_and_duckdb_see_the_same_rows(tables: tf.DataTables) -> None:
    query = "select count(*) as n, count(distinct alloc) as a, sum(restarts) as r, count(finished_at) as f from tasks"
    answer = [int(number) for number in tables.sql(query).to_arrow().to_pylist()[0].values()]
    frame, lazy = tables.tasks.to_pandas(), tables.tasks.to_polars()
    assert answer == [
        len(frame),
        frame["alloc"].nunique(),
        frame["restarts"].sum(),
        frame["finished_at"].count(),
    ]
    assert answer == [
        lazy.height,
        lazy["alloc"].n_unique(),
        lazy["restarts"].sum(),
        lazy["finished_at"].count(),
    ]


def test_a_time_keeps_its_nanoseconds_in_every_tool(tables: tf.DataTables) -> None:
    first = min(row["time"] for row in rows_in(tables.deaths.to_arrow()))
    assert tables.sql("select epoch_ns(min(time)) as t from deaths").to_arrow().to_pylist() == [{"t": first}]
    assert tables.deaths.to_pandas()["time"].min().value == first
    assert tables.deaths.to_polars()["time"].dt.epoch("ns").min() == first


def test_no_column_is_a_keyword_of_sql(tables: tf.DataTables) -> None:
    memory = sqlite3.connect(":memory:")
    for name, schema in SCHEMAS.items():
        columns = ", ".join(schema.names)
        memory.execute(f"create table {name} ({columns})")
        query = f"select {columns} from {name}"  # noqa: S608 - the names are what is tested
        memory.execute(query)
        tables.sql(query)
    memory.close()


def test_an_error_of_a_query_is_the_one_of_duckdb(tables: tf.DataTables) -> None:
    with pytest.raises(duckdb.Error, match="nonsense"):
        tables.sql("select nonsense from tasks")


def test_a_tool_that_is_missing_is_named(tables: tf.DataTables, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, call in (("polars", tables.tasks.to_polars), ("pandas", tables.tasks.to_pandas)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match=f"this needs {name}: pip install {name}"):
            call()


def test_a_notebook_shows_the_first_rows_with_what_is_in_them_escaped() -> None:
    log = tf.MemoryLog("1.1.2")
    engine = tf.Engine(log)
    for number in range(25):
        engine.place({"ID": f"<{number}>"})
        engine.record(f"<{number}>", "web", tf.events.Started())
    text = tf.tables(log).tasks._repr_html_()
    assert text.count("<tr>") == 21
    assert "<td>&lt;0&gt;</td>" in text
    assert "25 rows" in text


def test_a_source_without_records_has_tables_without_rows(tmp_path: Path) -> None:
    from taskfold.log import NdjsonLog

    NdjsonLog(tmp_path / "log.jsonl", "1.1.2").close()
    tables = tf.tables(tmp_path / "log.jsonl")
    for name, schema in SCHEMAS.items():
        assert len(getattr(tables, name)) == 0
        assert getattr(tables, name).to_arrow().schema.names == schema.names


def test_a_source_that_is_missing_is_told_when_a_table_is_asked_for(tmp_path: Path) -> None:
    tables = tf.tables(tmp_path / "none.jsonl")
    with pytest.raises(SourceError, match="no such file"):
        len(tables.tasks)
