"""Changes: what each write did, from any position of a log on, with the allocations as they were after it.

A cursor that is near the end gets what the store keeps of the newest changes. One that is not reads the log, and folds
the allocations that it meets; it remembers a limited number of them, and reads the records of the others again when it
needs them, so that it can start anywhere, and needs the same memory wherever that is.
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
"""About how many records are read from the log before the cursor is asked to go on."""


class Cursor:
    """Reads the changes of an engine one after the other, none left out; `close` it when it is done.

    It belongs to one thread at a time, which need not be the writer's.
    """

    def __init__(self, reader: Reader, after_seq: int) -> None:
        """Begin after a position; 0 is the beginning of the log."""
        self._reader = reader
        self.seq = after_seq
        """The position up to which it has read."""
        self._fold = Fold(reader.dialect, on_illegal="keep")
        self._remembered: OrderedDict[str, None] = OrderedDict()
        reader.follow()

    @property
    def behind(self) -> int:
        """How many records there are that it has not read yet."""
        return self._reader.seq - self.seq

    @property
    def is_near(self) -> bool:
        """Whether the store keeps what comes next, or nothing does."""
        return not self.behind or self._reader.recent(self.seq) is not None

    def recent(self) -> list[Change] | None:
        """Return the next changes that the store keeps, up to 64, none if there are none; None: `read` the log.

        It never waits for a disk.
        """
        if not self.behind:
            return []
        changes = self._reader.recent(self.seq)
        if changes:
            self.seq = changes[-1].last_seq
            self.forget()
        return changes

    def read(self) -> list[Change]:
        """Return the next changes from the log, about as many as 256 records make. It may take a disk's time.

        Raises Gone when they were removed, and LogError.
        """
        changes: list[Change] = []
        newest = self._reader.seq  # what is in the log, and not in the state yet, is not told yet
        records = takewhile(lambda record: record.seq <= newest, self._reader.log_after(self.seq))
        count = 0
        for index, group in groupby(records, key=_index_of):
            # All records of one index: one write is never torn, also where it is larger than what is read at once.
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
        """Fold the records of one index, and return what they did."""
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
        """See to it that an allocation is folded up to the record before this one."""
        if alloc in self._remembered:
            self._remembered.move_to_end(alloc)
            return
        self._fold.allocations[alloc] = Allocation(alloc, tasks={})
        if record.version > 1:
            with suppress(Gone):  # then this is the last record of what was collected, which says what it was
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
        """Forget what was folded: it is folded again from the log when it is needed."""
        if self._remembered:
            self._remembered.clear()
            self._fold.allocations.clear()

    def close(self) -> None:
        """Let go of what is kept for it."""
        self.forget()
        self._reader.unfollow()


def _index_of(record: Record) -> int:
    return record.index
