"""The directory: allocations sorted by ID, job, node, status and newest write.

Every order is one sorted list of short tuples (sortedcontainers); memory grows linearly with the number of allocations.
A look-up costs O(log n), a range O(log n + its length), a change O(log n) for each order in which the allocation moves.
Two orders change with nearly every write, and are cheaper: the order of writes is that of a dict, whose newest entry is
its last; the order by status is updated when it is read, or when enough changes are pending, so that repeated restarts
of a task cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, takewhile
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from sortedcontainers import SortedList

from taskfold.fold.allocation import Allocation, current_field
from taskfold.fold.lifecycle import PENDING
from taskfold.model.texts import shared
from taskfold.nomad.fields import DEFAULT_NAMESPACE

__all__ = ["Directory", "Filter", "ListEntry", "heading_of"]

_MOVED_LIMIT: Final = 4_096
"""The most pending changes of status: sorting them takes some ten milliseconds."""


class ListEntry(Struct, gc=False):
    """An allocation's entry in the directory; reading several fields consistently requires the store's lock."""

    namespace: str = DEFAULT_NAMESPACE
    job: str = ""
    node: str = ""
    status: str = PENDING
    modify_index: int = 0
    explicit_status: str = ""
    """The ClientStatus field, if it does not follow from the tasks; else empty."""


class Filter(NamedTuple):
    """A query: allocations that match all its fields; None matches any."""

    prefix: str = ""
    job: str | None = None
    node: str | None = None
    status: str | None = None
    namespace: str | None = None

    def keys(self) -> dict[str, str]:
        """Return the fields that an entry must have, by name."""
        return {name: value for name, value in zip(self._fields[1:], self[1:], strict=True) if value is not None}

    def matches(self, alloc: str, entry: ListEntry) -> bool:
        """Return whether an allocation matches."""
        return alloc.startswith(self.prefix) and all(getattr(entry, name) == key for name, key in self.keys().items())


class Page(NamedTuple):
    """One page of a query's result."""

    ids: list[str]
    last: str | None
    """The ID after which the next page begins; None on the last page."""


