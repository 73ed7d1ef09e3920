"""The command line on real recordings: what it prints is what Nomad said, and what the library says."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from support import recordings
from support.command_line import run
from taskfold import Replay, Snapshot, diagram
from taskfold.cli import _progress as progress_module
from taskfold.cli import _screen as screen_module
from taskfold.cli._progress import Progress
from taskfold.cli._words import short_ids
from taskfold.log.seals import seal, unsealed
from taskfold.model.dialect import DIALECTS

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "nomad-1.1.2-stream.ndjson.gz"
FAST = recordings.RECORDINGS / "1.1.2" / "service_ring_fast_raw" / "stream.ndjson.gz"
FAST_ID = "e368643b-ed40-7f1b-c425-18bb7211cfe5"
SIBLING = recordings.RECORDINGS / "1.1.2" / "sibling_failed" / "stream.ndjson.gz"
TASKFOLD = [sys.executable, "-m", "taskfold"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "engine")}
STREAMS = sorted((recordings.RECORDINGS / "1.1.2").glob("*/stream.ndjson.gz"))


def fine(*args: object, input: bytes | None = None, env: dict[str, str | None] | None = None) -> str:
    result = run(*args, input=input, env=env)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def polled(scenario: recordings.Scenario, folder: Path) -> Path:
    """Write the bodies of a scenario, one a line, as somebody who polls would have kept them."""
    path = folder / f"{scenario.name}.jsonl"
    path.write_text("".join(answer.body + "\n" for answer in recordings.bodies(scenario)), encoding="utf-8")
    return path


def on_a_terminal(width: int) -> dict[str, str | None]:
    return {"FORCE_COLOR": "1", "COLUMNS": str(width), "TERM": "xterm-256color", "NO_COLOR": None}


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- replay ---


@pytest.mark.parametrize("scenario", recordings.scenarios(), ids=str)
def test_jsonl_is_the_last_recorded_body_to_the_letter(scenario: recordings.Scenario, tmp_path: Path) -> None:
    last = {}
    for answer in recordings.bodies(scenario):
        last[answer.allocation] = answer.body
    if not last:
        pytest.skip("no allocation was recorded")

    printed = fine("replay", polled(scenario, tmp_path), "--format", "jsonl").splitlines()

    assert [json.loads(line) for line in printed] == [json.loads(last[alloc]) for alloc in sorted(last)]


def test_jsonl_is_what_the_library_writes_sorted_by_id() -> None:
    printed = run("replay", DEMO, "--format", "jsonl").stdout_bytes

    assert printed == b"".join(snapshot.to_json() + b"\n" for snapshot in Replay(DEMO).snapshots())
    ids = [json.loads(line)["ID"] for line in printed.splitlines()]
    assert ids == sorted(ids)
    assert len(ids) == 14


def test_json_is_an_array_indented_by_four() -> None:
    printed = fine("replay", DEMO, "--format", "json")

    assert json.loads(printed) == [json.loads(snapshot.to_json()) for snapshot in Replay(DEMO).snapshots()]
    assert printed.startswith('[\n    {\n        "AllocModifyIndex"')


def test_another_dialect_is_written_and_what_it_cannot_express_is_noted_once() -> None:
    result = run("replay", SIBLING, "--format", "jsonl", "--dialect", "0.5.0")

    (snapshot,) = Replay(SIBLING).snapshots()
    assert result.exit_code == 0
    assert result.stdout_bytes == snapshot.to_json("0.5.0") + b"\n"
    lost = snapshot.losses("0.5.0")
    assert result.stderr.splitlines() == [
        f"taskfold: note: dialect 0.5.0 cannot express {len(lost)} paths, such as {lost[0]}: left out"
    ]


def test_the_table_has_a_row_for_each_task_and_counts_them() -> None:
    table = fine("replay", SIBLING)

    both = "0e263ec2  sibling_failed / group  failed  "
    killing = "Killing: Sent interrupt. Waiting 2s before force killing"
    assert table.splitlines() == [
        "ALLOC     JOB / GROUP             STATUS  TASK  STATE         RESTARTS   AGE  REASON          LAST EVENT",
        f"{both}bad   dead, failed         0  0.0s  not-restarting  {killing}",
        f"{both}good  dead                 0  0.0s  sibling         Killed: Task successfully killed",
        "",
        "1 allocation, 2 tasks; newest index 360; ages at 2026-11-23 08:28:35.410Z; dialect 1.1.2",
    ]


def test_the_table_counts_gaps_and_says_what_was_asked_for() -> None:
    assert ", 2 gaps where events were lost; newest index 163;" in fine("replay", FAST)
    assert "; as of index 156, newest index 153;" in fine("replay", FAST, "--at", 156)
    assert "; as of 2026-11-23 08:28:11.600Z, newest index" in fine("replay", FAST, "--at", "2026-11-23T08:28:11.6Z")


def test_piped_output_is_plain_whole_and_the_same_at_any_width_and_time() -> None:
    first = fine("replay", DEMO, env={"COLUMNS": "40"})

    assert first == fine("replay", DEMO, env={"COLUMNS": "200"})
    assert first.isascii()
    assert 'Exceeded allowed attempts 3 in interval 1m0s and mode is "fail"' in first


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("command", [("replay", DEMO), ("history", DEMO, FAST_ID, "main")], ids=str)
def test_no_color_changes_colours_and_nothing_else(command: tuple[str, ...], width: int) -> None:
    coloured = fine(*command, env=on_a_terminal(width))
    plain = fine(*command, env=on_a_terminal(width) | {"NO_COLOR": "1"})

    def colours(text: str) -> set[str]:
        return {code for codes in re.findall(r"\x1b\[([\d;]*)m", text) for code in codes.split(";") if code[:1] == "3"}

    assert colours(coloured)
    assert not colours(plain)
    assert re.sub(r"\x1b\[[\d;]*m", "", plain) == re.sub(r"\x1b\[[\d;]*m", "", coloured)


@pytest.mark.parametrize("width", [80, 100, 120, 129, 130, 200])
@pytest.mark.parametrize("command", [("replay", DEMO), ("log", DEMO), ("history", DEMO, FAST_ID, "main")], ids=str)
def test_no_line_is_wider_than_the_terminal(command: tuple[object, ...], width: int) -> None:
    for line in without_colours(fine(*command, env=on_a_terminal(width))).splitlines():
        assert len(line) <= width or line.startswith("allocation ")


def test_states_have_colours_on_a_terminal() -> None:
    table = fine("replay", DEMO, env=on_a_terminal(200))

    assert "\x1b[32mrunning" in table
    assert "\x1b[33mpending" in table
    assert "\x1b[31mdead, failed" in table
    assert "\x1b[2mdead" in table


def test_an_allocation_is_named_once_on_a_terminal() -> None:
    table = without_colours(fine("replay", DEMO, env=on_a_terminal(80)))

    assert table.count("69e8e345  lifecycle_all / group  complete") == 1
    assert "\n  presc   dead                 0    18s  main-tasks      Killed: Task successfu…\n" in table
    assert without_colours(fine("replay", DEMO, env=on_a_terminal(200))).count("69e8e345") == 1


FILTERS = [
    (["--job", "scale_down"], {"30cbd9a1", "47de3371", "5788a91f"}),
    (["--status", "pending"], {"81dc7bae"}),
    (["--status", "running", "--job", "update_destructive"], {"95631559"}),
    (["--alloc", "e3"], {"e368643b"}),
    (["--alloc", FAST_ID], {"e368643b"}),
    (["--task", "lead"], {"05bf7b6a"}),
    (["--node", "4e8d", "--job", "alloc_signal"], {"39c4c7e5"}),
    (["--since", "2026-11-23T08:29:58Z"], {"30cbd9a1", "47de3371", "5788a91f"}),
    (["--until", "2026-11-23T08:28:13Z"], {"dc7eed70", "e368643b"}),
    (["--since", "2026-11-23T08:28:12.233Z", "--until", "2026-11-23T08:28:30Z"], {"e368643b"}),
    (["--job", "scale_down", "--at", "956"], {"30cbd9a1", "47de3371", "5788a91f"}),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=lambda value: " ".join(sorted(value)))
def test_filters_of_replay(filters: list[str], expected: set[str]) -> None:
    printed = fine("replay", DEMO, *filters, "--format", "jsonl").splitlines()

    assert {json.loads(line)["ID"][:8] for line in printed} == expected
    rows = fine("replay", DEMO, *filters).split("\n\n")[0].splitlines()[1:]
    assert {row.split()[0] for row in rows} == expected


def test_a_task_filter_leaves_its_rows_only() -> None:
    table = fine("replay", DEMO, "--task", "lead")

    assert "follower" not in table
    assert table.endswith(
        "1 of 14 allocations, 1 task; newest index 964; ages at 2026-11-23 08:29:59.530Z; dialect 1.1.2\n"
    )


NOTHING = [
    ("replay", DEMO, "--job", "nix"),
    ("replay", DEMO, "--alloc", "zz"),
    ("replay", DEMO, "--node", "zz"),
    ("replay", DEMO, "--task", "zz"),
    ("replay", DEMO, "--at", "1"),
    ("replay", DEMO, "--status", "lost"),
    ("replay", DEMO, "--since", "2027-01-01T00:00:00Z", "--format", "jsonl"),
    ("log", DEMO, "--alloc", "zz"),
    ("log", DEMO, "--task", "zz", "--format", "jsonl"),
    ("log", DEMO, "--at", "0"),
    ("history", DEMO, "zz"),
    ("history", DEMO, FAST_ID, "zz"),
]


@pytest.mark.parametrize("command", NOTHING, ids=lambda command: " ".join(map(str, (command[0], *command[2:]))))
def test_an_empty_result_exits_with_one(command: tuple[object, ...]) -> None:
    result = run(*command)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("taskfold: nothing matched: ")


def test_an_empty_result_as_json_is_an_empty_array() -> None:
    result = run("replay", DEMO, "--job", "nix", "--format", "json")

    assert (result.exit_code, json.loads(result.stdout)) == (1, [])


def test_an_ambiguous_prefix_names_the_candidates(tmp_path: Path) -> None:
    for command in (("replay", DEMO, "--alloc", "0"), ("log", DEMO, "--alloc", "0"), ("history", DEMO, "0")):
        result = run(*command)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr == (
            "taskfold: 3 allocations begin with '0': 023db46a-0efc-7850-fe61-98306fef84fb, "
            "05bf7b6a-e3b3-f490-7404-236762a9a05a, 0e263ec2-a2d1-93bc-6055-a504374ed04f\n"
        )
    many = tmp_path / "many.jsonl"
    many.write_text("".join(f'{{"ID":"a{number}","ModifyIndex":1}}\n' for number in range(7)))
    assert run("replay", many, "--alloc", "a").stderr.endswith("begin with 'a': a0, a1, a2, a3, a4 …\n")


def test_a_whole_id_is_never_ambiguous(tmp_path: Path) -> None:
    both = tmp_path / "both.jsonl"
    both.write_text('{"ID":"a","ModifyIndex":1}\n{"ID":"ab","ModifyIndex":2}\n')

    assert json.loads(fine("replay", both, "--alloc", "a", "--format", "jsonl"))["ID"] == "a"
    assert fine("history", both, "a").startswith("allocation a\n")


def test_several_sources_a_folder_and_standard_input(tmp_path: Path) -> None:
    content = gzip.decompress(SIBLING.read_bytes())
    (tmp_path / "a.ndjson").write_bytes(content)
    (tmp_path / "b.ndjson.gz").write_bytes(FAST.read_bytes())
    both = fine("replay", tmp_path, "--format", "jsonl")

    assert len(both.splitlines()) == 2
    assert both == fine("replay", FAST, SIBLING, "--format", "jsonl")
    assert fine("replay", "-", input=content) == fine("replay", SIBLING)
    assert fine("replay", "-", input=SIBLING.read_bytes()) == fine("replay", SIBLING)


def test_texts_of_a_log_cannot_move_the_cursor(tmp_path: Path) -> None:
    nasty = tmp_path / "nasty.jsonl"
    event = {"Type": "Driver", "DriverMessage": "\x1b[2J\r\nboo [red]", "Time": 5}
    body = {"ID": "a\x1b", "JobID": "j\n[bold]", "ModifyIndex": 1, "TaskStates": {"t\t": {"State": "pending"}}}
    body["TaskStates"]["t\t"]["Events"] = [event]
    nasty.write_text(json.dumps(body) + "\n")

    for env in ({}, on_a_terminal(150)):
        for command in (("replay", nasty), ("log", nasty), ("history", nasty, "a")):
            printed = without_colours(fine(*command, env=env))
            assert "\x1b" not in printed
            assert "\r" not in printed
            assert "\\x1b[2J\\r\\nboo [red]" in printed
            assert "a\\x1b" in printed


def test_ids_that_share_their_beginning_are_shown_longer() -> None:
    first, second = "aaaaaaaa-0001-0000-0000-000000000000", "aaaaaaaa-0002-0000-0000-000000000000"

    assert short_ids([first, second, "bbbbbbbb-0001", "b"]) == {
        first: "aaaaaaaa-0001",
        second: "aaaaaaaa-0002",
        "bbbbbbbb-0001": "bbbbbbbb",
        "b": "b",
    }


# --- import and log ---


@pytest.mark.parametrize("stream", STREAMS, ids=lambda path: path.parent.name)
def test_a_log_replays_as_the_stream_it_was_imported_from(stream: Path, tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"
    fine("import", stream, "--into", log)
    indexes = sorted({record.index for record in Replay(stream)})
    times = [record.time_ns for record in Replay(stream)]
    middle = msgspec.json.decode(msgspec.json.encode(times))[len(times) // 2]

    for at in (*indexes[:: max(len(indexes) // 3, 1)], _rfc3339(middle)):
        asked = ("--at", at, "--format", "jsonl")
        assert fine("replay", log, *asked) == fine("replay", stream, *asked)
        assert fine("log", log, *asked) == fine("log", stream, *asked)
    assert fine("replay", log) == fine("replay", stream)


def _rfc3339(time_ns: int) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(time_ns // 10**9))}.{time_ns % 10**9:09d}Z"


def test_import_says_what_it_did_and_does_nothing_twice(tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"

    first = fine("import", DEMO, "--into", log)
    content = log.read_bytes()
    second = fine("import", DEMO, "--into", log)

    assert first.startswith(f"imported 287 records from 67 observations (0 repeats) into {log}: ")
    assert re.search(r": [\d.]+ kB, \d+ % of the source's 648.9 kB\n$", first)
    assert second.startswith("imported 0 records from 67 observations (67 repeats) into ")
    assert second.endswith(" kB, 0 B more than before\n")
    assert log.read_bytes() == content


def test_a_log_that_is_imported_in_parts_is_the_log_of_the_whole(tmp_path: Path) -> None:
    lines = gzip.decompress(DEMO.read_bytes()).splitlines(keepends=True)
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    fine("import", DEMO, "--into", whole)

    for end in (40, 90, len(lines)):
        fine("import", "-", "--into", parts, input=b"".join(lines[:end]))

    records = [unsealed(path.read_bytes()).split(b"\n", 1)[1] for path in (parts, whole)]
    assert records[0] == records[1]


def test_log_writes_the_records_as_a_log_does(tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"
    fine("import", DEMO, "--into", log)
    records = (
        '{"taskfold":3,"dialect":"1.1.2","of":"records"}\n' + unsealed(log.read_bytes()).decode().split("\n", 1)[1]
    )

    assert fine("log", log, "--format", "jsonl") == records
    assert fine("log", DEMO, "--format", "jsonl") == records


def test_filters_of_log_leave_the_positions() -> None:
    printed = fine(
        "log", DEMO, "--format", "jsonl", "--alloc", "0e263", "--task", "bad", "--until", "2026-11-23T08:28:35Z"
    )

    assert [(json.loads(line)["Seq"], json.loads(line)["Event"]["Type"]) for line in printed.splitlines()[1:]] == [
        (64, "Received"),
        (65, "Task Setup"),
        (66, "Started"),
    ]


def test_the_table_of_a_log() -> None:
    lines = fine("log", SIBLING).splitlines()

    assert lines[0].split() == ["SEQ", "INDEX", "TIME", "(UTC)", "ALLOC", "VERSION", "TASK", "EVENT", "MESSAGE"]
    assert lines[1].endswith("placed               first seen: job sibling_failed, group group, node 4e8da92d")
    assert lines[2].endswith("Job, as the stream tells of the job")
    assert lines[13].split(maxsplit=7)[4:] == [
        "0e263ec2",
        "13",
        "good",
        'Sibling Task Failed  Task\'s sibling "bad" failed',
    ]
    assert lines[-1] == "18 records, 1 allocation"


def test_a_long_log_is_shown_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "_ROWS_AT_ONCE", 7)

    lines = fine("log", DEMO).splitlines()

    assert len(lines) == 1 + 287 + 2
    assert sum(line.startswith("SEQ") for line in lines) == 1


# --- history ---


def test_history_tells_every_event_and_what_it_changed() -> None:
    told = fine("history", FAST, "e36", "main")
    title, head, *rows, empty, caption = told.splitlines()

    assert title == f"allocation {FAST_ID}, job service_ring_fast_raw, group group, task main"
    assert head.split() == ["VERSION", "INDEX", "TIME", "(UTC)", "CHANGED", "EVENT", "MESSAGE"]
    assert len(rows) == 31
    assert rows[4].split(maxsplit=4)[:2] == ["7", "153"]
    assert "running -> pending, restarts 1  Restarting  " in rows[4]
    assert sum("  GAP  " in row and row.endswith("events were lost here") for row in rows) == 2
    assert "running -> dead, failed         Not Restarting   Exceeded allowed attempts 8" in rows[-2]
    assert (empty, caption) == (
        "",
        "29 events, 31 records, 2 gaps where events were lost; now dead, failed, 8 restarts",
    )


def test_history_of_an_allocation_tells_of_all_its_tasks_and_fields() -> None:
    told = fine("history", DEMO, "1781f704")

    assert "placed " in told.splitlines()[2]
    assert "DesiredDescription, DesiredStatus run -> stop" in told
    assert "running -> dead, allocation complete" in told
    assert re.search(r"running -> dead +ended +without an event", told)
    assert told.endswith("24 events, 33 records; now complete\n")


def test_history_is_the_same_from_a_log_and_from_the_stream(tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"
    fine("import", DEMO, "--into", log)

    for alloc in ("e368643b", "0e263ec2", "69e8e345"):
        assert fine("history", log, alloc) == fine("history", DEMO, alloc)


def test_history_names_the_tasks_there_are() -> None:
    result = run("history", SIBLING, "0e26", "ugly")

    assert result.stderr.endswith("has no task 'ugly'; it has bad, good\n")


def test_history_marks_what_was_corrected_and_what_is_irregular(tmp_path: Path) -> None:
    def body(index: int, state: str, *types: str) -> str:
        events = [{"Type": name, "Time": place} for place, name in enumerate(types, start=1)]
        tasks = {"t": {"State": state, "Failed": False, "StartedAt": None, "Restarts": 0, "Events": events}}
        return json.dumps({"ID": "a", "JobID": "j", "ModifyIndex": index, "TaskStates": tasks}) + "\n"

    source = tmp_path / "odd.jsonl"
    source.write_text(body(1, "pending", "Received") + body(2, "pending", "Received", "Restart Signaled"))
    told = fine("history", source, "a", "t")
    assert "irregular: not legal when pending" in told
    assert ", 1 irregular event; now pending, 0 restarts" in told
    assert ", 1 irregular event;" in fine("replay", source)

    source.write_text(body(1, "running", "Received", "Started") + body(2, "pending", "Received", "Started"))
    told = fine("history", source, "a", "t")
    assert re.search(r"running -> pending +corrected +to the observed values: state", told)


@pytest.mark.parametrize("scenario", recordings.scenarios(), ids=str)
def test_history_log_and_replay_show_every_recording(scenario: recordings.Scenario, tmp_path: Path) -> None:
    source = polled(scenario, tmp_path)
    for line in run("replay", source, "--format", "jsonl").stdout.splitlines():
        snapshot = Snapshot.from_json(line)
        told = fine("history", source, snapshot.id, env=on_a_terminal(90))
        assert told
        for name in snapshot.tasks:
            assert fine("history", source, snapshot.id, name)
        assert fine("log", source)
        assert fine("replay", source, env=on_a_terminal(90))


# --- verify and diagram ---


def test_verify_says_that_a_recording_agrees() -> None:
    told = fine("verify", FAST)

    assert re.search(r"\nobservations +\d+\n  compared +\d+  with the fold, every key\n", told)
    assert "\ngaps                    2  places where events were lost\n" in told
    assert "\ndivergences             0\n" in told
    assert told.endswith("\nIt agrees: at every index the records fold to exactly what was observed.\n")


def test_the_demo_stream_is_one_cluster_without_conflicts() -> None:
    report = json.loads(fine("verify", DEMO, "--format", "json"))

    assert report["agrees"]
    assert (report["conflicts"], report["repeats"], report["irregular"], report["observed"]) == (0, 0, 0, 0)
    assert (report["allocations"], report["tasks"], report["gaps"]) == (14, 24, 2)
    assert DEMO.read_bytes()[4:8] == b"\0\0\0\0", "the time stamp of gzip"


def test_verify_shows_a_divergence_and_exits_with_one(tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"
    fine("import", SIBLING, "--into", log)
    header, *lines = unsealed(log.read_bytes()).splitlines(keepends=True)
    log.write_bytes(seal(header) + seal(b"".join(lines[:3] + lines[4:])))

    result = run("verify", log)

    assert result.exit_code == 1
    assert result.stderr == ""
    assert re.search(rf"{log}, record 4 +354 +0e263ec2-a2d1-93bc-6055-a504374ed04f +\$\.Seq +4 +5\n", result.stdout)
    assert result.stdout.splitlines()[-1] == "It does not agree: 2 divergences found."
    report = json.loads(run("verify", log, "--format", "json").stdout)
    assert (report["agrees"], report["divergences_total"]) == (False, 2)
    assert report["divergences"][1]["path"] == "$.Version"
    assert report["divergences"][1]["state_before"] == {"bad": "pending"}


def test_verify_tells_of_all_that_is_damaged_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"
    fine("import", SIBLING, "--into", log)
    log.write_bytes(log.read_bytes().replace(b'"Seq":4', b'"Seq":9'))

    result = run("verify", log)

    assert result.exit_code == 1
    assert re.search(rf"{log}, line [2-5] ", result.stdout)
    report = json.loads(run("verify", log, "--format", "json").stdout)
    assert "the log is damaged at byte " in report["divergences"][0]["why"]


def test_verify_says_that_a_log_is_in_order(tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"
    fine("import", SIBLING, "--into", log)

    told = fine("verify", log)
    assert told.endswith("\nIt agrees: every position, version and index of the log follows the one before.\n")
    assert "observations" not in told


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("format", ["mermaid", "dot", "table"])
def test_diagram_prints_what_the_library_draws(dialect: str, format: str) -> None:
    assert fine("diagram", "--dialect", dialect, "--format", format) == diagram(dialect, format)


# --- the process ---


def test_python_m_taskfold_is_the_command_line() -> None:
    done = subprocess.run([*TASKFOLD, "replay", str(SIBLING)], capture_output=True, check=False, env=ENVIRONMENT)

    assert done.returncode == 0
    assert done.stdout.decode() == fine("replay", SIBLING)
    assert done.stderr == b""


def test_help_names_every_command_and_option() -> None:
    told = fine("--help")

    for name in ("replay", "import", "log", "history", "verify", "diagram"):
        assert re.search(rf"^  {name} ", told, re.MULTILINE)
        assert fine(name, "--help").startswith(f"Usage: taskfold {name} ")
        assert fine(name, "-h") == fine(name, "--help")
    assert fine("--version").startswith("taskfold")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes close differently there")
@pytest.mark.parametrize("command", [("log", DEMO), ("replay", DEMO, "--format", "jsonl"), ("--help",)], ids=str)
def test_a_reader_that_goes_away_is_no_error(command: tuple[object, ...]) -> None:
    child = subprocess.Popen(
        [*TASKFOLD, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert child.stdout
    assert child.stderr
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()

    assert child.wait(60) == 141
    assert errors == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("format", ["table", "jsonl", "json"])
def test_a_full_disk_is_one_sentence(format: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*TASKFOLD, "replay", str(SIBLING), "--format", format],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=ENVIRONMENT,
        )

    assert done.returncode == 2
    assert done.stderr == b"taskfold: reading or writing failed: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent differently there")
def test_ctrl_c_is_one_line_and_130() -> None:
    child = subprocess.Popen(
        [*TASKFOLD, "log", "-", "--format", "jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
    )
    assert child.stdin
    assert child.stdout
    child.stdin.write(gzip.decompress(SIBLING.read_bytes()))
    child.stdin.flush()
    # A record that has come back says that the command is running; now it waits for more.
    assert child.stdout.readline().startswith(b'{"taskfold":')
    assert child.stdout.readline().startswith(b'{"Seq":1,')
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)

    assert child.returncode == 130
    assert errors == b"taskfold: interrupted\n"


def test_ctrl_c_that_a_library_swallowed_is_told_when_the_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def swallow(*_: object) -> str:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return "drawn"

    monkeypatch.setattr("taskfold.cli.diagram.draw", swallow)

    result = run("diagram")

    assert result.exit_code == 130
    assert (result.stdout, result.stderr) == ("drawn", "taskfold: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_its_extra_the_command_line_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['rich'] = None\n"
        "sys.argv = ['taskfold', 'replay', 'x']\n"
        "from taskfold.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        env=ENVIRONMENT,
    )

    assert done.returncode == 2
    assert done.stderr == b"taskfold needs its command line extra: pip install 'taskfold[cli]'\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class HalfRead:
    def progress(self) -> float:
        return 0.5


def test_a_bar_is_shown_on_a_terminal_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress_module, "_PATIENCE_S", 0)
    monkeypatch.setattr(progress_module, "_STEP_S", 0.001)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    with Progress("reading", HalfRead()):
        deadline = time.monotonic() + 20
        while " 50%" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)

    assert "reading" in terminal.getvalue()
    assert " 50%" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K"), "the line of the bar is wiped out"


def test_no_bar_is_shown_when_it_was_quick_or_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("reading", HalfRead()):
        pass
    monkeypatch.setattr(progress_module, "_PATIENCE_S", 0)
    with Progress("reading", HalfRead(), is_visible=False):
        time.sleep(0.05)
    monkeypatch.setattr(sys, "stderr", pipe)
    with Progress("reading", HalfRead()):
        time.sleep(0.05)

    assert terminal.getvalue() == pipe.getvalue() == ""
