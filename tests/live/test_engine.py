"""The engine: what the embedder records is in the log, folded, and shown as Nomad's JSON."""

import threading
from typing import Any

import msgspec
import pytest

from taskfold import (
    DEFAULT_DIALECT,
    DIALECTS,
    AlreadyPlaced,
    AppendRefused,
    DecodeError,
    Engine,
    IllegalEvent,
    LogError,
    ManualClock,
    MemoryLog,
    NdjsonLog,
    Record,
    Refused,
    UnknownAllocation,
    UnknownTask,
    VersionConflict,
    Write,
    observation_from_json,
    replay,
)
from taskfold import events as ev
from taskfold.model.record import Finished, Placed, Updated

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


def test_what_names_no_dialect_is_of_the_newest_and_the_documented_one_is_a_word_away(tmp_path):
    newest = list(DIALECTS)[-1]

    assert newest == DEFAULT_DIALECT
    assert Engine().dialect.name == MemoryLog().header.dialect == newest
    with Engine.open(tmp_path / "x.db") as engine:
        assert engine.dialect.name == newest
    assert engine.dialect is not Engine(dialect="0.5.0").dialect


TASKS: list[tuple[str, dict[str, Any]]] = [
    ("'sysbatch' is a type of job since Nomad 1.2.0", {"Type": "sysbatch"}),
    ("task 'web' of group 'g' has a Lifecycle", {"Lifecycle": {"Hook": "prestart"}}),
    ("task 'web' of group 'g' has a RestartPolicy of its own", {"RestartPolicy": {"Attempts": 1, "Mode": "fail"}}),
    ("task 'web' of group 'g' has a ShutdownDelay", {"ShutdownDelay": 5}),
]


@pytest.mark.parametrize("dialect", ["0.5.0", "0.5.6"])
@pytest.mark.parametrize(("sentence", "part"), TASKS, ids=[next(iter(part)) for _, part in TASKS])
def test_a_job_that_needs_another_nomad_is_refused_and_not_half_obeyed(dialect, sentence, part):
    engine = Engine(dialect=dialect)
    of_job, of_task = (part, {}) if "Type" in part else ({}, part)
    job = {"ID": "j", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "web", **of_task}]}], **of_job}

    with pytest.raises(Refused, match=sentence):
        engine.place({"ID": "a", "TaskGroup": "g", "Job": job})
    engine.place({"ID": "a", "TaskGroup": "g"})
    with pytest.raises(Refused, match=sentence):
        engine.update("a", {"Job": job})

    # What a server has taken already stays what it is, and the newest dialect ignores nothing.
    engine.place({"ID": "b", "TaskGroup": "g", "Job": {**job, "JobModifyIndex": 7}})
    Engine().place({"ID": "a", "TaskGroup": "g", "Job": job})


def test_the_documented_dialect_writes_what_is_documented():
    engine = Engine(dialect="0.5.0")
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
    with pytest.raises(UnknownTask, match="has no task 'new'"):
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


def test_an_append_has_one_index_and_its_repeats_are_left_out():
    engine = Engine(dialect="1.1.2", clock=ManualClock(7))

    first = engine.append(
        [
            Write(alloc="a", event=Placed(body=msgspec.Raw(b'{"JobID":"job"}')), id="p"),
            Write(alloc="a", task="web", event=ev.Received(), id="r", expected_version=1),
            Write(alloc="a", task="web", event=ev.Started(), expected_version=2),
        ]
    )
    again = engine.append(
        [
            Write(alloc="a", event=Placed(body=msgspec.Raw(b'{"JobID":"job"}')), id="p"),
            Write(alloc="a", task="web", event=ev.Received(), id="r", expected_version=1),
            Write(alloc="a", task="db", event=ev.Received(), id="s"),
        ]
    )

    assert [(record.seq, record.index, record.version) for record in first] == [(1, 1, 1), (2, 1, 2), (3, 1, 3)]
    assert again[:2] == [None, None]
    assert (again[2].seq, again[2].index, again[2].version) == (4, 2, 4)
    assert engine.task("a", "web").state == "running"


def test_an_append_is_refused_whole_and_tells_every_refusal():
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    engine.record("a", "web", ev.Received())
    before = engine.snapshot("a")

    with pytest.raises(
        AppendRefused, match=r"nothing was appended: write 1: task 'web' is pending.*\(and 5 more\)"
    ) as told:
        engine.append(
            [
                Write(alloc="a", task="web", event=ev.TaskSetup()),
                Write(alloc="a", task="web", event=ev.Signaling()),
                Write(alloc="b", task="web", event=ev.Started()),
                Write(alloc="a", event=Placed()),
                Write(alloc="a", event=ev.Started()),
                Write(alloc="a", task="web", event=ev.Started(), expected_version=2),
                Write(alloc="a", task="web", event=ev.Started(), expected_version=3),
                Write(alloc="a", event=Updated(fields={"ID": msgspec.Raw(b'"b"')})),
            ]
        )

    assert [(place, type(error)) for place, error in told.value.refusals] == [
        (1, IllegalEvent),
        (2, UnknownAllocation),
        (3, AlreadyPlaced),
        (4, Refused),
        (5, VersionConflict),
        (7, DecodeError),
    ]
    assert engine.snapshot("a") == before
    assert engine.index == 2


