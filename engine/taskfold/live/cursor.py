"""Cursors: readers of changes, from any position in the log on.

Near the end, a cursor reads the buffer of the newest changes. Further back, it reads the log and folds the allocations
that it meets. It caches a limited number of them, and reads the records of the others again on demand, so that it can
start anywhere in constant memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby, takewhile
from typing import Final

from taskfold.fold.allocation import Allocation, Fold
from taskfold.live.changes import Change
from taskfold.live.reader import Reader
from taskfold.model.errors import Gone, LogError
from taskfold.model.record import Record

__all__ = ["Cursor"]

_ALLOCATIONS_REMEMBERED: Final = 512
_RECORDS_AT_ONCE: Final = 256
"""About how many records one read of the log returns."""


class Cursor:
    """Reads the changes of an engine in order, without a gap; `close` it at the end.

    One thread at a time may use it, also one that is not the writer's.
    """

    def __init__(self, reader: Reader, after_seq: int) -> None:
        """Start after a position; 0 is the beginning of the log."""
        self._reader = reader
        self.seq = after_seq
        """The position up to which it has read."""
        self._fold = Fold(reader.dialect, on_illegal="keep")
        self._remembered: OrderedDict[str, None] = OrderedDict()
        reader.follow()

    @property
    def behind(self) -> int:
        """The number of records that it has not read."""
        return self._reader.seq - self.seq

    @property
    def is_near(self) -> bool:
        """Whether the buffer has the next changes, or there are none."""
        return not self.behind or self._reader.recent(self.seq) is not None

    def recent(self) -> list[Change] | None:
        """Return the next changes from the buffer, at most 64, or none at the end; None if `read` must read the log.

        Never waits for a disk.
        """
        if not self.behind:
            return []
        changes = self._reader.recent(self.seq)
        if changes:
            self.seq = changes[-1].last_seq
            self.forget()
        return changes

    def read(self) -> list[Change]:
        """Return the next changes from the log, those of about 256 records. May wait for a disk.

        Raises Gone where records were compacted, and LogError.
        """
        changes: list[Change] = []
        newest = self._reader.seq  # records that are in the log only are not yielded yet
        records = takewhile(lambda record: record.seq <= newest, self._reader.log_after(self.seq))
        count = 0
        for index, group in groupby(records, key=_index_of):
            # All records of one index, so that a write larger than one read is never split.
            of_index = list(group)
            changes.append(self._change(index, of_index))
            self.seq = of_index[-1].seq
            count += len(of_index)
            if count >= _RECORDS_AT_ONCE:
                break
        if not changes and self.seq < newest:
            raise LogError(f"the log ends at position {self.seq}, though the engine holds its state at {newest}")
        return changes

    def _change(self, index: int, records: list[Record]) -> Change:
        """Fold the records of one index, and return their change."""
        by_allocation: dict[str, list[Record]] = {}
        for record in records:
            by_allocation.setdefault(record.alloc, []).append(record)
        states = []
        for alloc, own in by_allocation.items():
            self._remember(alloc, own[0])
            for record in own:
                self._fold.apply(record)
            states.append((self._fold[alloc], tuple(own)))
        return Change(records[0].seq, records[-1].seq, index, tuple(states))

    def _remember(self, alloc: str, record: Record) -> None:
        """Fold an allocation up to the record before this one."""
        if alloc in self._remembered:
            self._remembered.move_to_end(alloc)
            return
        self._fold.allocations[alloc] = Allocation(alloc, tasks={})
        if record.version > 1:
            with suppress(Gone):  # then this is the last record of a collected allocation, which has its whole state
                for earlier in self._earlier(alloc, record.version):
                    self._fold.apply(earlier)
        self._remembered[alloc] = None
        if len(self._remembered) > _ALLOCATIONS_REMEMBERED:
            oldest, _ = self._remembered.popitem(last=False)
            del self._fold.allocations[oldest]

    def _earlier(self, alloc: str, version: int) -> Iterator[Record]:
        for record in self._reader.records(alloc):
            if record.version >= version:
                return
            yield record

    def forget(self) -> None:
        """Empty the cache; allocations are folded again from the log on demand."""
        if self._remembered:
            self._remembered.clear()
            self._fold.allocations.clear()

    def close(self) -> None:
        """Release the cache, and stop following."""
        self.forget()
        self._reader.unfollow()


def _index_of(record: Record) -> int:
    return record.index
