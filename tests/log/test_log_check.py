"""Checking a log finds all that is damaged; a repair copies what is good, says what is not, and never touches it."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import sqlite3
import threading
import zlib
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from support.command_line import refused, run
from taskfold import Engine, inputs, replay
from taskfold import events as ev
from taskfold.errors import LogError, SourceError
from taskfold.log import NdjsonLog
from taskfold.log.check import check_log, repair
from taskfold.log.registry import open_log
from taskfold.model.record import Collected, Record
from taskfold.testing.logs import record_of, records_of

DATA = Path(__file__).parents[1] / "data"
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
    assert done.stdout == f"{path}: whole; 30 whole records, newest position 30; format 3, dialect 1.1.2\n"


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

    assert (found.seq, found.message) == (4, "the columns of the row differ from its record")


def test_a_damaged_checkpoint_is_found(tmp_path):
    path = tmp_path / "x.db"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        engine.report("a", "web", inputs.PlacementReceived())
        engine.checkpoint()
    sql(path, "UPDATE checkpoint SET checksum = 1 WHERE part = 1")

    (found,) = check_log(path).damages

    assert found.message == "part 1 of the checkpoint is damaged: it will be rebuilt from the records"


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

    refused(run("log", path, "--repair", tmp_path / "y.jsonl"), "give its dialect with --dialect")
    done = run("log", path, "--repair", tmp_path / "y.jsonl", "--dialect", "1.1.2")

    assert done.exit_code == 1
    assert len(list(replay(tmp_path / "y.jsonl"))) == 30


@pytest.mark.parametrize("name", ["x.jsonl", "format-1.jsonl"])
def test_a_header_that_is_damaged_is_damage_and_the_rest_is_checked_too(tmp_path, name):
    path = tmp_path / name
    if name == "x.jsonl":
        fill(path)
        damage(path, 7)
    else:
        whole = (DATA / name).read_bytes()
        path.write_bytes(whole.replace(b'"Seq":7,', b'"Seq":7;'))
    path.write_bytes(path.read_bytes().replace(b'"region":"', b'"region";"'))

    found = check_log(path)

    assert [found.line for found in found.damages][:2] == [1, 8]
    assert found.header.dialect == ""
    assert run("log", path, "--check").stdout.endswith("; no header\n")
    done = repair(path, tmp_path / "y.jsonl", "1.1.2")
    assert done.records > 5
    assert done.check.records == found.records


def test_a_log_of_a_newer_format_is_not_called_damaged(path):
    if path.suffix == ".jsonl":
        path.write_bytes(path.read_bytes().replace(b'"taskfold":3', b'"taskfold":4'))
    else:
        sql(path, "UPDATE header SET text = replace(text, ':3', ':4')")

    refused(run("log", path, "--check"), "the log has record format 4")


@pytest.mark.parametrize("statement", ["DELETE FROM header", "UPDATE header SET text = '{'"])
def test_a_header_of_a_database_that_is_damaged_is_damage(tmp_path, statement):
    path = tmp_path / "x.db"
    fill(path)
    sql(path, statement)

    found = check_log(path)

    assert [found.message.partition(":")[0] for found in found.damages] == ["the header cannot be read"]
    assert found.records == 30
    refused(run("replay", path), "not the header of a taskfold log")
    assert repair(path, tmp_path / "y.db", "1.1.2").records == 30


@pytest.mark.parametrize("is_packed", [False, True])
def test_standard_input_is_checked_and_copied_in_one_pass(tmp_path, is_packed):
    path = tmp_path / "x.jsonl"
    fill(path)
    piped = gzip.compress(path.read_bytes()) if is_packed else path.read_bytes()

    assert run("log", "-", "--check", input=piped).stdout.startswith("-: whole; 30 whole records")
    assert run("log", "-", "--repair", tmp_path / "y.jsonl", input=piped).exit_code == 0
    assert list(replay(tmp_path / "y.jsonl")) == list(replay(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_with_a_name_is_checked_copied_and_verified(tmp_path):
    fill(tmp_path / "x.jsonl")
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)

    def asked(*args: object) -> str:
        writer = threading.Thread(target=pipe.write_bytes, args=[(tmp_path / "x.jsonl").read_bytes()], daemon=True)
        writer.start()
        told = run(*args).stdout
        writer.join(10)
        return told

    assert "whole; 30 whole records" in asked("log", pipe, "--check")
    assert "copied 30 records" in asked("log", pipe, "--repair", tmp_path / "y.jsonl")
    assert "It agrees" in asked("verify", pipe)


def test_of_a_packed_log_that_is_cut_off_the_beginning_is_copied(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    fill(tmp_path / "x.jsonl")
    path.write_bytes(gzip.compress((tmp_path / "x.jsonl").read_bytes())[:-200])

    done = repair(path, tmp_path / "y.jsonl")

    assert 0 < done.records < 30
    assert "cut off or damaged" in done.check.damages[-1].message
    assert list(replay(tmp_path / "y.jsonl")) == list(replay(tmp_path / "x.jsonl"))[: done.records]


@pytest.mark.parametrize("seq", [-5, 0, 2**61])
def test_a_row_at_a_position_that_none_can_have_is_found_at_once(tmp_path, seq):
    path = tmp_path / "x.db"
    fill(path)
    sql(path, f"INSERT INTO records SELECT {seq}, 'z', 1, 1, NULL, checksum, body FROM records WHERE seq = 3")  # noqa: S608 - a number of ours

    (found,) = check_log(path).damages

    assert (found.seq, found.message) == (
        seq,
        "no log of this size has such a position: the record was skipped",
    )
    assert repair(path, tmp_path / "y.db").records == 30


@pytest.mark.parametrize("body", [b'{"ID":"\xff"}', b"[" * 100_000 + b"]" * 100_000], ids=["not UTF-8", "too deep"])
def test_a_record_that_cannot_be_decoded_is_one_damage_and_the_others_are_read(tmp_path, body):
    path = tmp_path / "x.db"
    fill(path)
    text = b'{"Seq":30,"Index":10,"Alloc":"c","Version":10,"Event":{"Type":"Placed","Body":%b}}' % body
    sql(path, f"UPDATE records SET body = x'{text.hex()}', checksum = {zlib.crc32(text)} WHERE seq = 30")  # noqa: S608 - our own

    (found,) = check_log(path).damages

    assert found.message.startswith("not a record of a taskfold log: ")
    assert repair(path, tmp_path / "y.db").records == 29
    refused(run("log", path), "Seq 30: not a record of a taskfold log", may_show=True)


def test_what_replay_refuses_of_a_log_without_seals_a_check_calls_damaged(tmp_path):
    whole = (DATA / "format-1.jsonl").read_bytes()
    path = tmp_path / "x.jsonl"
    start, found = whole.index(b"\n") + 1, 0
    for place in range(start, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            list(replay(path))
        except SourceError:
            found += 1
            assert not check_log(path).is_whole, place
    assert found > 500


def collected_early(path: Path, end: Collected) -> None:
    """Write a log of an allocation that was collected, and of another; damage all that is before its end."""
    with open_log(path, "1.1.2") as log:
        for version in (1, 2):
            log.append("a", version - 1, [record_of("a", version)])
        log.append("a", 2, [Record(index=9, alloc="a", version=3, event=end)])
        log.append("b", 0, [record_of("b", 1)])
    for seq in (1, 2):
        damage(path, seq)


@pytest.mark.parametrize("end", [Collected(reason=""), Collected(reason="", body=Raw(b"{}"), task_states=Raw(b"{}"))])
@pytest.mark.parametrize("name", STORES)
def test_the_end_of_what_was_collected_does_not_hide_what_is_lost_before_it(tmp_path, name, end):
    path = tmp_path / name
    collected_early(path, end)

    done = repair(path, tmp_path / "y.jsonl")

    assert done.left_out == {"a": (1, 1)}
    assert [record.alloc for record in replay(tmp_path / "y.jsonl")] == ["b"]


def test_an_id_that_comes_again_is_damage_and_what_has_it_is_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [(DATA / "format-1.jsonl").read_text("utf-8").splitlines()[0]]
    for seq, known_by in enumerate(["one", "two", "two", "four"], start=1):
        record = msgspec.structs.replace(record_of("a", seq, index=seq, id=known_by), seq=seq)
        lines.append(msgspec.json.encode(record).decode())
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")

    done = repair(path, tmp_path / "y.db")

    assert [(found.seq, found.message) for found in done.check.damages] == [
        (3, "the ID 'two' was used by an earlier record")
    ]
    assert (done.records, done.left_out) == (2, {"a": (3, 2)})


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
        (["diary.txt", "--repair", "y.db"], "if it is a log with a damaged header, give its dialect with --dialect"),
        (["x.jsonl", "--repair", "x.jsonl"], "exists already, and is never overwritten"),
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


def test_where_the_last_page_of_records_is_damaged_the_end_is_told_by_an_index(tmp_path):
    path = tmp_path / "x.db"
    with open_log(path, "1.1.2") as log:
        for alloc in range(40):
            log.append(f"{alloc:03}", 0, records_of(f"{alloc:03}", 1, 40))
    at = path.read_bytes().rindex(b'"Seq":1600,') // 4096
    with path.open("r+b") as file:
        file.seek(at * 4096)
        file.write(b"\xff" * 4096)

    lost = [found for found in check_log(path).damages if "cannot be read" in found.message]

    assert len(lost) == 1
    assert f"Seq {lost[0].seq} to 1600 cannot be read" in lost[0].message


@pytest.mark.parametrize("seed", range(2))
def test_a_database_whose_records_are_other_ones_is_never_called_whole(tmp_path, seed):
    path, copy = tmp_path / "x.db", tmp_path / "copy.db"
    expected = fill(path)
    whole = path.read_bytes()
    chance = random.Random(seed)
    harmed = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(100, len(whole))] ^= 1 << chance.randrange(8)
        copy.write_bytes(damaged)
        try:
            is_same = list(replay(copy)) == expected
        except SourceError:
            is_same = False
        try:
            is_whole = check_log(copy).is_whole
        except SourceError:
            is_whole = False
        assert is_same or not is_whole
        harmed += not is_same
        for rest in tmp_path.glob("copy.db-*"):
            rest.unlink()
    assert harmed > 0
