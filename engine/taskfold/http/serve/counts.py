"""The metrics of one process: counters and gauges."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Counts"]


class Counts(Struct, gc=False):
    """The metrics of one process."""

    answers: list[tuple[str, int, int]]
    """The number of answered requests, by endpoint and status."""
    seconds: dict[str, float]
    """Their total duration in seconds, by endpoint."""
    gauges: dict[str, int]
    """Its gauges, by the names of `taskfold.http.own.metrics`."""
