"""A cache of the top-level fields of the newest observed allocations.

Most observations repeat the previous one of the same allocation. Its current fields are the placed ones with all
updates applied, which is more expensive than the comparison.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from taskfold.fold.allocation import Allocation, current_fields
from taskfold.model.cache import Cache

__all__ = ["MAX_BYTES", "FieldCache"]

MAX_BYTES: Final = 8 << 20
"""The size of the cache: enough for some thousand allocations, or some hundred with their Job."""
_OBJECT_BYTES: Final = 64
"""The approximate memory of a text in a dictionary, beside its length."""


class _CachedFields(Struct, gc=False):
    allocation: Allocation
    version: int
    fields: dict[str, bytes]
    size: int


class FieldCache:
    """The fields of allocations, each at a version.

    Every change of an allocation is a record, which changes its version: fields of another version are not used.
    """

    def __init__(self) -> None:
        self.cache: Cache[str, _CachedFields] = Cache(MAX_BYTES)

    def take(self, allocation: Allocation) -> dict[str, bytes]:
        """Return the current fields; the caller changes them only together with the allocation. O(fields)."""
        entry = self.cache.get(allocation.id)
        if entry is not None and entry.allocation is allocation and entry.version == allocation.version:
            return entry.fields
        return current_fields(allocation.placed_body, allocation.updates)

    def keep(self, allocation: Allocation, fields: dict[str, bytes]) -> None:
        """Cache the current fields. O(fields)."""
        size = sum(map(len, fields.values())) + _OBJECT_BYTES * len(fields)
        self.cache.keep(allocation.id, _CachedFields(allocation, allocation.version, fields, size))
