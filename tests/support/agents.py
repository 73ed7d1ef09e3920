"""An agent of Nomad, made of a recorded stream: it answers lists, bodies and the event stream, and fails as it is told.

What happens is the frames of the stream, one after the other, as `FakeAgent.advance` has them happen. It speaks HTTP
over a socket of its own, so that an answer may be cut anywhere.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

T = TypeVar("T")

BUFFER_FRAMES = 100
"""What a Nomad keeps of its stream."""


_SERVING: list[FakeAgent] = []
"""The agents that serve in the loop that runs now."""


async def close_agents() -> None:
    """Close all agents that serve."""
    while _SERVING:
        await _SERVING.pop().close()


@dataclass(slots=True)
class Faults:
    """How an agent fails: each is the chance of it, for one answer."""

    error: float = 0
    """500, with a sentence."""
    busy: float = 0
    """429 or 503, with Retry-After at times."""
    cut: float = 0
    """The connection ends in the middle of an answer."""
    stream_cut: float = 0
    """The stream ends in the middle of a frame."""
    silence: float = 0
    """The stream says nothing any more, and stays open."""


@dataclass
class FakeAgent:
    """One agent; `serving` gives its address."""

    frames: Sequence[dict[str, Any]]
    """Of the stream, in the order of their indexes."""
    seed: int = 0
    buffer_frames: int = BUFFER_FRAMES
    has_stream: bool = True
    version: str = "1.1.2"
    token: str | None = None
    faults: Faults = field(default_factory=Faults)
    heartbeat_seconds: float = 0.2
    hidden: frozenset[str] = frozenset()
    """Allocations that the token may not see: they are left out of lists."""
    is_proxy_alone: bool = False
    """A proxy answers in its place: 404, and a page."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.index = 1
        """Of the newest write of an allocation: what lists of allocations tell."""
        self.place = 0
        """How many frames have happened."""
        self.bodies: dict[str, dict[str, Any]] = {}
        self.jobs: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.buffer: deque[tuple[int, dict[str, Any]]] = deque(maxlen=self.buffer_frames)
        self.requests: list[str] = []
        self.answering = 0
        self.most_answering = 0
        """How many requests, but for the stream, were answered at the same time."""
        self.streams = 0
        self.most_streams = 0
        self.is_away = False
        """It takes connections, and ends them at once."""
        self.loop: asyncio.AbstractEventLoop
        self._changed = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what happens ---

    def advance(self, count: int = 1) -> bool:
        """Have the next frames happen; tell whether there were so many."""
        has_all = self.place + count <= len(self.frames)
        for frame in self.frames[self.place : self.place + count]:
            self.place += 1
            self._happen(frame)
        self._wake()
        return has_all

    def _happen(self, frame: dict[str, Any]) -> None:
        self.buffer.append((self.place, frame))
        for event in frame["Events"]:
            payload = event.get("Payload") or {}
            if job := payload.get("Job"):
                self.jobs.setdefault((job["Namespace"], job["ID"]), []).append(job)
            if body := payload.get("Allocation"):
                self.index = max(self.index, frame["Index"])
                before = self.bodies.get(body["ID"])
                self.bodies[body["ID"]] = {**body, "Job": self._job_of(body, before)}

    def _job_of(self, body: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the job that an allocation has: the newest version when its plan was made."""
        if before is not None and before["AllocModifyIndex"] == body["AllocModifyIndex"]:
            return before["Job"]
        if before is not None and before["EvalID"] == body["EvalID"]:
            return before["Job"]
        jobs = self.jobs.get((body["Namespace"], body["JobID"]), [])
        planned = [job for job in jobs if job["ModifyIndex"] < body["AllocModifyIndex"]]
        return planned[-1] if planned else (before or {}).get("Job")

    def collect(self, alloc: str) -> None:
        """Have the servers collect an allocation: it is there no more, and no frame says so."""
        self.index += 1
        del self.bodies[alloc]
        self._wake()

    def begin_anew(self) -> None:
        """Have the servers begin again with nothing, as a development agent does."""
        self.index, self.place = 1, 0
        self.bodies.clear()
        self.jobs.clear()
        self.buffer.clear()
        self.disconnect()
        self._wake()

    def disconnect(self) -> None:
        """End every connection."""
        for writer in self._connections:
            writer.transport.abort()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- serving ---

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call something of this agent in the thread that serves it."""

        async def called() -> T:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(20)

    async def serve(
        self, *, host: str = "127.0.0.1", port: int = 0, path: str = "", context: ssl.SSLContext | None = None
    ) -> str:
        """Begin to listen; return the address."""
        _SERVING.append(self)
        if path:
            self._server: asyncio.Server = await asyncio.start_unix_server(self._connected, path)
            return f"unix:{path}"
        self._server = await asyncio.start_server(self._connected, host, port, ssl=context)
        port = self._server.sockets[0].getsockname()[1]
        return f"{'https' if context else 'http'}://{host}:{port}"

    async def close(self) -> None:
        """Listen no more, and end every connection."""
        self._server.close()
        for task in (tasks := list(self._tasks)):
            task.cancel()
        self.disconnect()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while not self.is_away and await self._answer_next(reader, writer):
                    pass
        finally:
            self._connections.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _answer_next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        target = head[0].split(" ")[1]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        self.requests.append(target)
        url = urlsplit(target)
        query = parse_qs(url.query)
        if url.path == "/v1/event/stream" and self.has_stream and self._is_allowed(headers):
            self.streams += 1
            self.most_streams = max(self.streams, self.most_streams)
            try:
                await self._stream(writer, int(query["index"][0]))
            finally:
                self.streams -= 1
            return False
        self.answering += 1
        self.most_answering = max(self.answering, self.most_answering)
        try:
            status, body, more = await self._answer(url.path, query, headers)
        finally:
            self.answering -= 1
        is_cut = self.rng.random() < self.faults.cut
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", f"X-Nomad-Index: {self.index}", *more, "", ""]
        writer.write("\r\n".join(lines).encode() + (body[: len(body) // 2] if is_cut else body))
        await writer.drain()
        return not is_cut

    def _is_allowed(self, headers: dict[str, str]) -> bool:
        return self.token is None or headers.get("x-nomad-token") == self.token

    async def _answer(
        self, path: str, query: dict[str, list[str]], headers: dict[str, str]
    ) -> tuple[int, bytes, list[str]]:
        if failure := self._failure(headers):
            return failure
        match path.split("/")[2:]:
            case ["agent", "self"]:
                return 200, json.dumps({"config": {"Version": {"Version": self.version}}}).encode(), []
            case ["allocations"]:
                await self._block(query)
                prefix = query.get("prefix", [""])[0]
                shown = [body for alloc, body in self.bodies.items() if alloc not in self.hidden]
                return 200, json.dumps([_stub(body) for body in shown if body["ID"].startswith(prefix)]).encode(), []
            case ["allocation", alloc] if alloc in self.hidden:
                return 403, b"Permission denied", []
            case ["allocation", alloc] if alloc in self.bodies:
                return 200, json.dumps(self.bodies[alloc]).encode(), []
        return 404, b"alloc not found", []

    def _failure(self, headers: dict[str, str]) -> tuple[int, bytes, list[str]] | None:
        """Return an error, by chance or since the token is wrong."""
        if self.is_proxy_alone:
            return 404, b"<html>no such site</html>", []
        chance = self.rng.random()
        if chance < self.faults.error:
            return 500, b"rpc error: No cluster leader", []
        if chance < self.faults.error + self.faults.busy:
            return self.rng.choice([(429, b"", []), (503, b"busy", ["Retry-After: 0"])])
        return None if self._is_allowed(headers) else (403, b"Permission denied", [])

    async def _block(self, query: dict[str, list[str]]) -> None:
        after = int(query.get("index", ["0"])[0])
        if after:
            with suppress(TimeoutError):
                async with asyncio.timeout(float(query["wait"][0].removesuffix("ms")) / 1_000):
                    while self.index <= after:
                        await self._changed.wait()

    async def _stream(self, writer: asyncio.StreamWriter, index: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        _write_chunk(writer, b"{}\n")
        held = list(self.buffer)
        waiting = [entry for entry in held if entry[1]["Index"] >= index] or held[-1:]
        place = waiting[-1][0] if waiting else self.place
        while True:
            for _, frame in waiting:
                if self.rng.random() < self.faults.stream_cut:
                    line = json.dumps(frame).encode()
                    _write_chunk(writer, line[: self.rng.randrange(len(line))])
                    await writer.drain()
                    return
                if self.rng.random() < self.faults.silence:
                    await asyncio.sleep(3_600)
                _write_chunk(writer, json.dumps(frame).encode() + b"\n")
                await writer.drain()
            changed = self._changed
            if self.buffer and self.buffer[0][0] > place + 1:
                return  # event dropped from buffer
            waiting = [entry for entry in self.buffer if entry[0] > place]
            if waiting:
                place = waiting[-1][0]
                continue
            try:
                async with asyncio.timeout(self.heartbeat_seconds):
                    await changed.wait()
            except TimeoutError:
                _write_chunk(writer, b"{}\n")
                await writer.drain()


def _write_chunk(writer: asyncio.StreamWriter, text: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(text), text))


def _stub(body: dict[str, Any]) -> dict[str, Any]:
    names = ("ID", "JobID", "Namespace", "ModifyIndex", "CreateIndex", "ClientStatus", "DesiredStatus", "TaskStates")
    return {name: body.get(name) for name in names}


def frames_of(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the frames of a recorded stream, without heartbeats, in the order of their indexes."""
    return [frame for line in lines if line.strip() and (frame := json.loads(line)).get("Events")]


async def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


@contextmanager
def agent_beside(agent: FakeAgent, port: int = 0) -> Iterator[str]:
    """Serve an agent from a thread of its own while the block runs; give its address.

    What happens to it meanwhile is called through `FakeAgent.call`.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    agent.loop = loop
    try:
        yield asyncio.run_coroutine_threadsafe(agent.serve(port=port), loop).result(20)
    finally:
        asyncio.run_coroutine_threadsafe(close_agents(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
