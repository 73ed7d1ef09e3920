"""What a decision reads: an allocation and its tasks, and a task as it stands in the middle of the decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from taskfold.decision.group import TaskPlan
from taskfold.fold.lifecycle import DEAD, RUNNING
from taskfold.model.record import Coordinated, Decided

__all__ = ["AllocationLike", "Now", "TaskLike"]


class TaskLike(Protocol):
    """What a decision reads of a task: `Task` and `TaskState` have it."""

    @property
    def state(self) -> str:
        """The state."""
        ...

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        ...

    @property
    def started_at_ns(self) -> int | None:
        """When it was started."""
        ...

    @property
    def decided(self) -> Decided | None:
        """What decisions remember."""
        ...


class AllocationLike(Protocol):
    """What a decision reads of an allocation: `Allocation` and `AllocationState` have it."""

    @property
    def id(self) -> str:
        """The ID."""
        ...

    @property
    def placed(self) -> bytes:
        """The fields as placed."""
        ...

    @property
    def updates(self) -> Mapping[str, bytes | None] | None:
        """What changed since."""
        ...

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The tasks by name, each a `TaskLike`."""
        ...

    @property
    def coordinated(self) -> Coordinated | None:
        """What decisions remember."""
        ...


class Now(Struct, gc=False):
    """A task as it stands in the middle of a decision."""

    name: str
    plan: TaskPlan
    state: str
    failed: bool
    started_at_ns: int | None
    decided: Decided
    is_new: bool = False
    """Nothing was ever written of it."""
    remembers: bool = False
    """What is remembered has changed."""

    @property
    def is_dead(self) -> bool:
        """Whether it is dead."""
        return self.state == DEAD

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self.state == RUNNING
