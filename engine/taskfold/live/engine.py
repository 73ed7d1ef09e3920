"""The engine: live allocations over a log. The embedder records events, or lets taskfold decide on inputs.

Any thread may call any method. Writers take turns: one append is checked, written to the log and folded before the next
begins. Readers never wait for the log's disk, and see an append whole or not at all (`live.store`). Callbacks of bound
models and listeners run after the turn, when nothing is locked (`live.callbacks`).
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import Raw

from taskfold.decision.group import Group
from taskfold.fold.allocation import AllocationState, Fold
from taskfold.fold.binding import Binding, Condition
from taskfold.fold.status import is_client_terminal
from taskfold.fold.task import TaskState
from taskfold.live.arguments import (
    Durability,
    check_durability,
    check_listener,
    check_model,
    check_text,
    checked_reports,
    checked_time,
    checked_writes,
)
from taskfold.live.background import LogListener
from taskfold.live.core import Core
from taskfold.live.draft import Draft, placing, updating
from taskfold.live.drafting import Drafter
from taskfold.live.due import Deadlines
from taskfold.live.grouping import Groups
from taskfold.live.grouping_async import write_async
from taskfold.live.listeners import Listeners
from taskfold.live.models import NOTHING
from taskfold.live.reader import Reader
from taskfold.live.retention import Candidate, Retention, candidates
from taskfold.live.steps_async import StepsAsync
from taskfold.live.store import Listing, Store
from taskfold.live.turns import Turns, in_turn, writing
from taskfold.live.waiters import WAITERS_PER_KEY, Question, Reply, wait, wait_async
from taskfold.log.contract import Append, CompactableLog, EventLog, VersionedLog, check_dialect, kept_records
from taskfold.log.memory import MemoryLog
from taskfold.log.ownership import Owned
from taskfold.log.read_only import ReadOnlyLog
from taskfold.log.registry import is_new_log, open_log, open_reader
from taskfold.model.clock import Clock, SystemClock
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect
from taskfold.model.effects import Step
from taskfold.model.errors import (
    DecodeError,
    Gone,
    ListenerError,
    LogError,
    Refused,
    TaskfoldError,
    UnknownAllocation,
    UnreadableLog,
)
from taskfold.model.events import TaskEvent
from taskfold.model.inputs import Input, PostedInput
from taskfold.model.record import Collected, Finished, Record, Write
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.memory import Memory
from taskfold.nomad.importing.observation import Observation, Statement, check_statement
from taskfold.nomad.snapshot import Snapshot

if TYPE_CHECKING:
    from taskfold.pictures.timeline import Timeline

__all__ = ["Engine"]

_RECORDS_PER_CHECKPOINT: Final = 10_000
"""The least number of new records for which closing writes a checkpoint: folding fewer takes some ten milliseconds."""

_COLLECTED_AT_ONCE: Final = 256
"""How many allocations one write collects; other writers get a turn in between."""


class Engine(Owned):
    """Live allocations, whose events it records in a log.

    - lifetime: `open`, `close`, `checkpoint`, `backup`, `compact`, `catch_up`
    - events, chosen by the embedder: `place`, `record`, `update`, `append`, `check`; from a real Nomad: `observe`,
      `observe_removal`, `begin_epoch`
    - decisions, made by taskfold: `report`, `report_all`, `report_batch`, `report_async`; `due`, `next_due`, `restore`,
      `group`
    - reading: `task`, `snapshot`, `allocations`, `history`, `timeline`, `subscribe`, `index`; for servers, `reader`
    - waiting: `wait`, `wait_job`, `wait_index`, each with an async twin; `release`
    - listeners: `on_step`, `on_collect`, `steps_async`; models: `bind`, `unbind`
    - retention: `collect`, `collectable`, `retain`, `is_collected`

    It is a `taskfold.Core` with a log, a clock and locks around it.

    >>> from taskfold import events
    >>> engine = Engine(dialect="1.1.2")
    >>> engine.place({"ID": "203266e5", "JobID": "example"})
    >>> for event in (events.Received(), events.Started(), events.Terminated(exit_code=1), events.Restarting()):
    ...     _ = engine.record("203266e5", "redis", event)
    >>> engine.task("203266e5", "redis").state, engine.task("203266e5", "redis").restarts
    ('pending', 1)
    """

    instead = "open its log again where it is needed, with read_only=True to read; snapshots and records can be copied"

    def __init__(
        self,
        log: EventLog | None = None,
        *,
        dialect: str | Dialect = DEFAULT_DIALECT,
        clock: Clock | None = None,
        waiters_per_key: int = WAITERS_PER_KEY,
        seed: int | None = None,
        core: Core | None = None,
        durability: Durability = "batch",
    ) -> None:
        """Continue from a log, or start in memory. O(records of the log).

        ``durability``: with ``batch``, concurrent writes of threads and tasks share one wait for the disk; with
        ``each``, every write waits by itself. Either way a write is acknowledged when it is on disk. ``core`` is given
        if opening the log has already folded its records. A clock that is a `model.clock.Timer` also measures the
        timeouts of waits. A ``seed`` makes the jitter of restart delays reproducible. Raises LogError, and DecodeError
        for invalid arguments.
        """
        check_durability(durability)
        if isinstance(log, (str, os.PathLike)):
            raise LogError(f"expected a log, found the path {os.fspath(log)!r}: Engine.open(path) opens the log there")
        log = MemoryLog(dialect) if log is None else log
        self.store = Store(log, waiters_per_key=waiters_per_key, core=core)
        """The state and the log: internal; servers use the `reader`."""
        self.reader = Reader(self.store)
        """The read interface for servers."""
        self.dialect = self.store.dialect
        self._core = self.store.core
        self._core.plan_all()
        self._turns = Turns(self.store)
        self._groups = Groups(self._turns, is_grouping=durability == "batch" and hasattr(log, "sync"))
        rng = random.Random(seed)  # noqa: S311 - jitter needs no cryptographic randomness
        self._drafter = Drafter(self._turns, SystemClock() if clock is None else clock, rng)
        self._deadlines = Deadlines(self._turns, self._groups, self._drafter)
        self._collect_listeners = Listeners[Snapshot, str]()
        self._memory = Memory()
        """The importer's memory of observations, which the state does not have."""
        self._listener: LogListener | None = None
        """Follows the writes of other processes, if the engine is read-only."""
        self._own_with(log)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        dialect: str | Dialect | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
        read_only: bool = False,
        durability: Durability = "batch",
    ) -> Self:
        """Open a log, or create it: ``x.db`` (SQLite), ``x.jsonl`` (JSON lines), ``postgresql://…``. O(records).

        A checkpoint beside the log saves reading the records before it. A new log gets the default dialect unless one
        is given.

        With ``read_only`` the log must exist, and another process may write it: the engine follows its appends and
        wakes its own waiters; every method that writes raises ReadOnly, and nothing is locked, created or changed.
        ``durability`` is as for `Engine`. Raises LogError and DialectError.
        """
        check_durability(durability)
        if read_only:
            return cls._open_reader(path, dialect, clock, seed)
        name = dialect.name if isinstance(dialect, Dialect) else dialect
        core = Core()
        log = open_log(path, name or (DEFAULT_DIALECT if is_new_log(path) else None), reader=core)
        try:
            return cls(log, clock=clock, seed=seed, core=core, durability=durability)
        except BaseException:
            log.close()
            raise

    @classmethod
    def _open_reader(
        cls, path: str | Path, dialect: str | Dialect | None, clock: Clock | None, seed: int | None
    ) -> Self:
        """Open a log read-only, and follow it. Raises LogError and DialectError."""
        core = Core()
        log = open_reader(path, reader=core)
        try:
            if dialect is not None:
                check_dialect(log.header, dialect)
            engine = cls(log, clock=clock, seed=seed, core=core)
            engine._listener = LogListener(engine)
            engine._listener.start()
        except BaseException:
            log.close()
            raise
        return engine

    @property
    def clock(self) -> Clock:
        """The clock, for the times of writes and decisions, and for timeouts."""
        return self._drafter.clock

    @clock.setter
    def clock(self, clock: Clock) -> None:
        self._drafter.clock = clock

    @property
    def is_read_only(self) -> bool:
        """Whether the log was opened read-only: then every method that writes raises ReadOnly."""
        return isinstance(self.store.log, ReadOnlyLog)

    def _check_writable(self) -> None:
        """Raise ReadOnly if the log was opened read-only."""
        if isinstance(self.store.log, ReadOnlyLog):
            self.store.log.refuse()

    # --- events ---

    def place(self, allocation: Snapshot | Mapping[str, Any] | bytes | str, *, time_ns: int | None = None) -> None:
        """Place an allocation: its top-level fields, as Nomad's JSON or as a mapping of the same names.

        The engine assigns the indexes; task states and client status follow from events, and are ignored here.
        CreateTime is the clock's unless given. A Job may be in the short form that people write; it is stored in the
        canonical form of the dialect's Nomad (`taskfold.nomad.jobs.canonical`). A Job with a JobModifyIndex comes from
        a Nomad, and is stored unchanged. Raises DecodeError when the ID is missing or the Job is invalid, and
        VersionConflict when the ID was placed before.
        """
        self._groups.write(self._drafter.write, placing(allocation, time_ns))

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
        """Record an event of a task; return its record, or None if the ID was recorded before.

        For a death without a Nomad event (a batch task that ended well, a killed task) record `Finished`. The time is
        the clock's unless given; an event without its own time gets it, too. Raises UnknownAllocation, IllegalEvent,
        Refused (by a bound model), VersionConflict, DecodeError, and LogError when the log cannot be written: then
        nothing changed. Raises ListenerError when the event was recorded, and then a model's callback raised.
        """
        return self._groups.write(
            self._drafter.write,
            Write(
                alloc=alloc,
                task=task,
                event=event,
                time_ns=time_ns,
                id=id,
                expected_version=expected_version,
            ),
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

        AllocModifyIndex changes, too. Values are JSON values, or msgspec.Raw. Raises as `record` does, and DecodeError
        for a field that follows from the log.
        """
        write = updating(alloc, fields, time_ns=time_ns, id=id, expected_version=expected_version)
        return self._groups.write(self._drafter.write, write)

    def append(self, writes: Iterable[Write]) -> list[Record | None]:
        """Append several writes, all or none, with one index; return a record for each, None for a repeat.

        Raises AppendRefused, which names every refused write and its error, and LogError when the log cannot be
        written: then nothing changed. Raises ListenerError when all was recorded, and then a model's callback raised.
        """
        # Consumed here, outside the turn, as an iterator may run any code.
        return self._groups.write(self._drafter.append, checked_writes(writes))

    def check(self, writes: Iterable[Write]) -> list[tuple[int, TaskfoldError]]:
        """Return the writes that `append` would refuse now, by their place from 0, with the errors; append nothing."""
        return self._check_writes(checked_writes(writes))

    @writing
    def _check_writes(self, writes: Sequence[Write]) -> list[tuple[int, TaskfoldError]]:
        draft = Draft(self._core, self.clock.time_ns())
        for write in writes:
            draft.add(write)
        return draft.refusals

    @writing
    def observe(self, *statements: Statement) -> list[Record]:
        """Record observations of a real Nomad, as one write; return the records that explain them.

        They are recorded all or none, with the indexes of the observations: an engine that observes is a mirror, and
        should have no other writes. Collected allocations stay collected. Facts on jobs from a stream are remembered,
        so that several calls have the effect of one with all observations. Raises DecodeError and LogError: then
        nothing changed.
        """
        scratch, allocations = Fold(self.dialect, on_illegal="keep"), self._core.fold.allocations
        draft = self._memory.draft()
        importer = Importer(self.dialect, scratch, memory=draft)
        records: dict[str, list[Record]] = {}
        for statement in statements:
            check_statement(statement)
            if isinstance(statement, Observation) and statement.alloc not in scratch:
                # The state has the jobs that this call does not mention.
                before = allocations.get(statement.alloc)
                is_old = (
                    self._is_in_log(statement.alloc) if before is None else self._memory.is_repeat(statement, before)
                )
                if is_old:
                    continue
            for alloc in importer.concerned(statement):
                if alloc in allocations and alloc not in scratch:
                    scratch.allocations[alloc] = allocations[alloc].copy()
            for record in importer.observe(statement):
                records.setdefault(record.alloc, []).append(record)
        appends = [Append(alloc, of_alloc[0].version - 1, of_alloc) for alloc, of_alloc in records.items()]
        # The state folds what the log returns, a write at a time, as always: who follows gets the state after each.
        new_records = self.store.commit(appends)
        self._memory.keep(draft, self._core.fold)
        self._turns.publish_moves(records, new_records)
        return new_records

    def _is_in_log(self, alloc: str) -> bool:
        """Return whether the log has records of an allocation that is not live: it was collected. In the turn."""
        log = self.store.log
        return log.version_of(alloc) > 0 if isinstance(log, VersionedLog) else self.is_collected(alloc)

    @writing
    def observe_removal(
        self, reasons: Mapping[str, str], index: int = 0, *, time_ns: int | None = None
    ) -> list[Record]:
        """Record that a mirrored Nomad no longer has some allocations, with reasons, as one write; return the records.

        Each is collected, ended or not: its last record has its last known state. The index is the one at which that
        was seen. Unknown and collected allocations are left out. O(tasks). Raises LogError: then nothing
        changed. Raises ListenerError when it was recorded, and then a listener raised.
        """
        removed = [Candidate(alloc, reason) for alloc, reason in reasons.items() if alloc in self._core]
        now_ns = checked_time(self.clock.time_ns() if time_ns is None else time_ns)
        return self._collect(removed, now_ns, index=index) if removed else []

    @in_turn
    def begin_epoch(self) -> None:
        """Note that the index of the mirrored Nomad went back: its servers were restored, or set up again.

        Waiters are woken, and need not sleep until the new indexes have passed the old ones: from now on
        `index` is the newest old one plus the newest since. Records and allocations keep the indexes that Nomad gave
        them. The log does not have it: after a restart the mirror notes it again, if the newest index is still lower.
        """
        self.store.begin_epoch()

    # --- decisions ---

    def report(
        self,
        alloc: str,
        task: str,
        input: Input,
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report an input for a task, or for the allocation (an empty task); taskfold decides, and returns the step.

        The decision is recorded as one write before this returns; then the step's effects are owed, in order. An input
        that does not fit changes nothing; the step's outcome says why (`taskfold.decision.rules`). O(1), or O(tasks of
        the allocation) if the decision involves other tasks.

        >>> from taskfold import Engine, events, inputs
        >>> engine = Engine(dialect="1.1.2", seed=1)
        >>> engine.place({"ID": "203266e5", "JobID": "example"})
        >>> for input in (inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.Exited(exit_code=1)):
        ...     step = engine.report("203266e5", "redis", input)
        >>> [event.restart_reason for _, event in step.events if isinstance(event, events.Restarting)]
        ['Restart within policy']

        Raises UnknownAllocation, InputRefused, PolicyRefused, DecodeError (for the allocation's job), ClockWentBack,
        VersionConflict, Refused (by a bound model), and LogError when the log cannot be written: then nothing changed.
        Raises ListenerError, which has the step, when it was recorded, and then a listener raised. If the call is
        interrupted (KeyboardInterrupt) after the recording, the next `due` returns the step.
        """
        return self._groups.write(self._drafter.report, alloc, ((task, input),), time_ns, id, expected_version)

    def report_all(
        self,
        alloc: str,
        inputs: Sequence[tuple[str, Input]],
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report inputs of one allocation that were learnt at the same time, each with its task; decide them together.

        So if two tasks ended together, neither end is treated as a consequence of the other. One write, all or nothing;
        the outcome is ``decided`` if that of any input is. Raises as `report` does.

        >>> from taskfold import Engine, inputs
        >>> engine = Engine(dialect="1.1.2", seed=1)
        >>> engine.place({"ID": "203266e5", "JobID": "example"})
        >>> tasks = "redis", "stats"
        >>> for input in (inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.KillRequested(), inputs.Exited()):
        ...     step = engine.report_all("203266e5", [(task, input) for task in tasks])
        >>> step.effects, engine.snapshot("203266e5").client_status
        ((ReleaseResources(),), 'complete')
        """
        return self._groups.write(self._drafter.report, alloc, inputs, time_ns, id, expected_version)

    def report_batch(self, reports: Iterable[PostedInput]) -> list[Step]:
        """Report inputs of any allocations in one append; return a step for each, in order.

        Each is decided and recorded as if it had been reported alone, after those before it, with its own index; all
        are on disk after one wait, or none is. For inputs of one allocation that were learnt at the same time, use
        `report_all`. O(reports).

        >>> from taskfold import Engine, inputs
        >>> engine = Engine(dialect="1.1.2", seed=1)
        >>> allocs, pair = ("203266e5", "69e8e345"), (inputs.PlacementReceived(), inputs.ProcessStarted())
        >>> for alloc in allocs:
        ...     engine.place({"ID": alloc, "JobID": "example"})
        >>> reports = [inputs.PostedInput(alloc=alloc, task="redis", input=one) for one in pair for alloc in allocs]
        >>> steps = engine.report_batch(reports)
        >>> [step.alloc for step in steps], engine.index
        (['203266e5', '69e8e345', '203266e5', '69e8e345'], 6)

        Raises AppendRefused, which names every refused report with the error that `report` would raise, and LogError
        when the log cannot be written: then nothing changed. Raises ListenerError, which has the steps, when all was
        recorded, and then a listener raised. If the call is interrupted after the recording, the next `due` returns the
        steps.
        """
        return self._groups.write(self._drafter.batch, checked_reports(reports))

    async def report_async(
        self,
        alloc: str,
        task: str,
        input: Input,
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report as `report` does, without blocking the event loop.

        Concurrent reports of tasks and threads share one wait for the disk. If the task is cancelled after its report
        was accepted, the next `due` returns the step. An exception of a listener goes to the event loop's exception
        handler; other errors are raised as by `report`.
        """
        pairs = ((task, input),)
        return await write_async(self._groups, self._drafter.report, alloc, pairs, time_ns, id, expected_version)

    def due(self, now_ns: int | None = None) -> list[Step]:
        """Return the steps due by a time (unix nanoseconds; default: now): delayed starts, and repeated kills.

        Each is returned once; after a restart, those without a report are returned again. O(log n) for each. An
        undecidable one, as after an update to an invalid job, gives a step whose outcome is ``impossible``, and blocks
        no other. Raises LogError when the log cannot be written: then the step is still due. Raises ListenerError when
        everything was decided, and listeners raised. After an exception or an interruption, the next call returns the
        steps decided so far.
        """
        self._check_writable()
        return self._deadlines.due(checked_time(self.clock.time_ns() if now_ns is None else now_ns))

    def next_due(self) -> int | None:
        """Return the time at which `due` has its next step (unix nanoseconds); None if there is none. O(1)."""
        return self._deadlines.next_ns()

    @in_turn
    def restore(self, now_ns: int | None = None) -> list[Step]:
        """Return the steps owed to every allocation that taskfold decides for, after a restart of the embedder.

        Starts and kills without a report are owed again; `due` returns later ones. The embedder reports `Restored` for
        each process that it finds, or how it ended. O(tasks). Raises LogError.
        """
        self._check_writable()
        until_ns = checked_time(self.clock.time_ns() if now_ns is None else now_ns)
        return self._core.restore(until_ns, rng=self._drafter.rng)

    @in_turn
    def group(self, alloc: str) -> Group:
        """Return an allocation's task group, as decisions use it. Raises UnknownAllocation and as `report` does."""
        return self._core.group(alloc)

    # --- reading ---

    @property
    def index(self) -> int:
        """The index of the newest write; 0 if there is none."""
        return self.store.index

    def task(self, alloc: str, task: str) -> TaskState:
        """Return the current state of a task. O(1). Raises UnknownAllocation and UnknownTask."""
        with self.store.lock:
            self.store.check_whole()
            return self._core.task(alloc, task)

    def snapshot(self, alloc: str) -> Snapshot:
        """Return an allocation as it is now: typed access, and JSON in any dialect. Raises UnknownAllocation."""
        return self.store.texts.snapshot(self.store.read(alloc))

    def allocations(
        self, *, job: str | None = None, node: str | None = None, status: str | None = None, prefix: str = ""
    ) -> Listing:
        """Return the allocations that match all arguments, sorted by ID, as of one index.

        ``status`` is the client status. The listing can be read while writers continue. O(log n + matches).
        """
        return self.store.listing(prefix=prefix, job=job, node=node, status=status)

    def history(self, alloc: str, task: str | None = None, *, after_version: int = 0) -> list[Record]:
        """Return the records of an allocation, or of one of its tasks. O(records).

        Also of a collected allocation. Raises UnknownAllocation, Gone where records were compacted, and LogError when
        the log lacks records that the state was folded from.
        """
        with self.store.lock:
            self.store.check_whole()
            allocation = self._core.find(alloc)
            version = 0 if allocation is None else allocation.version
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

    def timeline(self, *, title: str = "") -> Timeline:
        """Return the timeline of the log's tasks, collected ones too: a page, a drawing, a trace. O(records).

        Memory for all records. Raises LogError when the log cannot be read.
        """
        from taskfold.pictures.timeline import Timeline  # few engines are drawn

        return Timeline(kept_records(self.store.log), self.dialect, title=title)

    def subscribe(self, after: int = 0, *, timeout: float | None = None) -> Iterator[Record]:
        """Yield every record after a position, without a gap, and wait for new ones.

        Ends when no record came for ``timeout`` seconds, and when the engine is closed. Raises Gone where records were
        compacted, and LogError when the log cannot be read, or lost records.
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

    def wait(self, alloc: str, *, after: int, timeout: float | None = None) -> Snapshot | None:
        """Block until the ModifyIndex of an allocation is greater than ``after``; return its snapshot.

        After ``timeout`` seconds, or when the engine is closed, return the snapshot as it is; None if there is no such
        allocation. A missing allocation has the index of the store, as in a blocking query of Nomad: after 0 it returns
        at once. O(1) for each waiter.
        """
        return self._snapshot_of(self._wait(self.reader.state_question(alloc), after, timeout).value)

    def wait_job(self, job: str, *, after: int, timeout: float | None = None) -> int:
        """Block until the newest index of a job's allocations is greater than ``after``; return it (0: none)."""
        return self._wait(self.reader.job_question(job), after, timeout).index

    def wait_index(self, *, after: int, timeout: float | None = None) -> int:
        """Block until the newest index is greater than ``after``; return it."""
        return self._wait(self.reader.newest_index, after, timeout).index

    async def wait_async(self, alloc: str, *, after: int, timeout: float | None = None) -> Snapshot | None:  # noqa: ASYNC109 - as the others have it
        """Wait as `wait` does, on the running event loop. Cancelling frees the waiter."""
        return self._snapshot_of(
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

    def _snapshot_of(self, state: AllocationState | None) -> Snapshot | None:
        return None if state is None else self.store.texts.snapshot(state)

    def release(self) -> None:
        """End every wait, and every later one at once: each returns the current value."""
        self.store.release()

    # --- listeners, and models of one's own ---

    def on_step(self, listener: Callable[[Step], object]) -> Callable[[], None]:
        """Call ``listener`` with every step that is decided. Returns an unsubscribe function.

        It is called in the order of the decisions, after the step was recorded, when nothing is locked, so that it may
        wait for other threads, and report inputs itself. It runs in the thread that reported, or, if another thread is
        running callbacks, in that one; it never runs twice at the same time. An exception stops no other listener, and
        reaches the thread that ran it as `ListenerError`. Steps of inputs from other threads and through HTTP are
        included. Raises DecodeError for a listener that is not callable.
        """
        check_listener(listener)
        return self._groups.listeners.add(listener)

    def on_collect(self, listener: Callable[[Snapshot, str], object]) -> Callable[[], None]:
        """Call ``listener`` with each collected allocation's last snapshot and reason. Returns an unsubscribe function.

        It is called after the last record was written, when nothing is locked, as for `on_step`. An exception stops no
        other listener, and reaches the collecting thread as `ListenerError`. Raises DecodeError for a listener that is
        not callable.
        """
        check_listener(listener)
        return self._collect_listeners.add(listener)

    def steps_async(self) -> AsyncIterator[Step]:
        """Yield every step from this call on, on an event loop; steps of timers come at their time.

        One such iterator runs an engine's timers; it ends when the engine is closed.
        """
        return StepsAsync(self, self._groups.recorders)

    @in_turn
    def bind(
        self,
        alloc: str,
        task: str,
        model: Any,
        *,
        conditions: Mapping[str, Condition | Sequence[Condition]] | None = None,
        unless: Mapping[str, Condition | Sequence[Condition]] | None = None,
    ) -> Binding:
        """Bind a model to a task: its callbacks and conditions run when an event is recorded (`fold.binding`).

        It replaces the model bound before. Tasks without a model have no cost. Raises UnknownAllocation, DecodeError
        for a class instead of an instance, and TaskfoldError for conditions of unknown triggers.
        """
        check_model(task, model)
        task_state = self._core.owned(alloc).tasks.get(task)
        state = "pending" if task_state is None else task_state.state
        binding = Binding(model, self.dialect, state=state, conditions=conditions, unless=unless)
        self._turns.models.bindings[alloc, task] = binding
        return binding

    @in_turn
    def unbind(self, alloc: str, task: str) -> None:
        """Unbind the model of a task, if it has one."""
        self._turns.models.bindings.pop((alloc, task), None)

    # --- retention ---

    @writing
    def collect(self, alloc: str, *, reason: str = "asked for", time_ns: int | None = None) -> Record:
        """Collect an allocation that has ended: write its last record, and remove it from the state. O(tasks).

        >>> from taskfold import Engine, events
        >>> engine = Engine(dialect="1.1.2")
        >>> engine.place({"ID": "203266e5", "JobID": "example"})
        >>> for event in (events.Received(), events.Started(), events.NotRestarting()):
        ...     _ = engine.record("203266e5", "redis", event)
        >>> engine.collect("203266e5").event.reason
        'asked for'
        >>> len(engine.allocations()), len(engine.history("203266e5"))
        (0, 5)

        Raises UnknownAllocation, Refused when it has not ended, and LogError when the log cannot be written: then
        nothing changed. Raises ListenerError when it was collected, and then a listener raised.
        """
        check_text(alloc, "$.Alloc")
        now_ns = checked_time(self.clock.time_ns() if time_ns is None else time_ns)
        status = self.snapshot(alloc).client_status
        if status is None or not is_client_terminal(status):
            raise Refused(f"allocation {alloc} is {status}: only an ended allocation can be collected; stop it first")
        return self._collect([Candidate(alloc, reason)], now_ns)[0]

    @in_turn
    def collectable(self, retention: Retention, now_ns: int | None = None) -> list[Candidate]:
        """Return the allocations that `retain` would collect, with the reasons, oldest first. O(ended allocations)."""
        return candidates(self.store, retention, checked_time(self.clock.time_ns() if now_ns is None else now_ns))

    def retain(self, retention: Retention, now_ns: int | None = None) -> list[str]:
        """Collect all allocations that a retention does not keep; return their IDs, oldest first. O(ended allocations).

        Raises LogError when the log cannot be written: allocations not yet collected stay. Raises ListenerError when
        all were collected, and listeners raised. Raises DecodeError for an argument that is no Retention.
        """
        if not isinstance(retention, Retention):
            raise DecodeError("$: expected a Retention, such as Retention(keep=100)")
        collected_records: list[Record] = []
        problems: list[Exception] = []
        time_ns = checked_time(self.clock.time_ns() if now_ns is None else now_ns)
        while True:
            try:
                records = self._collect_some(retention, time_ns)
            except ListenerError as error:
                records = error.records
                problems += error.exceptions
            collected_records += records
            if not records:
                break
        if problems:
            raise ListenerError(problems, records=collected_records)
        return [record.alloc for record in collected_records]

    @writing
    def _collect_some(self, retention: Retention, time_ns: int) -> list[Record]:
        """Collect the first candidates, which are determined in each turn anew, as other threads may have written."""
        ended = candidates(self.store, retention, time_ns)[:_COLLECTED_AT_ONCE]
        return self._collect(ended, time_ns) if ended else []

    def _collect(self, ended: Sequence[Candidate], time_ns: int, index: int | None = None) -> list[Record]:
        """Write the last records, as one write, and call the listeners."""
        if index is None:
            # A mirror has the indexes of its Nomad, and assigns none.
            first = next(iter(self.store.log.read(ended[0].alloc)))
            index = self.store.index + (not isinstance(first.id, int))
        snapshots = [self.snapshot(one.alloc) for one in ended]
        appends = []
        for one, snapshot in zip(ended, snapshots, strict=True):
            version = self._core.owned(one.alloc).version
            body, task_states = snapshot.final_parts()
            event = Collected(reason=one.reason, body=Raw(body), task_states=Raw(task_states))
            record = Record(index=index, alloc=one.alloc, version=version + 1, time_ns=time_ns, event=event)
            appends.append(Append(one.alloc, version, [record]))
        pairs = [(snapshot, one.reason) for one, snapshot in zip(ended, snapshots, strict=True)]
        return self._turns.commit(
            appends,
            NOTHING,
            at_once=[partial(self._turns.forget, one.alloc) for one in ended],
            afterwards=self._collect_listeners.calls(pairs),
        )

    def is_collected(self, alloc: str) -> bool:
        """Return whether an allocation was collected. Raises LogError."""
        if alloc in self._core:
            return False
        try:
            return next(iter(self.store.log.read(alloc)), None) is not None
        except Gone:
            return True

    # --- the log ---

    @in_turn
    def compact(self, collected_before_ns: int | None = None) -> int:
        """Remove the records of collected allocations (collected before a time) from the log; return their number.

        The last record of each stays, and the state is unchanged. Readers of removed positions, indexes and times get
        `Gone`. O(records of the log). Raises LogError when the log cannot be compacted or written: then nothing was
        removed.
        """
        if self.store.is_closed:
            raise LogError("the engine is closed")
        if not isinstance(self.store.log, CompactableLog):
            raise LogError(f"{type(self.store.log).__name__} cannot be compacted")
        return self.store.log.compact(collected_before_ns)

    def catch_up(self) -> int:
        """Read and fold the records that other processes have appended; return their number. O(records).

        An engine does so before each write; a `taskfold.live.background.LogListener` does so after each append. Raises
        LogError.
        """
        return self._turns.catch_up()

    @in_turn
    def checkpoint(self) -> bool:
        """Write a checkpoint beside the log, for a fast opening; return whether the log has checkpoints. O(tasks).

        SQLite and PostgreSQL have them. Raises LogError and ReadOnly.
        """
        self._check_writable()
        return self.store.save_checkpoint()

    def backup(self, copy: str | Path) -> int:
        """Copy the log as of now, while others write it; return the newest position of the copy. O(records).

        The copy is a file (``x.db``, ``x.jsonl``) or a PostgreSQL database, and a complete log. Raises LogError when
        the copy exists, or cannot be written: then there is none.
        """
        from taskfold.log.backup import backup, backup_records

        log = self.store.log
        if self.store.is_closed:
            raise LogError("the engine is closed")
        if location := getattr(log, "location", ""):
            return backup(location, copy).newest
        with self._turns.lock:
            header, records = log.header, list(kept_records(log))
        return backup_records(header, [records], copy).newest

    def _check(self) -> None:
        """Assert every invariant."""
        self._turns._check()  # noqa: SLF001 - the check of a part is a part of the check

    def __repr__(self) -> str:
        """Return its log, dialect, number of allocations and index, without taking a lock."""
        log = getattr(self.store.log, "name", type(self.store.log).__name__)
        closed = ", closed" if self.store.is_closed else ""
        return (
            f"<Engine on {log}, dialect {self.dialect.name}: "
            f"{len(self.store.fold):,} allocations at index {self.index}{closed}>"
        )

    def close(self) -> None:
        """End every wait with the current value, and close the log; later writes raise LogError.

        A log with checkpoints gets one, if it has many records since the last. In a fork it does nothing.
        """
        if self.is_foreign:  # an exit handler registered before the fork
            return
        if self._listener is not None:
            self._listener.stop()
        with self._turns.lock:
            if not self.store.is_closed and self.store.seq - self.store.checkpoint_seq >= _RECORDS_PER_CHECKPOINT:
                with suppress(LogError):  # the log is complete without a checkpoint
                    self.store.save_checkpoint()
            self.store.close()  # also after an interrupted close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
