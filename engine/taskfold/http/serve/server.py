"""The server: the application in uvicorn, with an orderly end.

uvicorn was chosen by measurement (`benchmarks/serving.py`): with httptools and uvloop it answers seven times as many
requests as the slowest of the well-kept servers, holds ten thousand waiting clients in little memory, tells when a
client is gone, and stops sending to one that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import uvicorn

from taskfold.http.app import App
from taskfold.http.serve.descriptors import backlog_for, descriptor_limit, room_for_connections
from taskfold.http.serve.protocol import guarded
from taskfold.http.serve.strangers import is_loopback
from taskfold.http.serve.tls import ServedTls, TlsFiles
from taskfold.model.errors import ServeError

__all__ = ["Server", "check_exposure", "new_loop", "parse_bind", "running"]

_UNIX: Final = "unix:"
"""The prefix of a Unix socket's path in place of a host."""

_UNSENT_BYTES: Final = 131_072
"""The socket's buffer for unsent data, in bytes."""

_OWNER_ONLY: Final = 0o600
_HIGHEST_PORT: Final = 65_535
_PORT_DIGITS: Final = 5


def parse_bind(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 address stands in brackets. Raises ServeError.

    ``unix:PATH``, a socket of the file system, is a host of its own, without a port.

    >>> parse_bind("127.0.0.1:4646"), parse_bind("[::1]:0"), parse_bind("unix:/run/taskfold.sock")
    (('127.0.0.1', 4646), ('::1', 0), ('unix:/run/taskfold.sock', 0))
    """
    if text.startswith(_UNIX) and len(text) > len(_UNIX):
        return text, 0
    host, colon, port = text.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= _PORT_DIGITS
    if not colon or not host or not is_number or int(port) > _HIGHEST_PORT:
        raise ServeError(
            f"{text!r} is no address to listen at; expected HOST:PORT, such as 127.0.0.1:4646, or unix:PATH"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_exposure(host: str, token: str | None, tls: TlsFiles | None = None) -> None:
    """Check that a server that other machines can reach has a token, or clients with certificates. Raises ServeError.

    A socket of the file system is opened by its owner alone: https is refused there.
    """
    if host.startswith(_UNIX):
        if tls is not None:
            raise ServeError(f"--tls-cert: {host} is no network, and only its owner can open it: leave https out")
        return
    has_certificates = tls is not None and bool(tls.client_ca)
    if token is None and not has_certificates and not is_loopback(host):
        raise ServeError(
            f"{host} can be reached from other machines: give a token (--token-file FILE), ask clients for certificates"
            " (--tls-client-ca FILE), or listen on 127.0.0.1"
        )


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, since ours answer blocked queries first."""

    on_ready: Callable[[], None]

    def end(self) -> None:
        """Let running requests finish; the second call cuts every connection."""
        if self.should_exit:
            self.force_exit = True
            for connection in tuple(self.server_state.connections):
                connection.transport.abort()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, and call ``on_ready``."""
        await super().startup(sockets)
        self.on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield


class Server:
    """Serves an application at one address. `run` belongs to an event loop; `stop` may be called by any thread.

    It accepts as many connections as leave descriptors for the log; `raise_descriptor_limit` raises their number.
    """

    def __init__(
        self,
        app: App,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int = 1,
        listening: socket.socket | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        """Start to listen; port 0 picks a free one, and a host ``unix:PATH`` is a Unix socket.

        With several ``workers``, `sockets` has listening sockets for the others. A ``listening`` socket is used
        in place of an address. With ``tls`` it speaks https. Raises ServeError.
        """
        self.app = app
        self.tls = tls
        self._tls = None if tls is None else ServedTls(tls)
        descriptors = descriptor_limit()
        app.context.connections.bound(room_for_connections(descriptors, has_peers=bool(app.peers and app.peers.urls)))
        backlog = backlog_for(descriptors)
        self._path = Path(host.removeprefix(_UNIX)).absolute() if host.startswith(_UNIX) else None
        self._inode: tuple[int, int] | None = None
        self.port = 0
        self.sockets: list[socket.socket] = []
        """The listening sockets of the other workers, at the same address."""
        if listening is not None:
            self._socket = listening
            self.url = ""
        elif self._path is None:
            self._socket, *self.sockets = _listen(host, port, backlog, workers)
            self.port = int(self._socket.getsockname()[1])
            authority = f"[{host}]" if ":" in host else host
            self.url = f"{'http' if tls is None else 'https'}://{authority}:{self.port}"
        else:
            self._socket = _listen_at(self._path, backlog)
            self.sockets = [self._socket.dup() for _ in range(workers - 1)]
            self._inode = _inode_of(self._path)
            self.url = f"{_UNIX}{self._path}"
        limits = app.context.limits
        # uvicorn's messages on single clients are useless; the application logs its own errors.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        protocol = guarded(
            limits,
            app.context.connections,
            app.context.unsent,
            app,
            needs_certificate=tls is not None and bool(tls.client_ca),
        )
        config = uvicorn.Config(
            app,
            http=protocol,  # type: ignore[arg-type]  # a class, as uvicorn's own
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=backlog,
            timeout_keep_alive=math.ceil(limits.keep_alive_timeout),
            timeout_graceful_shutdown=math.ceil(limits.shutdown_timeout),
        )
        config.load()
        config.ssl = None if self._tls is None else self._tls.context
        self._uvicorn = _Uvicorn(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopped = False

    async def run(self, *, handles_signals: bool = False, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` is called, or, if it handles signals, until SIGINT or SIGTERM."""
        self._loop = asyncio.get_running_loop()
        if self._is_stopped:
            self._end()
        if handles_signals:
            self._handle_signals(self._loop)
        self._uvicorn.on_ready = on_ready
        keeping = None if self._tls is None else self._loop.create_task(self._tls.keep())
        try:
            if self.app.context.crew is not None:
                await self.app.context.crew.begin()
            await self._uvicorn.serve(sockets=[self._socket])
        finally:
            if keeping is not None:
                keeping.cancel()
            self._remove_path()
            await self.app.end()

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(name, self._end)
            except NotImplementedError:  # on Windows
                signal.signal(name, lambda *_: self.stop())

    def _end(self) -> None:
        """End in good order; the second call ends at once."""
        self._uvicorn.end()
        self.app.close()

    def stop(self) -> None:
        """Answer the blocked queries, end the streams, finish running requests, and end; also before it runs."""
        self._is_stopped = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended already
                self._loop.call_soon_threadsafe(self._end)

    def close(self) -> None:
        """Release the address; `run` does so at its end."""
        for listening in (self._socket, *self.sockets):
            listening.close()
        self._remove_path()

    def _remove_path(self) -> None:
        """Remove the Unix socket, if it is still this server's."""
        if self._path is not None and self._inode is not None and _inode_of(self._path) == self._inode:
            self._path.unlink(missing_ok=True)
        self._inode = None


def _listen(host: str, port: int, backlog: int, count: int) -> list[socket.socket]:
    """Return sockets that listen at one address, among which the system spreads connections. Raises ServeError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    try:
        for _ in range(count if sys.platform == "linux" else 1):
            sockets.append(listening := socket.socket(family, socket.SOCK_STREAM))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if unsent := getattr(socket, "TCP_NOTSENT_LOWAT", None):
                # Connections inherit the buffer size: the system holds no megabytes for idle clients.
                listening.setsockopt(socket.IPPROTO_TCP, unsent, _UNSENT_BYTES)
            if len(sockets) > 1:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port = sockets[0].getsockname()[1]
            listening.bind((host, port))
            # Two servers that start at the same moment may both bind; only one may listen.
            listening.listen(backlog)
            if count > 1:
                # Further sockets may join the first, now that no other server has the address.
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Other systems do not distribute connections: there the workers share one socket.
        return sockets + [sockets[0].dup() for _ in range(count - len(sockets))]
    except (OSError, UnicodeError) as error:
        for listening in sockets:
            listening.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ServeError(f"cannot listen at {host}:{port}: {reason}") from None


def _listen_at(path: Path, backlog: int) -> socket.socket:
    """Return a listening Unix socket that only its owner may open. Raises ServeError."""
    if not hasattr(socket, "AF_UNIX"):  # on Windows
        raise ServeError(f"cannot listen at {_UNIX}{path}: this system has no such sockets")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listening.bind(str(path))
        path.chmod(_OWNER_ONLY)
        # Nobody can connect before this.
        listening.listen(backlog)
    except (OSError, ValueError) as error:
        listening.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ServeError(f"cannot listen at {_UNIX}{path}: {reason}") from None
    return listening


def _remove_stale(path: Path) -> None:
    """Remove a socket without a listener, as a killed server leaves it. Raises OSError."""
    inode = _inode_of(path)
    if inode is None or not stat.S_ISSOCK(path.lstat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            if _inode_of(path) == inode:
                path.unlink(missing_ok=True)


def _inode_of(path: Path) -> tuple[int, int] | None:
    """Return the identity of a file: device and inode; None where there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop: uvloop's if installed, which answers 50 % more requests."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@contextlib.contextmanager
def running(app: App, *, host: str = "127.0.0.1", port: int = 0, tls: TlsFiles | None = None) -> Iterator[Server]:
    """Serve from a separate thread while the block runs; the engine stays open. Raises ServeError.

    For embedders that have no event loop, and for tests.
    """
    server = Server(app, host=host, port=port, tls=tls)
    is_ready = threading.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(server.run(on_ready=is_ready.set))

    thread = threading.Thread(target=run, name="taskfold-http", daemon=True)
    thread.start()
    is_ready.wait()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
