"""Evaluations: what a scheduler made of a stop, for clients that wait for it, as Nomad's command line does.

Here a stop is decided at once, so that its evaluation is complete as soon as it has an ID. They are in no log: the
newest are kept in memory, as Nomad lets go of old ones, too.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.blocking import ask
from taskfold.http.identifiers import InvalidIdentifier, canonical, uuid_key
from taskfold.http.options import Options
from taskfold.http.query import is_pretty
from taskfold.http.request import Request
from taskfold.live.waiters import Question, Reply
from taskfold.nomad.fields import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from taskfold.http.app import App
    from taskfold.nomad.snapshot import Snapshot

__all__ = ["Evaluation", "Evaluations", "evaluation", "evaluation_allocations"]

_KEPT: Final = 4_096
_LOOKUP_FAILED: Final = "eval lookup failed: "
_INDEX_ERROR: Final = "index error: "
_NOT_FOUND: Final = "eval not found"
_DEFAULT_PRIORITY: Final = 50
_DEFAULT_TYPE: Final = "service"
_encode: Final = msgspec.json.Encoder(order="sorted").encode


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
    """Left out where it is not known."""


class Evaluations:
    """The newest evaluations, by ID."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Evaluation] = OrderedDict()

    def add(self, snapshot: Snapshot) -> Evaluation:
        """Return the evaluation of a stop, as of an allocation after it."""
        job = snapshot.view("Job")
        index, time_ns = snapshot.modify_index or 0, snapshot.modify_time_ns or 0
        made = Evaluation(
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
        self._kept[made.id] = made
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return made

    def get(self, key: str) -> Evaluation | None:
        """Return an evaluation, if it is kept."""
        return self._kept.get(key)


async def evaluation(app: App, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/evaluation/<id>``."""
    return await _answered(app, request, options, text, _LOOKUP_FAILED, _encode)


async def evaluation_allocations(app: App, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/evaluation/<id>/allocations``: a stop alone places none."""
    return await _answered(app, request, options, text, "", lambda _: b"[]")


async def _answered(
    app: App, request: Request, options: Options, text: str, failed: str, show: Callable[[Evaluation], bytes]
) -> Answer:
    """Return what is to be shown of an evaluation, or what is answered without one."""
    is_indented = is_pretty(request.query)
    try:
        found = app.evaluations.get(canonical(uuid_key(text)))
    except InvalidIdentifier as problem:
        return error(500, f"{failed}{_INDEX_ERROR}{problem}")
    if options.index:
        await ask(app, request, options, _query(app, found))
    if found is None:
        return error(404, _NOT_FOUND, app.engine.index)
    return json_answer(pretty(show(found)) if is_indented else show(found), found.modify_index)


def _query(app: App, found: Evaluation | None) -> Question[None]:
    """Return the question of an evaluation, which does not change any more; of none, the index of the store."""
    engine = app.engine
    return lambda: Reply(engine.index if found is None else found.modify_index, None, "any")
