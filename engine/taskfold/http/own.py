"""Our own endpoints of the server: its regions, its health, its numbers, and its description."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from taskfold.http.answers import VARY, Answer, json_answer, pretty
from taskfold.http.query import is_pretty
from taskfold.http.request import Request

if TYPE_CHECKING:
    from prometheus_client.core import Metric

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
    if request.query.get("format") != _PROMETHEUS:
        body = msgspec.json.encode(_summary(app))
        return json_answer(pretty(body) if is_pretty(request.query) else body)
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(_Numbers(app))
    return Answer(200, ((b"Content-Type", CONTENT_TYPE_LATEST.encode()), VARY), generate_latest(registry))


def _summary(app: App) -> dict[str, Any]:
    """Return the numbers as go-metrics shows them; those of counters are of all the time since the server began."""
    gauges: list[dict[str, Any]] = []
    counters: list[dict[str, Any]] = []
    seconds = max(perf_counter() - app.began, 1)
    for family in _Numbers(app).collect():
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


class _Numbers:
    """Reads the numbers of an application when they are asked for: counting costs a request next to nothing."""

    def __init__(self, app: App) -> None:
        self.app = app

    def collect(self) -> Iterator[Metric]:
        """Yield every number with its meaning."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        app, store = self.app, self.app.engine.store
        requests = CounterMetricFamily("taskfold_requests", "Requests answered.", labels=["endpoint", "status"])
        for (route, status), count in sorted(app.answers.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        seconds = CounterMetricFamily(
            "taskfold_request_seconds", "Seconds that requests took, with their waits.", labels=["endpoint"]
        )
        for route, taken in sorted(app.seconds.items()):
            seconds.add_metric([route], taken)
        yield seconds
        with store.lock:
            store.check_whole()
            by_status = store.directory.count_by_status()
            waiters = len(store.watches)
        allocations = GaugeMetricFamily("taskfold_allocations", "Allocations, by client status.", labels=["status"])
        for status_name, count in sorted(by_status.items()):
            allocations.add_metric([status_name], count)
        yield allocations
        for name, meaning, value in (
            ("index", "The index of the newest write.", store.index),
            ("records", "Records of the log.", store.seq),
            ("waiters", "Who waits for a change, in all of the process.", waiters),
            ("blocked_queries", "Blocked queries that are held.", app.blocked.count),
            ("streams", "Clients of the event stream.", app.streams.count),
            ("past_streams", "Clients of the event stream that read the log now.", app.past.held),
            ("waiting_past_streams", "Clients of the event stream that wait for their turn to.", app.past.waiting),
            ("connections", "Connections.", app.connections.count),
            ("unsent_bytes", "What clients that take nothing just now have not taken.", app.unsent.bytes),
            ("kept_body_bytes", "Texts of allocations that are kept.", app.bodies.size),
            ("healthy", "Whether the server does its work.", int(not app.unwell)),
            *self._of_source(),
        ):
            yield GaugeMetricFamily(f"taskfold_{name}", meaning, value=value)

    def _of_source(self) -> Iterator[tuple[str, str, float]]:
        """Yield what there is to tell of what a mirror follows."""
        source = self.app.source
        if source is not None:
            yield "source_ended", "Whether what is followed has ended.", int(source.is_done.is_set())
            yield "source_silent_seconds", "For how long nothing has come from what is followed.", source.silent_seconds
            yield "source_lines", "Lines that were read of what is followed.", source.lines
            yield "source_bad_lines", "Those that could not be read.", source.bad_lines


async def openapi(app: App, _: Request) -> Answer:
    """Answer ``GET /v1/openapi.json``."""
    # Making it takes a second the first time.
    return json_answer(await asyncio.to_thread(_document, app.dialect.name))


@cache
def _document(dialect: str) -> bytes:
    from taskfold.http.openapi import document

    return msgspec.json.encode(document(dialect))
