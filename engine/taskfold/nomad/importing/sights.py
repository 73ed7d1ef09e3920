"""A cache of the top-level fields of the allocations that were observed last.

Most observations tell again what the one before told of the same allocation. Its fields as they are now are what was
placed with all updates over it, which costs more to put together than to compare.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from taskfold.fold.allocation import Allocation, current_fields
from taskfold.model.cache import Cache

__all__ = ["MAX_BYTES", "Sights"]

MAX_BYTES: Final = 8 << 20
"""How much is kept: of some thousand allocations, or of some hundred with their Job."""
_OBJECT_BYTES: Final = 64
"""What a text and its place in a dictionary need beside its length, about."""


class _Sight(Struct, gc=False):
    allocation: Allocation
    version: int
    fields: dict[str, bytes]
    size: int


class Sights:
    """The fields of some allocations as they are at a version.

    Whatever changes an allocation is a record, and moves its version: fields of another one are not used.
    """

    def __init__(self) -> None:
        self.cache: Cache[str, _Sight] = Cache(MAX_BYTES)

    def take(self, allocation: Allocation) -> dict[str, bytes]:
        """Return the fields as they are now, which the caller changes only together with the allocation. O(fields)."""
        sight = self.cache.get(allocation.id)
        if sight is not None and sight.allocation is allocation and sight.version == allocation.version:
            return sight.fields
        return current_fields(allocation.placed_body, allocation.updates)

    def keep(self, allocation: Allocation, fields: dict[str, bytes]) -> None:
        """Keep the fields as they are now. O(fields)."""
        size = sum(map(len, fields.values())) + _OBJECT_BYTES * len(fields)
        self.cache.keep(allocation.id, _Sight(allocation, allocation.version, fields, size))
