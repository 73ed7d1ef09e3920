"""The process of a task behind its executor: started, found again after a crash, and reported as inputs."""

from __future__ import annotations

import asyncio
import marshal
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from taskfold.log.files import own_file
from taskfold.log.ownership import Owned
from taskfold.model.inputs import Exited, ProcessStarted, StartFailed
from taskfold.run import executor
from taskfold.run.driver import Handle
from taskfold.run.task_directory import TaskDirectory
from taskfold.run.usage import descendants

__all__ = ["ExecutorHandle", "Process"]

_INHERITED: Final = ("LC_ALL", "LC_CTYPE", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD")
"""All variables that an executor inherits, so that it is the same interpreter and encodes names as this one does.

A task can read the environment of its parent, so that nothing else is in it.
"""
_GONE: Final = "the executor of the process is gone"


class ExecutorHandle(msgspec.Struct, frozen=True, rename="pascal"):
    """The handle of an executor; its pid alone may be another process by then."""

    pid: int
    start_time: int
    """Clock ticks after boot."""


class Process(Owned):
    """The process of a task, behind its executor."""

    def __init__(self, directory: Path, handle: ExecutorHandle, parent: subprocess.Popen[bytes] | None = None) -> None:
        """Take hold of the executor of a handle, if it still runs."""
        self._handle = handle
        self._own(f"the executor {handle.pid}", "leave its process to that one")
        self._order: tuple[str, list[str], dict[str, str]] | None = None
        self._status_file = directory / executor.STATUS
        self._parent = parent
        self._pidfd: int | None = None
        with suppress(OSError):
            self._pidfd = os.pidfd_open(handle.pid)
            if not executor.is_running(handle.pid, handle.start_time):
                self._release()
        # Read after the executor is known to be gone or not: the status of one that is gone is its last.
        self.is_started = "pid" in self.status

    @classmethod
    def prepare(
        cls, directory: TaskDirectory, path: str, argv: list[str], env: dict[str, str], *, is_bound: bool
    ) -> Process:
        """Start an executor, which waits for `go` to run a command. Raises OSError."""
        directory.make()
        (directory.path / executor.STATUS).unlink(missing_ok=True)
        command = [sys.executable, "-I", "-S", "-B", executor.__file__, "bound" if is_bound else "free"]
        # The executor begins with these signals blocked: none may end it before it waits for them.
        with (
            own_file(directory.output("stdout"), os.O_APPEND) as stdout,
            own_file(directory.output("stderr"), os.O_APPEND) as stderr,
            _blocked(executor.FORWARDING),
        ):
            parent = subprocess.Popen(  # noqa: S603 - a command of ours
                command,
                cwd=directory.path,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
            )
        process = cls(directory.path, ExecutorHandle(parent.pid, executor.start_time_of(parent.pid)), parent)
        process._order = (path, argv, env)
        return process

    @property
    def handle(self) -> Handle:
        """The handle by which a later supervisor finds it."""
        handle: dict[str, int] = msgspec.to_builtins(self._handle)
        return handle

    def go(self) -> None:
        """Order the executor to start the process."""
        assert self._parent is not None
        assert self._parent.stdin is not None
        with suppress(BrokenPipeError), self._parent.stdin as pipe:
            pipe.write(marshal.dumps(self._order))

    @property
    def is_alive(self) -> bool:
        """Whether its executor runs."""
        return self._pidfd is not None

    @property
    def status(self) -> dict[str, str]:
        """The facts that the executor wrote last, by name; empty before it wrote any."""
        with suppress(OSError):
            lines = self._status_file.read_text(encoding="utf-8").splitlines()
            return {name: value for name, _, value in (line.partition(" ") for line in lines)}
        return {}

    @property
    def is_over(self) -> bool:
        """Whether the executor wrote the end of the process, or why the process could not begin."""
        return not self.status.keys().isdisjoint({"exit_code", "error"})

    def send(self, name: str) -> None:
        """Send the process a signal; a name that is no standard signal means SIGINT. Source: drivers/rawexec."""
        number = signal.Signals.__members__.get(name, signal.SIGINT)
        if executor.FORWARDED + number not in executor.FORWARDING:
            number = signal.SIGINT
        if self._parent is not None and self._parent.stdin is not None:
            self._parent.stdin.close()  # without an order its executor ends
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, executor.FORWARDED + number)

    async def reports(self) -> AsyncIterator[ProcessStarted | StartFailed | Exited]:
        """Yield the start of the process, then its end, each when it happens."""
        end = asyncio.get_running_loop().create_task(_ended(self._pidfd))
        try:
            wait_s = 0.004
            while not self.status and not end.done():
                await asyncio.wait({end}, timeout=wait_s)
                wait_s *= 1.5
            if "pid" in self.status:
                self.is_started = True
                yield ProcessStarted()
            await end
        finally:
            end.cancel()
        self._release()
        yield self.end()

    def end(self) -> StartFailed | Exited:
        """Return the end of the process, or why it could not begin, and kill what a lost executor left behind."""
        self.end_orphan()
        status, error = self.status, "" if self.is_over else _GONE
        if "pid" not in status:
            return StartFailed(error=error or status["error"], recoverable=bool(error))
        if error:
            return Exited(exit_code=None, error=error)
        return Exited(exit_code=int(status["exit_code"]), signal=int(status["signal"]))

    def end_orphan(self) -> None:
        """Kill a process whose executor is gone: its exit code can no longer be read."""
        status = self.status
        if "pid" in status and not self.is_alive:
            pid, start_time = int(status["pid"]), int(status["start_time"])
            if executor.is_running(pid, start_time):
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Return the processes that its executor has started, and theirs. O(processes of the machine)."""
        return descendants(self._handle.pid) if self.is_alive else []

    def close(self) -> None:
        """Kill the process, if it still runs, and release its descriptors."""
        self.send("SIGKILL")
        self._release()

    def _release(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._parent is not None:
            self._parent.wait()


@contextmanager
def _blocked(numbers: frozenset[int]) -> Iterator[None]:
    """Block signals, also in a process that is started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _ended(pidfd: int | None) -> None:
    """Wait until the process of a pidfd has ended."""
    if pidfd is None:
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # An event loop has one reader of each descriptor: each waiter has a descriptor of its own.
    own = os.dup(pidfd)
    loop.add_reader(own, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(own)
        os.close(own)
