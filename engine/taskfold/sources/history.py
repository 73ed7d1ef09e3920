"""The history of an allocation: its records, each with the changes it made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec import Struct

from taskfold.fold.allocation import Fold
from taskfold.log.registry import LogLike
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import UnknownAllocation, UnknownTask
from taskfold.model.record import Record
from taskfold.sources.diff import Difference, differences
from taskfold.sources.replay import Replay

__all__ = ["HistoryEntry", "history", "unique_id"]


_CANDIDATES: Final = 5


def unique_id(ids: Iterable[str], prefix: str) -> str | None:
    """Return the only ID with this prefix, or equal to it; None if there is none. Raises UnknownAllocation for several.

    >>> unique_id(["a", "ab", "b"], "a"), unique_id(["ab", "b"], "a"), unique_id(["b"], "a")
    ('a', 'ab', None)
    """
    matches = sorted(alloc for alloc in ids if alloc.startswith(prefix))
    if len(matches) <= 1 or prefix == matches[0]:
        return matches[0] if matches else None
    names = ", ".join(matches[:_CANDIDATES]) + (" …" if len(matches) > _CANDIDATES else "")
    raise UnknownAllocation(f"{len(matches)} allocations begin with {prefix!r}: {names}")


class HistoryEntry(Struct, frozen=True):
    """A record, and its changes."""

    record: Record
    changes: tuple[Difference, ...]
    """Changed fields of the allocation and its tasks, except those that change with every write."""


def history(
    source: LogLike,
    alloc: str,
    task: str | None = None,
    *,
    dialect: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    skip_bad: bool = False,
) -> Iterator[HistoryEntry]:
    """Return the records of an allocation, or of one of its tasks, each with its changes.

    ``alloc`` is an ID, or a unique prefix. A database uses its index: O(log n); other sources are read: O(records).
    Then O(fields of the allocation) for each record. Raises what `taskfold.replay` raises, and UnknownAllocation when
    no or several allocations match, or the allocation has no such task.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> log = folder.name + "/log.jsonl"
    >>> from taskfold import Engine
    >>> from taskfold.events import Received, Started
    >>> with Engine.open(log, dialect="1.1.2") as engine:
    ...     engine.place({"ID": "a"})
    ...     for event in (Received(), Started()):
    ...         _ = engine.record("a", "web", event)
    >>> for entry in history(log, "a", "web"):
    ...     print(type(entry.record.event).__name__, [(one.field, one.before, one.after) for one in entry.changes][0])
    Received ('State', None, 'pending')
    Started ('State', 'pending', 'running')
    >>> folder.cleanup()
    """
    return _entries(Replay(source, dialect=dialect, on_note=on_note, skip_bad=skip_bad), alloc, task)


def _entries(replay: Replay, alloc: str, task: str | None) -> Iterator[HistoryEntry]:
    """Yield the entries of an allocation, or of a task."""
    matches = replay.matching(alloc)
    one = unique_id(matches, alloc)
    if one is None:
        raise UnknownAllocation(f"no allocation begins with {alloc!r}")
    names = sorted({record.task for record in matches[one] if record.task})
    if task and task not in names:
        raise UnknownTask(f"allocation {one} has no task {task!r}; it has {', '.join(names) or 'none'}")
    fold = Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep")
    before = None
    for record in matches[one]:
        after = fold.apply(record).freeze()
        if task in {None, record.task}:
            changes = differences(one, before, after, fold)
            yield HistoryEntry(record, tuple(one for one in changes if task in {None, one.task}))
        before = after
