"""A request as the handlers see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from taskfold.http.answers import Receive, Scope, Send
from taskfold.http.query import Query, parse_query
from taskfold.http.serve.compression import accepts_gzip
from taskfold.model.errors import DecodeError

__all__ = ["BodyTooLarge", "BodyTooSlow", "Disconnected", "Request", "decode_json"]


T = TypeVar("T")


class Disconnected(Exception):
    """The client has disconnected."""


class BodyTooLarge(Exception):
    """The body is larger than the limit."""


class BodyTooSlow(Exception):
    """The body did not come in time."""


class Request:
    """One HTTP request."""

    __slots__ = (
        "_accepts_gzip",
        "_query",
        "is_endless",
        "method",
        "path",
        "receive",
        "route",
        "scope",
        "send",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.route = "other"
        """The name of its endpoint, for the metrics."""
        self.is_endless = False
        """Its answer ends only when the client disconnects, or the server stops."""
        self.status = 0
        self._query: Query | None = None
        self._accepts_gzip: bool | None = None

    @property
    def query(self) -> Query:
        """The parameters."""
        if self._query is None:
            self._query = parse_query(self.scope["query_string"])
        return self._query

    @property
    def client(self) -> str:
        """The address of the client; empty if the server does not know it."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    @property
    def accepts_gzip(self) -> bool:
        """Whether the answer may be compressed."""
        if self._accepts_gzip is None:
            value = self.header(b"accept-encoding")
            self._accepts_gzip = bool(value) and accepts_gzip(value)
        return self._accepts_gzip

    def header(self, name: bytes) -> bytes:
        """Return the first header of a name in lower case; empty where there is none."""
        for other, value in self.scope["headers"]:
            if other == name:
                return bytes(value)
        return b""

    async def body(self, limit: int, seconds: float) -> bytes:
        """Return the whole body. Raises BodyTooLarge, BodyTooSlow and Disconnected."""
        length = self.header(b"content-length")
        # As text first: Python refuses to parse a number with thousands of digits.
        if length.isdigit() and (len(length.lstrip(b"0")) > len(str(limit)) or int(length) > limit):
            raise BodyTooLarge(f"the body is larger than {limit} bytes")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise BodyTooLarge(f"the body is larger than {limit} bytes")
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise BodyTooSlow from None

    async def until_gone(self) -> None:
        """Wait until the client disconnects, ignoring its input."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def decode_json(decode: Callable[[bytes], T], text: bytes) -> T:
    """Return the value of a JSON text. Raises DecodeError, and msgspec's ValidationError for one of another form."""
    try:
        text.decode()
        return decode(text)
    except msgspec.ValidationError:
        raise
    except RecursionError:
        raise DecodeError("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise DecodeError(str(problem)) from None
