"""What can be read of an engine, and waited for: any thread may, while writers go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taskfold.fold.allocation import AllocationState
from taskfold.fold.task import TaskState
from taskfold.live.reader import Reader
from taskfold.live.store import Store, View
from taskfold.live.waiters import Question, Reply, wait, wait_async
from taskfold.log.ownership import Owned
from taskfold.model.clock import Clock
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, UnknownAllocation, UnknownTask, UnreadableLog
from taskfold.model.record import Record
from taskfold.nomad.snapshot import Snapshot

__all__ = ["Reading"]


class Reading(Owned):
    """The reading side of an engine."""

    instead = "open its log again where it is needed, with read_only=True to read; snapshots and records can be copied"

    store: Store
    """The state behind the engine: its own, not for faces."""
    reader: Reader
    """Reads the state for faces, and waits for it."""
    dialect: Dialect
    clock: Clock

    @property
    def index(self) -> int:
        """The index of the newest write; 0 before the first."""
        return self.store.index

    def task(self, alloc: str, task: str) -> TaskState:
        """Return the state of a task as it is now. O(1). Raises UnknownAllocation and UnknownTask."""
        with self.store.lock:
            self.store.check_whole()
            found = self.store.fold.owned(alloc).tasks.get(task)
            if found is None:
                raise UnknownTask(f"allocation {alloc!r} has no task {task!r}")
            return found.freeze()

    def snapshot(self, alloc: str) -> Snapshot:
        """Return an allocation as it is now: typed access, and JSON in any dialect. Raises UnknownAllocation."""
        return self.store.texts.snapshot(self.store.read(alloc))

    def allocations(
        self, *, job: str | None = None, node: str | None = None, status: str | None = None, prefix: str = ""
    ) -> View:
        """Return the allocations that match everything asked for, sorted by ID, all as they are at this index.

        ``status`` is the client status. The view may be read while writers go on. O(log n + matches).
        """
        return self.store.view(prefix=prefix, job=job, node=node, status=status)

    def history(self, alloc: str, task: str | None = None, *, after_version: int = 0) -> list[Record]:
        """Return every record of an allocation, or of one of its tasks. O(records).

        That of what was collected, too. Raises UnknownAllocation, Gone where records were removed, and LogError where
        the log does not have all that the state was folded from.
        """
        with self.store.lock:
            self.store.check_whole()
            known = self.store.fold.allocations.get(alloc)
            version = 0 if known is None else known.version
        records = list(self.store.log.read(alloc, after_version))
        if not records and not version:
            raise UnknownAllocation(f"no allocation {alloc!r} is known")
        newest = records[-1].version if records else after_version
        if newest < version:
            raise UnreadableLog(
                f"the log is damaged: its records of allocation {alloc} end at version {newest}, where it is at "
                f"version {version}"
            )
        return [record for record in records if task is None or record.task == task]

    def subscribe(self, after: int = 0, *, timeout: float | None = None) -> Iterator[Record]:
        """Yield every record after a position, none left out, and wait for those to come.

        It ends when none came for ``timeout`` seconds, and when the engine is closed. Raises Gone where records were
        removed, and LogError where the log cannot be read, or has less than it had.
        """
        while True:
            newest = self.store.seq
            for record in self.store.log.read_all(after):
                after = record.seq
                yield record
            if after < newest:
                raise LogError(f"the log ends at position {after}, though the engine holds its state at {newest}")
            if self._wait(self.reader.newest_seq, after, timeout).index <= after:
                return

    # --- waiting ---

    def release(self) -> None:
        """End every wait, also those to come: each returns what is known by then."""
        self.store.release()

    def wait(self, alloc: str, *, after: int, timeout: float | None = None) -> Snapshot | None:
        """Block until the ModifyIndex of an allocation is greater than ``after``; return it as it is then.

        After ``timeout`` seconds, or when the engine is closed, return it as it is; None where it does not exist. One
        that does not exist counts with the index of the store, as in a blocking query of Nomad: after 0 it returns at
        once. Cost: O(1) for the waiter, whoever else waits.
        """
        return self._told(self._wait(self.reader.state_question(alloc), after, timeout).value)

    def wait_job(self, job: str, *, after: int, timeout: float | None = None) -> int:
        """Block until an allocation of a job was written after an index; return the newest such index (0: none)."""
        return self._wait(self.reader.job_question(job), after, timeout).index

    def wait_index(self, *, after: int, timeout: float | None = None) -> int:
        """Block until anything was written after an index; return the index of the newest write."""
        return self._wait(self.reader.newest_index, after, timeout).index

    async def wait_async(self, alloc: str, *, after: int, timeout: float | None = None) -> Snapshot | None:  # noqa: ASYNC109 - as the others have it
        """Wait as `wait` does, on the running event loop. Cancelling it frees the waiter."""
        return self._told(
            (await wait_async(self.reader, self.reader.state_question(alloc), after, timeout, self.clock)).value
        )

    async def wait_job_async(self, job: str, *, after: int, timeout: float | None = None) -> int:  # noqa: ASYNC109 - as the others have it
        """Wait as `wait_job` does, on the running event loop."""
        return (await wait_async(self.reader, self.reader.job_question(job), after, timeout, self.clock)).index

    async def wait_index_async(self, *, after: int, timeout: float | None = None) -> int:  # noqa: ASYNC109 - as the others have it
        """Wait as `wait_index` does, on the running event loop."""
        return (await wait_async(self.reader, self.reader.newest_index, after, timeout, self.clock)).index

    def _wait(self, question: Question[Any], after: int, timeout: float | None) -> Reply[Any]:
        return wait(self.reader, question, after, timeout, self.clock)

    def _told(self, state: AllocationState | None) -> Snapshot | None:
        return None if state is None else self.store.texts.snapshot(state)
