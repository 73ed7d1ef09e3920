"""The endpoints of the agent: the reachable regions, and its health."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from taskfold.http.answers import Answer, json_answer
from taskfold.http.context import Context
from taskfold.http.request import Request

__all__ = ["Health", "health", "regions"]


class HealthPart(Struct, frozen=True, forbid_unknown_fields=True):
    """The health of a part of the agent."""

    message: str
    ok: bool


class Health(Struct, frozen=True, forbid_unknown_fields=True):
    """The health of the parts of the agent in the request."""

    client: HealthPart | UnsetType = UNSET
    server: HealthPart | UnsetType = UNSET


_NO_CLIENT: Final = HealthPart("client not enabled", ok=False)


async def regions(context: Context, _: Request) -> Answer:
    """Answer ``GET /v1/regions``."""
    return json_answer(msgspec.json.encode(context.services.regions()))


async def health(context: Context, request: Request) -> Answer:
    """Answer ``GET /v1/agent/health``: 200 while the server does its work, 503 with what keeps it from doing so.

    With ``type`` only what is named is told. This is a server and no client, so that ``type=client`` is a 500; a type
    that nobody knows tells nothing. Source: command/agent/agent_endpoint.go HealthRequest, which has 500 for a server,
    too; a proxy or a job's check takes a 503 for what it is, a server that will be well again.
    """
    problem = context.unwell
    state = {"client": _NO_CLIENT, "server": HealthPart(problem or "ok", ok=not problem)}
    kinds = request.query.all("type") or ["server"]
    parts = {kind: part for kind, part in state.items() if kind in kinds}
    status = 503 if problem and "server" in parts else 200 if all(part.ok for part in parts.values()) else 500
    return json_answer(msgspec.json.encode(Health(**parts)), status=status)
