"""Python's garbage collector has as much to look at with many allocations as with few: it would stop an engine."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from taskfold import Engine, ManualClock, Retention, events, inputs
from taskfold.log.memory import MemoryLog
from taskfold.model.record import Write
from taskfold.model.texts import MESSAGES

SECOND = 1_000_000_000
POLICY = {"Attempts": 5, "Interval": 1_000 * SECOND, "Delay": 50 * SECOND, "Mode": "fail"}
GROUP = {"Name": "g", "RestartPolicy": POLICY, "Tasks": [{"Name": "web"}, {"Name": "db"}]}


def live(engine, first, count):
    """Place allocations, and bring each to where a restart is due."""
    for number in range(first, first + count):
        alloc = f"a{number:05}"
        job = {"ID": f"job{number // 10}", "Type": "service", "TaskGroups": [GROUP]}
        engine.place({"ID": alloc, "JobID": job["ID"], "NodeID": f"n{number % 7}", "TaskGroup": "g", "Job": job})
        engine.report(alloc, "", inputs.PlacementReceived(), id=f"{alloc}-placed")
        for task in ("web", "db"):
            engine.report(alloc, task, inputs.ProcessStarted())
        engine.report(alloc, "web", inputs.Exited(exit_code=1))
        note = events.Driver(driver_message=f"note of {alloc}")
        engine.append([Write(alloc=alloc, task="db", event=note)] * 20)
        engine.update(alloc, {"NodeName": "node"})


def tracked():
    """Return how many objects of each type the collector looks at."""
    for _ in range(3):
        gc.collect()  # a tuple of tuples is looked at once more than those in it
    return Counter(type(found).__name__ for found in gc.get_objects())


@pytest.mark.parametrize("name", ["", "x.db", "x.jsonl"])
def test_what_the_collector_looks_at_does_not_grow_with_the_allocations(tmp_path, name):
    clock = ManualClock(1_000 * SECOND)
    engine = Engine(clock=clock) if not name else Engine.open(tmp_path / name, clock=clock)
    live(engine, 0, 20)
    before = tracked()

    live(engine, 20, 120)

    grown = {kind: count - before[kind] for kind, count in tracked().items() if count > before[kind] + 100}
    grown.pop("ReferenceType", None)  # a connection of sqlite3 keeps some 200 of them, to cursors of before
    assert grown == {}
    assert len(engine._core.timers) == 140
    engine._check()
    engine.close()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 31, 32, 33, 100, 5_000])
def test_a_log_in_memory_gives_back_what_it_was_given_from_any_place(count):
    log = MemoryLog()
    engine = Engine(log)
    engine.place({"ID": "other"})
    engine.place({"ID": "a"})
    records = list(log.read_all())
    while len(records) < count + 1:
        records.append(engine.record("a", "web", events.Received()))
    of_a = [record for record in records if record.alloc == "a"]

    assert list(log.read_all()) == records
    places = {0, 1, count // 2, *range(max(count - 35, 0), count + 2), 1_023, 1_024, 1_025, 2_048, 2_049}
    for place in places:
        assert list(log.read_all(place)) == records[place:]
        assert list(log.read("a", place)) == of_a[place:]


def test_a_log_in_memory_that_is_read_while_it_grows_gives_each_record_once():
    engine = Engine()
    engine.place({"ID": "a"})
    for _ in range(1_022):
        engine.record("a", "web", events.Received())
    reading = engine.store.log.read_all()
    seen = [next(reading).seq]
    for _ in range(1_030):
        engine.record("a", "web", events.Received())

    seen += [record.seq for record in reading]

    assert seen == list(range(1, 1_024)), "what was there when the reading began"
    assert [record.seq for record in engine.store.log.read_all()] == list(range(1, 2_054))


def test_what_a_compaction_leaves_of_a_log_in_memory_is_read_from_any_place():
    engine = Engine(clock=ManualClock(1_000 * SECOND))
    for number in range(60):
        engine.place({"ID": f"a{number}"})
        for _ in range(40):
            engine.record(f"a{number}", "web", events.Received())
        engine.update(f"a{number}", {"ClientStatus": "complete"})
    engine.retain(Retention(keep=10))
    before = {alloc: engine.history(alloc) for alloc in engine.allocations().ids}

    assert engine.compact() == 50 * 42

    assert {alloc: engine.history(alloc) for alloc in before} == before
    log = engine.store.log
    kept = list(log.read_kept())
    assert len(kept) == 10 * 42 + 50
    for record in kept:
        assert next(log.read_kept(record.seq - 1)) == record


def test_equal_texts_of_events_are_one_object_and_long_ones_are_dropped():
    engine = Engine()
    engine.place({"ID": "a"})
    for message in ("Exit Code: 1", "x" * 300):
        for task in ("web", "db"):
            engine.record("a", task, events.Received())
            engine.record("a", task, events.Started())
            engine.record("a", task, events.Terminated(message=message))
            engine.record("a", task, events.Restarting())
    tasks = engine.snapshot("a").tasks
    texts = [[e.message for e in tasks[name].events if isinstance(e, events.Terminated)] for name in ("web", "db")]

    assert texts[0] == texts[1]
    assert texts[0][0] is texts[1][0]
    assert "x" * 300 not in MESSAGES


def test_the_texts_that_are_remembered_are_bounded():
    engine = Engine()
    engine.place({"ID": "a"})
    for number in range(1_500):
        engine.record("a", "web", events.Driver(driver_message=f"note {number}"))

    assert len(MESSAGES) <= 1_024
