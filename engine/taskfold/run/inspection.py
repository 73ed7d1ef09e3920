"""A view of the tasks of a supervisor: their files, their output, and their use of this machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskfold.run.allocation_files import AllocationFiles
from taskfold.run.driver import MeasuredProcess
from taskfold.run.usage import Meter, ProcessUsage

if TYPE_CHECKING:
    from taskfold.run.supervisor import Supervisor

__all__ = ["Inspection"]


class Inspection:
    """The files and the processes of a supervisor's allocations. It belongs to the supervisor's event loop."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._meter = Meter()
        self._turn = asyncio.Lock()

    def files(self, alloc: str) -> AllocationFiles | None:
        """Return the files of an allocation; None where it is not the supervisor's."""
        if alloc not in self._supervisor.allocations:
            return None
        return AllocationFiles(self._supervisor.directory_of(alloc, "").shared.parent)

    def output(self, alloc: str, task: str, stream: str) -> str:
        """Return the path of a task's ``stdout`` or ``stderr``, from the directory of its allocation."""
        directory = self._supervisor.directory_of(alloc, task)
        return directory.output(stream).relative_to(directory.shared.parent).as_posix()

    async def usage(self, alloc: str) -> dict[str, dict[int, ProcessUsage]] | None:
        """Return what the processes of each running task use, by pid; None where it is not the supervisor's."""
        if alloc not in self._supervisor.allocations:
            return None
        async with self._turn:
            return await asyncio.to_thread(self._measure, self._supervisor.processes_of(alloc))

    def _measure(self, processes: dict[str, object]) -> dict[str, dict[int, ProcessUsage]]:
        pids = {
            task: process.pids() if isinstance(process, MeasuredProcess) else [] for task, process in processes.items()
        }
        return {task: self._meter.measure(own) for task, own in pids.items()}
