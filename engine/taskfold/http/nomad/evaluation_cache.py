"""Evaluations: the result of a stop, for clients that wait for it, as Nomad's command line does.

Here a stop is decided at once, so that its evaluation is complete as soon as it has an ID. They are in no log: the
newest are kept in memory, as Nomad drops old ones, too.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from taskfold.nomad.fields import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from taskfold.nomad.snapshot import Snapshot

__all__ = ["Evaluation", "Evaluations"]

_CAPACITY: Final = 4_096
_DEFAULT_PRIORITY: Final = 50
_DEFAULT_TYPE: Final = "service"


class Evaluation(msgspec.Struct, frozen=True, rename="pascal"):
    """An evaluation, with the keys that Nomad 1.1.2 writes. It is of no deployment: those are not served."""

    create_index: int
    create_time: int
    id: str = msgspec.field(name="ID")
    job_id: str = msgspec.field(name="JobID")
    modify_index: int
    modify_time: int
    namespace: str
    priority: int
    queued_allocations: dict[str, int]
    snapshot_index: int
    type: str
    status: str = "complete"
    triggered_by: str = "alloc-stop"
    job_modify_index: int | msgspec.UnsetType = msgspec.UNSET
    """Omitted if unknown."""


class Evaluations:
    """The newest evaluations, by ID."""

    def __init__(self) -> None:
        self._evaluations: OrderedDict[str, Evaluation] = OrderedDict()

    def add(self, snapshot: Snapshot) -> Evaluation:
        """Return the evaluation of a stop, as of an allocation after it."""
        job = snapshot.view("Job")
        index, time_ns = snapshot.modify_index or 0, snapshot.modify_time_ns or 0
        evaluation = Evaluation(
            create_index=index,
            create_time=time_ns,
            id=str(uuid.uuid4()),
            job_id=snapshot.job_id or "",
            job_modify_index=(job.job_modify_index if job else 0) or msgspec.UNSET,
            modify_index=index,
            modify_time=time_ns,
            namespace=snapshot.namespace or DEFAULT_NAMESPACE,
            priority=(job.priority if job else 0) or _DEFAULT_PRIORITY,
            queued_allocations={snapshot.task_group or "": 0},
            snapshot_index=index,
            type=(job.type if job else "") or _DEFAULT_TYPE,
        )
        self._evaluations[evaluation.id] = evaluation
        if len(self._evaluations) > _CAPACITY:
            self._evaluations.popitem(last=False)
        return evaluation

    def get(self, key: str) -> Evaluation | None:
        """Return an evaluation, if it is cached."""
        return self._evaluations.get(key)

    def all(self) -> list[Evaluation]:
        """Return every evaluation, by ID. O(n log n)."""
        return [self._evaluations[key] for key in sorted(self._evaluations)]
