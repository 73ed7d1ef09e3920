"""Checking a log finds all that is damaged; a repair copies what is good, says what is not, and never touches it."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from command_line import refused, run
from taskfold import Engine, inputs, replay
from taskfold import events as ev
from taskfold.errors import LogError, SourceError
from taskfold.log import NdjsonLog
from taskfold.log.check import check_log, repair
from taskfold.log.opening import open_log
from taskfold.record import Record
from taskfold.testing.logs import record_of, records_of

DATA = Path(__file__).parent / "data"
STORES = ["x.jsonl", "x.db"]


def fill(path: Path) -> list[Record]:
    """Write a log of three allocations, one record after the other; return the records."""
    with open_log(path, "1.1.2") as log:
        for version in range(1, 11):
            for alloc in "abc":
                log.append(alloc, version - 1, [record_of(alloc, version, index=version, id=f"{alloc}-{version}")])
        return list(log.read_all())


@pytest.fixture(params=STORES)
def path(request, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    fill(path)
    return path


def damage(path: Path, seq: int) -> None:
    """Change a record of a log behind its back."""
    if path.suffix == ".jsonl":
        lines = path.read_bytes().splitlines(keepends=True)
        lines[seq] = lines[seq].replace(b'"Index"', b'"Indes"')
        path.write_bytes(b"".join(lines))
    else:
        sql(
            path,
            f"UPDATE records SET body = CAST(replace(CAST(body AS TEXT), 'Index', 'Indes') AS BLOB) WHERE seq = {seq}",  # noqa: S608 - a number of ours
        )


def sql(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


def test_a_whole_log_is_whole(path):
    found = check_log(path)

    assert found.is_whole
    assert (found.records, found.newest, found.damages, found.unacknowledged_bytes) == (30, 30, [], 0)
    done = run("log", path, "--check")
    assert done.exit_code == 0
    assert done.stdout == f"{path}: whole; 30 whole records, newest position 30; format 2, dialect 1.1.2\n"


def test_all_that_is_damaged_is_found_and_named(path):
    for seq in (5, 17, 30):
        damage(path, seq)

    found = check_log(path)

    places = [found.line or found.seq for found in found.damages]
    extra = path.suffix == ".jsonl"
    assert set(places) >= {5 + extra, 17 + extra, 30 + extra}
    assert found.records == 27
    if extra:
        whole = path.read_bytes()
        offsets = [found.offset for found in found.damages if found.offset]
        assert [whole[:offset].count(b"\n") for offset in offsets] == [5, 17, 30]
    told = run("log", path, "--check")
    assert told.exit_code == 1
    assert "damaged in" in told.stdout
    lines = run("log", path, "--check", "--format", "jsonl").stdout.splitlines()
    assert len(lines) == found.damages_total
    assert all(json.loads(line)["Message"] for line in lines)


def test_a_repair_copies_what_is_good_and_says_what_is_not(path, tmp_path):
    expected = list(replay(path))
    damage(path, 5)  # b-2
    before = path.read_bytes()

    done = run("log", path, "--repair", tmp_path / "good.db")

    assert done.exit_code == 1
    assert "allocation b: version 2 is missing, and 8 records after it left out" in done.stderr
    assert done.stdout.splitlines()[-1] == f"copied 21 records into {tmp_path / 'good.db'}"
    copied = list(replay(tmp_path / "good.db"))
    kept = [record for record in expected if record.alloc != "b" or record.version == 1]
    assert [(r.alloc, r.version, r.index, r.id) for r in copied] == [(r.alloc, r.version, r.index, r.id) for r in kept]
    assert [record.seq for record in copied] == list(range(1, 22))
    assert check_log(tmp_path / "good.db").is_whole
    assert path.read_bytes() == before


def test_a_repair_of_a_whole_log_is_a_copy(path, tmp_path):
    done = repair(path, tmp_path / "good.jsonl")

    assert done.is_whole
    assert list(replay(tmp_path / "good.jsonl")) == list(replay(path))


def test_a_write_whose_neighbour_lost_its_seal_is_good(tmp_path):
    path = tmp_path / "x.jsonl"
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].replace(b'"Seal"', b'"Seel"')
    path.write_bytes(b"".join(lines))

    found = check_log(path)

    assert found.records == 29
    assert found.damages[0].line == 8
    assert "(1 lines were written together)" in found.damages[0].message


@pytest.mark.parametrize("seed", range(4))
def test_whatever_bits_are_flipped_a_repair_gives_beginnings_of_what_was_there(path, tmp_path, seed):
    expected = {(r.alloc, r.version): r.event for r in replay(path)}
    chance = random.Random(seed)
    whole = bytearray(path.read_bytes())
    harmed = 0
    for number in range(12):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[chance.randrange(100, len(damaged))] ^= 1 << chance.randrange(8)
        copy, good = tmp_path / f"{number}{path.suffix}", tmp_path / f"{number}-good.jsonl"
        copy.write_bytes(damaged)
        try:
            done = repair(copy, good, "1.1.2")
        except SourceError:
            continue  # what is no database any more cannot be told from anything else
        found: dict[str, int] = {}
        for record in replay(good):
            assert expected[record.alloc, record.version] == record.event
            assert record.version == found.get(record.alloc, 0) + 1
            found[record.alloc] = record.version
        harmed += not done.is_whole
        assert done.is_whole == check_log(copy).is_whole or path.suffix == ".db"
    assert harmed > 0 or path.suffix == ".db"


def test_what_is_missing_in_the_middle_is_found(path):
    if path.suffix == ".jsonl":
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:9], *lines[10:]]))
    else:
        sql(path, "DELETE FROM records WHERE seq = 9")

    found = check_log(path)

    assert found.records == 29
    assert "expected Seq 9 and Version 4 of allocation a, found Seq 10 and Version 4" in found.damages[0].message


def test_columns_that_say_something_else_than_their_record_are_found(tmp_path):
    path = tmp_path / "x.db"
    fill(path)
    sql(path, "UPDATE records SET alloc = 'zz' WHERE seq = 4")

    (found,) = check_log(path).damages

    assert (found.seq, found.message) == (4, "the columns of the row say something else than its record")


def test_a_damaged_checkpoint_is_found(tmp_path):
    path = tmp_path / "x.db"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        engine.report("a", "web", inputs.Placed())
        engine.checkpoint()
    sql(path, "UPDATE checkpoint SET checksum = 1 WHERE part = 1")

    (found,) = check_log(path).damages

    assert found.message == "part 1 of the checkpoint is damaged: it is made anew from the records"


def test_what_was_never_acknowledged_is_told_and_is_no_damage(tmp_path):
    path = tmp_path / "x.jsonl"
    fill(path)
    with path.open("ab") as file:
        file.write(b'{"Seq":31,"Ind')

    found = check_log(path)

    assert found.is_whole
    assert found.unacknowledged_bytes == 14
    assert "note: 14 bytes at the end were never acknowledged" in run("log", path, "--check").stderr


@pytest.mark.parametrize("name", ["format-1.jsonl", "format-1.sqlite3"])
def test_a_log_of_an_older_format_is_checked_and_copied(tmp_path, name):
    found = check_log(DATA / name)

    assert (found.is_whole, found.records, found.header.taskfold) == (True, 17, 1)
    assert repair(DATA / name, tmp_path / "new.jsonl").is_whole
    assert list(replay(tmp_path / "new.jsonl")) == list(replay(DATA / name))


def test_a_line_of_format_1_that_is_damaged_is_named_with_its_offset(tmp_path):
    path = tmp_path / "x.jsonl"
    whole = (DATA / "format-1.jsonl").read_bytes()
    at = whole.index(b'"Seq":7')
    path.write_bytes(whole[:at] + b"!" + whole[at + 1 :])

    found = check_log(path)

    start = whole.rindex(b"\n", 0, at) + 1
    assert (found.damages[0].line, found.damages[0].offset) == (8, start)


def test_a_header_that_is_damaged_needs_a_dialect(tmp_path):
    path = tmp_path / "x.jsonl"
    fill(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"region":"global"', b'"region":"glubal"'))

    refused(run("log", path, "--repair", tmp_path / "y.jsonl"), "--dialect names what it would say")
    done = run("log", path, "--repair", tmp_path / "y.jsonl", "--dialect", "1.1.2")

    assert done.exit_code == 1
    assert len(list(replay(tmp_path / "y.jsonl"))) == 30


def test_a_compacted_log_is_whole(path, tmp_path):
    own = tmp_path / f"own{path.suffix}"
    with Engine.open(own, dialect="1.1.2") as engine:
        for alloc in "ab":
            engine.place({"ID": alloc})
            engine.record(alloc, "web", ev.NotRestarting())
        engine.collect("a")
        engine.compact()
        engine.place({"ID": "c"})

    assert check_log(own).is_whole
    assert repair(own, tmp_path / "copy.jsonl").is_whole
    assert [r.alloc for r in replay(tmp_path / "copy.jsonl")] == [r.alloc for r in replay(own)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["nowhere.jsonl", "--check"], "no such file"),
        (["nowhere.db", "--repair", "y.db"], "no such file"),
        (["diary.txt", "--check"], "is not a taskfold log"),
        (["diary.txt", "--repair", "y.db"], "if it is a log whose header is damaged, --dialect names"),
        (["x.jsonl", "--repair", "x.jsonl"], "exists, and nothing is ever overwritten"),
        (["x.jsonl", "--repair", "y.csv"], "a log ends in"),
        (["x.jsonl", "--check", "--repair", "y.db"], "leave the other options out"),
        (["x.jsonl", "--check", "--alloc", "a"], "leave the other options out"),
        (["x.jsonl", "--check", "--dialect", "1.1.2"], "--dialect goes with --repair"),
        (["x.jsonl", "--dialect", "1.1.2"], "--dialect goes with --repair"),
        (["x.jsonl", "--repair", "nowhere/y.db"], "nowhere/y.db"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_refused(tmp_path, monkeypatch, given, told):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "x.jsonl")
    (tmp_path / "diary.txt").write_text("my diary\n")
    before = sorted(file.name for file in tmp_path.iterdir())

    refused(run("log", *given), told)

    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_a_repair_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    fill(tmp_path / "x.jsonl")

    def full(*_: object, **__: object) -> None:
        raise LogError("the disk is full")

    monkeypatch.setattr(NdjsonLog, "append", full)

    with pytest.raises(LogError):
        repair(tmp_path / "x.jsonl", tmp_path / "y.jsonl")

    assert not (tmp_path / "y.jsonl").exists()


def test_a_database_whose_pages_are_damaged_gives_what_can_be_read(tmp_path):
    path = tmp_path / "x.db"
    with open_log(path, "1.1.2") as log:
        for alloc in range(40):
            log.append(f"{alloc:03}", 0, records_of(f"{alloc:03}", 1, 40))
    shutil.copyfile(path, tmp_path / "y.db")
    with (tmp_path / "y.db").open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 4096)

    done = repair(tmp_path / "y.db", tmp_path / "z.db")

    assert not done.is_whole
    assert 0 < done.records < 1600
    versions: dict[str, int] = {}
    for record in replay(tmp_path / "z.db"):
        assert record.version == versions.get(record.alloc, 0) + 1
        versions[record.alloc] = record.version
