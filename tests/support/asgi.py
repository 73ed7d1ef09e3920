"""Calling an ASGI application without a server, so that a test sees exactly what it sends."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from support.servers import LATEST_S
from taskfold import ManualClock


@dataclass
class Reply:
    """What came back."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    is_done: bool = False

    @property
    def body(self) -> bytes:
        """The body, unpacked."""
        whole = b"".join(self.parts)
        return gzip.decompress(whole) if self.header("Content-Encoding") == "gzip" else whole

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def header(self, name: str) -> str | None:
        """Return a header, whatever its case."""
        return next((value for other, value in self.headers if other.lower() == name.lower()), None)


class Call:
    """One request that is on its way."""

    def __init__(
        self,
        app: Any,
        request: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        client: str = "127.0.0.1",
    ) -> None:
        method, _, target = request.partition(" ")
        raw_path, _, query = target.partition("?")
        self.reply = Reply()
        self.takes = asyncio.Event()
        """Whether the connection takes what is sent; it does until a test clears it."""
        self.takes.set()
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": unquote(raw_path),
            "raw_path": raw_path.encode(),
            "query_string": query.encode("latin-1"),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": (client, 50000),
        }
        self.task = asyncio.create_task(app(scope, self._messages.get, self._send))

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            self.reply.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
        else:
            self.reply.parts.append(message.get("body", b""))
            self.reply.is_done = not message.get("more_body", False)

    def disconnect(self) -> None:
        """Go away."""
        self._messages.put_nowait({"type": "http.disconnect"})

    async def until(self, condition: Callable[[Reply], bool]) -> Reply:
        """Wait until something has come."""
        async with asyncio.timeout(LATEST_S):
            while not condition(self.reply):
                if self.task.done():
                    await self.task
                    assert condition(self.reply), "the answer ended before that"
                await asyncio.sleep(0.001)
        return self.reply

    async def finished(self) -> Reply:
        """Wait for the whole answer."""
        async with asyncio.timeout(LATEST_S):
            await self.task
        return self.reply


def ask(app: Any, request: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
    """Ask, and return the answer; a manual clock is moved on whenever the answer waits for it."""

    async def run() -> Reply:
        call = Call(app, request, headers, body)
        clock = app.context.clock
        while not call.task.done():
            await asyncio.sleep(0)
            if isinstance(clock, ManualClock) and clock.waiting:
                clock.advance(100_000_000)
        return await call.finished()

    return asyncio.run(run())
