"""Turns at reading the past: streams that are behind the store's recent changes read the log, a few at a time.

What such a stream has read and not sent, and what it folded to get there, may be some megabytes, and hundreds of
clients may ask for the past and take nothing of it. So there is a number of turns. Who has one keeps it while nobody
else waits; else it ends with what was read at once, or when the client does not take that in time, and what was not
sent is dropped: the position says where to go on. Whoever takes nothing gets no turn again.
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
"""A thread that folds and writes takes the interpreter from the one that answers: there is one of them."""

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
        """Wait for a turn, and have it while the block runs or until it is taken away."""
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
        """Take a turn back."""
        self.active -= 1
        self._free.release()

    def close(self) -> None:
        """Let the threads go."""
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
    def patience(self, let_go: Callable[[], object]) -> Iterator[None]:
        """Give the client some time while the block sends; if others wait after it, call ``let_go`` to drop the frames.

        Nothing is let go of outside of the block, since there a thread may be reading it.
        """
        self._watch(let_go)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _watch(self, let_go: Callable[[], object]) -> None:
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._look, let_go)

    def _look(self, let_go: Callable[[], object]) -> None:
        if self.is_wanted:
            let_go()
            self.end()
        else:
            self._watch(let_go)

    def end(self) -> None:
        """Let another stream have its turn. It may be called again."""
        if not self.is_over:
            self.is_over = True
            self._past.release()
