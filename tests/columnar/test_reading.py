"""Every source is read as the same record batches."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import taskfold as tf
from support import recordings
from support.columns import batches_of
from taskfold.columnar import ColumnarFold, read
from taskfold.columnar.conversion import header_of, records_of
from taskfold.errors import SourceError
from taskfold.log import NdjsonLog
from taskfold.model.record import Record

STREAM = recordings.scenarios("1.1.2")[0].path / "stream.ndjson.gz"


def written(path: Path) -> list[Record]:
    """Return the records of a stream that was imported to this path."""
    tf.ingest(STREAM, into=path)
    return list(tf.replay(path))


@pytest.mark.parametrize("name", ["log.jsonl", "log.db"])
def test_a_log_is_read_as_its_records_and_its_header(name: str, tmp_path: Path) -> None:
    records = written(tmp_path / name)
    batches = list(read(tmp_path / name, rows=7))
    assert list(chain.from_iterable(map(records_of, batches))) == records
    assert {batch.num_rows for batch in batches[:-1]} == {7}
    replay = tf.replay(tmp_path / name)
    replay.fold()
    assert header_of(batches[0].schema) == replay.header


def test_a_stream_is_read_as_the_records_of_its_import(tmp_path: Path) -> None:
    records = written(tmp_path / "log.jsonl")
    (batch,) = read(STREAM)
    assert list(records_of(batch)) == records
    header = header_of(batch.schema)
    assert header is not None
    assert header.dialect == "1.1.2"


def test_a_live_engine_is_read_while_it_lives() -> None:
    log = tf.MemoryLog("1.1.2")
    engine = tf.Engine(log)
    engine.place({"ID": "a"})
    engine.record("a", "web", tf.events.Started())
    fold = ColumnarFold("1.1.2")
    batches = list(read(log))
    for batch in batches:
        fold.apply(batch)
    assert engine.snapshot("a").client_status == "running"
    assert fold.fold("a", batches) == tf.replay(log).fold()["a"]


def test_parquet_files_are_read_one_after_the_other_and_a_folder_as_its_files(tmp_path: Path) -> None:
    records = written(tmp_path / "log.jsonl")
    for number, batch in enumerate(read(tmp_path / "log.jsonl", rows=5)):
        pq.write_table(table_of(batch), tmp_path / f"records-{number}.parquet")
    files = sorted(tmp_path.glob("*.parquet"))
    assert len(files) > 1
    for sources in (files, [tmp_path]):
        assert list(chain.from_iterable(map(records_of, read(*sources)))) == records


def table_of(batch: Any) -> Any:
    return pa.Table.from_batches([batch])


def test_parquet_files_of_two_logs_or_with_other_columns_or_damage_are_refused(tmp_path: Path) -> None:
    stories = []
    for name in ("one", "two"):
        NdjsonLog(tmp_path / f"{name}.jsonl", "1.1.2").close()
        written(tmp_path / f"{name}-full.jsonl")
        (batch,) = read(tmp_path / f"{name}-full.jsonl")
        pq.write_table(table_of(batch), tmp_path / f"{name}.parquet")
        stories.append(tmp_path / f"{name}.parquet")
    with pytest.raises(SourceError, match=r"two\.parquet: is of another log than .*one\.parquet"):
        list(read(*stories))
    (batch,) = batches_of(list(tf.replay(tmp_path / "one-full.jsonl")), "1.1.2")
    pq.write_table(table_of(batch.drop_columns(["seq"])), tmp_path / "other.parquet")
    with pytest.raises(SourceError, match=r"other\.parquet: has not the columns of records"):
        list(read(tmp_path / "other.parquet"))
    whole = stories[0].read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"cut\.parquet: cannot be read"):
        list(read(tmp_path / "cut.parquet"))
    with pytest.raises(SourceError, match="is no Parquet file"):
        list(read(stories[0], tmp_path / "one.jsonl"))


def test_a_log_without_records_has_no_batch(tmp_path: Path) -> None:
    NdjsonLog(tmp_path / "log.jsonl", "1.1.2").close()
    assert list(read(tmp_path / "log.jsonl")) == []
