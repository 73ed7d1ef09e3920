"""The agents of one region, asked over HTTP: the next one where one fails, and no more at once than they bear."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw, Struct

from taskfold.model.dialect import Dialect, dialect_of, dialect_of_version
from taskfold.model.errors import SourceError, SourceUnavailable
from taskfold.nomad.fields import DEFAULT_NAMESPACE
from taskfold.nomad.importing.observation import observation_from_json
from taskfold.recording.connections import AgentAnswer, ConnectionProblem, Connections
from taskfold.recording.settings import AgentSettings
from taskfold.sources.detect import dialect_of_statement

__all__ = ["Agents", "AllocationList", "Backoff", "ListedVersion"]

_READ_SECONDS: Final = 60.0
_POLL_MARGIN_SECONDS: Final = 30.0
"""How much longer than its wait a blocked query may take: agents add a sixteenth, and then answer."""

_MOST_CONNECTIONS: Final = 8
"""An agent gives one address a hundred (limits.http_max_conns_per_client), and others share ours."""

_LOOKED_AT: Final = 10
"""How many bodies are asked for the dialect."""

_ATTEMPTS: Final = 6
_BUSY: Final = frozenset({429, 503})
_FORBIDDEN: Final = frozenset({401, 403})
_NOT_FOUND: Final = 404
_NO_STREAM: Final = frozenset({_NOT_FOUND, 405, 501})
"""The answers of agents without an event stream."""

_ALLOC_NOT_FOUND: Final = "alloc not found"
"""Nomad's answer for an unknown allocation, in every version."""

_ERROR: Final = 400
_EXCERPT: Final = 200
_TOPICS: Final = ("Allocation", "Job", "Evaluation", "Deployment")
"""The topics of the stream with allocations, and with facts on their jobs."""

_NO_SUCH_PREFIX: Final = "00000000-0000-0000-0000-000000000000"
"""A list with this prefix is empty, and has the index of the whole one."""


class ListedVersion(Struct, gc=False):
    """The fields of an allocation in a list that are compared."""

    ID: str = ""
    ModifyIndex: int = 0
    Namespace: str = DEFAULT_NAMESPACE


class AllocationList(Struct, frozen=True):
    """The allocations of the agents at one index."""

    index: int
    stubs: list[ListedVersion]


