"""The recorder: follows a Nomad, so that its log has all that the agents still have, and says where something is lost.

1. The list of allocations is compared with the state, by ModifyIndex; each body that is newer is read, oldest first.
2. The event stream is opened from the index of that list. When it speaks, the list is compared once more: what
   happened before the stream was open is in the list, and what happens afterwards is in the stream.
3. Frames are written as they come, in batches. The stream leaves the Job out: where an allocation is planned, by its
   first frame or another evaluation, its body is read for the Job before the frame is written.
4. After each reconnection, after a frame that cannot be read, and every few minutes, 1 begins again.

Where events were lost in between, the importer finds the gap in a task's ring of ten, and records a `Gap`. What is not
in the list any more is asked for by itself before it counts as removed. All of it is idempotent, and nothing is
remembered beside the log: a recorder that was killed begins at 1.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from taskfold.live.engine import Engine
from taskfold.log.contract import check_dialect
from taskfold.log.lines import MAX_LINE_BYTES
from taskfold.model.errors import DecodeError, ListenerError, LogError, SourceError, SourceUnavailable, UnreadableLog
from taskfold.model.record import Gap, Record
from taskfold.nomad.importing.observation import Observation, Statement, observation_from_json
from taskfold.recording.agents import Agents, AllocationList, ListedVersion
from taskfold.recording.settings import AgentSettings
from taskfold.sources.detect import dialect_of_statement
from taskfold.sources.source import Deregistered, statements_of_line

__all__ = ["Recorder", "RecorderStatus"]

T = TypeVar("T")

COMPARE_SECONDS: Final = 600.0
SILENCE_SECONDS: Final = 60.0
"""Two heartbeats of Nomad's event stream."""

_READS_AT_ONCE: Final = 4
_BODIES_AT_ONCE: Final = 64
"""How many bodies are held in memory, and written together."""

_FRAMES_AT_ONCE: Final = 256
_POLL_SECONDS: Final = 60.0
_REMEMBERED_JOBS: Final = 10_000
"""Of how many jobs that were deregistered it is remembered at which index."""

_NOTED_LINES: Final = 10
"""How many frames that cannot be read are noted one by one."""


class RecorderStatus(Struct, frozen=True, kw_only=True):
    """How far a recorder is, at one moment."""

    agent: str
    """The address of the agent that is asked."""
    is_connected: bool
    """The agent answers, and its list was compared."""
    problem: str
    """Why what was recorded may be out of date; empty while it is not."""
    index: int
    """The newest index of the agents that is known."""
    contact_seconds: float
    """For how long nothing was heard of the agents; 0 while they are connected and nothing is behind."""
    behind: int
    """Allocations that are known to be newer, and are being read."""
    frames: int
    """Frames of the stream that were read, without heartbeats."""
    bad_frames: int
    """Frames and bodies that could not be read."""
    records: int
    """Records that were written."""
    gaps: int
    """Gaps that were recorded: events that Nomad no longer had."""
    removed: int
    """Allocations that Nomad has no more."""
    reconnects: int
    """How often the agents were lost."""
    epochs: int
    """How often the index went back: the servers were restored, or begun anew."""


