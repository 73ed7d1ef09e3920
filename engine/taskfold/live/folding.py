"""Folding a log: the state that its records give, taken in as they are read, by whoever reads them.

A file of lines is read once when it is opened, since a writer must know its versions and IDs. Who wants the state, too,
has the log hand over what it reads (`open_log(name, reader=Folding())`), and nothing is decoded twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskfold.fold.allocation import Fold
from taskfold.log.checkpoint import Checkpoint
from taskfold.log.index_map import Positions
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect
from taskfold.model.record import Collected, LogHeader, Record

__all__ = ["Folding"]


class Folding:
    """The state after the records that were taken in. Events that the table refuses are kept, as they were recorded.

    >>> from taskfold.events import Received
    >>> folding = Folding("1.1.2")
    >>> folding.take([Record(seq=1, index=7, alloc="a", version=1, task="web", event=Received())])
    >>> folding.seq, folding.positions.newest, folding.fold["a"].tasks["web"].state
    (1, 7, 'pending')
    """

    def __init__(self, dialect: str | Dialect = DEFAULT_DIALECT) -> None:
        self._begin(dialect)

    def begin(self, header: LogHeader) -> None:
        """Begin with no record, of a log with this header; a log that begins to be read calls it."""
        self._begin(header.dialect)

    def _begin(self, dialect: str | Dialect) -> None:
        self.go_on(Checkpoint(0, Fold(dialect, on_illegal="keep"), Positions()))

    def go_on(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, in place of all that was taken in."""
        self.seq, self.fold, self.positions = checkpoint

    def take(self, records: Sequence[Record]) -> None:
        """Take in the next records. O(records).

        What was collected is let go of at once: a log may have many more such allocations than others.
        """
        start = 0
        for place in [place for place, record in enumerate(records) if type(record.event) is Collected]:
            self.fold.apply_all(records[start : place + 1])
            del self.fold.allocations[records[place].alloc]
            start = place + 1
        self.fold.apply_all(records[start:] if start else records)
        self.positions.note_all(records)
        if records:
            self.seq = records[-1].seq
