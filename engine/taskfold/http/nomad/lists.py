"""The cache of lists, which clients poll: each is written once, however often it is read.

The entry of an allocation is cached until its next record. A list that is not long is cached as the whole answer to the
very request that asked for it, as long as the same allocations match, at the same versions: after writes of others, the
body stays, and the headers are made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from taskfold.http.answers import Answer, json_answer
from taskfold.http.request import Request
from taskfold.live.directory import Filter
from taskfold.live.reader import Reader
from taskfold.model.cache import Cache

__all__ = ["KeptList", "Lists", "Stub"]

_SMALL: Final = 512
"""The bytes of an entry of the cache beside its text, about."""

_LISTS_AT_LEAST: Final = 8
"""How many lists there is room for, however long they are."""

_VERSION: Final = 128
"""The bytes of an allocation's version beside a cached list, about."""

_USUAL: Final = 4_096
"""The bytes of an entry of a list, as long as there is none to measure."""

Choices: TypeAlias = tuple[bool, ...]
"""The fields and the format of a list."""

Target: TypeAlias = tuple[bytes, bytes]
"""The path and the query of a request, as they came."""


class Stub(Struct, frozen=True, gc=False):
    """An entry of a list: an allocation at one version."""

    version: int
    text: bytes
    job_index: int = 0
    """The CreateIndex of its job: that of another job of the same ID is another one."""

    @property
    def size(self) -> int:
        """Its bytes."""
        return _SMALL + len(self.text)


class KeptList(Struct, frozen=True, gc=False):
    """A complete list, as of a record of the log."""

    seq: int
    route: str
    """The endpoint that answered it."""
    answer: Answer
    query: Filter
    versions: Mapping[str, int]
    """The version of each allocation that matched, by ID; none of more than can be compared."""
    size: int


class Lists:
    """The list entries and whole lists read last: half of a limited size each."""

    def __init__(self, reader: Reader, limit_bytes: int) -> None:
        self._reader = reader
        self._stubs: Cache[tuple[str, Choices], Stub] = Cache(limit_bytes // 2)
        self._lists: Cache[Target, KeptList] = Cache(limit_bytes // 2)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self._stubs.size + self._lists.size

    def __contains__(self, target: object) -> bool:
        """Return whether a list, perhaps an old one, is cached for a path and query."""
        return target in self._lists

    def stubs(self, choices: Choices) -> Callable[[str], Stub | None]:
        """Return the look-up of cached entries, of any version, by allocation; None if nothing is cached."""
        get = self._stubs.get
        return lambda alloc: get((alloc, choices))

    def has_room_for(self, count: int) -> bool:
        """Return whether a list of ``count`` entries leaves room for others: a longer one would evict all of them."""
        stubs = self._stubs
        mean = stubs.size // stubs.count if stubs.count else _USUAL
        return count * mean <= stubs.limit_bytes // 2

    def keep_stub(self, alloc: str, choices: Choices, stub: Stub) -> None:
        """Cache an entry."""
        self._stubs.keep((alloc, choices), stub)

    def current(self, request: Request) -> KeptList | None:
        """Return the list for a request, if it is cached and current; else None.

        O(1), or O(log n + its allocations) after a write.
        """
        target = _target(request)
        entry = self._lists.get(target)
        if entry is None or (request.accepts_gzip and entry.answer.gzipped is None):
            return None
        if self._reader.is_current(entry.seq):
            return entry
        position = self._reader.position_if_same(entry.query, entry.versions)
        if position is None:
            return None
        answer = replace(entry.answer, headers=json_answer(b"", position.index).headers)
        entry = replace(entry, seq=position.seq, answer=answer)
        self._lists.keep(target, entry)
        return entry

    def keep(self, request: Request, answer: Answer, seq: int, query: Filter, versions: Mapping[str, int]) -> None:
        """Cache the answer to a request, as of exactly this position; not one that would evict many others."""
        target = _target(request)
        size = _SMALL + sum(map(len, target)) + len(answer.body) + len(answer.gzipped or b"") + _VERSION * len(versions)
        if size <= self._lists.limit_bytes // _LISTS_AT_LEAST:
            self._lists.keep(target, KeptList(seq, request.route, answer, query, versions, size))


def _target(request: Request) -> Target:
    scope = request.scope
    return scope.get("raw_path") or request.path.encode(errors="surrogateescape"), scope["query_string"]
