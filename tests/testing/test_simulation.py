"""The simulated cluster: a seed gives the same records anywhere, and what is broken is seen, and made small."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from support.command_line import run
from taskfold import Core, Fold, LogError, MemoryLog, effects, events, inputs
from taskfold.decision import decision, nomad_0_9
from taskfold.live import core
from taskfold.testing import INVARIANTS, FaultyLog, Simulation, counterexample_of
from taskfold.testing import invariants as checks
from taskfold.testing import simulation as simulated
from taskfold.testing.counterexamples import smallest
from taskfold.testing.coverage import Reached, watched

GUIDE = Path(__file__).parents[2] / "docs/testing.md"
SCRIPT = """
import hashlib, msgspec
from taskfold import MemoryLog
from taskfold.testing import Simulation
log = MemoryLog("1.1.2")
print(Simulation(allocations=12, seed=7, hours=0.5, log=log).run())
print(hashlib.sha256(b"".join(msgspec.json.encode(record) for record in log.read_all())).hexdigest())
"""


def digest(log):
    return hashlib.sha256(b"".join(msgspec.json.encode(record) for record in log.read_all())).hexdigest()


@pytest.mark.parametrize("dialect", ["0.5.0", "0.5.6", "1.1.2"])
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_broken_in_a_cluster_that_has_every_trouble(dialect, seed):
    with watched(Reached()) as reached:
        summary = Simulation(allocations=30, seed=seed, hours=1, dialect=dialect).run()

    assert summary.violations == ()
    assert min(summary.restarts, summary.deaths, summary.crashes, summary.lost, summary.repeated) > 0
    for kind, least in (("transitions", 35), ("inputs", 45), ("effects", 100), ("restarts", 50)):
        assert reached.percent(kind, dialect) >= least, kind


def test_the_same_seed_gives_the_same_records_byte_for_byte_in_any_process():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    log = MemoryLog("1.1.2")
    summary = Simulation(allocations=12, seed=7, hours=0.5, log=log).run()

    assert outputs == {f"{summary}\n{digest(log)}\n"}
    other = MemoryLog("1.1.2")
    Simulation(allocations=12, seed=8, hours=0.5, log=other).run()
    assert digest(other) != digest(log)


def test_a_log_gets_every_record_and_folds_to_what_the_engine_has():
    log = MemoryLog("1.1.2")
    simulation = Simulation(allocations=12, seed=7, hours=0.5, log=log)
    summary = simulation.run()

    fold = Fold("1.1.2")  # which refuses what the table refuses
    fold.apply_all(log.read_all())
    assert log.seq == summary.records == simulation.core.seq
    assert {alloc: fold[alloc] for alloc in simulation.core} == {
        alloc: simulation.core.read(alloc) for alloc in simulation.core
    }


def test_a_log_that_cannot_be_written_ends_it_with_its_error():
    with pytest.raises(LogError, match="append 1: the log was told to refuse it"):
        Simulation(allocations=12, seed=7, hours=0.5, log=FaultyLog(MemoryLog("1.1.2"), {1: "refuse"})).run()


def test_what_cannot_be_simulated_is_refused():
    log = MemoryLog("1.1.2")
    Simulation(allocations=1, seed=7, hours=0.1, log=log).run()

    with pytest.raises(ValueError, match=r"the log has [\d,]+ records already: begin another one"):
        Simulation(log=log)
    with pytest.raises(ValueError, match="at least one allocation, not 0"):
        Simulation(allocations=0)
    with pytest.raises(ValueError, match="more than 0 hours"):
        Simulation(hours=float("nan"))
    with pytest.raises(ValueError, match=r"the log is of dialect 1\.1\.2, not 0\.5\.6"):
        Simulation(dialect="0.5.6", log=MemoryLog("1.1.2"))


def test_what_happens_in_a_place_is_the_same_whatever_else_there_is():
    def life(**choice):
        log = MemoryLog("1.1.2")
        Simulation(allocations=20, seed=3, hours=1, log=log, **choice).run()
        return [
            replace(record, seq=0, index=0, event=None if record.version == 1 else record.event)
            for record in log.read_all()
            if record.alloc.startswith("00000005")
            and not isinstance(record.event, simulated.Collected)
            and b"AllocModifyIndex" not in msgspec.json.encode(record)
        ]

    assert len(life()) > 20
    assert life(only=[5]) == life() == life(only=[5, 6, 11])


# --- what is broken is seen ---


def tampered(records, cls, event):
    """Return records, with another event in place of those of a class."""
    return [replace(record, event=event) if isinstance(record.event, cls) else record for record in records]


def each_moment(change):
    """Return a fault: something is changed in the state of the tasks of each step."""

    def plant(patch):
        keep = Simulation._keep

        def changed(self, records):
            for record in records:
                if record.task:
                    change(self.core.find(record.alloc).tasks[record.task])
            keep(self, records)

        patch.setattr(Simulation, "_keep", changed)

    return plant


def in_place_of(owner, name, make):
    """Return a fault: a function is another one, which is made of it."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def start_of_the_dead(exited):
    def start_again(self, task, exit):
        exited(self, task, exit)
        if task.is_dead:
            self.owe_start(task, self.now_ns)

    return start_again