class Recorder:
    """Records the answers and streams of the agents of one region, in the log of an engine without other writers.

    `run` works until it is cancelled, `synchronise` once. The calls of the engine run in a thread of the
    recorder's own, one after the other, so that a slow disk slows down the reading.

    >>> from taskfold import AgentSettings, Engine
    >>> recorder = Recorder(Engine(), AgentSettings(addresses=("http://127.0.0.1:4646",)))
    >>> recorder.status.is_connected, recorder.status.problem
    (False, 'http://127.0.0.1:4646 has not answered yet')
    """

    def __init__(
        self,
        engine: Engine,
        agents: AgentSettings | Agents,
        *,
        compare_seconds: float = COMPARE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        on_note: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Record into an engine. Raises SourceError for certificates or a token file that cannot be used.

        The list is compared every ``compare_seconds``; a stream that is silent for ``silence_seconds`` is dead.
        ``on_note`` is called with a sentence when something happens that an operator should know.
        """
        self._engine = engine
        self._reader = engine.reader
        self._agents = agents if isinstance(agents, Agents) else Agents(agents)
        self._compare_seconds = compare_seconds
        self._silence_seconds = silence_seconds
        self._on_note = on_note
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="taskfold-record")
        self._backoff = self._agents.backoff()
        self._is_dialect_checked = False
        self._problem = f"{self._agents.name} has not answered yet"
        self._index = self._reader.index
        self._contact_at: float | None = None
        self._frame_at: float | None = None
        self._behind = self._frames = self._bad_frames = self._records = self._gaps = 0
        self._removed = self._reconnects = self._epochs = 0
        self._known_collected: set[str] = set()
        """Allocations of the list that were collected here: they stay so."""
        self._unreadable: dict[str, int] = {}
        """Bodies that cannot be read, and of which ModifyIndex."""
        self._deregistered: OrderedDict[tuple[str, str], int] = OrderedDict()
        """At which index jobs were deregistered, as far as the stream told."""

    # --- how far it is ---

    @property
    def status(self) -> RecorderStatus:
        """How far the recorder is. O(1)."""
        return RecorderStatus(
            agent=self._agents.name,
            is_connected=not self._problem,
            problem=self.problem,
            index=self._index,
            contact_seconds=self.contact_seconds,
            behind=self._behind,
            frames=self._frames,
            bad_frames=self._bad_frames,
            records=self._records,
            gaps=self._gaps,
            removed=self._removed,
            reconnects=self._reconnects,
            epochs=self._epochs,
        )

    @property
    def problem(self) -> str:
        """Why what was recorded may be out of date; empty while it is not."""
        if not self._problem:
            return ""
        if self._contact_at is None:
            return self._problem
        return f"{self._problem}; recorded is what was so {self.contact_seconds:.0f} seconds ago"

    @property
    def contact_seconds(self) -> float:
        """For how long nothing was heard of the agents; 0 while what is recorded is up to date."""
        if not self._problem or self._contact_at is None:
            return 0.0
        return max(0.0, monotonic() - self._contact_at)

    def numbers(self) -> Iterator[tuple[str, str, float]]:
        """Yield its numbers for metrics: name, meaning, value."""
        status = self.status
        yield "source_connected", "Whether the agents answer, and their list was compared.", int(status.is_connected)
        yield "source_index", "The newest index of the agents that is known.", status.index
        yield "source_lag_seconds", "For how long nothing was heard of the agents.", status.contact_seconds
        yield "source_last_frame_seconds", "How long ago the stream said something.", self._silent_seconds()
        yield "source_allocations_behind", "Allocations that are known to be newer.", status.behind
        yield "source_frames", "Frames of the stream that were read.", status.frames
        yield "source_bad_frames", "Frames and bodies that could not be read.", status.bad_frames
        yield "source_gaps", "Gaps that were recorded: events that Nomad no longer had.", status.gaps
        yield "source_removed", "Allocations that Nomad has no more.", status.removed
        yield "source_reconnects", "How often the agents were lost.", status.reconnects
        yield "source_epochs", "How often the index of the agents went back.", status.epochs

    def _silent_seconds(self) -> float:
        return 0.0 if self._frame_at is None else monotonic() - self._frame_at

    # --- running ---

    async def run(self) -> None:
        """Record until this is cancelled; whatever fails on the way is tried again.

        Raises DialectError where the agents are of another dialect than the log, and SourceError for a token file or
        certificates that cannot be used.
        """
        try:
            while True:
                try:
                    await self._follow()
                except (SourceUnavailable, LogError) as problem:
                    if isinstance(problem, UnreadableLog):
                        raise
                    await self._lose(problem)
        finally:
            await self.close()

    async def synchronise(self) -> None:
        """Read what the agents have now, and end. Raises SourceUnavailable, LogError, DialectError and SourceError."""
        try:
            await self._compare()
        finally:
            await self.close()

    async def close(self) -> None:
        """Let the connections and the thread go; `run` and `synchronise` do so by themselves."""
        await self._agents.close()
        self._thread.shutdown(wait=False)

    async def _lose(self, problem: Exception) -> None:
        """Note what went wrong, and wait a while."""
        if not self._problem:
            self._reconnects += 1
        if self._problem != str(problem):
            self._on_note(str(problem))
        self._problem = str(problem)
        pause = problem.retry_after_seconds if isinstance(problem, SourceUnavailable) else 0
        await asyncio.sleep(max(pause, self._backoff.next_seconds()))

    async def _follow(self) -> None:
        """Compare, then follow the stream, until something fails. Raises what fails."""
        listing = await self._compare()
        async with self._agents.stream(listing.index, self._silence_seconds) as blocks:
            if blocks is not None:
                await self._follow_stream(blocks, listing)
                return
        while True:
            listing = await self._agents.allocations(after=listing.index, wait_seconds=_POLL_SECONDS)
            await self._compare(listing)

    async def _follow_stream(self, blocks: AsyncIterator[bytes], listing: AllocationList) -> None:
        """Record the frames of a stream; compare when it has begun, and every few minutes."""
        compared_at = monotonic()
        is_first = True
        async for lines in _lines(blocks):
            self._frame_at = monotonic()
            is_whole = await self._observe_lines(lines)
            is_due = monotonic() - compared_at >= self._compare_seconds
            if is_first and await self._agents.index() == listing.index:
                is_first = False
            if is_first or is_due or not is_whole:
                await self._compare()
                compared_at = monotonic()
                is_first = False
            self._connect()

    def _connect(self) -> None:
        """Note that all is well."""
        if self._problem:
            self._on_note(f"{self._agents.name}: recorded up to index {self._index}")
        self._problem = ""
        self._contact_at = monotonic()
        self._backoff.reset()

    # --- comparing ---

    async def _compare(self, listing: AllocationList | None = None) -> AllocationList:
        """Read every body that is newer than what is recorded, and record what is not there any more."""
        listing = await self._agents.allocations() if listing is None else listing
        await self._look_at_index(listing)
        list_ids = {stub.ID for stub in listing.stubs}
        removed = set(await self._call(self._reader.ids, self._namespace)) - list_ids
        self._known_collected &= list_ids
        self._unreadable = {alloc: index for alloc, index in self._unreadable.items() if alloc in list_ids}
        newer = await self._call(self._newer, listing.stubs)
        self._behind = len(newer) + len(removed)
        await self._read_all(newer)
        await self._remove(sorted(removed), listing.index)
        self._index = listing.index
        self._behind = 0
        self._connect()
        return listing

    @property
    def _namespace(self) -> str | None:
        """The namespace that is recorded; None for all of them."""
        return None if self._agents.settings.namespace == "*" else self._agents.settings.namespace

    def _newer(self, stubs: Iterable[ListedVersion]) -> list[ListedVersion]:
        """Return the allocations of a list that are newer than what is recorded, or lack their Job; oldest first."""
        newer = []
        for stub in stubs:
            index = self._reader.modify_index(stub.ID)
            if index is None:
                if stub.ID in self._known_collected or not stub.ID:
                    continue
            elif index >= stub.ModifyIndex and self._has_job(stub.ID):
                continue
            if self._unreadable.get(stub.ID) != stub.ModifyIndex:
                newer.append(stub)
        newer.sort(key=lambda stub: stub.ModifyIndex)
        return newer

    async def _read_all(self, versions: Sequence[ListedVersion]) -> None:
        """Read bodies and record them, in their order: some are written while the next ones are read."""
        writing: asyncio.Future[bool] | None = None
        try:
            for place in range(0, len(versions), _BODIES_AT_ONCE):
                observations = await self._read(versions[place : place + _BODIES_AT_ONCE])
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(self._observe(observations))
        finally:
            if writing is not None:
                await writing

    async def _read(self, versions: Sequence[ListedVersion]) -> list[Observation]:
        """Return what the agents have of allocations, oldest first; a few are asked for at a time."""
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(version: ListedVersion) -> bytes | None:
            async with slots:
                return await self._agents.allocation(version.ID, version.Namespace)

        observations = []
        for version, text in zip(versions, await _all(map(read, versions)), strict=True):
            self._behind = max(0, self._behind - 1)
            if text is None:
                continue  # removed since: the next comparison finds that
            try:
                observations.append(observation_from_json(text, "body", self._agents.name))
            except DecodeError as error:
                self._pass_over(f"allocation {version.ID}: {error}")
                self._unreadable[version.ID] = version.ModifyIndex
        return sorted(observations, key=lambda observation: observation.index)

    async def _remove(self, allocs: Sequence[str], index: int) -> None:
        """Record that allocations are there no more, where the agents say so of each."""
        reasons = {}
        for alloc in allocs:
            namespace = self._reader.namespace(alloc)
            if namespace is not None and not await self._is_there(alloc, namespace):
                reasons[alloc] = self._why_removed(alloc)
        if reasons:
            self._removed += len(await self._record(self._engine.observe_removal, reasons, index))
            for alloc, reason in list(reasons.items())[:_NOTED_LINES]:
                self._on_note(f"{alloc}: {reason}")
            if len(reasons) > _NOTED_LINES:
                self._on_note(f"and {len(reasons) - _NOTED_LINES} more allocations that Nomad has no more")

    async def _is_there(self, alloc: str, namespace: str) -> bool:
        """Return whether the agents have an allocation, or do not let this token see it. Raises SourceUnavailable."""
        try:
            return await self._agents.allocation(alloc, namespace) is not None
        except SourceUnavailable as problem:
            if not problem.is_refusal:
                raise
            return True

    def _why_removed(self, alloc: str) -> str:
        index = self._deregistered.get((self._reader.namespace(alloc) or "", self._reader.job(alloc) or ""))
        return (
            "collected by Nomad" if index is None else f"collected by Nomad; its job was deregistered at index {index}"
        )

    async def _look_at_index(self, listing: AllocationList) -> None:
        """Note where the index went back: what comes is another history than what was recorded."""
        if listing.index >= self._index:
            return
        self._epochs += 1
        await self._call(self._engine.begin_epoch)
        older = sum((self._reader.modify_index(stub.ID) or 0) > stub.ModifyIndex for stub in listing.stubs)
        what = f"; {older} allocations stay as they were recorded until they are written again" if older else ""
        self._on_note(
            f"{self._agents.name}: the index went back from {self._index} to {listing.index}: "
            f"its servers were restored from a snapshot, or begun anew{what}"
        )
        self._index = listing.index

    # --- the stream ---

    async def _observe_lines(self, lines: Sequence[bytes]) -> bool:
        """Record frames; return whether all could be read."""
        is_whole = True
        for place in range(0, len(lines), _FRAMES_AT_ONCE):
            statements: list[Statement] = []
            for line in lines[place : place + _FRAMES_AT_ONCE]:
                if line.strip() in {b"", b"{}"}:
                    continue
                self._frames += 1
                try:
                    statements += statements_of_line(line, self._agents.name, self._frames, on_gone=self._note_job)
                except SourceError as error:
                    self._pass_over(str(error))
                    is_whole = False
            statements, has_jobs = await self._with_jobs(statements)
            is_whole &= has_jobs & await self._observe(statements)
            self._index = max(self._index, max((s.index for s in statements if isinstance(s, Observation)), default=0))
        return is_whole

    async def _with_jobs(self, statements: Sequence[Statement]) -> tuple[list[Statement], bool]:
        """Return statements of the stream with the Jobs that the stream leaves out, and whether all could be read.

        An allocation gets its Job by a plan, so that it is asked for once in each. The body may be newer than the
        frame: it tells the Job of the frame where both are of the same evaluation.
        """
        evaluations: dict[str, bytes | None] = {}
        planned: list[int] = []
        for place, statement in enumerate(statements):
            if isinstance(statement, Observation) and "Job" not in statement.fields:
                alloc, evaluation = statement.alloc, statement.fields.get("EvalID")
                if alloc not in evaluations:
                    evaluations[alloc] = self._reader.field(alloc, "EvalID")
                if evaluations[alloc] != evaluation or not self._has_job(alloc):
                    planned.append(place)
                evaluations[alloc] = evaluation
        if not planned:
            return list(statements), True
        whole = list(statements)
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def tell(place: int) -> bool:
            statement = whole[place]
            assert isinstance(statement, Observation)
            async with slots:
                body = await self._body(statement)
            if body is None or body.fields.get("EvalID") != statement.fields.get("EvalID"):
                return body is not None  # what planned it anew comes in a later frame
            fields = {**statement.fields, "Job": body.fields.get("Job", b"null")}
            whole[place] = msgspec.structs.replace(statement, fields=fields)
            return True

        return whole, all(await _all(map(tell, planned)))

    async def _body(self, observation: Observation) -> Observation | None:
        """Return what the agents have of an allocation that the stream told of; None where that cannot be read."""
        namespace = msgspec.json.decode(observation.fields.get("Namespace", b'"default"'))
        try:
            text = await self._agents.allocation(observation.alloc, str(namespace))
            return None if text is None else observation_from_json(text, "body", self._agents.name)
        except (SourceUnavailable, DecodeError):
            return None

    def _has_job(self, alloc: str) -> bool:
        return alloc not in self._reader or self._reader.field(alloc, "Job") not in {None, b"null"}

    def _note_job(self, job: Deregistered) -> None:
        self._deregistered[job.namespace, job.job] = job.at_index
        if len(self._deregistered) > _REMEMBERED_JOBS:
            self._deregistered.popitem(last=False)

    # --- recording ---

    async def _observe(self, statements: Sequence[Statement]) -> bool:
        """Record statements as one write; return whether all could be. Raises DialectError and LogError."""
        if not statements:
            return True
        self._check_dialect(statements)
        try:
            await self._record(self._engine.observe, *statements)
        except DecodeError as error:
            if len(statements) > 1:  # one of them is invalid, and must not cost the others
                return all([await self._observe([statement]) for statement in statements])
            self._pass_over(str(error))
            if isinstance(statements[0], Observation):
                self._unreadable[statements[0].alloc] = statements[0].index
            return False
        # What the engine does not know now was collected here.
        self._known_collected.update(
            statement.alloc
            for statement in statements
            if isinstance(statement, Observation) and statement.alloc not in self._reader
        )
        return True

    async def _record(self, write: Callable[..., list[Record]], *arguments: Any) -> list[Record]:
        """Have the engine write; return the records, and count them. Raises what the engine raises."""
        try:
            records = await self._call(write, *arguments)
        except ListenerError as error:  # it is recorded, and nothing of it is lost
            self._on_note(str(error))
            records = error.records
        self._records += len(records)
        self._gaps += sum(isinstance(record.event, Gap) for record in records)
        return records

    def _check_dialect(self, statements: Iterable[Statement]) -> None:
        """Refuse what another Nomad says than the log is of. Raises DialectError."""
        if not self._is_dialect_checked:
            dialect = next(filter(None, map(dialect_of_statement, statements)), None)
            if dialect is not None:
                check_dialect(self._reader.header, dialect)
                self._is_dialect_checked = True

    def _pass_over(self, problem: str) -> None:
        self._bad_frames += 1
        if self._bad_frames <= _NOTED_LINES:
            last = "; others like it will not be noted" if self._bad_frames == _NOTED_LINES else ""
            self._on_note(f"passed over: {problem}{last}")

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of the engine in the recorder's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


async def _lines(blocks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the whole lines of each block that has some. Raises SourceUnavailable for one that is too long."""
    rest = b""
    async for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise SourceUnavailable(f"a frame of the stream is longer than {MAX_LINE_BYTES >> 20} MiB")
        if lines:
            yield lines


async def _all(awaitables: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all, in order; where one raises, cancel the others and raise that."""
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
