"""The sidecar files of a database before SQLite opens it: a write-ahead log may be its own, another log's, or damaged.

SQLite applies all valid frames of a ``-wal`` file with the right name, whichever database they belong to, and ignores
everything after an invalid frame. Each commit of a log writes its head (`taskfold.log.sqlite.head`) at the end of a
page of its own. So the frames can be read without SQLite: which log they belong to, and up to which commit.
"""

from __future__ import annotations

import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Final, NamedTuple

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

from taskfold.log.header import header_of
from taskfold.log.sqlite.files import sidecar, unshared, uri
from taskfold.log.sqlite.head import HEAD_BYTES, MARK, Head
from taskfold.model.errors import LogError, TaskfoldError, UnreadableLog

__all__ = ["Wal", "check_newest", "check_no_sidecars", "check_sidecars", "lock_file", "without_writers"]

# Source of all of these: sqlite.org/fileformat.html and sqlite.org/walformat.html.
_WAL_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">IIII")
_FRAME_HEADER_BYTES: Final = 24
_MAGIC: Final = {0x377F0682: "<", 0x377F0683: ">"}
_LEAF: Final = b"\x0d"
_ONE_CELL: Final = b"\x00\x01"
_INDEX_HEADER: Final = struct.Struct("=IIIBBHII2I8s2I")
_INDEX_HEADER_BYTES: Final = 48
_FRAMES_AT_ONCE: Final = 256
_PAGE_BYTES: Final = 4096
"""The assumed page size if the write-ahead log has no readable header."""


class Wal(NamedTuple):
    """The contents of a write-ahead log."""

    is_whole: bool = True
    """Its own header is intact; otherwise SQLite ignores the whole file."""
    heads: tuple[tuple[int, Head], ...] = ()
    """The heads in the valid frames, each with its frame's number."""
    commits: tuple[int, ...] = ()
    """The numbers of the frames that end a transaction."""
    frames: int = 0
    """The number of valid frames."""
    newest: int = 0
    """The newest commit in any frame, including frames that SQLite ignores."""
    frame_bytes: int = 0
    damage: str = ""
    """The damage of a write-ahead log that belongs to this log; else empty."""

    @property
    def is_headless(self) -> bool:
        """Whether the first commit has no head, though others have one."""
        return bool(self.heads and self.commits) and self.commits[0] < self.heads[0][0]

    def is_of(self, uuid: str) -> bool:
        """Tell whether every commit belongs to the log with this UUID."""
        return all(head.uuid == uuid for _, head in self.heads)

    def end_of(self, head: Head) -> int:
        """Return the number of the frame that ends the transaction with a head; 0 if there is none."""
        at = next((frame for frame, other in reversed(self.heads) if other == head), 0)
        return next((frame for frame in self.commits if frame >= at), 0) if at else 0


def _sum(data: bytes, order: str, one: int = 0, two: int = 0) -> tuple[int, int]:
    """Continue SQLite's checksum over more words."""
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


def wal_of(path: Path) -> Wal:
    """Read the write-ahead log of a database. O(frames). Raises OSError."""
    # The index first: a frame is written to the file before the index lists it.
    indexed, salts_of_index = _indexed(path)
    try:
        file = sidecar(path, "-wal").open("rb", buffering=0)
    except FileNotFoundError:
        return Wal()
    with file:
        start = file.read(_WAL_HEADER.size)
        if len(start) < _WAL_HEADER.size:
            return Wal()
        magic, _, page_bytes, _, *salts, one, two = _WAL_HEADER.unpack(start)
        is_whole = magic in _MAGIC and _sum(start[:24], _MAGIC[magic]) == (one, two)
        wal = _frames_of(file, page_bytes if is_whole else _PAGE_BYTES, tuple(salts) if is_whole else None)
        if is_whole and salts_of_index == start[16:24]:
            before = max([*(frame for frame in wal.commits if frame < indexed), indexed - _FRAMES_AT_ONCE, 0])
            if wal.frames < indexed or not _are_whole(file, start, before, indexed):
                message = f"{path.name}-wal lacks frames that were acknowledged, as {path.name}-shm shows"
                return wal._replace(damage=message)
    return wal


