"""The endpoints of evaluations: that of a stop, and its placed allocations (none)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.blocking import ask
from taskfold.http.nomad.evaluation_cache import Evaluation
from taskfold.http.nomad.identifiers import InvalidIdentifier, canonical, uuid_key
from taskfold.http.nomad.jobs import stubs_naming
from taskfold.http.nomad.options import Options
from taskfold.http.query import is_pretty
from taskfold.http.request import Request
from taskfold.live.waiters import Question, Reply

__all__ = ["evaluation", "evaluation_allocations"]

_LOOKUP_FAILED: Final = "eval lookup failed: "
_INDEX_ERROR: Final = "index error: "
_NOT_FOUND: Final = "eval not found"
_encode: Final = msgspec.json.Encoder(order="sorted").encode


async def evaluation(context: Context, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/evaluation/<id>``."""
    return await _answer(context, request, options, text, _LOOKUP_FAILED, _encode)


async def evaluation_allocations(context: Context, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/evaluation/<id>/allocations``: those that name it; a stop alone places none."""
    answer = await _answer(context, request, options, text, "", lambda _: b"[]")
    if answer.status not in {200, 404}:
        return answer
    listing = context.engine.reader.listing()
    stubs = await asyncio.to_thread(stubs_naming, context, listing, "EvalID", canonical(uuid_key(text)))
    if not stubs:
        return answer
    body = b"[" + b",".join(stubs) + b"]"
    return json_answer(pretty(body) if is_pretty(request.query) else body, listing.index)


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
