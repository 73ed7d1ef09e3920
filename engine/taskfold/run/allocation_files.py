"""The files of an allocation for a reader: its directory is never left, and nothing is opened that could wait.

A task may put anything into its directories: links to files of others, pipes, sockets. A path is walked part by part
from the open directory of the allocation, without following any link, so that nothing can be exchanged on the way.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["AllocationFiles", "FileInfo"]

_MOST_ENTRIES: Final = 10_000
_LOOKED_AT_BYTES: Final = 512
"""How much of a file is looked at for its type. Source: net/http DetectContentType."""

_SHARED: Final = "alloc"
_SECRETS: Final = "secrets"
_DIRECTORY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_TEXT: Final = "text/plain; charset=utf-8"
_BYTES: Final = "application/octet-stream"


class FileInfo(NamedTuple):
    """A file or a directory."""

    name: str
    status: os.stat_result
    """Of a link itself, where it is one."""
    content_type: str = ""
    """Of a file that was asked for alone."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)


class AllocationFiles:
    """The files below the directory of an allocation. Each method raises OSError, with a sentence, and nothing else."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self, path: str) -> list[FileInfo]:
        """Return the entries of a directory, by name. Raises OSError."""
        parts = _parts(path)
        with self._directory(parts, path) as folder:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in islice(entries, _MOST_ENTRIES + 1)]
            if len(names) > _MOST_ENTRIES:
                raise OSError(errno.EFBIG, f"{path}: has more than {_MOST_ENTRIES} entries")
            return [
                FileInfo(name, status) for name in sorted(names) if (status := _status(name, folder, path)) is not None
            ]

    def stat(self, path: str) -> FileInfo:
        """Return the file or directory at a path. Raises OSError."""
        parts = _parts(path)
        if not parts:
            with self._directory([], path) as folder:
                return FileInfo(self._root.name, os.fstat(folder))
        with self._directory(parts[:-1], path) as folder:
            status = _status(parts[-1], folder, path)
            if status is None:
                raise _missing(path)
            content_type = ""
            if stat.S_ISREG(status.st_mode):
                content_type = mimetypes.guess_type(parts[-1])[0] or ""
                if not content_type and not _is_secret(parts):
                    with self.open(path) as file:
                        content_type = _type_of(file.read(_LOOKED_AT_BYTES) or b"")
            return FileInfo(parts[-1], status, content_type)

    def open(self, path: str) -> FileIO:
        """Open a file to read. Raises OSError for what is missing or no file, PermissionError for a secret."""
        parts = _parts(path)
        if _is_secret(parts):
            raise PermissionError(errno.EACCES, f"Reading secret file prohibited: {path}")
        if not parts:
            raise _no_file(path)
        with self._directory(parts[:-1], path) as folder, _worded(path):
            descriptor = os.open(parts[-1], _FILE, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _no_file(path)
        return FileIO(descriptor, "r")

    @contextmanager
    def _directory(self, parts: list[str], path: str) -> Iterator[int]:
        """Open a directory below the root."""
        with _worded(path):
            folder = os.open(self._root, _DIRECTORY)
        try:
            for part in parts:
                with _worded(path):
                    inner = os.open(part, _DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)


def _parts(path: str) -> list[str]:
    """Return the parts of a path from the directory of an allocation; raises OSError for one that leaves it.

    >>> _parts("/alloc/./logs/../data/")
    ['alloc', 'data']
    """
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                raise PermissionError(errno.EACCES, "Path escapes the alloc directory")
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    if "\0" in path:
        raise _missing(path)
    return parts


def _is_secret(parts: list[str]) -> bool:
    """Return whether a path is below the secrets of a task. Source: client/allocdir/alloc_dir.go ReadAt."""
    return len(parts) > 1 and parts[0] != _SHARED and parts[1] == _SECRETS


def _status(name: str, folder: int, path: str) -> os.stat_result | None:
    """Return the status of an entry, a link's own; None where it is gone."""
    with _worded(path):
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None


@contextmanager
def _worded(path: str) -> Iterator[None]:
    """Word the errors of the system without the paths of this machine."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path}: is a symbolic link, and none is followed here") from None
        raise type(error)(error.errno, f"{path}: {(error.strerror or str(error)).lower()}") from None


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, f"{path}: no such file or directory")


def _no_file(path: str) -> OSError:
    return OSError(errno.EINVAL, f"{path}: is no file")


def _type_of(beginning: bytes) -> str:
    """Return the type of a file that begins so."""
    try:
        beginning[:-4].decode()  # a character may be cut
    except UnicodeDecodeError:
        return _BYTES
    return _BYTES if b"\0" in beginning else _TEXT
