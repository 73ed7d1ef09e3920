"""A cache of repeats: the newest observations without anything new, which a polling client sends again and again.

An observation without effect has none again while its context is the same: the allocation's version, its provenance,
and the facts of streams. Then comparing it with the cached one is enough. The complete texts are compared, not digests,
so that no difference is missed.
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
"""The size of the cache: enough for some thousand allocations, or some hundred with large jobs."""
_OBJECT_BYTES: Final = 128
"""The approximate memory of a field, or an event, context its length."""


class _Repeat(Struct, gc=False):
    content: tuple[Any, ...]
    context: tuple[Any, ...]
    size: int


class Repeats:
    """The newest observations without anything new, by allocation."""

    def __init__(self) -> None:
        self.cache: Cache[str, _Repeat] = Cache(MAX_BYTES)

    def has(self, observation: Observation, context: tuple[Any, ...]) -> bool:
        """Return whether this observation had no effect in the same context before. O(length)."""
        repeat = self.cache.get(observation.alloc)
        return repeat is not None and repeat.context == context and repeat.content == _content_of(observation)

    def add(self, observation: Observation, context: tuple[Any, ...]) -> None:
        """Add an observation without effect in this context. O(fields)."""
        size = sum(map(len, observation.fields.values())) + _OBJECT_BYTES * len(observation.fields)
        for task in (observation.tasks or {}).values():
            size += _OBJECT_BYTES * (len(task.events) + 1) + sum(map(len, task.fields.values()))
        # Copies, as the caller may modify the mappings.
        tasks = None if observation.tasks is None else {n: _own(task) for n, task in observation.tasks.items()}
        own = replace(observation, fields=dict(observation.fields), tasks=tasks)
        self.cache.keep(observation.alloc, _Repeat(_content_of(own), context, size))


def _content_of(observation: Observation) -> tuple[Any, ...]:
    """Return all of an observation, except its origin."""
    return observation.index, observation.kind, observation.write_type, observation.fields, observation.tasks


def _own(task: WireTask) -> WireTask:
    return replace(task, fields=dict(task.fields)) if task.fields else task
