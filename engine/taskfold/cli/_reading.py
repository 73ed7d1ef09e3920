"""Sources as the commands read them: folded, and filtered by their options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from msgspec import Struct

from taskfold.cli._guard import Unanswerable
from taskfold.fold.allocation import Fold, newest_time_ns
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import DecodeError, UnknownAllocation
from taskfold.model.record import Gap, Record
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.history import unique_id
from taskfold.sources.replay import At, Replay

__all__ = ["Folded", "Selection", "fold_of", "matching_ids", "naming", "records_of_one", "the_one"]


class Selection(Struct, frozen=True, kw_only=True):
    """A filter of allocations, tasks and records; None matches all."""

    alloc: str | None = None
    task: str | None = None
    job: str | None = None
    node: str | None = None
    status: str | None = None
    since: int | None = None
    until: int | None = None

    def has_time(self, time_ns: int) -> bool:
        """Return whether a time (unix nanoseconds) lies in the range, both ends included."""
        return (self.since is None or time_ns >= self.since) and (self.until is None or time_ns <= self.until)


@contextmanager
def naming(alloc: str) -> Iterator[None]:
    """Add the allocation to a DecodeError of the block, as opaque fields are decoded on demand. Raises Unanswerable."""
    try:
        yield
    except DecodeError as error:
        msg = f"allocation {alloc}: {error}"
        raise Unanswerable(msg) from None


class Folded(NamedTuple):
    """The folded state of a source."""

    fold: Fold
    gaps: Counter[str]
    """The number of gaps, by allocation."""
    last_ns: dict[str, int]
    """The time of the last record (unix nanoseconds), by allocation."""

    @property
    def newest_ns(self) -> int:
        """The newest time of any record or event (unix nanoseconds), from which ages count. O(tasks)."""
        tasks = (task for allocation in self.fold.allocations.values() for task in allocation.tasks.values())
        return max(newest_time_ns(tasks), max(self.last_ns.values(), default=0))


def fold_of(replay: Replay) -> Folded:
    """Fold the records up to the point of the replay. O(records)."""
    gaps: Counter[str] = Counter()
    last_ns: dict[str, int] = {}
    is_whole = replay.at == At()
    blocks = (records for _, records in replay.steps()) if is_whole else ([record] for record in replay)
    fold: Fold | None = None
    for records in blocks:
        for record in records:
            last_ns[record.alloc] = record.time_ns
            if type(record.event) is Gap:
                gaps[record.alloc] += 1
        # The importer has folded what it wrote, so that a fold of its own is needed for a point in between only.
        if not is_whole or replay.importer is None:
            fold = fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep")
            fold.apply_all(records)
    if is_whole and replay.importer is not None:
        fold = replay.importer.fold
    return Folded(fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep"), gaps, last_ns)


def matching_ids(folded: Folded, selection: Selection) -> list[str]:
    """Return the sorted IDs of the allocations that match. O(allocations).

    Raises Unanswerable when several IDs begin with the prefix.
    """
    fold = folded.fold
    if selection.alloc is None:
        return sorted(alloc for alloc in fold if _matches(folded, alloc, selection))
    one = the_one(fold, selection.alloc)
    return [one] if one is not None and _matches(folded, one, selection) else []


def _matches(folded: Folded, alloc: str, selection: Selection) -> bool:
    fold = folded.fold
    if not selection.has_time(folded.last_ns[alloc]):
        return False
    allocation = fold.owned(alloc)
    task = None if selection.task is None else allocation.tasks.get(selection.task)
    if selection.task is not None and (task is None or task.seldom.hidden):
        return False
    if selection.job is selection.node is selection.status is None:
        return True
    snapshot = Snapshot.of(fold[alloc], fold.dialect)
    with naming(alloc):
        return (
            selection.job in {None, snapshot.job_id}
            and selection.status in {None, snapshot.client_status}
            and (snapshot.node_id or "").startswith(selection.node or "")
        )


def records_of_one(replay: Replay, prefix: str) -> list[Record]:
    """Return the records of the one allocation whose ID begins with the prefix; none if there is none.

    Raises Unanswerable when there are several. Cost: as `Replay.matching`.
    """
    matches = replay.matching(prefix)
    one = the_one(matches, prefix)
    return [] if one is None else matches[one]


def the_one(ids: Iterable[str], prefix: str) -> str | None:
    """Return the one ID that begins with the prefix, or equals it. Raises Unanswerable when there are several."""
    try:
        return unique_id(ids, prefix)
    except UnknownAllocation as refusal:
        raise Unanswerable(str(refusal)) from None
