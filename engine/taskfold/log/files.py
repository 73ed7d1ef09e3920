"""Private files and folders: readable by their owner alone, and never written through a symbolic link.

A log holds the environments of its jobs, and may lie in a directory that others can write to; they could plant a link
where a sidecar file is about to be created. Existing files keep their mode: their owner may have widened it on purpose.
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
except ImportError:  # a system without it
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_new", "lock", "new_file", "own_file", "own_folder", "sync_folder", "take_mode"]

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700

_LOCKED: WeakValueDictionary[tuple[int, int, int], FileIO] = WeakValueDictionary()
"""The files that this process has locked, by process ID, device and inode."""


def is_new(path: str | Path) -> bool:
    """Tell whether a log would be created here: there is nothing, or an empty file."""
    file = Path(path)
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def own_file(path: str | Path, flags: int = 0) -> FileIO:
    """Open a file to read and write, or create it. Raises OSError, also for a symbolic link."""
    while True:
        with suppress(FileExistsError):
            return _begin_file(path, flags)
        with suppress(FileNotFoundError):  # it was deleted meanwhile
            return FileIO(path, "r+", opener=partial(_opened, flags))


def lock(file: FileIO, path: Path) -> None:
    """Lock a log's file against a second writer, where the system can.

    Raises LogError when it is locked, and says whether by this process or by another.
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
    """Create a file in place of any with this name. Raises OSError."""
    while True:
        path.unlink(missing_ok=True)
        with suppress(FileExistsError):
            return _begin_file(path)


def own_folder(path: Path) -> None:
    """Create a folder and its parents, if missing. Raises OSError, also for a link or another user's folder."""
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
            problem = f"{path.name} belongs to another user, who could change its contents: remove it"
            raise OSError(errno.EPERM, problem, str(path)) from None
    else:
        path.chmod(_FOLDER_MODE)  # whatever the umask is


def sync_folder(path: Path) -> None:
    """Bring the folder of a file to disk, with its newest entries, where folders can be opened. Raises OSError."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def take_mode(file: FileIO, of: FileIO) -> None:
    """Give a file the owner and mode of the one that it replaces, if permitted; else it stays private."""
    if hasattr(os, "fchown"):
        status = os.fstat(of.fileno())
        with suppress(PermissionError):
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), S_IMODE(status.st_mode))


def _begin_file(path: str | Path, flags: int = 0) -> FileIO:
    """Create a file. Raises FileExistsError and other OSErrors."""
    file = FileIO(path, "x+", opener=partial(_opened, flags))
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), _FILE_MODE)  # whatever the umask is
    return file


def _opened(more: int, name: str, flags: int) -> int:
    """Open a file, unless it is a symbolic link. Raises OSError."""
    try:
        return os.open(name, flags | more | getattr(os, "O_NOFOLLOW", 0), _FILE_MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(Path(name)) from None
        raise


def _link(path: Path) -> OSError:
    problem = f"{path.name} is a symbolic link, and taskfold writes through none: remove it"
    return OSError(errno.ELOOP, problem, str(path))
