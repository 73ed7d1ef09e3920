"""What one client, one request and one server may use: no request makes the server use unbounded memory."""

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
    """The body of what asks a scheduler to act."""
    writes_per_request: int = 10_000
    posts: int = 64
    """Bodies of writes that are held at once."""
    connections: int = 20_000
    """Connections of all clients; fewer where the process may not open as many files."""
    connections_per_client: int = 2_000
    """Connections of one address."""
    blocked: int = 10_000
    """Blocked queries of all clients."""
    blocked_per_client: int = 1_000
    """Blocked queries of one address."""
    streams: int = 256
    """Clients of the event stream."""
    streams_per_client: int = 128
    """Those of one address."""
    past_streams: int = 8
    """Streams that read what is only in the log at the same time; the others take turns."""
    lists: int = 256
    """Long lists that are on their way."""
    pages: int = 64
    """Pages of histories that are made or on their way."""
    records_per_page: int = 10_000
    page_bytes: int = 16 * _MEBIBYTE
    """A page of a history ends with the record that reaches it."""
    bodies_bytes: int = 64 * _MEBIBYTE
    """Allocations that are kept as text, since the same are asked for again and again."""
    lists_bytes: int = 64 * _MEBIBYTE
    """Entries of lists, and short lists, that are kept as text: half of it each."""
    unsent_bytes: int = 128 * _MEBIBYTE
    """What clients have not taken yet, in all; beyond, those are left that have taken nothing for the longest time."""
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
        """Have no more than so many in all, and leave half of them to other clients."""
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
        """End it at once."""


class Unsent:
    """What was sent and is not taken, over all connections: beyond a limit who has taken nothing longest is left.

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
        """How much it is, as of when each connection was looked at."""
        self._limit = limit_bytes
        self._connections: OrderedDict[Holds, int] = OrderedDict()

    def add(self, connection: Holds, size: int) -> None:
        """Count a connection whose client takes nothing just now, the longest first. O(1)."""
        self.remove(connection)
        self._connections[connection] = size
        self.bytes += size
        while self.bytes > self._limit and len(self._connections) > 1:
            longest = next(iter(self._connections))
            self.remove(longest)
            longest.cut()

    def remove(self, connection: Holds) -> None:
        """Count it no more: everything was taken, or it is gone. O(1)."""
        self.bytes -= self._connections.pop(connection, 0)
