"""The formats of logs: seals, so that nothing is silently another thing, and the records of older formats."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from support.command_line import refused, run
from taskfold import Engine, ingest, replay, verify
from taskfold import events as ev
from taskfold.errors import LogError, SourceError
from taskfold.log import NdjsonLog
from taskfold.log.check import check_log
from taskfold.log.seals import Sealed, good_end, seal, unsealed
from taskfold.log.sqlite.log import SqliteLog
from taskfold.log.upcast import UPCASTS, Upcast, check_chain, upcaster
from taskfold.model.record import FORMAT, Collected, Record
from taskfold.testing.logs import record_of, records_of

DATA = Path(__file__).parents[1] / "data"
FORMAT_1 = ("format-1.jsonl", "format-1.sqlite3")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a log with three writes: of two records, of one, and of two."""
    path = tmp_path / "x.jsonl"
    with NdjsonLog(path, "1.1.2") as log:
        log.append("a", 0, records_of("a", 1, 2))
        log.append("b", 0, [record_of("b", 1, index=9, id="é")])
        log.append("a", 2, records_of("a", 3, 4))
    return path


def told(path: Path) -> tuple[list[Record], list[str], SourceError | None]:
    """Return the records that can be read of a log, the notes, and what ended the reading."""
    notes: list[str] = []
    records: list[Record] = []
    try:
        records.extend(replay(path, on_note=notes.append))
    except SourceError as error:
        return records, notes, error
    return records, notes, None


# --- seals ------------------------------------------------------------------------------------------------------------


def test_a_log_is_a_header_and_a_record_a_line_and_each_write_is_sealed(path):
    lines = path.read_bytes().splitlines()

    assert [json.loads(line).get("Seq") for line in lines] == [None, 1, 2, 3, 4, 5]
    assert ["Seal" in json.loads(line) for line in lines] == [True, False, True, True, False, True]
    assert json.loads(lines[0])["taskfold"] == FORMAT == 3


def test_every_bit_that_is_flipped_is_found(path, tmp_path):
    whole = path.read_bytes()
    expected = list(replay(path))
    writes = [0, 2, 3, 5]
    copy = tmp_path / "copy.jsonl"
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            copy.write_bytes(damaged)

            records, notes, error = told(copy)

            try:
                check = check_log(copy)
            except SourceError:
                assert b'{"taskfold":3,' not in damaged
            else:
                assert check.unacknowledged_bytes or not check.is_whole, (place, bit)

            # Whole writes, as they were; and something is said of the rest.
            assert records == expected[: len(records)], (place, bit)
            assert len(records) in writes
            assert error is not None or notes, (place, bit)
            if error is None:
                assert len(records) == 3
                assert "were never acknowledged, and were skipped" in notes[0]
            else:
                assert str(copy) in str(error)


def test_a_log_that_is_cut_off_anywhere_has_whole_writes(path, tmp_path):
    whole = path.read_bytes()
    expected = list(replay(path))
    ends = [0]
    for line in whole.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    sealed = {ends[1]: 0, ends[3]: 2, ends[4]: 3, ends[6]: 5}
    copy = tmp_path / "copy.jsonl"
    for size in range(ends[1], len(whole)):
        copy.write_bytes(whole[:size])

        records, notes, error = told(copy)

        last = max(end for end in sealed if end <= size)
        assert error is None
        assert records == expected[: sealed[last]]
        if size == last:
            assert notes == []
        else:
            (note,) = notes
            skipped = "were never acknowledged, and were skipped"
            assert note == f"{copy}: {size - last} bytes after byte {last} {skipped}"
        with NdjsonLog(copy) as log:
            assert log.seq == len(records)
            log.append("c", 0, [record_of("c", 1)])
        assert len(list(replay(copy))) == len(records) + 1


def test_damage_is_named_with_its_line_and_its_offset(path):
    whole = path.read_bytes()
    at = whole.index(b'"Seq":3')
    path.write_bytes(whole[: at + 6] + b"7" + whole[at + 7 :])

    records, _, error = told(path)

    assert len(records) == 2
    start = whole.rindex(b"\n", 0, at) + 1
    problem = f"the log is damaged at byte {start}: its content differs from what was written"
    assert str(error) == f"{path}, line 4: {problem}"
    with pytest.raises(LogError, match=f"line 4: the log is damaged at byte {start}"):
        NdjsonLog(path)
    assert "line 4" in refused(run("replay", path))


