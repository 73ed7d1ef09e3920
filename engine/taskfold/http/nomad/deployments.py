"""The endpoints of deployments: taskfold has none, and says so where no allocation is of one.

A deployment that an allocation names is not made up: the answer is a 501 with a sentence, and a mirror may ask the
agent (`taskfold.http.serve.upstream`). A mirror cannot know that there is none.
"""

from __future__ import annotations

from typing import Final

from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.blocking import ask
from taskfold.http.nomad.identifiers import InvalidIdentifier, canonical, uuid_key
from taskfold.http.nomad.jobs import is_named, namespace_of
from taskfold.http.nomad.options import Options
from taskfold.http.query import is_pretty
from taskfold.http.request import Request
from taskfold.live.waiters import Reply

__all__ = ["deployment", "deployments", "job_deployment", "job_deployments"]

_LOOKUP_FAILED: Final = "deployment lookup failed: index error: "
_NOT_FOUND: Final = "deployment not found"
_FIELD: Final = "DeploymentID"
_ELSEWHERE: Final = "taskfold has no deployments, and knows the IDs of others' alone: ask an agent of Nomad for this"


async def deployment(context: Context, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/deployment/<id>``: a 404, or a 501 where an allocation names it."""
    try:
        key = canonical(uuid_key(text))
    except InvalidIdentifier as problem:
        return error(500, f"{_LOOKUP_FAILED}{problem}")
    await _wait(context, request, options)
    if await is_named(context, _FIELD, key):
        return error(501, _ELSEWHERE)
    return error(404, _NOT_FOUND, context.engine.index)


async def deployments(context: Context, request: Request, options: Options) -> Answer:
    """Answer ``GET /v1/deployments``: none."""
    return await _none(context, request, options, b"[]")


async def job_deployments(context: Context, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>/deployments``: none."""
    return await _none(context, request, options, b"[]", job)


async def job_deployment(context: Context, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>/deployment``: none, which is null."""
    return await _none(context, request, options, b"null", job)


async def _none(context: Context, request: Request, options: Options, body: bytes, job: str | None = None) -> Answer:
    """Return the answer that there is no deployment, or a 501 where there may be one."""
    await _wait(context, request, options)
    if await is_named(context, _FIELD, job=job, namespace=namespace_of(context, options)):
        return error(501, _ELSEWHERE)
    return json_answer(pretty(body) if is_pretty(request.query) else body, context.engine.index)


async def _wait(context: Context, request: Request, options: Options) -> None:
    """Wait until something newer than the index was written, if one is named."""
    if options.index:
        await ask(context, request, options, lambda: Reply(context.engine.index, None, "any"))
