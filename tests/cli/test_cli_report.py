"""`taskfold report`, on recordings: a row a task, a job, a node; for people and for programs."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from support import recordings
from support.command_line import refused, run
from taskfold import ingest
from taskfold.model.go.timestamps import time_text

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "nomad-1.1.2-stream.ndjson.gz"
LOST = recordings.RECORDINGS / "1.1.2" / "agent_restart_node_down_mock" / "stream.ndjson.gz"


def fine(*args: object, input: bytes | None = None, env: dict[str, str | None] | None = None) -> str:
    result = run("report", *args, input=input, env=env)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def rows(*args: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fine(*args, "--format", "jsonl").splitlines()]


def test_the_table_has_a_row_for_each_task_and_counts_them() -> None:
    lines = fine(DEMO).splitlines()

    assert lines[0].split()[:4] == ["ALLOC", "JOB", "/", "GROUP"]
    assert len(lines) == 24 + 3
    assert lines[1].startswith("e368643b")  # most restarts first
    assert 'Exceeded allowed attempts 8 in interval 1m0s and mode is "fail"' in lines[1]
    assert lines[-1].startswith(
        "14 allocations, 24 tasks, 16 restarts, 19 deaths, 2 gaps where events were lost; times"
    )


def test_programs_get_the_same_rows_in_every_format(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    path.write_bytes(run("report", DEMO, "--format", "parquet").stdout_bytes)
    shown = rows(DEMO)
    table = parquet.read_table(path)
    times = table.column("last_seen").cast("int64").to_pylist()
    of_parquet = table.drop_columns("last_seen").to_pylist()

    assert list(csv.DictReader(io.StringIO(fine(DEMO, "--format", "csv")))) == [
        {name: _csv_text(value) for name, value in row.items()} for row in shown
    ]
    assert of_parquet == [{name: value for name, value in row.items() if name != "last_seen"} for row in shown]
    assert [time_text(time_ns) for time_ns in times] == [row["last_seen"] for row in shown]


def _csv_text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--task", "good"], {"good"}),
        (["--job", "sibling_failed"], {"good", "bad"}),
        (["--alloc", "0e263ec2"], {"good", "bad"}),
        (["--status", "pending"], {"main"}),
        (["--flapping", "3/1m", "--job", "batch_fail_attempts3_raw"], {"main"}),
        (["--since", "2026-11-23T08:29:50Z", "--job", "scale_down"], {"main"}),
    ],
)
def test_filters_choose_the_tasks(options: list[str], expected: set[str]) -> None:
    assert {row["task"] for row in rows(DEMO, *options)} == expected


def test_a_task_that_flapped_is_found_by_its_restarts() -> None:
    assert [(row["job"], row["restarts"]) for row in rows(DEMO, "--flapping", "3/1m")] == [
        ("service_ring_fast_raw", 8),
        ("batch_fail_attempts3_raw", 3),
    ]


def test_until_is_the_state_at_that_time_and_the_end_of_the_times() -> None:
    (bad,) = rows(DEMO, "--task", "bad", "--until", "2026-11-23T08:28:34.6Z")

    assert (bad["state"], bad["deaths"], bad["reason"]) == ("running", 0, None)
    assert 0 < bad["running_ns"] < 1_000_000_000


@pytest.mark.parametrize("key", ["job", "node", "group"])
def test_rows_are_summed_up(key: str) -> None:
    tasks, groups = rows(DEMO), rows(DEMO, "--by", key)

    for name in ("restarts", "deaths", "pending_ns", "running_ns", "dead_ns", "gaps"):
        assert sum(row[name] for row in groups) == sum(row[name] for row in tasks)
    assert sum(row["tasks"] for row in groups) == len(tasks)
    assert {row["name"] for row in groups} == {
        f"{row['job']} / {row['group']}" if key == "group" else row[key] for row in tasks
    }
    assert fine(DEMO, "--by", key).splitlines()[0].startswith(key.upper() if key != "group" else "JOB / GROUP")


@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("restarts", lambda row: -row["restarts"]),
        ("dead", lambda row: -row["dead_ns"]),
        ("pending", lambda row: -row["pending_ns"]),
        ("running", lambda row: -row["running_ns"]),
        ("name", lambda row: row["job"]),
    ],
)
def test_rows_are_sorted(order: str, key: Any) -> None:
    shown = rows(DEMO, "--sort", order)

    assert shown == sorted(shown, key=key)
    assert rows(DEMO, "--sort", order, "--limit", 3) == shown[:3]


def test_rows_that_are_left_out_are_counted() -> None:
    assert "; 21 rows more; " in fine(DEMO, "--limit", 3).splitlines()[-1]


def test_a_log_gives_the_report_of_the_stream_that_it_was_made_of(tmp_path: Path) -> None:
    for name in ("x.jsonl", "x.db"):
        ingest(DEMO, into=tmp_path / name)
        assert rows(tmp_path / name) == rows(DEMO)


def test_a_log_that_grows_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    path, grown = tmp_path / "x.ndjson", gzip.decompress(DEMO.read_bytes()).splitlines(keepends=True)
    path.write_bytes(b"".join(grown[: len(grown) // 2]))
    first = rows(path)
    path.write_bytes(b"".join(grown))

    assert 0 < len(first) < len(rows(path))


def test_several_sources_are_one_report(tmp_path: Path) -> None:
    lines = gzip.decompress(DEMO.read_bytes()).splitlines(keepends=True)
    (tmp_path / "1.ndjson").write_bytes(b"".join(lines[: len(lines) // 2]))
    (tmp_path / "2.ndjson").write_bytes(b"".join(lines[len(lines) // 2 :]))

    assert rows(tmp_path / "1.ndjson", tmp_path / "2.ndjson") == rows(DEMO)
    assert rows(tmp_path) == rows(DEMO)


def test_standard_input_is_read() -> None:
    result = run("report", "-", "--format", "jsonl", input=gzip.decompress(DEMO.read_bytes()))

    assert [json.loads(line) for line in result.stdout.splitlines()] == rows(DEMO)


@pytest.mark.parametrize("format", ["table", "csv", "jsonl"])
def test_nothing_that_matches_is_an_answer_that_is_no(format: str) -> None:
    result = run("report", DEMO, "--job", "nothing", "--format", format)

    assert result.exit_code == 1
    assert result.stderr == "taskfold: nothing matched: none of 24 tasks\n"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--flapping", "5"], "such as 5/1h"),
        (["--flapping", "x/1h"], "such as 5/1h"),
        (["--flapping", "0/1h"], "1 restart or more"),
        (["--flapping", "2/-1h"], "1 restart or more"),
        (["--since", "soon"], "'soon'"),
        (["--since", "2026-01-02", "--until", "2026-01-01"], "--until is before --since"),
        (["--at", "5", "--until", "2026-01-01"], "name one of them"),
        (["--limit", "0"], "--limit"),
        (["--sort", "colour"], "--sort"),
        (["--by", "colour"], "--by"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], part: str) -> None:
    refused(run("report", DEMO, *options), part)


def test_without_its_extra_parquet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "taskfold.cli._parquet", raising=False)

    refused(run("report", DEMO, "--format", "parquet"), "pip install 'taskfold[columnar]'")


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    refused(run("report", tmp_path / "missing"), "missing")
    (tmp_path / "x").write_bytes(b"\x00\x01nonsense")
    refused(run("report", tmp_path / "x"), "x")


def test_no_line_is_wider_than_a_narrow_terminal() -> None:
    narrow = {"FORCE_COLOR": "1", "COLUMNS": "90", "TERM": "xterm-256color", "NO_COLOR": "1"}

    for options in ((), ("--by", "job")):
        shown = re.sub(r"\x1b\[[0-9;]*m", "", fine(DEMO, *options, env=narrow))
        assert max(map(len, shown.splitlines())) <= 90


def test_texts_of_a_source_cannot_move_the_cursor(tmp_path: Path) -> None:
    body = {"ID": "a", "JobID": "\x1b[31m", "ModifyIndex": 5, "TaskStates": {"\x1b[2J": {"State": "running"}}}
    (tmp_path / "a.json").write_text(json.dumps(body), encoding="utf-8")

    assert "\x1b" not in fine(tmp_path / "a.json") + fine(tmp_path / "a.json", "--by", "job")


def test_a_lost_node_is_why_its_tasks_died() -> None:
    assert "lost-node" in {row["reason"] for row in rows(LOST)}


def test_a_report_is_the_same_from_a_packed_file(tmp_path: Path) -> None:
    zstd = (
        pytest.importorskip("backports.zstd") if sys.version_info < (3, 14) else pytest.importorskip("compression.zstd")
    )
    (tmp_path / "x.zst").write_bytes(zstd.compress(gzip.decompress(DEMO.read_bytes())))
    shutil.copy(DEMO, tmp_path / "y.gz")

    assert rows(tmp_path / "x.zst") == rows(tmp_path / "y.gz") == rows(DEMO)
