"""What the process keeps of allocations that were collected: nothing that grows with their number but what it must.

A scheduler places, reports, collects and compacts at a constant number of live tasks. Everything that can be reached
from the engine is counted; it may not become more from one half of the run to the other.
"""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict, deque
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import pytest

from taskfold import Engine, ManualClock, Retention, inputs
from taskfold.fold.allocation import Fold
from taskfold.live.store import Store
from taskfold.run.supervisor import PROCESSES, Supervisor

SECOND = 1_000_000_000
ROUNDS = 40
TOO_MANY = 20
"""By how many entries a container may differ between two moments of a steady state."""

FOR_EVER = {
    # The versions of what was collected, since its ID is never given again; where to look for its last record.
    "x.jsonl": {"Ledger.versions", "Blocks._spans"},
    # The log itself is in memory, too.
    "": {"Ledger.versions", "Records._newest", "Records._pieces", "MemoryLog._by_allocation"},
    # A cache of what is in the database, which has a limit of its own.
    "x.db": {"_Lookups.versions", "_Lookups.ids"},
}
"""What grows with the number of all allocations that ever were, by the log's file, and why it must."""

_NOT_ENTERED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_CONTAINERS = (dict, list, set, deque, OrderedDict)


def held(root):
    """Return how many entries there are in the containers that an object leads to, by the attribute that has them."""
    counts: Counter[str] = Counter()
    seen = {id(root)}
    waiting = [(root, type(root).__name__)]
    while waiting:
        found, name = waiting.pop()
        if isinstance(found, _CONTAINERS):
            counts[name] += len(found)
            inner = found.values() if isinstance(found, dict) else found
            parts = [(part, f"{name}[]") for part in list(inner)]
        else:
            parts = [(part, f"{type(found).__name__}.{of}") for of, part in attributes(found)]
        for part, of in parts:
            is_entered = isinstance(part, _CONTAINERS) or gc.is_tracked(part)  # a dict of numbers is not tracked
            if is_entered and id(part) not in seen and not isinstance(part, _NOT_ENTERED):
                seen.add(id(part))
                waiting.append((part, of))
    return counts


