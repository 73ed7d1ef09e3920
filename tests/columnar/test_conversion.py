"""Records become rows and come back as the same records, byte for byte."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.columns import any_records, batches_of, numbered, recorded
from taskfold import events as ev
from taskfold.columnar.conversion import HEADER, header_of, records_of, with_header
from taskfold.columnar.schemas import INTERVALS, RECORDS, TASKS
from taskfold.errors import DecodeError
from taskfold.model.record import FORMAT, LogHeader, Record
from taskfold.testing.strategies import events

KEYWORDS = frozenset(
    [
        "end",
        "start",
        "time_zone",
        "from",
        "to",
        "order",
        "group",
        "by",
        "select",
        "table",
        "user",
        "desc",
        "asc",
        "where",
        "union",
        "key",
    ]
)
FITS = 2**63


def lines_of(records: Any) -> list[bytes]:
    return [msgspec.json.encode(record) for record in records]


def back(records: list[Record]) -> list[bytes]:
    return lines_of(chain.from_iterable(map(records_of, batches_of(records, "1.1.2", (100,)))))


@pytest.mark.parametrize("dialect", ["0.5.6", "1.1.2"])
def test_recorded_records_come_back_byte_for_byte(dialect: str) -> None:
    assert back(recorded()[dialect]) == lines_of(recorded()[dialect])


def test_records_of_any_types_come_back_byte_for_byte() -> None:
    records = any_records(random.Random(5), 400)
    assert back(records) == lines_of(records)


@settings(max_examples=20)
@given(st.lists(events(types=ev.EVENT_CLASSES, nasty=True), min_size=1, max_size=8))
def test_events_at_the_edges_of_their_types_come_back_byte_for_byte(several: list[ev.TaskEvent]) -> None:
    records = numbered(("a", "web", event, 5) for event in several if -FITS < event.time_ns < FITS)
    assert back(records) == lines_of(records)


@pytest.mark.parametrize("key", [0, 7, "", "abc", "7", msgspec.UNSET])
def test_the_key_of_a_record_comes_back_as_what_it_was(key: Any) -> None:
    (record,) = numbered([("a", "web", ev.Started(), 5)])
    records = [msgspec.structs.replace(record, id=key)]
    assert back(records) == lines_of(records)


@pytest.mark.parametrize(
    "event",
    [
        ev.Terminated(exit_code=None),
        ev.Terminated(exit_code=0),
        ev.Terminated(exit_code=2**63, signal=-(2**63) - 1),
        ev.NotRestarting(fails_task=False),
        ev.Signaling(task_signal="hangup", task_signal_reason="asked"),
        ev.UnknownEvent(wire_type="Started"),
    ],
)
def test_a_value_that_is_easily_mistaken_for_another_comes_back(event: ev.TaskEvent) -> None:
    records = numbered([("a", "web", event, 5)])
    assert back(records) == lines_of(records)


def test_the_columns_of_an_event_are_what_a_reader_of_tables_wants() -> None:
    lines = [ev.Terminated(exit_code=137, oom_killed=True, message="killed"), ev.Restarting(start_delay_ns=5)]
    (batch,) = batches_of(numbered(("a", "web", event, 5) for event in lines), "1.1.2")
    names = ["type", "exit_code", "signal", "oom_killed", "start_delay_ns", "message", "event"]
    assert [tuple(row.values()) for row in batch.select(names).to_pylist()] == [
        ("Terminated", 137, None, True, None, "killed", None),
        ("Restarting", None, None, None, 5, None, None),
    ]


@pytest.mark.parametrize("time_ns", [2**63, -(2**63)])
def test_a_time_that_no_column_can_hold_is_refused_with_its_record(time_ns: int) -> None:
    with pytest.raises(DecodeError, match=f"record 1: {time_ns} is no time"):
        batches_of(numbered([("a", "web", ev.Started(time_ns=time_ns), 5)]), "1.1.2")


def test_an_index_that_no_column_can_hold_is_refused() -> None:
    record = Record(seq=1, index=2**63, alloc="a", version=1, event=ev.Started())
    with pytest.raises(DecodeError, match="a record between 1 and 1"):
        batches_of([record], "1.1.2")


def test_rows_that_no_export_makes_are_refused() -> None:
    (batch,) = batches_of(numbered([("a", "web", ev.Started(), 5)]), "1.1.2")
    for name, value, message in (
        ("type", "Strated", "record 1: 'Strated' is no type"),
        ("event", "{}", "record 1: the JSON of its event"),
    ):
        column = pa.array([value]).dictionary_encode() if name == "type" else pa.array([value])
        place = batch.schema.get_field_index(name)
        with pytest.raises(DecodeError, match=message):
            list(records_of(batch.set_column(place, name, column)))


def test_a_schema_carries_the_header_of_its_log() -> None:
    header = LogHeader(taskfold=FORMAT, dialect="0.5.6", region="europe", uuid="u")
    assert header_of(with_header(RECORDS, header)) == header
    assert header_of(RECORDS) is None
    with pytest.raises(DecodeError, match="no header of a log"):
        header_of(RECORDS.with_metadata({HEADER: b"{}"}))


@pytest.mark.parametrize("schema", [RECORDS, TASKS, INTERVALS], ids=["records", "tasks", "intervals"])
def test_every_column_says_what_it_is_and_what_null_means_and_is_no_keyword(schema: Any) -> None:
    for field in schema:
        assert field.metadata[b"what"]
        assert field.nullable == (b"null" in field.metadata), field.name
        assert field.name not in KEYWORDS
