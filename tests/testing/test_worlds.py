"""Worlds and faulty logs: the same seed gives the same log, whatever happens is recorded, and nothing is lost."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import msgspec
import pytest

from taskfold import Engine, Fold, LogError, MemoryLog, VersionConflict, events, inputs
from taskfold.events import wire_type
from taskfold.testing import FaultyLog, Run, World, history_of

SECOND = 10**9
POLICY = {"Attempts": 2, "Interval": 3600 * SECOND, "Delay": SECOND, "Mode": "fail"}
FAILS = Run(after_ns=3 * SECOND, exit_code=1)
ENDS_WELL = Run(after_ns=SECOND)


def job(*tasks, kind="batch", policy=POLICY):
    named = [task if isinstance(task, dict) else {"Name": task} for task in tasks]
    group = {"Name": "group", "RestartPolicy": policy, "Tasks": named}
    return {"ID": "example", "Type": kind, "TaskGroups": [group]}


def types(world, task="web", place=0):
    records = world.engine.history(world.allocs[place], task)
    return [wire_type(record.event) for record in records if isinstance(record.event, events.TaskEvent)]


def digest(world):
    text = b"".join(msgspec.json.encode(record) for record in world.log.read_all())
    return hashlib.sha256(text).hexdigest()


def test_a_script_says_how_each_run_of_a_task_goes():
    world = World(job("web"), scripts={"web": [FAILS, FAILS, ENDS_WELL]})
    world.run_until_idle()

    assert types(world) == ["Received", *["Started", "Terminated", "Restarting"] * 2, "Started", "Terminated"]
    assert world.engine.snapshot(world.allocs[0]).client_status == "complete"
    assert world.collected == {*world.allocs}


def test_a_task_fails_when_its_script_fails_more_often_than_the_policy_allows():
    world = World(job("web"), scripts={"web": [FAILS]})
    world.run_until_idle()

    assert types(world)[-1] == "Not Restarting"
    assert world.engine.snapshot(world.allocs[0]).client_status == "failed"


def test_a_start_that_fails_is_reported_as_the_driver_says_it():
    world = World(job("web"), scripts={"web": [Run(fails_to_start="no such image"), ENDS_WELL]})
    world.run_until_idle()

    assert "Driver Failure" in types(world)


def test_a_stop_kills_who_listens_at_once_and_others_when_their_time_is_over():
    scripts = {"web": [Run()], "stubborn": [Run(ignores_kill=True)]}
    world = World(job("web", "stubborn", kind="service"), scripts=scripts)
    world.run_for(10 * SECOND)
    world.report(world.allocs[0], "", inputs.StopRequested())
    began_ns = world.clock.time_ns()
    world.run_until_idle()

    assert [types(world, task)[-1] for task in scripts] == ["Killed", "Killed"]
    assert world.clock.time_ns() - began_ns == 5 * SECOND


def test_the_same_seed_gives_the_same_log_byte_for_byte_in_any_process():
    script = (
        "import hashlib, msgspec; from taskfold.testing import World;"
        f"world = World({job('web', 'db', kind='service')!r}, seed=7, count=3, failure_rate=0.5);"
        "world.run_for(86_400 * 10**9);"
        "text = b''.join(msgspec.json.encode(record) for record in world.log.read_all());"
        "print(hashlib.sha256(text).hexdigest())"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    world = World(job("web", "db", kind="service"), seed=7, count=3, failure_rate=0.5)
    world.run_for(86_400 * SECOND)

    assert digest(world) == ran.stdout.strip()
    other = World(job("web", "db", kind="service"), seed=8, count=3, failure_rate=0.5)
    other.run_for(86_400 * SECOND)
    assert digest(other) != digest(world)


@pytest.mark.parametrize("dialect", ["0.5.6", "1.1.2"])
@pytest.mark.parametrize("processes_survive", [True, False])
@pytest.mark.parametrize("seconds", [0, 0.02, 1, 3.01, 3.5, 10])
def test_a_crash_loses_nothing_and_the_world_comes_to_its_end(dialect, processes_survive, seconds):
    world = World(job("web"), scripts={"web": [FAILS, ENDS_WELL]}, dialect=dialect)
    world.run_for(int(seconds * SECOND))
    before = list(world.log.read_all())
    world.crash(processes_survive=processes_survive)
    world.run_until_idle()

    assert list(world.log.read_all())[: len(before)] == before
    assert world.engine.task(world.allocs[0], "web").state == "dead"
    assert types(world)[-1] == "Terminated"
    world._check()


def test_a_message_that_is_lost_is_told_after_the_next_crash():
    world = World(job("web"), scripts={"web": [ENDS_WELL]})
    world.lose(2)
    world.run_until_idle()
    assert (types(world), world.dropped) == (["Received"], 2)

    world.crash()
    world.run_until_idle()

    assert types(world) == ["Received", "Started", "Terminated"]


def test_what_goes_on_for_ever_is_told():
    world = World(job("web", kind="service"), scripts={"web": [ENDS_WELL]}, seed=1)
    forever = World(
        job("web", kind="service", policy=POLICY | {"Mode": "delay", "Attempts": 1}), scripts={"web": [FAILS]}
    )
    world.run_until_idle()
    with pytest.raises(AssertionError, match="it is not idle after 86400 s"):
        forever.run_until_idle(limit_ns=86_400 * SECOND)


# --- logs that fail ---


def test_an_append_that_is_refused_changes_nothing_and_the_next_one_goes_on():
    faulty = FaultyLog(MemoryLog("1.1.2"), {2: "refuse", 3: "conflict"})
    engine = Engine(faulty)
    engine.place({"ID": "a"})

    with pytest.raises(LogError, match="append 2: the log was told to refuse it"):
        engine.record("a", "web", events.Received())
    with pytest.raises(VersionConflict):
        engine.record("a", "web", events.Received())
    engine.record("a", "web", events.Received())

    assert [record.version for record in faulty.log.read_all()] == [1, 2]
    engine._check()


def test_what_was_acknowledged_too_late_is_there_once():
    faulty = FaultyLog(MemoryLog("1.1.2"), {2: "late"})
    engine = Engine(faulty)
    engine.place({"ID": "a"})

    with pytest.raises(LogError, match="acknowledge it too late"):
        engine.record("a", "web", events.Received(), id="one")
    again = Engine(faulty.log)
    again.record("a", "web", events.Received(), id="one")

    fold = Fold("1.1.2")
    fold.apply_all(faulty.log.read_all())
    assert [wire_type(event) for event in fold["a"].tasks["web"].events] == ["Received"]


def test_a_slow_append_is_written_after_what_happens_meanwhile():
    meanwhile = []
    faulty = FaultyLog(
        MemoryLog("1.1.2"),
        lambda number: "slow" if number == 2 else None,
        on_slow=lambda: meanwhile.append(faulty.log.seq),
    )
    engine = Engine(faulty)
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Received())

    assert (meanwhile, faulty.log.seq) == ([1], 2)


# --- bad input ---

GROUP = {"Name": "group", "Tasks": [{"Name": "web"}]}
GOOD = {"ID": "example", "TaskGroups": [GROUP]}


@pytest.mark.parametrize(
    ("bad", "missing"),
    [
        ({}, "there is no ID"),
        ({"ID": "example"}, "there is no TaskGroups"),
        ({"ID": "example", "TaskGroups": []}, "there is no TaskGroups"),
        ({"ID": "example", "TaskGroups": [{}]}, "TaskGroups[0] has no Name"),
        ({"ID": "example", "TaskGroups": [GROUP, {"Name": "other"}]}, "there is no TaskGroups[1].Tasks"),
        ({"ID": "example", "TaskGroups": [{"Name": "group", "Tasks": [{}]}]}, "TaskGroups[0].Tasks[0] has no Name"),
    ],
)
def test_a_world_says_what_its_job_needs_and_what_is_missing(bad, missing):
    with pytest.raises(ValueError, match="a job needs an ID and TaskGroups; each group a Name and Tasks") as error:
        World(bad)

    assert str(error.value).endswith(missing)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: World(GOOD, scripts={"db": []}), "the job has no task 'db' for a script: it has web"),
        (lambda: World(GOOD, failure_rate=20), "a failure rate is a number from 0 to 1, not 20"),
        (lambda: Run(after_ns=-1), "a process runs 0 ns or longer, not -1"),
        (lambda: FaultyLog(MemoryLog("1.1.2"), {0: "late"}), "appends count from 1"),
        (lambda: FaultyLog(MemoryLog("1.1.2"), {1: "lost"}), "faults are refuse, conflict, late, slow"),
        (lambda: history_of([1], "1.1.2", tasks=[]), "a history has one task at least"),
        (lambda: history_of([-1], "1.1.2"), "a choice is a number from 0 to 16383, not -1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()
