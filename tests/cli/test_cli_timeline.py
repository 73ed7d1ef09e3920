"""``taskfold timeline`` writes one file, of what its options choose, and overwrites no source."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import taskfold as tf
from support.command_line import refused, run
from taskfold import events

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"


@pytest.mark.parametrize(("name", "begin"), [("x.html", "<!doctype html>"), ("x.svg", "<svg "), ("x.json", "{")])
def test_a_timeline_has_the_format_that_its_file_ends_with(tmp_path: Path, name: str, begin: str) -> None:
    result = run("timeline", STREAM, "-o", tmp_path / name)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(f"taskfold: wrote {tmp_path / name} (")
    assert result.stderr.endswith("): 24 tasks of 14 allocations\n")
    assert (tmp_path / name).read_text("utf-8").startswith(begin)


def test_a_timeline_goes_to_standard_output_in_the_format_that_is_named() -> None:
    result = run("timeline", STREAM, "-o", "-", "--format", "perfetto")

    assert json.loads(result.stdout)["otherData"]["source"] == str(STREAM)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        (("--job", "sibling_failed"), 2),
        (("--alloc", "023db46a"), 1),
        (("--status", "failed", "--task", "main"), 4),
        (("--node", "4e8da92d"), 24),
        (("--at", "2026-11-23T08:28:40Z"), 6),
    ],
)
def test_a_timeline_shows_what_its_options_choose(options: tuple[str, ...], tasks: int) -> None:
    trace = json.loads(run("timeline", STREAM, "-o", "-", "--format", "perfetto", *options).stdout)

    assert len([event for event in trace["traceEvents"] if event["name"] == "thread_name"]) == tasks


def test_a_drawing_has_the_width_that_is_asked_for() -> None:
    result = run("timeline", STREAM, "-o", "-", "--format", "svg", "--width", 640)

    assert ET.fromstring(result.stdout).get("width") == "640"  # noqa: S314 - our own


def test_nothing_that_matches_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    result = run("timeline", STREAM, "-o", tmp_path / "x.html", "--job", "no such job")

    assert (result.exit_code, result.stderr) == (1, "taskfold: nothing matched: none of 14 allocations\n")
    assert not list(tmp_path.iterdir())


def test_a_log_is_drawn_while_it_is_written_and_never_overwritten(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    with tf.Engine.open(tmp_path / "log.db", dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        engine.record("a", "web", events.Received())
        assert run("timeline", tmp_path / "log.db", "-o", log).exit_code == 0
        (tmp_path / "log.db").rename(log)
        refused(run("timeline", log, "-o", log), f"{log}: is what is read, and is not overwritten")
    assert log.read_bytes().startswith(b"SQLite")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((STREAM, "-o", "x.png"), "x.png: the name does not say the format: expected one that ends with .html"),
        ((STREAM,), "missing option '-o'"),
        ((STREAM, "-o", "no/such/folder/x.html"), "No such file or directory"),
        (("no-such-file", "-o", "x.html"), "no-such-file"),
        ((STREAM, "-o", "x.svg", "--width", "3"), "3 is not in the range x>=320"),
        ((STREAM, "-o", "x.html", "--format", "png"), "'png' is not one of 'html', 'svg', 'perfetto'"),
        ((STREAM, "-o", "x.html", "--alloc", "0"), "3 allocations begin with '0'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)

    refused(run("timeline", *arguments), sentence)

    assert not list(tmp_path.iterdir())
