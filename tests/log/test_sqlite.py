"""A log in SQLite: what a database adds to the contract, which test_logs.py and test_log_reading.py prove."""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.killing import kill_writers
from support.recordings import bodies, scenarios
from taskfold import Engine, ingest, inputs, replay
from taskfold import events as ev
from taskfold.errors import DecodeError, DialectError, LogError, SourceError, VersionConflict
from taskfold.log.contract import Append
from taskfold.log.registry import open_log
from taskfold.log.seals import unsealed
from taskfold.log.sqlite.log import SqliteLog
from taskfold.model.record import Record

BY_NAME = {str(scenario): scenario for scenario in scenarios()}


def record(alloc: str, version: int, *, index: int = 1, **more: object) -> Record:
    return Record(index=index, alloc=alloc, version=version, task="web", event=ev.Started(time_ns=version), **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a log of four records."""
    path = tmp_path / "tasks.db"
    with SqliteLog(path, "0.5.6", "west") as log:
        log.append("a", 0, [record("a", version) for version in (1, 2, 3)])
        log.append("b", 0, [record("b", 1, index=9, id="report-7")])
    return path


def rows(path: Path, query: str = "SELECT count(*) FROM records") -> list[tuple]:
    """Ask the database behind the log's back."""
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.commit()
        database.close()


def test_a_log_is_opened_again_and_goes_on(path):
    log = SqliteLog(path)

    assert (log.header.dialect, log.header.region, log.seq) == ("0.5.6", "west", 4)
    assert log.knows("report-7")
    assert not log.knows("report-8")
    with pytest.raises(VersionConflict, match="is at version 3, not 0"):
        log.append("a", 0, [record("a", 1)])
    assert log.append("b", 1, [record("b", 2, id="report-7")]) == []
    assert [r.seq for r in log.append("a", 3, [record("a", 4)])] == [5]
    log.close()
    log.close()
    assert [r.alloc for r in replay(path)] == ["a", "a", "a", "b", "a"]


def test_what_was_imported_is_known_after_opening_again(tmp_path):
    with SqliteLog(tmp_path / "x.db", "1.1.2") as log:
        log.append("a", 0, [record("a", 1, index=10, id=0), record("a", 2, index=10, id=1)])

    with SqliteLog(tmp_path / "x.db") as log:
        assert log.append("a", 2, [record("a", 3, index=10, id=1)]) == []
        assert [r.seq for r in log.append("a", 2, [record("a", 3, index=10, id=2)])] == [3]


def test_a_second_writer_is_told_and_readers_are_not_in_the_way(path):
    first = SqliteLog(path)

    with pytest.raises(LogError, match=r"tasks\.db: this process has the log open already: use the engine or log"):
        SqliteLog(path)

    assert len(list(replay(path))) == 4
    first.append("a", 3, [record("a", 4)])
    assert len(list(replay(path))) == 5
    first.close()
    SqliteLog(path).close()


def test_a_writer_in_another_process_is_told_too(path):
    code = f"from taskfold.log.sqlite.log import SqliteLog; SqliteLog({str(path)!r})"
    with SqliteLog(path):
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)

    assert "another process is writing this log" in ran.stderr


def test_another_dialect_is_refused(path):
    with pytest.raises(DialectError, match=r"the log holds dialect 0\.5\.6, not 1\.1\.2"):
        SqliteLog(path, "1.1.2")


def test_a_new_log_needs_a_dialect(tmp_path):
    with pytest.raises(LogError, match="a new one needs a dialect"):
        SqliteLog(tmp_path / "new.db")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"my diary", b"SQLite format 3\0", b"{}\n"], ids=repr)
def test_what_is_no_log_is_refused_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "diary.db"
    path.write_bytes(content)

    with pytest.raises(LogError, match=r"diary\.db"):
        SqliteLog(path, "1.1.2")

    assert path.read_bytes() == content


def test_a_database_of_somebody_else_is_refused_and_stays_as_it_is(tmp_path):
    path = tmp_path / "other.db"
    rows(path, "CREATE TABLE records (seq)")
    before = path.read_bytes()

    with pytest.raises(LogError, match="is an SQLite database, but not a taskfold log"):
        SqliteLog(path, "1.1.2")
    with pytest.raises(SourceError, match="is an SQLite database, but not a taskfold log"):
        list(replay(path))

    assert path.read_bytes() == before


def test_a_damaged_record_is_named_and_what_is_before_it_is_read(path):
    rows(path, "UPDATE records SET body = replace(CAST(body AS TEXT), 'Started', 'Startex') WHERE seq = 3")
    found = []

    with pytest.raises(SourceError, match="Seq 3: the record is damaged: its checksum does not match"):
        found.extend(r.seq for r in replay(path))

    with SqliteLog(path) as log:
        reading = log.read_all()
        assert [next(reading).seq, next(reading).seq] == [1, 2]
        with pytest.raises(LogError, match="Seq 3"):
            next(reading)


