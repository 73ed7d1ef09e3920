"""The engine: live allocations over a log, where the embedder says which event happened, or lets taskfold decide.

Any thread may call any method. Writers take turns: one append is checked, written to the log and folded before the next
begins. Readers never wait for the log's disk, and see an append whole or not at all (`taskfold.store`). Callbacks of
bound models run in the thread that writes, while it has its turn: they may read, and write, too.
"""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from taskfold.allocation import Fold
from taskfold.binding import Binding, Condition
from taskfold.clock import Clock, SystemClock
from taskfold.codecs.allocation import Snapshot
from taskfold.codecs.fields import fields_from_json
from taskfold.deciding import Decider
from taskfold.dialect import DEFAULT_DIALECT, Dialect
from taskfold.effects import Step
from taskfold.errors import AppendRefused, DecodeError, LogError, Refused, TaskfoldError
from taskfold.events import TaskEvent
from taskfold.group import Group
from taskfold.inputs import Input
from taskfold.log.contract import Append, EventLog, SharedLog
from taskfold.log.memory import MemoryLog
from taskfold.log.opening import is_new_log, open_log
from taskfold.nomad.importer import Importer
from taskfold.nomad.observation import Observation
from taskfold.reading import Reading
from taskfold.record import Finished, Placed, Record, Updated, Write
from taskfold.store import Store
from taskfold.watch import WAITERS_PER_KEY
from taskfold.writing import Draft, checked_time, placed_body, to_json_fields

__all__ = ["Engine"]

_RECORDS_PER_CHECKPOINT: Final = 10_000
"""From how many records on closing leaves a checkpoint: folding fewer takes some ten milliseconds."""


