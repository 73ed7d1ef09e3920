"""The lifecycle of a group: which of its tasks may start, stage by stage.

A task belongs to a stage by its hook (`TaskPlan.stage`); the group as a whole goes through the steps of `STEPS`, from
which it moves on when what it waits for has come. It never goes back: a main task that is started again keeps the group
where it is. Source: client/allocrunner/tasklifecycle/coordinator.go (since Nomad 0.11.0, in this form since 1.3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from taskfold.decision.group import TaskPlan
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING

__all__ = ["FIRST", "LAST", "STEPS", "Staged", "next_step"]


class Staged(Protocol):
    """What the steps look at of a task."""

    plan: TaskPlan
    state: str
    failed: bool


class StepOfGroup(NamedTuple):
    """A step of a group's lifecycle."""

    allowed: frozenset[str]
    """The stages whose tasks may start."""
    is_over: Callable[[Sequence[Staged]], bool]
    """Tells whether the group moves on."""
    next: str


FIRST: Final = "prestart"
LAST: Final = "poststop"


def _of(tasks: Sequence[Staged], *stages: str) -> list[Staged]:
    return [task for task in tasks if task.plan.stage in stages]


def _has_prepared(tasks: Sequence[Staged]) -> bool:
    """Every task before the main ones has ended well, or runs as a sidecar."""
    return all(
        task.state == RUNNING if task.plan.sidecar else task.state == DEAD and not task.failed
        for task in _of(tasks, "prestart-ephemeral", "prestart-sidecar")
    )


def _has_begun(tasks: Sequence[Staged]) -> bool:
    """No main task waits to be started."""
    return all(task.state != PENDING for task in _of(tasks, "main"))


def _has_followed(tasks: Sequence[Staged]) -> bool:
    """Tell whether what runs once after the start of the main tasks is over, well or not."""
    return all(task.state == DEAD for task in _of(tasks, "poststart-ephemeral"))


def _never(_: Sequence[Staged]) -> bool:
    """Stay: the group waits for the end of all, which `next_step` knows."""
    return False


STEPS: Final = {
    FIRST: StepOfGroup(frozenset({"prestart-ephemeral", "prestart-sidecar"}), _has_prepared, "main"),
    "main": StepOfGroup(frozenset({"prestart-sidecar", "main"}), _has_begun, "poststart"),
    "poststart": StepOfGroup(
        frozenset({"prestart-sidecar", "main", "poststart-ephemeral", "poststart-sidecar"}), _has_followed, "wait"
    ),
    "wait": StepOfGroup(frozenset({"prestart-sidecar", "main", "poststart-sidecar"}), _never, LAST),
    LAST: StepOfGroup(frozenset({"poststop"}), _never, LAST),
}
"""The steps, in order."""


def next_step(step: str, tasks: Sequence[Staged]) -> str:
    """Return the step that a group is in when nothing more moves it on. O(tasks)."""
    if all(task.state == DEAD for task in tasks if not task.plan.is_poststop):
        return LAST
    while STEPS[step].is_over(tasks):
        step = STEPS[step].next
    return step
