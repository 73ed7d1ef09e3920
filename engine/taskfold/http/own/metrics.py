"""The endpoint of metrics: those of each process of a server, and those of its log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from taskfold.http.answers import VARY, Answer, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.query import is_pretty
from taskfold.http.request import Request
from taskfold.http.serve.counts import Counts

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["Numbers", "counts_of", "metrics"]

_PROMETHEUS: Final = "prometheus"
_SUMS: Final = frozenset(("taskfold_request_seconds",))

_MEANINGS: Final = {
    "waiters": "Who waits for a change, in all of the process.",
    "blocked_queries": "Blocked queries that are held.",
    "streams": "Clients of the event stream.",
    "past_streams": "Clients of the event stream that read the log now.",
    "waiting_past_streams": "Clients of the event stream that wait for their turn to.",
    "connections": "Connections.",
    "unsent_bytes": "What clients that take nothing just now have not taken.",
    "kept_body_bytes": "Texts of allocations that are kept.",
    "kept_list_bytes": "Entries of lists, and whole lists, that are kept.",
}
"""The gauges of one process, by name."""


class Counter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A counter, as go-metrics writes it: each increment is 1."""

    Labels: dict[str, str]
    Name: str
    Max: float
    Mean: float
    Min: float
    Stddev: float
    Count: float
    Sum: float
    Rate: float
    """The increments in a second, since the start of the server."""


class Gauge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A gauge: its value now."""

    Labels: dict[str, str]
    Name: str
    Value: float


class Numbers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metrics of a server, with the keys of go-metrics."""

    Counters: list[Counter]
    Gauges: list[Gauge]
    Points: tuple[()]
    Samples: tuple[()]
    Timestamp: str


async def metrics(context: Context, request: Request) -> Answer:
    """Answer ``GET /v1/metrics``: in JSON, as Nomad has it, or with ``format=prometheus`` as text."""
    counts = {"": counts_of(context)} if context.crew is None else await context.crew.counts()
    collector = Collector(context, counts)
    if request.query.get("format") != _PROMETHEUS:
        body = msgspec.json.encode(_summary(collector))
        return json_answer(pretty(body) if is_pretty(request.query) else body)
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(collector)
    return Answer(200, ((b"Content-Type", CONTENT_TYPE_LATEST.encode()), VARY), generate_latest(registry))


def _summary(collector: Collector) -> Numbers:
    """Return the metrics as go-metrics writes them; counters start with the server."""
    gauges: list[Gauge] = []
    counters: list[Counter] = []
    seconds = max(perf_counter() - collector.context.start, 1)
    for family in collector.collect():
        for sample in family.samples:
            labels, name, value = dict(sample.labels), family.name.replace("_", ".", 1), sample.value
            # Seconds are fractions, without a count of increments.
            if family.type == "counter" and family.name not in _SUMS:
                once = {"Max": 1, "Mean": 1, "Min": 1, "Stddev": 0}
                counters.append(Counter(Labels=labels, Name=name, **once, Count=value, Sum=value, Rate=value / seconds))
            else:
                gauges.append(Gauge(Labels=labels, Name=name, Value=value))
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
    return Numbers(Counters=counters, Gauges=gauges, Points=(), Samples=(), Timestamp=now)


def counts_of(context: Context) -> Counts:
    """Return the metrics of this process."""
    values = (
        context.engine.reader.waiters,
        context.blocked.count,
        context.streams.count,
        context.past.active,
        context.past.waiting,
        context.connections.count,
        context.unsent.bytes,
        context.bodies.size,
        context.list_cache.size,
    )
    answers = [(route, status, count) for (route, status), count in sorted(context.answers.items())]
    return Counts(answers, dict(sorted(context.seconds.items())), dict(zip(_MEANINGS, values, strict=True)))


class Collector:
    """A collector for prometheus_client: metrics are computed on request, so that counting is cheap."""

    def __init__(self, context: Context, workers: Mapping[str, Counts]) -> None:
        """Take the metrics by process; the label of the process is empty if there is only one."""
        self.context = context
        self._workers = {() if not name else (name,): counts for name, counts in workers.items()}
        self._labels = ("worker",) if any(workers) else ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its help text."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        requests = CounterMetricFamily(
            "taskfold_requests", "Requests answered.", labels=("endpoint", "status", *self._labels)
        )
        seconds = CounterMetricFamily(
            "taskfold_request_seconds",
            "Seconds that requests took, with their waits.",
            labels=("endpoint", *self._labels),
        )
        for worker, counts in self._workers.items():
            for route, status, count in counts.answers:
                requests.add_metric((route, str(status), *worker), count)
            for route, total in counts.seconds.items():
                seconds.add_metric((route, *worker), total)
        yield requests
        yield seconds
        reader = self.context.engine.reader
        by_status = reader.count_by_status()
        allocations = GaugeMetricFamily("taskfold_allocations", "Allocations, by client status.", labels=["status"])
        for status_name, number in sorted(by_status.items()):
            allocations.add_metric([status_name], number)
        yield allocations
        for name, meaning in _MEANINGS.items():
            gauge = GaugeMetricFamily(f"taskfold_{name}", meaning, labels=self._labels)
            for worker, counts in self._workers.items():
                gauge.add_metric(worker, counts.gauges[name])
            yield gauge
        for name, meaning, value in (
            ("index", "The index of the newest write.", reader.index),
            ("records", "Records of the log.", reader.seq),
            ("healthy", "Whether the server does its work.", int(not self.context.unwell)),
            *(() if self.context.source is None else self.context.source.numbers()),
        ):
            yield GaugeMetricFamily(f"taskfold_{name}", meaning, value=value)
