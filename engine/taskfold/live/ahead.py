"""What lies ahead: the state as writes will leave it that are checked, and not in the log yet.

What is written together, in one append, is checked and decided one after the other, each on the state that the ones
before would leave. Nothing of the store changes meanwhile.
"""

from __future__ import annotations

from typing import TypeAlias

from taskfold.fold.allocation import Allocation, apply_record
from taskfold.fold.lifecycle import Lifecycle
from taskfold.live.store import Store
from taskfold.log.entries import event_digest
from taskfold.model.errors import UnknownAllocation
from taskfold.model.record import LogHeader, Record

__all__ = ["Ahead", "State"]


class Ahead:
    """The state of a store, or of what lies ahead of it already, after more records; O(1) until one is looked at.

    >>> from taskfold.log.memory import MemoryLog
    >>> from taskfold.model.record import Placed
    >>> store = Store(MemoryLog())
    >>> ahead = Ahead(store)
    >>> ahead.take(Record(seq=1, index=1, alloc="a", version=1, event=Placed()))
    >>> ahead.owned("a").version, ahead.seq, store.find("a")
    (1, 1, None)
    """

    def __init__(self, base: Store | Ahead) -> None:
        self._base: Store | Ahead = base
        self.lifecycle: Lifecycle = base.lifecycle
        self.is_closed: bool = base.is_closed
        self.seq: int = base.seq
        """The position of the newest record."""
        self.index: int = base.index
        """The greatest index of all records."""
        self._changed: dict[str, Allocation] = {}
        """Copies of the allocations that were asked for again."""
        self._unfolded: dict[str, list[Record]] = {}
        """Records that are not folded into the copies yet."""
        self._ids: dict[str, int] = {}
        """The digests of the records that have an ID."""

    @property
    def header(self) -> LogHeader:
        """The header of the log."""
        return self._base.header

    def take(self, record: Record) -> None:
        """Go on from the state that a record leaves, the next one of the log. O(1)."""
        self._unfolded.setdefault(record.alloc, []).append(record)
        if record.id.__class__ is str:
            self._ids[record.id] = event_digest(record.alloc, record.task, record.event)
        self.seq = record.seq
        self.index = record.index

    def find(self, alloc: str) -> Allocation | None:
        """Return an allocation, to be looked at only; None where it is not known. O(1), or O(tasks) where it moved."""
        known = self._changed.get(alloc)
        if known is None:
            known = self._base.find(alloc)
        unfolded = self._unfolded.pop(alloc, ())
        if unfolded:
            if alloc not in self._changed:
                known = self._changed[alloc] = Allocation(alloc, tasks={}) if known is None else known.copy()
            assert known is not None
            for record in unfolded:
                apply_record(known, record, self.lifecycle, "keep")  # as the store does
        return known

    def owned(self, alloc: str) -> Allocation:
        """Return an allocation, to be looked at only. Raises UnknownAllocation."""
        known = self.find(alloc)
        if known is None:
            raise UnknownAllocation(f"no allocation {alloc!r} is known")
        return known

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record of an ID; None where there is none. Raises LogError."""
        digest = self._ids.get(id)
        return self._base.digest_of(id) if digest is None else digest


State: TypeAlias = Store | Ahead
"""What a write is checked against, and decided on."""
