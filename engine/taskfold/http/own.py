"""Our own endpoints of the server: its regions, its health, its numbers, and its description."""

from __future__ import annotations

from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from taskfold.http.answers import VARY, Answer, json_answer, pretty
from taskfold.http.numbers import Numbers, counts_of
from taskfold.http.openapi import document_text
from taskfold.http.query import is_pretty
from taskfold.http.request import Request

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["health", "metrics", "openapi", "regions"]


class _Health(msgspec.Struct, frozen=True):
    """Whether a part of the agent does its work."""

    message: str
    ok: bool


_PROMETHEUS: Final = "prometheus"
_SUMS: Final = frozenset(("taskfold_request_seconds",))
_NO_CLIENT: Final = _Health("client not enabled", ok=False)


async def regions(app: App, _: Request) -> Answer:
    """Answer ``GET /v1/regions``."""
    return json_answer(msgspec.json.encode(app.regions()))


async def health(app: App, request: Request) -> Answer:
    """Answer ``GET /v1/agent/health``: 200 while the server does its work, 500 with what keeps it from doing so.

    With ``type`` only what is named is told. This is a server and no client, so that ``type=client`` is a 500; a type
    that nobody knows tells nothing. Source: command/agent/agent_endpoint.go HealthRequest.
    """
    problem = app.unwell
    state = {"client": _NO_CLIENT, "server": _Health(problem or "ok", ok=not problem)}
    asked = request.query.all("type") or ["server"]
    told = {kind: state[kind] for kind in sorted(state) if kind in asked}
    is_well = all(part.ok for part in told.values())
    return json_answer(msgspec.json.encode(told), status=200 if is_well else 500)


async def metrics(app: App, request: Request) -> Answer:
    """Answer ``GET /v1/metrics``: in JSON, as Nomad has it, or with ``format=prometheus`` as text."""
    counts = {"": counts_of(app)} if app.crew is None else await app.crew.counts()
    numbers = Numbers(app, counts)
    if request.query.get("format") != _PROMETHEUS:
        body = msgspec.json.encode(_summary(numbers))
        return json_answer(pretty(body) if is_pretty(request.query) else body)
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(numbers)
    return Answer(200, ((b"Content-Type", CONTENT_TYPE_LATEST.encode()), VARY), generate_latest(registry))


def _summary(numbers: Numbers) -> dict[str, Any]:
    """Return the numbers as go-metrics shows them; those of counters are of all the time since the server began."""
    gauges: list[dict[str, Any]] = []
    counters: list[dict[str, Any]] = []
    seconds = max(perf_counter() - numbers.app.began, 1)
    for family in numbers.collect():
        for sample in family.samples:
            shown = {"Labels": dict(sample.labels), "Name": family.name.replace("_", ".", 1)}
            # Seconds are counted in fractions, by no known number of steps.
            if family.type == "counter" and family.name not in _SUMS:
                once = {"Max": 1, "Mean": 1, "Min": 1, "Stddev": 0}
                counters.append(
                    {**shown, **once, "Count": sample.value, "Sum": sample.value, "Rate": sample.value / seconds}
                )
            else:
                gauges.append({**shown, "Value": sample.value})
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
    return {"Counters": counters, "Gauges": gauges, "Points": [], "Samples": [], "Timestamp": now}


async def openapi(app: App, _: Request) -> Answer:
    """Answer ``GET /v1/openapi.json``."""
    return json_answer(document_text(app.dialect.name))
