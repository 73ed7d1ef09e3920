"""The endpoint of the agent itself: what clients of Nomad read of an agent, as far as it is true of this server.

Source: command/agent/agent_endpoint.go agentSelf, whose keys these are. A server of taskfold is of no datacenter, and
of no gossip pool: it is the only member.
"""

from __future__ import annotations

import platform
from typing import Any, Final

import msgspec
from msgspec import Struct

from taskfold import __version__
from taskfold.http.answers import Answer, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.query import is_pretty
from taskfold.http.request import Request

__all__ = ["AgentSelf", "agent_self"]

_encode: Final = msgspec.json.Encoder(order="sorted").encode


class AgentMember(Struct, frozen=True, forbid_unknown_fields=True):
    """The server as a member of its region."""

    Addr: str
    Name: str
    Port: int
    """0 for a Unix socket."""
    Status: str
    Tags: dict[str, str]


class AgentSelf(Struct, frozen=True, forbid_unknown_fields=True):
    """The agent: its configuration, itself as a member, and numbers as texts."""

    config: dict[str, Any]
    member: AgentMember
    stats: dict[str, dict[str, str]]


async def agent_self(context: Context, request: Request) -> Answer:
    """Answer ``GET /v1/agent/self``."""
    host, port = request.scope.get("server") or ("", None)
    config = {
        "Client": {"Enabled": context.tasks is not None},
        "Datacenter": "",
        "Region": context.region,
        "Server": {"Enabled": True},
        "Version": _version(context),
    }
    member = AgentMember(
        Addr=str(host),
        Name=f"{platform.node()}.{context.region}",
        Port=port or 0,
        Status="alive",
        Tags={"build": f"taskfold {__version__}", "region": context.region, "role": "taskfold"},
    )
    reader = context.engine.reader
    stats = {
        "runtime": {
            "arch": platform.machine(),
            "kernel.name": platform.system().lower(),
            "version": f"Python {platform.python_version()}",
        },
        "taskfold": {
            "allocations": str(len(reader)),
            "index": str(reader.index),
            "mirror": str(context.is_mirror).lower(),
            "version": __version__,
        },
    }
    body = _encode(AgentSelf(config, member, stats))
    return json_answer(pretty(body) if is_pretty(request.query) else body)


def _version(context: Context) -> object:
    """Return the version of the Nomad whose dialect is spoken; its metadata names taskfold. A text before 0.9."""
    name = context.dialect.name
    if not context.dialect.has_new_client:
        return name
    return {"Revision": "", "Version": name, "VersionMetadata": f"taskfold.{__version__}", "VersionPrerelease": ""}
