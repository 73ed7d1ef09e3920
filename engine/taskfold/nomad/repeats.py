"""What was told last of allocations, and told nothing new: whoever polls hears it again and again.

An observation that was looked into, and led to nothing, leads to nothing again as long as what it was compared with
is the same: the allocation's version, what was heard of it, and what streams told of jobs. Then comparing it with the
one before is enough; every text of both is compared, so that none is taken for another one.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from taskfold.nomad.observation import Observation

__all__ = ["MAX_BYTES", "Repeats"]

MAX_BYTES: Final = 8 << 20
"""How much is kept: the newest of some thousand allocations, or of some hundred with large jobs."""
_OBJECT_BYTES: Final = 128
"""What a field, or an event, needs beside its length, about."""


class _Repeat(Struct, gc=False):
    observation: Observation
    beside: tuple[Any, ...]
    size: int


class Repeats:
    """The newest observations that told nothing new, by allocation; the one that was looked into last comes last."""

    def __init__(self) -> None:
        self.bytes = 0
        """How much they need, about."""
        self._repeats: dict[str, _Repeat] = {}

    def __len__(self) -> int:
        """Return of how many allocations they are."""
        return len(self._repeats)

    def has(self, observation: Observation, beside: tuple[Any, ...]) -> bool:
        """Tell whether this was looked into beside the same, and told nothing new. O(length)."""
        repeat = self._repeats.get(observation.alloc)
        if repeat is None or repeat.beside != beside:
            return False
        last = repeat.observation
        return (
            observation.index == last.index
            and observation.kind == last.kind
            and observation.write_type == last.write_type
            and observation.fields == last.fields
            and observation.tasks == last.tasks
        )

    def add(self, observation: Observation, beside: tuple[Any, ...]) -> None:
        """Remember an observation that told nothing new beside this; those that came first make room. O(fields)."""
        self._forget(observation.alloc)
        size = sum(map(len, observation.fields.values())) + _OBJECT_BYTES * len(observation.fields)
        for task in (observation.tasks or {}).values():
            size += _OBJECT_BYTES * (len(task.events) + 1) + sum(map(len, task.fields.values()))
        self._repeats[observation.alloc] = _Repeat(observation, beside, size)
        self.bytes += size
        while self.bytes > MAX_BYTES:
            self._forget(next(iter(self._repeats)))

    def _forget(self, alloc: str) -> None:
        repeat = self._repeats.pop(alloc, None)
        if repeat is not None:
            self.bytes -= repeat.size
