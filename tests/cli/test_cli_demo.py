"""``taskfold demo`` shows what comes with taskfold; its list of commands says of each what its own help says."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import pytest

from support.command_line import refused, run
from taskfold.cli._commands import COMMANDS, taskfold
from taskfold.sources.shipped import EXAMPLE_JOB, EXAMPLE_STREAM

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.skipif(sys.platform != "linux", reason="a job needs Linux")
def test_a_demo_shows_a_state_a_history_a_proof_and_a_run_and_writes_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))

    result = run("demo")

    assert result.exit_code == 0
    for line in (
        f"$ taskfold replay {EXAMPLES / EXAMPLE_STREAM}",
        "14 allocations, 24 tasks, 2 gaps where events were lost",
        "It agrees: at every index the records fold to exactly what was observed.",
        f"$ taskfold run {EXAMPLES / EXAMPLE_JOB}",
    ):
        assert line in result.stdout
    assert "1 allocation complete" in result.stderr
    assert not list(here.iterdir())
    (page,) = elsewhere.rglob("life.html")
    assert f"$ taskfold timeline {EXAMPLES / EXAMPLE_STREAM} -o {page}" in result.stdout
    assert f"wrote {page} (" in result.stderr
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_a_demo_writes_its_files_and_overwrites_none(tmp_path: Path) -> None:
    folder = tmp_path / "new"

    assert run("demo", "--write", folder).stdout == f"wrote {folder / EXAMPLE_STREAM}\nwrote {folder / EXAMPLE_JOB}\n"

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: (EXAMPLES / name).read_bytes() for name in (EXAMPLE_STREAM, EXAMPLE_JOB)
    }
    refused(run("demo", "--write", folder), f"{folder / EXAMPLE_STREAM}: exists already, and is not overwritten")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_of_each_what_its_own_help_begins_with(name: str) -> None:
    command = taskfold.get_command(click.Context(taskfold), name)

    assert command is not None
    assert command.name == name
    assert (command.help or "").partition("\n\n")[0].replace("\n", " ") == COMMANDS[name]


def test_every_command_has_a_file_of_its_own() -> None:
    files = {path.stem.strip("_") for path in (EXAMPLES.parent / "engine/taskfold/cli").glob("[!_]*.py")}

    assert files == set(COMMANDS)
