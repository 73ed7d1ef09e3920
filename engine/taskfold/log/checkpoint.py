"""Checkpoints: the folded state of a log at a position, so that opening the log reads only the records after it.

A checkpoint is a head, followed by parts of some hundred allocations each, as MessagePack. The head names the formats
of checkpoint and records, and the hash of the lifecycle table. A checkpoint that does not match, or cannot be read, is
ignored: the log is the truth, and is folded from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import msgspec
from msgspec import Struct, field

from taskfold.fold.allocation import Allocation, Fold
from taskfold.fold.counts import packed
from taskfold.fold.task import Task, TaskState
from taskfold.log.index_map import Positions
from taskfold.model.dialect import Dialect
from taskfold.model.events import AnyTaskEvent
from taskfold.model.record import FORMAT, Coordinated, Decided

__all__ = ["Checkpoint", "CheckpointLog", "from_parts", "to_parts"]

CHECKPOINT_FORMAT: Final = 2
_ALLOCATIONS_PER_PART: Final = 500


@runtime_checkable
class CheckpointLog(Protocol):
    """A log that keeps a checkpoint beside its records."""

    def save_checkpoint(self, parts: Iterable[bytes]) -> None:
        """Replace the checkpoint, atomically. Raises LogError."""
        ...

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; none if there is none. Raises LogError for a damaged part."""
        ...


class Checkpoint(NamedTuple):
    """The contents of a checkpoint."""

    seq: int
    """The position of the newest record that the state includes."""
    fold: Fold
    positions: Positions


class _Head(Struct, frozen=True):
    """The versions of everything that made a checkpoint, and its position."""

    format: int
    records: int
    lifecycle: str
    seq: int
    allocations: int
    positions: tuple[list[int], list[int], int, int, int]
    fields: tuple[tuple[str, ...], ...]
    """The field names, in order, of the arrays for a task and for an allocation."""


class _Task(Struct, array_like=True):
    """A `TaskState` with types for the decoder."""

    state: str
    failed: bool
    restarts: int
    last_restart_ns: int | None
    started_at_ns: int | None
    finished_at_ns: int | None
    events: tuple[AnyTaskEvent, ...]
    newest_events: tuple[AnyTaskEvent, ...] | None = field(name="recorded")
    events_total: int
    irregular: int
    counts: dict[str, int]
    """By wire type, not by index in the registry: indexes differ between versions of taskfold."""
    memory: Decided | None = field(name="decided")
    hidden: bool
    fields: dict[str, bytes]


class _Allocation(Struct, array_like=True):
    """An `AllocationState` with types for the decoder."""

    id: str
    version: int
    modify_index: int
    modified_ns: int
    placed_body: bytes = field(name="placed")
    updates: dict[str, bytes | None]
    tasks: dict[str, _Task]
    memory: Coordinated | None = field(name="coordinated")
    collected: bool


_FIELDS: Final = (_Task.__struct_encode_fields__, _Allocation.__struct_encode_fields__)
_encode: Final = msgspec.msgpack.Encoder().encode


def to_parts(seq: int, fold: Fold, positions: Positions) -> Iterator[bytes]:
    """Encode a state as the parts of a checkpoint. O(tasks); memory for one part."""
    head = _Head(
        format=CHECKPOINT_FORMAT,
        records=FORMAT,
        lifecycle=fold.lifecycle.fingerprint,
        seq=seq,
        allocations=len(fold),
        positions=positions.saved(),
        fields=_FIELDS,
    )
    yield _encode(head)
    rest = iter(fold.allocations.values())
    while part := list(islice(rest, _ALLOCATIONS_PER_PART)):
        yield _encode([_saved(allocation) for allocation in part])


def _saved(allocation: Allocation) -> _Allocation:
    state = allocation.freeze()
    return _Allocation(
        id=state.id,
        version=state.version,
        modify_index=state.modify_index,
        modified_ns=state.modified_ns,
        placed_body=state.placed_body,
        updates=dict(state.updates),
        tasks={name: _saved_task(task) for name, task in state.tasks.items()},
        memory=state.memory,
        collected=state.collected,
    )


def _saved_task(task: TaskState) -> _Task:
    fields: dict[str, Any] = {name: getattr(task, name) for name in _Task.__struct_fields__}
    return _Task(**fields)


def from_parts(parts: Iterator[bytes], dialect: Dialect) -> Checkpoint | None:
    """Decode a checkpoint; None if it is missing, damaged or does not match. O(tasks)."""
    try:
        first = next(parts, None)
        if first is None:
            return None
        head = msgspec.msgpack.decode(first, type=_Head)
        fold = Fold(dialect, on_illegal="keep")
        made_with = (head.format, head.records, head.lifecycle, head.fields)
        if made_with != (CHECKPOINT_FORMAT, FORMAT, fold.lifecycle.fingerprint, _FIELDS):
            return None
        decode = msgspec.msgpack.Decoder(list[_Allocation]).decode
        for part in parts:
            fold.allocations.update((saved.id, _restored(saved)) for saved in decode(part))
        if len(fold) != head.allocations:
            return None
        return Checkpoint(head.seq, fold, Positions.of(head.positions))
    except (msgspec.DecodeError, KeyError):  # KeyError: it counts an event type that is unknown here
        return None


def _restored(saved: _Allocation) -> Allocation:
    return Allocation(
        id=saved.id,
        version=saved.version,
        modify_index=saved.modify_index,
        modified_ns=saved.modified_ns,
        placed_body=saved.placed_body,
        updates=saved.updates or None,
        tasks={name: _restored_task(task) for name, task in saved.tasks.items()},
        memory=saved.memory,
        collected=saved.collected,
    )


def _restored_task(saved: _Task) -> Task:
    fields: dict[str, Any] = msgspec.structs.asdict(saved)
    fields["packed_counts"] = packed(fields.pop("counts"))
    return Task.thaw(TaskState(**fields))
