"""Whatever the command line is given: exit status 2, one plain sentence, never a traceback, and nothing is harmed."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support import recordings
from support.command_line import refused, run

ROOT = Path(__file__).parents[2]
STREAM = recordings.RECORDINGS / "1.1.2" / "sibling_failed" / "stream.ndjson.gz"
LINES = gzip.decompress(STREAM.read_bytes()).splitlines(keepends=True)
DEEP = b"[" * 100_000 + b"]" * 100_000


def task(text: bytes) -> bytes:
    return b'{"ID":"a","ModifyIndex":1,"TaskStates":{"t":%b}}\n' % text


BAD_FILES = {
    "binary": (bytes(range(256)) * 20, "line 1", "binary data"),
    "an HTML page": (b"<!DOCTYPE html>\n<html><body>502 Bad Gateway</body></html>\n", "line 1", "HTML"),
    "a gzip file of which next to nothing is left": (STREAM.read_bytes()[:20], "compressed data is cut off"),
    "a gzip file that was damaged": (STREAM.read_bytes()[:1500] + b"\xff" * 500, "compressed data"),
    "a line of 50 MB": (b'{"ID":"a","x":"' + b"y" * 50_000_000 + b'"}\n', "line 1", "longer than 32 MiB"),
    "a later line of 50 MB": (LINES[0] + b"y" * 50_000_000, "line 2", "'yyyy"),
    "nothing": (b"", "is empty"),
    "blank lines": (b"\n \n\n", "is empty"),
    "a number": (b"42\n", "line 1"),
    "prose": (b"Good morning\n", "line 1", "'Good morning'"),
    "a list of numbers": (b"[1, 2]\n", "line 1", "entry 0"),
    "invalid UTF-8 in the ID": (b'{"ID":"a\xff","ModifyIndex":1}\n', "line 1", "not UTF-8"),
    "invalid UTF-8 in an opaque part": (b'{"ID":"a","Job":{"Name":"\xff"},"ModifyIndex":1}\n', "line 1", "not UTF-8"),
    "UTF-16 with half of a pair": (b"\xff\xfe{\0\0\xd8}\0", "is not the UTF-16 that it begins as"),
    "TaskStates that are a number": (b'{"ID":"a","ModifyIndex":1,"TaskStates":3}\n', "line 1", "$.TaskStates"),
    "a task that is a list": (task(b"[]"), "line 1", "$.TaskStates.t"),
    "an exit code that is a text": (
        task(b'{"State":"running","Events":[{"Type":"Terminated","ExitCode":"x","Time":1}]}'),
        "line 1",
        "$.TaskStates.t.Events[0].ExitCode",
    ),
    "a time that is a text": (
        task(b'{"State":"running","Events":[{"Type":"Started","Time":"x"}]}'),
        "line 1",
        "$.TaskStates.t.Events[0].Time",
    ),
    "a start that is no instant": (
        task(b'{"State":"running","StartedAt":"noon","Events":[]}'),
        "line 1",
        "$.TaskStates.t.StartedAt",
    ),
    "a negative index": (b'{"ID":"a","ModifyIndex":-1}\n', "line 1", "$.ModifyIndex", "-1"),
    "an index that is a text": (b'{"ID":"a","ModifyIndex":"x"}\n', "line 1", "$.ModifyIndex"),
    "an ID that is a number": (b'{"ID":7,"ModifyIndex":1}\n', "line 1", "$.ID"),
    "an empty ID": (b'{"ID":"","ModifyIndex":1}\n', "line 1", "$.ID"),
    "a job ID that is a number": (b'{"ID":"a","JobID":7,"ModifyIndex":1}\n', "allocation a", "$.JobID"),
    "JSON that is nested too deeply": (b'{"ID":"a","ModifyIndex":1,"Job":' + DEEP + b"}\n", "line 1"),
    "brackets": (b"[" * 100_000 + b"\n", "line 1"),
    "a frame that is broken in the middle": (b"".join([*LINES[:5], b'{"Events": [}\n', *LINES[5:]]), "line 6"),
    "an SQLite database": (b"SQLite format 3\0" + bytes(84), "SQLite"),
    "a log of another format": (b'{"taskfold":99,"dialect":"1.1.2"}\n', "line 1", "format 99"),
    "a log of another dialect": (b'{"taskfold":1,"dialect":"9.9"}\n', "line 1", "9.9"),
    "a log with a cut-off header": (b'{"taskfold":1,"dia', "line 1"),
    "a log with a line that is no record": (b'{"taskfold":1,"dialect":"1.1.2"}\n{"Seq":1}\n', "line 2", "`Index`"),
    "a log with a deep record": (b'{"taskfold":1,"dialect":"1.1.2"}\n' + DEEP + b"\n", "line 2"),
}


@pytest.fixture(params=BAD_FILES)
def bad_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[str]]:
    content, *parts = BAD_FILES[request.param]
    path = tmp_path / "bad.ndjson"
    path.write_bytes(content)
    return path, parts


@pytest.mark.parametrize("command", ["replay", "log", "history"])
def test_a_file_that_cannot_be_read(bad_file: tuple[Path, list[str]], command: str) -> None:
    path, parts = bad_file
    if "$.JobID" in parts and command == "log":
        pytest.skip("a log shows no job")

    result = run(command, path, *(["a"] if command == "history" else []))

    # The rows of a log are written as they are read.
    refused(result, *(parts if "$.JobID" in parts else (path, *parts)), may_show=command == "log")


def test_verify_refuses_a_file_that_cannot_be_read(bad_file: tuple[Path, list[str]]) -> None:
    path, parts = bad_file
    if "$.JobID" in parts:
        pytest.skip("opaque parts are compared as JSON")

    refused(run("verify", path), path, *parts)


def test_nothing_of_a_bad_source_is_imported(bad_file: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, parts = bad_file
    if "$.JobID" in parts:
        pytest.skip("opaque parts are kept as they are")
    new, known = tmp_path / "new.jsonl", tmp_path / "known.jsonl"
    assert run("import", STREAM, "--into", known).exit_code == 0
    content = known.read_bytes()

    refused(run("import", path, "--into", new), path, *parts)
    refused(run("import", path, "--into", known), path, *parts)

    assert not new.exists()
    assert known.read_bytes() == content


def test_a_good_source_before_a_bad_one_is_not_imported_either(tmp_path: Path) -> None:
    bad, new = tmp_path / "bad.ndjson", tmp_path / "new.jsonl"
    bad.write_bytes(b"nonsense\n")

    refused(run("import", STREAM, bad, "--into", new), bad)

    assert not new.exists()


def test_a_file_that_is_still_being_written_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    growing = tmp_path / "growing.ndjson"
    growing.write_bytes(b"".join(LINES) + LINES[-1][:100])

    result = run("replay", growing, "--format", "jsonl")

    assert result.exit_code == 0
    assert result.stdout == run("replay", STREAM, "--format", "jsonl").stdout
    assert result.stderr.splitlines() == [
        f"taskfold: note: {growing}, line {len(LINES) + 1}: the last document is cut off, and was skipped"
    ]


def test_a_name_that_nobody_knows_is_noted_once(tmp_path: Path) -> None:
    new = tmp_path / "new.jsonl"
    new.write_text("".join(f'{{"ID":"a","Sparkle":{index},"ModifyIndex":{index}}}\n' for index in range(1, 9)))

    result = run("replay", new, "--format", "jsonl")

    assert result.exit_code == 0
    assert '"Sparkle":8' in result.stdout
    assert result.stderr.count("Sparkle") == 1
    assert result.stderr.startswith("taskfold: note: ")


def test_a_folder_without_json_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("{}")

    refused(run("replay", tmp_path), tmp_path, "no file with the ending .json")


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    refused(run("replay", tmp_path / "missing.ndjson"), tmp_path / "missing.ndjson", "no such file")


def test_standard_input_that_cannot_be_read() -> None:
    refused(run("replay", "-", input=b""), "-: is empty")
    refused(run("replay", "-", input=b"nonsense\n"), "-, line 1")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.ndjson"
    secret.write_bytes(LINES[0])
    secret.chmod(0)

    refused(run("replay", secret), secret, "Permission denied")


@pytest.mark.skipif(not hasattr(stat, "S_ISFIFO"), reason="names are longer there")
def test_a_name_that_is_too_long() -> None:
    refused(run("replay", "x" * 5000), "File name too long")


def test_a_log_cannot_be_read_together_with_a_stream(tmp_path: Path) -> None:
    log = tmp_path / "x.jsonl"
    run("import", STREAM, "--into", log)

    refused(run("replay", log, STREAM), log)
    refused(run("replay", STREAM, log), log)


USAGE = [
    ([], "a command is missing"),
    (["fold"], "'fold'"),
    (["replay"], "SOURCE"),
    (["replay", STREAM, "--at", "nonsense"], "'nonsense' is neither an index such as 1042 nor a time"),
    (["replay", STREAM, "--at", "-5"], "'-5'"),
    (["replay", STREAM, "--at", "9" * 5000], "--at"),
    (["replay", STREAM, "--at", "2026-13-45T00:00:00Z"], "--at"),
    (["replay", STREAM, "--since", "fortnight"], "'fortnight' is not a time such as"),
    (["replay", STREAM, "--until", "12"], "'12' is not a time"),
    (["replay", STREAM, "--dialect", "9.9"], "'9.9' is not one of '0.5.0', '0.5.6', '1.1.2'"),
    (["replay", STREAM, "--format", "yaml"], "'yaml' is not one of 'table', 'json', 'jsonl'"),
    (["replay", STREAM, "--status", "weird"], "'weird'"),
    (["replay", STREAM, "--frmat", "json"], "--frmat"),
    (["log", STREAM, "--format", "json"], "'json' is not one of 'table', 'csv', 'jsonl', 'parquet'"),
    (["history", STREAM, "a", "b", "c"], "unexpected extra argument"),
    (["history", STREAM], "'ALLOC'"),
    (["import", STREAM], "'--into'"),
    (["import", STREAM, "--into", "x.jsonl", "--dialect", "7"], "'7'"),
    (["diagram", "--dialect", "7"], "'7'"),
    (["diagram", "--format", "png"], "'png'"),
    (["verify"], "SOURCE"),
]


@pytest.mark.parametrize(("args", "part"), USAGE, ids=lambda value: " ".join(map(str, value))[:60] if value else "")
def test_bad_usage(args: list[object], part: str) -> None:
    # Without a command the help is shown above the sentence.
    refused(run(*args), part, may_show=not args)


@pytest.mark.parametrize("content", [b'{"a":1}\n', b"my diary\n", b"no newline", bytes(range(256))], ids=repr)
def test_into_something_that_is_no_log_changes_nothing(content: bytes, tmp_path: Path) -> None:
    target = tmp_path / "diary.jsonl"
    target.write_bytes(content)

    refused(run("import", STREAM, "--into", target), target, "is not a taskfold log, and is never overwritten")

    assert target.read_bytes() == content


def test_into_a_store_that_there_is_not(tmp_path: Path) -> None:
    sentence = refused(run("import", STREAM, "--into", tmp_path / "x.csv"), tmp_path / "x.csv")

    assert sentence.endswith(
        "a log ends in .db, .sqlite, .sqlite3 (SQLite), or ends in .jsonl, .ndjson (JSON lines), "
        "or begins with postgresql://, postgres:// (PostgreSQL)"
    )
    assert not (tmp_path / "x.csv").exists()


def test_into_a_folder_or_nowhere_or_a_compressed_log(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    refused(run("import", STREAM, "--into", tmp_path / "folder.jsonl"), tmp_path / "folder.jsonl")
    refused(run("import", STREAM, "--into", tmp_path / "no" / "x.jsonl"), tmp_path / "no" / "x.jsonl")
    run("import", STREAM, "--into", tmp_path / "x.jsonl")
    packed = tmp_path / "packed.jsonl"
    packed.write_bytes(gzip.compress((tmp_path / "x.jsonl").read_bytes()))
    refused(run("import", STREAM, "--into", packed), packed, "compressed")


def test_into_a_log_of_another_dialect(tmp_path: Path) -> None:
    old = next(s for s in recordings.scenarios("0.5.6") if s.name == "sibling_failed")
    polled = tmp_path / "old.ndjson"
    polled.write_text("".join(answer.body + "\n" for answer in recordings.bodies(old)), encoding="utf-8")
    log = tmp_path / "x.jsonl"
    assert run("import", STREAM, "--into", log).exit_code == 0
    content = log.read_bytes()

    refused(run("import", polled, "--into", log, "--dialect", "0.5.6"), "0.5.6", "1.1.2")

    assert log.read_bytes() == content


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(5, "Input/output error", "disk"), "disk: Input/output error"),
        (OSError(5, "Input/output error"), "reading or writing failed: Input/output error"),
        (MemoryError(), "not enough memory"),
        (RecursionError("too deep"), "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_whatever_the_system_says_is_one_sentence(error: Exception, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("taskfold.cli.replay.fold_of", fail)

    refused(run("replay", STREAM), part)


def test_a_bug_is_one_sentence_too_and_says_how_to_see_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, **_options: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("taskfold.cli.replay.fold_of", fail)
    result = run("replay", STREAM)

    assert result.exit_code == 2
    assert result.stderr.startswith("taskfold: this is a bug of taskfold (KeyError: 'oops'); please report it, ")
    assert len(result.stderr.splitlines()) == 1
    monkeypatch.setenv("TASKFOLD_TRACEBACK", "1")
    assert isinstance(run("replay", STREAM).exception, KeyError)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"ID":"a","ModifyIndex":-1}'], ids=len)
def test_the_process_itself_says_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad\nname.ndjson"
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "taskfold", "replay", str(path)],
        capture_output=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "engine")},
    )

    assert done.returncode == 2
    assert done.stdout == b""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(b"taskfold: ")


def test_a_closed_standard_output_is_no_traceback() -> None:
    shell = f'"{sys.executable}" -m taskfold replay "{STREAM}" >&-'
    done = subprocess.run(
        ["sh", "-c", shell],  # noqa: S607 - whichever sh there is
        stderr=subprocess.PIPE,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "engine")},
    )

    assert (done.returncode, done.stderr) == (0, b"")
