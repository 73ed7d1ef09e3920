"""Replay: any source, at any index or time; and what a source may look like."""

import gzip
import json
from pathlib import Path

import msgspec
import pytest

from support import recordings
from taskfold import DialectError, Engine, ManualClock, NdjsonLog, SourceError, ingest, parse_at, replay
from taskfold import events as ev

SCENARIOS = ["lifecycle_all", "batch_fail_attempts3_raw", "service_ring_fast_raw", "alloc_restart_task", "scale_down"]


def scenario(version: str, name: str) -> recordings.Scenario:
    return next(found for found in recordings.scenarios(version) if found.name == name)


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


def states(source: Path, **options: object) -> list[bytes]:
    return [snapshot.to_json() for snapshot in replay(source, **options).snapshots()]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_stream_replayed_at_each_index_shows_what_was_seen_there(name, tmp_path):
    stream = write(tmp_path / "stream.ndjson", *recordings.stream_lines(scenario("1.1.2", name)))
    seen: dict[str, dict[int, dict]] = {}
    for line in stream.read_bytes().splitlines():
        for event in json.loads(line).get("Events") or []:
            if event["Topic"] == "Allocation":
                body = event["Payload"]["Allocation"]
                seen.setdefault(body["ID"], {}).setdefault(body["ModifyIndex"], body)
    indexes = sorted({index for bodies in seen.values() for index in bodies})
    assert len(indexes) > 3

    jobs = {
        (body["ID"], body["ModifyIndex"]): body["Job"]
        for body in (json.loads(answer.body) for answer in recordings.bodies(scenario("1.1.2", name)))
    }

    for index in indexes:
        expected = {
            alloc: bodies[max(i for i in bodies if i <= index)]
            for alloc, bodies in seen.items()
            if min(bodies) <= index
        }
        found = {body["ID"]: body for body in map(json.loads, states(stream, at=index))}
        for body in found.values():  # the payloads lack it
            job = body.pop("Job")
            assert job == jobs.get((body["ID"], body["ModifyIndex"]), job)
        assert found == expected
    assert states(stream, at=indexes[0] - 1) == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_log_replays_as_the_stream_that_it_was_imported_from(name, tmp_path):
    stream = write(tmp_path / "stream.ndjson", *recordings.stream_lines(scenario("1.1.2", name)))
    log = tmp_path / "log.jsonl"
    ingest(stream, into=log)
    records = list(replay(stream))

    for at in (None, records[len(records) // 2].index, parse_at("2026-11-23T08:30:00Z")):
        assert states(log, at=at) == states(stream, at=at)
    assert log.stat().st_size < stream.stat().st_size


@pytest.mark.parametrize("version", ["0.5.6", "1.1.2"])
def test_polled_bodies_give_back_the_newest_body_to_the_letter(version, tmp_path):
    for found in recordings.scenarios(version)[:12]:
        answers = list(recordings.bodies(found))
        source = write(tmp_path / f"{found.name}.jsonl", *(answer.body for answer in answers))
        newest = {json.loads(answer.body)["ID"]: json.loads(answer.body) for answer in answers}

        assert {body["ID"]: body for body in map(json.loads, states(source))} == newest


def test_a_time_folds_the_longest_run_of_records_of_which_none_is_later(tmp_path):
    with NdjsonLog(tmp_path / "log.jsonl", "1.1.2") as log:
        engine = Engine(log, clock=ManualClock(1))
        engine.place({"ID": "a"}, time_ns=10)
        for time_ns, event in ((20, ev.Received()), (40, ev.Started()), (30, ev.Signaling()), (50, ev.Terminated())):
            engine.record("a", "web", event, time_ns=time_ns)

    def seen(time_ns: int) -> list[str]:
        fold = replay(log.path, at=parse_at(f"1970-01-01T00:00:00.{time_ns:09d}Z")).fold()
        return [type(event).__name__ for event in fold["a"].tasks["web"].events] if "a" in fold else []

    assert seen(9) == []
    assert seen(20) == ["Received"]
    assert seen(35) == ["Received"], "the signal came after a start that is later"
    assert seen(40) == ["Received", "Started", "Signaling"]
    assert seen(50) == ["Received", "Started", "Signaling", "Terminated"]


@pytest.mark.parametrize("text", ["", "fortnight", "-1", "1.5", "2026-13-01T00:00:00Z", "\uff11"])
def test_a_point_that_is_neither_an_index_nor_a_time_is_refused(text):
    with pytest.raises(ValueError, match="neither an index such as 1042 nor a time"):
        parse_at(text)


BODY = '{"ID":"a","Job":{"ID":"j"},"ModifyIndex":5,"TaskStates":{"web":{"State":"running","Events":null}}}'
OTHER = BODY.replace('"a"', '"b"')


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (BODY, 1),
        (f"[{BODY}]", 1),
        (f"{BODY}\n\n{OTHER}\n", 2),
        (json.dumps(json.loads(BODY), indent=4), 1),
        (json.dumps([json.loads(BODY), json.loads(OTHER)], indent=2), 2),
        ("{}\n{}\n", 0),
        ("[]", 0),
        ('{}\n{"Index":5,"Events":[{"Topic":"Node","Payload":{"Node":{}}}]}\n{"Index":6,"Events":null}', 0),
        (f'{{"Index":5,"Events":[{{"Topic":"Allocation","Payload":{{"Allocation":{BODY}}}}}]}}', 1),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_source_is_told_by_its_content(content, count, packed, tmp_path):
    path = tmp_path / "anything"
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())

    assert len(states(path)) == count


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path):
    write(tmp_path / "2.json", BODY.replace("5", "6").replace("running", "dead"))
    write(tmp_path / "1.json", BODY)
    write(tmp_path / "notes.txt", "not for us")

    (snapshot,) = replay(tmp_path).snapshots()

    assert (snapshot.modify_index, snapshot.tasks["web"].state) == (6, "dead")


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        (recordings.repaired_sample, "0.5.0"),
        (lambda: next(recordings.bodies(scenario("0.5.6", "batch_ok_raw"))).body, "0.5.6"),
        (lambda: list(recordings.bodies(scenario("0.5.6", "batch_ok_raw")))[-1].body, "0.5.6"),
        (lambda: next(recordings.bodies(scenario("1.1.2", "batch_ok_raw"))).body, "1.1.2"),
    ],
)
def test_the_dialect_is_told_by_the_source(body, dialect, tmp_path):
    text = body()
    reading = replay(write(tmp_path / "body.json", text if isinstance(text, str) else json.dumps(text)))

    reading.fold()

    assert reading.dialect == dialect


