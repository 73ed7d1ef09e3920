"""The context of request handlers: the engine, the caches, the limits with their users, and the counts.

`taskfold.http.app` creates it for the handlers of `taskfold.http.routes`; it imports neither of them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

from taskfold.http.answers import MIRROR, READ_ONLY, Answer
from taskfold.http.nomad.bodies import Bodies
from taskfold.http.nomad.evaluation_cache import Evaluations
from taskfold.http.nomad.event_texts import EventTexts
from taskfold.http.nomad.lists import Lists
from taskfold.http.nomad.past import Past
from taskfold.http.request import Disconnected, Request
from taskfold.http.serve.crew import Crew
from taskfold.http.serve.limits import Limits, Slots, Unsent
from taskfold.live.engine import Engine
from taskfold.model.effects import Step
from taskfold.model.errors import ListenerError
from taskfold.model.inputs import Input
from taskfold.run.allocation_files import AllocationFiles
from taskfold.run.usage import ProcessUsage

__all__ = ["Context", "FollowedSource", "Services", "TaskHost"]

T = TypeVar("T")

_logger: Final = logging.getLogger("taskfold.http")


class Services(Struct, frozen=True):
    """Functions of the application for handlers."""

    forward: Callable[[Request, str], Awaitable[Answer | None]]
    """Forwards a request to the server of another region."""
    regions: Callable[[], list[str]]
    """The reachable regions, sorted."""


class FollowedSource(Protocol):
    """The source of a mirror: `taskfold.Recorder`, or `taskfold.sources.follow.Follower`."""

    @property
    def problem(self) -> str:
        """Why what is served may be out of date; empty while it is not."""
        ...

    @property
    def contact_seconds(self) -> float:
        """For how long nothing was heard; 0 while what is served is up to date."""
        ...

    def numbers(self) -> Iterable[tuple[str, str, float]]:
        """Return its numbers: name, meaning, value."""
        ...


class TaskHost(Protocol):
    """The tasks that run beside a server: `taskfold.run.inspection.Inspection`."""

    def files(self, alloc: str) -> AllocationFiles | None:
        """Return the files of an allocation; None where it does not run here."""
        ...

    def output(self, alloc: str, task: str, stream: str) -> str:
        """Return the path of a task's ``stdout`` or ``stderr`` among the files of its allocation."""
        ...

    async def usage(self, alloc: str) -> dict[str, dict[int, ProcessUsage]] | None:
        """Return what the processes of each running task use, by pid; None where it does not run here."""
        ...


class Context:
    """The state of one application; it belongs to its event loop."""

    def __init__(
        self,
        engine: Engine,
        services: Services,
        *,
        region: str | None = None,
        limits: Limits | None = None,
        is_mirror: bool = False,
        seed: int | None = None,
    ) -> None:
        self.engine = engine
        self.services = services
        self.dialect = engine.dialect
        self.clock = engine.clock
        self.region = region or engine.reader.region
        self.limits = limits = limits or Limits()
        self.is_mirror = is_mirror or engine.is_read_only
        self.refusal = READ_ONLY if engine.is_read_only else MIRROR
        """The error for a write to a mirror."""
        # For the jitter of waits, which needs no cryptographic randomness.
        self.random = random.Random(seed)  # noqa: S311
        self.bodies = Bodies(engine.reader, limits.bodies_bytes)
        self.list_cache = Lists(engine.reader, limits.lists_bytes)
        self.event_texts = EventTexts(engine.reader.texts)
        self.evaluations = Evaluations()
        self.blocked = Slots("blocked queries", total=limits.blocked, per_client=limits.blocked_per_client)
        self.posts = Slots("posts", total=limits.posts)
        self.streams = Slots("streams", total=limits.streams, per_client=limits.streams_per_client)
        self.lists = Slots("long lists", total=limits.lists)
        self.pages = Slots("pages of histories", total=limits.pages)
        self.connections = Slots("connections", total=limits.connections, per_client=limits.connections_per_client)
        """Counted by `taskfold.http.serve.server`; another server counts its own."""
        self.unsent = Unsent(limits.unsent_bytes)
        self.past = Past(limits.past_streams)
        self.start = perf_counter()
        self.answers: Counter[tuple[str, int]] = Counter()
        """The number of answered requests, by endpoint and status."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Their total duration, by endpoint, including the waits of blocked queries."""
        self.problem = ""
        """The problem of writing or reading the log, for health; empty if there is none."""
        self.source: FollowedSource | None = None
        """The source that a mirror follows; health and the headers of reads show when it is away."""
        self.tasks: TaskHost | None = None
        """The tasks that run beside this server, if any do."""
        self.crew: Crew | None = None
        """The workers, if several processes serve the log."""
        self.is_closing = asyncio.Event()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="taskfold-write")

    @property
    def unwell(self) -> str:
        """The problem that prevents normal service; empty if there is none."""
        source = "" if self.source is None else self.source.problem
        return self.problem or source or ("" if self.crew is None else self.crew.problem)

    @property
    def is_out_of_date(self) -> bool:
        """Whether what is served is a mirror's, and its source is away. O(1)."""
        return self.source is not None and bool(self.source.problem)

    @property
    def contact_seconds(self) -> float:
        """For how long nothing was heard of the source of a mirror; 0 while it is there."""
        return 0.0 if self.source is None else self.source.contact_seconds

    async def write(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in the thread for writes, which may wait for the log's disk."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, function, *arguments)

    def report(self, alloc: str, task: str, input: Input, **more: Any) -> Step:
        """Report an input, and return the step; exceptions of listeners go to the server's log, not to the client.

        Raises as `Engine.report` does.
        """
        try:
            return self.engine.report(alloc, task, input, **more)
        except ListenerError as problem:
            _logger.exception("listeners of the engine raised")
            step: Step = problem.steps[0]
            return step

    async def send(self, request: Request, message: MutableMapping[str, Any]) -> None:
        """Send a part of an answer; drop a client that takes nothing for too long. Raises Disconnected."""
        if self.crew is not None:
            self.crew.publish()
        try:
            async with asyncio.timeout(self.limits.send_timeout):
                await request.send(message)
        except TimeoutError:
            raise Disconnected from None

    def close(self) -> None:
        """Answer every blocked query, and end every stream: the server is about to stop."""
        self.is_closing.set()
        self.engine.release()
        if self.crew is not None:
            self.crew.stop()

    async def end(self) -> None:
        """Release the threads, after the last request."""
        if self.crew is not None:
            await self.crew.end()
        self._writer.shutdown(wait=False)
        self.past.close()
