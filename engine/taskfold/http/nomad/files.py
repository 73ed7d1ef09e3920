"""The endpoints of an allocation's files: lists, reads, streams and the output of tasks, where its tasks run here.

What tasks write is nobody's page: it is sent as plain text, which no browser may take for anything else. Source of the
parameters, the frames and the errors: command/agent/fs_endpoint.go, client/fs_endpoint.go.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from http import HTTPStatus
from io import FileIO
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from taskfold.http.answers import TEXT_TYPE, VARY, Answer, Header, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.allocations import find
from taskfold.http.nomad.blocking import while_connected
from taskfold.http.nomad.options import Options
from taskfold.http.query import go_bool, is_pretty, parse_signed_error
from taskfold.http.request import Request
from taskfold.model.go.quoting import go_quoted
from taskfold.model.go.timestamps import time_text
from taskfold.run.allocation_files import AllocationFiles, FileInfo

__all__ = [
    "AllocationFile",
    "FileFrame",
    "cat_file",
    "list_files",
    "read_file",
    "stat_file",
    "stream_file",
    "task_logs",
]

T = TypeVar("T")

PIECE_BYTES: Final = 65_536
"""The most of a file that is read, and sent in a frame, at once. Source: streamFrameSize."""

_LOOK_SECONDS: Final = 0.2
"""How often a file that is followed is looked at. Source: streamBatchWindow."""

_HEARTBEAT_SECONDS: Final = 1.0
_NO_PATH: Final = "must provide a file name"
_NO_TASK: Final = "must provide task name"
_NO_STREAM: Final = "must provide log type (stdout/stderr)"
_NO_ORIGIN: Final = "origin must be start or end"
_STREAMS: Final = ("stdout", "stderr")
_START, _END = "start", "end"
_DELETED: Final = "file deleted"
_TRUNCATED: Final = "file truncated"

_HEADERS: Final[tuple[Header, ...]] = (
    (b"Content-Security-Policy", b"default-src 'none'; sandbox"),
    TEXT_TYPE,
    VARY,
    (b"X-Content-Type-Options", b"nosniff"),
)
_MODES: Final = {
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "L",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "S",
    stat.S_IFCHR: "Dc",
    stat.S_IFBLK: "D",
}
"""The letters of Go for what is no file. Source: os.FileMode.String."""

_encode: Final = msgspec.json.Encoder().encode


class AllocationFile(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A file or a directory of an allocation."""

    FileMode: str
    IsDir: bool
    ModTime: str
    Name: str
    Size: int
    ContentType: str = ""


