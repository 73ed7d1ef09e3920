"""The owner of a log that several processes serve: it starts the others, answers for them, and ends them.

The others follow the log and answer reads. Requests that they cannot answer (`Route.is_owners`) come here, as the
client sent them. A follower that ends is restarted, on the listening socket that this process keeps for it; clients
that connect meanwhile wait there.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

from msgspec.structs import replace

import taskfold
from taskfold.http.answers import error
from taskfold.http.app import App
from taskfold.http.request import Disconnected, Request
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
)
from taskfold.http.serve.counts import Counts
from taskfold.http.serve.crew import Cells, Crew
from taskfold.live.waiters import wait_async
from taskfold.model.errors import ServeError

__all__ = ["Workers"]

_OWNER: Final = 1
"""The number of the process that owns the log."""

_BEGIN: Final = "import sys; sys.path.append(sys.argv[1]); from taskfold.http.serve.worker import main; main()"
_COUNT_SECONDS: Final = 1
"""How long a follower may take to return its metrics; a slower one is left out."""
_CONTACT_SECONDS: Final = 0.1
"""How often it is told whether the source of a mirror is away."""
_STEADY_SECONDS: Final = 10
"""A follower that served for so long is restarted without delay."""
_LEAST_PAUSE_SECONDS: Final = 0.5
_MOST_PAUSE_SECONDS: Final = 30
_GRACE_SECONDS: Final = 5
"""How much longer than its clients a follower may take to end."""


class Workers(Crew):
    """The workers of a server, from the view of the owner. It belongs to the event loop of the server."""

    is_follower = False

    def __init__(
        self, app: App, settings: Settings, sockets: Sequence[socket.socket], on_note: Callable[[str], None]
    ) -> None:
        """Take the settings of the followers, and a listening socket for each."""
        # It has no name, and is gone with the last of the processes.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self.app = app
        super().__init__(app.engine, app.counts, Cells.begin(self._file.fileno(), len(sockets) + 1), _OWNER)
        self.on_note = on_note
        self.stopping = asyncio.Event()
        self._followers = [
            _Follower(self, replace(settings, number=number, workers=len(sockets) + 1), listening)
            for number, listening in enumerate(sockets, start=_OWNER + 1)
        ]
        self._keeping: list[asyncio.Task[None]] = []
        self._telling: list[asyncio.Task[None]] = []

    @property
    def problem(self) -> str:
        """The problem of a follower that cannot serve; empty if there is none."""
        return next((follower.problem for follower in self._followers if follower.problem), "")

    async def begin(self) -> None:
        """Start the followers, and return when all of them serve, or are to stop. Raises ServeError."""
        cells = self._file.fileno()
        self._keeping = [asyncio.ensure_future(follower.keep(cells)) for follower in self._followers]
        self._telling = [asyncio.ensure_future(self._tell_changes()), asyncio.ensure_future(self._tell_contact())]
        await asyncio.gather(*(follower.first_service for follower in self._followers))

    async def _tell_changes(self) -> None:
        """Notify the followers of each write, so that they need not poll."""
        if self._reader.is_shared:
            return  # the database notifies them
        seq = self._reader.seq
        while not self._reader.is_released:
            seq = (await wait_async(self._reader, self._reader.newest_seq, seq, None, self.engine.clock)).index
            self.publish()
            for follower in self._followers:
                follower.channel.send(Wake())

    async def _tell_contact(self) -> None:
        """Publish whether the source of a mirror is away, as the headers of every worker show it."""
        context = self.app.context
        while context.source is not None:
            self._cells.put_contact(context.contact_seconds if context.is_out_of_date else None)
            await asyncio.sleep(_CONTACT_SECONDS)

    async def counts(self) -> Mapping[str, Counts]:
        """Return the metrics of every worker that answers, by number."""
        replies = await asyncio.gather(*(follower.counts() for follower in self._followers))
        numbers = (str(follower.number) for follower in self._followers)
        others = {number: counts for number, counts in zip(numbers, replies, strict=True) if counts is not None}
        return {str(_OWNER): self.app.counts()} | others

    def stop(self) -> None:
        """Stop the followers in good order; the second call kills them."""
        for follower in self._followers:
            follower.kill() if self.stopping.is_set() else follower.stop()
        self.stopping.set()

    async def end(self) -> None:
        """Wait until the followers have ended, and answer for them until then; end those that take too long."""
        if not self.stopping.is_set():
            self.stop()
        patience = self.app.context.limits.shutdown_timeout + _GRACE_SECONDS
        if self._keeping:
            _, late = await asyncio.wait(self._keeping, timeout=patience)
            for follower in self._followers if late else ():
                follower.kill()
            await asyncio.wait(self._keeping)
        for task in self._telling:
            task.cancel()
        self._file.close()


class _Follower:
    """One process that follows the log."""

    def __init__(self, workers: Workers, settings: Settings, listening: socket.socket) -> None:
        self.number = settings.number
        self.problem = ""
        self.channel = Channel(self._take, lambda: None)
        self.first_service: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it first serves; raises ServeError if it cannot."""
        self._workers = workers
        self._settings = settings
        self._listening = listening
        self._process: subprocess.Popen[bytes] | None = None
        self._reason = ""
        """The reason it gave why it cannot start."""
        self._calls: dict[int, asyncio.Event] = {}
        """The requests being answered for it, each with an event for its client's disconnect."""
        self._answering: set[asyncio.Task[None]] = set()
        self._counting: asyncio.Future[Counts] | None = None

    async def keep(self, cells: int) -> None:
        """Run it, with restarts, until the server stops."""
        pause = 0.0
        try:
            while not self._workers.stopping.is_set():
                began = monotonic()
                how = await self._run(cells)
                if self._workers.stopping.is_set():
                    return
                if not self.first_service.done():
                    self.first_service.set_exception(ServeError(how))
                    return
                is_steady = monotonic() - began >= _STEADY_SECONDS
                pause = 0 if is_steady else min(max(pause * 2, _LEAST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS)
                again = f"in {pause:g} s" if pause else "at once"
                self._tell(f"{how}; it is started again {again}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._workers.stopping.wait(), pause)
        finally:
            if not self.first_service.done():
                self.first_service.set_result(None)

    async def _run(self, cells: int) -> str:
        """Run it once, and return how it ended."""
        self._reason = ""
        has_ended = asyncio.Event()
        self.channel = Channel(self._take, has_ended.set)
        try:
            ours, self._process = _started((self._listening.fileno(), cells))
            await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, sock=ours)
        except OSError as error:
            return f"worker {self.number} cannot be started: {error.strerror or error}"
        self.channel.send(self._settings)
        if self._workers.stopping.is_set():
            self.stop()
        await has_ended.wait()
        for gone in self._calls.values():
            gone.set()
        how = await asyncio.to_thread(_end_of, self._process, self._workers.app.context.limits.shutdown_timeout)
        return f"worker {self.number} {f'cannot begin: {self._reason}' if self._reason else how}"

    def _tell(self, problem: str) -> None:
        """Set the problem for health, and note it; an empty text means none."""
        if problem != self.problem:
            self.problem = problem
            self._workers.on_note(problem or f"worker {self.number} serves again")

    def stop(self) -> None:
        """End it in good order, and close its listener."""
        self._listening.close()
        self.channel.send(Stop())

    def kill(self) -> None:
        """Cut it at once."""
        if self._process is not None:
            self._process.kill()

    async def counts(self) -> Counts | None:
        """Return its metrics; None if it does not answer in time."""
        if self._counting is None:
            if not self.channel.send(CountCall()):
                return None
            self._counting = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._counting), _COUNT_SECONDS)
        self._counting = None
        return None

    def _take(self, frame: Frame) -> None:
        """Act on a frame of the follower."""
        match frame:
            case Ready():
                self._tell("")
                if not self.first_service.done():
                    self.first_service.set_result(None)
            case BeginFailure():
                self._reason = frame.reason
            case Problem():
                self._tell(f"worker {self.number}: {frame.text}" if frame.text else "")
            case OwnerCall():
                task = asyncio.ensure_future(self._answer(frame))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case Cancel():
                if frame.number in self._calls:
                    self._calls[frame.number].set()
            case CountReply():
                if self._counting is not None:
                    self._counting.set_result(frame.counts)
                    self._counting = None

    async def _answer(self, call: OwnerCall) -> None:
        """Answer a follower's request as a local one."""
        app = self._workers.app
        gone = self._calls[call.number] = asyncio.Event()
        try:
            answer = await app.answer(_request(call, gone))
        except Disconnected:
            return
        except Exception:  # noqa: BLE001 - `App.answer` has logged it
            answer = None
        finally:
            del self._calls[call.number]
        self._workers.publish()
        self.channel.send(OwnerReply(call.number, answer or error(500, "this cannot be answered in another process")))


