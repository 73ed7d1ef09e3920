"""Limits for a client, a request and the server, so that no request can use unbounded memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from msgspec import Struct

__all__ = ["Limits", "Slots", "TooMany", "Unsent"]

_MEBIBYTE: Final = 1 << 20


class Limits(Struct, frozen=True, kw_only=True):
    """The limits of a server. Sizes are bytes, times seconds; docs/serving.md has the table of them."""

    query_bytes: int = 8_192
    header_bytes: int = 32_768
    """All headers of a request, with its first line."""
    body_bytes: int = 4 * _MEBIBYTE
    action_bytes: int = 262_144
    """The body of a request for an action, such as a restart."""
    writes_per_request: int = 10_000
    posts: int = 64
    """Bodies of writes that are processed at the same time."""
    connections: int = 20_000
    """Connections of all clients; fewer if the process has too few descriptors."""
    connections_per_client: int = 2_000
    """Connections of one address."""
    blocked: int = 10_000
    """Blocked queries of all clients."""
    blocked_per_client: int = 1_000
    """Blocked queries of one address."""
    streams: int = 256
    """Clients of the event stream."""
    streams_per_client: int = 128
    """Streams to one address."""
    past_streams: int = 8
    """Streams that read old records from the log at the same time; others wait for their turn."""
    lists: int = 256
    """Long lists that are being sent."""
    pages: int = 64
    """Pages of histories that are being made or sent."""
    records_per_page: int = 10_000
    page_bytes: int = 16 * _MEBIBYTE
    """The size of a history's page: it ends with the record that exceeds it."""
    bodies_bytes: int = 64 * _MEBIBYTE
    """The cache of allocations as JSON."""
    lists_bytes: int = 64 * _MEBIBYTE
    """The caches of list entries and of whole lists as JSON: half of it each."""
    unsent_bytes: int = 128 * _MEBIBYTE
    """Unsent bytes of all connections; beyond, the connections that were idle longest are cut."""
    slow_records: int = 10_000
    """The most records that a stream's client may fall behind once it has caught up."""
    header_timeout: float = 10
    """The time for the headers of a request."""
    body_timeout: float = 30
    """The time for the body, after the headers."""
    send_timeout: float = 40
    """The time for a client to take sent data. Nomad's event stream has the same since 1.11.2."""
    keep_alive_timeout: float = 75
    """How long a connection may be idle between two requests."""
    shutdown_timeout: float = 10
    """The time for running requests to finish once the server stops."""


class TooMany(Exception):
    """A limit is reached, in all or for one client."""


class Slots:
    """Counts the users of a limited resource, in all and for each client.

    >>> slots = Slots("streams", total=2, per_client=1)
    >>> with slots.hold("10.0.0.1"):
    ...     with slots.hold("10.0.0.1"):
    ...         pass
    Traceback (most recent call last):
    ...
    taskfold.http.serve.limits.TooMany: too many streams of one client: 1 at most
    >>> slots.count
    0
    """

    def __init__(self, name: str, *, total: int, per_client: int | None = None) -> None:
        self.name = name
        self.count = 0
        self.total = total
        self.per_client = total if per_client is None else per_client
        self._clients: Counter[str] = Counter()

    def bound(self, total: int) -> None:
        """Lower the limit, and reserve half of it for other clients."""
        if total < self.total:
            self.total = total
            self.per_client = min(self.per_client, max(total // 2, 1))

    def take(self, client: str) -> None:
        """Take one; `give` it back. Raises TooMany. One without an address is not counted by itself."""
        if self.count >= self.total:
            raise TooMany(f"too many {self.name}: {self.total} at most")
        if client and self._clients[client] >= self.per_client:
            raise TooMany(f"too many {self.name} of one client: {self.per_client} at most")
        self.count += 1
        self._clients[client] += 1

    def give(self, client: str) -> None:
        """Give one back."""
        self.count -= 1
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    @contextmanager
    def hold(self, client: str) -> Iterator[None]:
        """Take one while the block runs. Raises TooMany."""
        self.take(client)
        try:
            yield
        finally:
            self.give(client)


class Holds(Protocol):
    """A connection that has sent more than its client takes."""

    def cut(self) -> None:
        """Cut it at once."""


class Unsent:
    """The unsent bytes of all connections; beyond a limit, the connections that were idle longest are cut.

    >>> class Stuck:
    ...     def cut(self):
    ...         print("cut")
    >>> first, second, unsent = Stuck(), Stuck(), Unsent(limit_bytes=100)
    >>> unsent.add(first, 60)
    >>> unsent.add(second, 50)
    cut
    >>> unsent.bytes
    50
    """

    def __init__(self, limit_bytes: int) -> None:
        self.bytes = 0
        """The sum, as of the last look at each connection."""
        self._limit = limit_bytes
        self._connections: OrderedDict[Holds, int] = OrderedDict()

    def add(self, connection: Holds, size: int) -> None:
        """Add a connection whose client takes nothing at present. O(1)."""
        self.remove(connection)
        self._connections[connection] = size
        self.bytes += size
        while self.bytes > self._limit and len(self._connections) > 1:
            longest = next(iter(self._connections))
            self.remove(longest)
            longest.cut()

    def remove(self, connection: Holds) -> None:
        """Remove a connection: its data was taken, or it is closed. O(1)."""
        self.bytes -= self._connections.pop(connection, 0)
