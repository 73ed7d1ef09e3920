"""Connections to one agent: requests of HTTP/1.1 over TCP, TLS or a socket of the file system.

A general client costs three times as much of a processor as everything else that a recorder does with an allocation.
This one only asks, and only what agents answer: it follows no redirections, uses no proxies, and unpacks nothing.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

__all__ = ["AgentAnswer", "ConnectionProblem", "Connections"]

_UNIX: Final = "unix:"
_CONNECT_SECONDS: Final = 5.0
_PORTS: Final = {"http": 80, "https": 443}
_BUFFER_BYTES: Final = 1 << 18
"""How much of an answer is held until it is read; the head, and the line of a chunk's length, are shorter."""

_READ_AT_ONCE: Final = 1 << 20
_BODILESS: Final = frozenset({204, 304})
_DIGITS: Final = {10: frozenset("0123456789"), 16: frozenset("0123456789abcdefABCDEF")}
_INFORMATIONAL: Final = 200
"""Answers with a lower status announce another one."""


class ConnectionProblem(Exception):
    """Why an agent could not be asked, in words."""

    def __init__(self, reason: str, *, is_silence: bool = False, is_stale: bool = False) -> None:
        super().__init__(reason)
        self.is_silence = is_silence
        """It took the request, and then said nothing for too long."""
        self.is_stale = is_stale
        """The connection ended before anything of the answer came."""


class AgentAnswer(Struct):
    """The answer to one request."""

    status: int
    reason: str
    headers: Mapping[str, str]
    """By name, in small letters."""
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300  # noqa: PLR2004 - the statuses of success

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


