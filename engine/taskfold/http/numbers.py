"""The numbers that a server tells of itself: those of each of its processes, and those of what it serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from taskfold.http.app import App

__all__ = ["Counts", "Numbers", "counts_of"]

_MEANINGS: Final = {
    "waiters": "Who waits for a change, in all of the process.",
    "blocked_queries": "Blocked queries that are held.",
    "streams": "Clients of the event stream.",
    "past_streams": "Clients of the event stream that read the log now.",
    "waiting_past_streams": "Clients of the event stream that wait for their turn to.",
    "connections": "Connections.",
    "unsent_bytes": "What clients that take nothing just now have not taken.",
    "kept_body_bytes": "Texts of allocations that are kept.",
    "kept_list_bytes": "Entries of lists, and short lists, that are kept.",
}
"""What one process has, by name."""


class Counts(Struct, gc=False):
    """The numbers of one process: what it has done, and what it has."""

    answers: list[tuple[str, int, int]]
    """How many requests it has answered, by endpoint and status."""
    seconds: dict[str, float]
    """How long they took in all, by endpoint."""
    gauges: dict[str, int]


def counts_of(app: App) -> Counts:
    """Return the numbers of this process."""
    values = (
        app.engine.reader.waiters,
        app.blocked.count,
        app.streams.count,
        app.past.held,
        app.past.waiting,
        app.connections.count,
        app.unsent.bytes,
        app.bodies.size,
        app.kept_lists.size,
    )
    answers = [(route, status, count) for (route, status), count in sorted(app.answers.items())]
    return Counts(answers, dict(sorted(app.seconds.items())), dict(zip(_MEANINGS, values, strict=True)))


class Numbers:
    """What metrics are made from, as prometheus_client asks for it: counting costs a request next to nothing."""

    def __init__(self, app: App, workers: Mapping[str, Counts]) -> None:
        """Name the numbers of each process by a label, where there are several: with one its name is empty."""
        self.app = app
        self._workers = {() if not name else (name,): counts for name, counts in workers.items()}
        self._labels = ("worker",) if any(workers) else ()

    def collect(self) -> Iterator[Metric]:
        """Yield every number with its meaning."""
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
            for route, taken in counts.seconds.items():
                seconds.add_metric((route, *worker), taken)
        yield requests
        yield seconds
        reader = self.app.engine.reader
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
            ("healthy", "Whether the server does its work.", int(not self.app.unwell)),
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