def test_every_bit_that_is_flipped_in_the_file_is_found_or_does_no_harm(path, tmp_path):
    whole = path.read_bytes()
    expected = [msgspec_text(r) for r in replay(path)]
    chance = random.Random(5)
    found = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(100, len(whole))] ^= 1 << chance.randrange(8)
        copy = tmp_path / "copy.db"
        copy.write_bytes(damaged)
        try:
            told = [msgspec_text(r) for r in replay(copy)]
        except SourceError as error:
            found += "copy.db" in str(error)
        else:
            # Never a record that is another one: at most the index of records is damaged, which lists them in order.
            assert told == expected[: len(told)]
        for rest in tmp_path.glob("copy.db*"):
            rest.unlink()
    assert found > 0


def msgspec_text(record: Record) -> str:
    return repr(record)


@pytest.mark.parametrize("pages", range(40))
def test_a_disk_that_is_full_at_any_point_takes_an_append_whole_or_not_at_all(path, pages):
    log = SqliteLog(path)
    full = log._database.execute("PRAGMA page_count").fetchone()[0] + pages
    log._database.execute(f"PRAGMA max_page_count = {full}")
    many = [record("c", version, id=f"c-{version}") for version in range(1, 400)]

    told = ""
    try:
        log.append_all([Append("a", 3, [record("a", 4)]), Append("c", 0, many)])
    except LogError as error:
        told = str(error)

    assert told or pages  # without a page more, nothing fits
    assert told in {"", f"{path}: cannot be written (SQLite): database or disk is full"}
    assert log.seq == (4 if told else 404)
    assert log.knows("c-1") == (not told)
    log._database.execute("PRAGMA max_page_count = 100000")
    assert [r.seq for r in log.append("d", 0, [record("d", 1)])] == [log.seq]
    assert [r.seq for r in log.read_all()] == list(range(1, log.seq + 1))
    log.close()


def test_a_number_that_sqlite_cannot_hold_is_refused_and_nothing_is_left_open(path):
    log = SqliteLog(path)

    with pytest.raises(DecodeError, match="whole numbers in 64 bits"):
        log.append("a", 3, [record("a", 4), record("a", 5, index=2**63)])

    assert log.seq == 4
    assert [r.seq for r in log.append("a", 3, [record("a", 4)])] == [5]
    assert rows(path) == [(5,)]
    log.close()


def test_what_is_not_acknowledged_can_be_taken_back(path):
    log = SqliteLog(path)
    log.append("a", 3, [record("a", 4)], sync=False)
    assert rows(path) == [(4,)]

    log.roll_back()

    assert rows(path) == [(4,)]
    SqliteLog(path).close()


def test_a_log_that_was_begun_for_nothing_is_gone(tmp_path):
    log = SqliteLog(tmp_path / "new.db", "1.1.2")
    log.append("a", 0, [record("a", 1)], sync=False)

    log.roll_back()

    assert list(tmp_path.iterdir()) == []


def test_a_log_in_a_folder_that_cannot_be_written_is_read(path, monkeypatch):
    path.with_name("tasks.db-lock").unlink()
    before = sorted(path.parent.iterdir())
    monkeypatch.setattr("os.access", lambda *_: False)

    assert [r.seq for r in replay(path)] == [1, 2, 3, 4]

    assert sorted(path.parent.iterdir()) == before


def test_what_was_not_acknowledged_at_once_is_with_the_next_sync(path):
    log = SqliteLog(path)
    for version in (4, 5):
        log.append("a", version - 1, [record("a", version)], sync=False)
    with pytest.raises(VersionConflict):
        log.append("a", 3, [record("a", 4)], sync=False)

    log.sync()

    assert rows(path) == [(6,)]
    log.close()


@pytest.mark.parametrize(("name", "seed"), [("x.db", 11), ("x.jsonl", 12)])
def test_what_was_acknowledged_is_there_after_a_kill_at_any_moment(tmp_path, name, seed):
    path = tmp_path / name

    def kept():
        with open_log(path) as log:
            return list(log.read_all())

    kill_writers(str(path), kept, seed)


def test_an_engine_on_a_database_goes_on_with_its_restart_windows(tmp_path):
    policy = {"Attempts": 1, "Interval": 60 * 10**9, "Delay": 1, "Mode": "fail"}
    job = {"TaskGroups": [{"Name": "g", "RestartPolicy": policy, "Tasks": [{"Name": "web"}]}]}
    for said in (
        [inputs.PlacementReceived()],
        [inputs.ProcessStarted(), inputs.Exited(exit_code=1)],
        [inputs.ProcessStarted()],
    ):
        with Engine.open(tmp_path / "tasks.db", dialect="1.1.2") as engine:
            if "a" not in engine.store.fold:
                engine.place({"ID": "a", "TaskGroup": "g", "Job": job})
            for one in said:
                engine.report("a", "web", one)
    with Engine.open(tmp_path / "tasks.db") as engine:
        step = engine.report("a", "web", inputs.Exited(exit_code=1))

    assert [type(event) for _, event in step.events] == [ev.Terminated, ev.NotRestarting]


