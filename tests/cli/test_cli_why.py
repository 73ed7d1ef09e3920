"""`taskfold why`, on a recording: the chain of an end, in sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command_line import refused, run
from taskfold import ingest

DEMO = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"


def fine(*args: object) -> str:
    result = run("why", *args)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_the_chain_of_a_task_ends_with_the_verdict_of_its_policy() -> None:
    lines = fine(DEMO, "dc7eed70/main").splitlines()

    assert lines[0].startswith("main is dead, failed: its restart policy gave it up: Exceeded allowed attempts 3")
    assert lines[1].split() == ["TIME", "(UTC)", "INDEX", "TASK", "WHAT", "HAPPENED"]
    assert lines[-1].endswith("(its policy: 3 restarts in 1m0s, then fail; this end was number 4)")
    assert sum("with exit code 3" in line for line in lines) == 4


def test_without_a_task_each_is_explained() -> None:
    conclusions = [line for line in fine(DEMO, "0e263ec2").splitlines() if " is dead" in line]

    assert conclusions == [
        "bad is dead, failed: its restart policy gave it up: Policy allows no restarts",
        "good is dead: another task of its group failed: bad",
    ]


def test_a_task_is_named_behind_a_slash_or_apart() -> None:
    assert fine(DEMO, "0e263ec2/good") == fine(DEMO, "0e263ec2", "good")


def test_gaps_are_noted() -> None:
    assert "note: main: events were lost before index 158" in fine(DEMO, "e368643b/main")


def test_programs_get_the_chain_with_positions() -> None:
    (line,) = fine(DEMO, "0e263ec2/good", "--format", "jsonl").splitlines()
    chain = json.loads(line)

    assert (chain["task"], chain["reason"]) == ("good", "sibling")
    assert {cause["task"] for cause in chain["causes"]} == {"good", "bad"}
    assert all(cause["index"] and cause["time_ns"] for cause in chain["causes"])


def test_a_log_tells_the_same_chain(tmp_path: Path) -> None:
    for name in ("x.jsonl", "x.db"):
        ingest(DEMO, into=tmp_path / name)
        assert fine(tmp_path / name, "0e263ec2/good") == fine(DEMO, "0e263ec2/good")


def test_the_chain_up_to_a_point() -> None:
    assert fine(DEMO, "0e263ec2/good", "--at", 354).startswith("good is running\n")


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["ffff"], "no allocation begins with 'ffff'"),
        (["0e263ec2/nobody"], "has no task 'nobody'; it has bad, good"),
        (["0e263ec2/"], "has no task ''; it has bad, good"),
    ],
)
def test_what_there_is_not_is_an_answer_that_is_no(args: list[str], part: str) -> None:
    result = run("why", DEMO, *args)

    assert result.exit_code == 1
    assert part in result.stderr


def test_an_ambiguous_allocation_and_a_missing_source_are_refused(tmp_path: Path) -> None:
    refused(run("why", DEMO, ""), "allocations begin with ''")
    refused(run("why", tmp_path / "missing", "a"), "missing")
