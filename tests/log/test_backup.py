"""A backup is a whole log that opens alone, of one moment, whoever writes meanwhile; nothing is ever overwritten."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.command_line import refused, run
from support.killing import CHILD
from taskfold import Engine, events, replay
from taskfold.errors import Gone, LogError, SourceError
from taskfold.log.backup import backup
from taskfold.log.check import check_log

NAMES = ["tasks.db", "tasks.jsonl"]


@pytest.fixture(params=NAMES)
def log(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a log of six records, of which a compaction removed three."""
    path = tmp_path / request.param
    with Engine.open(path, dialect="0.5.6") as engine:
        fill(engine)
    return path


def fill(engine: Engine) -> None:
    engine.place({"ID": "a"})
    for event in (events.Received(), events.Started(), events.NotRestarting()):
        engine.record("a", "web", event)
    engine.collect("a")
    engine.place({"ID": "b", "Job": {"ID": "job"}})
    engine.compact()
    engine.record("b", "web", events.Started(), id="once")


def told(path: object) -> list[tuple[object, ...]]:
    """Return all that a log says."""
    with Engine.open(path) as engine:
        assert engine.store.log.knows("once")
        with pytest.raises(Gone):
            list(engine.store.log.read_all())
        kept = list(engine.store.log.read_kept())
        states = [snapshot.to_json() for snapshot in engine.allocations()]
        header = engine.store.log.header
        return [(header.dialect, header.region, header.compacted), (engine.index, engine.store.seq), *kept, *states]


@pytest.mark.parametrize("copy", ["copy.db", "copy.jsonl", "copy.sqlite3"])
def test_a_backup_says_what_its_log_says(log: Path, tmp_path: Path, copy: str) -> None:
    found = backup(log, tmp_path / copy)

    assert {found.name for found in tmp_path.iterdir() if not found.name.startswith(log.name)} == {copy}
    assert (found.is_whole, found.records, found.newest) == (True, 3, 7)
    assert check_log(tmp_path / copy).is_whole
    assert (tmp_path / copy).stat().st_mode & 0o077 == 0
    assert told(tmp_path / copy) == told(log)


@pytest.mark.parametrize("copy", ["copy.db", "copy.jsonl"])
@pytest.mark.parametrize("name", [*NAMES, "memory"])
def test_an_engine_makes_a_backup_of_its_log_and_goes_on(tmp_path: Path, name: str, copy: str) -> None:
    engine = Engine(dialect="0.5.6") if name == "memory" else Engine.open(tmp_path / name, dialect="0.5.6")
    fill(engine)

    assert engine.backup(tmp_path / copy) == 7
    engine.record("b", "web", events.Terminated(exit_code=1))
    states = [snapshot.to_json() for snapshot in replay(tmp_path / copy).snapshots()]
    engine.close()

    assert b'"State":"running"' in states[-1]
    with Engine.open(tmp_path / copy) as again:
        assert again.record("b", "web", events.Terminated(exit_code=2)).seq == 8
    with pytest.raises(LogError, match="the engine is closed"):
        engine.backup(tmp_path / "another.db")


