"""The servers of other regions, to which requests are passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx

from taskfold.errors import ServeError
from taskfold.http.answers import NO_PATH, Answer, Header, error
from taskfold.http.blocking import while_connected
from taskfold.http.options import MAX_WAIT_NS
from taskfold.http.request import Disconnected, Request

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["FORWARDED", "Peers", "parse_peer"]

FORWARDED: Final = b"x-taskfold-forwarded"
"""Tells the region that passed a request on; it is not passed on again."""

_PASSED_ON: Final = frozenset((b"authorization", b"content-type", b"content-encoding", b"x-nomad-token"))
_PASSED_BACK: Final = {
    name.lower(): name
    for name in (
        b"Cache-Control",
        b"Content-Encoding",
        b"Content-Length",
        b"Content-Type",
        b"Location",
        b"Vary",
        b"X-Content-Type-Options",
        b"X-Nomad-Index",
        b"X-Nomad-Knownleader",
        b"X-Nomad-Lastcontact",
        b"X-Nomad-Nexttoken",
    )
}
_LONGEST_SECONDS: Final = MAX_WAIT_NS / 1_000_000_000 * 17 / 16 + 10
"""A peer may take as long as the longest wait with its jitter, and some more."""

_CONNECT_SECONDS: Final = 5
_MAX_ERROR_BYTES: Final = 65_536
_RPC_ERROR: Final = "rpc error: "
"""What Nomad puts before an error that came back from another server."""

_LAST_SECONDS: Final = 1
"""What a request that was passed on gets to be answered in once this server stops."""

_FAILED: Final = 500


def parse_peer(text: str) -> tuple[str, str]:
    """Return region and URL of ``NAME=URL``. Raises ServeError.

    >>> parse_peer("eu=http://127.0.0.1:4647/")
    ('eu', 'http://127.0.0.1:4647')
    """
    name, _, url = text.partition("=")
    try:
        httpx.URL(url)
        parts = urlsplit(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        is_url = False
    if not name or not is_url or parts.query or parts.fragment:
        raise ServeError(f"{text!r} is no peer; expected NAME=URL, such as eu=http://127.0.0.1:4647")
    return name, url.rstrip("/")


class Peers:
    """The servers of other regions, by region."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self.urls = dict(urls)
        self._client: httpx.AsyncClient | None = None

    def __contains__(self, region: object) -> bool:
        """Tell whether there is a server of a region."""
        return region in self.urls

    async def forward(self, app: App, request: Request, region: str) -> Answer | None:
        """Pass a request on, and its answer back: as it comes, also where it has no end.

        Raises TooMany for a blocked query too many, and Disconnected when the client is gone, which ends the request.
        """
        if request.header(FORWARDED):
            return error(_FAILED, NO_PATH)
        body = b""
        if request.method != "GET":
            body = await request.body(app.limits.body_bytes, app.limits.body_timeout)
        # Whatever is passed on may take a peer's time.
        slots = app.streams if request.route == "event_stream" else app.blocked
        with slots.taken(request.client):
            return await while_connected(request, _until_closing(app, request, self._pass(app, request, region, body)))

    async def _pass(self, app: App, request: Request, region: str, body: bytes) -> Answer | None:
        """Ask the peer, and send what it answers."""
        if self._client is None:
            timeout = httpx.Timeout(_LONGEST_SECONDS, connect=_CONNECT_SECONDS)
            most = app.limits.blocked + app.limits.streams
            limits = httpx.Limits(max_connections=most, max_keepalive_connections=64)
            self._client = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False)
        headers = [(name, value) for name, value in request.scope["headers"] if name in _PASSED_ON]
        headers += [
            (FORWARDED, app.region.encode()),
            (b"accept-encoding", b"gzip" if request.accepts_gzip else b"identity"),
        ]
        target = request.scope["raw_path"].decode("latin-1")
        if request.scope["query_string"]:
            target += "?" + request.scope["query_string"].decode("latin-1")
        try:
            async with self._client.stream(
                request.method, self.urls[region] + target, headers=headers, content=body or None
            ) as answer:
                return await self._pass_back(app, request, answer)
        except httpx.HTTPError as problem:
            if request.status:
                raise
            why = str(problem) or type(problem).__name__
            return error(_FAILED, f"{_RPC_ERROR}failed to ask the server of region {region}: {why}")

    async def _pass_back(self, app: App, request: Request, answer: httpx.Response) -> Answer | None:
        """Send what the peer answers, piece by piece; an error gets what Nomad puts before it."""
        headers: list[Header] = [
            (_PASSED_BACK[name.lower()], value) for name, value in answer.headers.raw if name.lower() in _PASSED_BACK
        ]
        if answer.status_code == _FAILED:
            shown = (await _short(answer)).decode(errors="surrogateescape")
            return error(_FAILED, shown if shown.startswith(_RPC_ERROR) else _RPC_ERROR + shown)
        request.status = answer.status_code
        await app.send(
            request, {"type": "http.response.start", "status": answer.status_code, "headers": tuple(headers)}
        )
        async for piece in answer.aiter_raw():
            await app.send(request, {"type": "http.response.body", "body": piece, "more_body": True})
        await app.send(request, {"type": "http.response.body", "body": b""})
        return None

    async def close(self) -> None:
        """Let the connections go."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


async def _until_closing(app: App, request: Request, passing: Coroutine[None, None, Answer | None]) -> Answer | None:
    """Run what passes a request on; when this server stops first, end it as the request would end here."""
    task = asyncio.ensure_future(passing)
    closing = asyncio.ensure_future(app.is_closing.wait())
    try:
        await asyncio.wait((task, closing), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((task,), timeout=_LAST_SECONDS)
        if task.done():
            return await task
    finally:
        closing.cancel()
        task.cancel()
        await asyncio.wait((task,))
    if not request.status:
        return error(_FAILED, f"{_RPC_ERROR}this server stops, and the other region has not answered yet")
    if request.route != "event_stream":
        raise Disconnected  # half a list must not look like a whole one
    await app.send(request, {"type": "http.response.body", "body": b""})
    return None


async def _short(answer: httpx.Response) -> bytes:
    """Return the body of an error, unpacked, up to its limit."""
    text = b""
    async for piece in answer.aiter_bytes():
        text += piece
        if len(text) > _MAX_ERROR_BYTES:
            return text[:_MAX_ERROR_BYTES]
    return text
