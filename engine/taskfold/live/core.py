"""The core: fold and decisions, without threads, log, clock or randomness of its own.

A `taskfold.Engine` is a core with a log, a lock, waiters and callbacks around it. A simulator, or an embedder with its
own loop and storage, uses the core alone: it passes times and randomness in, and stores the records of `Core.ready`
before it carries out the effects of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from msgspec import UNSET, Raw

from taskfold.decision.group import Group
from taskfold.decision.restart import Random
from taskfold.decision.rules import decide_all, due_of, owed
from taskfold.fold.allocation import Allocation, AllocationState, Fold
from taskfold.fold.lifecycle import PENDING, RUNNING, Lifecycle
from taskfold.fold.task import TaskState
from taskfold.live.arguments import check_address, check_input, check_pairs, checked_time, checked_writes
from taskfold.live.draft import Draft, placing, updating
from taskfold.live.overlay import StateLike
from taskfold.live.timers import Timers
from taskfold.log.checkpoint import Checkpoint
from taskfold.log.entries import event_digest, is_of
from taskfold.log.index_map import Positions
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect, dialect_of
from taskfold.model.effects import ReleaseResources, SignalTask, StartTask, Step
from taskfold.model.errors import (
    AppendRefused,
    ClockWentBack,
    IdConflict,
    LogError,
    TaskfoldError,
    UnknownTask,
    VersionConflict,
)
from taskfold.model.events import TaskEvent
from taskfold.model.inputs import Input, TimerDue
from taskfold.model.record import FORMAT, Collected, Event, Finished, LogHeader, Record, Updated, Write
from taskfold.nomad.snapshot import Snapshot

__all__ = ["Core", "DueInput", "IdLookup", "Prior"]

_OF_GROUP: Final = ("Job", "TaskGroup")
"""The fields of an allocation that define its task group."""


class DueInput(NamedTuple):
    """A timer's input that is due, and its time (unix nanoseconds)."""

    alloc: str
    task: str
    input: TimerDue
    time_ns: int


class Prior(NamedTuple):
    """A step that was decided before, and the version of the allocation that it was decided on."""

    step: Step
    version: int