_decode_stubs: Final = msgspec.json.Decoder(list[ListedVersion] | None, strict=False).decode
_decode_self: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class Backoff:
    """How long to wait before the next attempt: twice as long each time, at a random moment of it.

    >>> backoff = Backoff(random.Random(1), first_seconds=1, most_seconds=8)
    >>> [0 < backoff.next_seconds() <= most for most in (1, 2, 4, 8, 8)]
    [True, True, True, True, True]
    """

    def __init__(self, rng: random.Random, *, first_seconds: float = 0.25, most_seconds: float = 30.0) -> None:
        self._rng = rng
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._seconds = first_seconds

    def next_seconds(self) -> float:
        """Return the next delay (seconds); the one after it may be twice as long."""
        most = self._seconds
        self._seconds = min(self._most_seconds, most * 2)
        return most * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin anew: something went well."""
        self._seconds = self._first_seconds


class Agents:
    """Asks agents; each question goes to one of them, and to the next where that one fails.

    Raises SourceUnavailable where none of them answers, and where they refuse (a token that is not valid, say).
    """

    def __init__(
        self, settings: AgentSettings, *, rng: random.Random | None = None, first_pause_seconds: float = 0.25
    ) -> None:
        """Ask the agents of these settings. Raises SourceError for certificates that cannot be used.

        Before a second attempt it waits for ``first_pause_seconds`` at most, then twice as long, up to 30 seconds.
        """
        self.settings = settings
        self.rng = random.Random() if rng is None else rng  # noqa: S311 - spreads retries, and is no secret
        self._first_pause_seconds = first_pause_seconds
        self._place = 0
        """The address that answered last."""
        self._token = _Token(settings)
        context = settings.tls_context()
        self._clients = [
            Connections(address, context, most=_MOST_CONNECTIONS, server_name=settings.tls_server_name)
            for address in settings.addresses
        ]

    @property
    def name(self) -> str:
        """The address of the agent that is asked now."""
        return self.settings.names[self._place]

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.close()

    def backoff(self) -> Backoff:
        """Return how long to wait before attempts."""
        return Backoff(self.rng, first_seconds=self._first_pause_seconds)

    # --- questions ---

    async def version(self) -> str:
        """Return the version of the agent's Nomad; empty where it does not say, or may not."""
        try:
            answer = await self._get("/v1/agent/self", {})
        except SourceUnavailable as problem:
            if problem.is_refusal:
                return ""
            raise
        return _version_in(answer.body) if answer.is_success else ""

    async def dialect(self) -> Dialect:
        """Return the dialect that the agents speak: told by a body, else by the version of one."""
        for stub in (await self.allocations()).stubs[:_LOOKED_AT]:
            body = await self.allocation(stub.ID, stub.Namespace)
            name = None if body is None else dialect_of_statement(observation_from_json(body, "body"))
            if name is not None:
                return dialect_of(name)
        return dialect_of_version(await self.version())

    async def index(self) -> int:
        """Return the index of the newest write of any allocation, without their list."""
        return self._index_of(await self._get("/v1/allocations", {"prefix": _NO_SUCH_PREFIX, **self._namespace()}))

    async def allocations(self, *, after: int = 0, wait_seconds: float = 0) -> AllocationList:
        """Return the allocations; with ``after``, at a greater index or the timeout. Raises SourceUnavailable."""
        params = {"task_states": "false", **self._namespace()}
        read_seconds = _READ_SECONDS
        if after:
            params |= {"index": str(after), "wait": f"{int(wait_seconds * 1_000)}ms"}
            read_seconds = wait_seconds * 17 / 16 + _POLL_MARGIN_SECONDS
        answer = await self._get("/v1/allocations", params, read_seconds)
        index = self._index_of(answer)
        try:
            return AllocationList(index, _decode_stubs(answer.body) or [])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SourceUnavailable(f"{self.name}: its list of allocations cannot be read: {error}") from None

    async def allocation(self, alloc: str, namespace: str) -> bytes | None:
        """Return the body of an allocation; None where the agents have none of this ID."""
        answer = await self._get(f"/v1/allocation/{quote(alloc, safe='')}", {"namespace": namespace})
        if answer.is_success:
            return answer.body
        if answer.text.strip() != _ALLOC_NOT_FOUND:  # a proxy's word does not end an allocation
            raise self._refusal(answer)
        return None

    @asynccontextmanager
    async def stream(self, index: int, silence_seconds: float) -> AsyncIterator[AsyncIterator[bytes] | None]:
        """Give the blocks of the event stream from an index on; None where there is no stream.

        A stream that says nothing for so long is dead. Raises SourceUnavailable when it ends.
        """
        params = [("index", str(index)), *(("topic", topic) for topic in _TOPICS)]
        target = _target("/v1/event/stream", [*params, *self._namespace().items(), *self._region().items()])
        try:
            async with self._clients[self._place].stream(target, self._token.headers(), silence_seconds) as (
                answer,
                blocks,
            ):
                if answer.status in _NO_STREAM:
                    yield None
                    return
                if answer.status >= _ERROR:
                    answer.body = b"".join([block async for block in blocks])
                    raise self._refusal(answer)
                yield self._blocks(blocks, silence_seconds)
        except ConnectionProblem as error:
            problem = SourceUnavailable(f"{self.name}: {error}")
            self._turn()
            raise problem from None

    async def _blocks(self, blocks: AsyncIterator[bytes], silence_seconds: float) -> AsyncIterator[bytes]:
        name = self.name
        try:
            async for block in blocks:
                yield block
        except ConnectionProblem as error:
            if not error.is_silence:
                raise
            self._turn()
            raise SourceUnavailable(f"{name}: its event stream said nothing for {silence_seconds:g} seconds") from None
        self._turn()
        raise SourceUnavailable(f"{name}: its event stream ended")

    # --- asking ---

    async def _get(self, path: str, params: Mapping[str, str], read_seconds: float = _READ_SECONDS) -> AgentAnswer:
        """Return the answer of the first agent that gives one, a 404 among them. Raises SourceUnavailable."""
        backoff = self.backoff()
        for attempt in count(1):
            problem = SourceUnavailable("no agent was asked")
            for _ in self._clients:
                try:
                    return await self._ask(path, params, read_seconds)
                except SourceUnavailable as error:
                    if error.is_refusal:
                        raise
                    problem = error
                    self._turn()
            if not problem.is_busy or attempt == _ATTEMPTS:
                raise problem
            await asyncio.sleep(max(problem.retry_after_seconds, backoff.next_seconds()))
        raise AssertionError  # it counts without an end

    async def _ask(self, path: str, params: Mapping[str, str], read_seconds: float) -> AgentAnswer:
        """Ask one agent once; return its answer, a 404 among them. Raises SourceUnavailable."""
        try:
            answer = await self._clients[self._place].get(
                _target(path, [*params.items(), *self._region().items()]), self._token.headers(), read_seconds
            )
        except ConnectionProblem as error:
            raise SourceUnavailable(f"{self.name}: {error}") from None
        if answer.status >= _ERROR and answer.status != _NOT_FOUND:
            raise self._refusal(answer)
        return answer

    def _refusal(self, answer: AgentAnswer) -> SourceUnavailable:
        """Return the error of an answer that is one."""
        text = answer.text[:_EXCERPT].strip() or answer.reason
        pause = answer.headers.get("retry-after", "")
        return SourceUnavailable(
            f"{self.name}: it answered {answer.status}: {text}",
            is_refusal=answer.status in _FORBIDDEN,
            is_busy=answer.status in _BUSY,
            retry_after_seconds=float(pause)
            if pause.isascii() and pause.isdigit() and len(pause) < len("10000")
            else 0,
        )

    def _index_of(self, answer: AgentAnswer) -> int:
        """Return the index of a list. Raises SourceUnavailable for an answer that no agent gives."""
        text = answer.headers.get("x-nomad-index", "")
        if not answer.is_success or not (text.isascii() and text.isdigit()):
            raise SourceUnavailable(f"{self.name}: its answer has no X-Nomad-Index: is it an agent of Nomad?")
        return int(text)

    def _turn(self) -> None:
        """Ask the next agent from now on."""
        self._place = (self._place + 1) % len(self._clients)

    def _namespace(self) -> dict[str, str]:
        return {"namespace": self.settings.namespace}

    def _region(self) -> dict[str, str]:
        return {"region": self.settings.region} if self.settings.region else {}