def test_indexes_are_the_engines_and_a_servers_write_moves_its_own():
    engine = Engine(dialect="1.1.2", clock=ManualClock(50))
    engine.place({"ID": "x"})
    engine.place({"ID": "a", "CreateIndex": 900, "ModifyIndex": 901, "AllocModifyIndex": 900, "TaskStates": {"t": {}}})

    def indexes():
        snapshot = engine.snapshot("a")
        return snapshot.create_index, snapshot.alloc_modify_index, snapshot.modify_index

    assert indexes() == (2, 2, 2)
    engine.record("a", "web", ev.Received())
    assert indexes() == (2, 2, 3)
    engine.update("a", {"DesiredStatus": "stop"})
    assert indexes() == (2, 4, 4)
    snapshot = engine.snapshot("a")
    assert (snapshot.create_time_ns, snapshot.desired_status, list(snapshot.tasks)) == (50, "stop", ["web"])
    for name in ("ID", "CreateIndex", "ModifyIndex", "AllocModifyIndex", "TaskStates"):
        with pytest.raises(DecodeError, match=rf"\$.{name}: follows from what is recorded"):
            engine.update("a", {name: 1})
    with pytest.raises(DecodeError, match="found none"):
        engine.update("a", {})


def test_an_engine_opens_a_log_that_keeps_irregular_events():
    log = MemoryLog("1.1.2")
    Engine(log).place({"ID": "a"})
    record = Record(index=2, alloc="a", version=2, task="web", time_ns=1, event=ev.Signaling(time_ns=1))
    log.append("a", 1, [record])

    engine = Engine(log)

    assert engine.task("a", "web").irregular == 1
    with pytest.raises(IllegalEvent):
        engine.record("a", "web", ev.Signaling())


def test_an_engine_mirrors_what_a_nomad_says():
    engine = Engine(dialect="1.1.2")
    source = Engine(dialect="1.1.2")
    source.place({"ID": "a", "JobID": "job"})
    for event in LIFE:
        source.record("a", "web", event)
        body = source.snapshot("a").to_json()
        engine.observe(observation_from_json(body))
        assert engine.observe(observation_from_json(body)) == [], "a repeat tells nothing new"
        assert engine.snapshot("a").to_json() == body
    assert engine.index == source.index
    engine.store._check()


def test_what_is_observed_together_is_written_together(tmp_path, monkeypatch):
    log = NdjsonLog(tmp_path / "log.jsonl", "1.1.2")
    engine = Engine(log)
    told = [observation_from_json(b'{"ID":"%b","JobID":"job","ModifyIndex":5}' % name) for name in (b"a", b"b")]

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(LogError):
            engine.observe(*told)
    assert len(engine.allocations()) == 0

    assert [record.index for record in engine.observe(*told)] == [5, 5]
    assert len(engine.allocations()) == 2
    engine.close()


def test_an_engine_is_opened_and_closed_by_its_file(tmp_path):
    path = tmp_path / "tasks.jsonl"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
    with pytest.raises(LogError, match="the engine is closed"):
        engine.record("a", "web", ev.Received())

    with Engine.open(path) as again:
        assert again.dialect.name == "1.1.2"
        assert again.snapshot("a").id == "a"
    with pytest.raises(LogError, match="a log ends in"):
        Engine.open(tmp_path / "tasks.txt")


def test_many_threads_write_and_exactly_one_wins_each_version():
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    rounds, writers = 40, 8
    wins = []
    barrier = threading.Barrier(writers)

    def race():
        for version in range(1, rounds + 1):
            barrier.wait(30)
            try:
                engine.record("a", "web", ev.Received(), expected_version=version)
                wins.append(version)
            except VersionConflict:
                pass

    threads = [threading.Thread(target=race) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(wins) == list(range(1, rounds + 1))
    engine.store._check()


def test_the_status_of_what_is_placed_follows_from_its_tasks():
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a", "ClientStatus": "pending", "ClientDescription": "not yet"})
    assert engine.snapshot("a").client_status == "pending"

    engine.record("a", "web", ev.Started())

    assert (engine.snapshot("a").client_status, engine.snapshot("a").client_description) == (
        "running",
        "Tasks are running",
    )
    engine.update("a", {"ClientStatus": "lost"})
    assert engine.snapshot("a").client_status == "lost"


@pytest.mark.parametrize("time_ns", [2**63, -(2**63) - 1, 10**40])
def test_a_time_that_the_wire_cannot_say_is_refused(time_ns):
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a"})

    with pytest.raises(DecodeError, match=r"\$.Time: expected unix nanoseconds in 64 bits"):
        engine.record("a", "web", ev.Started(), time_ns=time_ns)
    with pytest.raises(DecodeError, match=r"\$.Event.Time: expected unix nanoseconds"):
        engine.record("a", "web", ev.Started(time_ns=time_ns))
    for edge in (2**63 - 1, -(2**63)):
        engine.record("a", "web", ev.Received(time_ns=edge), time_ns=edge)
        engine.snapshot("a").to_json()


@pytest.mark.parametrize(
    ("name", "value"), [("JobID", 5), ("NodeID", ["n"]), ("CreateTime", "now"), ("Namespace", True)]
)
def test_a_field_of_a_wrong_type_is_refused(name, value):
    engine = Engine(dialect="1.1.2")
    with pytest.raises(DecodeError, match=rf"\$.{name}: "):
        engine.place({"ID": "a", name: value})
    engine.place({"ID": "a", name: None})

    with pytest.raises(DecodeError, match=rf"\$.{name}: "):
        engine.update("a", {name: value})
    assert engine.index == 1
