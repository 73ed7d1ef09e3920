"""The engine: live allocations over a log, where the embedder says which event happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from taskfold.allocation import Fold
from taskfold.binding import Binding, Condition
from taskfold.clock import Clock, SystemClock
from taskfold.codecs.allocation import Snapshot
from taskfold.codecs.fields import fields_from_json, fields_to_json
from taskfold.dialect import DEFAULT_DIALECT, Dialect, dialect_of
from taskfold.errors import DecodeError, UnknownAllocation, VersionConflict
from taskfold.events import TaskEvent
from taskfold.log.contract import EventLog
from taskfold.log.memory import MemoryLog
from taskfold.record import Event, Finished, Placed, Record
from taskfold.task import TaskState

__all__ = ["Engine"]


class Engine:
    """Keeps the state of allocations, and records what happens to their tasks in a log.

    One thread at a time may use it.

    >>> from taskfold import events
    >>> engine = Engine(dialect="1.1.2")
    >>> engine.place({"ID": "203266e5", "JobID": "example"})
    >>> for event in (events.Received(), events.Started(), events.Terminated(exit_code=1), events.Restarting()):
    ...     _ = engine.record("203266e5", "redis", event)
    >>> engine.task("203266e5", "redis").state, engine.task("203266e5", "redis").restarts
    ('pending', 1)
    """

    def __init__(
        self, log: EventLog | None = None, *, dialect: str | Dialect = DEFAULT_DIALECT, clock: Clock | None = None
    ) -> None:
        """Go on from a log, or begin in memory. O(records of the log).

        Raises IllegalEvent when the log holds an event that its lifecycle table refuses.
        """
        self._log: EventLog = MemoryLog(dialect) if log is None else log
        self.dialect = dialect_of(self._log.header.dialect)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._fold = Fold(self.dialect)
        self._bindings: dict[tuple[str, str], Binding] = {}
        self.index = 0
        """The index of the newest write."""
        for record in self._log.read_all():
            self._fold.apply(record)
            self.index = max(self.index, record.index)

    def place(self, allocation: Mapping[str, Any] | bytes | str, *, time_ns: int | None = None) -> None:
        """Place an allocation: its other top-level fields, as Nomad's JSON or as an object of the same names.

        Raises DecodeError when it has no ID, and VersionConflict when that ID was placed before.
        """
        text = msgspec.json.encode(allocation) if isinstance(allocation, Mapping) else allocation
        fields = fields_from_json(text)
        if "ID" not in fields:
            raise DecodeError("$.ID: expected the ID of the allocation, found nothing")
        alloc = msgspec.json.decode(fields["ID"], type=str)
        if alloc in self._fold:
            raise VersionConflict(allocation=alloc, expected=0, found=self._fold.owned(alloc).version)
        body = {name: text for name, text in fields.items() if name not in {"TaskStates", "ModifyIndex"}}
        self._append(alloc, "", Placed(body=Raw(fields_to_json(body))), time_ns, None)

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
        Raises UnknownAllocation, IllegalEvent, Refused (by a bound model) and VersionConflict: then nothing changed.
        """
        known = self._fold.owned(alloc)
        if id is not None and self._log.knows(id):
            return None
        if expected_version is not None and expected_version != known.version:
            raise VersionConflict(allocation=alloc, expected=expected_version, found=known.version)
        if time_ns is None:
            time_ns = self._clock.time_ns()
        if isinstance(event, TaskEvent) and not event.time_ns:
            event = msgspec.structs.replace(event, time_ns=time_ns)
        binding = self._bindings.get((alloc, task)) if self._bindings else None
        if binding is None:
            found = known.tasks.get(task)
            state = "pending" if found is None else found.state
            if not self._fold.lifecycle.may(state, event):
                raise self._fold.lifecycle.illegal(task, state, event)
            return self._append(alloc, task, event, time_ns, id)  # type: ignore[arg-type]
        written: list[Record] = []

        def append() -> str:
            written.append(self._append(alloc, task, event, time_ns, id))  # type: ignore[arg-type]
            return known.tasks[task].state

        binding.run(task, event, append)
        return written[0]

    def _append(self, alloc: str, task: str, event: Event, time_ns: int | None, id: str | None) -> Record:
        """Append a record to the log, then fold it."""
        version = self._fold.owned(alloc).version if alloc in self._fold else 0
        record = Record(
            index=self.index + 1,
            alloc=alloc,
            version=version + 1,
            task=task,
            time_ns=self._clock.time_ns() if time_ns is None else time_ns,
            id=msgspec.UNSET if id is None else id,
            event=event,
        )
        (placed,) = self._log.append(alloc, version, [record])
        self._fold.apply(placed)
        self.index = placed.index
        return placed

    def task(self, alloc: str, task: str) -> TaskState:
        """Return the state of a task as it is now. O(1). Raises UnknownAllocation."""
        found = self._fold.owned(alloc).tasks.get(task)
        if found is None:
            raise UnknownAllocation(f"allocation {alloc!r} has no task {task!r}")
        return found.freeze()

    def snapshot(self, alloc: str) -> Snapshot:
        """Return an allocation as it is now: typed access, and JSON in any dialect. Raises UnknownAllocation."""
        return Snapshot.of(self._fold[alloc], self.dialect)

    def history(self, alloc: str, task: str | None = None) -> list[Record]:
        """Return every record of an allocation, or of one of its tasks. O(records). Raises UnknownAllocation."""
        self._fold.owned(alloc)
        return [record for record in self._log.read(alloc) if task is None or record.task == task]

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
        found = self._fold.owned(alloc).tasks.get(task)
        state = "pending" if found is None else found.state
        binding = Binding(model, self.dialect, state=state, conditions=conditions, unless=unless)
        self._bindings[alloc, task] = binding
        return binding

    def unbind(self, alloc: str, task: str) -> None:
        """Let the model of a task go; without one, do nothing."""
        self._bindings.pop((alloc, task), None)
