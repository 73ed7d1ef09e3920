"""Processes of tasks: begun behind an executor, found again by who was away, and told about as inputs."""

from __future__ import annotations

import asyncio
import marshal
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from taskfold.log.files import own_file
from taskfold.log.ownership import Owned
from taskfold.model.inputs import Exited, Started, StartFailed
from taskfold.model.quoting import go_quoted
from taskfold.nomad.views.job import Task
from taskfold.run import executor
from taskfold.run.environment import Environment, Placement, environment_of
from taskfold.run.task_directory import TaskDirectory

__all__ = ["DRIVER", "Handle", "Process", "command_line_of", "find_command", "notes_of", "problem_of"]

DRIVER: Final = "raw_exec"
_UNSUPPORTED: Final = ("artifacts", "templates", "user", "vault", "dispatch_payload", "volume_mounts")
_NOWHERE: Final = Path("/nonexistent")
"""The directories of a task that is not placed yet: nothing is in them."""
_NO_ALLOCATION: Final = str(uuid.UUID(int=0))
_NO_COMMAND: Final = (
    "2 errors occurred:\n\t* failed to parse config: \n\t* Missing required argument: "
    'The argument "command" is required, but no definition was found.\n\n'
)
"""In the words of Nomad 1.1.2."""
_FOR_EXECUTORS: Final = ("LC_ALL", "LC_CTYPE", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD")
"""All that an executor inherits, to be the same interpreter, which encodes names as this one does.

The environment of its parent can be read by a task.
"""
_GONE: Final = "the executor of the process is gone"


class _Config(msgspec.Struct):
    """The settings of the driver."""

    command: str = ""
    args: list[str] = []


def command_line_of(task: Task, environment: Environment) -> list[str]:
    """Return what a task runs, and with which arguments. Raises ValueError."""
    config = _config_of(task)
    return [environment.fill(text) for text in (config.command, *config.args)]


def _config_of(task: Task) -> _Config:
    """Return the settings of a task. Raises ValueError."""
    if task.driver != DRIVER:
        raise ValueError(f"driver {task.driver!r} is not known here; there is {DRIVER}")
    try:
        config = msgspec.convert({key: msgspec.json.decode(text) for key, text in (task.config or {}).items()}, _Config)
    except msgspec.DecodeError as error:  # no ValueError before msgspec 0.21
        raise ValueError(str(error)) from None
    if not config.command:
        raise ValueError(_NO_COMMAND)
    return config


def find_command(command: str, directory: TaskDirectory, environment: Environment) -> str:
    """Return the path of a command: in the task's directories, absolute, or on its PATH. Raises FileNotFoundError."""
    own = (folder / command.lstrip(os.sep) for folder in (directory.local, directory.path))
    found = next((path for path in own if path.is_file()), Path(command))
    is_elsewhere = os.sep in command and not found.is_absolute()
    path = None if is_elsewhere else shutil.which(str(found), path=environment.variables.get("PATH"))
    if path is None:
        raise FileNotFoundError(f"binary {go_quoted(command)} could not be found")
    return path


def problem_of(placement: Placement, task: Task) -> str:
    """Return what stands in the way of running a task here; nothing if nothing does."""
    if missing := [field for field in _UNSUPPORTED if getattr(task, field)]:
        return f"{', '.join(missing)} cannot be had here"
    try:
        directory = TaskDirectory(_NOWHERE, _NO_ALLOCATION, task.name)
        environment = environment_of(placement, task, directory)
        command = command_line_of(task, environment)[0]
        if not Path(command).is_relative_to(_NOWHERE):  # what another task puts there is found when it is there
            find_command(command, directory, environment)
    except ValueError as error:
        return " ".join(str(error).split())
    except FileNotFoundError:
        is_there = os.sep in command and Path(command).is_file()
        return f"{command}: {'permission denied' if is_there else 'no such command'}"
    return ""


def notes_of(placement: Placement, task: Task) -> str:
    """Return what a task is not told though Nomad would tell it, in a sentence; nothing if there is no such thing."""
    try:
        environment = environment_of(placement, task, TaskDirectory(_NOWHERE, _NO_ALLOCATION, task.name))
        config = _config_of(task)
    except ValueError:  # that is told when it is to start
        return ""
    unknown = environment.unknown | environment.unfilled(config.command, *config.args)
    return f"{', '.join(sorted(unknown))} cannot be known here" if unknown else ""


class Handle(msgspec.Struct, frozen=True, rename="pascal"):
    """What is recorded of the executor of a process, to know it again: its pid alone may be another's by now."""

    pid: int
    start_time: int
    """Clock ticks after boot."""
    found: str = ""
    """What a later supervisor made of it: ``reattached``, ``ended`` (it had ended meanwhile) or ``lost``."""


class Process(Owned):
    """The process of a task, behind its executor."""

    def __init__(self, directory: Path, handle: Handle, parent: subprocess.Popen[bytes] | None = None) -> None:
        """Find the executor of a handle, if it still runs."""
        self.handle = handle
        self._own(f"the executor {handle.pid}", "leave its process to that one")
        self.attempt = 0
        """How often it was told to end."""
        self._status_file = directory / executor.STATUS
        self._parent = parent
        self._pidfd: int | None = None
        with suppress(OSError):
            self._pidfd = os.pidfd_open(handle.pid)
            if not executor.is_running(handle.pid, handle.start_time):
                self._let_go()
        # Only now: what an executor that is gone has said is its last word.
        self.is_started = "pid" in self.status

    @classmethod
    def prepare(cls, directory: TaskDirectory, *, is_bound: bool) -> Process:
        """Start an executor, which does nothing before `go`. Raises OSError."""
        directory.make()
        (directory.path / executor.STATUS).unlink(missing_ok=True)
        command = [sys.executable, "-I", "-S", "-B", executor.__file__, "bound" if is_bound else "free"]
        # It is born with these blocked: none may end it before it listens.
        with (
            own_file(directory.output("stdout"), os.O_APPEND) as stdout,
            own_file(directory.output("stderr"), os.O_APPEND) as stderr,
            _blocked(executor.FORWARDING),
        ):
            parent = subprocess.Popen(  # noqa: S603 - a command of ours
                command,
                cwd=directory.path,
                env={name: os.environ[name] for name in _FOR_EXECUTORS if name in os.environ},
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
            )
        return cls(directory.path, Handle(parent.pid, executor.start_time_of(parent.pid)), parent)

    def go(self, path: str, argv: list[str], env: dict[str, str]) -> None:
        """Have the executor start the process."""
        assert self._parent is not None
        assert self._parent.stdin is not None
        with suppress(BrokenPipeError), self._parent.stdin as pipe:
            pipe.write(marshal.dumps((path, argv, env)))

    @property
    def is_alive(self) -> bool:
        """Whether its executor runs."""
        return self._pidfd is not None

    @property
    def status(self) -> dict[str, str]:
        """What its executor said last; nothing where it said nothing."""
        with suppress(OSError):
            lines = self._status_file.read_text(encoding="utf-8").splitlines()
            return {name: value for name, _, value in (line.partition(" ") for line in lines)}
        return {}

    @property
    def is_over(self) -> bool:
        """Whether its executor said how it ended, or why it could not begin."""
        return not self.status.keys().isdisjoint({"exit_code", "error"})

    def send(self, name: str) -> None:
        """Send the process a signal: SIGINT where the name is not that of a standard one. Source: drivers/rawexec."""
        number = signal.Signals.__members__.get(name, signal.SIGINT)
        if executor.FORWARDED + number not in executor.FORWARDING:
            number = signal.SIGINT
        if self._parent is not None and self._parent.stdin is not None:
            self._parent.stdin.close()  # without an order its executor ends
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, executor.FORWARDED + number)

    async def tells(self) -> AsyncIterator[Started | StartFailed | Exited]:
        """Yield how it starts, and how it ends."""
        ended = asyncio.get_running_loop().create_task(_readable(self._pidfd))
        wait = 0.004
        while not self.status and not ended.done():
            await asyncio.wait({ended}, timeout=wait)
            wait *= 1.5
        if "pid" in self.status:
            self.is_started = True
            yield Started()
        await ended
        self._let_go()
        yield self.end()

    def end(self) -> StartFailed | Exited:
        """Return how it ended, or why it could not begin; its executor is gone, and what it left behind is ended."""
        self.end_orphan()
        status, error = self.status, "" if self.is_over else _GONE
        if "pid" not in status:
            return StartFailed(error=error or status["error"], recoverable=bool(error))
        if error:
            return Exited(exit_code=None, error=error)
        return Exited(exit_code=int(status["exit_code"]), signal=int(status["signal"]))

    def end_orphan(self) -> None:
        """End a process whose executor is gone: nobody can tell any more how it ends."""
        status = self.status
        if "pid" in status and not self.is_alive:
            pid, start_time = int(status["pid"]), int(status["start_time"])
            if executor.is_running(pid, start_time):
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it, if it still runs, and let go of it."""
        self.send("SIGKILL")
        self._let_go()

    def _let_go(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._parent is not None:
            self._parent.wait()


@contextmanager
def _blocked(numbers: frozenset[int]) -> Iterator[None]:
    """Have signals blocked, for a process that is born meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _readable(descriptor: int | None) -> None:
    """Wait until the process that a descriptor stands for has ended."""
    if descriptor is not None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
