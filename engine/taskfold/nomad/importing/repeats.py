"""The newest observations without anything new: a client that polls sends them again and again.

An observation that was looked into, and led to nothing, leads to nothing again as long as what it was compared with
is the same: the allocation's version, what was heard of it, and what streams told of jobs. Then comparing it with the
one before is enough. Every text of both is compared, and no digest of them, so that none is taken for another one.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from taskfold.model.cache import Cache
from taskfold.nomad.importing.observation import Observation
from taskfold.nomad.task_states import WireTask

__all__ = ["MAX_BYTES", "Repeats"]

MAX_BYTES: Final = 8 << 20
"""How much is kept: the newest of some thousand allocations, or of some hundred with large jobs."""
_OBJECT_BYTES: Final = 128
"""What a field, or an event, needs beside its length, about."""


class _Repeat(Struct, gc=False):
    content: tuple[Any, ...]
    beside: tuple[Any, ...]
    size: int


class Repeats:
    """The newest observations without anything new, by allocation."""

    def __init__(self) -> None:
        self.cache: Cache[str, _Repeat] = Cache(MAX_BYTES)

    def has(self, observation: Observation, beside: tuple[Any, ...]) -> bool:
        """Return whether this observation was compared with the same state before, without anything new. O(length)."""
        repeat = self.cache.get(observation.alloc)
        return repeat is not None and repeat.beside == beside and repeat.content == _content_of(observation)

    def add(self, observation: Observation, beside: tuple[Any, ...]) -> None:
        """Remember an observation without anything new in this state. O(fields)."""
        size = sum(map(len, observation.fields.values())) + _OBJECT_BYTES * len(observation.fields)
        for task in (observation.tasks or {}).values():
            size += _OBJECT_BYTES * (len(task.events) + 1) + sum(map(len, task.fields.values()))
        # Copies: the mappings are those of whoever observes, who may go on with them.
        tasks = None if observation.tasks is None else {n: _own(task) for n, task in observation.tasks.items()}
        own = replace(observation, fields=dict(observation.fields), tasks=tasks)
        self.cache.keep(observation.alloc, _Repeat(_content_of(own), beside, size))


def _content_of(observation: Observation) -> tuple[Any, ...]:
    """Return all that an observation tells, but from where."""
    return observation.index, observation.kind, observation.write_type, observation.fields, observation.tasks


def _own(task: WireTask) -> WireTask:
    return replace(task, fields=dict(task.fields)) if task.fields else task