def life_after_death(emit):
    return lambda self, task, event: emit(
        self, task, events.Started() if task.is_dead and isinstance(event, events.Killing) else event
    )


def without_the_newest(restore):
    def restore_less(self):
        del self._tail[-1:]
        restore(self)

    return restore_less


def deaf(send):
    return lambda self, allocation, task, report, *rest: (
        None if isinstance(report, inputs.Exited) else send(self, allocation, task, report, *rest)
    )


def never_collected(step):
    def step_less(self):
        whole = step(self)
        effects_left = tuple(one for one in whole.effects if not isinstance(one, effects.ReleaseResources))
        return replace(whole, effects=effects_left)

    return step_less


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "answers": in_place_of(core, "decide_all", lambda _: lambda *_, **__: {}["nothing"]),
    "order": in_place_of(Core, "ready", lambda ready: lambda self: [replace(one, index=1) for one in ready(self)]),
    "legal": in_place_of(
        Core, "ready", lambda ready: lambda self: tampered(ready(self), events.Terminated, events.Received())
    ),
    "dead": in_place_of(decision.Decision, "emit", life_after_death),
    "policy": in_place_of(
        decision,
        "decide_restart",
        lambda decide: (
            lambda policy, *rest, **named: decide(replace(policy, attempts=policy.attempts + 1), *rest, **named)
        ),
    ),
    "ring": each_moment(lambda task: setattr(task, "slots", task.slots[1:])),
    "fold": each_moment(lambda task: setattr(task, "restarts", 7)),
    "siblings": in_place_of(nomad_0_9.Nomad09, "_doom", lambda _: lambda _: None),
    "stop": in_place_of(nomad_0_9.Nomad09, "stop", lambda _: lambda _: None),
    "hooks": in_place_of(nomad_0_9, "next_step", lambda _: lambda _, __: "main"),
    "starts": in_place_of(nomad_0_9.Nomad09, "exited", start_of_the_dead),
    "owed": in_place_of(decision.Decision, "start", lambda _: lambda self, task: self.owe_start(task, self.now_ns)),
    "timers": in_place_of(Core, "plan", lambda _: lambda *_: None),
    "collect": in_place_of(decision.Decision, "step", never_collected),
    "snapshot": in_place_of(
        checks.Snapshot, "to_json", lambda write: lambda *rest: write(*rest).replace(b'"running"', b'"pending"')
    ),
    "restored": in_place_of(Simulation, "_restore", without_the_newest),
    "rest": in_place_of(Simulation, "_send", deaf),
}
"""For each invariant something that breaks it: in the engine, in its data, or in what drivers report."""


def test_there_is_a_fault_for_every_invariant():
    assert FAULTS.keys() == INVARIANTS.keys()


@pytest.mark.parametrize("name", INVARIANTS)
def test_an_invariant_that_is_broken_is_seen(name, monkeypatch):
    FAULTS[name](monkeypatch)

    (violation,) = Simulation(allocations=24, seed=2, hours=1).run().violations

    assert violation.invariant == name, violation


@pytest.mark.parametrize(
    ("seed", "kind", "text"),
    [
        (4, effects.StartTask, "its start is owed since"),
        (7, effects.KillTask, "its kill was owed, and is not owed after a crash"),
    ],
)
def test_what_is_not_owed_again_after_a_crash_is_seen(seed, kind, text, monkeypatch):
    def restore_less(self, now_ns, *, rng):
        return [
            replace(step, effects=tuple(one for one in step.effects if not isinstance(one, kind)))
            for step in restore(self, now_ns, rng=rng)
        ]

    restore = Core.restore
    monkeypatch.setattr(Core, "restore", restore_less)

    (violation,) = Simulation(allocations=60, seed=seed, hours=1).run().violations

    assert violation.invariant == "owed"
    assert text in violation.text


# --- made small ---


@given(st.sets(st.integers(0, 60), max_size=4), st.integers(0, 60))
def test_the_smallest_part_that_breaks_is_what_breaks(needed, size):
    items = list(range(max([size, *needed]) + 1))

    assert smallest(items, lambda some: needed <= set(some)) == sorted(needed)


def test_a_failing_seed_is_made_small_and_its_commands_show_it_again(monkeypatch):
    def fail(*_):
        raise LookupError("nothing is ever started again")

    monkeypatch.setattr(nomad_0_9.Nomad09, "restart_asked", fail)
    simulation = Simulation(allocations=20, seed=4, hours=1)
    (violation,) = simulation.run().violations
    least = counterexample_of(simulation, violation)

    assert violation.invariant == "answers"
    (place,), (number,) = least.places, least.operations
    (operation,) = [one for one in simulation.operations if one.number == number]
    assert (operation.kind, operation.target) == ("restart", place)
    for command in (least.command, least.smallest):
        result = run(*command.split()[1:])
        assert result.exit_code == 1
        assert "violation of answers: " in result.stdout
        assert least.smallest in result.stdout
    assert "allocation  PlacementReceived()  ->  " in result.stdout


# --- the guide ---


def test_the_guide_lists_every_invariant():
    table = re.findall(r"^\| `([a-z]+)` \| (.*) \| (.*) \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = {name: (text, when) for name, text, when in table if name in INVARIANTS}

    assert rows == {name: (one.text, one.when) for name, one in INVARIANTS.items()}