class FileFrame(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A piece of a file that is streamed; empty as a sign of life."""

    Data: bytes = b""
    """Base64."""
    File: str = ""
    FileEvent: str = ""
    """``file truncated`` or ``file deleted``."""
    Offset: int = 0
    """The end of the data in the file, as Nomad tells it."""


_HEARTBEAT: Final = _encode(FileFrame())


class _Wrong(ValueError):
    """An invalid parameter; the message is the body of the 400."""


async def list_files(context: Context, request: Request, _: Options, text: str) -> Answer:
    """Answer ``GET /v1/client/fs/ls/<id>``: what is in a directory."""
    path, is_indented = request.query.get("path") or "/", is_pretty(request.query)
    files = _files_of(context, text)
    if isinstance(files, Answer):
        return files
    entries = await _on_disk(lambda: files.entries(path))
    if isinstance(entries, Answer):
        return entries
    body = _encode([_file(entry) for entry in entries])
    return json_answer(pretty(body) if is_indented else body)


async def stat_file(context: Context, request: Request, _: Options, text: str) -> Answer:
    """Answer ``GET /v1/client/fs/stat/<id>``: what is at a path."""
    path, is_indented = request.query.get("path"), is_pretty(request.query)
    if not path:
        return error(400, _NO_PATH)
    files = _files_of(context, text)
    if isinstance(files, Answer):
        return files
    info = await _on_disk(lambda: files.stat(path))
    if isinstance(info, Answer):
        return info
    body = _encode(_file(info))
    return json_answer(pretty(body) if is_indented else body)


async def cat_file(context: Context, request: Request, _: Options, text: str) -> Answer | None:
    """Answer ``GET /v1/client/fs/cat/<id>``: a whole file."""
    return await _send(context, request, text, _Reading(request.query.get("path")))


async def read_file(context: Context, request: Request, _: Options, text: str) -> Answer | None:
    """Answer ``GET /v1/client/fs/readat/<id>``: a part of a file."""
    query = request.query
    path, start, most = query.get("path"), query.get("offset"), query.get("limit")
    try:
        offset, limit = _number("offset", start, is_needed=True), _number("limit", most)
    except _Wrong as problem:
        return error(400, str(problem))
    return await _send(context, request, text, _Reading(path, offset, limit=limit))


async def stream_file(context: Context, request: Request, _: Options, text: str) -> Answer | None:
    """Answer ``GET /v1/client/fs/stream/<id>``: a file as it grows, in frames."""
    query = request.query
    path, origin, follow = query.get("path"), query.get("origin"), query.get("follow")
    try:
        reading = _Reading(
            path,
            _number("offset", query.get("offset")),
            is_from_end=_is_from_end(origin),
            is_framed=True,
            follows=_flag("follow", follow, default=True),
        )
    except _Wrong as problem:
        return error(400, str(problem))
    return await _send(context, request, text, reading)


async def task_logs(context: Context, request: Request, _: Options, text: str) -> Answer | None:
    """Answer ``GET /v1/client/fs/logs/<id>``: the output of a task."""
    query = request.query
    task, kind, origin = query.get("task"), query.get("type"), query.get("origin")
    follow, plain = query.get("follow"), query.get("plain")
    try:
        offset = _number("offset", query.get("offset"))
        _check_output(task, kind)
        reading = _Reading(
            "",
            offset,
            is_from_end=_is_from_end(origin),
            is_framed=not _flag("plain", plain, default=False),
            follows=_flag("follow", follow, default=False),
        )
    except _Wrong as problem:
        return error(400, str(problem))
    alloc = find(context, text)
    if isinstance(alloc, str) and context.tasks is not None and context.tasks.files(alloc) is not None:
        if not context.engine.reader.has_task(alloc, task):
            return error(400, f"unknown task name {go_quoted(task)}")
        reading = msgspec.structs.replace(
            reading,
            path=context.tasks.output(alloc, task, kind),
            missing=f"task {go_quoted(task)} not started yet. No logs available",
        )
    return await _send(context, request, text, reading)


# --- parameters ---


class _Reading(Struct, frozen=True):
    """A read of a file, and its form."""

    path: str
    offset: int = 0
    is_from_end: bool = False
    """The offset is of the end."""
    limit: int = 0
    """The most bytes; 0 for no limit."""
    is_framed: bool = False
    """In frames of JSON; else as it is."""
    follows: bool = False
    """Later writes to the file are sent, too."""
    missing: str = ""
    """The error for a file that is missing, if it is known what that means."""


def _number(name: str, text: str, *, is_needed: bool = False) -> int:
    """Return the number in a text; 0 for an empty one, unless it is needed. Raises _Wrong."""
    if not text and not is_needed:
        return 0
    number = parse_signed_error(text)
    if isinstance(number, str):
        raise _Wrong(f"error parsing {name}: {number.replace('strconv.Atoi', 'strconv.ParseInt')}")
    return number


def _flag(name: str, text: str, *, default: bool) -> bool:
    value = go_bool(text) if text else default
    if value is None:
        why = f"strconv.ParseBool: parsing {go_quoted(text)}: invalid syntax"
        raise _Wrong(f"failed to parse {name} field to boolean: {why}")
    return value


def _check_output(task: str, kind: str) -> None:
    """Check that an output is named. Raises _Wrong."""
    if not task:
        raise _Wrong(_NO_TASK)
    if kind not in _STREAMS:
        raise _Wrong(_NO_STREAM)


def _is_from_end(origin: str) -> bool:
    if origin not in {"", _START, _END}:
        raise _Wrong(_NO_ORIGIN)
    return origin == _END


# --- files ---


def _files_of(context: Context, text: str) -> AllocationFiles | Answer:
    """Return the files of an allocation, or the 404 where it does not run here."""
    alloc = find(context, text)
    files = None if isinstance(alloc, Answer) or context.tasks is None else context.tasks.files(alloc)
    return error(404, f'Unknown allocation "{text}"') if files is None else files


async def _on_disk(function: Callable[[], T], missing: str = "") -> T | Answer:
    """Run a function that reads a disk, in a thread; return the answer for its error."""
    try:
        return await asyncio.to_thread(function)
    except FileNotFoundError as problem:
        return error(404, missing or problem.strerror or str(problem))
    except OSError as problem:
        return error(400, problem.strerror or str(problem))


def _file(info: FileInfo) -> AllocationFile:
    status = info.status
    letters = "".join("rwxrwxrwx"[place] if status.st_mode >> (8 - place) & 1 else "-" for place in range(9))
    return AllocationFile(
        ContentType=info.content_type,
        FileMode=_MODES.get(stat.S_IFMT(status.st_mode), "-") + letters,
        IsDir=info.is_directory,
        ModTime=time_text(status.st_mtime_ns),
        Name=info.name.encode(errors="replace").decode(),
        Size=status.st_size,
    )


async def _send(context: Context, request: Request, text: str, reading: _Reading) -> Answer | None:
    """Send a read of a file, or return the error."""
    files = _files_of(context, text)
    if isinstance(files, Answer):
        return files
    if not reading.path:
        return error(400, _NO_PATH)
    file = await _on_disk(lambda: files.open(reading.path), reading.missing)
    if isinstance(file, Answer):
        return file
    with file, context.streams.hold(request.client):
        await while_connected(request, _Sending(context, request, file, reading).run())
    return None


class _Sending:
    """The sending of one file to one client, a piece at a time."""

    def __init__(self, context: Context, request: Request, file: FileIO, reading: _Reading) -> None:
        self._context = context
        self._request = request
        self._file = file
        self._reading = reading
        size = self._size
        self._offset = min(max(size - reading.offset if reading.is_from_end else reading.offset, 0), size)
        self._end = None if reading.follows else size
        """Its end; a file that grows is sent as far as it was."""
        if reading.limit > 0:
            self._end = min(size if self._end is None else self._end, self._offset + reading.limit)
        self._silent_seconds = 0.0

    @property
    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    async def run(self) -> None:
        """Send the file until its end; one that is followed until it is deleted, or the server stops."""
        self._request.status = HTTPStatus.OK
        start = {"type": "http.response.start", "status": HTTPStatus.OK.value, "headers": _HEADERS}
        await self._context.send(self._request, start)
        await self._send_rest()
        while self._end is None:
            if self._context.is_closing.is_set() or await self._is_deleted():
                break
            await self._rest()
            await self._send_rest()
        await self._context.send(self._request, {"type": "http.response.body", "body": b""})

    async def _send_rest(self) -> None:
        """Send what there is."""
        event = ""
        if self._end is None and self._size < self._offset:
            self._offset, event = 0, _TRUNCATED
        while True:
            wanted_bytes = PIECE_BYTES if self._end is None else min(PIECE_BYTES, self._end - self._offset)
            data = await asyncio.to_thread(os.pread, self._file.fileno(), wanted_bytes, self._offset)
            self._offset += len(data)
            if data or event:
                await self._send(data, event)
                event = ""
            if not data:
                return

    async def _is_deleted(self) -> bool:
        """Return whether the file is deleted, and say so."""
        if os.fstat(self._file.fileno()).st_nlink:
            return False
        await self._send(b"", _DELETED)
        return True

    async def _rest(self) -> None:
        """Wait a while before the next look, and give a sign of life now and then."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._context.is_closing.wait()
        except TimeoutError:
            self._silent_seconds += _LOOK_SECONDS
        if self._silent_seconds >= _HEARTBEAT_SECONDS and self._reading.is_framed:
            await self._send_text(_HEARTBEAT)

    async def _send(self, data: bytes, event: str) -> None:
        if self._reading.is_framed:
            frame = FileFrame(Data=data, File=self._reading.path, FileEvent=event, Offset=self._offset)
            await self._send_text(_encode(frame))
        elif data:
            await self._send_text(data)

    async def _send_text(self, text: bytes) -> None:
        self._silent_seconds = 0.0
        await self._context.send(self._request, {"type": "http.response.body", "body": text, "more_body": True})
