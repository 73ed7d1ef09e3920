"""Allocations as text: each is written once per version, however often it is asked for."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct
from msgspec.structs import replace

from taskfold.codecs.allocation import Snapshot
from taskfold.http.compression import gzip_body
from taskfold.store import Store

__all__ = ["Bodies", "Body"]


class Body(Struct, frozen=True, gc=False):
    """The text of an allocation at one version."""

    version: int
    index: int
    text: bytes
    gzipped: bytes | None


class Bodies:
    """The texts of the allocations that were asked for lately, of a limited size in all."""

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._store = store
        self._limit = limit_bytes
        self._bodies: OrderedDict[str, Body] = OrderedDict()
        self.size = 0
        """How many bytes it keeps."""

    def get(self, alloc: str, *, gzipped: bool = False) -> Body | None:
        """Return the body of an allocation as it is now; None where there is none. O(1) when it is kept."""
        kept = self._bodies.get(alloc)
        with self._store.lock:
            found = self._store.fold.allocations.get(alloc)
            if found is None:
                return None
            is_new = kept is None or kept.version != found.version
            state = found.freeze() if is_new else None
        if state is not None:
            text = Snapshot.of(state, self._store.dialect).to_json()
            kept = Body(state.version, state.modify_index, text, gzip_body(text) if gzipped else None)
            self._keep(alloc, kept)
        assert kept is not None
        if gzipped and kept.gzipped is None:
            kept = replace(kept, gzipped=gzip_body(kept.text))
            self._keep(alloc, kept)
        return kept

    def _keep(self, alloc: str, body: Body) -> None:
        """Keep a text, and let go of those that were made longest ago."""
        before = self._bodies.pop(alloc, None)
        self.size += _size(body) - (0 if before is None else _size(before))
        self._bodies[alloc] = body
        while self.size > self._limit:
            _, oldest = self._bodies.popitem(last=False)
            self.size -= _size(oldest)


def _size(body: Body) -> int:
    return len(body.text) + len(body.gzipped or b"")
