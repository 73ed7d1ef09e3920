"""What a shell completes: commands, options, and the allocations and tasks of the source that was named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import run
from taskfold import Engine
from taskfold.events import Received

IDS = ("0a1b2c3d", "0a9f8e7d", "f1e2d3c4")


@pytest.fixture(params=["log.db", "log.jsonl"])
def log(request, tmp_path):
    path = tmp_path / request.param
    with Engine.open(path, dialect="1.1.2") as engine:
        for alloc in IDS:
            engine.place({"ID": alloc})
            for task in ("web", "wheel", "stats"):
                engine.record(alloc, task, Received())
    return path


def completed(*words: object) -> list[str]:
    """Return what bash is told could stand in the place of the last word."""
    line = " ".join(map(str, ("taskfold", *words)))
    asked = {"_TASKFOLD_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    result = run(env=asked)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return [entry.partition(",")[2] for entry in result.stdout.split()]


def test_a_command_is_completed_by_its_beginning():
    assert completed("his") == ["history"]


def test_a_value_of_an_option_is_completed():
    assert completed("replay", "--format", "j") == ["json", "jsonl"]


@pytest.mark.parametrize(("words", "found"), [(["0a"], ["0a1b2c3d", "0a9f8e7d"]), (["f"], ["f1e2d3c4"]), (["9"], [])])
def test_an_allocation_is_completed_from_the_source(log, words, found):
    assert completed("history", log, *words) == found
    assert completed("replay", log, "--alloc", *words) == found


def test_a_task_is_completed_from_the_allocation(log):
    assert completed("history", log, "f1", "w") == ["web", "wheel"]


def test_without_an_allocation_the_tasks_of_a_small_source_are_completed(log, monkeypatch):
    assert completed("replay", log, "--task", "w") == ["web", "wheel"]

    monkeypatch.setattr("taskfold.cli._completion._LONGEST_BYTES", 10)

    assert completed("replay", log, "--task", "w") == []


@pytest.mark.parametrize("source", ["nothing-there.db", "-"])
def test_a_source_that_cannot_be_read_completes_nothing(source):
    assert completed("history", source, "0a") == []


def test_a_file_that_takes_long_to_read_completes_nothing(log, monkeypatch):
    monkeypatch.setattr("taskfold.cli._completion._LONGEST_BYTES", 10)

    assert completed("history", log, "f") == (["f1e2d3c4"] if log.suffix == ".db" else [])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_how_to_ask(shell):
    result = run(env={"_TASKFOLD_COMPLETE": f"{shell}_source"})

    assert result.exit_code == 0
    assert "_TASKFOLD_COMPLETE=" in result.stdout


def test_bash_completes_with_what_the_command_tells_it(log):
    script = f"""
        eval "$(_TASKFOLD_COMPLETE=bash_source taskfold)"
        COMP_WORDS=(taskfold history {log} f); COMP_CWORD=3
        _taskfold_completion taskfold
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{scripts}:/usr/bin:/bin"},
    )

    assert done.stdout.split() == ["f1e2d3c4"], done.stderr
