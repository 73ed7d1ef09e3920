"""Turns at reading old records: streams behind the buffer of newest changes read the log, a few at a time.

The unsent frames of such a stream, and its fold of old records, may take some megabytes, and hundreds of clients may
ask for old records and take none. So the number of turns is limited. A stream with a turn keeps it while no other
waits; otherwise it ends with the frames of one read, or when the client does not take them in time, and unsent frames
are dropped: the position says where to continue. A client that takes nothing gets no further turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

__all__ = ["Past", "Turn"]

_PATIENCE_SECONDS: Final = 0.5
_THREADS: Final = 1
"""One thread, since folding takes the interpreter from the thread that answers."""

T = TypeVar("T")


class Past:
    """The turns of an application."""

    def __init__(self, turns: int) -> None:
        self._free = asyncio.Semaphore(turns)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="taskfold-past")
        self.waiting = 0
        """The number of streams that wait for a turn."""
        self.active = 0
        """The number of streams that have one."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Wait for a turn, and hold it while the block runs or until it is revoked."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.active += 1
        turn = Turn(self)
        try:
            yield turn
        finally:
            turn.end()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in the thread that reads the log."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def release(self) -> None:
        """Return a turn."""
        self.active -= 1
        self._free.release()

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False)


class Turn:
    """One turn of a stream."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self._timer: asyncio.TimerHandle | None = None
        self.is_over = False

    @property
    def is_wanted(self) -> bool:
        """Whether another stream waits for a turn."""
        return self._past.waiting > 0

    @contextmanager
    def patience(self, drop: Callable[[], object]) -> Iterator[None]:
        """Give the client some time while the block sends; if others wait after it, call ``drop`` to drop the frames.

        Nothing is dropped outside of the block, since a thread may be reading it there.
        """
        self._watch(drop)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _watch(self, drop: Callable[[], object]) -> None:
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._look, drop)

    def _look(self, drop: Callable[[], object]) -> None:
        if self.is_wanted:
            drop()
            self.end()
        else:
            self._watch(drop)

    def end(self) -> None:
        """Release the turn. Safe to call again."""
        if not self.is_over:
            self.is_over = True
            self._past.release()