@pytest.mark.parametrize("name", ["1.1.2/lifecycle_all", "0.5.6/sibling_failed"])
def test_an_import_into_a_database_is_that_into_lines(name, tmp_path):
    source = tmp_path / "bodies.jsonl"
    source.write_text("".join(answer.body + "\n" for answer in bodies(BY_NAME[name])), encoding="utf-8")
    done = ingest(source, into=tmp_path / "x.db")
    ingest(source, into=tmp_path / "x.jsonl")
    assert ingest(source, into=tmp_path / "x.db").records == 0

    database, lines = replay(tmp_path / "x.db"), replay(tmp_path / "x.jsonl")

    assert done.records == len(list(lines))
    assert list(database) == list(lines)
    assert [json.loads(s.to_json()) for s in replay(tmp_path / "x.db").snapshots()] == [
        json.loads(s.to_json()) for s in replay(tmp_path / "x.jsonl").snapshots()
    ]
    again = ingest(tmp_path / "x.db", into=tmp_path / "back.jsonl")
    assert again.records == done.records
    copies = [unsealed((tmp_path / name).read_bytes()).split(b"\n", 1) for name in ("back.jsonl", "x.jsonl")]
    assert copies[0][1] == copies[1][1]
    assert copies[0][0] != copies[1][0], "a log that is imported into is another one"


def test_an_import_that_fails_leaves_no_database(tmp_path):
    source = tmp_path / "bad.jsonl"
    source.write_text('{"ID": "a", "ModifyIndex": 1}\n{"ID": 7, "ModifyIndex": 2}\n', encoding="utf-8")

    with pytest.raises(SourceError):
        ingest(source, into=tmp_path / "x.db")

    assert not (tmp_path / "x.db").exists()


def test_a_packed_database_is_told_apart(path, tmp_path):
    packed = tmp_path / "tasks.db.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))

    with pytest.raises(SourceError, match="is an SQLite database that is packed or piped"):
        list(replay(packed))


@pytest.mark.parametrize("name", ["", "x.jsonl", "x.db"])
def test_of_eight_writers_who_saw_the_same_version_exactly_one_wins(tmp_path, name):
    engine = Engine.open(tmp_path / name, dialect="1.1.2") if name else Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    rounds, won, lost = 25, [], []
    barrier = threading.Barrier(8, timeout=30)

    def write(writer: int) -> None:
        for version in range(1, rounds + 1):
            barrier.wait()
            try:
                engine.record("a", f"task-{writer}", ev.Received(), expected_version=version)
            except VersionConflict as conflict:
                lost.append(conflict.actual_version - version)
            else:
                won.append(version)
            barrier.wait()

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    engine.close()

    assert won == list(range(1, rounds + 1))
    assert lost == [1] * 7 * rounds  # each was told which version it found


RACER = """
import sys, time
from taskfold.errors import LogError, VersionConflict
from taskfold.log.registry import open_log
from taskfold.testing.logs import record_of
for line in sys.stdin:
    version = int(line)
    while True:
        try:
            with open_log(sys.argv[1], "1.1.2") as log:
                log.append("a", version, [record_of("a", version + 1)])
        except VersionConflict as conflict:
            print("lost", conflict.actual_version - version, flush=True)
        except LogError as error:
            assert "another process is writing this log" in str(error), error
            time.sleep(0.001)
            continue
        else:
            print("won", flush=True)
        break
"""


@pytest.mark.parametrize("name", ["x.db", "x.jsonl"])
def test_of_eight_processes_who_saw_the_same_version_exactly_one_wins(tmp_path, name):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, tmp_path / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for version in range(6):
        for racer in racers:
            racer.stdin.write(f"{version}\n")
            racer.stdin.flush()
        told = [racer.stdout.readline().split() for racer in racers]
        assert sorted(told) == [["lost", "1"]] * 7 + [["won"]]
    for racer in racers:
        racer.communicate()

    assert [record.version for record in replay(tmp_path / name)] == [1, 2, 3, 4, 5, 6]


def test_a_header_that_was_changed_is_found(path):
    rows(path, "UPDATE header SET text = replace(text, 'west', 'east')")

    with pytest.raises(LogError, match="not the header of a taskfold log: it is damaged"):
        SqliteLog(path)
    with pytest.raises(SourceError, match="it is damaged"):
        list(replay(path))
