"""A decision at work: it moves its copies of tasks as the fold moves the tasks, and leaves the allocation as it was."""

from __future__ import annotations

import random

import pytest

from taskfold.decision.decision import Decision, TaskInHand
from taskfold.decision.group import Group, TaskPlan
from taskfold.events import TaskEvent
from taskfold.fold.allocation import Allocation
from taskfold.fold.lifecycle import PENDING, STATES, lifecycle_of
from taskfold.fold.task import Task, evolve
from taskfold.model.dialect import DIALECTS
from taskfold.model.policy import RestartPolicy
from taskfold.model.record import Finished, Record

NOW_NS = 7
POLICY = RestartPolicy(attempts=1, interval_ns=60 * 10**9, delay_ns=10**9, mode="fail")


def decision_of(task: Task, dialect: str) -> Decision:
    group = Group.of([TaskPlan(name="web", policy=POLICY)], dialect)
    return Decision(Allocation("a", tasks={"web": task}), group, NOW_NS, random.Random(1))


CASES = [
    (dialect, state, kind)
    for dialect in DIALECTS
    for state in STATES
    for kind, rule in lifecycle_of(dialect).rules.items()
    if rule.targets[state] is not None
]


@pytest.mark.parametrize(("dialect", "state", "kind"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_decision_moves_a_task_as_the_fold_will(dialect, state, kind):
    task = Task(state=state, started_at_ns=3)
    before = task.freeze()
    decision = decision_of(task, dialect)
    in_hand = decision.task("web")

    if kind is Finished:
        decision.finish(in_hand)
    else:
        decision.emit(in_hand, kind(**({"fails_task": True} if "fails_task" in kind.__struct_fields__ else {})))

    [(_, event)] = decision.step().moves
    record = Record(index=1, alloc="a", version=1, task="web", time_ns=NOW_NS, event=event)
    after = evolve(before, record, lifecycle_of(dialect))
    assert moved(in_hand) == moved(after)
    assert task.freeze() == before
    assert decision.has_move == (after.state != state)


def moved(task: TaskInHand | object) -> tuple[object, ...]:
    names = ("state", "failed", "restarts", "last_restart_ns", "started_at_ns", "finished_at_ns")
    return tuple(getattr(task, name) for name in names)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_task_without_a_state_is_pending(dialect):
    assert decision_of(Task(state=""), dialect).task("web").state is PENDING


def test_an_event_that_the_dialect_lacks_is_left_out():
    lacking = set(lifecycle_of("1.1.2").rules) - set(lifecycle_of("0.5.0").rules)
    assert lacking
    for kind in lacking:
        assert issubclass(kind, TaskEvent)
        decision = decision_of(Task(), "0.5.0")
        decision.emit(decision.task("web"), kind())
        assert decision.step().events == ()
