"""Input as people have it: every layout, encoding, packing and archive gives the records of plain lines."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import recordings
from support.command_line import refused, run
from support.recordings import Scenario
from support.servers import until
from taskfold import Engine, MemoryLog, ingest, replay, verify
from taskfold.errors import SourceError
from taskfold.model.record import Record
from taskfold.nomad.importing.observation import observation_from_json
from taskfold.sources import documents
from taskfold.sources.follow import Follower

REPORTS = recordings.DATA / "reports"
(STORY,) = (each for each in recordings.scenarios("1.1.2") if each.name == "sibling_failed")
FRAMES = [b"{}", *recordings.stream_lines(STORY)]
"""The stream, with a heartbeat."""
BODIES = [answer.body.encode() for answer in recordings.bodies(STORY)]


def records_of(*sources: Path | str, **options: Any) -> list[Record]:
    return list(replay(*sources, **options))


def plain_records(folder: Path, texts: list[bytes]) -> list[Record]:
    path = folder / "plain.ndjson"
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return records_of(path)


# --- layouts ---


def events_of(frame: bytes) -> list[Any]:
    return json.loads(frame).get("Events") or []


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def indented(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def as_lines(texts: list[bytes]) -> bytes:
    return b"\n".join(texts) + b"\n"


def one_behind_the_other(texts: list[bytes]) -> bytes:
    return b"".join(texts)


def over_lines(texts: list[bytes]) -> bytes:
    return b"".join(indented(json.loads(text)) + b"\n" for text in texts)


def over_lines_one_behind_the_other(texts: list[bytes]) -> bytes:
    return b"".join(indented(json.loads(text)) for text in texts)


def as_a_list(texts: list[bytes]) -> bytes:
    return b"[" + b",".join(texts) + b"]"


def as_lists(texts: list[bytes]) -> bytes:
    return b"".join(as_a_list([text]) for text in texts)


def as_a_list_over_lines(texts: list[bytes]) -> bytes:
    return indented([json.loads(text) for text in texts])


def as_a_list_a_line(texts: list[bytes]) -> bytes:
    return b"[\n" + b",\n".join(texts) + b"\n]\n"


def with_spaces(texts: list[bytes]) -> bytes:
    return b"\r\n".join(json.dumps(json.loads(text)).encode() for text in texts)


LAYOUTS: list[Callable[[list[bytes]], bytes]] = [
    as_lines,
    one_behind_the_other,
    over_lines,
    over_lines_one_behind_the_other,
    as_a_list,
    as_lists,
    as_a_list_over_lines,
    as_a_list_a_line,
    with_spaces,
]


def single_events(texts: list[bytes]) -> list[bytes]:
    return [compact(event) for text in texts for event in events_of(text)]


def payloads(texts: list[bytes]) -> list[bytes]:
    """Return the payloads of allocations, as ``jq '.Events[].Payload'`` has them."""
    return [compact({"Allocation": body}) for body in allocations(texts)]


def allocations(texts: list[bytes]) -> list[Any]:
    events = (event for text in texts for event in events_of(text))
    return [event["Payload"]["Allocation"] for event in events if event["Topic"] == "Allocation"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("texts", [FRAMES, single_events(FRAMES), BODIES], ids=["frames", "events", "bodies"])
def test_every_layout_gives_the_records_of_plain_lines(
    texts: list[bytes], layout: Callable[[list[bytes]], bytes], tmp_path: Path
) -> None:
    expected = plain_records(tmp_path, texts)
    path = tmp_path / "other"
    path.write_bytes(layout(texts))
    assert records_of(path) == expected
    assert len(expected) > 10


def test_single_events_and_payloads_tell_what_their_frames_tell(tmp_path: Path) -> None:
    expected = plain_records(tmp_path, FRAMES)
    assert plain_records(tmp_path, single_events(FRAMES)) == expected
    # A payload is without the index and the type of its event, which here follow from the allocation.
    of_payloads = plain_records(tmp_path, payloads(FRAMES))
    shown = [(record.index, record.alloc, record.task, type(record.event)) for record in of_payloads]
    assert shown == [
        (record.index, record.alloc, record.task, type(record.event))
        for record in expected
        if getattr(record.event, "job_source", "") == ""
    ]


def test_lists_of_events_and_nulls_are_what_jq_makes_of_frames(tmp_path: Path) -> None:
    """``jq -c .Events`` makes a list of each frame, and null of a heartbeat."""
    lists = [compact(json.loads(frame).get("Events")) for frame in FRAMES]
    assert b"null" in lists
    assert plain_records(tmp_path, lists) == plain_records(tmp_path, FRAMES)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip in members": lambda text: gzip.compress(text[: len(text) // 2]) + gzip.compress(text[len(text) // 2 :]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def zstd(text: bytes) -> bytes:
    module = pytest.importorskip("taskfold.log.zstd", reason="no Zstandard")
    target = io.BytesIO()
    with module.ZstdFile(target, "w") as file:
        file.write(text)
    return target.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packing", [*PACKINGS, "zstd"])
def test_every_encoding_and_packing_is_read(encoding: str, packing: str, tmp_path: Path) -> None:
    text = as_lines(FRAMES).decode().encode(encoding)
    path = tmp_path / "any"
    path.write_bytes((PACKINGS | {"zstd": zstd})[packing](text))
    assert records_of(path) == plain_records(tmp_path, FRAMES)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from(LAYOUTS), st.sampled_from(["frames", "events"])), max_size=8
    ),
    between=st.sampled_from(["", "\n", " ", "\ufeff"]),
    encoding=st.sampled_from(ENCODINGS),
    packing=st.sampled_from(sorted(PACKINGS)),
    end=st.none() | st.floats(0.3, 1),
)
def test_mixed_forms_give_the_records_of_plain_lines(
    parts: list[tuple[int, Callable[[list[bytes]], bytes], str]],
    between: str,
    encoding: str,
    packing: str,
    end: float | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    rest = FRAMES
    texts = []
    for count, layout, kind in parts:
        texts.append(layout(rest[:count] if kind == "frames" else single_events(rest[:count])))
        rest = rest[count:]
    text = (between.encode().join([*texts, as_lines(rest)])).decode().encode(encoding)
    expected = plain_records(folder, FRAMES)
    path = folder / "mixed"
    if end is None:
        path.write_bytes(PACKINGS[packing](text))
        assert records_of(path) == expected
        return
    path.write_bytes(text[: int(len(text) * end)])
    notes: list[str] = []
    some = records_of(path, on_note=notes.append)
    assert some == expected[: len(some)]
    assert sum("is cut off, and was skipped" in note for note in notes) <= 2


# --- reports, and what commands of Nomad print ---


@pytest.mark.parametrize("name", ["single-event-lines", "pretty-printed-frames", "byte-order-mark", "client-state"])
def test_what_was_reported_is_read(name: str) -> None:
    (path,) = (REPORTS / name).iterdir()
    (snapshot,) = replay(path).snapshots()
    assert (snapshot.job_id, snapshot.client_status, snapshot.tasks["web"].state) == ("site", "running", "running")
    assert verify(path).agrees


def test_the_state_of_a_client_has_the_tasks_as_the_client_has_them(tmp_path: Path) -> None:
    body = {"ID": "a", "ModifyIndex": 5, "Metrics": {}, "TaskStates": {"old": {"State": "dead"}, "web": None}}
    state = {
        "Alloc": body,
        "DeployStatus": {"Healthy": True},
        "Tasks": {"web": {"RemoteState": {"State": "running"}}, "later": {"RemoteState": None}, "none": None},
    }
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"Allocations": {"a": state, "b": None, "c": {"Alloc": None}}}))
    (snapshot,) = replay(path).snapshots()
    assert {name: task.state for name, task in snapshot.tasks.items()} == {"old": "dead", "web": "running"}
    assert json.loads(snapshot.to_json())["DeploymentStatus"] == {"Healthy": True}


ROUNDED = 1_795_422_535_575_760_900
EXACT = 1_795_422_535_575_760_873


@pytest.mark.parametrize("text", ["1.7954225355757609e+18", "1795422535575760900.0", "1795422535575760900"])
def test_a_number_that_became_a_float_is_a_number_still(text: str) -> None:
    body = f'{{"ID":"a","ModifyIndex":5.0,"CreateTime":{text},"ModifyTime":{text},"JobVersion":2.0,"Job":null}}'
    told = observation_from_json(body.encode())
    assert {name: told.fields[name] for name in ("CreateTime", "ModifyTime", "JobVersion")} == {
        "CreateTime": b"%d" % ROUNDED,
        "ModifyTime": b"%d" % ROUNDED,
        "JobVersion": b"2",
    }
    assert told.index == 5


def as_floats(text: bytes) -> bytes:
    """Return JSON as a program writes it that makes a float of each number, and a whole number of that again."""

    def number(digits: str) -> int:
        mantissa, exponent = f"{float(digits):.16e}".split("e")
        return int(digits) if len(digits) < 17 else int(mantissa.replace(".", "")) * 10 ** (int(exponent) - 16)

    return compact(json.loads(text, parse_int=number))


def test_a_stream_that_went_through_floats_is_the_same_story_as_the_bodies(tmp_path: Path) -> None:
    stream, bodies = tmp_path / "stream.ndjson", tmp_path / "bodies.ndjson"
    stream.write_bytes(as_lines(list(map(as_floats, FRAMES))))
    bodies.write_bytes(as_lines(BODIES))
    assert stream.read_bytes() != as_lines([compact(json.loads(frame)) for frame in FRAMES])
    alone = verify(stream)
    assert (alone.agrees, alone.gaps, alone.observed) == (True, verify(recorded_stream(tmp_path)).gaps, 0)
    for order in ((stream, bodies), (bodies, stream)):
        records = records_of(*order)
        plain = records_of(*(recorded_stream(tmp_path) if path is stream else path for path in order))
        assert [(record.task, type(record.event)) for record in records if record.task] == [
            (record.task, type(record.event)) for record in plain if record.task
        ]


def recorded_stream(folder: Path) -> Path:
    path = folder / "recorded.ndjson"
    path.write_bytes(as_lines(FRAMES))
    return path


def test_a_newer_stub_is_a_stub() -> None:
    stub = {"ID": "a", "ModifyIndex": 5, "JobVersion": 1, "JobType": "service", "NextAllocation": ""}
    assert observation_from_json(compact(stub)).kind == "stub"
    assert observation_from_json(compact(stub | {"Job": {"ID": "j"}})).kind == "body"


# --- archives, folders, and what `nomad operator debug` captures ---


def capture(folder: Path, story: Scenario, *, layout: str, streams: bool) -> Path:
    """Write what ``nomad operator debug`` would have captured of a story."""
    root = folder / "nomad-debug-2026-11-23-083410Z"
    lists = [json.loads(text) for text in recordings.list_bodies(story)]
    for number, stubs in enumerate(lists):
        interval = root / layout / f"{number:04}"
        interval.mkdir(parents=True)
        text = as_lines(list(map(compact, stubs))) if layout == "interval" else compact(stubs)
        (interval / "allocations.json").write_bytes(text)
        (interval / "nodes.json").write_bytes(b'[{"ID":"n","Datacenter":"dc1","Status":"ready"}]')
        (interval / "metrics.json").write_bytes(b'{"Error":"Unexpected response code: 500"}')
    (root / "cluster").mkdir()
    (root / "cluster" / "regions.json").write_bytes(b'["global"]')
    (root / "index.json").write_bytes(b'["cluster/regions.json"]\n')
    if streams:
        lines = [as_floats(event) for event in single_events(recordings.stream_lines(story))]
        (root / "cluster" / "eventstream.json").write_bytes(as_lines(lines))
    return root


def tar(folder: Path, mode: str) -> Path:
    path = folder.with_suffix(f".tar{mode}")
    with tarfile.open(path, f"w:{mode.removeprefix('.')}") as archive:
        archive.add(folder, arcname=folder.name)
    return path


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("layout", ["interval", "nomad"])
def test_a_capture_of_nomad_operator_debug_is_read_in_the_order_of_the_indexes(
    layout: str, streams: bool, tmp_path: Path
) -> None:
    notes: list[str] = []
    root = capture(tmp_path, STORY, layout=layout, streams=streams)
    expected = records_of(root, on_note=notes.append)
    report = verify(root)
    assert (report.agrees, report.observed) == (True, 0)
    assert f"its event streams ({int(streams)}) are read" in next(note for note in notes if "is a capture" in note)
    assert not any("looks like" in note or "was told otherwise" in note for note in notes)
    types = {type(record.event).__name__ for record in expected}
    if streams:
        alone = records_of(recorded_stream(tmp_path))
        tasks = [(record.task, type(record.event).__name__) for record in expected if record.task]
        assert tasks == [(record.task, type(record.event).__name__) for record in alone if record.task]
    else:
        assert "Placed" in types
    for path in (tar(root, ".gz"), tar(root, ".xz"), zipped(root)):
        assert records_of(path) == expected
        assert [record.event for record in records_of(path.parent / path.name)] == [each.event for each in expected]


def test_an_archive_is_read_from_standard_input_as_from_its_file(tmp_path: Path) -> None:
    path = tar(capture(tmp_path, STORY, layout="interval", streams=True), ".gz")
    piped = run("replay", "--format", "jsonl", "-", input=path.read_bytes())
    assert piped.exit_code == 0
    assert piped.stdout == run("replay", "--format", "jsonl", path).stdout
    assert piped.stdout.count("\n") > 0


def test_other_archives_and_folders_are_read_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "polls"
    folder.mkdir()
    (folder / "1.json.gz").write_bytes(gzip.compress(as_lines(BODIES[:5])))
    (folder / "2.jsonl").write_bytes(one_behind_the_other(BODIES[5:]))
    (folder / "._2.jsonl").write_bytes(b"\0\5\26\7\0")
    (folder / "notes.txt").write_bytes(b"no JSON")
    expected = plain_records(tmp_path, BODIES)
    for path in (folder, tar(folder, ""), tar(folder, ".gz"), zipped(folder)):
        assert records_of(path) == expected


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04" + bytes(600), "the zip archive is cut off or damaged"),
        (bytes(257).replace(b"\0", b"x") + b"ustar" + bytes(300), "the tar archive is cut off or damaged"),
    ],
)
def test_an_archive_that_is_damaged_is_told(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(content)
    refused(run("replay", path), path, sentence)


def test_an_archive_without_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("{}")
    for path in (tar(tmp_path / "x", ".gz"), zipped(tmp_path / "x")):
        refused(run("replay", path), path, "has no file with the ending .json")


def test_an_archive_that_is_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    folder = tmp_path / "polls"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.json").write_bytes(BODIES[number])
    whole = tar(folder, "")
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: -(len(BODIES[2]) // 512 * 512 + 8_000)])
    notes: list[str] = []
    assert records_of(tmp_path / "cut.tar", on_note=notes.append)
    assert any("the archive is cut off or damaged" in note for note in notes)


# --- what is cut off ---


@pytest.mark.parametrize("packing", ["gzip", "gzip in members", "bzip2", "xz", "zstd"])
def test_packed_data_that_is_cut_off_is_read_up_to_there(packing: str, tmp_path: Path) -> None:
    text = as_lines(FRAMES * 30)
    path = tmp_path / "cut"
    packed = (PACKINGS | {"zstd": zstd})[packing](text)
    path.write_bytes(packed[: len(packed) - 20])
    notes: list[str] = []
    some = records_of(path, on_note=notes.append)
    assert some == plain_records(tmp_path, FRAMES * 30)[: len(some)]
    assert len([note for note in notes if "the compressed data is cut off" in note]) == 1
    path.write_bytes(packed[:12])
    refused(run("replay", path), path, "cut off")


def test_a_document_that_is_cut_off_is_told_and_what_was_before_it_is_kept(tmp_path: Path) -> None:
    for layout in (as_lines, one_behind_the_other, over_lines, as_a_list, as_a_list_over_lines):
        text = layout(BODIES)
        path = tmp_path / "cut.json"
        path.write_bytes(text[:-100])
        result = run("replay", path, "--format", "jsonl")
        assert result.exit_code == 0
        assert "the last document is cut off, and was skipped" in result.stderr
        assert records_of(path) == plain_records(tmp_path, BODIES[:-1])


# --- what cannot be read ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_no_json_is_told_with_its_place_and_left_out_on_request(
    layout: Callable[[list[bytes]], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "bodies.json"
    text = layout(BODIES)
    for space in (b"", b" "):
        text = text.replace(b'"NodesEvaluated":%b1' % space, b'"NodesEvaluated":%b+Inf' % space, 1)
    path.write_bytes(text)
    sentence = refused(run("replay", path), path, "line ", "is not JSON: +Inf is not a number of JSON (byte ")
    at = int(sentence.partition("(byte ")[2].partition(", in ")[0].replace(",", ""))
    assert text[at:].startswith(b"+Inf")
    result = run("replay", "--skip-bad", "--format", "jsonl", path)
    assert result.exit_code == 0
    left_out, count = result.stderr.splitlines()[:2]
    assert left_out.startswith(f"taskfold: note: skipped: {path}, line ")
    assert count == "taskfold: note: unreadable documents skipped: 1"
    if layout is not as_a_list:  # a list of one line is one document, whose other entries are read
        assert records_of(path, skip_bad=True) == plain_records(tmp_path, BODIES[1:])


COMMANDS = {
    "replay": ["replay"],
    "verify": ["verify"],
    "log": ["log"],
    "history": ["history", 0],
    "diff": ["diff", "--from", "1"],
    "import": ["import", "--into", 1],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_a_source_leaves_out_what_is_bad_on_request(command: str, tmp_path: Path) -> None:
    alloc = json.loads(BODIES[0])["ID"]
    bad = [b"Good morning", b'{"ID":"a","ModifyIndex":-1}', b'{"ID":', b'{"ID":"a","TaskStates":{"t":{"State":"odd"}}}']
    path, clean = tmp_path / "bodies.ndjson", tmp_path / "clean.ndjson"
    path.write_bytes(as_lines([BODIES[0], *bad, *BODIES[1:]]))
    clean.write_bytes(as_lines(BODIES))
    name, *options = COMMANDS[command]

    def arguments(source: Path) -> list[object]:
        values = [tmp_path / f"{source.stem}.db" if option == 1 else option for option in options]
        return [name, source, *(alloc if value == 0 else value for value in values)]

    refused(run(*arguments(path)), path, "line 2", may_show=command == "log")
    result = run(*arguments(path), "--skip-bad")
    expected = run(*arguments(clean))
    assert result.exit_code == expected.exit_code == 0
    if command != "import":
        assert result.stdout == expected.stdout
    notes = [line for line in result.stderr.splitlines() if "skipped: " in line]
    assert [f"line {line}" in note for line, note in zip((2, 3, 4, 5), notes, strict=False)] == [True] * 4
    assert notes[-1].endswith("skipped: 4")


def test_only_the_first_bad_documents_are_told_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "bodies.ndjson"
    path.write_bytes(as_lines([BODIES[0], *([b"bad"] * 50)]))
    done = ingest(path, into=tmp_path / "x.db", skip_bad=True, on_note=(notes := list[str]()).append)
    assert done.bad_documents == 50
    assert len([note for note in notes if note.startswith("skipped: ")]) == 10
    assert notes[-1] == "unreadable documents skipped: 50"


def test_a_contradiction_without_an_index_is_left_out_on_request(tmp_path: Path) -> None:
    path = tmp_path / "bodies.ndjson"
    path.write_bytes(b'{"ID":"a","DesiredStatus":"run"}\n{"ID":"a","DesiredStatus":"stop"}\n')
    with pytest.raises(SourceError, match="line 2"):
        records_of(path)
    (snapshot,) = replay(path, skip_bad=True).snapshots()
    assert snapshot.desired_status == "run"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"HTTP/1.1 200 OK\r\n", "was it written by `curl -i`?"),
        (b"curl: (7) Failed to connect", "is a message of curl"),
        (b"<html>", "is an HTML or XML page"),
        (b'{"ID":"a"', "is cut off: the document has no end"),
        (b"{'ID':1}\n", "expected a frame or an event of the event stream, an allocation, or a list of them"),
        (b'"a"\n', "an allocation"),
    ],
)
def test_what_is_wrong_is_told_with_what_would_be_right(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    refused(run("replay", path), path, "line 1", sentence)


def test_a_source_that_tells_nothing_beside_others_is_named(tmp_path: Path) -> None:
    good, jobs, empty = tmp_path / "good.ndjson", tmp_path / "jobs.json", tmp_path / "empty.json"
    good.write_bytes(as_lines(BODIES))
    jobs.write_bytes(b'[{"ID":"j","Type":"service","JobSummary":{}}]')
    empty.write_bytes(b"")
    notes: list[str] = []
    assert records_of(jobs, good, empty, on_note=notes.append) == plain_records(tmp_path, BODIES)
    assert notes[-1] == f"of 3 sources, these have no allocation: {jobs}, {empty}"
    notes.clear()
    records_of(good, on_note=notes.append)
    assert not any("have no allocation" in note for note in notes)
    refused(run("replay", empty), empty, "is empty")


def test_an_object_that_is_nothing_known_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"Error":"no"}\n{}\n{"Index":7}\n')
    notes: list[str] = []
    assert records_of(path, on_note=notes.append) == []
    assert notes[0] == f"{path}, line 1: looks like an object without an ID, not an allocation: skipped"
    assert len(notes) == 2


# --- the size of what is read ---


def test_an_allocation_that_no_log_could_keep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    large = b'{"ID":"a","Job":{"x":"' + b"y" * (33 << 20) + b'"}}'
    for text in (large, b"[%b]" % large, b'{"Events":[{"Topic":"Allocation","Payload":{"Allocation":%b}}]}' % large):
        path.write_bytes(text + b"\n")
        refused(run("replay", path), path, "the allocation is longer than 32 MiB")


def test_a_line_of_any_length_is_read_entry_by_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_LONGEST_LINE", 1 << 16)
    for layout in (as_a_list, one_behind_the_other):
        path = tmp_path / "long.json"
        path.write_bytes(layout(BODIES * 10))
        assert records_of(path) == plain_records(tmp_path, BODIES * 10)


# --- what grows ---


def followed(path: Path, texts: Iterator[bytes]) -> tuple[Engine, Follower]:
    engine = Engine(MemoryLog("1.1.2"))
    follower = Follower(engine, str(path), poll_seconds=0.005)
    follower.start()
    with path.open("ab", buffering=0) as file:
        for text in texts:
            file.write(text)
    return engine, follower


@pytest.mark.parametrize("layout", [as_lines, one_behind_the_other, over_lines, as_a_list_a_line])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_grows_may_have_any_layout(
    layout: Callable[[list[bytes]], bytes], encoding: str, tmp_path: Path
) -> None:
    text = layout(FRAMES).decode().encode(encoding)
    path = tmp_path / "growing"
    path.touch()
    engine, follower = followed(path, (text[at : at + 10_007] for at in range(0, len(text), 10_007)))
    expected = {s.id: s.to_json() for s in replay(recorded_stream(tmp_path)).snapshots()}
    try:
        until(lambda: {s.id: s.to_json() for s in engine.allocations()} == expected)
    finally:
        follower.stop()
    assert (follower.error, follower.bad_lines) == ("", 0)
