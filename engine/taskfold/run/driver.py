"""The protocol of drivers: start the process of a task, report how it ends, and find it again.

A driver of one's own is any class with these methods. `taskfold.testing.DriverContract` has their promises as tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from taskfold.model.inputs import Exited, ProcessStarted, StartFailed
from taskfold.nomad.views.job import TaskView
from taskfold.run.environment import Environment
from taskfold.run.task_directory import TaskDirectory

__all__ = ["DriverProcess", "Handle", "MeasuredProcess", "TaskDriver"]

Handle: TypeAlias = Mapping[str, Any]
"""The handle of a process, also for a later supervisor: a JSON object that no other process ever had.

It is kept in the log before the process runs. ``Driver`` and ``Found`` are the supervisor's own keys.
"""


class DriverProcess(Protocol):
    """The process of a task: not begun yet, running, or over. One object belongs to one event loop."""

    @property
    def handle(self) -> Handle:
        """The handle of the process."""
        ...

    @property
    def is_started(self) -> bool:
        """Whether it is known to have run."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it can be waited for: it is about to begin, or runs."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it is known how it ended, or why it could not begin."""
        ...

    def go(self) -> None:
        """Begin to run; nothing has run before. Never raises for what the task asks for: `reports` tells that."""

    def send(self, name: str) -> None:
        """Send a signal by its name (empty means what the driver sends unless told); one that is over ignores it.

        ``SIGKILL`` always ends it, also before it has begun.
        """

    def reports(self) -> AsyncIterator[ProcessStarted | StartFailed | Exited]:
        """Yield that it runs, then how it ended; or only why it could not begin.

        Each comes when it happens. Several may wait at a time, and one that gives up takes nothing from the others.
        """
        ...

    def end(self) -> StartFailed | Exited:
        """Return how a process ended that is not alive; where nobody knows that, the exit code is None."""
        ...

    def end_orphan(self) -> None:
        """End what is left of a process that is not alive, and of which nobody knows how it ended."""

    def close(self) -> None:
        """End it, if it runs, and release what the object holds; a second call does nothing."""


@runtime_checkable
class MeasuredProcess(Protocol):
    """A process of which can be told what it uses; a `DriverProcess` may be one."""

    def pids(self) -> list[int]:
        """Return the processes of the task on this machine, as of now; called in another thread."""
        ...


class TaskDriver(Protocol):
    """A driver: starts processes of one kind, and finds them again."""

    def prepare(self, task: TaskView, environment: Environment, directory: TaskDirectory) -> DriverProcess:
        """Return a process for a task that runs when it is told to `go`.

        Raises ValueError for settings that are wrong, FileNotFoundError for what is missing, and any other OSError for
        what may be there another time.
        """
        ...

    def find(self, handle: Handle, directory: TaskDirectory) -> DriverProcess:
        """Return the process of a handle, whatever became of it. Never raises for a process that is gone."""
        ...
