"""What is exported is read by every tool, and comes back as the same records, byte for byte."""

from __future__ import annotations

import json
import random
import sqlite3
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import taskfold as tf
from support.columns import any_records, by_task, recorded, rows_in
from taskfold.cli._commands import taskfold
from taskfold.columnar import ColumnarFold, read
from taskfold.columnar import exporting as module
from taskfold.columnar.conversion import records_of
from taskfold.columnar.exporting import VIEWS, slot_of
from taskfold.columnar.schemas import SCHEMAS
from taskfold.errors import LogError, SourceError
from taskfold.log import NdjsonLog
from taskfold.log.registry import open_reader
from taskfold.model.record import Record

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"


def lines_of(source: Path) -> list[bytes]:
    return [msgspec.json.encode(record) for record in tf.replay(source)]


def log_of(records: list[Record], path: Path, dialect: str) -> Path:
    """Write records as a log."""
    log = NdjsonLog(path, dialect)
    for record in records:
        log.append(record.alloc, record.version - 1, [record])
    log.close()
    return path


@pytest.mark.parametrize("target", ["log.jsonl", "log.db"])
def test_export_and_import_give_back_the_same_records_byte_for_byte(target: str, tmp_path: Path) -> None:
    log = log_of(recorded()["0.5.6"][:300], tmp_path / "before.jsonl", "0.5.6")
    tf.export(log, to=tmp_path / "tables")
    tf.ingest(tmp_path / "tables" / "records.parquet", into=tmp_path / target)
    assert lines_of(tmp_path / target) == lines_of(log)


def test_records_of_every_type_come_back(tmp_path: Path) -> None:
    log = log_of(any_records(random.Random(11), 300), tmp_path / "before.jsonl", "1.1.2")
    tf.export(log, to=tmp_path / "tables")
    assert lines_of(tmp_path / "tables" / "records.parquet") == lines_of(log)


def test_a_parquet_file_of_records_is_read_by_every_command_that_reads_a_log(tmp_path: Path) -> None:
    tf.export(STREAM, to=tmp_path / "tables")
    path = str(tmp_path / "tables" / "records.parquet")
    plain, columns = tf.replay(STREAM).fold(), tf.replay(path).fold()
    assert {alloc: columns[alloc] for alloc in columns} == {alloc: plain[alloc] for alloc in plain}
    runner = CliRunner()
    alloc = next(iter(plain))
    for arguments in (["replay", path], ["history", path, alloc[:8]], ["log", path, "--check"], ["verify", path]):
        answer = runner.invoke(taskfold, arguments)
        assert answer.exit_code == 0, (arguments, answer.output)
    for opened, message in ((tf.Engine.open, r"a log ends in \.db"), (open_reader, "is a Parquet file, and no log")):
        with pytest.raises(LogError, match=message):
            opened(path)


def test_each_slot_has_whole_allocations_and_all_slots_have_all_records(tmp_path: Path) -> None:
    summary = tf.export(STREAM, to=tmp_path / "tables", slots=4)
    files = sorted((tmp_path / "tables").glob("records-*.parquet"))
    assert 1 < len(files) <= 4
    assert set(files) < set(summary.files)
    for file in files:
        slot = pq.read_schema(file).metadata[b"taskfold.slot"].decode()
        assert slot == f"{int(file.stem[-4:])}/4"
        records = list(chain.from_iterable(map(records_of, read(file))))
        assert {slot_of(record.alloc, 4) for record in records} == {int(file.stem[-4:])}
    records = list(chain.from_iterable(map(records_of, read(tmp_path / "tables"))))
    assert sorted(record.seq for record in records) == list(range(1, summary.rows["records"] + 1))
    fold = ColumnarFold("1.1.2")
    for batch in read(tmp_path / "tables"):
        fold.apply(batch)
    assert by_task(rows_in(fold.tasks())) == by_task(rows_in(tf.tables(STREAM).tasks.to_arrow()))
    with pytest.raises(SourceError, match=r"has only slot \d/4 of the records"):
        list(tf.replay(files[0]))


def counts_in(folder: Path, format: str) -> dict[str, int]:
    """Return how many rows each file of a folder has, by a reader of its format."""
    readers: dict[str, Any] = {
        "parquet": pq.read_table,
        "arrow": lambda path: pa.ipc.open_file(path).read_all(),
        "csv": pa.csv.read_csv,
    }
    return {name: readers[format](folder / f"{name}.{format}").num_rows for name in SCHEMAS}


