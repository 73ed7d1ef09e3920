"""The servers of other regions, to which requests are forwarded."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from taskfold.http.answers import NO_PATH, Answer, Header, error
from taskfold.http.context import Context
from taskfold.http.nomad.blocking import while_connected
from taskfold.http.nomad.options import MAX_WAIT_NS
from taskfold.http.request import Disconnected, Request
from taskfold.http.serve.strangers import is_loopback
from taskfold.model.errors import ServeError
from taskfold.recording.settings import AgentSettings

__all__ = ["FORWARDED", "Peers", "is_private", "parse_peer", "parse_token_file"]

FORWARDED: Final = b"x-taskfold-forwarded"
"""The header that names the region that forwarded a request; such a request is not forwarded again."""

_PASSED_ON: Final = frozenset((b"content-type", b"content-encoding"))
_CREDENTIALS: Final = frozenset((b"authorization", b"x-nomad-token"))
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
"""Nomad's prefix of an error from another server."""

_LAST_SECONDS: Final = 1
"""How long a forwarded request may take once this server stops."""

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


def parse_token_file(text: str) -> tuple[str, str]:
    """Return region and file of ``NAME=FILE``. Raises ServeError.

    >>> parse_token_file("eu=/etc/taskfold/eu.token")
    ('eu', '/etc/taskfold/eu.token')
    """
    name, _, file = text.partition("=")
    if not name or not file:
        raise ServeError(f"{text!r} is no token of a region; expected NAME=FILE, such as eu=/etc/taskfold/eu.token")
    return name, file


def is_private(url: str) -> bool:
    """Return whether requests to a server are private: by https, or on this machine.

    >>> is_private("http://10.0.0.7:4646"), is_private("https://10.0.0.7:4646"), is_private("http://[::1]:4646")
    (False, True, True)
    """
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


