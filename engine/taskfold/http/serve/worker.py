"""A worker process that follows the owner's log, and answers reads; `taskfold.http.serve.workers` starts it.

It inherits three descriptors: its end of the channel to the owner, the socket that it listens at, and the memory that
all workers share. It ends on the owner's command, or when the owner has ended.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from itertools import count
from typing import NoReturn

from taskfold.http.answers import Answer, error
from taskfold.http.app import App
from taskfold.http.nomad.blocking import while_connected
from taskfold.http.request import Request
from taskfold.http.serve.channel import (
    BeginFailure,
    Cancel,
    Channel,
    CountCall,
    CountReply,
    Frame,
    OwnerCall,
    OwnerReply,
    Problem,
    Ready,
    Settings,
    Stop,
    Wake,
    read_frame,
    send_frame,
)
from taskfold.http.serve.crew import NO_LEADER, Cells, Crew, OwnersSource
from taskfold.http.serve.regions import Peers
from taskfold.http.serve.server import Server, new_loop
from taskfold.http.serve.tls import hosts_of
from taskfold.live.background import LogListener
from taskfold.live.engine import Engine
from taskfold.log.registry import open_reader

__all__ = ["Worker", "main"]


class Worker(Crew):
    """The workers of a server, from the view of a follower."""

    is_follower = True

    def __init__(self, app: App, server: Server, cells: Cells, number: int) -> None:
        super().__init__(app.engine, app.counts, cells, number)
        self._app = app
        self._server = server
        self._channel = Channel(self._take, server.stop)
        self._numbers = count(1)
        self._replies: dict[int, asyncio.Future[Answer]] = {}

    async def run(self, end: socket.socket) -> None:
        """Serve until the owner stops it, or has ended."""
        loop = asyncio.get_running_loop()
        end.settimeout(0)
        await loop.create_unix_connection(lambda: self._channel, sock=end)
        loop.add_signal_handler(signal.SIGTERM, self._server.stop)
        self.publish()  # replaces the value of a previous worker

        def tell(problem: str) -> None:
            loop.call_soon_threadsafe(self.tell, Problem(problem))  # from the thread that listens

        with LogListener(self.engine, on_problem=tell):
            await self._server.run(on_ready=lambda: self.tell(Ready()))
        self._channel.close()

    def tell(self, frame: Frame) -> None:
        """Send a frame to the owner, if it still runs."""
        self._channel.send(frame)

    def _take(self, frame: Frame) -> None:
        """Act on a frame of the owner."""
        match frame:
            case Wake():
                self._reader.wake_follower()
            case OwnerReply():
                waiting = self._replies.pop(frame.number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame.answer)
            case CountCall():
                self.tell(CountReply(self._app.counts()))
            case Stop():
                self._server.stop()

    async def forward(self, request: Request) -> Answer:
        """Forward a request to the owner. Raises TooMany, as reading a body does, and Disconnected."""
        if request.method == "GET":
            return await while_connected(request, self._ask(request, b""))
        with self._app.context.posts.hold(request.client):
            body = await request.body(self._app.context.limits.body_bytes, self._app.context.limits.body_timeout)
            return await while_connected(request, self._ask(request, body))

    async def _ask(self, request: Request, body: bytes) -> Answer:
        """Send a request to the owner, and return its answer."""
        number = next(self._numbers)
        scope = request.scope
        path = request.path.encode(errors="surrogateescape")
        call = OwnerCall(
            number,
            request.method,
            path,
            scope.get("raw_path") or path,
            scope["query_string"],
            tuple(scope["headers"]),
            request.client,
            body,
        )
        if not self._channel.send(call):
            return error(500, NO_LEADER)
        self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            return await self._replies[number]
        except asyncio.CancelledError:
            self._channel.send(Cancel(number))
            raise
        finally:
            self._replies.pop(number, None)


def main() -> NoReturn:
    """Follow the owner's log, and serve it; report a log that cannot be followed to the owner."""
    channel, listening, cells = map(int, sys.argv[2:])
    end = socket.socket(fileno=channel)
    settings = read_frame(end)
    if not isinstance(settings, Settings):
        sys.exit()  # the owner is gone already
    try:
        _serve(end, socket.socket(fileno=listening), cells, settings)
    except Exception as problem:  # noqa: BLE001 - the owner reports it
        with suppress(OSError):  # the channel is closed where it had begun
            send_frame(end, BeginFailure(str(problem) or type(problem).__name__))
        sys.exit(2)
    sys.exit()


def _serve(end: socket.socket, listening: socket.socket, cells: int, settings: Settings) -> None:
    """Follow, and serve. Raises LogError."""
    with ExitStack() as stack:
        engine = stack.enter_context(Engine(open_reader(settings.log)))
        app = App(
            engine,
            region=settings.region,
            peers=Peers(settings.peers, settings.peer_tokens),
            token=settings.token,
            hosts=hosts_of(settings.tls),
            limits=settings.limits,
            is_mirror=settings.is_mirror,
        )
        server = Server(app, listening=listening, tls=settings.tls)
        shared = Cells(cells, settings.workers)
        worker = app.context.crew = Worker(app, server, shared, settings.number)
        app.context.source = OwnersSource(shared)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(worker.run(end))
