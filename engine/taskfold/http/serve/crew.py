"""Several processes that serve one log: what each of them knows of the others.

One process owns the log; the others follow it, and answer reads from a state of their own. What a client was told by
one of them it must find with all of them. So each says how far it is, in memory that they share, before it tells
anybody anything; and before it answers a request it sees to it that it is as far as the one that is farthest.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from time import monotonic
from typing import Any, Final

from taskfold.http.answers import Answer, Send, error
from taskfold.http.query import parse_query
from taskfold.http.request import Request
from taskfold.http.serve.counts import Counts
from taskfold.live.engine import Engine
from taskfold.live.waiters import wait_async

__all__ = ["NO_LEADER", "Cells", "Crew"]

NO_LEADER: Final = "No cluster leader"
"""What Nomad says when a server cannot reach the one that leads. Source: nomad/structs/errors.go."""

_PATIENCE_SECONDS: Final = 5
"""How long a request waits until its worker is as far as the others. Source: nomad/rpc.go, RPCHoldTimeout."""

_CELL_BYTES: Final = 8


class Cells:
    """How far each worker is: positions of the log, in memory that all workers share.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     first, second = Cells.begin(file.fileno(), 2), Cells(file.fileno(), 2)
    >>> first.put(1, 1042)
    >>> second.put(2, 1041)
    >>> first.newest(), second.newest()
    (1042, 1042)
    """

    def __init__(self, file: int, count: int) -> None:
        """Share the memory of an open file, that of ``count`` workers."""
        self._cells = memoryview(mmap.mmap(file, count * _CELL_BYTES)).cast("Q")

    @classmethod
    def begin(cls, file: int, count: int) -> Cells:
        """Make the memory in an open file that is empty."""
        os.truncate(file, count * _CELL_BYTES)
        return cls(file, count)

    def put(self, number: int, seq: int) -> None:
        """Say how far a worker is, of which the first has number 1. Only that worker does."""
        self._cells[number - 1] = seq

    def newest(self) -> int:
        """Return how far the one is that is farthest. O(workers)."""
        return max(self._cells)


class Crew:
    """The workers of a server, as one of them sees them."""

    is_follower: bool
    """This one does not own the log."""

    def __init__(self, engine: Engine, count: Callable[[], Counts], cells: Cells, number: int) -> None:
        """Name the engine, and what counts in this process."""
        self.engine = engine
        self.number = number
        """Which worker this is; the owner is number 1."""
        self._reader = engine.reader
        self._count = count
        self._cells = cells
        self._target = 0
        """How far this worker was told to get, at least."""
        self._current_at = monotonic()
        """When it was last as far as all others, by a clock of its own."""

    @property
    def problem(self) -> str:
        """What keeps a worker from serving; empty when nothing does."""
        return ""

    def publish(self) -> None:
        """Say how far this worker is: before anything of it is told to a client."""
        self._cells.put(self.number, self._reader.seq)

    @property
    def is_behind(self) -> bool:
        """Whether another worker is farther than this one. O(workers)."""
        return self._cells.newest() > self._reader.seq

    async def catch_up(self, request: Request) -> Answer | None:
        """Get as far as the others before a request is answered; return an answer where that cannot be.

        That is Nomad's 500, unless the client asks for what is ``stale``: then it is answered with what is known, and
        its headers say how old that may be.
        """
        newest = self._cells.newest()
        if newest > self._target:
            self._target = newest
            self._reader.look()
        reply = await wait_async(
            self._reader, self._reader.newest_seq, newest - 1, _PATIENCE_SECONDS, self.engine.clock
        )
        if reply.index >= newest:
            self._current_at = monotonic()
            return None
        if not parse_query(request.scope["query_string"]).has("stale"):
            return error(500, NO_LEADER)
        request.send = partial(_send_stale, request.send, self._current_at)
        return None

    async def forward(self, request: Request) -> Answer:
        """Have the owner answer. Only followers do. Raises as reading a body does, and Disconnected."""
        raise NotImplementedError

    async def counts(self) -> Mapping[str, Counts]:
        """Return the numbers of every worker that this one can ask, itself too, by number."""
        return {str(self.number): self._count()}

    async def begin(self) -> None:
        """Return when the others serve, where it is this one's to start them. Raises ServeError."""

    def stop(self) -> None:
        """Have the others end, where it is this one's to say; at once when it is said again."""

    async def end(self) -> None:
        """Wait until they have."""


async def _send_stale(send: Send, current_at: float, message: MutableMapping[str, Any]) -> None:
    """Send a part of an answer that may be old."""
    if message["type"] == "http.response.start":
        headers = {
            b"X-Nomad-Knownleader": b"false",
            b"X-Nomad-Lastcontact": b"%d" % ((monotonic() - current_at) * 1_000),
        }
        message = {**message, "headers": [(name, headers.get(name, value)) for name, value in message["headers"]]}
    await send(message)
