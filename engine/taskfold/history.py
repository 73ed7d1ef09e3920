"""History: every record of an allocation, and what each of them changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from taskfold.allocation import Fold
from taskfold.dialect import NEWEST_DIALECT
from taskfold.diff import Difference, differences
from taskfold.record import Record
from taskfold.replay import Replay

__all__ = ["Entry", "history"]


class Entry(Struct, frozen=True):
    """A record, and what it changed."""

    record: Record
    changes: tuple[Difference, ...]
    """Fields of the allocation and of its tasks; those that change with every write are left out."""


def history(source: str | Path, alloc: str, task: str | None = None, *, dialect: str | None = None) -> Iterator[Entry]:
    """Return every record of an allocation in a source, or of one of its tasks, with what each changed.

    O(records of the source, and fields of the allocation for each of its own). Raises what `taskfold.replay` raises.

    >>> log = getfixture("tmp_path") / "log.jsonl"
    >>> from taskfold.engine import Engine
    >>> from taskfold.events import Received, Started
    >>> with Engine.open(log, dialect="1.1.2") as engine:
    ...     engine.place({"ID": "a"})
    ...     for event in (Received(), Started()):
    ...         _ = engine.record("a", "web", event)
    >>> for entry in history(log, "a", "web"):
    ...     print(type(entry.record.event).__name__, [(one.field, one.before, one.after) for one in entry.changes][0])
    Received ('State', None, 'pending')
    Started ('State', 'pending', 'running')
    """
    return _entries(Replay(source, dialect=dialect), alloc, task)


def _entries(replay: Replay, alloc: str, task: str | None) -> Iterator[Entry]:
    """Yield the entries of an allocation, or of a task."""
    fold: Fold | None = None
    before = None
    for record in replay:
        if record.alloc != alloc:
            continue
        fold = fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep")
        after = fold.apply(record).freeze()
        if task in {None, record.task}:
            changes = differences(alloc, before, after, fold)
            yield Entry(record, tuple(one for one in changes if task in {None, one.task}))
        before = after
