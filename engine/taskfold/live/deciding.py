"""What an engine needs to decide: the groups of its allocations, randomness, and the timers of their tasks."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Final, NamedTuple

from msgspec import UNSET, Raw

from taskfold.decision.group import Group
from taskfold.decision.restart import Random
from taskfold.decision.rules import decide_all, due_of, owed
from taskfold.fold.allocation import Allocation
from taskfold.fold.lifecycle import PENDING, RUNNING
from taskfold.live.ahead import State
from taskfold.live.store import Store
from taskfold.live.timers import Timers
from taskfold.log.entries import is_of
from taskfold.model.effects import Collect, SignalTask, StartTask, Step
from taskfold.model.errors import ClockWentBack, IdConflict, LogError, VersionConflict
from taskfold.model.inputs import Input, TimerDue
from taskfold.model.record import Event, Record, Updated

__all__ = ["Decider", "Due", "Known"]

_OF_GROUP: Final = ("Job", "TaskGroup")
"""The fields of an allocation that tell its group."""


class Due(NamedTuple):
    """What is due, and when it is decided (unix nanoseconds)."""

    alloc: str
    task: str
    said: TimerDue
    time_ns: int


class Known(NamedTuple):
    """What was decided before, and of which version of the allocation."""

    step: Step
    version: int


class Decider:
    """Decides over a store; its owner sees to it that one thread at a time does."""

    def __init__(self, store: Store, rng: Random) -> None:
        """Begin with the timers that the store's tasks have. O(tasks)."""
        self.timers = Timers()
        """When which task is due."""
        self._store = store
        self._rng = rng
        self._groups: dict[str, tuple[tuple[object, ...], Group]] = {}
        self.begin()

    def begin(self) -> None:
        """Begin, also once more, with the timers that the store's tasks have. O(tasks)."""
        self._groups = {alloc: known for alloc, known in self._groups.items() if alloc in self._store.fold}
        timers = Timers()
        timers.set_all(
            (alloc, name, due_ns)
            for alloc, found in self._store.fold.allocations.items()
            for name, task in found.tasks.items()
            if (due_ns := due_of(task)) is not None
        )
        self.timers = timers

    def decided(
        self,
        alloc: str,
        said: Sequence[tuple[str, Input]],
        now_ns: int,
        id: str | None = None,
        expected_version: int | None = None,
        *,
        known: Known | None = None,
        on: State | None = None,
    ) -> tuple[Step, list[Record]]:
        """Return what follows from inputs, and the records that say so. Raises whatever refuses one of them.

        It is decided on the state of the store, or on what lies ahead of it. What is known to follow is not decided
        again while the allocation is as it was, since chance may have a part in it.
        """
        state = self._store if on is None else on
        if state.is_closed:
            raise LogError("the engine is closed")
        allocation = state.owned(alloc)
        digest = None if id is None else state.digest_of(id)
        if id is not None and digest is not None:
            # What is recorded does not tell which input it follows from, but whose it was.
            if not is_of(digest, alloc):
                task, first = said[0]
                raise IdConflict(id=id, allocation=alloc, task=task, event=type(first).__name__)
            notes = (("", f"the input {id!r} was recorded before"),)
            return Step(alloc=alloc, time_ns=now_ns, outcome="repeated", notes=notes), []
        version = allocation.version
        if expected_version is not None and expected_version != version:
            raise VersionConflict(allocation=alloc, expected=expected_version, found=version)
        if now_ns < allocation.modified_ns:
            raise ClockWentBack(allocation=alloc, time_ns=now_ns, newest_ns=allocation.modified_ns)
        if known is not None and known.version == version:
            step = known.step
        else:
            step = decide_all(allocation, self.group(allocation), said, now_ns=now_ns, rng=self._rng)
        return step, self._records(state, step, version, id)

    def _records(self, state: State, step: Step, version: int, id: str | None) -> list[Record]:
        """Return the records of a step: one write, whose first record has the ID of the input."""
        index, seq = state.index + 1, state.seq
        return [
            Record(
                seq=seq + place,
                index=index,
                alloc=step.alloc,
                version=version + place,
                task=found.task,
                time_ns=step.time_ns,
                id=id if id is not None and place == 1 else UNSET,
                event=_indexed(found.event, index),
            )
            for place, found in enumerate(step.written, start=1)
        ]

    def group(self, allocation: Allocation) -> Group:
        """Return the group that decisions for an allocation are made for. O(1) while its fields stay as they are."""
        placed, updates = allocation.placed, allocation.updates
        told = (placed, *((UNSET, UNSET) if updates is None else (updates.get(name, UNSET) for name in _OF_GROUP)))
        known = self._groups.get(allocation.id)
        # The texts are replaced, and never changed: the same object says the same.
        if known is not None and all(map(is_, known[0], told)):
            return known[1]
        # Imported when it is needed first: what a job may be is much to import.
        from taskfold.nomad.groups import group_of

        found = group_of(placed, updates, self._store.dialect)
        if allocation.id in self._store.fold:  # else its placement is not recorded yet
            self._groups[allocation.id] = told, found
        return found

    def plan(self, step: Step) -> None:
        """Set the timers of the tasks that a step wrote of; what was due keeps its timer until somebody is told."""
        for timer in step.timers:
            self.timers.set(step.alloc, timer.task, timer.due_ns)
        if len(self.timers) == len(step.timers):
            return  # there are no others, which is what most steps find
        tasks = self._store.fold.allocations[step.alloc].tasks
        told = [effect for effect in step.effects if not isinstance(effect, (Collect, SignalTask))]
        for effect in told:
            # A start that nobody was told of stays, even to be given up.
            # The process of a task that was never placed may have to end, too.
            known = tasks.get(effect.task)
            if isinstance(effect, StartTask) or known is None or known.state == RUNNING:
                self.timers.discard(step.alloc, effect.task)
        for found in step.written:
            name = found.task
            planned_ns = self.timers.get(step.alloc, name) if name else None
            if planned_ns is not None and due_of(tasks[name]) != planned_ns:
                self.timers.discard(step.alloc, name)

    def first_due(self, until_ns: int) -> Due | None:
        """Return what is due next, if that is by a time; its timer stays until what is decided is recorded."""
        while (due := self.timers.first) is not None and due.alloc not in self._store.fold:
            self.timers.forget(due.alloc)  # a collect that was interrupted left them
        if due is None or due.due_ns > until_ns:
            return None
        allocation = self._store.fold.allocations[due.alloc]
        is_pending = allocation.tasks[due.task].state == PENDING
        # A clock that went on while the embedder was away: nothing is decided before what was recorded.
        now_ns = max(until_ns, allocation.modified_ns)
        return Due(due.alloc, due.task, TimerDue(kind="start" if is_pending else "kill"), now_ns)

    def replan(self, alloc: str) -> None:
        """Move the timers of an allocation that another process has written; what it planned is its own to do."""
        for name, task in self._store.fold.allocations[alloc].tasks.items():
            if self.timers.get(alloc, name) not in {None, due_of(task)}:
                self.timers.discard(alloc, name)

    def forget(self, alloc: str) -> None:
        """Let go of what is known of an allocation that is gone. O(its timers), amortized O(log n) for each."""
        self._groups.pop(alloc, None)
        self.timers.forget(alloc)

    def _check(self) -> None:
        """Assert that nothing is kept for an allocation that is gone."""
        self.timers._check()  # noqa: SLF001 - the check of a part is a part of the check
        allocations = self._store.fold.allocations
        assert self._groups.keys() <= allocations.keys()
        assert all(due.task in allocations[due.alloc].tasks for due in self.timers)

    def restore(self, now_ns: int) -> list[Step]:
        """Return what is owed to every allocation that decisions were made for. O(tasks)."""
        steps = []
        for allocation in self._store.fold.allocations.values():
            if any(task.decided is not None for task in allocation.tasks.values()):
                step = owed(allocation, self.group(allocation), now_ns=now_ns, rng=self._rng)
                for name in allocation.tasks:
                    due_ns = due_of(allocation.tasks[name])
                    if due_ns is not None and due_ns <= now_ns:
                        self.timers.discard(allocation.id, name)
                if step.effects:
                    steps.append(step)
        return steps


def _indexed(event: Event, index: int) -> Event:
    """Return an update of a server with the index that it moves, as every write of one does."""
    if not isinstance(event, Updated) or "DesiredStatus" not in event.fields:
        return event
    return Updated(fields={**event.fields, "AllocModifyIndex": Raw(b"%d" % index)}, cleared=event.cleared)
