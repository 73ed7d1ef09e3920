"""Lists as text: what every client polls is written once, however often it is asked for.

The entry of an allocation is kept until its next record. A short list is kept as the whole answer to the very request
that asked for it, until the next write of the store, whatever that is of.
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
"""About how many bytes an entry of a cache needs beside its text."""

_USUAL: Final = 4_096
"""How many bytes an entry of a list has, as long as none is known."""

Choices: TypeAlias = tuple[bool, ...]
"""What a list was asked to have of each allocation, and how it is written."""

Target: TypeAlias = tuple[bytes, bytes]
"""The path and the query of a request, as they came."""


class Stub(Struct, frozen=True, gc=False):
    """An entry of a list: an allocation at one version."""

    version: int
    text: bytes

    @property
    def size(self) -> int:
        """How many bytes it keeps."""
        return _SMALL + len(self.text)


class KeptList(Struct, frozen=True, gc=False):
    """A whole list, as it was after the newest record of the log."""

    seq: int
    route: str
    """Which endpoint answered it."""
    answer: Answer
    size: int


class Lists:
    """The entries of lists, and the short lists, that were asked for lately: half of a limited size each."""

    def __init__(self, reader: Reader, limit_bytes: int) -> None:
        self._reader = reader
        self._stubs: Cache[tuple[str, Choices], Stub] = Cache(limit_bytes // 2)
        self._lists: Cache[Target, KeptList] = Cache(limit_bytes // 2)

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self._stubs.size + self._lists.size

    def __contains__(self, target: object) -> bool:
        """Tell whether a list is kept for a path and query, of whatever time."""
        return target in self._lists

    def stubs(self, choices: Choices) -> Callable[[str], Stub | None]:
        """Return what gets the entry that is kept of an allocation, of whatever version; None where there is none."""
        get = self._stubs.get
        return lambda alloc: get((alloc, choices))

    def has_room_for(self, count: int) -> bool:
        """Tell whether a list of so many entries leaves room for others: a longer one would drive out all of them."""
        stubs = self._stubs
        mean = stubs.size // stubs.count if stubs.count else _USUAL
        return count * mean <= stubs.limit_bytes // 2

    def keep_stub(self, alloc: str, choices: Choices, stub: Stub) -> None:
        """Keep an entry."""
        self._stubs.keep((alloc, choices), stub)

    def kept(self, request: Request) -> KeptList | None:
        """Return the list that a request asks for, where it is kept and nothing was written since; else None. O(1)."""
        kept = self._lists.get(_target(request))
        if kept is None or (request.accepts_gzip and kept.answer.gzipped is None):
            return None
        return kept if self._reader.is_current(kept.seq) else None

    def keep(self, request: Request, answer: Answer, seq: int) -> None:
        """Keep the answer to a request: it tells what is so after a position of the log, and nothing else."""
        target = _target(request)
        size = _SMALL + sum(map(len, target)) + len(answer.body) + len(answer.gzipped or b"")
        self._lists.keep(target, KeptList(seq, request.route, answer, size))


def _target(request: Request) -> Target:
    scope = request.scope
    return scope.get("raw_path") or request.path.encode(errors="surrogateescape"), scope["query_string"]
