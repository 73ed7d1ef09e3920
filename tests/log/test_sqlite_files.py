"""The files of a log in SQLite: who may open them, and what lies beside one, or in its place, that is another's."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.command_line import refused, run
from taskfold import Engine, diff, events, history, ingest, replay, verify
from taskfold.errors import LogError, SourceError
from taskfold.log.check import check_log, repair
from taskfold.log.lines import is_database
from taskfold.log.ndjson.log import NdjsonLog
from taskfold.log.registry import is_log, open_log
from taskfold.log.sqlite import log as sqlite_log
from taskfold.log.sqlite import tables as sqlite_tables
from taskfold.log.sqlite.log import SqliteLog
from taskfold.testing.logs import record_of, records_of

DATA = Path(__file__).parents[1] / "data"
ENDS = ("", "-wal", "-shm", "-lock")


def beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def filled(path: Path, count: int = 5, dialect: str = "1.1.2") -> None:
    with SqliteLog(path, dialect) as log:
        log.append("a", 0, records_of("a", 1, count))


def killed(path: Path, count: int = 5) -> None:
    """Leave a log as a writer does that is killed, here again and again: its newest records in the ``-wal`` alone."""
    live = path.with_name(f"live-{path.name}")
    with SqliteLog(live, None if live.exists() else "1.1.2") as log:
        for version in range(log.seq + 1, log.seq + count + 1):
            log.append("a", version - 1, [record_of("a", version)])
        for end in ("", "-wal", "-shm"):
            shutil.copyfile(beside(live, end), beside(path, end))


def entries(path: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Return everything that reads a log."""
    return {
        "replay": lambda: replay(path).fold(),
        "replay at": lambda: list(replay(path, at="@3")),
        "history": lambda: list(history(path, "a")),
        "diff": lambda: list(diff(path, "@1", "@3")),
        "verify": lambda: verify(path),
        "check_log": lambda: check_log(path),
        "repair": lambda: repair(path, folder / "repaired.jsonl"),
        "is_log": lambda: is_log(str(path)),
        "import": lambda: ingest(path, into=folder / "imported.jsonl"),
        "replay of more": lambda: list(replay(path, DATA / "format-1.jsonl")),
        "open": lambda: open_log(path).close(),
        "open as lines": lambda: NdjsonLog(path).close(),
        "log --check": lambda: run("log", path, "--check"),
        "log --repair": lambda: run("log", path, "--repair", folder / "cli.jsonl"),
        "cli import": lambda: run("import", path, "--into", folder / "cli-imported.jsonl"),
        "cli run": lambda: run("run", path, "--for", "1s"),
        "cli replay": lambda: run("replay", path),
        "cli history": lambda: run("history", path, "a"),
        "cli serve": lambda: run("serve", "--log", path, "--port", "0"),
        "cli serve --follow": lambda: run("serve", "--follow", path, "--port", "0"),
    }


# --- only SQLite opens a database -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened() -> list[str]:
    """Return the names of the files that Python opens from now on: a hook cannot be taken away again."""
    names: list[str] = []

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            names.append(os.fsdecode(args[0]))

    sys.addaudithook(hook)
    return names


def test_nothing_that_reads_a_log_opens_it_otherwise_than_sqlite_does(tmp_path, opened):
    path = tmp_path / "tasks.db"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        for _ in range(4):
            engine.record("a", "web", events.Received())
        files = {beside(path, end).stat()[1:3] for end in ("", "-shm")}  # device and inode
        linked = tmp_path / "linked.jsonl"
        linked.symlink_to(path)
        opened.clear()
        for read in (*entries(path, tmp_path).values(), *entries(linked, tmp_path / "none").values()):
            with suppress(SourceError, LogError):
                read()
        seen = {name for name in opened if Path(name).exists() and Path(name).stat()[1:3] in files}

        assert len(opened) > 3
        assert seen == set()
        close = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT * FROM header'); d.close()"
        subprocess.run([sys.executable, "-c", close, path], check=True)
        assert beside(path, "-wal").exists(), "another process removes it where the locks of this one are lost"


