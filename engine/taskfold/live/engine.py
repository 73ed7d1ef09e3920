"""The engine: live allocations over a log, where the embedder says which event happened, or lets taskfold decide.

Any thread may call any method. Writers take turns: one append is checked, written to the log and folded before the next
begins. Readers never wait for the log's disk, and see an append whole or not at all (`live.store`). Callbacks of
bound models and listeners run when the turn is over and nothing is locked (`taskfold.live.telling`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from taskfold.fold.allocation import Fold
from taskfold.fold.binding import Binding, Condition
from taskfold.live.ahead import State
from taskfold.live.arguments import Durability, check_durability, check_model, checked_writes
from taskfold.live.collecting import Collecting
from taskfold.live.draft import Draft, placed_body, to_json_fields
from taskfold.live.folding import Folding
from taskfold.live.grouping import Drafted
from taskfold.live.reporting import Reporting
from taskfold.live.turns import NOTHING, Bound, Question, in_turn, writing
from taskfold.log.contract import Append, check_dialect, kept_records
from taskfold.log.entries import UNWRITABLE, problem_of
from taskfold.log.opening import is_new_log, open_log, open_reader
from taskfold.model.clock import Clock
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect
from taskfold.model.errors import AppendRefused, DecodeError, LogError, Refused, TaskfoldError
from taskfold.model.events import TaskEvent
from taskfold.model.record import Finished, Placed, Record, Updated, Write
from taskfold.nomad.fields import fields_from_json
from taskfold.nomad.importer import Importer
from taskfold.nomad.memory import Memory
from taskfold.nomad.observation import Observation, Statement, check_statement
from taskfold.nomad.snapshot import Snapshot

if TYPE_CHECKING:
    from taskfold.live.shared import LogListener

__all__ = ["Engine"]

_RECORDS_PER_CHECKPOINT: Final = 10_000
"""From how many records on closing leaves a checkpoint: folding fewer takes some ten milliseconds."""


class Engine(Reporting, Collecting):
    """Keeps the state of allocations, and records what happens to their tasks in a log.

    >>> from taskfold import events
    >>> engine = Engine(dialect="1.1.2")
    >>> engine.place({"ID": "203266e5", "JobID": "example"})
    >>> for event in (events.Received(), events.Started(), events.Terminated(exit_code=1), events.Restarting()):
    ...     _ = engine.record("203266e5", "redis", event)
    >>> engine.task("203266e5", "redis").state, engine.task("203266e5", "redis").restarts
    ('pending', 1)
    """

    _listener: LogListener | None = None
    """What takes in what others write, where the engine only reads."""
    _memory: Memory | None = None
    """What is remembered of what was observed, beside the state."""

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
        """Go on from a log, or begin one: ``x.db`` (SQLite), ``x.jsonl`` (lines), ``postgresql://…``. O(records).

        A checkpoint that the log keeps spares the records before it. A new log is of the default dialect unless one is
        named. With ``read_only`` the log must be there, and another process may write it: the engine takes in what that
        appends, wakes who waits, and raises ReadOnly from every method that writes; nothing is locked, made or changed.
        With a ``durability`` of ``batch`` what threads and tasks write at the same time waits for the disk together,
        with ``each`` one after the other; every write is acknowledged when it is on disk. Raises LogError and
        DialectError.
        """
        check_durability(durability)
        if read_only:
            return cls._open_reader(path, dialect, clock, seed)
        name = dialect.name if isinstance(dialect, Dialect) else dialect
        folding = Folding()
        log = open_log(path, name or (DEFAULT_DIALECT if is_new_log(path) else None), reader=folding)
        try:
            return cls(log, clock=clock, seed=seed, folding=folding, durability=durability)
        except BaseException:
            log.close()
            raise

    @classmethod
    def _open_reader(
        cls, path: str | Path, dialect: str | Dialect | None, clock: Clock | None, seed: int | None
    ) -> Self:
        """Open a log to be read only, and follow it. Raises LogError and DialectError."""
        from taskfold.live.shared import LogListener

        folding = Folding()
        log = open_reader(path, reader=folding)
        try:
            if dialect is not None:
                check_dialect(log.header, dialect)
            engine = cls(log, clock=clock, seed=seed, folding=folding)
            engine._listener = LogListener(engine)
            engine._listener.start()
        except BaseException:
            log.close()
            raise
        return engine

    # --- writing ---

    def place(self, allocation: Snapshot | Mapping[str, Any] | bytes | str, *, time_ns: int | None = None) -> None:
        """Place an allocation: its top-level fields, as Nomad's JSON or as an object of the same names.

        Its indexes are the engine's; task states and client status follow from events, and are not taken. CreateTime
        is the clock's unless told. A Job may be as people write it: it is stored as the Nomad of the dialect does
        (`taskfold.nomad.canonical_job`), and one that a Nomad has sent, with its JobModifyIndex, as it is.
        Raises DecodeError when it has no ID or its Job is none, and VersionConflict when that ID was placed before.
        """
        fields = dict(allocation.fields) if isinstance(allocation, Snapshot) else fields_from_json(_text(allocation))
        if "ID" not in fields:
            raise DecodeError("$.ID: expected the ID of the allocation, found nothing")
        try:
            alloc = msgspec.json.decode(fields["ID"], type=str)
        except (msgspec.DecodeError, UnicodeError):
            raise DecodeError(f"$.ID: expected a text, found {fields['ID'][:60].decode(errors='replace')}") from None
        self._write(Engine._drafted_write, Write(alloc=alloc, event=Placed(body=placed_body(fields)), time_ns=time_ns))

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
        cannot be written: then nothing changed. Raises ListenerError when it was recorded, and then a model raised.
        """
        return self._write(
            Engine._drafted_write,
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

        AllocModifyIndex moves with it. Values are what JSON can say, or msgspec.Raw.
        Raises as `record` does, and DecodeError for a field that follows from the log.
        """
        event = Updated(fields=to_json_fields(fields))
        return self._write(
            Engine._drafted_write,
            Write(alloc=alloc, event=event, time_ns=time_ns, id=id, expected_version=expected_version),
        )

    def append(self, writes: Iterable[Write]) -> list[Record | None]:
        """Append several writes, all or none of them, as one write with one index; None stands for a repeat.

        Raises AppendRefused, which names every write that is refused and why; LogError when the log cannot be written.
        Then nothing changed. Raises ListenerError when all was recorded, and then a bound model raised.
        """
        return self._write(Engine._drafted_append, checked_writes(writes))  # what they come from runs in no turn

    def _drafted_append(self, state: State, writes: Sequence[Write]) -> Drafted[list[Record | None]]:
        """Draft writes that are all recorded or none. Raises AppendRefused."""
        draft = Draft(state, self._asked_ns() if self._questions else self.clock.time_ns())
        for write in writes:
            draft.add(write)
        if draft.refusals:
            raise AppendRefused(draft.refusals)
        return Drafted(draft.records(), draft.appends(), (), self._question_of(draft) if self._bindings else NOTHING)

    def check(self, writes: Iterable[Write]) -> list[tuple[int, TaskfoldError]]:
        """Return which of these writes `append` would refuse now, by their place from 0, and why; append nothing."""
        return self._check_writes(checked_writes(writes))

    @writing
    def _check_writes(self, writes: Sequence[Write]) -> list[tuple[int, TaskfoldError]]:
        draft = Draft(self.store, self.clock.time_ns())
        for write in writes:
            draft.add(write)
        return draft.refusals

    def _drafted_write(self, state: State, write: Write) -> Drafted[Record | None]:
        """Draft one write. Raises what refuses it."""
        draft = Draft(state, self._asked_ns() if self._questions else self.clock.time_ns())
        draft.add(write)
        for _, refusal in draft.refusals:
            raise refusal
        result = draft.drafted[0] if draft.drafted else None
        return Drafted(result, draft.appends(), (), self._question_of(draft) if self._bindings else NOTHING)

    def _asked_ns(self) -> int:
        """Return the time of a write that models were asked with; else the clock's."""
        asked = self._asked()
        return self.clock.time_ns() if asked is None else asked.time_ns

    def _question_of(self, draft: Draft) -> Question:
        """Return what models are asked before a draft is recorded, and told afterwards. Raises Refused."""
        bound: dict[tuple[str, str], Bound] = {}
        for record in draft.drafted:
            task = record.alloc, record.task
            if (binding := self._bindings.get(task)) is None:
                continue
            if task in bound:
                raise Refused(f"task {record.task!r} is bound to a model: one append can have one event of it")
            assert isinstance(record.event, (TaskEvent, Finished))
            bound[task] = self._bound(binding, *task, [record.event])
        return Question(list(bound.values()), draft.time_ns) if bound else NOTHING

    # --- mirroring ---

    @writing
    def observe(self, *statements: Statement) -> list[Record]:
        """Record what a real Nomad said, as one write; return the records that explain it.

        Those of one call are all recorded or none. They have the observations' own indexes: an engine that observes
        mirrors a Nomad, and should not be written to otherwise. What was collected here stays so. What a stream
        tells of jobs is remembered for allocations of other calls: several calls do what one with all of it does.
        Raises DecodeError and LogError: then nothing changed.
        """
        scratch, known = Fold(self.dialect, on_illegal="keep"), self.store.fold.allocations
        memory = self._memory = self._memory or Memory()
        draft = memory.draft()
        importer = Importer(self.dialect, scratch, memory=draft)
        records: dict[str, list[Record]] = {}
        for statement in statements:
            check_statement(statement)
            if isinstance(statement, Observation) and statement.alloc not in scratch:
                # Of what this call has not told of yet, the store knows what there is.
                found = known.get(statement.alloc)
                is_old = self.is_collected(statement.alloc) if found is None else memory.is_repeat(statement, found)
                if is_old:
                    continue
            for alloc in importer.concerned(statement):
                if alloc in known and alloc not in scratch:
                    scratch.allocations[alloc] = known[alloc].copy()
            for record in importer.observe(statement):
                records.setdefault(record.alloc, []).append(record)
        written = self.store.commit([Append(alloc, of_it[0].version - 1, of_it) for alloc, of_it in records.items()])
        memory.keep(draft, self.store.fold)
        self._publish_moves(records, written)
        return written

    # --- models of one's own ---

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

        A model that was bound to the task before is unbound. Tasks without one pay nothing for it.
        Raises UnknownAllocation, DecodeError for a class instead of a model of it, and TaskfoldError for conditions of
        what is no trigger.
        """
        check_model(task, model)
        found = self.store.fold.owned(alloc).tasks.get(task)
        state = "pending" if found is None else found.state
        binding = Binding(model, self.dialect, state=state, conditions=conditions, unless=unless)
        self._bindings[alloc, task] = binding
        return binding

    @in_turn
    def unbind(self, alloc: str, task: str) -> None:
        """Let the model of a task go; without one, do nothing."""
        self._bindings.pop((alloc, task), None)

    # --- the end ---

    @in_turn
    def checkpoint(self) -> bool:
        """Have the log keep the state as it is now, so that opening it again is fast; tell whether it can. O(tasks).

        A log in SQLite can. Raises LogError.
        """
        self._check_writable()
        return self.store.save_checkpoint()

    def backup(self, copy: str | Path) -> int:
        """Copy the log as it is now, while anybody writes it; return the newest position of the copy. O(records).

        A copy is a file (``x.db``, ``x.jsonl``) or a PostgreSQL database; it is whole, and opens alone. Raises LogError
        when it exists, or cannot be written: then there is none.
        """
        from taskfold.log.backup import backup, backup_records

        log = self.store.log
        if self.store.is_closed:
            raise LogError("the engine is closed")
        if location := getattr(log, "location", ""):
            return backup(location, copy).newest
        with self._turn:
            header, records = log.header, list(kept_records(log))
        return backup_records(header, [records], copy).newest

    def __repr__(self) -> str:
        """Return its log, its dialect, how much it keeps and how far it is, without waiting for anybody."""
        log = getattr(self.store.log, "name", type(self.store.log).__name__)
        closed = ", closed" if self.store.is_closed else ""
        return (
            f"<Engine on {log}, dialect {self.dialect.name}: "
            f"{len(self.store.fold):,} allocations at index {self.index}{closed}>"
        )

    def close(self) -> None:
        """End every wait with what is known then, and close the log; nothing can be written afterwards.

        A log that keeps checkpoints gets one, when much was recorded since the last. In a fork it does nothing.
        """
        if self.is_foreign:  # told to be called at the end, before the fork
            return
        if self._listener is not None:
            self._listener.stop()
        with self._turn:
            if not self.store.is_closed and self.store.seq - self.store.checkpoint_seq >= _RECORDS_PER_CHECKPOINT:
                with suppress(LogError):  # the log is whole without it
                    self.store.save_checkpoint()
            self.store.close()  # also where it was interrupted before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _text(allocation: Mapping[str, Any] | bytes | str) -> bytes | str:
    """Return the JSON of an allocation. Raises DecodeError for what is neither JSON nor an object of JSON values."""
    if isinstance(allocation, (bytes, str)):
        return allocation
    if not isinstance(allocation, Mapping):
        raise DecodeError(
            "$: expected an allocation as JSON text, as a mapping or as a Snapshot, "
            f"found a value of type {type(allocation).__name__}"
        )
    try:
        return msgspec.json.encode(allocation if isinstance(allocation, dict) else dict(allocation))
    except UNWRITABLE as error:
        raise DecodeError(f"the allocation cannot be written as JSON: {problem_of(error)}") from None