class IdLookup(Protocol):
    """A look-up of records by ID, as a log has it."""

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. Raises LogError."""


class Core:
    """Allocations, the decisions on them, and their timers: synchronous, and deterministic in its arguments.

    - state: `task`, `read`, `snapshot`, ``in``, ``len``, iteration; `index`, `seq`
    - events: `place`, `record`, `update`, `append`
    - decisions: `report`, `report_all`, `due`, `next_due`, `restore`, `group`
    - records: `ready` returns the new ones; `apply` folds those of a log, or of another core

    One thread at a time may use it. Times are unix nanoseconds; randomness is any `random.Random`.

    >>> import random
    >>> from taskfold import Core, inputs
    >>> core, rng, second = Core("1.1.2"), random.Random(1), 1_000_000_000
    >>> core.place({"ID": "203266e5", "JobID": "example"}, time_ns=0)
    >>> for input in (inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.Exited(exit_code=1)):
    ...     step = core.report("203266e5", "redis", input, now_ns=second, rng=rng)
    >>> core.task("203266e5", "redis").state, step.effects
    ('pending', ())
    >>> due_ns = core.next_due()
    >>> core.due(due_ns - 1, rng=rng), [step.effects for step in core.due(due_ns, rng=rng)]
    ([], [(StartTask(task='redis', at_ns=18291756157),)])

    The new records, to be stored before any effect is carried out, are returned once; another core continues from them:

    >>> records, again = core.ready(), Core("1.1.2")
    >>> again.apply(records)
    >>> len(records), core.ready(), again.read("203266e5") == core.read("203266e5")
    (8, [], True)
    """

    def __init__(
        self, dialect: str | Dialect = DEFAULT_DIALECT, *, region: str = "global", ids: IdLookup | None = None
    ) -> None:
        """Start without allocations. ``ids`` looks up records by ID, as a log does; without it the core remembers them.

        Raises DialectError.
        """
        self.is_closed = False
        """Nothing can be written or decided any more."""
        self.timers = Timers()
        """The due times of tasks."""
        self._ids = ids
        self._own_ids: dict[str, int] = {}
        """By ID, the digest of its record; used only without a log."""
        self._ready: list[Record] = []
        self._groups: dict[str, tuple[object, object, object, Group]] = {}
        """By allocation, its group and the texts that the group was made of."""
        self.begin(LogHeader(taskfold=FORMAT, dialect=dialect_of(dialect).name, region=region))

    def __repr__(self) -> str:
        """Return its dialect, its number of allocations and its index."""
        return f"<Core, dialect {self.dialect.name}: {len(self.fold):,} allocations at index {self.index}>"

    # --- state ---

    def begin(self, header: LogHeader) -> None:
        """Reset to no records, of a log with this header. A log calls it when it starts to be read."""
        self.header = header
        self.dialect = dialect_of(header.dialect)
        self.load(Checkpoint(0, Fold(self.dialect, on_illegal="keep"), Positions()))

    def load(self, checkpoint: Checkpoint) -> None:
        """Replace the state by that of a checkpoint; call `plan_all` afterwards to plan timers."""
        self.seq, self.fold, self.positions = checkpoint
        self.lifecycle: Lifecycle = self.fold.lifecycle

    def use_log(self, header: LogHeader, ids: IdLookup) -> None:
        """Attach to a log: use its header, and its look-up by ID."""
        self.header = header
        self._ids = ids
        self._own_ids.clear()

    @property
    def index(self) -> int:
        """The index of the newest write; 0 if there is none."""
        return self.positions.newest

    def __contains__(self, alloc: object) -> bool:
        """Return whether there is an allocation with this ID. O(1)."""
        return alloc in self.fold.allocations

    def __len__(self) -> int:
        """Return the number of allocations."""
        return len(self.fold.allocations)

    def __iter__(self) -> Iterator[str]:
        """Yield the IDs of the allocations, in the order of their placement."""
        return iter(self.fold.allocations)

    def find(self, alloc: str) -> Allocation | None:
        """Return an allocation, for reading only; None if there is none. O(1)."""
        return self.fold.allocations.get(alloc)

    def owned(self, alloc: str) -> Allocation:
        """Return an allocation, for reading only. O(1). Raises UnknownAllocation."""
        return self.fold.owned(alloc)

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. Raises LogError of a log."""
        return self._own_ids.get(id) if self._ids is None else self._ids.digest_of(id)

    def task(self, alloc: str, task: str) -> TaskState:
        """Return the state of a task. O(1). Raises UnknownAllocation and UnknownTask."""
        state = self.fold.owned(alloc).tasks.get(task)
        if state is None:
            raise UnknownTask(f"allocation {alloc!r} has no task {task!r}")
        return state.freeze()

    def read(self, alloc: str) -> AllocationState:
        """Return the state of an allocation. O(tasks). Raises UnknownAllocation."""
        return self.fold[alloc]

    def snapshot(self, alloc: str) -> Snapshot:
        """Return an allocation with typed access, and JSON in any dialect. Raises UnknownAllocation."""
        return Snapshot.of(self.fold[alloc], self.dialect)

    # --- records ---

    def take(self, records: Sequence[Record]) -> None:
        """Fold the next records of a log that looks up IDs; call `plan_all` afterwards. O(records).

        Collected allocations are dropped at once, as a log may have many more of them than of others.
        """
        start = 0
        for place in [place for place, record in enumerate(records) if type(record.event) is Collected]:
            self.fold.apply_all(records[start : place + 1])
            del self.fold.allocations[records[place].alloc]
            start = place + 1
        self.fold.apply_all(records[start:] if start else records)
        self.positions.note_all(records)
        if records:
            self.seq = records[-1].seq

    def move(self, records: Sequence[Record]) -> None:
        """Fold records as `take` does, without timers; collected allocations stay until they are dropped."""
        self.fold.apply_all(records)
        self.positions.note_all(records)
        if records:
            self.seq = records[-1].seq
            if self._ids is None:
                self._remember_ids(records)

    def _remember_ids(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record.id, str):
                self._own_ids[record.id] = event_digest(record.alloc, record.task, record.event)

    def apply(self, records: Iterable[Record]) -> None:
        """Fold the next records of a log, or of another core, and plan timers.

        O(records + tasks of their allocations). `ready` does not return them.
        """
        batch = list(records)
        self.take(batch)
        if self._ids is None:
            self._remember_ids(batch)
        for alloc in {record.alloc for record in batch}:
            self.timers.forget(alloc)
            if alloc in self.fold.allocations:
                self.timers.set_all(_timers_of(self.fold.allocations[alloc]))
            else:
                self.forget(alloc)

    def ready(self) -> list[Record]:
        """Return the new records since the last call, in order: store them before carrying out any effect."""
        records, self._ready = self._ready, []
        return records

    def _keep(self, records: Sequence[Record]) -> None:
        """Fold records of the core's own, for `ready`."""
        self.move(records)
        self._ready += records

    # --- events ---

    def place(self, allocation: Snapshot | Mapping[str, Any] | bytes | str, *, time_ns: int) -> None:
        """Place an allocation: its top-level fields, as in `taskfold.Engine.place`.

        Raises DecodeError and VersionConflict: then nothing changed.
        """
        self._write(placing(allocation, time_ns))

    def record(
        self,
        alloc: str,
        task: str,
        event: TaskEvent | Finished,
        *,
        time_ns: int,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Record | None:
        """Record an event of a task; return its record, or None if the ID was recorded before.

        Raises UnknownAllocation, IllegalEvent, DecodeError and VersionConflict: then nothing changed.
        """
        return self._write(
            Write(
                alloc=alloc,
                task=task,
                event=event,
                time_ns=time_ns,
                id=id,
                expected_version=expected_version,
            )
        )

    def update(self, alloc: str, fields: Mapping[str, Any], *, time_ns: int, id: str | None = None) -> Record | None:
        """Change top-level fields of an allocation, as `taskfold.Engine.update` does. Raises as `record` does."""
        return self._write(updating(alloc, fields, time_ns=time_ns, id=id))

    def append(self, writes: Iterable[Write], *, time_ns: int) -> list[Record | None]:
        """Record several writes, all or none, with one index; return a record for each, None for a repeat.

        Raises AppendRefused, which names every refused write: then nothing changed.
        """
        draft = Draft(self, time_ns)
        for write in checked_writes(writes):
            draft.add(write)
        if draft.refusals:
            raise AppendRefused(draft.refusals)
        self._keep(draft.new_records)
        return draft.records()

    def _write(self, write: Write) -> Record | None:
        draft = Draft(self, 0 if write.time_ns is None else write.time_ns)
        draft.add(write)
        for _, refusal in draft.refusals:
            raise refusal
        self._keep(draft.new_records)
        return draft.new_records[0] if draft.new_records else None

    # --- decisions ---

    def report(
        self,
        alloc: str,
        task: str,
        input: Input,
        *,
        now_ns: int,
        rng: Random,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report an input for a task; return the step: the decision, and the effects owed.

        O(1), or O(tasks of the allocation) if the decision involves other tasks. Raises as `taskfold.Engine.report`
        does, except for errors of logs and listeners: then nothing changed.
        """
        return self.report_all(
            alloc, ((task, input),), now_ns=now_ns, rng=rng, id=id, expected_version=expected_version
        )

    def report_all(
        self,
        alloc: str,
        inputs: Sequence[tuple[str, Input]],
        *,
        now_ns: int,
        rng: Random,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report inputs that were learnt at the same time, each with its task. Raises as `report` does."""
        check_pairs(inputs)
        for task, one in inputs:
            check_address(alloc, task, id, expected_version)
            check_input(one)
        step, records = self.decide(alloc, inputs, checked_time(now_ns), rng, id, expected_version)
        self._keep(records)
        self.plan(step)
        return step

    def due(self, now_ns: int, *, rng: Random) -> list[Step]:
        """Decide the timers due by a time: delayed starts, and repeated kills. O(log n) for each.

        An undecidable one, as after an update to an invalid job, gives a step whose outcome is ``impossible``.
        """
        until_ns, steps = checked_time(now_ns), []
        while (due := self.first_due(until_ns)) is not None:
            try:
                step, records = self.decide(due.alloc, ((due.task, due.input),), due.time_ns, rng)
            except TaskfoldError as refusal:
                step, records = impossible(due, refusal), []
            self._keep(records)
            self.plan(step)
            self.timers.discard(due.alloc, due.task)
            steps.append(step)
        return steps

    def next_due(self) -> int | None:
        """Return the next time at which `due` has a decision (unix nanoseconds); None if there is none. O(1)."""
        return self.timers.next_ns

    def decide(
        self,
        alloc: str,
        inputs: Sequence[tuple[str, Input]],
        now_ns: int,
        rng: Random,
        id: str | None = None,
        expected_version: int | None = None,
        *,
        prior: Prior | None = None,
        on: StateLike | None = None,
    ) -> tuple[Step, list[Record]]:
        """Decide inputs; return the step and its records, and change nothing. Raises the refusal of an input.

        The decision is made on this state, or on an overlay over it. A prior step is reused while the allocation is
        unchanged, since a decision may be random.
        """
        state: StateLike = self if on is None else on
        if state.is_closed:
            raise LogError("the engine is closed")
        allocation = state.owned(alloc)
        digest = None if id is None else state.digest_of(id)
        if id is not None and digest is not None:
            # The event recorded for an input names its task, not the input itself.
            if not is_of(digest, alloc):
                task, first = inputs[0]
                raise IdConflict(id=id, allocation=alloc, task=task, event=type(first).__name__)
            notes = (("", f"the input {id!r} was recorded before"),)
            return Step(alloc=alloc, time_ns=now_ns, outcome="repeated", notes=notes), []
        version = allocation.version
        if expected_version is not None and expected_version != version:
            raise VersionConflict(allocation=alloc, expected_version=expected_version, actual_version=version)
        if now_ns < allocation.modified_ns:
            raise ClockWentBack(allocation=alloc, time_ns=now_ns, newest_ns=allocation.modified_ns)
        if prior is not None and prior.version == version:
            step = prior.step
        else:
            step = decide_all(allocation, self.group_of(allocation), inputs, now_ns=now_ns, rng=rng)
        return step, _records_of(state, step, version, id)

    def group(self, alloc: str) -> Group:
        """Return an allocation's task group, as decisions use it. Raises UnknownAllocation and as `report` does."""
        return self.group_of(self.fold.owned(alloc))

    def group_of(self, allocation: Allocation) -> Group:
        """Return the task group for decisions on an allocation. O(1) while its fields are unchanged."""
        placed_fields, updates = allocation.placed_body, allocation.updates
        job, name = (UNSET, UNSET) if updates is None else (updates.get(field, UNSET) for field in _OF_GROUP)
        entry = self._groups.get(allocation.id)
        # Texts are replaced, never modified: the same object has the same contents.
        if entry is not None and entry[0] is placed_fields and entry[1] is job and entry[2] is name:
            return entry[3]
        # Imported at first use, as the job schema is large.
        from taskfold.nomad.groups import group_of

        group = group_of(placed_fields, updates, self.dialect)
        if allocation.id in self.fold:  # otherwise its placement is not recorded yet
            self._groups[allocation.id] = placed_fields, job, name, group
        return group

    # --- timers ---

    def plan_all(self) -> None:
        """Plan the timers of all tasks from the state. O(tasks)."""
        self._groups = {alloc: entry for alloc, entry in self._groups.items() if alloc in self.fold}
        timers = Timers()
        timers.set_all(timer for allocation in self.fold.allocations.values() for timer in _timers_of(allocation))
        self.timers = timers

    def plan(self, step: Step) -> None:
        """Set the timers of the tasks that a step changed; an input that is due keeps its timer until it is decided."""
        for timer in step.timers:
            self.timers.set(step.alloc, timer.task, timer.due_ns)
        if len(self.timers) == len(step.timers):
            return  # the usual case
        tasks = self.fold.allocations[step.alloc].tasks
        for effect in step.effects:
            if isinstance(effect, (ReleaseResources, SignalTask)):
                continue
            # A start without a step stays planned, even if it will be given up; a task that was never placed may have a
            # process to end.
            task = tasks.get(effect.task)
            if isinstance(effect, StartTask) or task is None or task.state == RUNNING:
                self.timers.discard(step.alloc, effect.task)
        for entry in step.writes:
            name = entry.task
            planned_ns = self.timers.get(step.alloc, name) if name else None
            if planned_ns is not None and due_of(tasks[name]) != planned_ns:
                self.timers.discard(step.alloc, name)

    def first_due(self, until_ns: int) -> DueInput | None:
        """Return the next input due by a time; None if there is none. Its timer stays until its step is recorded."""
        while (due := self.timers.first) is not None and due.alloc not in self.fold:
            self.timers.forget(due.alloc)  # left by an interrupted collect
        if due is None or due.due_ns > until_ns:
            return None
        allocation = self.fold.allocations[due.alloc]
        is_pending = allocation.tasks[due.task].state == PENDING
        # If the clock ran on while the embedder was away, decide no earlier than the newest record.
        now_ns = max(until_ns, allocation.modified_ns)
        return DueInput(due.alloc, due.task, TimerDue(kind="start" if is_pending else "kill"), now_ns)

    def replan(self, alloc: str) -> None:
        """Drop the timers of an allocation that another process has changed; its timers are that process's."""
        for name, task in self.fold.allocations[alloc].tasks.items():
            if self.timers.get(alloc, name) not in {None, due_of(task)}:
                self.timers.discard(alloc, name)

    def forget(self, alloc: str) -> None:
        """Drop the data of a removed allocation. O(its timers), amortized O(log n) for each."""
        self._groups.pop(alloc, None)
        self.timers.forget(alloc)

    def restore(self, now_ns: int, *, rng: Random) -> list[Step]:
        """Return the steps owed to every allocation that has decisions. O(tasks).

        Starts and kills without a report are owed again; `due` returns later ones.
        """
        steps = []
        for allocation in self.fold.allocations.values():
            if any(task.memory is not None for task in allocation.tasks.values()):
                step = owed(allocation, self.group_of(allocation), now_ns=now_ns, rng=rng)
                for name in allocation.tasks:
                    due_ns = due_of(allocation.tasks[name])
                    if due_ns is not None and due_ns <= now_ns:
                        self.timers.discard(allocation.id, name)
                if step.effects:
                    steps.append(step)
        return steps

    def _check(self) -> None:
        """Assert that no data is held for a removed allocation."""
        self.timers._check()  # noqa: SLF001 - the check of a part is a part of the check
        allocations = self.fold.allocations
        assert self._groups.keys() <= allocations.keys()
        assert all(due.task in allocations[due.alloc].tasks for due in self.timers)


def impossible(due: DueInput, refusal: TaskfoldError) -> Step:
    """Return the step of an input that is due, and cannot be decided."""
    return Step(alloc=due.alloc, time_ns=due.time_ns, outcome="impossible", notes=((due.task, str(refusal)),))


def _timers_of(allocation: Allocation) -> list[tuple[str, str, int]]:
    """Return the due times of an allocation's tasks. O(tasks)."""
    return [
        (allocation.id, name, due_ns) for name, task in allocation.tasks.items() if (due_ns := due_of(task)) is not None
    ]


def _records_of(state: StateLike, step: Step, version: int, id: str | None) -> list[Record]:
    """Return the records of a step: one write, whose first record has the input's ID."""
    index, seq = state.index + 1, state.seq
    return [
        Record(
            seq=seq + place,
            index=index,
            alloc=step.alloc,
            version=version + place,
            task=entry.task,
            time_ns=step.time_ns,
            id=id if id is not None and place == 1 else UNSET,
            event=_indexed(entry.event, index),
        )
        for place, entry in enumerate(step.writes, start=1)
    ]


def _indexed(event: Event, index: int) -> Event:
    """Add AllocModifyIndex to a server's update, as each such write in Nomad does."""
    if not isinstance(event, Updated) or "DesiredStatus" not in event.fields:
        return event
    return Updated(fields={**event.fields, "AllocModifyIndex": Raw(b"%d" % index)}, cleared=event.cleared)
