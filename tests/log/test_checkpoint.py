"""Checkpoints: opening from one is opening from the beginning, and one that does not fit is as good as none."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import recordings
from taskfold import Engine, Fold, ManualClock, Record, events, ingest, inputs
from taskfold.live.engine import _RECORDS_PER_CHECKPOINT
from taskfold.live.store import Store
from taskfold.log.checkpoint import CHECKPOINT_FORMAT, Checkpoint, _Head, from_parts, to_parts
from taskfold.log.index_map import Positions
from taskfold.log.sqlite.log import SqliteLog
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import INTERNAL_EVENTS, Collected
from taskfold.testing import strategies as kit

SECOND = 10**9
JOB = {"TaskGroups": [{"Name": "g", "Tasks": [{"Name": "web", "Leader": True}, {"Name": "db"}]}]}


def filled(path: Path) -> Path:
    """Return a log of two allocations, in which much happened."""
    with Engine.open(path, dialect="1.1.2", clock=ManualClock(SECOND), seed=1) as engine:
        for alloc in ("a", "b"):
            engine.place({"ID": alloc, "JobID": "example", "TaskGroup": "g", "Job": JOB})
            engine.report(alloc, "", inputs.PlacementReceived())
            for task in ("web", "db"):
                engine.report(alloc, task, inputs.ProcessStarted())
        engine.report("a", "db", inputs.Exited(exit_code=1))
        engine.report("b", "", inputs.StopRequested())
        engine.update("a", {"NodeName": "there"})
    return path


def read_after(store: Store) -> list[int]:
    """Return which records a store has read when it is made anew over the same log."""
    read: list[int] = []
    original = SqliteLog.read_kept

    class Counting(SqliteLog):
        def read_kept(self, after_seq: int = 0):  # type: ignore[no-untyped-def]
            for record in original(self, after_seq):
                read.append(record.seq)
                yield record

    store.log.__class__ = Counting  # type: ignore[misc]
    Store(store.log)
    return read


def test_opening_reads_only_what_came_since(tmp_path):
    path = filled(tmp_path / "x.db")
    with Engine.open(path, clock=ManualClock(2 * SECOND)) as engine:
        before = {alloc: engine.store.read(alloc) for alloc in ("a", "b")}
        assert engine.checkpoint()
        kept = engine.store.seq
        engine.update("b", {"NodeName": "elsewhere"})

        assert read_after(engine.store) == [kept + 1]

    with Engine.open(path) as again:
        assert again.store.checkpoint_seq == kept
        assert again.store.read("a") == before["a"]
        assert again.store.read("b").version == before["b"].version + 1
        again.store._check()
        assert again.index == engine.index
        assert again.next_due() is not None


def test_timers_and_what_is_owed_come_from_a_checkpoint_too(tmp_path):
    path = filled(tmp_path / "x.db")
    with Engine.open(path) as engine:
        due, owed = engine.next_due(), [step.effects for step in engine.restore(SECOND)]
        engine.checkpoint()

    with Engine.open(path) as again:
        assert (again.next_due(), [step.effects for step in again.restore(SECOND)]) == (due, owed)
        assert owed


def damage(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path)
    database.execute(statement, values)
    database.commit()
    database.close()


@pytest.mark.parametrize(
    "change",
    [
        {"format": CHECKPOINT_FORMAT + 1},
        {"records": 0},
        {"lifecycle": "another table"},
        {"allocations": 3},
        {"fields": ((), ())},
        {"seq": 10_000},
    ],
    ids=str,
)
def test_a_checkpoint_that_does_not_fit_is_as_good_as_none(tmp_path, change):
    path = filled(tmp_path / "x.db")
    with Engine.open(path) as engine:
        engine.checkpoint()
        parts = list(to_parts(engine.store.seq, engine.store.fold, engine.store.positions))
        head = msgspec.structs.replace(msgspec.msgpack.decode(parts[0], type=_Head), **change)
        engine.store.log.save_checkpoint([msgspec.msgpack.encode(head), *parts[1:]])

    with Engine.open(path) as again:
        assert again.store.checkpoint_seq == 0
        assert again.store.read("a") == engine.store.read("a")
        again.store._check()


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("body", [b"", b"junk", None])
def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path, part, body):
    path = filled(tmp_path / "x.db")
    with Engine.open(path) as engine:
        engine.checkpoint()
    if body is None:
        damage(path, "DELETE FROM checkpoint WHERE part = ?", part)
    else:
        damage(path, "UPDATE checkpoint SET body = ? WHERE part = ?", body, part)

    with Engine.open(path) as again:
        assert again.store.checkpoint_seq == 0
        assert again.store.read("a") == engine.store.read("a")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = filled(tmp_path / "x.db")
    with Engine.open(path) as engine:
        engine.checkpoint()
        kept = engine.store.seq
        engine.update("a", {"NodeName": "other"})

        def broken():
            yield b"half of it"
            raise OSError(5, "Input/output error")

        with pytest.raises(Exception, match="Input/output error"):
            engine.store.log.save_checkpoint(broken())

    with Engine.open(path) as again:
        assert again.store.checkpoint_seq == kept


def test_a_log_that_keeps_none_says_so(tmp_path):
    assert not Engine(dialect="1.1.2").checkpoint()
    with Engine.open(tmp_path / "x.jsonl", dialect="1.1.2") as engine:
        assert not engine.checkpoint()


def test_closing_leaves_a_checkpoint_when_much_was_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("taskfold.live.engine._RECORDS_PER_CHECKPOINT", 20)
    path = filled(tmp_path / "x.db")
    with Engine.open(path) as engine:
        assert engine.store.checkpoint_seq == engine.store.seq > 20
    assert _RECORDS_PER_CHECKPOINT == 10_000


@pytest.mark.parametrize("scenario", recordings.scenarios("1.1.2")[::9], ids=str)
def test_a_recorded_state_comes_back_whole(scenario, tmp_path):
    texts = [answer.body for answer in recordings.bodies(scenario)]
    (tmp_path / "bodies.jsonl").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    ingest(tmp_path / "bodies.jsonl", into=tmp_path / "x.db")
    with Engine.open(tmp_path / "x.db") as engine:
        engine.checkpoint()

    with Engine.open(tmp_path / "x.db") as again:
        assert again.store.checkpoint_seq == engine.store.seq
        for alloc in engine.store.fold:
            assert again.snapshot(alloc).to_json() == engine.snapshot(alloc).to_json()


INTERNAL = [cls for cls in INTERNAL_EVENTS if cls is not Collected]  # after that one nothing comes
EVENTS = (
    kit.events("1.1.2")
    | kit.events("1.1.2", [*(row.cls for row in events.EVENT_TYPES), events.UnknownEvent], nasty=True)
    | kit.internal_events("1.1.2", INTERNAL)
)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["web", "db"]), EVENTS), max_size=40), st.data())
def test_folding_from_a_checkpoint_is_folding_from_the_beginning(script, data):
    versions = dict.fromkeys("ab", 0)
    records = []
    for seq, (alloc, task, event) in enumerate(script, start=1):
        versions[alloc] += 1
        records.append(
            Record(seq=seq, index=seq, alloc=alloc, version=versions[alloc], task=task, time_ns=seq, event=event)
        )
    cut = data.draw(st.integers(0, len(records)))
    whole, first, positions = Fold("1.1.2", on_illegal="keep"), Fold("1.1.2", on_illegal="keep"), Positions(4)
    whole.apply_all(records)
    first.apply_all(records[:cut])
    positions.note_all(records[:cut])

    found = from_parts(iter(list(to_parts(cut, first, positions))), DIALECTS["1.1.2"])

    assert isinstance(found, Checkpoint)
    found.fold.apply_all(records[cut:])
    assert {alloc: found.fold[alloc] for alloc in found.fold} == {alloc: whole[alloc] for alloc in whole}
    assert list(found.fold) == list(whole)
    assert found.positions.saved() == positions.saved()


REGISTRY = """
import json, sys
import taskfold.events as events
if sys.argv[2] == "another":
    events.EVENT_TYPES = events.EVENT_TYPES[::-1]
from taskfold import Engine
with Engine.open(sys.argv[1]) as engine:
    assert engine.store.checkpoint_seq == engine.store.seq > 0
    print(json.dumps(engine.task("a", "web").counts, sort_keys=True))
    engine.record("a", "web", events.Received())
    print(engine.task("a", "web").counts["Received"])
    engine.checkpoint()
"""


def test_counts_are_those_of_their_types_whatever_order_the_registry_has(tmp_path):
    path = tmp_path / "x.db"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        for event in (events.TaskSetup(), events.Driver(), events.Driver(), events.UnknownEvent(wire_type="New")):
            engine.record("a", "web", event)
        engine.checkpoint()
        counts = engine.task("a", "web").counts
    assert counts == {"Task Setup": 1, "Driver": 2, "Unknown": 1}

    for received, order in enumerate(["the same", "another", "another", "the same"], start=1):
        ran = subprocess.run(
            [sys.executable, "-c", REGISTRY, path, order], capture_output=True, text=True, check=True, timeout=60
        )
        told, now = ran.stdout.splitlines()
        assert {name: count for name, count in json.loads(told).items() if name != "Received"} == counts
        assert int(now) == received