class Peers:
    """The servers of other regions, by region.

    A region with one of the ``tokens`` gets that one, and never the client's. The others get the client's token,
    but not in clear text over a network.
    """

    _error_prefix = _RPC_ERROR
    """The prefix of errors that come from there."""

    _extensions: Mapping[str, str] = {}
    """The extensions of requests by httpx."""

    def __init__(
        self,
        urls: Mapping[str, str],
        tokens: Mapping[str, str] | None = None,
        *,
        settings: AgentSettings | None = None,
    ) -> None:
        """Take their addresses, and their tokens. Raises SourceError for certificates that cannot be used.

        Those of https are asked with the certificates of the settings, which are those that NOMAD_CACERT, NOMAD_CAPATH,
        NOMAD_CLIENT_CERT, NOMAD_CLIENT_KEY and NOMAD_SKIP_VERIFY name, as Nomad's own command reads them.
        """
        if settings is None and urls:
            settings = AgentSettings.from_environment(None, *urls.values())
        self._tls_context = None if settings is None else settings.tls_context()
        self.urls = dict(urls)
        self.tokens = dict(tokens or {})
        self._client: httpx.AsyncClient | None = None

    def __contains__(self, region: object) -> bool:
        """Return whether there is a server of a region."""
        return region in self.urls

    def notes(self, *, has_token: bool) -> list[str]:
        """Return the notes for the operator about its peers; ``has_token`` says whether this server has a token."""
        notes = []
        for region, url in self.urls.items():
            if is_private(url):
                continue
            if region in self.tokens:
                notes.append(f"the token of region {region} is sent in clear, since {url} is plain http")
            elif has_token:
                notes.append(
                    f"no token is sent to region {region}, since {url} is plain http: name an https:// address, or the"
                    f" region's own token with --region-token-file {region}=FILE"
                )
        return notes

    def _credentials(self, request: Request, region: str) -> list[Header]:
        """Return the headers with the credentials for a region."""
        if region in self.tokens:
            return [(b"x-nomad-token", self.tokens[region].encode())]
        if not is_private(self.urls[region]):
            return []
        return [(name, value) for name, value in request.scope["headers"] if name in _CREDENTIALS]

    async def forward(self, context: Context, request: Request, region: str) -> Answer | None:
        """Forward a request, and stream its answer back.

        Raises TooMany for a blocked query too many, and Disconnected when the client is gone, which ends the request.
        """
        if request.header(FORWARDED):
            return self._circle()
        body = b""
        if request.method != "GET":
            body = await request.body(context.limits.body_bytes, context.limits.body_timeout)
        # Any forwarded request may block.
        slots = context.streams if request.is_endless else context.blocked
        with slots.hold(request.client):
            return await while_connected(
                request, _until_closing(context, request, self._pass(context, request, region, body))
            )

    async def _pass(self, context: Context, request: Request, region: str, body: bytes) -> Answer | None:
        """Send the request to the peer, and return or stream its answer."""
        if self._client is None:
            timeout = httpx.Timeout(_LONGEST_SECONDS, connect=_CONNECT_SECONDS)
            most = context.limits.blocked + context.limits.streams
            limits = httpx.Limits(max_connections=most, max_keepalive_connections=64)
            self._client = self._new_client(timeout, limits)
        headers = [(name, value) for name, value in request.scope["headers"] if name in _PASSED_ON]
        headers += [
            *self._credentials(request, region),
            (FORWARDED, context.region.encode()),
            (b"accept-encoding", b"gzip" if request.accepts_gzip else b"identity"),
        ]
        try:
            url = _target(self.urls[region], request)
            async with self._client.stream(
                request.method, url, headers=headers, content=body or None, extensions=self._extensions
            ) as answer:
                return await self._pass_back(context, request, answer)
        except httpx.InvalidURL as problem:
            return error(400, f"this path cannot be passed on: {problem}")
        except httpx.HTTPError as problem:
            if request.status:
                raise
            why = str(problem) or type(problem).__name__
            return self._failure(region, why)

    async def _pass_back(self, context: Context, request: Request, answer: httpx.Response) -> Answer | None:
        """Send the answer of the peer, piece by piece; an error gets Nomad's prefix."""
        headers: list[Header] = [
            (_PASSED_BACK[name.lower()], value) for name, value in answer.headers.raw if name.lower() in _PASSED_BACK
        ]
        if answer.status_code == _FAILED:
            text = (await _short(answer)).decode(errors="surrogateescape")
            return error(_FAILED, text if text.startswith(self._error_prefix) else self._error_prefix + text)
        request.status = answer.status_code
        await context.send(
            request, {"type": "http.response.start", "status": answer.status_code, "headers": tuple(headers)}
        )
        async for piece in answer.aiter_raw():
            await context.send(request, {"type": "http.response.body", "body": piece, "more_body": True})
        await context.send(request, {"type": "http.response.body", "body": b""})
        return None

    def _new_client(self, timeout: httpx.Timeout, limits: httpx.Limits) -> httpx.AsyncClient:
        verify: Any = True if self._tls_context is None else self._tls_context
        return httpx.AsyncClient(verify=verify, timeout=timeout, limits=limits, trust_env=False)

    def _circle(self) -> Answer:
        """Return the answer to a request that was forwarded before."""
        return error(_FAILED, NO_PATH)

    def _failure(self, region: str, why: str) -> Answer:
        """Return the answer where a server cannot be asked."""
        return error(_FAILED, f"{_RPC_ERROR}failed to ask the server of region {region}: {why}")

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _target(base: str, request: Request) -> httpx.URL:
    """Return the URL to forward a request to; its path cannot change the server's address."""
    url = httpx.URL(base)
    path, query = request.scope["raw_path"], request.scope["query_string"]
    return url.copy_with(raw_path=url.raw_path.rstrip(b"/") + path + (b"?" + query if query else b""))


async def _until_closing(
    context: Context, request: Request, passing: Coroutine[None, None, Answer | None]
) -> Answer | None:
    """Run a forwarding; if this server stops first, end it as a local request would end."""
    task = asyncio.ensure_future(passing)
    closing = asyncio.ensure_future(context.is_closing.wait())
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
    if not request.is_endless:
        raise Disconnected  # a part of a list must not look complete
    await context.send(request, {"type": "http.response.body", "body": b""})
    return None


async def _short(answer: httpx.Response) -> bytes:
    """Return the body of an error, unpacked, up to its limit."""
    text = b""
    async for piece in answer.aiter_bytes():
        text += piece
        if len(text) > _MAX_ERROR_BYTES:
            return text[:_MAX_ERROR_BYTES]
    return text