def _frames_of(file: FileIO, page_bytes: int, salts: tuple[int, ...] | None) -> Wal:
    """Read the frames of an open write-ahead log; without salts, SQLite ignores all of them."""
    size = page_bytes + _FRAME_HEADER_BYTES
    heads: list[tuple[int, Head]] = []
    commits: list[int] = []
    number = frames = newest = 0
    while block := file.read(size * _FRAMES_AT_ONCE):
        for at in range(0, len(block) - size + 1, size):
            number += 1
            _, pages, *sums = _FRAME_HEADER.unpack_from(block, at)
            head = _head_in(block, at + _FRAME_HEADER_BYTES, page_bytes)
            newest = newest if head is None else max(newest, head.commit)
            if tuple(sums) == salts:
                frames = number
                if head is not None:
                    heads.append((number, head))
                if pages:
                    commits.append(number)
    return Wal(salts is not None, tuple(heads), tuple(commits), frames, newest, size)


def _are_whole(file: FileIO, start: bytes, before: int, last: int) -> bool:
    """Tell whether the frames in a range have the log's salts, and correct checksums."""
    magic, _, page_bytes, *_, one, two = _WAL_HEADER.unpack(start)
    size = page_bytes + _FRAME_HEADER_BYTES
    if before:
        file.seek(_WAL_HEADER.size + (before - 1) * size)
        one, two = struct.unpack_from(">II", file.read(size), 16)
    file.seek(_WAL_HEADER.size + before * size)
    for _ in range(before, last):
        frame = file.read(size)
        if len(frame) < size:
            return False
        one, two = _sum(frame[_FRAME_HEADER_BYTES:], _MAGIC[magic], *_sum(frame[:8], _MAGIC[magic], one, two))
        if frame[8:16] != start[16:24] or (one, two) != struct.unpack_from(">II", frame, 16):
            return False
    return True


def _head_in(block: bytes, start: int, size: int) -> Head | None:
    """Return the head in a page; None for any other page."""
    at = start + size - HEAD_BYTES
    if block[at : at + len(MARK)] != MARK or block[start : start + 1] != _LEAF:
        return None
    if block[start + 3 : start + 5] != _ONE_CELL:
        return None
    return Head.unpacked(block[at : at + HEAD_BYTES])


def _indexed(path: Path) -> tuple[int, bytes]:
    """Return how many frames the shared index lists as committed, and the salts of their write-ahead log."""
    with unshared(path) as is_ours:
        if not is_ours:
            return 0, b""
        try:
            with sidecar(path, "-shm").open("rb", buffering=0) as file:
                one, other = file.read(_INDEX_HEADER_BYTES), file.read(_INDEX_HEADER_BYTES)
        except OSError:
            return 0, b""
    if one != other or len(one) < _INDEX_HEADER_BYTES:
        return 0, b""
    fields = _INDEX_HEADER.unpack(one)
    is_whole = fields[3] and _sum(one[:40], "<" if sys.byteorder == "little" else ">") == fields[-2:]
    return (fields[6], fields[10]) if is_whole else (0, b"")


def lock_file(path: Path) -> Path:
    """Return the lock file of a log's writer."""
    return path.with_name(f"{path.name}-lock")


@contextmanager
def without_writers(path: Path) -> Iterator[bool]:
    """Lock out writers, and tell whether there is none."""
    try:
        file = lock_file(path).open("rb")
    except OSError:  # a writer creates it first
        yield True
        return
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
        yield True


def check_no_sidecars(path: Path) -> None:
    """Check that no sidecar files of a removed log are where a log is to be created. Raises LogError.

    Empty ones are deleted.
    """
    for end in ("-wal", "-journal"):
        file = sidecar(path, end)
        with suppress(FileNotFoundError):
            if file.stat().st_size:
                raise LogError(
                    f"{path}: there is no log, but its {file.name} is there, with the newest records of a log that was "
                    "removed or moved: move it back beside that log, or away, and try again"
                )
            file.unlink()
    with suppress(FileNotFoundError):
        sidecar(path, "-shm").unlink()


def check_sidecars(path: Path, *, is_own: bool = False) -> Wal:
    """Check, before SQLite opens a database, that its sidecar files are its own; return its write-ahead log. O(frames).

    ``is_own``: this process holds the writer's lock. Raises LogError for sidecar files of another log, and OSError;
    damage is reported in the result.
    """
    wal, problem = _look_at(path)
    if (problem or wal.damage) and not is_own:
        # A writer may have changed one file before the other was read.
        with without_writers(path) as is_quiet:
            wal, problem = _look_at(path) if is_quiet else (Wal(), "")
    if problem:
        raise LogError(f"{path}: {problem}")
    return wal


