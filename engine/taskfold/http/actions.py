"""What asks a scheduler to act: stopping, restarting and signalling allocations, and registering jobs.

What Nomad checks first is checked here: the ID, whether there is such an allocation, whether the body is JSON. What
passes is answered with 501: this server records what a scheduler did, and decides nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskfold.http.allocations import find
from taskfold.http.answers import INVALID_METHOD, Answer, error
from taskfold.http.go_json import json_error
from taskfold.http.options import Options
from taskfold.http.request import Request

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["CLIENT_ACTIONS", "client_allocation", "jobs", "stop"]

CLIENT_ACTIONS: Final = ("restart", "signal")

_ORIGIN: Final = ((b"Vary", b"Origin"),)
_EMPTY: Final = "EOF"
_UNDECIDED: Final = "taskfold records what a scheduler did, and does not act by itself: record the events instead"


async def stop(app: App, _: Request, __: Options, text: str) -> Answer:
    """Answer ``PUT /v1/allocation/<id>/stop``."""
    found = find(app, text)
    if isinstance(found, Answer):
        return found
    if found not in app.engine.store.directory:
        return error(404, "allocation not found")
    return error(501, _UNDECIDED)


async def client_allocation(app: App, request: Request, _: Options, text: str, action: str) -> Answer:
    """Answer what is asked of the client that runs an allocation."""
    if action == "signal" and request.method == "GET":
        return error(405, INVALID_METHOD, extra=_ORIGIN)
    wrong = await _json_error(app, request)
    if wrong is not None and wrong != _EMPTY:
        status, words = (400, f"Failed to decode body: {wrong}") if action == "signal" else (500, wrong)
        return error(status, words, extra=_ORIGIN)
    found = find(app, text)
    if isinstance(found, Answer):
        return Answer(found.status, (*found.headers, *_ORIGIN), found.body, found.late)
    if found not in app.engine.store.directory:
        return error(404, f'Unknown allocation "{text}"', extra=_ORIGIN)
    return error(501, _UNDECIDED, extra=_ORIGIN)


async def _json_error(app: App, request: Request) -> str | None:
    """Return what Go says of the body, where it is no JSON; in a thread, since a hostile body takes a while."""
    body = await request.body(app.limits.action_bytes, app.limits.body_timeout)
    return await asyncio.to_thread(json_error, body)


async def jobs(app: App, request: Request, _: Options) -> Answer:
    """Answer ``PUT /v1/jobs``: a body that is wrong gets Nomad's answer, and a job is not taken."""
    if request.method != "GET":
        wrong = await _json_error(app, request)
        if wrong == _EMPTY and app.dialect.has_actions:
            wrong = "Request body is empty"
        if wrong is not None:
            return error(400, wrong)
    return error(501, "taskfold serves allocations, and knows no jobs")
