"""A fold beside the model: one in a process of its own passes, and each of its planted faults is found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import traceback
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from support.machines import QUICK, SPARE
from taskfold import Fold, IllegalEvent, Snapshot
from taskfold.events import Restarting
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import Finished, Record
from taskfold.testing import Deviation, LifecycleMachine
from taskfold.testing.lifecycle_machine import Happening

SCRIPT = Path(__file__).parents[1] / "support" / "toy_fold.py"
FEW = settings(QUICK, max_examples=60, stateful_step_count=20)


class FoldProcess:
    """A fold in a process of its own."""

    def __init__(self, fault=""):
        command = [sys.executable, "-I", "-S", str(SCRIPT), *([fault] if fault else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def apply(self, record):
        self.process.stdin.write(f"{record}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def run(fold, examples=60, **more):
    machine = type("Machine", (LifecycleMachine,), {"dialect": "1.1.2", "make_fold": lambda _: fold, **more})
    run_state_machine_as_test(machine, settings=settings(FEW, max_examples=examples))


def test_a_fold_in_another_process_that_is_right_passes():
    with FoldProcess() as fold:
        run(fold)


FAULTS = [
    ("the dead stay dead", "event", 2),
    ("everything is legal", "event", 1),
    ("a default is forgotten", "Failed", 1),
    ("nine events", "Events[0].Time", 10),
    ("restarts are not counted", "Restarts", 2),
    ("starts again and again", "StartedAt", 2),
    ("the end moves", "FinishedAt", 2),
]


@pytest.mark.parametrize(("fault", "key", "steps"), FAULTS, ids=[fault for fault, _, _ in FAULTS])
def test_a_fault_is_found_and_told_in_the_fewest_events(fault, key, steps):
    with FoldProcess(fault) as fold, pytest.raises(Deviation) as deviation:
        run(fold, 5000)

    assert key in {each.field for each in deviation.value.fields}
    assert steps <= len(deviation.value.steps) <= steps + SPARE
    assert len("".join(traceback.format_exception_only(deviation.value)).splitlines()) <= 40


def test_a_deviation_says_which_keys_and_after_which_events():
    with FoldProcess("restarts are not counted") as fold:
        machine = type("Machine", (LifecycleMachine,), {"dialect": "1.1.2", "make_fold": lambda _: fold})()
        machine.place()
        machine.happen(Happening("web", Finished()))
        with pytest.raises(Deviation) as deviation:
            machine.happen(Happening("web", Restarting(time_ns=10**9, restart_reason="Restart within policy")))

    assert str(deviation.value) == (
        "the fold deviates from the model (1.1.2)\n"
        "  web Restarts: model 1, fold nothing\n"
        "after\n"
        "  <web: Finished>\n"
        "  <web: Restarting {'RestartReason': 'Restart within policy'}>"
    )


class ScriptedFold:
    """A fold that answers always the same."""

    def __init__(self, answer):
        self.answer = answer

    def apply(self, record):  # noqa: ARG002
        return self.answer


@pytest.mark.parametrize("answer", ["", "Traceback (most recent call last):"])
def test_a_fold_that_does_not_answer_with_json_is_told_so(answer):
    with pytest.raises(Deviation, match=rf" answer: model 'JSON', fold '{re.escape(answer)}'"):
        run(ScriptedFold(answer))


class FoldOfTaskfold:
    """taskfold itself as a fold."""

    def __init__(self, dialect):
        self.dialect = dialect
        self.fold = Fold(dialect)
        self.refusals = 0

    def apply(self, line):
        record = msgspec.json.decode(line, type=Record)
        try:
            self.fold.apply(record)
        except IllegalEvent:
            self.refusals += 1
            return "null"
        body = json.loads(Snapshot.of(self.fold[record.alloc], self.dialect).to_json())
        return json.dumps((body.get("TaskStates") or {}).get(record.task))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_fold_of_taskfold_does_what_the_model_does(dialect):
    fold = FoldOfTaskfold(dialect)
    run(fold, dialect=dialect, ignored_keys=frozenset())

    assert fold.refusals


def test_a_fold_that_refuses_nothing_is_never_given_what_is_illegal():
    fold = FoldOfTaskfold("1.1.2")
    run(fold, tries_illegal=False)

    assert not fold.refusals


def test_a_machine_that_does_not_say_how_a_fold_is_made_is_told_what_to_write():
    with pytest.raises(NotImplementedError, match="def make_fold"):
        run_state_machine_as_test(LifecycleMachine, settings=FEW)
