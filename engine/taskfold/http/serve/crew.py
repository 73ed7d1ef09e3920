"""The workers of a server: several processes that serve one log, and keep consistent with each other.

One process owns the log; the others follow it, and answer reads from a state of their own. A client must never see
an older state than before, whichever worker answers. So each worker publishes its position, in shared memory, before
it answers anything, and before each answer it catches up with the newest position of all.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import monotonic
from typing import Final

from taskfold.http.answers import Answer, error, send_stale
from taskfold.http.query import parse_query
from taskfold.http.request import Request
from taskfold.http.serve.counts import Counts
from taskfold.live.engine import Engine
from taskfold.live.waiters import wait_async

__all__ = ["NO_LEADER", "Cells", "Crew", "OwnersSource"]

NO_LEADER: Final = "No cluster leader"
"""Nomad's error when a server cannot reach the leader. Source: nomad/structs/errors.go."""

_PATIENCE_SECONDS: Final = 5
"""How long a request waits for its worker to catch up. Source: nomad/rpc.go, RPCHoldTimeout."""

_CELL_BYTES: Final = 8

_AWAY: Final = "the source that is followed is away"
"""The owner has the words; health is asked of it."""


class Cells:
    """The position of each worker in the log, and the owner's last contact, in memory that all workers share.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     first, second = Cells.begin(file.fileno(), 2), Cells(file.fileno(), 2)
    >>> first.put(1, 1042)
    >>> second.put(2, 1041)
    >>> first.newest(), second.newest()
    (1042, 1042)
    """

    def __init__(self, file: int, count: int) -> None:
        """Map the memory of ``count`` workers in an open file."""
        cells = memoryview(mmap.mmap(file, (count + 1) * _CELL_BYTES)).cast("Q")
        self._cells, self._contact = cells[:count], cells[count:]

    @classmethod
    def begin(cls, file: int, count: int) -> Cells:
        """Create the memory in an empty open file."""
        os.truncate(file, (count + 1) * _CELL_BYTES)
        return cls(file, count)

    def put(self, number: int, seq: int) -> None:
        """Publish the position of a worker; the first has number 1. Only that worker calls it."""
        self._cells[number - 1] = seq

    def newest(self) -> int:
        """Return the newest position of all workers. O(workers)."""
        return max(self._cells)

    def put_contact(self, contact_seconds: float | None) -> None:
        """Publish for how long nothing was heard of the source that the owner follows; None while it is there."""
        is_there = contact_seconds is None
        self._contact[0] = 0 if is_there else max(1, int((monotonic() - (contact_seconds or 0)) * 1_000))

    def contact_seconds(self) -> float | None:
        """Return for how long nothing was heard of that source; None while it is there.

        >>> import tempfile
        >>> with tempfile.TemporaryFile() as file:
        ...     first, second = Cells.begin(file.fileno(), 2), Cells(file.fileno(), 2)
        >>> first.put_contact(6)
        >>> second.contact_seconds() >= 6
        True
        >>> first.put_contact(None)
        >>> second.contact_seconds() is None
        True
        """
        # The monotonic clock is that of the machine, for all its processes.
        at_ms = self._contact[0]
        return max(0.0, monotonic() - at_ms / 1_000) if at_ms else None


class OwnersSource:
    """The source that the owner follows, from the view of a follower: a `taskfold.http.context.FollowedSource`."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    @property
    def problem(self) -> str:
        """Why what is served may be out of date; empty while it is not."""
        return "" if self._cells.contact_seconds() is None else _AWAY

    @property
    def contact_seconds(self) -> float:
        """For how long nothing was heard; 0 while what is served is up to date."""
        return self._cells.contact_seconds() or 0.0

    def numbers(self) -> Iterable[tuple[str, str, float]]:
        """Return no numbers: the owner has them."""
        return ()


class Crew:
    """The workers of a server, from the view of one of them."""

    is_follower: bool
    """This worker does not own the log."""

    def __init__(self, engine: Engine, count: Callable[[], Counts], cells: Cells, number: int) -> None:
        """Take the engine, and a function that returns this process's metrics."""
        self.engine = engine
        self.number = number
        """The number of this worker; the owner is number 1."""
        self._reader = engine.reader
        self._count = count
        self._cells = cells
        self._target = 0
        """The position that this worker must reach."""
        self._current_at = monotonic()
        """The last time it was level with all others, by a monotonic clock."""

    @property
    def problem(self) -> str:
        """The problem of a worker that cannot serve; empty if there is none."""
        return ""

    def publish(self) -> None:
        """Publish the position of this worker, before any client sees its state."""
        self._cells.put(self.number, self._reader.seq)

    @property
    def is_behind(self) -> bool:
        """Whether another worker has a newer position. O(workers)."""
        return self._cells.newest() > self._reader.seq

    async def catch_up(self, request: Request) -> Answer | None:
        """Catch up with the other workers before a request is answered; return the error if that fails.

        The error is Nomad's 500. With ``stale``, the request is answered from the present state instead, and
        the headers give its possible age.
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
        """Return the metrics of every reachable worker, including this one, by number."""
        return {str(self.number): self._count()}

    async def begin(self) -> None:
        """Start the other workers, if this one is the owner, and wait until they serve. Raises ServeError."""

    def stop(self) -> None:
        """Stop the other workers, if this one is the owner; the second call kills them."""

    async def end(self) -> None:
        """Wait until the other workers have ended."""
