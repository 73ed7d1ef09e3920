"""A task group as decisions see it: its tasks, how each is started again and killed, and in which order they start.

A `Group` is made from the job of an allocation (`taskfold.nomad.groups`), or by hand.

A task belongs to a stage by its hook (`TaskPlan.stage`). A group goes through the steps of `STEPS`: each lets the tasks
of some stages start, and ends when its condition holds. A group never goes back: it stays where it is when a main
task is started again. Source: client/allocrunner/tasklifecycle/coordinator.go (since Nomad 0.11.0, in this form since
1.3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from taskfold.decision.restart import Hook, default_policy
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import PolicyRefused, UnknownTask
from taskfold.model.go.durations import NS_PER_SECOND
from taskfold.model.policy import RestartPolicy

__all__ = [
    "FIRST",
    "KILL_ATTEMPTS",
    "LAST",
    "STEPS",
    "Group",
    "Member",
    "StepOfGroup",
    "TaskPlan",
    "kill_backoff_ns",
    "next_step",
]

DEFAULT_KILL_TIMEOUT_NS: Final = 5 * NS_PER_SECOND
"""How long a process may take to end by default. Source: nomad/structs/structs.go DefaultKillTimeout."""

LEAST_KILL_TIMEOUT_NS: Final = NS_PER_SECOND
MOST_KILL_TIMEOUT_NS: Final = 30 * NS_PER_SECOND
"""The old client's value for a missing timeout, and its ``max_kill_timeout``. Source: v0.5.6 task_runner.go."""

KILL_ATTEMPTS: Final = 5
_KILL_BACKOFF_NS: Final = 5 * NS_PER_SECOND
_KILL_BACKOFF_LIMIT_NS: Final = 120 * NS_PER_SECOND
_KILL_BACKOFF_FACTOR: Final = 4


def kill_backoff_ns(attempts: int) -> int:
    """Return the wait (nanoseconds) before the next attempt to kill, after so many attempts.

    >>> [kill_backoff_ns(attempts) // 10**9 for attempts in range(1, 6)]
    [5, 20, 80, 120, 120]
    """
    backoff_ns: int = _KILL_BACKOFF_NS * _KILL_BACKOFF_FACTOR ** (attempts - 1)
    return min(backoff_ns, _KILL_BACKOFF_LIMIT_NS)


class TaskPlan(Struct, frozen=True, kw_only=True):
    """The plan of one task: how it is started again, in which stage, and how it is killed."""

    name: str
    policy: RestartPolicy
    after_success: bool = True
    """It is started again after it ended well."""
    hook: Hook = ""
    """When it runs: before, after the start of, or after the end of the main tasks, which have none."""
    sidecar: bool = False
    """It runs beside the main tasks, and ends with them."""
    leader: bool = False
    """Its end is the end of the others."""
    kill_timeout_ns: int = DEFAULT_KILL_TIMEOUT_NS
    kill_signal: str = ""
    shutdown_delay_ns: int = 0
    """How long a kill waits before it sends its signal (new client)."""

    @property
    def is_poststop(self) -> bool:
        """Whether it runs when all others are dead."""
        return self.hook == "poststop"

    @property
    def stage(self) -> str:
        """The stage of the group's lifecycle that it belongs to, such as ``prestart-sidecar`` or ``main``."""
        if not self.hook or self.is_poststop:
            return self.hook or "main"
        return f"{self.hook}-{'sidecar' if self.sidecar else 'ephemeral'}"


class Group(Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """The tasks of an allocation, in the order of the job."""

    dialect: Dialect
    job_type: str = "service"
    tasks: Mapping[str, TaskPlan] = {}
    is_open: bool = False
    """The allocation has no job: a task of any name is run as a service by default."""
    leader: str = ""
    """The task whose end is the end of the others; empty without one."""
    has_hooks: bool = False
    """Its tasks start one after the other."""
    min_healthy_time_ns: int = 10 * NS_PER_SECOND
    """How long a task must run until a deployment takes it for healthy. Source: structs.go DefaultUpdateStrategy."""

    @classmethod
    def of(
        cls,
        tasks: Iterable[TaskPlan],
        dialect: str | Dialect,
        job_type: str = "service",
        *,
        min_healthy_time_ns: int = 10 * NS_PER_SECOND,
    ) -> Group:
        """Return a group of these tasks. Raises PolicyRefused, naming everything that is wrong with their policies."""
        plans = {task.name: task for task in tasks}
        rules = dialect_of(dialect)
        problems = [f"task {task.name!r}: {text}" for task in plans.values() for text in task.policy.refusals()]
        if problems:
            raise PolicyRefused(problems)
        return cls(
            dialect=rules,
            job_type=job_type,
            tasks=plans,
            leader=next((task.name for task in plans.values() if task.leader), ""),
            has_hooks=rules.has_new_client and any(task.hook for task in plans.values()),
            min_healthy_time_ns=min_healthy_time_ns,
        )

    def plan(self, task: str, *, is_recorded: bool = False) -> TaskPlan:
        """Return the plan of a task. Raises UnknownTask if the group has no task of this name.

        A task that the allocation has records of gets the default plan: an older version of its job may have had it.
        """
        plan = self.tasks.get(task)
        if plan is None:
            if not (self.is_open or is_recorded):
                names = ", ".join(map(repr, self.tasks)) or "none"
                raise UnknownTask(f"the group has no task {task!r}; it has {names}")
            return _default_plan(task, self.dialect)
        return plan


def _default_plan(task: str, dialect: Dialect) -> TaskPlan:
    """Return the plan of a task that no job describes: that of a service, which is started again whatever its end."""
    return TaskPlan(name=task, policy=default_policy("service", dialect) or RestartPolicy())


# --- in which order tasks start ---


class Member(Protocol):
    """The fields of a task that a step reads."""

    plan: TaskPlan
    state: str
    failed: bool


class StepOfGroup(NamedTuple):
    """A step of a group."""

    allowed: frozenset[str]
    """The stages whose tasks may start."""
    is_over: Callable[[Sequence[Member]], bool]
    """Tells whether the group moves on to the next step."""
    next: str


FIRST: Final = "prestart"
LAST: Final = "poststop"


def _of(tasks: Sequence[Member], *stages: str) -> list[Member]:
    return [task for task in tasks if task.plan.stage in stages]


def _has_prepared(tasks: Sequence[Member]) -> bool:
    """Tell whether every prestart task has ended well, or runs as a sidecar."""
    return all(
        task.state == RUNNING if task.plan.sidecar else task.state == DEAD and not task.failed
        for task in _of(tasks, "prestart-ephemeral", "prestart-sidecar")
    )


def _has_begun(tasks: Sequence[Member]) -> bool:
    """Tell whether no main task waits to be started."""
    return all(task.state != PENDING for task in _of(tasks, "main"))


def _has_followed(tasks: Sequence[Member]) -> bool:
    """Tell whether every poststart task that is no sidecar is dead."""
    return all(task.state == DEAD for task in _of(tasks, "poststart-ephemeral"))


def _never(_: Sequence[Member]) -> bool:
    """Return False: only the end of all others opens the last step, as `next_step` tells."""
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
"""The steps of a group, in order."""


def next_step(step: str, tasks: Sequence[Member]) -> str:
    """Return the last step that a group of these tasks reaches from this one. O(tasks)."""
    if all(task.state == DEAD for task in tasks if not task.plan.is_poststop):
        return LAST
    while STEPS[step].is_over(tasks):
        step = STEPS[step].next
    return step