@pytest.mark.parametrize("size", [1, 7, 50, 99, 100_000])
def test_seals_are_found_however_the_file_is_read(size):
    lines = b"".join(b'{"Seq":%d}\n' % number for number in range(20))
    parts = [lines[i : i + 40] for i in range(0, len(lines), 40)]
    whole = b"".join(seal(part[: part.rfind(b"\n") + 1]) for part in parts if b"}\n" in part)
    blocks, number = [], 1
    for start in range(0, len(whole), size):
        end = whole.find(b"\n", start + size) + 1 or len(whole)
        begin = 0 if not start else whole.find(b"\n", start) + 1
        if begin < end and whole[begin:end]:
            blocks.append((number, whole[begin:end]))
            number += whole[begin:end].count(b"\n")

    runs = list(Sealed("x", is_record=lambda _: False).runs(blocks))

    assert b"".join(run.lines for run in runs) == unsealed(whole)
    assert sum(run.size for run in runs) == len(whole)
    assert [run.line for run in runs] == sorted({run.line for run in runs})


def test_what_looks_like_a_seal_inside_a_record_is_none(tmp_path):
    path = tmp_path / "x.jsonl"
    body = Raw(b'{"ID":"a","Seal":"01234567"}')
    with NdjsonLog(path, "1.1.2") as log:
        log.append_all([])
        event = ev.UnknownEvent(wire_type='","Seal":"89abcdef"}\n', time_ns=1)
        from taskfold.model.record import Placed

        log.append("a", 0, [Record(index=1, alloc="a", version=1, event=Placed(body=body))])
        log.append("a", 1, [Record(index=2, alloc="a", version=2, task="web", event=event)])

    first, second = replay(path)

    assert bytes(first.event.body) == bytes(body)
    assert second.event.wire_type == '","Seal":"89abcdef"}\n'


def test_what_is_imported_is_sealed_an_observation_at_a_time(tmp_path):
    source = tmp_path / "bodies.jsonl"
    body = '{{"ID":"a{n:04}","JobID":"j","ModifyIndex":{n},"Metrics":null,"Name":"{x}"}}\n'
    source.write_text("".join(body.format(n=n, x="x" * 100) for n in range(1, 800)), encoding="utf-8")

    done = ingest(source, into=tmp_path / "x.jsonl")

    whole = (tmp_path / "x.jsonl").read_bytes()
    assert whole.count(b'"Seal":') == done.records + 1
    at = whole.index(b'"Seq":500,') + 6
    (tmp_path / "x.jsonl").write_bytes(whole[:at] + b"7" + whole[at + 1 :])
    assert len(told(tmp_path / "x.jsonl")[0]) == 499, "what is before the damage is read"


def test_a_log_in_a_packed_file_is_checked_too(path, tmp_path):
    packed = tmp_path / "x.jsonl.gz"
    whole = path.read_bytes()
    packed.write_bytes(gzip.compress(whole))
    assert list(replay(packed)) == list(replay(path))
    packed.write_bytes(gzip.compress(whole.replace(b'"Version":3', b'"Version":4')))

    assert "the log is damaged at byte" in str(told(packed)[2])


def test_the_end_of_what_is_damaged_is_good_where_its_seal_says_so():
    first, second = seal(b'{"Seq":1}\n{"Seq":2}\n'), seal(b'{"Seq":3}\n')
    broken = first.replace(b"Seal", b"Seel") + second

    assert good_end(broken) == second
    assert good_end(first.replace(b'"Seq":1', b'"Seq":9')) == b""
    assert good_end(b"{}\n") == b""


@pytest.mark.parametrize("place", range(30))
def test_the_good_end_is_found_wherever_it_begins(place):
    lines = [b'{"Seq":%d,"x":"%s"}\n' % (number, b"y" * (number % 7)) for number in range(30)]
    last = seal(b"".join(lines[place:]))

    assert good_end(b"".join(lines[:place]) + last) == (last if place else b"")
    assert good_end(b"".join(lines[:place]) + last.replace(b'"Seq":29', b'"Seq":28')) == b""


# --- older formats ----------------------------------------------------------------------------------------------------


def expected_of_format_1() -> list[Record]:
    """Return the records of the committed samples, as this format has them."""
    lines = (DATA / "format-1.jsonl").read_text("utf-8").splitlines()[1:]
    assert lines[13] == (
        '{"Seq":14,"Index":795,"Alloc":"69e8e345","Version":14,"Time":1795422594000000000,"ID":"collect-69e8e345",'
        '"Event":{"Type":"Collected"}}'
    )
    lines[13] = lines[13].replace('"Collected"', '"Collected","Reason":""')
    return [msgspec.json.decode(line, type=Record) for line in lines]


@pytest.mark.parametrize("name", FORMAT_1)
def test_a_log_of_format_1_is_read(name):
    records = list(replay(DATA / name))

    assert records == expected_of_format_1()
    assert [record.seq for record in records] == list(range(1, 18))
    body = bytes(records[0].event.body).decode()
    assert '"x":0.30000000000000004,"y":1e-7' in body
    assert '"CreateTime":12345678901234567890123' in body
    assert records[13].event == Collected(reason="")
    states = replay(DATA / name).fold()
    assert {alloc: states[alloc].collected for alloc in states} == {"69e8e345": True, "é/2": False}
    assert states["é/2"].tasks["wëb"].state == "running"
    assert states["69e8e345"].tasks["web"].restarts == 6
    assert run("history", DATA / name, "69e8e345").exit_code == 0