@pytest.mark.parametrize(
    ("content", "is_one"),
    [(b"", False), (b"{}\n" * 512, False), (b"SQLite format 3\0", True), (b"SQLite format 3\0" + bytes(1008), True)],
    ids=["empty", "as long as one", "the beginning of one", "damaged"],
)
def test_a_database_is_told_from_other_files(tmp_path, content, is_one):
    path = tmp_path / "x"
    path.write_bytes(content)

    assert is_database(path) == is_one
    filled(tmp_path / "x.db")
    assert is_database(tmp_path / "x.db")


# --- moved, removed, replaced -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "-wal"])
@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_nothing_is_acknowledged_into_a_file_that_nobody_will_find(tmp_path, end, how):
    path, away = tmp_path / "x.db", tmp_path / "away"
    log = SqliteLog(path, "1.1.2")
    log.append("a", 0, records_of("a", 1, 2))
    file = beside(path, end)
    if how == "removed":
        file.unlink()
    else:
        file.rename(away)
    if how == "replaced":
        shutil.copyfile(away, file)

    for sync in (True, False):
        if not sync:
            log.append("a", 2, [record_of("a", 3)], sync=False)
        with pytest.raises(LogError, match=f"{re.escape(file.name)} was moved, removed or replaced"):
            log.append("a", 2, [record_of("a", 3)]) if sync else log.sync()
    with pytest.raises(LogError, match="was moved, removed or replaced"):
        log.save_checkpoint([b"x"])
    assert log.seq == 2
    if how != "removed":
        away.rename(file)
        assert [record.seq for record in log.append("a", 2, [record_of("a", 3)])] == [3]
        assert [record.seq for record in log.read_all()] == [1, 2, 3]
        log.close()
        assert check_log(path).is_whole
    else:
        log.close()


