"""The channel between the processes of one server: frames on a pair of sockets that nobody else can open.

The process that owns the log (`taskfold.http.serve.workers`) makes a pair for each process that follows it
(`taskfold.http.serve.worker`), which inherits the other end: there is no name in a file system, and nothing to remove.
When one of the two ends, however it does, the other one sees the end of the pair.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeAlias, cast

import msgspec
from msgspec import Struct

from taskfold.http.answers import Answer, Header
from taskfold.http.serve.counts import Counts
from taskfold.http.serve.limits import Limits
from taskfold.http.serve.tls import TlsFiles

__all__ = [
    "BeginFailure",
    "Cancel",
    "Channel",
    "CountCall",
    "CountReply",
    "Frame",
    "OwnerCall",
    "OwnerReply",
    "Problem",
    "Ready",
    "Settings",
    "Stop",
    "Wake",
    "read_frame",
    "send_frame",
]

_LENGTH_BYTES: Final = 4


class Settings(Struct, tag=True, kw_only=True):
    """The first frame to a follower: its settings."""

    number: int = 0
    """The number of the worker; the owner is number 1."""
    workers: int = 0
    log: str
    region: str
    peers: dict[str, str]
    peer_tokens: dict[str, str]
    token: str | None
    limits: Limits
    is_mirror: bool
    tls: TlsFiles | None = None


class Ready(Struct, tag=True):
    """A follower serves."""


class BeginFailure(Struct, tag=True):
    """A follower cannot begin."""

    reason: str


class Problem(Struct, tag=True):
    """A follower cannot read the log; empty when it can again."""

    text: str


class Wake(Struct, tag=True):
    """The owner has written."""


class OwnerCall(Struct, tag=True):
    """A request for the owner to answer."""

    number: int
    method: str
    path: bytes
    raw_path: bytes
    query: bytes
    headers: tuple[Header, ...]
    client: str
    body: bytes


class Cancel(Struct, tag=True):
    """The client of a request has disconnected."""

    number: int


class OwnerReply(Struct, tag=True):
    """The answer to a request."""

    number: int
    answer: Answer


class CountCall(Struct, tag=True):
    """The owner wants the numbers of a follower."""


class CountReply(Struct, tag=True):
    """The numbers of a follower."""

    counts: Counts


class Stop(Struct, tag=True):
    """A follower must end in good order."""


Frame: TypeAlias = (
    Settings | Ready | BeginFailure | Problem | Wake | OwnerCall | Cancel | OwnerReply | CountCall | CountReply | Stop
)

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], Frame]] = msgspec.msgpack.Decoder(Frame).decode


class Channel(asyncio.Protocol):
    """One end of a pair, on an event loop."""

    def __init__(self, on_frame: Callable[[Frame], None], on_end: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_end = on_end
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Buffer received data, and pass on each complete frame."""
        self._buffer += data
        begin = 0
        while len(self._buffer) - begin >= _LENGTH_BYTES:
            end = begin + _LENGTH_BYTES + int.from_bytes(self._buffer[begin : begin + _LENGTH_BYTES])
            if len(self._buffer) < end:
                break
            self._on_frame(_decode(bytes(self._buffer[begin + _LENGTH_BYTES : end])))
            begin = end
        del self._buffer[:begin]

    def connection_lost(self, _: Exception | None) -> None:
        """Report the end of the other process."""
        self._transport = None
        self._on_end()

    def send(self, frame: Frame) -> bool:
        """Send a frame; return whether the other process is still there."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(_packed(frame))
        return True

    def close(self) -> None:
        """Close it, after sent data is delivered."""
        if self._transport is not None:
            self._transport.close()


def _packed(frame: Frame) -> bytes:
    text = _encode(frame)
    return len(text).to_bytes(_LENGTH_BYTES) + text


def send_frame(end: socket.socket, frame: Frame) -> None:
    """Send a frame without an event loop."""
    end.sendall(_packed(frame))


def read_frame(end: socket.socket) -> Frame | None:
    """Wait for a frame without an event loop, and return it; None where the other side is gone."""
    size = _read(end, _LENGTH_BYTES)
    text = _read(end, int.from_bytes(size))
    return _decode(text) if size and text else None


def _read(end: socket.socket, size: int) -> bytes:
    """Return ``size`` bytes; none where the other process ended before."""
    data = b""
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            return b""
        data += part
    return data