@pytest.mark.parametrize("name", FORMAT_1)
def test_a_log_of_format_1_is_brought_to_the_present_when_it_is_gone_on_with(tmp_path, name):
    path = tmp_path / name.replace("sqlite3", "db")
    shutil.copyfile(DATA / name, path)

    with Engine.open(path) as engine:
        assert engine.store.log.header.taskfold == FORMAT
        assert engine.store.log.header.region == "west"
        engine.record("é/2", "wëb", ev.Terminated(exit_code=0))

    records = list(replay(path))
    assert records[:-1] == expected_of_format_1()
    assert (records[-1].seq, records[-1].version) == (18, 4)
    assert verify(path).agrees
    with Engine.open(path) as engine:
        assert engine.store.read("é/2").version == 4
    if path.suffix == ".jsonl":
        assert path.read_bytes().count(b'"Seal":') > 10
    assert sorted(file.name for file in tmp_path.iterdir() if "lock" not in file.name) == [path.name]


def test_a_conversion_that_fails_leaves_the_old_log(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    shutil.copyfile(DATA / "format-1.jsonl", path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(LogError, match="No space left on device"):
            NdjsonLog(path)

    assert path.read_bytes() == (DATA / "format-1.jsonl").read_bytes()
    assert list(tmp_path.iterdir()) == [path]
    NdjsonLog(path).close()


def test_a_line_of_format_1_that_is_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes((DATA / "format-1.jsonl").read_bytes()[:-20])

    records, notes, error = told(path)

    assert error is None
    assert records == expected_of_format_1()[:-1]
    assert "were never acknowledged, and were skipped" in notes[0]


@pytest.mark.parametrize("found", [0, 4, 99])
def test_a_format_that_nobody_knows_is_refused(tmp_path, found):
    path = tmp_path / "x.jsonl"
    path.write_bytes((DATA / "format-1.jsonl").read_bytes().replace(b'"taskfold":1', b'"taskfold":%d' % found))
    database = tmp_path / "x.db"
    SqliteLog(database, "1.1.2").close()
    connection = sqlite3.connect(database)
    connection.execute("UPDATE header SET text = replace(text, '\"taskfold\":3', ?)", (f'"taskfold":{found}',))
    connection.commit()
    connection.close()

    for log in (path, database):
        refused(run("replay", log), f"the log has record format {found}; this taskfold reads the formats 1 to 3")
        with pytest.raises(LogError, match="record format"):
            Engine.open(log)


def test_a_log_of_format_1_that_was_formatted_anew_is_read_too(tmp_path):
    path = tmp_path / "x.jsonl"
    header, *lines = (DATA / "format-1.jsonl").read_text("utf-8").splitlines()
    spaced = [json.dumps(json.loads(line, parse_float=str), ensure_ascii=False) for line in lines]
    assert '"Type": "Collected"' in spaced[13]
    path.write_text("\n".join([header, *spaced, ""]), encoding="utf-8")

    assert list(replay(path))[1:] == expected_of_format_1()[1:]


def test_the_chain_leads_from_every_format_to_this_one():
    check_chain(UPCASTS, FORMAT)
    assert [upcast.source for upcast in UPCASTS] == list(range(1, FORMAT))
    assert upcaster(FORMAT) is None


@pytest.mark.parametrize("sources", [[], [2], [1, 1], [1, 2], [2, 1], [1, 3]], ids=str)
def test_a_chain_with_a_gap_a_double_or_another_end_is_refused(sources):
    newest = 4 if len(sources) == 2 and sources != [1, 2] else 5 if sources == [1, 2] else 2
    if not sources:
        newest = 3

    with pytest.raises(ValueError, match="upcasts lead on from the formats"):
        check_chain([Upcast(source, {}) for source in sources], newest)


def test_steps_are_taken_one_after_the_other_and_only_for_what_changed():
    def renamed(fields):
        return {**{name: text for name, text in fields.items() if name != "Old"}, "New": fields["Old"]}

    def doubled(fields):
        return {**fields, "New": Raw(b"[%b,%b]" % (bytes(fields["New"]), bytes(fields["New"])))}

    chain = (Upcast(1, {"Started": renamed}), Upcast(2, {"Started": doubled}))
    line = b'{"Seq":1,"Event":{"Type":"Started","Old":1.50}}'

    assert upcaster(1, chain)(line) == b'{"Seq":1,"Event":{"Type":"Started","New":[1.50,1.50]}}'
    assert upcaster(2, chain)(b'{"Event":{"Type":"Started","New":7}}') == b'{"Event":{"Type":"Started","New":[7,7]}}'
    other = b'{ "Event": {"Type":"Killed","Old":1} }'
    assert upcaster(1, chain)(other) is other
