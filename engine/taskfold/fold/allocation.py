"""The state of allocations: their tasks, and the other fields that travel with them.

The other top-level fields (Job, Metrics, NodeID, DesiredStatus …) are opaque here: JSON text by Nomad's name, as it was
placed, and as it was updated since. Two of them follow from the tasks and are stored only where they do not:
ClientStatus and ClientDescription.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct

from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, Lifecycle, lifecycle_of
from taskfold.fold.task import OnIllegal, Task, TaskState, apply
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import DecodeError, UnknownAllocation
from taskfold.model.record import Collected, Coordinated, Placed, Record, Updated
from taskfold.model.texts import shared

__all__ = [
    "CLIENT_DESCRIPTIONS",
    "Allocation",
    "AllocationState",
    "Fold",
    "apply_record",
    "client_status",
    "current_field",
    "current_fields",
]

COMPLETE: Final = "complete"
FAILED: Final = "failed"

CLIENT_DESCRIPTIONS: Final[Mapping[str, str]] = {
    FAILED: "Failed tasks",
    RUNNING: "Tasks are running",
    PENDING: "No tasks have started",
    COMPLETE: "All tasks have completed",
}
"""ClientDescription by ClientStatus. Source: client/allocrunner/alloc_runner.go getClientStatus, since Nomad 0.9.0."""


def newest_time_ns(tasks: Iterable[Task | TaskState]) -> int:
    """Return the newest time that tasks tell (unix nanoseconds): of an event, a start or an end; 0 without any."""
    newest = 0
    for task in tasks:
        events = task.slots if isinstance(task, Task) else task.events
        times = [event.time_ns for event in events]
        newest = max(newest, task.started_at_ns or 0, task.finished_at_ns or 0, *times)
    return newest


def client_status(tasks: Iterable[Task | TaskState]) -> str | None:
    """Return the ClientStatus that follows from the task states; None without tasks. O(tasks).

    Any dead task that failed makes it ``failed``; else any running one ``running``; else any pending one ``pending``;
    else it is ``complete``. Source: getClientStatus in v0.5.6 and new, and every recording.

    >>> client_status([TaskState(state="running"), TaskState(state="dead", failed=True)])
    'failed'
    """
    status = None
    for task in tasks:
        if task.state == DEAD:
            if task.failed:
                return FAILED
            status = status or COMPLETE
        elif task.state == RUNNING:
            status = RUNNING
        elif task.state == PENDING and status != RUNNING:
            status = PENDING
    return status


def current_fields(placed_body: bytes, updates: Mapping[str, bytes | None] | None) -> dict[str, bytes]:
    """Return the top-level fields of an allocation as they are after its updates: JSON text by name. O(fields).

    Raises DecodeError when what was placed is no JSON object.
    """
    fields = _placed_fields(placed_body).copy()
    for name, text in (updates or {}).items():
        if text is None:
            fields.pop(name, None)
        else:
            fields[name] = text
    return fields


def current_field(placed_body: bytes, updates: Mapping[str, bytes | None] | None, name: str) -> bytes | None:
    """Return one of them; None for a field that the allocation does not have. O(length), or O(1) if placed of late."""
    if updates is not None and name in updates:
        return updates[name]
    return _placed_fields(placed_body).get(name) if _may_have(placed_body, name) else None


@lru_cache(maxsize=8_192)
def _may_have(placed_body: bytes, name: str) -> bool:
    """Tell whether an allocation was placed with a field, unless a key is written with escapes."""
    # Searching bytes is much faster than decoding them, and slower than all else that a decision does.
    return b'"%b"' % name.encode() in placed_body or b"\\" in placed_body


_decode_fields: Final = msgspec.json.Decoder(dict[str, Raw]).decode


@lru_cache(maxsize=256)
def _placed_fields(placed_body: bytes) -> dict[str, bytes]:
    """Return what an allocation was placed with, not to be changed: it is placed once and asked again and again."""
    try:
        return {name: bytes(text) for name, text in _decode_fields(placed_body).items()}
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DecodeError(f"not the JSON of an allocation: {error}") from None


class Allocation(Struct, gc=False):
    """An allocation's state as the folder owns it: changed in place, never handed out."""

    id: str
    version: int = 0
    """How many records it has."""
    modify_index: int = 0
    """The index of its newest record."""
    modified_ns: int = 0
    """The time of its newest record (unix nanoseconds)."""
    placed_body: bytes = b"{}"
    """The top-level fields as first seen: a JSON object in Nomad's names."""
    updates: dict[str, bytes | None] | None = None
    """The fields changed since then: JSON text by name, None for a removed field."""
    tasks: dict[str, Task] = {}
    memory: Coordinated | None = None
    """The memory that decisions have of it as a whole; None if the embedder decides."""
    collected: bool = False

    @property
    def client_status(self) -> str | None:
        """The ClientStatus that follows from the tasks that are shown; None without any. O(tasks)."""
        return client_status([task for task in self.tasks.values() if task.rest is None or not task.rest.hidden])

    def copy(self) -> Allocation:
        """Return a separate allocation that continues from this state. O(tasks)."""
        return Allocation(
            id=self.id,
            version=self.version,
            modify_index=self.modify_index,
            modified_ns=self.modified_ns,
            placed_body=self.placed_body,
            updates=None if self.updates is None else self.updates.copy(),
            tasks={name: Task.thaw(task.freeze()) for name, task in self.tasks.items()},
            memory=self.memory,
            collected=self.collected,
        )

    def freeze(self) -> AllocationState:
        """Return the state as it is now. O(tasks)."""
        return AllocationState(
            id=self.id,
            version=self.version,
            modify_index=self.modify_index,
            modified_ns=self.modified_ns,
            placed_body=self.placed_body,
            updates={} if self.updates is None else self.updates.copy(),
            tasks={name: task.freeze() for name, task in self.tasks.items()},
            memory=self.memory,
            collected=self.collected,
        )