def test_a_newer_nomad_is_read_with_the_newest_table_and_told_once_a_name(tmp_path):
    body = json.loads(BODY) | {"NewKey": 1, "Namespace": "default"}
    body["TaskStates"]["web"] |= {"Paused": "", "Events": [{"Type": "Received"}, {"Type": "Brand New", "Time": 2}]}
    later = json.loads(json.dumps(body)) | {"ModifyIndex": 9}
    notes: list[str] = []

    (snapshot,) = replay(write(tmp_path / "b", json.dumps(body), json.dumps(later)), on_note=notes.append).snapshots()

    assert sorted(note.split(" is unknown")[0] for note in notes) == [
        "NewKey",
        "TaskStates.Paused",
        "event 'Brand New'",
    ]
    assert msgspec.json.decode(snapshot.fields["NewKey"]) == 1
    assert snapshot.tasks["web"].fields == {"Paused": b'""'}
    assert json.loads(snapshot.to_json())["TaskStates"]["web"]["Events"][1]["Type"] == "Brand New"


def test_what_stubs_of_a_list_lack_is_not_told(tmp_path):
    body = next(recordings.bodies(scenario("1.1.2", "batch_ok_raw"))).body
    snapshot = next(replay(write(tmp_path / "body.json", body)).snapshots())
    stub = json.loads(snapshot.to_stub_json()) | {"ModifyIndex": 10**6, "DesiredStatus": "stop"}

    (after,) = replay(write(tmp_path / "both.jsonl", body, json.dumps([stub]))).snapshots()

    expected = json.loads(body) | {"ModifyIndex": 10**6, "DesiredStatus": "stop"}
    assert json.loads(after.to_json()) == expected


