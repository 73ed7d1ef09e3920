"""The time, as an argument: whoever needs it is given a clock."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Something that knows the time."""

    def time_ns(self) -> int:
        """Return the time now (unix nanoseconds)."""
        ...


class SystemClock:
    """The clock of this machine."""

    def time_ns(self) -> int:
        """Return the time now (unix nanoseconds)."""
        return time.time_ns()


class ManualClock:
    """A clock that stands still until it is moved: for tests and simulations.

    >>> clock = ManualClock(10)
    >>> clock.advance(5)
    >>> clock.time_ns()
    15
    """

    def __init__(self, time_ns: int = 0) -> None:
        self._time_ns = time_ns

    def time_ns(self) -> int:
        """Return the time now (unix nanoseconds)."""
        return self._time_ns

    def advance(self, duration_ns: int) -> None:
        """Move the clock."""
        self._time_ns += duration_ns