class Directory:
    """The allocations in every order that queries need.

    >>> directory = Directory()
    >>> directory.put("b2", ListEntry(job="example", modify_index=9))
    >>> directory.put("a1", ListEntry(job="example", modify_index=3))
    >>> directory.put("c3", ListEntry(job="other", modify_index=4))
    >>> directory.ids(job="example"), directory.ids(prefix="c"), list(directory.written_after(3))
    (['a1', 'b2'], ['c3'], ['c3', 'b2'])
    """

    def __init__(self) -> None:
        self._entries: dict[str, ListEntry] = {}
        self._ids = SortedList()
        self._orders: dict[str, SortedList] = {name: SortedList() for name in ("job", "node")}
        self._statuses: SortedList = SortedList()
        self._moved: dict[str, str] = {}
        """The allocations with a pending change of status, each with the status it is still sorted by."""
        self._is_sorting = False
        """The order by status is being updated; if no thread is at it, that was interrupted, and it is rebuilt."""
        self._write_indexes: dict[str, int] = {}
        """By allocation, the index of its newest write, in the order of the writes."""
        self._newest_index = 0
        self._is_in_order = True
        """The indexes of writes were ascending so far; those of a mirrored Nomad need not be."""

    def __len__(self) -> int:
        """Return the number of allocations."""
        return len(self._entries)

    def __contains__(self, alloc: object) -> bool:
        """Return whether an allocation is listed. O(1)."""
        return alloc in self._entries

    def get(self, alloc: str) -> ListEntry | None:
        """Return the entry of an allocation; None if there is none. O(1)."""
        return self._entries.get(alloc)

    def put(self, alloc: str, entry: ListEntry) -> None:
        """Add or replace an allocation's entry. O(1), plus O(log n) for each order, except two, in which it moves."""
        before = self._entries.get(alloc)
        self._entries[alloc] = entry
        self._note_write(alloc, entry.modify_index)
        if before is None:
            self._ids.add(alloc)
            for name, order in self._orders.items():
                order.add((getattr(entry, name), alloc))
            if not self._is_sorting:  # otherwise the order is rebuilt
                self._statuses.add((entry.status, alloc))
            return
        if before.status is not entry.status and before.status != entry.status:
            self._note_status(alloc, before.status)
        if before.job != entry.job or before.node != entry.node:
            for name, order in self._orders.items():
                if (was := getattr(before, name)) != (now := getattr(entry, name)):
                    order.remove((was, alloc))
                    order.add((now, alloc))

    def refresh(self, alloc: str, allocation: Allocation) -> ListEntry | None:
        """Note a write that changed only tasks of an allocation; return its new entry. O(tasks)."""
        entry = self._entries.get(alloc)
        if entry is not None:
            entry.modify_index = allocation.modify_index
            self._note_write(alloc, allocation.modify_index)
            before, status = entry.status, entry.explicit_status or allocation.client_status or PENDING
            if status is not before and status != before:
                entry.status = status
                self._note_status(alloc, before)
        return entry

    def _note_status(self, alloc: str, before: str) -> None:
        """Note a pending change in the order by status."""
        self._moved.setdefault(alloc, before)
        if len(self._moved) > _MOVED_LIMIT:
            self._sort_statuses()

    def remove(self, alloc: str) -> None:
        """Remove an allocation, if it is listed. O(log n) for each order."""
        entry = self._entries.pop(alloc, None)
        if entry is None:
            return
        self._ids.remove(alloc)
        for name, order in self._orders.items():
            order.remove((getattr(entry, name), alloc))
        if not self._is_sorting:  # otherwise the order is rebuilt
            self._statuses.remove((self._moved.pop(alloc, entry.status), alloc))
        self._write_indexes.pop(alloc)

    def _note_write(self, alloc: str, index: int) -> None:
        """Move an allocation to the end of the order of writes."""
        self._write_indexes.pop(alloc, None)
        self._write_indexes[alloc] = index
        if index < self._newest_index:
            self._is_in_order = False
        else:
            self._newest_index = index

    def _sort_statuses(self) -> SortedList:
        """Return the order by status, updated. O(log n) for each pending change."""
        if self._is_sorting:
            self._statuses = SortedList((entry.status, alloc) for alloc, entry in self._entries.items())
        elif self._moved:
            self._is_sorting = True
            for alloc, was in self._moved.items():
                now = self._entries[alloc].status
                if now != was:
                    self._statuses.remove((was, alloc))
                    self._statuses.add((now, alloc))
        self._moved.clear()
        self._is_sorting = False
        return self._statuses

    def put_all(self, entries: Mapping[str, ListEntry]) -> None:
        """Fill an empty directory. O(n log n), and much faster than one by one."""
        assert not self._entries
        self._entries = dict(entries)
        self._ids.update(entries)
        for name, order in self._orders.items():
            order.update((getattr(entry, name), alloc) for alloc, entry in entries.items())
        self._statuses.update((entry.status, alloc) for alloc, entry in entries.items())
        self._write_indexes = {alloc: entry.modify_index for alloc, entry in entries.items()}
        self._newest_index = max(self._write_indexes.values(), default=0)
        self._is_in_order = False

    def ids(
        self,
        *,
        prefix: str = "",
        job: str | None = None,
        node: str | None = None,
        status: str | None = None,
        namespace: str | None = None,
    ) -> list[str]:
        """Return the IDs of the allocations that match all arguments, sorted. O(log n + the narrowest range)."""
        ids, keys = self._candidates(Filter(prefix, job, node, status, namespace), None)
        return self._matching(ids, keys)

    def page(self, query: Filter, after: str | None, limit: int) -> Page:
        """Return the matches among the next ``limit`` candidates after an ID, sorted. O(log n + limit)."""
        ids, keys = self._candidates(query, after)
        candidates = list(islice(ids, limit))
        last = candidates[-1] if len(candidates) == limit else None
        return Page(self._matching(candidates, keys), last)

    def _candidates(self, query: Filter, after: str | None) -> tuple[Iterable[str], dict[str, str]]:
        """Return the IDs after one of them in the narrowest order, sorted, and the remaining conditions."""
        keys = query.keys()
        inclusive = after is None, True
        if query.prefix:
            ids = self._ids.irange(query.prefix if after is None else after, inclusive=inclusive)
            return takewhile(lambda alloc: alloc.startswith(query.prefix), ids), keys
        for name in ("job", "node", "status"):
            if name in keys:
                key = keys.pop(name)
                order = self._sort_statuses() if name == "status" else self._orders[name]
                pairs = order.irange((key, after or ""), _after_key(key), inclusive=(after is None, False))
                return map(itemgetter(1), pairs), keys
        return self._ids.irange(after, inclusive=inclusive), keys

    def _matching(self, candidates: Iterable[str], keys: Mapping[str, str]) -> list[str]:
        """Return the candidates whose entries have all these fields."""
        if not keys:
            return list(candidates)
        key_of, entries = attrgetter(*keys), self._entries
        key = key_of(Filter(**keys))
        return [alloc for alloc in candidates if key_of(entries[alloc]) == key]

    def jobs(self, namespace: str | None = None) -> list[str]:
        """Return the IDs of the jobs that have allocations, in a namespace or in any, sorted.

        O(jobs × log n), and O(allocations of other namespaces).
        """
        order = self._orders["job"]
        jobs: list[str] = []
        start = 0
        while start < len(order):
            job, alloc = order[start]
            is_here = namespace is None or self._entries[alloc].namespace == namespace
            if is_here:
                jobs.append(job)
            start = order.bisect_left(_after_key(job)) if is_here else start + 1
        return jobs

    def written_after(self, index: int) -> Iterator[str]:
        """Yield the IDs of allocations written after an index, oldest write first. O(matches).

        O(n log n) the first time after a write whose index was not ascending.
        """
        if not self._is_in_order:
            self._write_indexes = dict(sorted(self._write_indexes.items(), key=lambda entry: entry[1]))
            self._is_in_order = True
        newest = takewhile(lambda alloc: self._write_indexes[alloc] > index, reversed(self._write_indexes))
        return reversed(list(newest))

    def count_by_status(self) -> dict[str, int]:
        """Return the number of allocations by client status. O(statuses × log n)."""
        counts: dict[str, int] = {}
        order = self._sort_statuses()
        start = 0
        while start < len(order):
            status = order[start][0]
            end = order.bisect_left(_after_key(status))
            counts[status] = end - start
            start = end
        return counts

    def _check(self) -> None:
        """Assert every invariant."""
        self._ids._check()  # noqa: SLF001 - sortedcontainers' own check, meant for tests
        assert list(self._ids) == sorted(self._entries)
        for name, order in {**self._orders, "status": self._sort_statuses()}.items():
            order._check()  # noqa: SLF001
            assert list(order) == sorted((getattr(entry, name), alloc) for alloc, entry in self._entries.items())
        assert self._write_indexes == {alloc: entry.modify_index for alloc, entry in self._entries.items()}
        if self._is_in_order:
            assert list(self._write_indexes.values()) == sorted(self._write_indexes.values())


