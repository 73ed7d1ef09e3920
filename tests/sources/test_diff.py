"""Two points of a source, and what is different between them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Raw

from taskfold import At, Difference, Engine, ManualClock, NdjsonLog, Record, diff, events, history, replay
from taskfold.model.record import Observed, Placed, Updated

ROOT = Path(__file__).parents[2]
STREAM = ROOT / "examples" / "nomad-1.1.2-stream.ndjson.gz"
SECOND = 10**9


@pytest.fixture(params=["x.jsonl", "x.db"])
def log(request, tmp_path) -> Path:
    """Return a log of two allocations, seven writes long."""
    path, clock = tmp_path / request.param, ManualClock(SECOND)
    with Engine.open(path, dialect="1.1.2", clock=clock) as engine:
        engine.place({"ID": "a", "JobID": "example"})
        for event in (events.Received(), events.Started(), events.Terminated(exit_code=1), events.Restarting()):
            engine.record("a", "web", event)
            clock.advance(SECOND)
        engine.place({"ID": "b", "JobID": "other"})
        engine.update("a", {"DesiredStatus": "stop"})
    return path


def told(found: Difference) -> tuple:
    return found.alloc, found.task, found.field, found.before, found.after


def test_what_a_task_went_through_is_told_by_its_ends(log):
    assert [told(each) for each in diff(log, 2, 3)] == [
        ("a", "", "ClientDescription", "No tasks have started", "Tasks are running"),
        ("a", "", "ClientStatus", "pending", "running"),
        ("a", "web", "State", "pending", "running"),
        ("a", "web", "EventsTotal", 1, 2),
        ("a", "web", "StartedAt", None, "1970-01-01T00:00:02Z"),
    ]
    assert [told(each) for each in diff(log, 2, 5) if each.task] == [
        ("a", "web", "Restarts", 0, 1),
        ("a", "web", "EventsTotal", 1, 4),
        ("a", "web", "StartedAt", None, "1970-01-01T00:00:02Z"),
        ("a", "web", "LastRestart", None, "1970-01-01T00:00:04Z"),
    ]


def test_what_was_not_there_before_has_no_value_before(log):
    found = [told(each) for each in diff(log, 5)]

    assert ("a", "", "DesiredStatus", None, "stop") in found
    assert ("b", "", "JobID", None, "other") in found


def test_what_few_tasks_have_is_told_too(tmp_path):
    path = tmp_path / "x.jsonl"
    of_task = (
        events.Received(),
        events.RestartSignaled(),  # which is not legal there
        Updated(fields={"TaskHandle": Raw(b'{"Version":1}')}),
        Observed(hidden=True),
    )
    with NdjsonLog(path, "1.1.2") as log:
        log.append("a", 0, [Record(index=1, alloc="a", version=1, event=Placed(body=Raw(b"{}")))])
        for version, event in enumerate(of_task, start=2):
            log.append("a", version - 1, [Record(index=version, alloc="a", version=version, task="web", event=event)])

    assert [told(each)[1:] for each in diff(path, 2) if each.task] == [
        ("web", "EventsTotal", 1, 2),
        ("web", "Hidden", False, True),
        ("web", "Irregular", 0, 1),
        ("web", "TaskHandle", None, {"Version": 1}),
    ]
    changes = [[one.field for one in entry.changes] for entry in history(path, "a", "web")]
    assert changes[1:] == [["EventsTotal", "Irregular"], ["TaskHandle"], ["Hidden"]]
    assert "Irregular          0 -> 1" in run("diff", path, "--from", 2).stdout
    shown = run("history", path, "a").stdout
    assert all(words in shown for words in ("irregular: not legal when pending", "TaskHandle", "hidden"))


def test_back_in_time_is_the_same_the_other_way_round(log):
    there, back = list(diff(log, 1, 6)), list(diff(log, 6, 1))

    assert [(each.field, each.after, each.before) for each in back] == [
        (each.field, each.before, each.after) for each in there
    ]


def test_a_point_is_no_different_from_itself(log):
    for index in range(1, 8):
        assert list(diff(log, index, index)) == []


def test_a_point_may_be_a_time(log):
    assert [told(each) for each in diff(log, At(time_ns=SECOND), "1970-01-01T00:00:02Z")] == [
        told(each) for each in diff(log, 2, 3)
    ]


def test_a_point_may_be_a_position_of_a_log(log):
    assert [told(each) for each in diff(log, "@2", "@3")] == [told(each) for each in diff(log, 2, 3)]
    assert [r.seq for r in replay(log, at="@4")] == [1, 2, 3, 4]
    assert list(replay(log, at=At(seq=0))) == []
    assert [r.seq for r in replay(STREAM, at="@9")] == list(range(1, 10))


def test_every_difference_of_a_recorded_stream_is_between_what_is_replayed():
    first, last = 500, 700
    before = {s.id: json.loads(s.to_json()) for s in replay(STREAM, at=first).snapshots()}
    after = {s.id: json.loads(s.to_json()) for s in replay(STREAM, at=last).snapshots()}

    found = list(diff(STREAM, first, last))

    assert len(found) > 20
    for each in found:
        if not each.task:
            assert (before.get(each.alloc, {}).get(each.field)) == each.before or not each.before
            assert after[each.alloc].get(each.field) == each.after or not each.after
        elif each.field in {"State", "Failed", "Restarts"}:
            assert after[each.alloc]["TaskStates"][each.task][each.field] == each.after


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "taskfold", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_shows_a_table(log):
    ran = run("diff", log, "--from", 2, "--to", 3)

    assert ran.returncode == 0
    assert ran.stdout.splitlines() == [
        "ALLOC  TASK  FIELD              CHANGED",
        "a      -     ClientDescription  No tasks have started -> Tasks are running",
        "a      -     ClientStatus       pending -> running",
        "a      web   State              pending -> running",
        "a      web   EventsTotal        1 -> 2",
        "a      web   StartedAt          nothing -> 1970-01-01T00:00:02Z",
        "",
        "5 differences in 1 allocation",
    ]


def test_the_command_prints_values_for_programs(log):
    ran = run("diff", log, "--from", 2, "--to", 3, "--task", "web", "--format", "jsonl")

    assert json.loads(ran.stdout.splitlines()[0]) == {
        "Alloc": "a",
        "Task": "web",
        "Field": "State",
        "Before": "pending",
        "After": "running",
    }


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--from", "3", "--to", "3"], 1, "nothing is different"),
        (["--from", "1", "--alloc", "zzz"], 1, "nothing is different"),
        (["--from", "fortnight"], 2, "'fortnight' is neither an index such as 1042 nor a time"),
        ([], 2, "'--from'"),
    ],
)
def test_what_cannot_be_told_is_said_in_one_sentence(log, arguments, status, sentence):
    ran = run("diff", log, *arguments)

    assert ran.returncode == status
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_a_log_that_is_not_there_is_told():
    ran = run("diff", "/nonexistent.db", "--from", 1)

    assert (ran.returncode, ran.stderr) == (2, "taskfold: /nonexistent.db: no such file\n")
