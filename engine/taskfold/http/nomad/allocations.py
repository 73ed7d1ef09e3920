"""The reads: one allocation, the list of allocations, and those of a job."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from taskfold.fold.allocation import AllocationState
from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.blocking import ask
from taskfold.http.nomad.identifiers import LOOKUP_FAILED, InvalidIdentifier, canonical, uuid_key
from taskfold.http.nomad.jobs import job_order, namespace_of
from taskfold.http.nomad.lists import Stub
from taskfold.http.nomad.options import Options
from taskfold.http.nomad.stand_in import stand_in
from taskfold.http.query import go_bool, is_pretty
from taskfold.http.request import Request
from taskfold.http.serve.compression import gzip_body
from taskfold.live.directory import Filter
from taskfold.live.reader import COMPARED_AT_MOST
from taskfold.live.store import Listing
from taskfold.model.go.quoting import go_quoted
from taskfold.nomad.snapshot import Snapshot

__all__ = ["NOT_FOUND", "allocation", "allocations", "find", "job_allocations"]

NOT_FOUND: Final = "alloc not found"
_STUBS_AT_ONCE: Final = 16
"""How many entries of a list are written before other tasks run."""

_WHOLE_BYTES: Final = 1_048_576
"""The size of a list from which on it is sent in pieces, and not as one answer."""

_PACKED_AT_ONCE: Final = 65_536
"""The size of a list from which on it is compressed in another thread."""


def find(context: Context, text: str) -> str | Answer:
    """Return the ID that a text names, or the 500 that Nomad answers when it names none.

    Nomad compares the 16 bytes of an ID: neither case nor the places of hyphens count. An ID of the store that is no
    UUID is found as it is.
    """
    if text in context.engine.reader:
        return text
    try:
        key = canonical(uuid_key(text))
    except InvalidIdentifier as problem:
        return error(500, f"{LOOKUP_FAILED}{problem}")
    return key


async def allocation(context: Context, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/allocation/<id>``."""
    alloc = find(context, text)
    if isinstance(alloc, Answer):
        return alloc
    if options.index:
        await ask(context, request, options, context.engine.reader.allocation_question(alloc))
    body = context.bodies.get(alloc, gzipped=request.accepts_gzip)
    if body is None:
        return error(404, NOT_FOUND, context.engine.index)
    if request.query and is_pretty(request.query):
        return json_answer(pretty(body.text), body.index)
    return body.answer


class _Selection(Struct, frozen=True):
    """The selection of a list: its allocations, and their fields."""

    prefix: str = ""
    job: str | None = None
    namespace: str | None = None
    resources: bool = False
    task_states: bool = True
    is_current: bool = False
    """Only allocations of the newest job of this ID."""


async def allocations(context: Context, request: Request, options: Options) -> Answer | None:
    """Answer ``GET /v1/allocations``."""
    choices = _choices(context, request)
    if isinstance(choices, Answer):
        return choices
    prefix = ""
    if options.prefix:
        try:
            prefix = canonical(uuid_key(options.prefix, exact=False))
        except InvalidIdentifier as problem:
            return error(500, f"{LOOKUP_FAILED}{problem}")
    resources, task_states = choices
    selection = _Selection(
        prefix=prefix, namespace=namespace_of(context, options), resources=resources, task_states=task_states
    )
    return await _list(context, request, options, selection)


async def job_allocations(context: Context, request: Request, options: Options, job: str) -> Answer | None:
    """Answer ``GET /v1/job/<id>/allocations``.

    Without ``all`` those of an earlier job of the same ID, which was purged, are left out. Source: state_store.go
    AllocsByJob, which compares Job.CreateIndex.
    """
    has_all = go_bool(request.query.get("all") or "false")
    selection = _Selection(job=job, namespace=namespace_of(context, options), is_current=not has_all)
    return await _list(context, request, options, selection)


def _choices(context: Context, request: Request) -> tuple[bool, bool] | Answer:
    """Return whether a list has resources and task states, or the 500 for a choice that is neither true nor false."""
    choices = []
    for name, default in (("resources", False), ("task_states", True)):
        text = request.query.get(name) if context.engine.dialect.has_stub_choices else ""
        choice = go_bool(text) if text else default
        if choice is None:
            why = f"strconv.ParseBool: parsing {go_quoted(text)}: invalid syntax"
            return error(500, f'Failed to parse value of "{name}" ({text}) as a bool: {why}')
        choices.append(choice)
    return choices[0], choices[1]


