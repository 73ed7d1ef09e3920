"""The driver raw_exec: the settings of a task, the command that they name, and what keeps it from running here."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Final

import msgspec

from taskfold.model.go.quoting import go_quoted
from taskfold.nomad.views.job import TaskView
from taskfold.run.driver import Handle
from taskfold.run.environment import Environment, Placement, environment_of
from taskfold.run.process import ExecutorHandle, Process
from taskfold.run.task_directory import TaskDirectory

__all__ = ["DRIVER", "RawExec", "command_line_of", "find_command", "notes_of", "problem_of"]

DRIVER: Final = "raw_exec"
_UNSUPPORTED: Final = ("artifacts", "templates", "user", "vault", "dispatch_payload", "volume_mounts")
_NOWHERE: Final = Path("/nonexistent")
"""The root directory of a task that is not placed yet; nothing is in it."""
_NO_ALLOCATION: Final = str(uuid.UUID(int=0))
_NO_COMMAND: Final = (
    "2 errors occurred:\n\t* failed to parse config: \n\t* Missing required argument: "
    'The argument "command" is required, but no definition was found.\n\n'
)
"""In the words of Nomad 1.1.2."""


class _Config(msgspec.Struct):
    """The settings of the driver."""

    command: str = ""
    args: list[str] = []


class RawExec:
    """The driver: processes of this machine, each with a parent of its own that outlives the supervisor."""

    def __init__(self, *, is_bound: bool = False) -> None:
        """Bound processes end when this one does, whatever ends it."""
        self._is_bound = is_bound

    def prepare(self, task: TaskView, environment: Environment, directory: TaskDirectory) -> Process:
        """Start the executor of a task. Raises ValueError and OSError, as `TaskDriver.prepare` does."""
        argv = command_line_of(task, environment)
        path = find_command(argv[0], directory, environment)
        return Process.prepare(directory, path, argv, dict(environment.variables), is_bound=self._is_bound)

    def find(self, handle: Handle, directory: TaskDirectory) -> Process:
        """Return the process of a handle."""
        return Process(directory.path, msgspec.convert(handle, ExecutorHandle))


def command_line_of(task: TaskView, environment: Environment) -> list[str]:
    """Return the command of a task and its arguments, with references replaced. Raises ValueError."""
    config = _config_of(task)
    return [environment.fill(text) for text in (config.command, *config.args)]


def _config_of(task: TaskView) -> _Config:
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
    file = next((path for path in own if path.is_file()), Path(command))
    is_elsewhere = os.sep in command and not file.is_absolute()
    path = None if is_elsewhere else shutil.which(str(file), path=environment.variables.get("PATH"))
    if path is None:
        raise FileNotFoundError(f"binary {go_quoted(command)} could not be found")
    return path


def problem_of(placement: Placement, task: TaskView) -> str:
    """Return why a task cannot run on this machine; an empty text if it can."""
    if missing := [field for field in _UNSUPPORTED if getattr(task, field)]:
        return f"{', '.join(missing)} cannot be had here"
    try:
        directory = TaskDirectory(_NOWHERE, _NO_ALLOCATION, task.name)
        environment = environment_of(placement, task, directory)
        command = command_line_of(task, environment)[0]
        if not Path(command).is_relative_to(_NOWHERE):  # another task may put the command there
            find_command(command, directory, environment)
    except ValueError as error:
        return " ".join(str(error).split())
    except FileNotFoundError:
        is_there = os.sep in command and Path(command).is_file()
        return f"{command}: {'permission denied' if is_there else 'no such command'}"
    return ""


def notes_of(placement: Placement, task: TaskView) -> str:
    """Return a sentence about the variables of Nomad that a task lacks here; an empty text if it lacks none."""
    try:
        environment = environment_of(placement, task, TaskDirectory(_NOWHERE, _NO_ALLOCATION, task.name))
        config = _config_of(task)
    except ValueError:  # its start will report that
        return ""
    unknown = environment.unknown | environment.unfilled(config.command, *config.args)
    return f"{', '.join(sorted(unknown))} cannot be known here" if unknown else ""
