"""Sources as the commands read them: folded, and filtered by their options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from msgspec import Struct

from taskfold.cli._guard import Unanswerable
from taskfold.fold.allocation import Fold
from taskfold.fold.course import CourseFold, Death
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
    deaths: dict[tuple[str, str], Death]
    """The last death of each task that died, by allocation and task; empty unless asked for."""


def fold_of(replay: Replay, *, with_deaths: bool = False) -> Folded:
    """Fold the records up to the point of the replay. O(records)."""
    gaps: Counter[str] = Counter()
    deaths: dict[tuple[str, str], Death] = {}
    is_whole = replay.at == At()
    blocks = (records for _, records in replay.steps()) if is_whole else ([record] for record in replay)
    fold: Fold | None = None
    course: CourseFold | None = None
    for records in blocks:
        for record in records:
            if type(record.event) is Gap:
                gaps[record.alloc] += 1
        if with_deaths:
            course = course or CourseFold(replay.dialect or NEWEST_DIALECT)
            for happening in course.apply_all(records, with_intervals=False):
                if isinstance(happening, Death):
                    deaths[happening.alloc, happening.task] = happening
        # The importer has folded what it wrote, so that a fold of its own is needed for a point in between only.
        elif not is_whole or replay.importer is None:
            fold = fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep")
            fold.apply_all(records)
    if course is not None:
        fold = course.fold
    elif is_whole and replay.importer is not None:
        fold = replay.importer.fold
    return Folded(fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep"), gaps, deaths)


def matching_ids(fold: Fold, selection: Selection) -> list[str]:
    """Return the sorted IDs of the allocations that match. O(allocations).

    Raises Unanswerable when several IDs begin with the prefix.
    """
    if selection.alloc is None:
        return sorted(alloc for alloc in fold if _matches(fold, alloc, selection))
    one = the_one(fold, selection.alloc)
    return [one] if one is not None and _matches(fold, one, selection) else []


def _matches(fold: Fold, alloc: str, selection: Selection) -> bool:
    allocation = fold.owned(alloc)
    if not selection.has_time(allocation.modified_ns):
        return False
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
