"""The overlay: the state that pending writes will leave, over the state that the log holds.

The writes of one append are checked and decided in order, each on the state that those before it will leave. The core
itself is unchanged meanwhile.
"""

from __future__ import annotations

from typing import Protocol

from taskfold.fold.allocation import Allocation, apply_record
from taskfold.fold.lifecycle import Lifecycle
from taskfold.log.entries import event_digest
from taskfold.model.errors import UnknownAllocation
from taskfold.model.record import LogHeader, Record

__all__ = ["Overlay", "StateLike"]


class StateLike(Protocol):
    """A state to check and decide writes on: a core's, or an overlay over one."""

    lifecycle: Lifecycle
    is_closed: bool
    seq: int
    """The position of the newest record."""

    @property
    def index(self) -> int:
        """The greatest index of all records."""

    @property
    def header(self) -> LogHeader:
        """The header of the log."""

    def find(self, alloc: str) -> Allocation | None:
        """Return an allocation, for reading only; None if there is none."""

    def owned(self, alloc: str) -> Allocation:
        """Return an allocation, for reading only. Raises UnknownAllocation."""

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. Raises LogError."""


class Overlay:
    """A state after more records, over a core or another overlay. O(1) for an allocation until it is read.

    >>> from taskfold.live.core import Core
    >>> from taskfold.model.record import Placed
    >>> core = Core()
    >>> overlay = Overlay(core)
    >>> overlay.take(Record(seq=1, index=1, alloc="a", version=1, event=Placed()))
    >>> overlay.owned("a").version, overlay.seq, core.find("a")
    (1, 1, None)
    """

    def __init__(self, base: StateLike) -> None:
        self._base = base
        self.lifecycle: Lifecycle = base.lifecycle
        self.is_closed: bool = base.is_closed
        self.seq: int = base.seq
        """The position of the newest record."""
        self.index: int = base.index
        """The greatest index of all records."""
        self._changed: dict[str, Allocation] = {}
        """Copies of the allocations that changed and were read."""
        self._unfolded: dict[str, list[Record]] = {}
        """Records that are not yet folded into the copies."""
        self._ids: dict[str, int] = {}
        """By ID, the digest of its record."""

    @property
    def header(self) -> LogHeader:
        """The header of the log."""
        return self._base.header

    def take(self, record: Record) -> None:
        """Add the next record. O(1)."""
        self._unfolded.setdefault(record.alloc, []).append(record)
        if record.id.__class__ is str:
            self._ids[record.id] = event_digest(record.alloc, record.task, record.event)
        self.seq = record.seq
        self.index = record.index

    def find(self, alloc: str) -> Allocation | None:
        """Return an allocation, for reading only; None if there is none. O(1), or O(tasks) after a change."""
        allocation = self._changed.get(alloc)
        if allocation is None:
            allocation = self._base.find(alloc)
        unfolded = self._unfolded.pop(alloc, ())
        if unfolded:
            if alloc not in self._changed:
                allocation = self._changed[alloc] = (
                    Allocation(alloc, tasks={}) if allocation is None else allocation.copy()
                )
            assert allocation is not None
            for record in unfolded:
                apply_record(allocation, record, self.lifecycle, "keep")  # as the core does
        return allocation

    def owned(self, alloc: str) -> Allocation:
        """Return an allocation, for reading only. Raises UnknownAllocation."""
        allocation = self.find(alloc)
        if allocation is None:
            raise UnknownAllocation(f"no allocation {alloc!r} is known")
        return allocation

    def digest_of(self, id: str) -> int | None:
        """Return the `event_digest` of the record with this ID; None if there is none. Raises LogError."""
        digest = self._ids.get(id)
        return self._base.digest_of(id) if digest is None else digest