class Connections:
    """The connections to one agent; a finished request leaves its connection to the next one."""

    def __init__(self, address: str, context: ssl.SSLContext | None, *, most: int, server_name: str = "") -> None:
        """Ask the agent at an address, over ``most`` connections at a time at most.

        ``context`` is for https, ``server_name`` the name of the agent's certificate where that is not the host.
        """
        self._path = address.removeprefix(_UNIX) if address.startswith(_UNIX) else ""
        parts = urlsplit("http://localhost" if self._path else address)
        host = parts.hostname or ""
        self._host, self._port = host, parts.port or _PORTS[parts.scheme]
        self._context = context if parts.scheme == "https" else None
        self._server_name = (server_name or host) if self._context is not None else None
        self._prefix = parts.path.rstrip("/")
        header_host = f"[{host}]" if ":" in host else host
        self._headers = {
            "Host": header_host if parts.port is None else f"{header_host}:{parts.port}",
            "User-Agent": "taskfold",
        }
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        self._slots = asyncio.Semaphore(most)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def get(self, target: str, headers: Mapping[str, str], read_seconds: float) -> AgentAnswer:
        """Return the answer; nothing may stay out for longer than ``read_seconds``. Raises ConnectionProblem."""
        async with self.stream(target, headers, read_seconds) as (answer, blocks):
            body = [block async for block in blocks]
            answer.body = body[0] if len(body) == 1 else b"".join(body)
            return answer

    @asynccontextmanager
    async def stream(
        self, target: str, headers: Mapping[str, str], read_seconds: float
    ) -> AsyncIterator[tuple[AgentAnswer, AsyncIterator[bytes]]]:
        """Give the head of the answer, and its body block by block. Raises ConnectionProblem."""
        request = self._request(target, headers)
        async with self._slots:
            connection, answer = await self._ask(request, read_seconds)
            is_done = False
            try:
                async with aclosing(connection.blocks(answer, read_seconds)) as blocks:
                    yield answer, blocks
                is_done = connection.is_reusable
            finally:
                if is_done:
                    self._idle.append(connection)
                else:
                    self._drop(connection)

    async def close(self) -> None:
        """End all connections."""
        self._idle.clear()
        for connection in list(self._open):
            self._drop(connection)
        await asyncio.sleep(0)  # the loop closes the sockets

    def _request(self, target: str, headers: Mapping[str, str]) -> bytes:
        lines = [f"{name}: {value}" for name, value in {**self._headers, **headers}.items()]
        text = "\r\n".join([f"GET {self._prefix}{target} HTTP/1.1", *lines])
        # A printable line has none of the characters that end a line.
        if not text.isascii() or not text.replace("\r\n", "").isprintable() or text.count("\r\n") != len(lines):
            raise ConnectionProblem("cannot be asked: the token has a character that no header can have")
        return text.encode() + b"\r\n\r\n"

    async def _ask(self, request: bytes, read_seconds: float) -> tuple[_Connection, AgentAnswer]:
        """Send a request; return the connection, and the head of the answer. Raises ConnectionProblem."""
        while True:
            is_kept, connection = bool(self._idle), self._idle.pop() if self._idle else await self._connect()
            try:
                return connection, await connection.ask(request, read_seconds)
            except BaseException as error:
                self._drop(connection)
                # An agent may end a connection that was kept, in the moment in which it is used again.
                if not (is_kept and isinstance(error, ConnectionProblem) and error.is_stale):
                    raise

    async def _connect(self) -> _Connection:
        """Return a new connection. Raises ConnectionProblem."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                if self._path:
                    reader, writer = await asyncio.open_unix_connection(self._path, limit=_BUFFER_BYTES)
                else:
                    reader, writer = await asyncio.open_connection(
                        self._host,
                        self._port,
                        ssl=self._context,
                        server_hostname=self._server_name,
                        limit=_BUFFER_BYTES,
                    )
        except TimeoutError:
            raise ConnectionProblem(f"it did not take the connection within {_CONNECT_SECONDS:g} seconds") from None
        except (OSError, ValueError) as error:
            raise _problem(error) from None
        connection = _Connection(reader, writer)
        self._open.add(connection)
        return connection

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.end()


class _Connection:
    """One connection, with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.is_reusable = False
        """The answer is read to its end, and another request may follow."""

    def end(self) -> None:
        """End it at once."""
        self._writer.transport.abort()

    async def ask(self, request: bytes, read_seconds: float) -> AgentAnswer:
        """Send a request; return the head of its answer. Raises ConnectionProblem."""
        self.is_reusable = False
        try:
            self._writer.write(request)
            async with asyncio.timeout(read_seconds):
                while (answer := _head(await self._reader.readuntil(b"\r\n\r\n"))).status < _INFORMATIONAL:
                    pass
        except _FAILURES as error:
            raise _problem(error) from None
        return answer

    async def blocks(self, answer: AgentAnswer, read_seconds: float) -> AsyncGenerator[bytes, None]:
        """Yield the body of an answer. Raises ConnectionProblem."""
        headers = answer.headers
        try:
            if answer.status in _BODILESS:
                pass
            elif "chunked" in headers.get("transfer-encoding", "").lower():
                while size := await self._chunk_size(read_seconds):
                    async for block in self._part(size, read_seconds):
                        yield block
                    await self._line(read_seconds)
                while await self._line(read_seconds):
                    pass  # trailers
            elif "content-length" in headers:
                async for block in self._part(_number(headers["content-length"], 10), read_seconds):
                    yield block
            else:
                while block := await self._block(read_seconds):
                    yield block
                return
        except _FAILURES as error:
            raise _problem(error) from None
        self.is_reusable = headers.get("connection", "").lower() != "close"

    async def _part(self, size: int, read_seconds: float) -> AsyncIterator[bytes]:
        """Yield so many bytes, some at a time."""
        while size:
            async with asyncio.timeout(read_seconds):
                block = await self._reader.readexactly(min(size, _READ_AT_ONCE))
            size -= len(block)
            yield block

    async def _block(self, read_seconds: float) -> bytes:
        async with asyncio.timeout(read_seconds):
            return await self._reader.read(_READ_AT_ONCE)

    async def _line(self, read_seconds: float) -> bytes:
        async with asyncio.timeout(read_seconds):
            return (await self._reader.readuntil(b"\r\n"))[:-2]

    async def _chunk_size(self, read_seconds: float) -> int:
        return _number((await self._line(read_seconds)).partition(b";")[0].strip().decode("latin-1"), 16)


_FAILURES: Final = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)
"""The errors of reading an answer; TimeoutError is one of OSError, IncompleteReadError of EOFError."""


def _head(text: bytes) -> AgentAnswer:
    """Return the answer that begins with these lines. Raises ValueError."""
    first, *lines = text.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or len(status) != len("200"):
        raise ValueError("its answer is not of HTTP/1.1")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if version == "HTTP/1.0":
        headers["connection"] = "close"
    return AgentAnswer(_number(status, 10), reason, headers)


def _number(text: str, base: int) -> int:
    """Return the number that a text is. Raises ValueError."""
    digits = _DIGITS[base]
    if not text or not digits.issuperset(text):
        raise ValueError("its answer is not of HTTP/1.1")
    return int(text, base)


def _problem(error: Exception) -> ConnectionProblem:
    """Return why an agent could not be asked."""
    if isinstance(error, TimeoutError):
        return ConnectionProblem("it did not answer in time", is_silence=True)
    if isinstance(error, asyncio.IncompleteReadError):
        return ConnectionProblem(
            "cannot be asked: it ended the connection" + (" in the middle of its answer" if error.partial else ""),
            is_stale=not error.partial,
        )
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        # The texts of asyncio have the address, and often several.
        text = os.strerror(error.errno) if error.errno > 0 else error.strerror or text
    return ConnectionProblem(f"cannot be asked: {text}", is_stale=isinstance(error, ConnectionError))