def attributes(found):
    """Yield the attributes of an object, whatever holds them."""
    yield from getattr(found, "__dict__", {}).items()
    for cls in type(found).__mro__:
        slots = getattr(cls, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(found, name):
                yield name, getattr(found, name)


def scheduler(engine, first, rounds):
    """Have allocations come and go: those that end well, and those that are lost while a restart and a kill are due."""
    policy = {"Attempts": 5, "Interval": 1_000 * SECOND, "Delay": 50 * SECOND, "Mode": "fail"}
    group = {
        "Name": "g",
        "RestartPolicy": policy,
        "Tasks": [{"Name": "web"}, {"Name": "db", "KillTimeout": 9 * SECOND}],
    }
    job = {"ID": "job", "Type": "batch", "TaskGroups": [group]}
    for number in range(first, first + rounds):
        engine.clock.advance(SECOND)
        well, lost = f"well-{number}", f"lost-{number}"
        for alloc in (well, lost):
            engine.place({"ID": alloc, "JobID": f"job-{number}", "TaskGroup": "g", "Job": job, "NodeID": "n"})
            if number % 10 == 0:  # a machine of its own takes long to make
                engine.bind(alloc, "web", Model())
            engine.report(alloc, "", inputs.PlacementReceived(), id=f"{alloc}-placed")
            for task in ("web", "db"):
                engine.report(alloc, task, inputs.ProcessStarted(), id=f"{alloc}-{task}-started")
        for task in ("web", "db"):
            engine.report(well, task, inputs.Exited(exit_code=0))
        engine.report(lost, "web", inputs.Exited(exit_code=1))
        engine.report(lost, "db", inputs.RestartRequested())
        engine.update(lost, {"ClientStatus": "lost"})
        engine.due()
        assert engine._core.timers.get(lost, "web") is not None
        engine.collect(lost)
        engine.retain(Retention(keep=3))
        if number % 7 == 0:
            engine.compact()


class Model:
    """What a user binds to a task."""


@pytest.fixture(params=["", "x.db", "x.jsonl"])
def engine(request, tmp_path):
    clock = ManualClock(1_000 * SECOND)
    made = (
        Engine.open(tmp_path / request.param, dialect="1.1.2", clock=clock, seed=1)
        if request.param
        else Engine(dialect="1.1.2", clock=clock, seed=1)
    )
    made.file = request.param
    yield made
    made.close()


def test_nothing_is_kept_of_what_was_collected_but_what_must_be_known(engine):
    scheduler(engine, 0, ROUNDS)
    engine._check()
    before = held(engine)
    scheduler(engine, ROUNDS, ROUNDS)
    engine._check()
    after = held(engine)

    grown = {name: (before[name], count) for name, count in after.items() if count > before[name] + TOO_MANY}
    assert grown.keys() <= FOR_EVER[engine.file], grown
    assert len(engine.store.fold) == 3
    assert len(engine._core.timers) == 0
    assert engine.next_due() is None


def test_a_view_keeps_what_it_has_not_read_yet_and_nothing_else():
    engine = Engine(dialect="1.1.2")
    for number in range(200):
        engine.place({"ID": f"{number:04}"})
    listing = engine.store.listing()
    states = listing.states()
    first = next(states)
    for number in range(200):
        engine.update(f"{number:04}", {"NodeID": "n"})
        engine.place({"ID": f"{number:04}-new"})

    assert len(listing._states) == 200 - 64, "the first 64 were read together"
    rest = list(states)
    assert [state.id for state in (first, *rest)] == [f"{number:04}" for number in range(200)]
    assert all(not state.updates for state in rest)


def test_views_that_nobody_reads_share_one_state_of_what_changes_however_often_it_does():
    engine = Engine(dialect="1.1.2")
    for number in range(50):
        engine.place({"ID": f"{number:04}", "JobID": f"job{number % 10}"})
    listings = [engine.store.listing() for _ in range(20)]
    for turn in range(5):
        for number in range(50):
            engine.update(f"{number:04}", {"NodeID": f"n{turn}"})

    kept = {id(state) for listing in listings for state in listing._states.values()}

    assert len(kept) == 50
    assert all(len(listing._states) == 50 for listing in listings)
    expected = [f"{number:04}" for number in range(50)]
    assert all([state.id for state in listing.states() if not state.updates] == expected for listing in listings)


def test_a_view_of_a_job_keeps_nothing_of_other_jobs():
    engine = Engine(dialect="1.1.2")
    for number in range(50):
        engine.place({"ID": f"{number:04}", "JobID": f"job{number % 10}"})
    listings = [engine.store.listing(job=f"job{number % 10}") for number in range(20)]
    for number in range(50):
        engine.update(f"{number:04}", {"NodeID": "n"})
        engine.place({"ID": f"{number:04}-new", "JobID": f"job{number % 10}"})

    assert [len(listing._states) for listing in listings] == [5] * 20
    assert not any(listing._ahead for listing in listings)


def test_what_is_known_of_what_views_keep_is_bounded(monkeypatch):
    monkeypatch.setattr("taskfold.live.store._KEPT_KNOWN", 8)
    engine = Engine(dialect="1.1.2")
    for number in range(50):
        engine.place({"ID": f"{number:04}"})
    listing = engine.store.listing()
    for number in range(50):
        engine.update(f"{number:04}", {"NodeID": "n"})
        assert len(engine.store._unwanted) <= 8

    assert all(not state.updates for state in listing.states())


def test_a_log_is_opened_without_keeping_what_was_collected_meanwhile(engine, monkeypatch):
    class Counting(Fold):
        most = 0

        def apply(self, record):
            super().apply(record)
            Counting.most = max(Counting.most, len(self.allocations))

    scheduler(engine, 0, ROUNDS)
    monkeypatch.setattr("taskfold.live.core.Fold", Counting)

    again = Store(engine.store.log)

    again._check()
    assert again.fold.allocations.keys() == engine.store.fold.allocations.keys()
    assert 3 <= Counting.most <= 6


def test_a_supervisor_forgets_what_was_collected(tmp_path):
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a", "JobID": "job", PROCESSES: {}})
    engine.update("a", {"ClientStatus": "complete"})
    supervisor = Supervisor(engine, tmp_path)
    assert supervisor.allocations == {"a"}

    engine.collect("a")

    assert supervisor.allocations == set()
    assert supervisor.place({"ID": "job", "TaskGroups": []}) == []
