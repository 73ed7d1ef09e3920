"""The texts of allocations that are read one at a time, again and again: only what has changed is written anew.

Between two reads of an allocation mostly an event or two have come. What surrounds them is kept as a frame with holes
for what follows from the tasks, and so is the text of each event that is told again with the next nine. Nothing is
kept of an allocation that was read once: who reads many of them one after the other neither gains nor loses.

The rules stay where they are: a frame is what `Snapshot` writes of the allocation, with probes where its holes are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import is_, itemgetter
from sys import getsizeof
from threading import Lock
from typing import Any, Final, NamedTuple

from msgspec import Struct

from taskfold.fold.allocation import AllocationState, current_fields
from taskfold.fold.task import TaskState
from taskfold.model.cache import Cache
from taskfold.model.dialect import Dialect
from taskfold.model.events import TaskEvent
from taskfold.nomad.event_text import event_writers
from taskfold.nomad.fields import FROM_RECORDS, FROM_TASKS, derived_fields, escape_as_go
from taskfold.nomad.snapshot import Snapshot
from taskfold.nomad.task_states import task_member

__all__ = ["AllocationTexts"]

_HOLES: Final = ("ClientDescription", "ClientStatus", "ModifyIndex", "ModifyTime", "TaskStates")
"""What may differ from read to read while nobody places or updates the allocation."""

_UNTOLD_HOLES: Final = (*FROM_TASKS, "ModifyTime")
"""Those of them that are holes only where they are not told."""

_PROBE: Final = b"\0%b\0"
"""Stands where a hole is: no JSON text has a zero byte in it."""

_READ_ONCE_AT_MOST: Final = 4_096
"""Of how many allocations it is known that they were read once."""

_SMALL: Final = 1_024
"""About how many bytes an entry needs beside its texts."""


class _Frame(Struct, frozen=True):
    """A body with holes."""

    pieces: list[bytes]
    """Every other one is a hole."""
    pick: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]
    """Gets what fills the holes, from the texts of `_HOLES`."""
    size: int

    def fill(self, derived: Mapping[str, bytes], state: AllocationState, task_states: bytes) -> bytes:
        """Return the body with its holes filled. O(length)."""
        pieces = self.pieces.copy()
        description, status = derived["ClientDescription"], derived["ClientStatus"]
        texts = description, status, b"%d" % state.modify_index, b"%d" % state.modified_ns, task_states
        pieces[1::2] = self.pick(texts)
        return b"".join(pieces)


class _Ring(NamedTuple):
    """Events of a task, and the text of each."""

    events: tuple[TaskEvent, ...]
    texts: list[str]


class _Entry(Struct, frozen=True):
    """What is kept of an allocation."""

    placed: bytes
    updates: Mapping[str, bytes | None]
    body: _Frame | None
    stream_body: _Frame | None
    rings: dict[str, _Ring]
    size: int


class AllocationTexts:
    """Bodies of allocations in one dialect, with what is kept of those that were read more than once.

    Any thread may read. What is kept has ``limit_bytes`` at most.

    >>> from taskfold.fold.allocation import Fold
    >>> from taskfold.model.dialect import DIALECTS
    >>> from taskfold.events import Received
    >>> from taskfold.model.record import Record
    >>> fold = Fold("0.5.6")
    >>> record = Record(index=7, alloc="a", version=1, task="web", time_ns=1, event=Received(time_ns=5))
    >>> texts = AllocationTexts(DIALECTS["0.5.6"], limit_bytes=65_536)
    >>> state = fold.apply(record).freeze()
    >>> all(texts.body(state) == Snapshot.of(state, "0.5.6").to_json() for _ in range(3))
    True
    """

    def __init__(self, dialect: Dialect, limit_bytes: int) -> None:
        self.dialect = dialect
        self._cache: Cache[str, _Entry] = Cache(limit_bytes)
        self._read_once: set[str] = set()
        self._lock = Lock()

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self._cache.size

    def snapshot(self, state: AllocationState) -> Snapshot:
        """Return the snapshot of a folded state, which writes its bodies by way of what is kept."""
        return _KeptSnapshot(state, self)

    def body(self, state: AllocationState) -> bytes:
        """Return what `Snapshot.to_json` writes of a state. O(fields and events)."""
        return self._body(state, has_job=True)

    def stream_body(self, state: AllocationState) -> bytes:
        """Return what `Snapshot.to_stream_json` writes of a state. O(fields and events)."""
        return self._body(state, has_job=False)

    def _body(self, state: AllocationState, *, has_job: bool) -> bytes:
        tasks = {name: task for name, task in state.tasks.items() if not task.hidden}
        entry = self._cache.get(state.id)
        # Without these, what is a hole with them is left out.
        has_holes = tasks and state.modify_index and state.modified_ns
        if not has_holes or (entry is None and self._is_first(state.id)):
            return self._plain(state, has_job=has_job)
        is_framed = entry is not None and entry.placed == state.placed and entry.updates == state.updates
        body, stream_body = (entry.body, entry.stream_body) if entry is not None and is_framed else (None, None)
        frame = body if has_job else stream_body
        if frame is None:
            frame = _frame(state, self.dialect, has_job=has_job)
            if frame is None:
                return self._plain(state, has_job=has_job)
            body, stream_body = (frame, stream_body) if has_job else (body, frame)
        before = {} if entry is None else entry.rings
        rings: dict[str, _Ring] = {}
        members = []
        for name in sorted(tasks):
            task = tasks[name]
            ring = rings[name] = self._ring(task.events, before.get(name))
            members.append(task_member(name, task, f"[{','.join(ring.texts)}]", self.dialect))
        text = f"{{{','.join(members)}}}"
        task_states = escape_as_go(text.encode())
        # A character may have up to four bytes: as many in the whole as in the widest of its parts.
        size = _SMALL + getsizeof(text) + (0 if body is None else body.size)
        size += 0 if stream_body is None else stream_body.size
        with self._lock:
            self._cache.keep(state.id, _Entry(state.placed, state.updates, body, stream_body, rings, size))
        return frame.fill(derived_fields(tasks, self.dialect), state, task_states)

    def _plain(self, state: AllocationState, *, has_job: bool) -> bytes:
        snapshot = Snapshot.of(state, self.dialect)
        return snapshot.to_json() if has_job else snapshot.to_stream_json()

    def _is_first(self, alloc: str) -> bool:
        """Tell whether an allocation is read for the first time, as far as that is known."""
        with self._lock:
            if alloc in self._read_once:
                self._read_once.remove(alloc)
                return False
            if len(self._read_once) >= _READ_ONCE_AT_MOST:
                self._read_once.clear()
            self._read_once.add(alloc)
        return True

    def _ring(self, events: tuple[TaskEvent, ...], before: _Ring | None) -> _Ring:
        """Return events with their texts, of which those are taken that are there already."""
        texts = [] if before is None else _texts_of(before, events)
        if len(texts) < len(events):
            writers = event_writers(self.dialect)
            texts += [writers[type(event)](event) for event in events[len(texts) :]]
        return _Ring(events, texts)


def _texts_of(ring: _Ring, events: tuple[TaskEvent, ...]) -> list[str]:
    """Return the texts that a ring has of the first events of a later one: as many as are the very same objects."""
    first = events[0] if events else None
    for place, event in enumerate(ring.events):
        if event is first:
            # An event never changes. Equal ones would not do: 1 equals 1.0.
            is_same = all(map(is_, ring.events[place:], events))
            return ring.texts[place:] if is_same and len(ring.events) - place <= len(events) else []
    return []


def _frame(state: AllocationState, dialect: Dialect, *, has_job: bool) -> _Frame | None:
    """Return the body of a state with holes; None where its fields hold what looks like a probe."""
    told = current_fields(state.placed, state.updates)
    fields = dict(Snapshot.of(state, dialect).fields)
    holes = [name for name in _UNTOLD_HOLES if name in fields and name not in told] + list(FROM_RECORDS)
    fields |= {name: _PROBE % name.encode() for name in holes}
    snapshot = Snapshot(fields, {}, dialect)
    pieces = (snapshot.to_json() if has_job else snapshot.to_stream_json()).split(b"\0")
    names = [name.decode(errors="replace") for name in pieces[1::2]]
    if sorted(names) != sorted(holes):
        return None
    return _Frame(pieces, itemgetter(*map(_HOLES.index, names)), sum(map(len, pieces)))


class _KeptSnapshot(Snapshot):
    """A snapshot that writes its bodies by way of what is kept, and finds its fields when they are asked for."""

    __slots__ = ("_plain", "_state", "_texts")

    def __init__(self, state: AllocationState, texts: AllocationTexts) -> None:
        self.dialect = texts.dialect
        self._state = state
        self._texts = texts
        self._plain: Snapshot | None = None

    def _plain_snapshot(self) -> Snapshot:
        """Return the plain snapshot of the state."""
        if self._plain is None:
            self._plain = Snapshot.of(self._state, self.dialect)
        return self._plain

    @property
    def fields(self) -> Mapping[str, bytes]:  # type: ignore[override]  # it is read as the attribute is
        """The top-level fields but the task states: JSON text by Nomad's name."""
        return self._plain_snapshot().fields

    @property
    def tasks(self) -> Mapping[str, TaskState]:  # type: ignore[override]
        """The tasks that are shown, by name."""
        return self._plain_snapshot().tasks

    def to_json(self, dialect: str | Dialect | None = None) -> bytes:
        """Return the body of ``/v1/allocation/<id>`` in a dialect, as every snapshot does."""
        return self._texts.body(self._state) if dialect is None else super().to_json(dialect)

    def to_stream_json(self, dialect: str | Dialect | None = None) -> bytes:
        """Return the allocation as a payload of ``/v1/event/stream`` has it, as every snapshot does."""
        return self._texts.stream_body(self._state) if dialect is None else super().to_stream_json(dialect)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied and pickled as a plain snapshot: what is kept belongs to this process."""
        return Snapshot, (self.fields, self.tasks, self.dialect.name)
