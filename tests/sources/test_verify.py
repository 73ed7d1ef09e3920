"""Verify: it finds what is wrong, and nothing where nothing is."""

import json
import sys

import msgspec
import pytest

from support import recordings
from taskfold import Engine, NdjsonLog, ingest, verify
from taskfold import events as ev
from taskfold.log.seals import seal, unsealed
from taskfold.log.sqlite.log import SqliteLog
from taskfold.model.record import Record


@pytest.fixture
def stream(tmp_path):
    scenario = next(s for s in recordings.scenarios("1.1.2") if s.name == "service_ring_fast_raw")
    path = tmp_path / "stream.ndjson"
    path.write_bytes(b"\n".join(recordings.stream_lines(scenario)) + b"\n")
    return path


@pytest.fixture
def log(stream, tmp_path):
    path = tmp_path / "log.jsonl"
    ingest(stream, into=path)
    return path


def test_a_recording_agrees_and_its_gaps_are_counted(stream):
    report = verify(stream)

    assert report.agrees
    assert (report.gaps, report.observed, report.irregular) == (2, 0, 0)
    assert report.compared == report.observations == 5
    assert (report.allocations, report.tasks, report.dialect) == (1, 1, "1.1.2")
    assert sum(report.records.values()) > 20


def test_repeats_are_counted_and_a_contradiction_too(stream):
    text = stream.read_bytes()
    lines = text.splitlines()
    newest = json.loads(next(line for line in reversed(lines) if b'"Topic":"Allocation"' in line))
    newest["Events"][0]["Payload"]["Allocation"]["DesiredStatus"] = "something else"
    stream.write_bytes(text + text + json.dumps(newest).encode() + b"\n")

    report = verify(stream)

    assert report.conflicts == 1
    (divergence,) = report.divergences
    assert (divergence.path, divergence.expected_value) == ("$.DesiredStatus", '"something else"')
    assert divergence.why == "another observation of this index differs"
    # Half of them are repeats; and the contradiction. What comes late is compared at its index, too.
    assert report.repeats == report.observations // 2 + 1
    assert report.compared == report.observations


def test_records_that_fold_to_something_else_are_divergences(stream, monkeypatch):
    def one_off(record: Record) -> Record:
        return msgspec.structs.replace(record, time_ns=record.time_ns + 1)

    # The package has a function of the name of this module.
    monkeypatch.setattr(sys.modules["taskfold.sources.verify"], "_as_read_back", one_off)

    report = verify(stream)

    assert not report.agrees
    assert report.divergences_total == len(report.divergences)
    first = report.divergences[0]
    assert first.path == "$.TaskStates.main.started_at_ns"
    assert first.actual_value == first.expected_value + 1
    assert first.position.startswith(f"{stream}, line ")
    assert first.records


def test_a_log_that_was_written_here_agrees(log):
    report = verify(log)

    assert report.agrees
    assert report.records["Gap"] == 2


def change(log, place, **fields):
    lines = unsealed(log.read_bytes()).splitlines()
    lines[place] = msgspec.json.encode(msgspec.json.decode(lines[place]) | fields)
    log.write_bytes(seal(lines[0] + b"\n") + seal(b"\n".join(lines[1:]) + b"\n"))


@pytest.mark.parametrize(
    ("place", "fields", "path", "why"),
    [
        (5, {"Seq": 99}, "$.Seq", "without a hole"),
        (5, {"Version": 99}, "$.Version", "inside an allocation"),
        (9, {"Index": 1}, "$.Index", "never falls"),
        (0, {"lifecycle": "another"}, "header.lifecycle", "another lifecycle table"),
    ],
)
def test_a_log_that_was_changed_diverges_where_it_was_changed(log, place, fields, path, why):
    change(log, place, **fields)

    report = verify(log)

    assert report.divergences[0].path == path
    assert why in report.divergences[0].why
    assert report.divergences[0].position == f"{log}, record {max(place, 1)}"


def test_an_event_that_the_table_refuses_is_counted(tmp_path):
    path = tmp_path / "log.jsonl"
    with NdjsonLog(path, "1.1.2") as log:
        event = '{"Type":"Signaling","Time":1}'
        line = f'{{"Index":1,"Alloc":"a","Version":1,"Task":"web","Event":{event}}}'
        log.append("a", 0, [msgspec.json.decode(line, type=Record)])

    assert verify(path).irregular == 1


def test_a_checkpoint_that_says_something_else_than_its_records_is_found(tmp_path):
    path = tmp_path / "x.db"
    with Engine.open(path, dialect="1.1.2") as engine:
        for alloc in "ab":
            engine.place({"ID": alloc})
            engine.record(alloc, "web", ev.Received())
        engine.checkpoint()
        engine.record("a", "web", ev.Started())
    assert verify(path).agrees
    with SqliteLog(path) as log:
        parts = list(log.checkpoint_parts())
        log.save_checkpoint([parts[0], parts[1].replace(b"pending", b"running", 1)])

    report = verify(path)

    (found,) = report.divergences
    assert (found.position, found.alloc) == (f"{path}, checkpoint at 4", "a")
    assert found.state_before == {"web": "pending"}
    assert "rebuild it" in found.why
