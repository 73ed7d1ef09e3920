"""The parameters of every read, in the order in which Nomad parses them.

Source: command/agent/http.go parse (region, consistency, prefix, namespace, then wait and index, which may be wrong).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from taskfold.http.answers import Answer, error
from taskfold.http.query import Query, parse_unsigned
from taskfold.model.go.durations import parse_duration_ns
from taskfold.nomad.fields import DEFAULT_NAMESPACE

__all__ = ["MAX_WAIT_NS", "Options", "parse_options", "wait_limit_ns"]

MAX_WAIT_NS: Final = 300 * 1_000_000_000
"""The longest and default wait. Source: nomad/rpc.go maxQueryTime, in every version."""

_JITTER: Final = 16
"""A sixteenth of the wait, at most, is added at random. Source: nomad/rpc.go jitterFraction."""


class Options(Struct, frozen=True, gc=False):
    """The options of a read."""

    region: str = ""
    prefix: str = ""
    namespace: str = DEFAULT_NAMESPACE
    wait_ns: int = 0
    """The requested wait in nanoseconds; 0 or less means the longest wait."""
    index: int = 0
    """Wait for an index greater than this; 0 does not wait."""


_NONE: Final = Options()


def parse_options(query: Query) -> Options | Answer:
    """Return the options of a query, or the 400 that names the wrong one.

    `stale` and `consistent` are taken, and change nothing: there is one server.
    """
    if not query:
        return _NONE
    wait_ns = index = 0
    if wait := query.get("wait"):
        try:
            wait_ns = parse_duration_ns(wait)
        except ValueError:
            return error(400, "Invalid wait time")
    if text := query.get("index"):
        number = parse_unsigned(text)
        if number is None:
            return error(400, "Invalid index")
        index = number
    return Options(
        query.get("region"), query.get("prefix"), query.get("namespace") or DEFAULT_NAMESPACE, wait_ns, index
    )


def wait_limit_ns(wait_ns: int, fraction: float) -> int:
    """Return the longest wait of a query in nanoseconds; ``fraction`` in [0, 1) is its share of the jitter.

    >>> wait_limit_ns(0, 0.0) == wait_limit_ns(10**18, 0.0) == MAX_WAIT_NS
    True
    >>> wait_limit_ns(16_000_000_000, 0.5)
    16500000000
    """
    limit = MAX_WAIT_NS if wait_ns <= 0 or wait_ns > MAX_WAIT_NS else wait_ns
    return limit + int(limit // _JITTER * fraction)
