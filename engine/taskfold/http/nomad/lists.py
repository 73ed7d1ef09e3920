"""The cache of lists, which clients poll: each is written once, however often it is read.

The entry of an allocation is cached until its next record. A short list is cached as the whole answer to the very
request that asked for it, until the next write of the store, whatever that is of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import Struct

from taskfold.http.answers import Answer
from taskfold.http.request import Request
from taskfold.live.reader import Reader
from taskfold.model.cache import Cache

__all__ = ["KeptList", "Lists", "Stub"]

_SMALL: Final = 512
"""The bytes of an entry of the cache beside its text, about."""

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
    """A complete list, as of the newest record of the log."""

    seq: int
    route: str
    """The endpoint that answered it."""
    answer: Answer
    size: int


class Lists:
    """The list entries and short lists read last: half of a limited size each."""

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
        """Return the list for a request, if it is cached and current; else None. O(1)."""
        entry = self._lists.get(_target(request))
        if entry is None or (request.accepts_gzip and entry.answer.gzipped is None):
            return None
        return entry if self._reader.is_current(entry.seq) else None

    def keep(self, request: Request, answer: Answer, seq: int) -> None:
        """Cache the answer to a request, as of exactly this position of the log."""
        target = _target(request)
        size = _SMALL + sum(map(len, target)) + len(answer.body) + len(answer.gzipped or b"")
        self._lists.keep(target, KeptList(seq, request.route, answer, size))


def _target(request: Request) -> Target:
    scope = request.scope
    return scope.get("raw_path") or request.path.encode(errors="surrogateescape"), scope["query_string"]
