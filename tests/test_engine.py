"""The engine: what the embedder records is in the log, folded, and shown as Nomad's JSON."""

import msgspec
import pytest

from taskfold import (
    DecodeError,
    Engine,
    IllegalEvent,
    LogError,
    ManualClock,
    MemoryLog,
    NdjsonLog,
    UnknownAllocation,
    VersionConflict,
    replay,
)
from taskfold import events as ev
from taskfold.record import Finished

LIFE = (
    ev.Received(),
    ev.TaskSetup(message="Building Task Directory"),
    ev.Started(),
    ev.Terminated(exit_code=1),
    ev.Restarting(start_delay_ns=5, restart_reason="Restart within policy"),
    ev.Started(),
    ev.Terminated(),
    Finished(),
)


def test_a_life_is_recorded_folded_and_shown(tmp_path):
    clock = ManualClock(1_000)
    log = NdjsonLog(tmp_path / "log.jsonl", "1.1.2")
    engine = Engine(log, clock=clock)
    engine.place(b'{"ID":"a","JobID":"example","NodeID":"n"}')
    for event in LIFE:
        clock.advance(10)
        engine.record("a", "web", event)

    state = engine.task("a", "web")
    assert (state.state, state.failed, state.restarts) == ("dead", False, 1)
    assert (state.last_restart_ns, state.started_at_ns, state.finished_at_ns) == (1_050, 1_060, 1_080)
    assert state.counts == {
        "Received": 1,
        "Started": 2,
        "Terminated": 2,
        "Restarting": 1,
        "Task Setup": 1,
    }
    body = msgspec.json.decode(engine.snapshot("a").to_json())
    assert (body["ClientStatus"], body["JobID"], body["ModifyIndex"]) == ("complete", "example", 9)
    assert [event["Type"] for event in body["TaskStates"]["web"]["Events"]] == [
        "Received",
        "Task Setup",
        "Started",
        "Terminated",
        "Restarting",
        "Started",
        "Terminated",
    ]
    log.close()
    assert [snapshot.to_json() for snapshot in replay(log.path).snapshots()] == [engine.snapshot("a").to_json()]


def test_an_engine_goes_on_from_its_log():
    log = MemoryLog("0.5.6")
    first = Engine(log)
    first.place({"ID": "a"})
    first.record("a", "web", ev.Received())

    second = Engine(log)
    second.record("a", "web", ev.Started())

    assert second.index == 3
    assert [record.version for record in second.history("a")] == [1, 2, 3]
    assert [record.seq for record in log.read_all()] == [1, 2, 3]


def test_a_new_engine_speaks_the_documented_dialect():
    engine = Engine()
    engine.place({"ID": "a"})
    engine.record("a", "web", ev.SiblingTaskFailed())

    body = msgspec.json.decode(engine.snapshot("a").to_json())
    task = body["TaskStates"]["web"]
    assert task["Events"][0]["Type"] == "Sibling task failed"
    assert len(task["Events"][0]) == 20
    assert task.keys() == {"Events", "Failed", "State"}


def test_an_illegal_event_changes_nothing():
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    engine.record("a", "web", ev.Received())
    before = engine.snapshot("a")

    with pytest.raises(IllegalEvent, match="task 'web' is pending: 'Signaling' is not legal there"):
        engine.record("a", "web", ev.Signaling())
    with pytest.raises(IllegalEvent, match="task 'new' is pending"):
        engine.record("a", "new", ev.Signaling())

    assert engine.snapshot("a") == before
    assert len(engine.history("a")) == 2
    with pytest.raises(UnknownAllocation, match="has no task 'new'"):
        engine.task("a", "new")


def test_a_repeated_id_is_recorded_once():
    engine = Engine()
    engine.place({"ID": "a"})
    assert engine.record("a", "web", ev.Received(), id="r1") is not None

    assert engine.record("a", "web", ev.Received(), id="r1") is None

    assert engine.task("a", "web").events_total == 1


def test_an_unexpected_version_is_refused_before_anything_else():
    engine = Engine()
    engine.place({"ID": "a"})
    engine.record("a", "web", ev.Received(), expected_version=1)

    with pytest.raises(VersionConflict, match="is at version 2, not 1"):
        engine.record("a", "web", ev.Signaling(), expected_version=1)

    assert len(engine.history("a")) == 2


def test_times_that_are_given_stay():
    engine = Engine(dialect="1.1.2", clock=ManualClock(99))
    engine.place({"ID": "a"}, time_ns=1)
    engine.record("a", "web", ev.Started(time_ns=5), time_ns=7)

    task = engine.task("a", "web")
    assert task.events[0].time_ns == 5
    assert task.started_at_ns == 7


def test_an_allocation_is_placed_once_and_needs_an_id():
    engine = Engine()
    engine.place({"ID": "a"})

    with pytest.raises(VersionConflict):
        engine.place({"ID": "a"})
    with pytest.raises(DecodeError, match=r"\$.ID"):
        engine.place({"JobID": "example"})
    with pytest.raises(DecodeError, match="not the JSON of an allocation"):
        engine.place(b"[]")
    with pytest.raises(UnknownAllocation, match="no allocation 'b' is known"):
        engine.record("b", "web", ev.Received())


def test_a_write_that_fails_changes_nothing(tmp_path, monkeypatch):
    log = NdjsonLog(tmp_path / "log.jsonl", "1.1.2")
    engine = Engine(log)
    engine.place({"ID": "a"})
    before = engine.snapshot("a")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(LogError, match="No space left on device"):
            engine.record("a", "web", ev.Received())

    assert engine.snapshot("a") == before
    engine.record("a", "web", ev.Received())
    assert [record.version for record in engine.history("a")] == [1, 2]
    log.close()
