"""A task group as decisions see it: which tasks there are, how each is started again and killed, and in which order.

It is made from the allocation's job (`taskfold.nomad.groups`), or by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from taskfold.decision.restart import Hook, default_policy, restarts_after_success
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.duration import NS_PER_SECOND
from taskfold.model.errors import PolicyRefused, UnknownAllocation
from taskfold.model.policy import RestartPolicy

__all__ = ["KILL_ATTEMPTS", "Group", "TaskPlan", "kill_backoff_ns"]

DEFAULT_KILL_TIMEOUT_NS: Final = 5 * NS_PER_SECOND
"""How long a process may take to end unless the job says. Source: nomad/structs/structs.go DefaultKillTimeout."""

LEAST_KILL_TIMEOUT_NS: Final = NS_PER_SECOND
MOST_KILL_TIMEOUT_NS: Final = 30 * NS_PER_SECOND
"""What the old client makes of a timeout of nothing, and its ``max_kill_timeout``. Source: v0.5.6 task_runner.go."""

KILL_ATTEMPTS: Final = 5
_KILL_BACKOFF_NS: Final = 5 * NS_PER_SECOND
_KILL_BACKOFF_LIMIT_NS: Final = 120 * NS_PER_SECOND
_KILL_BACKOFF_FACTOR: Final = 4


def kill_backoff_ns(attempts: int) -> int:
    """Return how long to wait before the next attempt to kill, after so many (nanoseconds).

    >>> [kill_backoff_ns(attempts) // 10**9 for attempts in range(1, 6)]
    [5, 20, 80, 120, 120]
    """
    backoff_ns: int = _KILL_BACKOFF_NS * _KILL_BACKOFF_FACTOR ** (attempts - 1)
    return min(backoff_ns, _KILL_BACKOFF_LIMIT_NS)


class TaskPlan(Struct, frozen=True, kw_only=True):
    """How one task of a group is run."""

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
        found = {task.name: task for task in tasks}
        spoken = dialect_of(dialect)
        problems = [f"task {task.name!r}: {text}" for task in found.values() for text in task.policy.refusals()]
        if problems:
            raise PolicyRefused(problems)
        return cls(
            dialect=spoken,
            job_type=job_type,
            tasks=found,
            leader=next((task.name for task in found.values() if task.leader), ""),
            has_hooks=spoken.has_new_client and any(task.hook for task in found.values()),
            min_healthy_time_ns=min_healthy_time_ns,
        )

    def plan(self, task: str, *, is_known: bool = False) -> TaskPlan:
        """Return how a task is run. Raises UnknownAllocation where the group has no such task.

        One that the allocation has is known: its job may have told it before, or somebody recorded events of it.
        """
        found = self.tasks.get(task)
        if found is None:
            if not (self.is_open or is_known):
                known = ", ".join(map(repr, self.tasks)) or "none"
                raise UnknownAllocation(f"the group has no task {task!r}; it has {known}")
            return _default_plan(task, self.dialect)
        return found


def _default_plan(task: str, dialect: Dialect) -> TaskPlan:
    """Return how a task is run of which nothing is known."""
    return TaskPlan(
        name=task,
        policy=default_policy("service", dialect) or RestartPolicy(),
        after_success=restarts_after_success("service", "", sidecar=False, dialect=dialect),
    )
