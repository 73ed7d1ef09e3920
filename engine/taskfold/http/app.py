"""The ASGI application: it finds the endpoint of a request, checks its permission, and handles errors.

It serves one engine, on one event loop. Reads take the store's lock for as long as it takes to copy an allocation;
writes run in a thread of their own, since a log may wait for its disk. Any ASGI server may serve the application;
`taskfold.http.running` is the built-in one, which enforces time-outs that an application cannot see.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Collection, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from taskfold.http.answers import (
    INVALID_METHOD,
    NO_PATH,
    Answer,
    Header,
    Receive,
    Scope,
    Send,
    error,
    headers_and_body,
    not_found,
    send_answer,
    send_stale,
)
from taskfold.http.context import Context, Services
from taskfold.http.nomad.options import parse_options
from taskfold.http.own.metrics import counts_of
from taskfold.http.request import BodyTooLarge, BodyTooSlow, Disconnected, Request
from taskfold.http.routes import ROUTES, changes_nothing, is_nomads, is_unserved
from taskfold.http.routing import Match, Route, Router
from taskfold.http.serve.counts import Counts
from taskfold.http.serve.limits import Limits, TooMany
from taskfold.http.serve.strangers import refused_host, refused_type, refused_write
from taskfold.http.serve.tls import UNCERTIFIED
from taskfold.live.engine import Engine
from taskfold.model.errors import LogError

if TYPE_CHECKING:
    from taskfold.http.serve.regions import Peers
    from taskfold.http.serve.upstream import Upstream

__all__ = ["App"]

_logger: Final = logging.getLogger("taskfold.http")

PERMISSION_DENIED: Final = "Permission denied"
NO_CERTIFICATE: Final = "this server answers clients with a certificate, and without one about its health alone"
UNSERVED: Final = "taskfold serves allocations, and what follows from them: ask an agent of Nomad for this"

_NOT_KNOWN: Final = frozenset({404, 501})
"""The answers instead of which the agent is asked that a mirror follows."""

_NO_CONNECTION: Final[Any] = None
"""A placeholder for the receive and send functions of a request that is answered without them."""


class App:
    """An ASGI application that serves an engine as Nomad's agents serve their allocations.

    ``region`` is its own region (default: the log's); ``peers`` are the servers of others. With a ``token`` every
    request except health needs it. Without one, only requests for loopback, for the server's own address,
    and for the given ``hosts`` are answered (None: for any, as where clients have certificates).
    ``is_mirror``: the engine follows a Nomad, and nothing else may write to it. ``routes`` are its endpoints,
    by name. A ``seed`` makes the jitter of waits reproducible.

    >>> from taskfold import Engine
    >>> from taskfold.http import App, running
    >>> from urllib.request import urlopen
    >>> with running(App(Engine())) as server:
    ...     urlopen(server.url + "/v1/allocations").read()
    b'[]'
    """

    def __init__(
        self,
        engine: Engine,
        *,
        region: str | None = None,
        peers: Peers | None = None,
        token: str | None = None,
        hosts: Collection[str] | None = (),
        limits: Limits | None = None,
        is_mirror: bool = False,
        seed: int | None = None,
        routes: Mapping[str, Route] = ROUTES,
    ) -> None:
        self.engine = engine
        self.peers = peers
        self.upstream: Upstream | None = None
        """The agent that is asked for what a mirror does not know."""
        self.context = Context(
            engine,
            Services(self._forward, self._regions),
            region=region,
            limits=limits,
            is_mirror=is_mirror,
            seed=seed,
        )
        """The context for handlers and servers."""
        self.router = Router(routes.values(), engine.dialect)
        self._plain = routes["allocation"].name, routes["allocation"].prefix
        """The endpoint whose plain reads are cached, and the prefix of its paths."""
        self._token = None if token is None else token.encode()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or a lifespan message of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(Request(scope, receive, send))

    def counts(self) -> Counts:
        """Return the metrics of this process."""
        return counts_of(self.context)

    def close(self) -> None:
        """Answer every blocked query, and end every stream: the server is about to stop."""
        self.context.close()

    async def end(self) -> None:
        """Release connections and threads, after the last request."""
        await self.context.end()
        for others in (self.peers, self.upstream):
            if others is not None:
                await others.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Handle the lifespan protocol, by which other servers announce their end."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self.close()
                await self.end()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _serve(self, request: Request) -> None:
        """Answer a request, and count it."""
        start = perf_counter()
        context = self.context
        if context.is_out_of_date:
            request.send = partial(send_stale, request.send, context.contact_seconds)
        try:
            answer = self._refused_host(request.scope)
            answer = answer or self._at_hand(request) or await self.answer(request)
            if answer is not None:
                request.status = answer.status
                if context.crew is not None:
                    context.crew.publish()
                gzip_as = context.dialect if request.accepts_gzip else None
                await send_answer(request.scope, request.send, answer, gzip_as=gzip_as)
        except Disconnected:
            request.status = request.status or 499
        finally:
            context.answers[request.route, request.status] += 1
            context.seconds[request.route] += perf_counter() - start

    def may_answer_at_once(self, target: bytes) -> bool:
        """Return whether an answer may be cached for a path and query, as received. O(1)."""
        path, _, query = target.partition(b"?")
        if (path, query) in self.context.list_cache:
            return True
        # A path with escapes is left to the router.
        alloc = path[len(self._plain[1]) :]
        return not query and b"%" not in alloc and alloc.isascii() and alloc.decode() in self.context.bodies

    def at_once(self, target: bytes, scope: Scope) -> tuple[tuple[Header, ...], bytes] | None:
        """Return the headers and the body of the 200 for a GET that can be answered at once; else None.

        A server may call it before the application, and save the task of a request. ``target`` is the
        path and the query, for which `may_answer_at_once` is true; the scope need not have them yet.
        """
        start = perf_counter()
        context = self.context
        if context.is_out_of_date:
            return None
        path, _, query = target.partition(b"?")
        scope.update(method="GET", path=path.decode(), raw_path=path, query_string=query)
        if self._refused_host(scope) is not None:
            return None
        request = Request(scope, _NO_CONNECTION, _NO_CONNECTION)
        answer = self._at_hand(request)
        if answer is None:
            return None
        if context.crew is not None:
            context.crew.publish()
        whole = headers_and_body(answer, gzip_as=context.dialect if request.accepts_gzip else None)
        context.answers[request.route, answer.status] += 1
        context.seconds[request.route] += perf_counter() - start
        return whole

    def _at_hand(self, request: Request) -> Answer | None:
        """Return the cached answer to an identical request; None if there is none."""
        context = self.context
        if request.method != "GET":
            return None
        if context.crew is not None and context.crew.is_behind:
            return None
        path = request.path
        (route, prefix), answer = self._plain, None
        try:
            if path.startswith(prefix) and not request.scope["query_string"]:
                answer = context.bodies.current(path[len(prefix) :], gzipped=request.accepts_gzip)
            elif entry := context.list_cache.current(request):
                route, answer = entry.route, entry.answer
        except LogError:  # an uncached read raises it, too, and reports it
            return None
        if answer is None or not self._may(request):
            return None
        request.route = route
        return answer

    def _refused_host(self, scope: Scope) -> Answer | None:
        """Return the 403 for a request to a name that is none of this server's, which a token makes needless."""
        if self._token is not None or self._hosts is None:
            return None
        return refused_host(scope, self._hosts)

    async def answer(self, request: Request) -> Answer | None:
        """Return the answer to a request, whatever goes wrong; None when it is sent already."""
        try:
            return await self._route(request)
        except TooMany as reason:
            return error(429, str(reason))
        except BodyTooLarge as reason:
            return error(413, str(reason))
        except BodyTooSlow:
            return error(408, f"the body did not come within {self.context.limits.body_timeout:g} seconds")
        except Disconnected:
            raise
        except Exception:
            _logger.exception("a request for %s could not be answered", request.route)
            if request.status:  # a part of the answer is sent: it can only be ended
                raise
            return error(500, "an internal error of the server; its log has the details")

    async def _route(self, request: Request) -> Answer | None:
        """Find the endpoint, check that the request may use it, and run it."""
        limit = self.context.limits.query_bytes
        if len(request.scope["query_string"]) > limit:
            return error(414, f"the query is longer than {limit} bytes")
        target = self._find(request)
        route = target[0] if isinstance(target, tuple) else None
        if not ((route is not None and route.is_open) or self._may(request)):
            return error(403, NO_CERTIFICATE if request.scope.get(UNCERTIFIED) else PERMISSION_DENIED)
        if target is None:
            return await self._elsewhere(request, self._unknown(request))
        if isinstance(target, Answer):
            return await self._elsewhere(request, target) if target.status in _NOT_KNOWN else target
        return await self._here(request, *target)

    async def _here(self, request: Request, route: Route, arguments: tuple[Any, ...]) -> Answer | None:
        """Answer at an endpoint, or have the agent answer for what is not known here."""
        request.route, request.is_endless = route.name, route.is_endless
        if request.method not in route.methods:
            is_nomads_own = request.method in route.unserved_methods
            otherwise = error(501, UNSERVED) if is_nomads_own else error(405, INVALID_METHOD, extra=route.extra)
            return otherwise if route.is_own else await self._elsewhere(request, otherwise)
        if refusal := self._refused(request, route):
            return refusal
        upstream = None if route.is_own else self._upstream_of(request)
        if upstream is not None and (route.asks_agent or route.writes(request.method)):
            return await self._ask(upstream, request)
        answer = await self._run(request, route, arguments)
        if upstream is not None and answer is not None and answer.status in _NOT_KNOWN:
            return await self._ask(upstream, request)
        return answer

    async def _elsewhere(self, request: Request, otherwise: Answer) -> Answer | None:
        """Have somebody else answer what has no endpoint here; ``otherwise`` is the answer if nobody is asked.

        What may write is refused here where a web page sent it: nobody else sees the headers of a browser.
        """
        region, upstream = request.query.get("region"), self._upstream_of(request)
        is_regional = bool(region) and region != self.context.region
        if not is_nomads(request.path) or not (is_regional or upstream is not None):
            return otherwise
        if not changes_nothing(request.method, request.path):
            refusal = refused_write(request, is_get=request.method == "GET")
            if refusal is not None:
                return refusal
        if is_regional or upstream is None:
            return await self._forward(request, region)
        return await self._ask(upstream, request)

    def _find(self, request: Request) -> Match | Answer | None:
        """Return the endpoint of a request, or the answer if there is none."""
        raw_path: bytes = request.scope.get("raw_path") or request.path.encode(errors="surrogateescape")
        if not raw_path.startswith(b"/"):
            return error(400, "a path begins with a slash")
        query = request.scope["query_string"]
        router = self.router
        return router.redirect(request.path, raw_path, query, request.method) or router.match(request.path)

    def _refused(self, request: Request, route: Route) -> Answer | None:
        """Return the refusal of a write that a web page may have made; else None."""
        if not route.writes(request.method):
            return None
        refusal = refused_write(request, is_get=request.method == "GET", extra=route.extra)
        return refusal or (refused_type(request) if route.lines else None)

    async def _run(self, request: Request, route: Route, arguments: tuple[Any, ...]) -> Answer | None:
        """Run the handler of an endpoint: here, in the process that owns the log, or in another region."""
        context = self.context
        if route.is_regional:
            options = parse_options(request.query)
            if isinstance(options, Answer):
                return options
            if options.region and options.region != context.region:
                return await self._forward(request, options.region)
            arguments = (options, *arguments)
        if context.crew is not None:
            if route.is_owners and context.crew.is_follower:
                return await context.crew.forward(request)
            if not route.is_owners and context.crew.is_behind and (refusal := await context.crew.catch_up(request)):
                return refusal
        return await route.handler(context, request, *arguments)

    async def _forward(self, request: Request, region: str) -> Answer | None:
        """Forward a request to the server of another region."""
        if self.peers is None or region not in self.peers:
            return error(500, NO_PATH)
        return await self.peers.forward(self.context, request, region)

    def _upstream_of(self, request: Request) -> Upstream | None:
        """Return the agent that a request may be passed on to; None for none."""
        return self.upstream if self.upstream is not None and self.upstream.passes(request) else None

    async def _ask(self, upstream: Upstream, request: Request) -> Answer | None:
        """Ask the agent that is followed. A token that is this server's own stays here."""
        if self._token is not None:
            request.scope["headers"] = [
                header for header in request.scope["headers"] if header[0] not in {b"authorization", b"x-nomad-token"}
            ]
        return await upstream.forward(self.context, request, "")

    def _unknown(self, request: Request) -> Answer:
        """Return the answer for a path without an endpoint."""
        if is_unserved(request.path):
            return error(501, UNSERVED)
        return not_found(self.context.dialect)

    def _may(self, request: Request) -> bool:
        """Return whether a request has the certificate and the token that are asked for; in constant time."""
        if request.scope.get(UNCERTIFIED):
            return False
        if self._token is None:
            return True
        token = request.header(b"x-nomad-token")
        if not token:
            scheme, _, token = request.header(b"authorization").partition(b" ")
            if scheme.lower() != b"bearer":
                token = b""
        return hmac.compare_digest(token.strip(), self._token)

    def _regions(self) -> list[str]:
        """Return the reachable regions, sorted."""
        others: Mapping[str, Any] = self.peers.urls if self.peers is not None else {}
        return sorted({self.context.region, *others})