class _Heading(Struct):
    """The top-level fields that the directory sorts by."""

    Namespace: str | None = None
    JobID: str | None = None
    NodeID: str | None = None
    ClientStatus: str | None = None


_decode_heading: Final[Callable[[bytes], _Heading]] = msgspec.json.Decoder(_Heading).decode
_FIELDS: Final = ("Namespace", "JobID", "NodeID", "ClientStatus")
_decode_field: Final[Callable[[bytes], str | None]] = msgspec.json.Decoder(str | None).decode


def heading_of(allocation: Allocation) -> ListEntry:
    """Make the entry of an allocation from its fields and tasks. O(length of its fields).

    A field of a wrong type, as from a newer Nomad, is listed as empty.
    """
    placed_fields, updates = allocation.placed_body, allocation.updates
    values: dict[str, str | None]
    try:
        if updates and not updates.keys().isdisjoint(_FIELDS):
            values = _each(placed_fields, updates)
        else:
            heading = _decode_heading(placed_fields)
            values = {name: getattr(heading, name) for name in _FIELDS}
    except msgspec.ValidationError:
        values = _each(placed_fields, None)
    return ListEntry(
        namespace=shared(values.get("Namespace") or DEFAULT_NAMESPACE),
        job=shared(values.get("JobID") or ""),
        node=shared(values.get("NodeID") or ""),
        status=values.get("ClientStatus") or allocation.client_status or PENDING,
        modify_index=allocation.modify_index,
        explicit_status=values.get("ClientStatus") or "",
    )


def _after_key(key: str) -> tuple[str, str]:
    """Return the end of a key's range in an order: no text sorts between the two keys."""
    return key + "\0", ""


def _each(placed_fields: bytes, updates: Mapping[str, bytes | None] | None) -> dict[str, str | None]:
    """Return each field; None if it is no text."""
    return {name: _lenient(current_field(placed_fields, updates, name)) for name in _FIELDS}


def _lenient(text: bytes | None) -> str | None:
    """Return a field; None if it is no text."""
    try:
        return None if text is None else _decode_field(text)
    except msgspec.ValidationError:
        return None
