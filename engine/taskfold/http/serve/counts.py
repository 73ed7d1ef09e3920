"""The numbers of one process: what it has done, and what it has."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Counts"]


class Counts(Struct, gc=False):
    """The numbers of one process."""

    answers: list[tuple[str, int, int]]
    """How many requests it has answered, by endpoint and status."""
    seconds: dict[str, float]
    """How long they took in all, by endpoint."""
    gauges: dict[str, int]
    """What it has, by the names of `taskfold.http.own.metrics`."""