def _look_at(path: Path) -> tuple[Wal, str]:
    """Return the write-ahead log, and an error text if it belongs to another log."""
    main = _main_of(path)
    with suppress(FileNotFoundError):
        # A log of an older format may have been left in another journal mode, with a journal of its own.
        if main.head is not None and sidecar(path, "-journal").stat().st_size:
            return Wal(), (
                f"{path.name}-journal is beside it, and not its own: SQLite would write it over the log; move it away"
            )
    wal = wal_of(path)
    if not wal.frames:
        return wal, ""
    problem = _problem(path, main, wal)
    if problem and main.head is not None and wal.is_headless and wal.is_of(main.head.uuid):
        return wal._replace(damage=f"{path.name}-wal begins with a commit whose head is damaged"), ""
    return wal, problem


class _Main(NamedTuple):
    """A database without its write-ahead log. A kill during a checkpoint of SQLite leaves pages incomplete."""

    uuid: str | None = None
    """The UUID in its head or its header, empty in older formats; None if neither can be read."""
    head: Head | None = None
    problem: str = ""
    """The reason if something cannot be read."""


def _main_of(path: Path) -> _Main:
    """Read a database without its write-ahead log."""
    problem = ""
    with closing(sqlite3.connect(uri(path, "immutable=1"), uri=True)) as database:
        # A process killed while it copies frames back leaves fewer pages than the first page says.
        database.execute("PRAGMA writable_schema = ON")
        try:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'head'").fetchone() is not None:
                (data,) = database.execute("SELECT head FROM head").fetchone() or (None,)
                head = Head.unpacked(data)
                if head is not None:
                    return _Main(head.uuid, head)
                problem = "its head is damaged"
        except sqlite3.Error as error:
            problem = str(error)
        try:
            (text,) = database.execute("SELECT text FROM header").fetchone() or ("",)
            return _Main(header_of(f"{text}\n".encode()).uuid, problem=problem)
        except (sqlite3.Error, UnicodeError, TaskfoldError) as error:
            return _Main(problem=problem or str(error))


def _problem(path: Path, main: _Main, wal: Wal) -> str:
    """Return the error text for a write-ahead log that does not continue its database; else an empty text."""
    name = f"{path.name}-wal"
    if not wal.heads:
        if main.uuid == "" and not main.problem:
            return ""
    else:
        first = wal.heads[0][1]
        head = main.head or Head(main.uuid or first.uuid)
        # A database without a head: the first commit with one converted it to the current format.
        is_next = (first.commit, first.before) == (head.commit + 1, head.token)
        is_after = (
            is_next or (main.uuid and main.head is None) or any(_is_same(wal_head, head) for _, wal_head in wal.heads)
        )
        if wal.is_of(head.uuid) and is_after:
            return ""
    if main.problem:
        return f"the log is damaged ({main.problem}), so that it is unknown whether {name} belongs to it"
    return (
        f"{name} belongs to another log, or to another copy of this one, and holds records that no other file has: "
        "move it back beside that log, or away"
    )


def _is_same(one: Head, other: Head) -> bool:
    return (one.commit, one.token) == (other.commit, other.token)


def check_newest(path: Path, wal: Wal, head: Head | None) -> int:
    """Check that reading ends with the newest acknowledged commit; return the bytes of the torn write after it.

    ``wal`` was read before ``head``, which SQLite read through the write-ahead log. A kill may tear the last commit,
    but none before it. Raises LogError.
    """
    commit = 0 if head is None else head.commit
    torn = 1 if wal.is_whole else 0  # SQLite syncs the header before it writes the first frame
    end = 0 if head is None else wal.end_of(head)
    is_among = end > 0 or (bool(wal.heads) and commit < wal.heads[0][1].commit)
    damage = wal.damage
    if not damage and wal.newest > commit + torn:
        damage = f"{path.name}-wal can be read up to commit {commit} only, and has later ones"
    if damage:
        raise UnreadableLog(
            f"{path}: the log is damaged: {damage}; `taskfold log {path} --repair NEW` copies the readable records"
        )
    return (wal.frames - end) * wal.frame_bytes if is_among else 0
