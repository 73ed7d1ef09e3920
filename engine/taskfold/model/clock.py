"""Clocks: the time is an argument, never read from the system directly."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

__all__ = ["CallsLater", "Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Something that knows the time."""

    def time_ns(self) -> int:
        """Return the time now (unix nanoseconds)."""
        ...


@runtime_checkable
class CallsLater(Protocol):
    """Something that calls back later: a clock that is one governs how long waits last, too."""

    def call_later(self, delay_ns: int, callback: Callable[[], object]) -> Callable[[], None]:
        """Have ``callback`` called after a delay (nanoseconds), by any thread; return what cancels it."""
        ...


class SystemClock:
    """The clock of this machine."""

    def time_ns(self) -> int:
        """Return the time now (unix nanoseconds)."""
        return time.time_ns()


class ManualClock:
    """A clock that stands still until it is moved, and waits with it: for tests and simulations.

    A wait of an engine that is given this clock ends when the clock is moved past its limit, and never before.

    >>> clock = ManualClock(10)
    >>> cancel = clock.call_later(5, lambda: print("due"))
    >>> clock.advance(4)
    >>> clock.advance(1)
    due
    >>> clock.time_ns()
    15
    """

    def __init__(self, time_ns: int = 0) -> None:
        self._time_ns = time_ns
        self._lock = threading.Lock()
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._pending: set[int] = set()
        self._calls = 0

    def time_ns(self) -> int:
        """Return the time now (unix nanoseconds)."""
        return self._time_ns

    def advance(self, duration_ns: int) -> None:
        """Move the clock, and call what became due, in order of time. O(log(calls)) for each."""
        with self._lock:
            until = self._time_ns + duration_ns
        while True:
            with self._lock:
                if not self._due or self._due[0][0] > until:
                    self._time_ns = until
                    return
                due_ns, call, callback = heapq.heappop(self._due)
                if call not in self._pending:
                    continue
                self._pending.discard(call)
                self._time_ns = max(self._time_ns, due_ns)
            callback()

    def call_later(self, delay_ns: int, callback: Callable[[], object]) -> Callable[[], None]:
        """Have ``callback`` called when the clock has been moved on by ``delay_ns``; return what cancels it."""
        with self._lock:
            self._calls += 1
            call = self._calls
            self._pending.add(call)
            heapq.heappush(self._due, (self._time_ns + delay_ns, call, callback))

        def cancel() -> None:
            with self._lock:
                self._pending.discard(call)

        return cancel

    @property
    def waiting(self) -> int:
        """How many calls are still to come: a test sees by it that a wait has begun."""
        return len(self._pending)