def _request(call: OwnerCall, gone: asyncio.Event) -> Request:
    """Return a follower's request as a local one."""
    messages = [{"type": "http.request", "body": call.body, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: MutableMapping[str, Any]) -> None:
        raise NotImplementedError("a forwarded request has a complete answer")

    scope = {
        "type": "http",
        "method": call.method,
        "path": call.path.decode(errors="surrogateescape"),
        "raw_path": call.raw_path,
        "query_string": call.query,
        "headers": call.headers,
        "client": (call.client, 0) if call.client else None,
    }
    return Request(scope, receive, send)


def _started(descriptors: tuple[int, ...]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a follower that inherits some descriptors; return this end of its channel, and it. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        descriptors = (theirs.fileno(), *descriptors)
        command = [sys.executable, "-P", "-c", _BEGIN, str(Path(taskfold.__file__).parent.parent)]
        try:
            # In its own process group, so that Ctrl-C in a terminal reaches the owner alone.
            process = subprocess.Popen(  # noqa: S603 - this interpreter, with fixed arguments
                [*command, *map(str, descriptors)], stdin=subprocess.DEVNULL, pass_fds=descriptors, process_group=0
            )
        except BaseException:
            ours.close()
            raise
    ours.settimeout(0)
    return ours, process


def _end_of(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait for a process that closed its channel, or kill it; return how it ended."""
    try:
        status = process.wait(seconds + _GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if status >= 0:
        return f"(process {process.pid}) ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"(process {process.pid}) was ended by {signal.Signals(-status).name}"
    return f"(process {process.pid}) was ended by signal {-status}"