@contextmanager
def writing(name: object) -> Iterator[subprocess.Popen[str]]:
    """Have another process write a log."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(name)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("copy", ["copy.db", "copy.jsonl"])
@pytest.mark.parametrize("name", NAMES)
def test_a_backup_beside_a_writer_is_the_log_at_a_moment_that_has_all_that_was_acknowledged(
    tmp_path: Path, name: str, copy: str
) -> None:
    log = tmp_path / name
    copies = []
    with writing(log) as child:
        for number in range(5):
            acknowledged = int(child.stdout.readline())
            copies.append((tmp_path / f"{number}-{copy}", acknowledged))
            backup(log, copies[-1][0])

    for path, acknowledged in copies:
        found = check_log(path)
        assert found.is_whole, found.damages
        assert found.newest >= acknowledged
        assert list(replay(path)) == list(replay(log, at=f"@{found.newest}"))
        (state,), (then,) = (
            [snapshot.to_json() for snapshot in replay(of, at=f"@{found.newest}").snapshots()] for of in (path, log)
        )
        assert state == then


def test_what_cp_makes_of_a_database_that_is_written_lacks_what_a_backup_has(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "tasks.db", dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        shutil.copy(tmp_path / "tasks.db", tmp_path / "cp.db")
        engine.backup(tmp_path / "backup.db")

    assert list(replay(tmp_path / "cp.db")) == []
    assert len(list(replay(tmp_path / "backup.db"))) == 1


@pytest.mark.parametrize("copy", ["copy.db", "copy.jsonl"])
@pytest.mark.parametrize("there", ["a file", "nothing", "a dangling link"])
def test_nothing_is_ever_overwritten(log: Path, tmp_path: Path, copy: str, there: str) -> None:
    path = tmp_path / copy
    if there == "a dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes(b"mine" if there == "a file" else b"")

    with pytest.raises(LogError, match=f"{path}: exists already, and is never overwritten"):
        backup(log, path)

    assert path.is_symlink() or path.read_bytes() in {b"mine", b""}
    assert not (tmp_path / "nowhere").exists()


def test_what_came_to_be_there_meanwhile_is_not_overwritten(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"copy{log.suffix}"

    def checked(name: Path):
        path.write_bytes(b"mine")
        return check_log(name)

    monkeypatch.setattr("taskfold.log.backup.check_log", checked)
    with pytest.raises(LogError, match="exists already, and is never overwritten"):
        backup(log, path)

    assert path.read_bytes() == b"mine"
    assert [found.name for found in tmp_path.iterdir() if found.name.startswith(".")] == []


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_a_backup_is_not_put_beside_what_is_left_of_another_database(log: Path, tmp_path: Path, end: str) -> None:
    (tmp_path / f"copy.db{end}").write_bytes(b"another's")

    with pytest.raises(LogError, match=f"copy.db{end}: belongs to another database"):
        backup(log, tmp_path / "copy.db")


def test_a_damaged_log_is_not_copied_as_if_it_were_whole(tmp_path: Path) -> None:
    lines, rows = tmp_path / "tasks.jsonl", tmp_path / "tasks.db"
    for path in (lines, rows):
        with Engine.open(path, dialect="0.5.6") as engine:
            engine.place({"ID": "a"})
    lines.write_bytes(lines.read_bytes().replace(b'"a"', b'"b"', 1))
    with sqlite3.connect(rows) as database:
        database.execute("UPDATE records SET body = replace(body, 'Placed', 'placed')")
    database.close()

    for path in (lines, rows):
        for copy in ("copy.db", "copy.jsonl"):
            with pytest.raises((LogError, SourceError), match="damaged"):
                backup(path, tmp_path / copy)
            assert not (tmp_path / copy).exists()


def test_what_is_no_log_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "nomad.jsonl").write_bytes(b'{"ID":"a"}\n')
    (tmp_path / "other.db").write_bytes(b"")
    with sqlite3.connect(tmp_path / "foreign.db") as database:
        database.execute("CREATE TABLE t (x)")
    database.close()

    refused(run("backup", tmp_path / "none.db", tmp_path / "copy.db"), "none.db: there is no log")
    refused(run("backup", tmp_path / "other.db", tmp_path / "copy.db"), "other.db: there is no log")
    refused(run("backup", tmp_path / "nomad.jsonl", tmp_path / "copy.jsonl"), "is not a taskfold log", "import")
    refused(run("backup", tmp_path / "foreign.db", tmp_path / "copy.db"), "not a taskfold log")
    refused(run("backup", tmp_path, tmp_path / "copy.db"), "is a directory")
    assert not (tmp_path / "copy.db").exists()


def test_the_command_says_what_it_copied(log: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.jsonl"
    copied = run("backup", log, tmp_path / "copy.jsonl")
    packed.write_bytes(gzip.compress((tmp_path / "copy.jsonl").read_bytes()))

    assert copied.exit_code == 0
    assert copied.stdout == f"copied {log} into {tmp_path / 'copy.jsonl'}: 3 records, newest position 7\n"
    assert run("backup", packed, tmp_path / "unpacked.jsonl").exit_code == 0
    refused(run("backup", log, tmp_path / "copy.txt"), "copy.txt: the name of a backup must end in .db")
    refused(run("backup", log, tmp_path / "nowhere" / "copy.db"), "copy.db: cannot be written: No such file")
    refused(run("backup", log, tmp_path / "copy.jsonl"), "exists already, and is never overwritten")