class AllocationState(Struct, frozen=True, kw_only=True):
    """The state of an allocation after a number of records; immutable once handed out."""

    id: str
    version: int
    modify_index: int
    placed_body: bytes
    updates: Mapping[str, bytes | None]
    tasks: Mapping[str, TaskState]
    modified_ns: int = 0
    """The time of its newest record (unix nanoseconds)."""
    memory: Coordinated | None = None
    """The memory that decisions have of it as a whole; None if the embedder decides."""
    collected: bool = False

    @property
    def time_ns(self) -> int:
        """The newest time that its tasks tell (unix nanoseconds); 0 without any."""
        return newest_time_ns(self.tasks.values())

    @property
    def client_status(self) -> str | None:
        """The ClientStatus that follows from the tasks that are shown; None without any."""
        return client_status(task for task in self.tasks.values() if not task.hidden)


def apply_record(allocation: Allocation, record: Record, lifecycle: Lifecycle, on_illegal: OnIllegal = "raise") -> None:
    """Change the allocation by one record of it. O(1), or O(fields that changed).

    Raises IllegalEvent, and changes nothing, when the table refuses the event.
    """
    name = record.task
    if name:
        task = allocation.tasks.get(name)
        if task is None:
            task = Task()
            apply(task, record, lifecycle, on_illegal)
            # Shared: tasks of many allocations have the same few names.
            allocation.tasks[shared(name)] = task
        else:
            apply(task, record, lifecycle, on_illegal)
    else:
        _apply_fields(allocation, record)
    allocation.version = record.version
    allocation.modify_index = record.index
    allocation.modified_ns = record.time_ns


