"""The ASGI application: which endpoint answers a request, who may ask, and what is done when something goes wrong.

It serves one engine, on one event loop. Reads take the store's lock for as long as it takes to copy an allocation;
writes run in a thread of their own, since a log may wait for its disk. Any ASGI server may serve the application;
`taskfold.http.server` is the one that comes with it, and sees to time-outs that an application cannot see.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from taskfold.http.answers import (
    INVALID_METHOD,
    MIRROR,
    NO_PATH,
    READ_ONLY,
    Answer,
    Header,
    Receive,
    Scope,
    Send,
    error,
    headers_and_body,
    not_found,
    redirect,
    send_answer,
)
from taskfold.http.bodies import Bodies
from taskfold.http.evaluations import Evaluations
from taskfold.http.limits import Limits, Slots, TooMany, Unsent
from taskfold.http.lists import Lists
from taskfold.http.options import parse_options
from taskfold.http.past import Past
from taskfold.http.request import BodyTooLarge, BodyTooSlow, Disconnected, Request
from taskfold.http.routes import ROUTES
from taskfold.http.routing import Match, Route, Router
from taskfold.http.strangers import refused_host, refused_type, refused_write
from taskfold.http.stream import EventTexts
from taskfold.live.engine import Engine
from taskfold.model.errors import LogError
from taskfold.sources.follow import Follower

if TYPE_CHECKING:
    from taskfold.http.crew import Crew
    from taskfold.http.regions import Peers

__all__ = ["App"]

logger = logging.getLogger("taskfold.http")

PERMISSION_DENIED: Final = "Permission denied"

_NO_CONNECTION: Final[Any] = None
"""Stands for that of a request of which nothing is read, and to which nothing is sent."""


class App:
    """Serves an engine as Nomad's agents serve their allocations.

    ``region`` is its own region, the log's unless named; ``peers`` are the servers of others (`taskfold.http.regions`).
    With a ``token`` every request but the one for health needs it. Without one only requests for loopback, for the
    address that they came to, and for the ``hosts`` that are named are answered. ``is_mirror`` says that the engine
    follows a Nomad: then nothing else may write to it. ``routes`` are its endpoints.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        region: str | None = None,
        peers: Peers | None = None,
        token: str | None = None,
        hosts: Collection[str] = (),
        limits: Limits | None = None,
        is_mirror: bool = False,
        seed: int | None = None,
        routes: Mapping[str, Route] = ROUTES,
    ) -> None:
        self.engine = engine
        self.dialect = engine.dialect
        self.region = region or engine.reader.region
        self.peers = peers
        self.limits = limits or Limits()
        self.is_mirror = is_mirror or engine.is_read_only
        self.refusal = READ_ONLY if engine.is_read_only else MIRROR
        """What is said to who would write to a mirror."""
        self.clock = engine.clock
        # Spreads the ends of waits; nothing that must be secret.
        self.random = random.Random(seed)  # noqa: S311
        self.bodies = Bodies(engine.reader, self.limits.bodies_bytes)
        self.kept_lists = Lists(engine.reader, self.limits.lists_bytes)
        self.event_texts = EventTexts(engine.reader.texts)
        self.evaluations = Evaluations()
        self.blocked = Slots("blocked queries", total=self.limits.blocked, per_client=self.limits.blocked_per_client)
        self.posts = Slots("posts", total=self.limits.posts)
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="taskfold-write")
        """Writes take turns in one thread."""
        self.streams = Slots("streams", total=self.limits.streams, per_client=self.limits.streams_per_client)
        self.lists = Slots("long lists", total=self.limits.lists)
        self.pages = Slots("pages of histories", total=self.limits.pages)
        self.connections = Slots(
            "connections", total=self.limits.connections, per_client=self.limits.connections_per_client
        )
        """Counted by `taskfold.http.server`; another server counts its own."""
        self.unsent = Unsent(self.limits.unsent_bytes)
        self.past = Past(self.limits.past_streams)
        self.began = perf_counter()
        self.answers: Counter[tuple[str, int]] = Counter()
        """How many requests were answered, by endpoint and status."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """How long they took in all, by endpoint; blocked queries with their waits."""
        self.problem = ""
        """What keeps the server from writing or reading its log; empty when nothing does. Health tells it."""
        self.source: Follower | None = None
        """What a mirror follows; health tells when that has ended or fallen silent."""
        self.crew: Crew | None = None
        """The workers, where several processes serve the log."""
        self.is_closing = asyncio.Event()
        self.router = Router(routes.values(), self.dialect)
        self._allocation_path = routes["allocation"].prefix
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the life of a server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(Request(scope, receive, send))

    @property
    def unwell(self) -> str:
        """What keeps the server from doing its work; empty when nothing does."""
        followed = "" if self.source is None else self.source.problem
        return self.problem or followed or ("" if self.crew is None else self.crew.problem)

    def close(self) -> None:
        """Answer every blocked query, and end every stream: the server is about to stop."""
        self.is_closing.set()
        self.engine.release()
        if self.crew is not None:
            self.crew.stop()

    async def end(self) -> None:
        """Let go of connections and threads, when nothing is running any more."""
        if self.crew is not None:
            await self.crew.end()
        if self.peers is not None:
            await self.peers.close()
        self.writer.shutdown(wait=False)
        self.past.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Take part in the lifespan protocol: a server of another kind tells its end by it."""
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
        began = perf_counter()
        try:
            answer = None if self._token is not None else refused_host(request.scope, self._hosts)
            answer = answer or self._kept(request) or await self.answer(request)
            if answer is not None:
                request.status = answer.status
                if self.crew is not None:
                    self.crew.publish()
                gzip_as = self.dialect if request.accepts_gzip else None
                await send_answer(request.scope, request.send, answer, gzip_as=gzip_as)
        except Disconnected:
            request.status = request.status or 499
        finally:
            self.answers[request.route, request.status] += 1
            self.seconds[request.route] += perf_counter() - began

    def has_kept(self, target: bytes) -> bool:
        """Tell whether an answer may be kept for a path and query, as they came. O(1)."""
        path, _, query = target.partition(b"?")
        if (path, query) in self.kept_lists:
            return True
        # A path with escapes is taken apart by who calls the application.
        alloc = path[len(self._allocation_path) :]
        return not query and b"%" not in alloc and alloc.isascii() and alloc.decode() in self.bodies

    def at_once(self, target: bytes, scope: Scope) -> tuple[tuple[Header, ...], bytes] | None:
        """Return the headers and the body of the 200 for a GET that waits for nothing; None for all others.

        A server may ask before it calls the application, and spare the request a task of its own. ``target`` is the
        path and the query of something that `has_kept`; the scope need not have them yet.
        """
        began = perf_counter()
        path, _, query = target.partition(b"?")
        scope.update(method="GET", path=path.decode(), raw_path=path, query_string=query)
        if self._token is None and refused_host(scope, self._hosts) is not None:
            return None
        request = Request(scope, _NO_CONNECTION, _NO_CONNECTION)
        answer = self._kept(request)
        if answer is None:
            return None
        if self.crew is not None:
            self.crew.publish()
        whole = headers_and_body(answer, gzip_as=self.dialect if request.accepts_gzip else None)
        self.answers[request.route, answer.status] += 1
        self.seconds[request.route] += perf_counter() - began
        return whole

    def _kept(self, request: Request) -> Answer | None:
        """Return the answer to what was read before in just this way, where it is kept; None for all other requests."""
        if request.method != "GET":
            return None
        if self.crew is not None and self.crew.is_behind:
            return None
        path = request.path
        route, answer = "allocation", None
        try:
            if path.startswith(self._allocation_path) and not request.scope["query_string"]:
                answer = self.bodies.kept(path[len(self._allocation_path) :], gzipped=request.accepts_gzip)
            elif kept := self.kept_lists.kept(request):
                route, answer = kept.route, kept.answer
        except LogError:  # who reads what is not kept meets it, too, and tells of it
            return None
        if answer is None or not (self._token is None or self._may(request)):
            return None
        request.route = route
        return answer

    async def answer(self, request: Request) -> Answer | None:
        """Return the answer to a request, whatever goes wrong; None when it is sent already."""
        try:
            return await self._route(request)
        except TooMany as reason:
            return error(429, str(reason))
        except BodyTooLarge as reason:
            return error(413, str(reason))
        except BodyTooSlow:
            return error(408, f"the body did not come within {self.limits.body_timeout:g} seconds")
        except Disconnected:
            raise
        except Exception:
            logger.exception("a request for %s could not be answered", request.route)
            if request.status:  # half of an answer is out: all that is left is to end it
                raise
            return error(500, "the server met a defect of its own; its log has the details")

    async def _route(self, request: Request) -> Answer | None:
        """Find the endpoint, see whether it may be asked so, and run it."""
        query = request.scope["query_string"]
        if len(query) > self.limits.query_bytes:
            return error(414, f"the query is longer than {self.limits.query_bytes} bytes")
        found = self._find(request)
        route = found[0] if isinstance(found, tuple) else None
        if not (self._token is None or (route is not None and route.is_open) or self._may(request)):
            return error(403, PERMISSION_DENIED)
        if found is None:
            return self._unknown(request)
        if isinstance(found, Answer):
            return found
        route, arguments = found
        request.route = route.name
        if request.method not in route.methods:
            return error(405, INVALID_METHOD, extra=route.extra)
        return self._refused(request, route) or await self._run(request, route, arguments)

    def _find(self, request: Request) -> Match | Answer | None:
        """Return the endpoint that a request names, or what is answered without one."""
        raw_path: bytes = request.scope.get("raw_path") or request.path.encode(errors="surrogateescape")
        if not raw_path.startswith(b"/"):
            return error(400, "a path begins with a slash")
        query = request.scope["query_string"]
        router = self.router
        return router.redirect(request.path, raw_path, query, request.method) or router.match(request.path)

    def _refused(self, request: Request, route: Route) -> Answer | None:
        """Return the answer to a write that a web page may have made; None for all others."""
        if not route.writes(request.method):
            return None
        refused = refused_write(request, is_get=request.method == "GET", extra=route.extra)
        return refused or (refused_type(request) if route.lines else None)

    async def _run(self, request: Request, route: Route, arguments: tuple[Any, ...]) -> Answer | None:
        """Run the handler of an endpoint: here, in the process that owns the log, or in another region."""
        if route.is_regional:
            options = parse_options(request.query)
            if isinstance(options, Answer):
                return options
            if options.region and options.region != self.region:
                return await self.forward(request, options.region)
            arguments = (options, *arguments)
        if self.crew is not None:
            if route.is_owners and self.crew.is_follower:
                return await self.crew.forward(request)
            if not route.is_owners and self.crew.is_behind and (refused := await self.crew.catch_up(request)):
                return refused
        return await route.handler(self, request, *arguments)

    async def forward(self, request: Request, region: str) -> Answer | None:
        """Have the server of another region answer."""
        if self.peers is None or region not in self.peers:
            return error(500, NO_PATH)
        return await self.peers.forward(self, request, region)

    def _unknown(self, request: Request) -> Answer:
        """Answer for a path that no endpoint has."""
        if request.path == "/" and self.dialect.has_ui:
            return redirect(307, "Temporary Redirect", "/ui/", request.method)
        return not_found(self.dialect)

    def _may(self, request: Request) -> bool:
        """Tell whether a request has the token; how long that takes tells nothing of it."""
        assert self._token is not None
        given = request.header(b"x-nomad-token")
        if not given:
            scheme, _, given = request.header(b"authorization").partition(b" ")
            if scheme.lower() != b"bearer":
                given = b""
        return hmac.compare_digest(given.strip(), self._token)

    async def send(self, request: Request, message: MutableMapping[str, Any]) -> None:
        """Send a part of an answer; a client that takes nothing for too long is left. Raises Disconnected."""
        if self.crew is not None:
            self.crew.publish()
        try:
            async with asyncio.timeout(self.limits.send_timeout):
                await request.send(message)
        except TimeoutError:
            raise Disconnected from None

    def regions(self) -> list[str]:
        """Return the regions that can be asked, sorted."""
        others: Mapping[str, Any] = self.peers.urls if self.peers is not None else {}
        return sorted({self.region, *others})
