"""A group made by hand, and the order in which its tasks start."""

from __future__ import annotations

import random

import pytest

from support.deciding import NEW, Story, names
from support.jobs import SECOND, hooked
from taskfold import inputs
from taskfold.decision.group import Group, TaskPlan
from taskfold.decision.restart import default_policy, restarts_after_success
from taskfold.decision.rules import decide
from taskfold.effects import StartTask
from taskfold.errors import UnknownTask
from taskfold.fold.allocation import Allocation
from taskfold.model.dialect import DIALECTS, dialect_of
from taskfold.model.policy import RestartPolicy
from taskfold.model.record import Coordinated

POLICY = RestartPolicy(attempts=1, interval_ns=60 * SECOND, delay_ns=SECOND, mode="fail")

LATE = {
    "prestart-ephemeral": hooked("late", "prestart"),
    "prestart-sidecar": hooked("late", "prestart", sidecar=True),
    "main": "late",
    "poststart-ephemeral": hooked("late", "poststart"),
    "poststart-sidecar": hooked("late", "poststart", sidecar=True),
    "poststop": hooked("late", "poststop"),
}
"""A task of each stage."""

STARTS_AT_STEP = {
    "prestart": {"prestart-ephemeral", "prestart-sidecar"},
    "main": {"prestart-sidecar", "main"},
    "poststart": {"prestart-sidecar", "main", "poststart-ephemeral", "poststart-sidecar"},
    "wait": {"prestart-sidecar", "main", "poststart-sidecar"},
    "poststop": {"poststop"},
}
"""The stages whose tasks may start in each step. Source: client/allocrunner/tasklifecycle/coordinator.go."""


def group_at(step: str, late: str) -> Story:
    """Return a story of a group at a step, and of a task that is not placed yet."""
    first, after, last = hooked("first", "prestart"), hooked("after", "poststart"), hooked("last", "poststop")
    story = Story("main", first, after, last, LATE[late], Type="batch")
    if step == "prestart":
        story.say(inputs.PlacementReceived(), "first")
    else:
        story.say(inputs.PlacementReceived(), "main")
    if step == "poststart":
        story.say(inputs.PlacementReceived(), "after")
    if step == "poststop":
        story.say(inputs.PlacementReceived(), "last")
    if step in {"poststart", "wait", "poststop"}:
        story.say(inputs.ProcessStarted(), "main")
    if step == "poststop":
        story.say(inputs.Exited(exit_code=0), "main")
    assert story.engine.store.read("a").memory.stage == step
    return story


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("step", STARTS_AT_STEP)
def test_a_task_that_comes_late_starts_if_its_stage_is_open(step, late):
    placed = group_at(step, late).say(inputs.PlacementReceived(), "late")

    assert names(placed, StartTask) == (["late"] if late in STARTS_AT_STEP[step] else [])


def test_a_group_without_hooks_remembers_no_step():
    group = Group.of([TaskPlan(name="web", policy=POLICY)], NEW)

    step = decide(Allocation("a"), group, inputs.PlacementReceived(), now_ns=7, rng=random.Random(1))

    assert not group.has_hooks
    assert [write for write in step.writes if isinstance(write.event, Coordinated)] == []


def test_a_plan_made_by_hand_is_of_a_main_task_of_a_service():
    plan = TaskPlan(name="web", policy=POLICY)

    assert plan == TaskPlan(
        name="web",
        policy=POLICY,
        after_success=True,
        hook="",
        sidecar=False,
        leader=False,
        kill_timeout_ns=5 * SECOND,
        kill_signal="",
        shutdown_delay_ns=0,
    )


def test_a_group_made_by_hand_is_of_a_service_without_a_leader():
    for group in (Group(dialect=dialect_of(NEW)), Group.of([], NEW)):
        assert (group.job_type, dict(group.tasks), group.is_open) == ("service", {}, False)
        assert (group.leader, group.has_hooks, group.min_healthy_time_ns) == ("", False, 10 * SECOND)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_task_that_no_job_describes_is_a_service_by_default(dialect):
    plan = Group.of([], dialect).plan("web", is_recorded=True)

    assert (plan.name, plan.policy) == ("web", default_policy("service", dialect))
    assert plan.after_success == restarts_after_success("service", "", sidecar=False, dialect=dialect)


@pytest.mark.parametrize(("tasks", "told"), [((), "none"), (("web", "db"), "'web', 'db'")])
def test_a_task_that_a_group_has_not_is_refused_with_the_names_that_it_has(tasks, told):
    group = Group.of([TaskPlan(name=task, policy=POLICY) for task in tasks], NEW)

    with pytest.raises(UnknownTask, match=f"the group has no task 'typo'; it has {told}$"):
        group.plan("typo")