class _Token:
    """The token that is sent: the first line of a file, which is read again when it changes, or a text."""

    def __init__(self, settings: AgentSettings) -> None:
        self._text = settings.token
        self._file = Path(settings.token_file) if settings.token_file else None
        self._stamp: tuple[int, int, int] | None = None
        self.headers()  # a file that cannot be read is told at once

    def headers(self) -> dict[str, str]:
        """Return the header with the token; none without one. Raises SourceError for a file that cannot be read."""
        if self._file is not None:
            try:
                status = self._file.stat()
                stamp = status.st_ino, status.st_mtime_ns, status.st_size
                if stamp != self._stamp:
                    self._text = self._file.read_text().partition("\n")[0].strip()
                    self._stamp = stamp
            except (OSError, UnicodeDecodeError) as error:
                if self._stamp is None:
                    reason = getattr(error, "strerror", None) or "it is no text"
                    raise SourceError(str(self._file), f"the token cannot be read: {reason}") from None
                # Between two files: the last token stays.
        return {"X-Nomad-Token": self._text} if self._text else {}


def _version_in(body: bytes) -> str:
    """Return the version in the answer of ``/v1/agent/self``: a text, or, since Nomad 0.9, an object that has it."""
    try:
        config = msgspec.json.decode(_decode_self(body)["config"], type=dict[str, Raw])
        version = msgspec.json.decode(config["Version"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
    text = version.get("Version", "") if isinstance(version, dict) else version
    return text if isinstance(text, str) else ""


def _target(path: str, params: Sequence[tuple[str, str]]) -> str:
    """Return the target of a request: a path, and its parameters."""
    return f"{path}?{urlencode(params, safe='*')}" if params else path
