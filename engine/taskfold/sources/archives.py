"""Folders, tar archives and zip archives of sources."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO, Final, NamedTuple

from taskfold.log.compression import COMPRESSIONS, unpacked
from taskfold.log.lines import BLOCK_BYTES, open_bytes
from taskfold.model.errors import SourceError

__all__ = ["SourceFile", "is_json_name", "members_of", "parts_of_folder"]

_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
_TAR: Final = (257, b"ustar")
"""The offset and the bytes of a tar archive's magic number. Source: POSIX.1-2001, pax."""
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
"""The first bytes of a zip archive, and of an empty one. Source: APPNOTE.TXT, 4.3."""
_LOOK_BYTES: Final = 512


class SourceFile(NamedTuple):
    """A file of a folder, or of an archive."""

    name: str
    open: Callable[[], AbstractContextManager[BinaryIO]]
    """Opens it, unpacking what is compressed. Raises SourceError."""


def is_json_name(name: str) -> bool:
    """Tell whether a file has JSON by its name, compressed or not.

    >>> is_json_name("allocations.json"), is_json_name("stream.ndjson.zst"), is_json_name("monitor.log")
    (True, True, False)
    """
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression.ending)
    # macOS adds such files to archives: they have no JSON.
    return name.endswith(_SUFFIXES) and not PurePosixPath(name).name.startswith("._")


def parts_of_folder(path: str) -> list[SourceFile]:
    """Return the JSON files of a folder, sorted by name. Raises SourceError for a folder without any."""
    folder = Path(path).absolute()
    files = sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if is_json_name(file.name) and file.is_file()
    )
    if not files:
        endings = ", ".join(compression.ending for compression in COMPRESSIONS)
        raise SourceError(
            path, f"the folder has no file with the ending {', '.join(_SUFFIXES)} (or these with {endings})"
        )
    names = [str(Path(path) / file) for file in files]
    return [SourceFile(name, partial(open_bytes, folder / file, name)) for name, file in zip(names, files, strict=True)]


# --- archives ---------------------------------------------------------------------------------------------------------


@contextmanager
def members_of(
    stream: BinaryIO, name: str, on_note: Callable[[str], None]
) -> Iterator[tuple[BinaryIO, list[SourceFile] | None]]:
    """Yield a stream from its beginning, and the JSON files of an archive, sorted by name; None if it is none.

    An archive's files are copied to a temporary file, which is removed at the end. Raises SourceError.
    """
    start, stream = _look(stream)
    is_tar = start[_TAR[0] :].startswith(_TAR[1])
    if not is_tar and not start.startswith(_ZIP):
        yield stream, None
        return
    with TemporaryFile() as copy:
        members = _of_tar(stream, name, copy, on_note) if is_tar else _of_zip(stream, name, copy)
        parts = [SourceFile(f"{name}/{member}", opens) for member, opens in sorted(members)]
        if not parts:
            raise SourceError(name, f"the archive has no file with the ending {', '.join(_SUFFIXES)}")
        yield stream, parts


def _look(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Return the first bytes of a possible archive, and the stream from its beginning."""
    beginning = stream.peek(2)[:2]  # type: ignore[attr-defined]
    if not beginning or beginning[:1] in b"{[ \t\r\n\0" or beginning[:2] in {b"\xff\xfe", b"\xfe\xff", b"\xef\xbb"}:
        return b"", stream
    start = b""
    while len(start) < _LOOK_BYTES and (block := stream.read(_LOOK_BYTES - len(start))):
        start += block
    return start, io.BufferedReader(_Pushed(start, stream), BLOCK_BYTES)


class _Pushed(io.RawIOBase):
    """A stream with bytes before it that were read from it."""

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        self._start = start
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        block = self._start[: len(target)] or self._stream.read1(len(target))  # type: ignore[attr-defined]
        self._start = self._start[len(target) :]
        target[: len(block)] = block
        return len(block)


class _Section(io.RawIOBase):
    """A section of a file."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._file = file
        self._at = start
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        # Sections of one file may be read in turns.
        self._file.seek(self._at)
        block = self._file.read(min(len(target), self._end - self._at))
        self._at += len(block)
        target[: len(block)] = block
        return len(block)


ArchiveMember = tuple[str, Callable[[], AbstractContextManager[BinaryIO]]]


def _of_tar(stream: BinaryIO, name: str, copy: IO[bytes], on_note: Callable[[str], None]) -> list[ArchiveMember]:
    """Copy the JSON files of a tar archive, and return them. Raises SourceError."""
    members: list[ArchiveMember] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isreg() and is_json_name(member.name):
                    start = copy.tell()
                    content = archive.extractfile(member)
                    assert content is not None, "it is a regular file"
                    while block := content.read(BLOCK_BYTES):
                        copy.write(block)
                    section = partial(_section, copy, start, copy.tell(), f"{name}/{member.name}")
                    members.append((_plain(member.name), section))
    except (EOFError, tarfile.TarError) as error:
        if not members:
            raise SourceError(name, f"the tar archive is cut off or damaged ({error})") from None
        on_note(f"{name}: the archive is cut off or damaged ({error}): of its files {len(members)} are read")
    return members


def _of_zip(stream: BinaryIO, name: str, copy: IO[bytes]) -> list[ArchiveMember]:
    """Copy the JSON files of a zip archive, and return them. Raises SourceError."""
    while block := stream.read(BLOCK_BYTES):
        copy.write(block)
    try:
        archive = zipfile.ZipFile(copy)
        members = [each for each in archive.namelist() if is_json_name(each)]
    except zipfile.BadZipFile as error:
        raise SourceError(name, f"the zip archive is cut off or damaged ({error})") from None
    return [(_plain(each), partial(_unzipped, archive, each, f"{name}/{each}")) for each in members]


def _plain(member: str) -> str:
    """Return the name of a member without ``./``."""
    return str(PurePosixPath(member))


@contextmanager
def _section(copy: IO[bytes], start: int, end: int, name: str) -> Iterator[BinaryIO]:
    with unpacked(io.BufferedReader(_Section(copy, start, end), BLOCK_BYTES), name) as stream:
        yield stream


@contextmanager
def _unzipped(archive: zipfile.ZipFile, member: str, name: str) -> Iterator[BinaryIO]:
    try:
        content = archive.open(member)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise SourceError(name, f"cannot be unpacked: {error}") from None
    try:
        with content, unpacked(io.BufferedReader(content), name) as stream:  # type: ignore[type-var]
            yield stream
    except zipfile.BadZipFile as error:
        raise SourceError(name, f"is damaged: {error}") from None