class Engine(Reading):
    """Keeps the state of allocations, and records what happens to their tasks in a log.

    >>> from taskfold import events
    >>> engine = Engine(dialect="1.1.2")
    >>> engine.place({"ID": "203266e5", "JobID": "example"})
    >>> for event in (events.Received(), events.Started(), events.Terminated(exit_code=1), events.Restarting()):
    ...     _ = engine.record("203266e5", "redis", event)
    >>> engine.task("203266e5", "redis").state, engine.task("203266e5", "redis").restarts
    ('pending', 1)
    """

    def __init__(
        self,
        log: EventLog | None = None,
        *,
        dialect: str | Dialect = DEFAULT_DIALECT,
        clock: Clock | None = None,
        waiters_per_key: int = WAITERS_PER_KEY,
        seed: int | None = None,
    ) -> None:
        """Go on from a log, or begin in memory. O(records of the log).

        The index goes on from the log's. A clock that is a `taskfold.clock.Timer` governs how long waits last, too.
        A seed makes the jitter of restart delays the same in every run; without one it is random.
        """
        self.store = Store(MemoryLog(dialect) if log is None else log, waiters_per_key=waiters_per_key)
        """The state behind the engine, for faces that read much."""
        self.dialect = self.store.dialect
        self.clock: Clock = SystemClock() if clock is None else clock
        self._turn = threading.RLock()
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._listeners: list[Callable[[Step], object]] = []
        self._decider = Decider(self.store, random.Random(seed))  # noqa: S311 - jitter is no secret
        self._writing: AbstractContextManager[object] = (
            self._turn if self.store.shared is None else _SharedTurn(self, self.store.shared)
        )
        """The turn of a writer; where the log is shared, others cannot append meanwhile, and the state is as theirs."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        dialect: str | Dialect | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> Self:
        """Go on from a log, or begin one: ``x.db`` (SQLite), ``x.jsonl`` (lines), ``postgresql://…``. O(records).

        A checkpoint that the log keeps spares the records before it. A new log is of the default dialect unless one is
        named. Raises LogError and DialectError.
        """
        name = dialect.name if isinstance(dialect, Dialect) else dialect
        log = open_log(path, name or (DEFAULT_DIALECT if is_new_log(path) else None))
        try:
            return cls(log, clock=clock, seed=seed)
        except BaseException:
            log.close()
            raise

    # --- writing ---

    def place(self, allocation: Snapshot | Mapping[str, Any] | bytes | str, *, time_ns: int | None = None) -> None:
        """Place an allocation: its top-level fields, as Nomad's JSON or as an object of the same names.

        Its indexes are the engine's; task states and client status follow from events, and are not taken. CreateTime
        is the clock's unless told. Raises DecodeError when it has no ID, and VersionConflict when that ID was placed
        before.
        """
        fields = dict(allocation.fields) if isinstance(allocation, Snapshot) else fields_from_json(_text(allocation))
        if "ID" not in fields:
            raise DecodeError("$.ID: expected the ID of the allocation, found nothing")
        try:
            alloc = msgspec.json.decode(fields["ID"], type=str)
        except msgspec.DecodeError:
            raise DecodeError(f"$.ID: expected a text, found {fields['ID'][:60].decode(errors='replace')}") from None
        self._append_one(Write(alloc=alloc, event=Placed(body=placed_body(fields)), time_ns=time_ns))

    def record(
        self,
        alloc: str,
        task: str,
        event: TaskEvent | Finished,
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Record | None:
        """Record that an event happened to a task; return its record, or None when its ID was recorded before.

        A task that is dead with no event that says so (a batch task that ended well, a task that was killed) is
        `Finished`.
        The time is the clock's unless given; an event without a time of its own takes it, too.
        Raises UnknownAllocation, IllegalEvent, Refused (by a bound model), VersionConflict, and LogError when the log
        cannot be written: then nothing changed.
        """
        return self._append_one(
            Write(
                alloc=alloc,
                task=task,
                event=event,  # type: ignore[arg-type]  # a member of the union, by the registry
                time_ns=time_ns,
                id=id,
                expected_version=expected_version,
            )
        )

    def update(
        self,
        alloc: str,
        fields: Mapping[str, Any],
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Record | None:
        """Change top-level fields of an allocation (DesiredStatus, NextAllocation …), as a server of Nomad does.

        AllocModifyIndex moves with it. Values are what JSON can say, or msgspec.Raw.
        Raises as `record` does, and DecodeError for a field that follows from the log.
        """
        event = Updated(fields=to_json_fields(fields))
        return self._append_one(
            Write(alloc=alloc, event=event, time_ns=time_ns, id=id, expected_version=expected_version)
        )

    def append(self, writes: Iterable[Write]) -> list[Record | None]:
        """Append several writes, all or none of them, as one write with one index; None stands for a repeat.

        Raises AppendRefused, which names every write that is refused and why; LogError when the log cannot be written.
        Then nothing changed.
        """
        with self._writing:
            draft = Draft(self.store, self.clock.time_ns())
            for write in writes:
                draft.add(write)
            if draft.refusals:
                raise AppendRefused(draft.refusals)
            self._commit(draft)
            return draft.records()

    def check(self, writes: Iterable[Write]) -> list[tuple[int, TaskfoldError]]:
        """Return which of these writes `append` would refuse now, by their place from 0, and why; append nothing."""
        with self._writing:
            draft = Draft(self.store, self.clock.time_ns())
            for write in writes:
                draft.add(write)
            return draft.refusals

    def _append_one(self, write: Write) -> Record | None:
        """Append one write; what refuses it is raised as it is."""
        with self._writing:
            draft = Draft(self.store, self.clock.time_ns())
            draft.add(write)
            for _, refusal in draft.refusals:
                raise refusal
            self._commit(draft)
            return draft.records()[0]

    def _commit(self, draft: Draft) -> None:
        """Write what was drafted, with the callbacks of bound models around it."""
        run: Callable[[], None] = draft.commit
        if self._bindings:
            bound: set[tuple[str, str]] = set()
            # Each commits inside the one before it, so that all that may refuse comes before the append.
            for record in reversed(draft.drafted):
                task = record.alloc, record.task
                binding = self._bindings.get(task)
                if binding is None:
                    continue
                if task in bound:
                    raise Refused(f"task {record.task!r} is bound to a model: one append can have one event of it")
                bound.add(task)
                assert isinstance(record.event, (TaskEvent, Finished))
                run = self._bound(binding, *task, [record.event], run)
        run()

    def _bound(
        self,
        binding: Binding,
        alloc: str,
        task: str,
        events: Sequence[TaskEvent | Finished],
        inner: Callable[[], None],
    ) -> Callable[[], None]:
        """Return what runs ``inner`` between the callbacks that come before the append and those after it."""

        def append() -> str:
            inner()
            return self.store.fold.owned(alloc).tasks[task].state

        return lambda: binding.run(task, events, append)

    # --- deciding ---

    def report(
        self,
        alloc: str,
        task: str,
        said: Input,
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report what happened to a task, or what somebody wants (an empty task: of the allocation); taskfold decides.

        What is decided is recorded as one write before this returns; then the step's effects are owed, in order. The
        outcome of an input that does not fit is in the step, too, and changes nothing; see `taskfold.decide`.
        O(1), or O(tasks of the allocation) where others are concerned.

        >>> from taskfold import events, inputs
        >>> engine = Engine(dialect="1.1.2", seed=1)
        >>> engine.place({"ID": "203266e5", "JobID": "example"})
        >>> for said in (inputs.Placed(), inputs.Started(), inputs.Exited(exit_code=1)):
        ...     step = engine.report("203266e5", "redis", said)
        >>> [event.restart_reason for _, event in step.events if isinstance(event, events.Restarting)]
        ['Restart within policy']

        Raises UnknownAllocation, InputRefused, PolicyRefused, DecodeError (of the allocation's job), ClockWentBack,
        VersionConflict, Refused (by a bound model), and LogError when the log cannot be written: then nothing changed.
        """
        with self._writing:
            now_ns = self.clock.time_ns() if time_ns is None else checked_time(time_ns)
            step, records = self._decider.decided(alloc, task, said, now_ns, id, expected_version)
            self._commit_step(step, records)
            return step

    def due(self, now_ns: int | None = None) -> list[Step]:
        """Return what is owed by a time (unix nanoseconds; now, unless given): delayed starts, and kills to try again.

        Each is told once; after a restart of the process what nobody reported on is told again. O(log n) for each.
        What cannot be decided (a job that was updated to one that is not valid) has a step whose outcome is impossible,
        and keeps nobody else waiting. Raises LogError when the log cannot be written: then it is still due.
        """
        with self._turn:
            until_ns = self.clock.time_ns() if now_ns is None else checked_time(now_ns)
            steps: list[Step] = []
            try:
                while self._decider.first_due(until_ns) is not None:
                    with self._writing:
                        steps += self._first_due(until_ns)
            except LogError:
                if not steps:
                    raise  # else what they owe must not be lost; the next call tells of the log
            return steps

    def _first_due(self, until_ns: int) -> list[Step]:
        """Decide what is due first; nothing where another process has decided it. Raises LogError."""
        due = self._decider.first_due(until_ns)
        if due is None:
            return []
        alloc, task, said, time_ns = due
        try:
            step, records = self._decider.decided(alloc, task, said, time_ns)
            self._commit_step(step, records)
        except LogError:
            raise
        except TaskfoldError as refusal:
            step = Step(alloc=alloc, time_ns=time_ns, outcome="impossible", notes=((task, str(refusal)),))
            self._tell(step)
        self._decider.timers.discard(alloc, task)
        return [step]

    def next_due(self) -> int | None:
        """Return when `due` has something to tell next (unix nanoseconds); None when nothing is planned. O(1)."""
        with self._turn:
            return self._decider.timers.next_ns

    def restore(self, now_ns: int | None = None) -> list[Step]:
        """Return what is still owed to every allocation that taskfold decides for, after the embedder was away.

        Starts and kills that nobody reported on are owed (again); what is due later comes by `due`. An embedder that
        finds a process reports `Restored`, or how it ended. O(tasks).
        """
        with self._turn:
            return self._decider.restore(self.clock.time_ns() if now_ns is None else checked_time(now_ns))

    def group(self, alloc: str) -> Group:
        """Return what decisions see of an allocation's task group. Raises UnknownAllocation, and as `report` does."""
        with self._turn:
            return self._decider.group(self.store.fold.owned(alloc))

    def _commit_step(self, step: Step, records: list[Record]) -> None:
        """Write what was decided, with the callbacks of bound models around it, and plan what is due."""
        is_recorded = False

        def append() -> None:
            nonlocal is_recorded
            if records:
                self.store.commit([Append(step.alloc, records[0].version - 1, records)])
            is_recorded = True

        run: Callable[[], None] = append
        if self._bindings:
            for task in dict.fromkeys(task for task, _ in step.moves):
                binding = self._bindings.get((step.alloc, task))
                if binding is not None:
                    events = [event for of, event in step.moves if of == task]
                    run = self._bound(binding, step.alloc, task, events, run)
        try:
            run()
        finally:
            # Also when a callback after the append raises: what was recorded is owed.
            if is_recorded:
                self._decider.plan(step)
                self._tell(step)

    def _tell(self, step: Step) -> None:
        """Tell of a step who listens."""
        for listener in tuple(self._listeners):
            listener(step)

    def on_step(self, listener: Callable[[Step], object]) -> Callable[[], None]:
        """Have a function called with every step that is decided, whoever reported; return what ends that.

        It is called by the thread that decided, in the order of the decisions, after the step was recorded, and must be
        quick: others wait for their turn. What it raises reaches who reported. So an embedder sees what was asked for
        through HTTP, too.
        """
        with self._turn:
            self._listeners.append(listener)

        def end() -> None:
            with self._turn:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def steps_async(self) -> AsyncIterator[Step]:
        """Yield every step that is decided from now on, on the running event loop; what is due comes at its time."""
        from taskfold.steps_async import steps_async

        return steps_async(self)

    def observe(self, *observations: Observation) -> list[Record]:
        """Record what a real Nomad said of allocations, as one write; return the records that explain it.

        Those of one call are all recorded or none. They have the observations' own indexes: an engine that observes
        mirrors a Nomad, and should not be written to otherwise. Raises DecodeError and LogError: then nothing changed.
        """
        with self._writing:
            scratch = Fold(self.dialect, on_illegal="keep")
            importer = Importer(self.dialect, scratch)
            records: dict[str, list[Record]] = {}
            for observation in observations:
                known = self.store.fold.allocations.get(observation.alloc)
                if known is not None and observation.alloc not in scratch:
                    scratch.allocations[observation.alloc] = known.copy()
                records.setdefault(observation.alloc, []).extend(importer.observe(observation))
            return self.store.commit(
                [Append(alloc, found[0].version - 1, found) for alloc, found in records.items() if found]
            )

    # --- a log that others write, too ---

    def catch_up(self) -> int:
        """Take in what other processes have appended to the log; return how many records that were. O(records).

        An engine does so whenever it writes; `taskfold.shared.LogListener` has it do so as soon as they have.
        Raises LogError.
        """
        with self._turn:
            before = self.store.seq
            if self.store.shared is not None:
                self._take_in()
            return self.store.seq - before

    def _take_in(self) -> None:
        """Take in what others have appended: their states, for models that are bound to them, too, and timers."""
        for alloc in self.store.catch_up():
            self._decider.replan(alloc)
            for (of, name), binding in self._bindings.items():
                if of == alloc:
                    task = self.store.fold.owned(alloc).tasks.get(name)
                    binding.move("" if task is None else task.state)

    # --- models of one's own ---

    def bind(
        self,
        alloc: str,
        task: str,
        model: Any,
        *,
        conditions: Mapping[str, Condition | Sequence[Condition]] | None = None,
        unless: Mapping[str, Condition | Sequence[Condition]] | None = None,
    ) -> Binding:
        """Bind a model to a task: its callbacks and conditions run when an event is recorded; see `taskfold.binding`.

        A model that was bound to the task before is unbound. Tasks without one pay nothing for it.
        Raises UnknownAllocation.
        """
        with self._turn:
            found = self.store.fold.owned(alloc).tasks.get(task)
            state = "pending" if found is None else found.state
            binding = Binding(model, self.dialect, state=state, conditions=conditions, unless=unless)
            self._bindings[alloc, task] = binding
            return binding

    def unbind(self, alloc: str, task: str) -> None:
        """Let the model of a task go; without one, do nothing."""
        with self._turn:
            self._bindings.pop((alloc, task), None)

    # --- the end ---

    def checkpoint(self) -> bool:
        """Have the log keep the state as it is now, so that opening it again is fast; tell whether it can. O(tasks).

        A log in SQLite can. Raises LogError.
        """
        with self._turn:
            return self.store.save_checkpoint()

    def close(self) -> None:
        """End every wait with what is known then, and close the log; nothing can be written afterwards.

        A log that keeps checkpoints gets one, when much was recorded since the last.
        """
        with self._turn:
            if not self.store.is_closed:
                if self.store.seq - self.store.checkpoint_seq >= _RECORDS_PER_CHECKPOINT:
                    with suppress(LogError):  # the log is whole without it
                        self.store.save_checkpoint()
                self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _SharedTurn:
    """The turn of one writer of a log that other processes write, too."""

    def __init__(self, engine: Engine, log: SharedLog) -> None:
        self._engine = engine
        self._log = log

    def __enter__(self) -> None:
        """Take the turn of this process, then that of all, and take in what the others have appended."""
        engine = self._engine
        engine._turn.acquire()  # noqa: SLF001 - the two are one
        try:
            newest = self._log.begin_turn()
            try:
                if newest != engine.store.seq:
                    engine._take_in()  # noqa: SLF001
            except BaseException:
                self._log.end_turn()
                raise
        except BaseException:
            engine._turn.release()  # noqa: SLF001
            raise

    def __exit__(self, *_: object) -> None:
        """End both."""
        try:
            self._log.end_turn()
        finally:
            self._engine._turn.release()  # noqa: SLF001


def _text(allocation: Mapping[str, Any] | bytes | str) -> bytes | str:
    if not isinstance(allocation, Mapping):
        return allocation
    try:
        return msgspec.json.encode(allocation)
    except TypeError as error:
        raise DecodeError(f"the allocation cannot be written as JSON: {error}") from None
