"""``taskfold simulate``: counts, records in any log, and a sentence for what cannot be simulated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.command_line import refused, run
from taskfold.decision.nomad_0_9 import Nomad09
from taskfold.log.registry import open_log

SMALL = ("--allocations", 5, "--seed", 7, "--hours", 0.2)


def counts(text: str) -> dict[str, int]:
    """Return the counts that a command printed, by name."""
    return {name: int(number.replace(",", "")) for name, number in re.findall(r"^(\w+) +([\d,]+)", text, re.MULTILINE)}


@pytest.mark.parametrize("name", ["x.db", "x.jsonl"])
def test_a_simulation_is_counted_and_written_into_a_log(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    result = run("simulate", *SMALL, "--into", path)

    assert result.exit_code == 0, result.stderr
    found = counts(result.stdout)
    assert found["violations"] == 0
    with open_log(path) as log:
        assert log.seq == found["records"] > 50
    assert f"into {path}" in result.stdout
    assert "It agrees" in run("verify", path).stdout
    without = run("simulate", *SMALL)
    assert counts(without.stdout) == found


def test_a_log_that_has_records_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    run("simulate", *SMALL, "--into", path)
    before = path.read_bytes()

    refused(run("simulate", *SMALL, "--into", path), f"{path}: holds ", " records already: name a new log")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--allocations", 0), "invalid value for '--allocations': 0 is not in the range x>=1"),
        (("--hours", -1), "invalid value for '--hours': -1.0 is not in the range x>0"),
        (("--hours", "nan"), "it takes more than 0 hours, and fewer than a million, not nan"),
        (("--hours", "1e300"), "it takes more than 0 hours, and fewer than a million, not 1e+300"),
        (("--seed", "x"), "invalid value for '--seed': 'x' is not a valid integer"),
        (("--only", "1,x"), "expected whole numbers with commas between them, or none, found '1,x'"),
        (("--only", "7", "--allocations", 5), "there are the places 0 to 4, not 7"),
        (("--dialect", "2"), "invalid value for '--dialect'"),
        (("--into", "log.txt"), "log.txt: a log ends in .db"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_sentence(options: tuple[object, ...], sentence: str) -> None:
    refused(run("simulate", *options), sentence)


def test_a_violation_is_shown_with_the_command_that_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nomad09, "stop", lambda _: None)

    result = run("simulate", "--allocations", 20, "--seed", 2, "--hours", 1)

    assert result.exit_code == 1
    assert counts(result.stdout)["violations"] == 1
    assert "violation of stop: " in result.stdout
    (command,) = re.findall(r"its least part has 1 place and \d+ operations?: taskfold (.*)", result.stdout)
    again = run(*command.split())
    assert again.exit_code == 1
    assert "violation of stop: " in again.stdout
    assert re.search(r"allocation  (StopRequested|NodeReconnected)\(", again.stdout)