def _apply_fields(allocation: Allocation, record: Record) -> None:
    """Change the allocation's own fields."""
    event = record.event
    if isinstance(event, Placed):
        # A copy: what was decoded is a view of a whole block of the log.
        allocation.placed_body = b"{}" if event.body is UNSET else bytes(event.body)
        allocation.updates = None
        allocation.collected = False
    elif isinstance(event, Updated):
        updates = allocation.updates = allocation.updates or {}
        for key, value in event.fields.items():
            updates[key] = bytes(value)
        for key in event.cleared:
            updates[key] = None
    elif isinstance(event, Coordinated):
        allocation.memory = event
    elif isinstance(event, Collected):
        allocation.collected = True
        if not allocation.version and event.body is not UNSET:
            # The records before it were removed.
            allocation.placed_body = bytes(event.body)


class Fold:
    """Every allocation that a sequence of records tells of: the state that replay and engine share.

    >>> from taskfold.events import Received, Started
    >>> fold = Fold("0.5.6")
    >>> for version, event in enumerate([Received(time_ns=1), Started(time_ns=2)], start=1):
    ...     _ = fold.apply(Record(index=version, alloc="a", version=version, task="web", time_ns=version, event=event))
    >>> fold["a"].tasks["web"].state
    'running'
    """

    def __init__(self, dialect: str | Dialect, on_illegal: OnIllegal = "raise") -> None:
        self.dialect = dialect_of(dialect)
        self.lifecycle = lifecycle_of(dialect)
        self.on_illegal: OnIllegal = on_illegal
        self.allocations: dict[str, Allocation] = {}

    def apply(self, record: Record) -> Allocation:
        """Change the state by one record, and return the allocation that it belongs to. O(1).

        Raises IllegalEvent, and changes nothing, when the table refuses the event.
        """
        allocation = self.allocations.get(record.alloc)
        if allocation is None:
            allocation = Allocation(record.alloc)
            apply_record(allocation, record, self.lifecycle, self.on_illegal)
            self.allocations[record.alloc] = allocation
        else:
            apply_record(allocation, record, self.lifecycle, self.on_illegal)
        return allocation

    def apply_all(self, records: Iterable[Record]) -> None:
        """Change the state by many records, as `apply` does by each. O(records).

        Raises IllegalEvent, with what came before applied, when the table refuses an event.
        """
        allocation_of, lifecycle, on_illegal = self.allocations.get, self.lifecycle, self.on_illegal
        for record in records:
            allocation = allocation_of(record.alloc)
            task = None if allocation is None else allocation.tasks.get(record.task)
            if allocation is None or task is None:
                self.apply(record)
                continue
            # What `apply` does, without two calls: most records belong to a task that is known.
            apply(task, record, lifecycle, on_illegal)
            allocation.version = record.version
            allocation.modify_index = record.index
            allocation.modified_ns = record.time_ns

    def newest_time_ns(self) -> int:
        """Return the newest time of any record or event (unix nanoseconds); 0 without any. O(tasks)."""
        allocations = self.allocations.values()
        tasks = (task for allocation in allocations for task in allocation.tasks.values())
        return max(newest_time_ns(tasks), max((each.modified_ns for each in allocations), default=0))

    def __getitem__(self, alloc_id: str) -> AllocationState:
        """Return an allocation as it is now. Raises UnknownAllocation."""
        return self.owned(alloc_id).freeze()

    def owned(self, alloc_id: str) -> Allocation:
        """Return the fold's own, changing allocation. Raises UnknownAllocation."""
        try:
            return self.allocations[alloc_id]
        except KeyError:
            msg = f"no allocation {alloc_id!r} is known"
            raise UnknownAllocation(msg) from None

    def __contains__(self, alloc_id: object) -> bool:
        """Tell whether an allocation is known."""
        return alloc_id in self.allocations

    def __repr__(self) -> str:
        """Return how much it holds, and of which dialect."""
        return f"<Fold, dialect {self.dialect.name}: {len(self):,} allocations>"

    def __len__(self) -> int:
        """Return how many allocations are known."""
        return len(self.allocations)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the IDs, in the order in which they were first seen."""
        return iter(self.allocations)
