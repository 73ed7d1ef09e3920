"""The endpoints of evaluations: those of stops, which this server handed out; of others, what allocations tell.

An allocation names the evaluation that placed it, and no more of it than its ID. An evaluation that only allocations
name is not made up: the answer is a 501 with a sentence, and a mirror may ask the agent
(`taskfold.http.serve.upstream`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import msgspec

from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.blocking import ask
from taskfold.http.nomad.evaluation_cache import Evaluation
from taskfold.http.nomad.identifiers import InvalidIdentifier, canonical, uuid_key
from taskfold.http.nomad.jobs import is_named, namespace_of, stubs_naming
from taskfold.http.nomad.options import Options
from taskfold.http.query import is_pretty
from taskfold.http.request import Request
from taskfold.live.waiters import Question, Reply

__all__ = ["evaluation", "evaluation_allocations", "evaluations", "job_evaluations"]

_LOOKUP_FAILED: Final = "eval lookup failed: "
_INDEX_ERROR: Final = "index error: "
_NOT_FOUND: Final = "eval not found"
_FIELD: Final = "EvalID"
_ELSEWHERE: Final = (
    "taskfold has the evaluations of its own stops, and of others the ID alone: ask an agent of Nomad for this"
)
_encode: Final = msgspec.json.Encoder(order="sorted").encode


async def evaluation(context: Context, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/evaluation/<id>``: that of a stop; one that only allocations name is a 501."""
    answer = await _answer(context, request, options, text, _LOOKUP_FAILED, _encode)
    if answer.status == HTTPStatus.NOT_FOUND and await is_named(context, _FIELD, canonical(uuid_key(text))):
        return error(501, _ELSEWHERE)
    return answer


async def evaluation_allocations(context: Context, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/evaluation/<id>/allocations``: those that name it; a stop alone places none."""
    answer = await _answer(context, request, options, text, "", lambda _: b"[]")
    if answer.status not in {200, 404}:
        return answer
    listing = context.engine.reader.listing()
    stubs = await asyncio.to_thread(stubs_naming, context, listing, _FIELD, canonical(uuid_key(text)))
    if not stubs:
        return answer
    body = b"[" + b",".join(stubs) + b"]"
    return json_answer(pretty(body) if is_pretty(request.query) else body, listing.index)


async def evaluations(context: Context, request: Request, options: Options) -> Answer:
    """Answer ``GET /v1/evaluations``: those of stops, where no allocation is of another one."""
    prefix = ""
    if options.prefix:
        try:
            prefix = canonical(uuid_key(options.prefix, exact=False))
        except InvalidIdentifier as problem:
            return error(500, f"{_LOOKUP_FAILED}{_INDEX_ERROR}{problem}")
    return await _list(context, request, options, lambda entry: entry.id.startswith(prefix), prefix=prefix)


async def job_evaluations(context: Context, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>/evaluations``: those of stops, where no allocation of the job is of another one."""
    return await _list(context, request, options, lambda entry: entry.job_id == job, job=job)


async def _list(
    context: Context,
    request: Request,
    options: Options,
    selects: Callable[[Evaluation], bool],
    *,
    job: str | None = None,
    prefix: str = "",
) -> Answer:
    """Return the handed out evaluations of a selection, by ID; a 501 where it would not be all of them."""
    namespace = namespace_of(context, options)

    def entries() -> list[Evaluation]:
        return [entry for entry in context.evaluations.all() if selects(entry) and namespace in {None, entry.namespace}]

    def index() -> int:
        return max((entry.modify_index for entry in entries()), default=context.engine.index)

    if options.index:
        await ask(context, request, options, lambda: Reply(index(), None, "any"))
    own = {entry.id for entry in context.evaluations.all()}
    if await is_named(context, _FIELD, prefix, job=job, namespace=namespace, own=own):
        return error(501, _ELSEWHERE)
    body = _encode(entries())
    return json_answer(pretty(body) if is_pretty(request.query) else body, index())


async def _answer(
    context: Context, request: Request, options: Options, text: str, failed: str, show: Callable[[Evaluation], bytes]
) -> Answer:
    """Return an evaluation as ``show`` writes it, or the error if there is none."""
    is_indented = is_pretty(request.query)
    try:
        entry = context.evaluations.get(canonical(uuid_key(text)))
    except InvalidIdentifier as problem:
        return error(500, f"{failed}{_INDEX_ERROR}{problem}")
    if options.index:
        await ask(context, request, options, _question(context, entry))
    if entry is None:
        return error(404, _NOT_FOUND, context.engine.index)
    return json_answer(pretty(show(entry)) if is_indented else show(entry), entry.modify_index)


def _question(context: Context, entry: Evaluation | None) -> Question[None]:
    """Return the question of an evaluation, which never changes; without one, that of the index of the store."""
    engine = context.engine
    return lambda: Reply(engine.index if entry is None else entry.modify_index, None, "any")