def test_absence_from_a_list_collects_nothing(tmp_path):
    newer = OTHER.replace("5", "7")

    assert len(states(write(tmp_path / "lists.jsonl", f"[{BODY},{OTHER}]", f"[{newer}]"))) == 2


def test_a_log_is_read_alone_and_in_its_own_dialect(tmp_path):
    log = tmp_path / "log.jsonl"
    NdjsonLog(log, "0.5.6").close()
    body = write(tmp_path / "body.json", BODY)

    with pytest.raises(SourceError, match="cannot be read together with other sources"):
        list(replay(log, body))
    with pytest.raises(SourceError, match="is a taskfold log: it holds records"):
        list(replay(body, log))
    with pytest.raises(DialectError, match=r"is of dialect 0\.5\.6, not 1\.1\.2"):
        list(replay(log, dialect="1.1.2"))


def test_reading_tells_how_far_it_is(tmp_path):
    lines = [BODY.replace("5", str(index)).replace('"a"', f'"{index}"') for index in range(10, 5_000)]
    reading = replay(write(tmp_path / "bodies.jsonl", *lines))

    told = [reading.progress() for _ in reading]

    assert all(0 <= part <= 1 for part in told)
    assert told == sorted(told)
    assert told[0] < 0.9 < told[-1]


def frames(*events: dict[str, object]) -> str:
    """Return frames of a stream, one for each event."""
    return "".join(json.dumps({"Events": [event], "Index": event["Index"]}) + "\n" for event in events)


def of_alloc(index: int, alloc: str, **fields: object) -> dict[str, object]:
    """Return an event that tells of an allocation."""
    told = {"ID": alloc, "JobID": "site", "CreateIndex": 20, "ModifyIndex": index, "ClientStatus": "running"} | fields
    return {"Topic": "Allocation", "Type": "AllocationUpdated", "Index": index, "Payload": {"Allocation": told}}


GONE = {"Topic": "Job", "Type": "JobDeregistered", "Namespace": "default", "Key": "site", "Index": 40}


@pytest.mark.parametrize(
    ("events", "is_told"),
    [
        ([of_alloc(25, "a"), GONE], True),
        ([of_alloc(25, "a"), GONE, of_alloc(41, "a")], True),
        ([of_alloc(25, "a"), GONE, of_alloc(41, "a", DesiredStatus="stop")], False),
        ([of_alloc(25, "a"), GONE, of_alloc(41, "a", ClientStatus="complete")], False),
        ([of_alloc(25, "a", JobID="other"), GONE], False),
        ([of_alloc(25, "a", Namespace="other"), GONE], False),
        ([GONE, of_alloc(50, "a", CreateIndex=50)], False),
        ([of_alloc(25, "a"), GONE | {"Type": "JobRegistered"}], False),
        ([of_alloc(25, "a"), GONE | {"Topic": "Evaluation"}], False),
        ([of_alloc(25, "a"), GONE | {"Index": None}], False),
    ],
)
def test_it_is_told_of_which_allocations_of_a_job_that_is_gone_no_end_was_seen(events, is_told, tmp_path):
    path, notes = tmp_path / "stream.ndjson", []
    path.write_text(frames(*events))

    replay(path, on_note=notes.append).fold()

    told = "job 'site' was deregistered at index 40; no end was seen of a"
    assert [note for note in notes if "deregistered" in note] == ([told] if is_told else [])
