"""Retention: which ended allocations are to be collected, by age, number and status."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from operator import itemgetter
from typing import NamedTuple

from msgspec import Struct

from taskfold.fold.status import CLIENT_TERMINAL
from taskfold.live.store import Store
from taskfold.model.go.durations import duration_text

__all__ = ["Candidate", "Retention", "candidates"]


class Retention(Struct, frozen=True, kw_only=True):
    """The rules for keeping ended allocations; others are always kept.

    >>> Retention(dead_for_ns=3_600_000_000_000, keep=1_000, statuses=("complete",))
    Retention(dead_for_ns=3600000000000, keep=1000, statuses=('complete',))

    Raises ValueError for a status that is not terminal, and for negative numbers.
    """

    dead_for_ns: int | None = None
    """Collect allocations that ended, and were last written, longer ago than this (nanoseconds)."""
    keep: int | None = None
    """Keep at most so many ended allocations: the last written."""
    statuses: tuple[str, ...] = tuple(sorted(CLIENT_TERMINAL))
    """The client statuses that the rules apply to."""

    def __post_init__(self) -> None:
        """Check the values."""
        for status in self.statuses:
            if status not in CLIENT_TERMINAL:
                raise ValueError(f"{status!r} is no terminal client status: {', '.join(sorted(CLIENT_TERMINAL))} are")
        if min(self.dead_for_ns or 0, self.keep or 0) < 0:
            raise ValueError("an age and a number to keep must not be negative")


class Candidate(NamedTuple):
    """An allocation that is to be collected, with the reason."""

    alloc: str
    reason: str


def candidates(store: Store, retention: Retention, now_ns: int) -> list[Candidate]:
    """Return the allocations to be collected by a time (unix nanoseconds), oldest first. O(ended × log keep).

    For the thread that has the turn; readers continue meanwhile.
    """
    ended = [(store.fold.allocations[alloc].modified_ns, alloc) for alloc in _ended(store, retention)]
    by_alloc: dict[str, Candidate] = {}
    if retention.keep is not None and len(ended) > retention.keep:
        newest = set(map(itemgetter(1), nlargest(retention.keep, ended)))
        reason = f"more than {retention.keep} have ended"
        by_alloc.update((alloc, Candidate(alloc, reason)) for _, alloc in ended if alloc not in newest)
    if retention.dead_for_ns is not None:
        reason = f"ended more than {duration_text(retention.dead_for_ns)} ago"
        limit_ns = now_ns - retention.dead_for_ns
        by_alloc.update((alloc, Candidate(alloc, reason)) for time_ns, alloc in ended if time_ns < limit_ns)
    return [by_alloc[alloc] for _, alloc in sorted(ended) if alloc in by_alloc]


def _ended(store: Store, retention: Retention) -> Iterator[str]:
    for status in retention.statuses:
        yield from store.listing(status=status).ids
