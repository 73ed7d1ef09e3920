"""What one client, one request and one server may use: no request makes the server use unbounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

__all__ = ["Limits", "Slots", "TooMany"]

_MEBIBYTE: Final = 1 << 20


class Limits(Struct, frozen=True, kw_only=True):
    """The limits of a server. Sizes are bytes, times seconds; docs/serving.md has the table of them."""

    query_bytes: int = 8_192
    header_bytes: int = 32_768
    """All headers of a request, with its first line."""
    body_bytes: int = 4 * _MEBIBYTE
    action_bytes: int = 262_144
    """The body of what asks a scheduler to act."""
    writes_per_request: int = 10_000
    posts: int = 64
    """Bodies of writes that are held at once."""
    connections: int = 20_000
    blocked: int = 10_000
    """Blocked queries of all clients."""
    blocked_per_client: int = 1_000
    """Blocked queries of one address."""
    streams: int = 256
    """Clients of the event stream."""
    records_per_page: int = 10_000
    page_bytes: int = 16 * _MEBIBYTE
    """A page of a history ends with the record that reaches it."""
    bodies_bytes: int = 64 * _MEBIBYTE
    """Allocations that are kept as text, since the same are asked for again and again."""
    slow_records: int = 10_000
    """How far a client of the event stream may fall behind once it has caught up."""
    header_timeout: float = 10
    """Until the headers of a request must have come."""
    body_timeout: float = 30
    """Until the body must have come, once the headers have."""
    send_timeout: float = 40
    """Until a client must have taken what is sent to it. Nomad's event stream gives as many since 1.11.2."""
    keep_alive_timeout: float = 75
    """How long a connection may say nothing between two requests."""
    shutdown_timeout: float = 10
    """How long what is running may take to finish once the server stops."""


class TooMany(Exception):
    """A client has all that it may have of something."""


class Slots:
    """Counts who uses something that is limited, in all and for each client.

    >>> slots = Slots("streams", total=2, per_client=1)
    >>> with slots.taken("10.0.0.1"):
    ...     with slots.taken("10.0.0.1"):
    ...         pass
    Traceback (most recent call last):
    ...
    taskfold.http.limits.TooMany: too many streams of one client: 1 at most
    >>> slots.count
    0
    """

    def __init__(self, name: str, *, total: int, per_client: int) -> None:
        self.name = name
        self.count = 0
        self._total = total
        self._per_client = per_client
        self._clients: Counter[str] = Counter()

    @contextmanager
    def taken(self, client: str) -> Iterator[None]:
        """Take one while the block runs. Raises TooMany."""
        if self.count >= self._total:
            raise TooMany(f"too many {self.name}: {self._total} at most")
        if self._clients[client] >= self._per_client:
            raise TooMany(f"too many {self.name} of one client: {self._per_client} at most")
        self.count += 1
        self._clients[client] += 1
        try:
            yield
        finally:
            self.count -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