@pytest.mark.parametrize("format", ["parquet", "arrow", "csv"])
def test_a_folder_has_a_file_for_each_table(format: Any, tmp_path: Path) -> None:
    summary = tf.export(STREAM, to=tmp_path / "tables", format=format)
    assert counts_in(tmp_path / "tables", format) == summary.rows
    assert sorted(file.name for file in summary.files) == sorted(f"{name}.{format}" for name in SCHEMAS)


def test_csv_has_lists_and_maps_as_json(tmp_path: Path) -> None:
    tf.export(STREAM, to=tmp_path / "tables", format="csv")
    row = pa.csv.read_csv(tmp_path / "tables" / "tasks.csv").to_pylist()[0]
    assert json.loads(row["counts"])["Received"] == 1
    assert len(json.loads(row["shown"])) <= 10


@pytest.mark.parametrize("name", ["tables.sqlite", "tables.duckdb"])
def test_a_database_has_all_tables_and_the_views(name: str, tmp_path: Path) -> None:
    summary = tf.export(STREAM, to=tmp_path / name)
    is_sqlite = name.endswith("sqlite")
    connection: Any = sqlite3.connect(tmp_path / name) if is_sqlite else duckdb.connect(str(tmp_path / name))
    query = "select count(*) from {}"
    for table, rows in summary.rows.items():
        assert connection.execute(query.format(table)).fetchall() == [(rows,)]
    for view in VIEWS:
        assert connection.execute(query.format(view)).fetchall() > [(0,)]
    restarts = connection.execute("select sum(restarts) from restarts_by_job").fetchall()
    assert restarts == connection.execute("select sum(restarts) from restarts_by_task").fetchall()
    connection.close()


def test_parquet_is_a_tenth_of_the_lines(tmp_path: Path) -> None:
    source = random.Random(3)
    types = (tf.events.Started, tf.events.Terminated, tf.events.Restarting)
    lines = NdjsonLog(tmp_path / "log.jsonl", "1.1.2")
    time = 1_795_422_000_000_000_000
    records = []
    for seq in range(1, 3_001):
        time += source.randrange(1, 2_000_000)
        event = types[seq % 3](time_ns=time)
        records.append(
            Record(seq=seq, index=seq, alloc="203266e5-e0d6-9486-5e05-397ed2b184af", version=seq, task="web",
                   time_ns=time, event=event)
        )  # fmt: skip
    lines.append(records[0].alloc, 0, records)
    lines.close()
    tf.export(tmp_path / "log.jsonl", to=tmp_path / "tables")
    sizes = [(tmp_path / name).stat().st_size for name in ("tables/records.parquet", "log.jsonl")]
    assert sizes[0] <= sizes[1] / 10


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tables.sqlite").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    for name in ("tables.sqlite", "folder"):
        with pytest.raises(SourceError, match="exists already, and is never overwritten"):
            tf.export(STREAM, to=tmp_path / name)
    assert (tmp_path / "tables.sqlite").read_text() == "mine"


def test_an_export_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.TableBuilder, "allocations", lambda _: 1 / 0)
    for name in ("tables", "tables.sqlite"):
        with pytest.raises(ZeroDivisionError):
            tf.export(STREAM, to=tmp_path / name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="slots: expected 1 to 4096"):
        tf.export(STREAM, to=tmp_path / "tables", slots=0)
    with pytest.raises(ValueError, match="more than one for Parquet only"):
        tf.export(STREAM, to=tmp_path / "tables.sqlite", slots=2)
    with pytest.raises(SourceError, match="is the name of a log"):
        tf.export(STREAM, to=tmp_path / "tables.db")


def test_the_command_says_what_it_wrote_and_an_error_in_one_sentence(tmp_path: Path) -> None:
    runner = CliRunner()
    answer = runner.invoke(taskfold, ["export", str(STREAM), "--to", str(tmp_path / "tables")])
    assert answer.exit_code == 0
    assert answer.output.startswith("exported 287 records, 24 tasks, 95 intervals, 14 allocations, 19 deaths into ")
    again = runner.invoke(taskfold, ["export", str(STREAM), "--to", str(tmp_path / "tables")])
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert "Traceback" not in again.output
    slots = runner.invoke(taskfold, ["export", str(STREAM), "--to", str(tmp_path / "x.sqlite"), "--slots", "2"])
    assert (slots.exit_code, "for Parquet only" in slots.output) == (2, True)