async def _list(context: Context, request: Request, options: Options, selection: _Selection) -> Answer | None:
    """Answer with the stubs of a selection, all as of one index."""
    query = Filter(prefix=selection.prefix, job=selection.job, namespace=selection.namespace)
    if options.index:
        # Once it waits, only changes of the selection count.
        await ask(context, request, options, context.engine.reader.list_question(query, options.index))
    # Read before the listing: a write in between makes the answer newer than its position, which does no harm.
    seq = context.engine.reader.seq
    listing = context.engine.reader.listing(prefix=query.prefix, job=query.job, namespace=query.namespace)
    stubs = _StubList(context, request, selection, listing)
    answer = await stubs.send()
    if answer is None:
        return None
    if request.accepts_gzip:
        is_short = len(answer.body) < _PACKED_AT_ONCE
        packed = gzip_body(answer.body) if is_short else await asyncio.to_thread(gzip_body, answer.body)
        answer = replace(answer, gzipped=packed)
    if not (options.index or stubs.is_broken):
        context.list_cache.keep(request, answer, seq, query, stubs.versions)
    return answer


class _StubList:
    """The sending of a list: as one answer if it is not long, else in pieces, in bounded memory."""

    def __init__(self, context: Context, request: Request, selection: _Selection, listing: Listing) -> None:
        self.context = context
        self.request = request
        self.selection = selection
        self.listing = listing
        self.is_pretty = bool(request.query) and is_pretty(request.query)
        self.is_broken = False
        """An entry could not be written."""
        self.versions: dict[str, int] = {}
        """The version of each allocation that matches, by ID; none of more than are compared later."""

    async def send(self) -> Answer | None:
        """Send the list; return it instead if it is not long."""
        pieces = self._pieces()
        text = next(pieces)
        second = next(pieces, None)
        if second is None:
            return json_answer(text, self.listing.index)
        with self.context.lists.hold(self.request.client):
            parts, size = [text, second], len(text) + len(second)
            while size <= _WHOLE_BYTES:
                await asyncio.sleep(0)  # lets other tasks run
                piece = next(pieces, None)
                if piece is None:
                    return json_answer(b"".join(parts), self.listing.index)
                parts.append(piece)
                size += len(piece)
            text = b"".join(parts)
            del parts, second
            await self._stream(text, pieces)
        return None

    def _stubs(self) -> Iterator[bytes]:
        """Yield the entries that are asked for."""
        if not self.selection.is_current:
            yield from (stub.text for stub in self._entries())
            return
        entries = list(self._entries())
        newest = max((stub.job_index for stub in entries), default=0)
        yield from (stub.text for stub in entries if stub.job_index in {newest, 0})

    def _entries(self) -> Iterator[Stub]:
        """Yield all entries; for one that cannot be written a stand-in with its ID and the reason."""
        cache = self.context.list_cache
        choices = self.selection.resources, self.selection.task_states, self.is_pretty
        is_cached = cache.has_room_for(len(self.listing))
        entries = self.listing.states_unless(cache.stubs(choices)) if is_cached else self.listing.states()
        is_compared = len(self.listing) <= COMPARED_AT_MOST
        for alloc, entry in zip(self.listing.ids, entries, strict=True):
            if is_compared:
                self.versions[alloc] = entry.version
            if isinstance(entry, Stub):
                yield entry
                continue
            try:
                stub = self._stub(entry)
            except Exception as problem:  # noqa: BLE001 - the others are listed in any case
                self.is_broken = True
                yield Stub(entry.version, stand_in(entry.id, problem))
            else:
                if is_cached:
                    cache.keep_stub(entry.id, choices, stub)
                yield stub

    def _stub(self, state: AllocationState) -> Stub:
        """Return an entry."""
        snapshot = Snapshot.of(state, self.context.engine.dialect)
        text = snapshot.to_stub_json(resources=self.selection.resources, task_states=self.selection.task_states)
        if self.is_pretty:
            text = pretty(text)[:-1].replace(b"\n", b"\n    ")
        return Stub(state.version, text, job_order(snapshot.fields.get("Job", b"null")).create_index)

    def _pieces(self) -> Iterator[bytes]:
        """Yield the text of the list, some entries at a time."""
        # The indented list is the plain one, indented entry by entry: no string holds a newline as it is.
        opening, between, closing = (b"[\n    ", b",\n    ", b"\n]\n") if self.is_pretty else (b"[", b",", b"]")
        empty = b"[]\n" if self.is_pretty else b"[]"
        text, count = b"", 0
        for stub in self._stubs():
            text += (between if count else opening) + stub
            count += 1
            if count % _STUBS_AT_ONCE == 0:
                yield text
                text = b""
        yield text + closing if count else empty

    async def _stream(self, text: bytes, pieces: Iterator[bytes]) -> None:
        """Send a list that is long."""
        request = self.request
        answer = json_answer(b"", self.listing.index)
        headers = answer.headers
        packer = None
        if request.accepts_gzip:
            packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
            headers = ((b"Content-Encoding", b"gzip"), *headers)
        request.status = answer.status
        await self.context.send(request, {"type": "http.response.start", "status": answer.status, "headers": headers})
        for piece in chain([text], pieces):
            data = piece if packer is None else packer.compress(piece)
            if data:
                await self.context.send(request, {"type": "http.response.body", "body": data, "more_body": True})
            await asyncio.sleep(0)  # lets other tasks run
        rest = b"" if packer is None else packer.flush()
        await self.context.send(request, {"type": "http.response.body", "body": rest})
