"""Texts that were made lately, of a limited size in all."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

__all__ = ["Cache"]


class Measured(Protocol):
    """An object with a size."""

    @property
    def size(self) -> int:
        """How many bytes it keeps; always the same."""


K = TypeVar("K")
V = TypeVar("V", bound=Measured)


class Cache(Generic[K, V]):
    """A cache of the newest entries, of a limited total size; the oldest are dropped. O(1).

    What is kept never changes. One thread at a time may `keep`, while others `get`.

    >>> class Text(bytes):
    ...     size = property(len)
    >>> cache = Cache(limit_bytes=10)
    >>> for name in "abc":
    ...     cache.keep(name, Text(4))
    >>> cache.get("a"), cache.get("c") is not None, cache.size
    (None, True, 8)
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size = 0
        """How many bytes it keeps."""
        self._entries: OrderedDict[K, V] = OrderedDict()
        self.get = self._entries.get
        """Return what is kept under a key; None where nothing is."""

    def __contains__(self, key: object) -> bool:
        """Tell whether something is kept under a key."""
        return key in self._entries

    @property
    def count(self) -> int:
        """How many things it keeps."""
        return len(self._entries)

    def keep(self, key: K, value: V) -> None:
        """Keep something in the place of what was kept under its key."""
        before = self._entries.pop(key, None)
        self.size += value.size - (0 if before is None else before.size)
        self._entries[key] = value
        while self.size > self.limit_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.size -= oldest.size
