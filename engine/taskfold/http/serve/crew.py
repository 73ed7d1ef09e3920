"""The workers of a server: several processes that serve one log, and what each of them knows of the others.

One process owns the log; the others follow it, and answer reads from a state of their own. What a client was told by
one of them it must find with all of them. So each says how far it is, in memory that they share, before it tells
anybody anything; and before it answers a request it sees to it that it is as far as the one that is farthest.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import Final

from taskfold.http.answers import Answer, error, send_stale
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
    """The position of each worker in the log, in memory that all workers share.

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
        """Publish the position of a worker; the first has number 1. Only that worker calls it."""
        self._cells[number - 1] = seq

    def newest(self) -> int:
        """Return the position of the worker that is farthest. O(workers)."""
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
        """The position that this worker has to reach, at least."""
        self._current_at = monotonic()
        """When it was last as far as all others, by a clock of its own."""

    @property
    def problem(self) -> str:
        """What keeps a worker from serving; empty when nothing does."""
        return ""

    def publish(self) -> None:
        """Publish the position of this worker: before any client sees anything of it."""
        self._cells.put(self.number, self._reader.seq)

    @property
    def is_behind(self) -> bool:
        """Whether another worker is farther than this one. O(workers)."""
        return self._cells.newest() > self._reader.seq

    async def catch_up(self, request: Request) -> Answer | None:
        """Catch up with the other workers before a request is answered; return the error where that fails.

        That is Nomad's 500, unless the client asks for what is ``stale``: then it is answered with what is known, and
        its headers say how old that may be.
        """
        newest = self._cells.newest()
        if newest > self._target:
            self._target = newest
            self._reader.wake_follower()
        reply = await wait_async(
            self._reader, self._reader.newest_seq, newest - 1, _PATIENCE_SECONDS, self.engine.clock
        )
        if reply.index >= newest:
            self._current_at = monotonic()
            return None
        if not parse_query(request.scope["query_string"]).has("stale"):
            return error(500, NO_LEADER)
        request.send = partial(send_stale, request.send, monotonic() - self._current_at)
        return None

    async def forward(self, request: Request) -> Answer:
        """Forward a request to the owner. Only followers do. Raises as reading a body does, and Disconnected."""
        raise NotImplementedError

    async def counts(self) -> Mapping[str, Counts]:
        """Return the numbers of every worker that this one can ask, itself too, by number."""
        return {str(self.number): self._count()}

    async def begin(self) -> None:
        """Start the other workers, if this one owns them, and return when they serve. Raises ServeError."""

    def stop(self) -> None:
        """End the other workers, if this one owns them; at once when it is called again."""

    async def end(self) -> None:
        """Wait until the other workers have ended."""
