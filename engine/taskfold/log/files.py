"""Files and folders of ours: nobody but their owner reads them, and nothing is written through a link to another file.

A log holds the environments of its jobs, and may be in a directory that others write to, who could put a link in the
place of what is made beside it. What is there already keeps its mode: its owner may have widened it on purpose.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from stat import S_IMODE
from weakref import WeakValueDictionary

from taskfold.model.errors import LogError

try:
    import fcntl
except ImportError:  # no system that has it
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_new", "lock", "new_file", "own_file", "own_folder", "sync_folder", "take_mode"]

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700

_LOCKED: WeakValueDictionary[tuple[int, int, int], FileIO] = WeakValueDictionary()
"""The files that this process has locked, by its ID and theirs."""


def is_new(path: str | Path) -> bool:
    """Tell whether a log would be begun there: at a path that has nothing, or an empty file."""
    file = Path(path)
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def own_file(path: str | Path, flags: int = 0) -> FileIO:
    """Open a file to read and to write it, as it is; begin it where there is none. Raises OSError, also for a link."""
    while True:
        with suppress(FileExistsError):
            return _begin_file(path, flags)
        with suppress(FileNotFoundError):  # it was removed meanwhile
            return FileIO(path, "r+", opener=partial(_opened, flags))


def lock(file: FileIO, path: Path) -> None:
    """Lock the file by which a log is written by one at a time, where the system can.

    Raises LogError where somebody has it, and says whether that is this process.
    """
    if fcntl is None:
        return
    status = os.fstat(file.fileno())
    key = os.getpid(), status.st_dev, status.st_ino
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _LOCKED.get(key)
        if holder is None or holder.closed:
            raise LogError(f"{path}: another process is writing this log") from None
        raise LogError(
            f"{path}: this process has the log open already: use the engine or log that has it, or close that first"
        ) from None
    _LOCKED[key] = file


def new_file(path: Path) -> FileIO:
    """Begin a file in the place of whatever has its name. Raises OSError."""
    while True:
        path.unlink(missing_ok=True)
        with suppress(FileExistsError):
            return _begin_file(path)


def own_folder(path: Path) -> None:
    """Make a folder, and those around it, where there are none. Raises OSError, also for a link or another user's."""
    try:
        path.mkdir(_FOLDER_MODE)
    except FileNotFoundError:
        own_folder(path.parent)
        own_folder(path)
    except FileExistsError:
        if path.is_symlink():
            raise _link(path) from None
        if not path.is_dir():
            raise
        if hasattr(os, "geteuid") and path.stat().st_uid != os.geteuid():
            problem = f"{path.name} belongs to another user, who could change what is in it: remove it"
            raise OSError(errno.EPERM, problem, str(path)) from None
    else:
        path.chmod(_FOLDER_MODE)  # whatever the umask takes away


def sync_folder(path: Path) -> None:
    """Have the folder of a file on disk, with its newest entries, where folders can be opened. Raises OSError."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def take_mode(file: FileIO, of: FileIO) -> None:
    """Give a file the owner and the mode of the one whose place it will take; else it stays its writer's alone."""
    if hasattr(os, "fchown"):
        status = os.fstat(of.fileno())
        with suppress(PermissionError):
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), S_IMODE(status.st_mode))


def _begin_file(path: str | Path, flags: int = 0) -> FileIO:
    """Begin a file. Raises FileExistsError and other OSErrors."""
    file = FileIO(path, "x+", opener=partial(_opened, flags))
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), _FILE_MODE)  # whatever the umask takes away
    return file


def _opened(more: int, name: str, flags: int) -> int:
    """Open a file, unless it is a link. Raises OSError."""
    try:
        return os.open(name, flags | more | getattr(os, "O_NOFOLLOW", 0), _FILE_MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(Path(name)) from None
        raise


def _link(path: Path) -> OSError:
    problem = f"{path.name} is a symbolic link, and nothing is written through one: remove it"
    return OSError(errno.ELOOP, problem, str(path))