def test_an_engine_goes_on_with_its_own_log_after_the_folder_is_another_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Engine.open("x.db", dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")

        assert len(engine.history("a")) == 1
        engine.record("a", "web", events.Received())

    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(list(replay(tmp_path / "x.db"))) == 2


def test_a_reader_of_an_engine_is_told_that_another_log_is_in_the_place_of_its_own(tmp_path):
    path = tmp_path / "x.db"
    filled(tmp_path / "y.db")
    log = SqliteLog(path, "1.1.2")
    for end in ("", "-wal", "-shm"):
        beside(path, end).rename(tmp_path / f"away{end}")
    shutil.copyfile(tmp_path / "y.db", path)

    with pytest.raises(LogError, match="was replaced by another log"):
        list(log.read_all())
    log.close()


# --- what lies beside -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_no_log_is_begun_beside_what_is_left_of_a_removed_one(tmp_path, end):
    path = tmp_path / "x.db"
    killed(path)
    path.unlink()
    beside(path, "-wal").rename(beside(path, end))
    before = beside(path, end).read_bytes()

    with pytest.raises(LogError, match=rf"there is no log, but its x\.db{end} is there, with the newest records"):
        SqliteLog(path, "0.5.6")

    assert not path.exists()
    assert beside(path, end).read_bytes() == before
    beside(path, end).unlink()
    with SqliteLog(path, "0.5.6") as log:
        assert log.seq == 0


def test_what_has_no_record_is_no_hindrance(tmp_path):
    for end in ("-wal", "-shm", "-journal"):
        (tmp_path / f"x.db{end}").write_bytes(b"" if end != "-shm" else bytes(32768))

    filled(tmp_path / "x.db")

    assert check_log(tmp_path / "x.db").records == 5


def everybody_refuses(path: Path, told: str) -> None:
    before = {end: beside(path, end).read_bytes() for end in ("", "-wal") if beside(path, end).exists()}
    with pytest.raises(LogError, match=told):
        SqliteLog(path)
    with pytest.raises(SourceError, match=told):
        replay(path).fold()
    with pytest.raises(SourceError, match=told):
        check_log(path)
    refused(run("log", path, "--check"))
    assert {end: beside(path, end).read_bytes() for end in before} == before


def test_the_write_ahead_log_of_another_log_is_refused(tmp_path):
    path = tmp_path / "x.db"
    killed(path)
    path.unlink()
    filled(tmp_path / "y.db", dialect="0.5.6")
    shutil.copyfile(tmp_path / "y.db", path)

    everybody_refuses(path, r"x\.db-wal belongs to another log, or to another copy of this one")
    beside(path, "-wal").unlink()
    with SqliteLog(path) as log:
        assert (log.header.dialect, log.seq) == ("0.5.6", 5)


@pytest.mark.parametrize("is_older", [True, False])
def test_a_backup_that_is_put_back_beside_the_write_ahead_log_of_another_time_is_refused(tmp_path, is_older):
    path = tmp_path / "x.db"
    killed(path, 3)
    shutil.copyfile(path, tmp_path / "before.db")
    killed(path, 4)
    killed(path, 2)  # of the third opening; the two files before are older
    with SqliteLog(tmp_path / "live-x.db") as log:
        log.append("a", log.seq, [record_of("a", log.seq + 1)])
    shutil.copyfile(tmp_path / "live-x.db", tmp_path / "newer.db")
    shutil.copyfile(tmp_path / ("before.db" if is_older else "newer.db"), path)

    everybody_refuses(path, r"x\.db-wal belongs to another log, or to another copy of this one")


def test_two_histories_of_one_log_are_not_mixed(tmp_path):
    one, other = tmp_path / "one" / "x.db", tmp_path / "other" / "x.db"
    for path in (one, other):
        path.parent.mkdir()
    filled(one, 2)
    shutil.copyfile(one, other)
    kept = {}
    for path, index in ((one, 7), (other, 8)):
        with SqliteLog(path) as log:
            log.append("a", 2, [record_of("a", 3, index=index)])
            kept[path] = {end: beside(path, end).read_bytes() for end in ("", "-wal")}
    beside(one, "-wal").write_bytes(kept[other]["-wal"])  # the database of one has the same commits, and other ones

    everybody_refuses(one, "belongs to another log, or to another copy of this one")


def test_a_journal_that_would_be_written_over_the_log_is_refused(tmp_path):
    path = tmp_path / "x.db"
    filled(path)
    beside(path, "-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))

    everybody_refuses(path, r"x\.db-journal is beside it, and not its own")


def test_a_log_of_an_older_format_whose_conversion_was_killed_goes_on(tmp_path):
    live, path = tmp_path / "live.db", tmp_path / "x.db"
    shutil.copyfile(DATA / "format-1.sqlite3", live)
    before = list(replay(live))
    with SqliteLog(live):
        for end in ("", "-wal", "-shm"):
            shutil.copyfile(beside(live, end), beside(path, end))

    assert list(replay(path)) == before
    with SqliteLog(path) as log:
        assert re.fullmatch("[0-9a-f-]{36}", log.header.uuid)
        assert list(log.read_all()) == before
    killed(tmp_path / "y.db")
    shutil.copyfile(DATA / "format-1.sqlite3", path)
    shutil.copyfile(tmp_path / "y.db-wal", beside(path, "-wal"))
    everybody_refuses(path, "belongs to another log")


def test_the_identity_of_a_log_is_kept_by_conversion_compaction_and_copies_and_is_its_own(tmp_path):
    names = [tmp_path / "x.db", tmp_path / "y.db", tmp_path / "z.jsonl"]
    uuids = []
    for name in names:
        with Engine.open(name, dialect="1.1.2") as engine:
            engine.place({"ID": "a"})
            engine.record("a", "web", events.NotRestarting())
            uuid = engine.store.log.header.uuid
            engine.collect("a")
            assert engine.compact() > 0
            assert engine.store.log.header.uuid == uuid
        with open_log(name) as log:
            assert log.header.uuid == uuid
        uuids.append(uuid)
    ingest(names[0], into=tmp_path / "imported.db")
    repair(names[0], tmp_path / "repaired.db")
    for name in ("imported.db", "repaired.db"):
        with open_log(tmp_path / name) as log:
            uuids.append(log.header.uuid)
    shutil.copyfile(names[0], tmp_path / "copy.db")
    with open_log(tmp_path / "copy.db") as log:
        assert log.header.uuid == uuids[0]

    assert len(set(uuids)) == 5


# --- what a kill leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_index", [True, False])
def test_the_last_commit_may_be_torn_and_nothing_else(tmp_path, keep_index):
    path = tmp_path / "x.db"
    killed(path, 6)
    whole = beside(path, "-wal").read_bytes()
    shm = beside(path, "-shm").read_bytes()
    main = path.read_bytes()
    frame = 4096 + 24
    frames = (len(whole) - 32) // frame
    told = {}
    for kept in range(frames + 1):
        for file in tmp_path.glob("x.db*"):
            file.unlink()
        path.write_bytes(main)
        beside(path, "-wal").write_bytes(whole[: 32 + kept * frame])
        if keep_index:
            beside(path, "-shm").write_bytes(shm)
        try:
            told[kept] = len(list(replay(path)))
        except SourceError as error:
            told[kept] = -1 if "x.db-wal lacks frames that were acknowledged, as x.db-shm shows" in str(error) else -2
            assert not check_log(path).is_whole

    assert told[frames] == 6
    # Without the index of the frames nobody can know that there were more; it is what a copy that came too early is.
    assert set(told.values()) == ({-1, 6} if keep_index else set(range(7)))


def test_frames_after_a_bad_one_are_told_and_a_repair_copies_what_can_be_read(tmp_path):
    path = tmp_path / "x.db"
    killed(path, 8)
    beside(path, "-shm").unlink()
    damaged = bytearray(beside(path, "-wal").read_bytes())
    at = damaged.index(b'"Version":4')
    damaged[at] ^= 1
    beside(path, "-wal").write_bytes(damaged)
    told = r"x\.db-wal can be read up to commit 3 only, and has later ones"

    with pytest.raises(SourceError, match=told):
        replay(path).fold()
    with pytest.raises(LogError, match=told):
        SqliteLog(path)
    assert "and has later ones" in check_log(path).damages[0].message
    done = repair(path, tmp_path / "y.db")
    assert (done.is_whole, done.records) == (False, 3)


# --- indexes, schema, settings ----------------------------------------------------------------------------------------


def changed(path: Path, *statements: str) -> None:
    """Change a log behind its back, and behind that of SQLite."""
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM records WHERE seq = 5", "newest record has Seq 4, where Seq 5 was acknowledged"),
        ("UPDATE head SET head = zeroblob(80)", "its head differs from what was written"),
        ("DELETE FROM head", "its head differs from what was written"),
        ("DROP INDEX records_by_id", "'records_by_id' is not as a log has it"),
        ("CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END", "'t' is not as a log has it"),
        ("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'records'", "'records' is not as"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_not_as_it_was_written_is_told_to_everybody(tmp_path, statement, told):
    path = tmp_path / "x.db"
    filled(path)
    changed(path, statement)

    with pytest.raises(LogError, match=told):
        SqliteLog(path)
    with pytest.raises(SourceError):
        replay(path).fold()
    assert not check_log(path).is_whole


def test_records_that_are_missing_before_a_checkpoint_are_found_by_who_reads_them_and_after_it_at_once(tmp_path):
    path = tmp_path / "x.db"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        engine.checkpoint()
        for _ in range(3):
            engine.record("a", "web", events.Received())
        engine.store.log.checkpoint_parts()
    changed(path, "UPDATE records SET body = replace(body, 'Received', 'Receives'), checksum = checksum WHERE seq = 3")
    with pytest.raises(LogError, match="Seq 3"):
        Engine.open(path)
    changed(
        path,
        "UPDATE records SET (body, checksum) = (SELECT body, checksum FROM records WHERE seq = 2) WHERE seq = 3",
    )
    with pytest.raises(LogError, match="its columns differ from it"):
        Engine.open(path)


def test_a_history_that_the_log_does_not_have_whole_is_no_history(tmp_path):
    path = tmp_path / "x.db"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        engine.record("a", "web", events.Received())
        engine.store.log._database.execute("DELETE FROM records WHERE seq = 2")

        with pytest.raises(LogError, match="records of allocation a end at version 1, where it is at version 2"):
            engine.history("a")


def test_a_file_system_without_a_write_ahead_log_is_told(tmp_path, monkeypatch):
    connect = sqlite3.connect

    def without_shared_memory(name: object, **more: object) -> sqlite3.Connection:
        return connect(f"file:{name}?vfs=unix-dotfile", uri=True, **more)

    monkeypatch.setattr(sqlite_tables.sqlite3, "connect", without_shared_memory)
    with pytest.raises(LogError, match=r"can keep no write-ahead log there \(its journal mode stays 'delete'\)"):
        SqliteLog(tmp_path / "x.db", "1.1.2")

    assert [file.name for file in tmp_path.iterdir()] == ["x.db-lock"]


# --- memory -----------------------------------------------------------------------------------------------------------


def test_what_a_log_keeps_in_memory_does_not_grow_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_log, "_VERSIONS_KEPT", 50)
    with SqliteLog(tmp_path / "x.db", "1.1.2") as log:
        for number in range(400):
            log.append(f"a{number}", 0, [record_of(f"a{number}", 1, id=f"id-{number}")], sync=number % 40 == 0)
        ledger = log._ledger

        assert len(ledger.versions) <= 51
        assert not ledger.ids
        assert log.knows("id-3")
        assert log.append("a3", 0, [record_of("a3", 1, id="id-3")]) == []
        assert log.append("a3", 1, [record_of("a3", 2)])[0].version == 2


def test_threads_that_read_while_records_are_removed_are_told_of_no_damage(tmp_path):
    path = tmp_path / "x.db"
    problems: list[object] = []
    is_done = threading.Event()
    with Engine.open(path, dialect="1.1.2") as engine:

        def read() -> None:
            while not is_done.is_set():
                try:
                    list(engine.store.log.read_kept())
                except LogError as error:
                    problems.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for number in range(25):
                alloc = f"a{number}"
                engine.place({"ID": alloc})
                engine.record(alloc, "web", events.NotRestarting())
                engine.collect(alloc)
                assert engine.compact() > 0
        finally:
            is_done.set()
            reader.join()

    assert problems == []


# --- records that are whole, and not those that were acknowledged -----------------------------------------------------


def behind_its_back(path: Path, query: str, *values: object) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(query, values)
    database.close()


def another_record(path: Path) -> None:
    body = b'{"Seq":5,"Index":5,"Alloc":"a","Version":5,"Task":"web","Event":{"Type":"Killed"}}'
    behind_its_back(path, "UPDATE records SET body = ?, checksum = ? WHERE seq = 5", body, zlib.crc32(body))


def no_newest_record(path: Path) -> None:
    behind_its_back(path, "DELETE FROM records WHERE seq = 5")


READINGS = {
    "open": lambda path: Engine.open(path).close(),
    "open to read only": lambda path: Engine.open(path, read_only=True).close(),
    "replay": lambda path: replay(path).fold(),
}


@pytest.mark.parametrize("change", [another_record, no_newest_record])
@pytest.mark.parametrize("reading", READINGS)
def test_records_that_are_not_those_that_were_acknowledged_are_never_folded(tmp_path, change, reading):
    path = tmp_path / "tasks.db"
    filled(path)
    READINGS[reading](path)
    change(path)

    with pytest.raises((LogError, SourceError), match="damaged"):
        READINGS[reading](path)
    assert not check_log(path).is_whole


def test_a_history_ends_where_the_state_does(tmp_path):
    path = tmp_path / "tasks.db"
    filled(path)
    with Engine.open(path) as engine:
        assert len(engine.history("a")) == 5
        no_newest_record(path)

        with pytest.raises(LogError, match="its records of allocation a end at version 4, where it is at version 5"):
            engine.history("a")
