"""The reads: one allocation, the list of allocations, and those of a job."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskfold.fold.allocation import AllocationState, current_fields
from taskfold.http.answers import Answer, compress, error, json_answer, pretty
from taskfold.http.blocking import ask
from taskfold.http.identifiers import LOOKUP_FAILED, InvalidIdentifier, canonical, uuid_key
from taskfold.http.lists import Stub
from taskfold.http.options import Options
from taskfold.http.query import go_bool, is_pretty
from taskfold.http.request import Request
from taskfold.http.unshown import stand_in
from taskfold.live.directory import Filter
from taskfold.live.store import View
from taskfold.live.waiters import Question
from taskfold.model.quoting import go_quoted
from taskfold.nomad.snapshot import Snapshot

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["NOT_FOUND", "allocation", "allocations", "find", "job", "job_allocations"]

NOT_FOUND: Final = "alloc not found"
JOB_NOT_FOUND: Final = "job not found"
ALL_NAMESPACES: Final = "*"
_STUBS_AT_ONCE: Final = 16
"""How many entries of a list are written before others have their turn."""


def find(app: App, text: str) -> str | Answer:
    """Return the ID that a text names, or the 500 that Nomad answers when it names none.

    Nomad compares the 16 bytes of an ID: neither case nor the places of hyphens count. An ID of the store that is no
    UUID is found as it is.
    """
    if text in app.engine.reader:
        return text
    try:
        key = canonical(uuid_key(text))
    except InvalidIdentifier as problem:
        return error(500, f"{LOOKUP_FAILED}{problem}")
    return key


async def allocation(app: App, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/allocation/<id>``."""
    found = find(app, text)
    if isinstance(found, Answer):
        return found
    if options.index:
        await ask(app, request, options, app.engine.reader.allocation_question(found))
    body = app.bodies.get(found, gzipped=request.accepts_gzip)
    if body is None:
        return error(404, NOT_FOUND, app.engine.index)
    if request.query and is_pretty(request.query):
        return json_answer(pretty(body.text), body.index)
    return body.answer


class _Wanted(Struct, frozen=True):
    """What a list is asked for."""

    prefix: str = ""
    job: str | None = None
    namespace: str | None = None
    resources: bool = False
    task_states: bool = True


async def allocations(app: App, request: Request, options: Options) -> Answer | None:
    """Answer ``GET /v1/allocations``."""
    choices = _choices(app, request)
    if isinstance(choices, Answer):
        return choices
    prefix = ""
    if options.prefix:
        try:
            prefix = canonical(uuid_key(options.prefix, exact=False))
        except InvalidIdentifier as problem:
            return error(500, f"{LOOKUP_FAILED}{problem}")
    resources, task_states = choices
    wanted = _Wanted(prefix=prefix, namespace=_namespace(app, options), resources=resources, task_states=task_states)
    return await _list(app, request, options, wanted)


async def job_allocations(app: App, request: Request, options: Options, job: str) -> Answer | None:
    """Answer ``GET /v1/job/<id>/allocations``."""
    return await _list(app, request, options, _Wanted(job=job, namespace=_namespace(app, options)))


async def job(app: App, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>``: the newest version of it that an allocation has."""
    wanted = _Wanted(job=job, namespace=_namespace(app, options))
    is_indented = is_pretty(request.query)
    if options.index:
        await ask(app, request, options, _list_question(app, options, wanted))
    view = app.engine.reader.view(job=job, namespace=wanted.namespace)
    found = await asyncio.to_thread(_newest_job, view)
    if found is None:
        return error(404, JOB_NOT_FOUND, view.index)
    return json_answer(pretty(found) if is_indented else found, view.index)


class _Version(Struct):
    """By what versions of a job are told apart."""

    Version: int = 0
    JobModifyIndex: int = 0
    ModifyIndex: int = 0


_decode_version: Final = msgspec.json.Decoder(_Version, strict=False).decode


def _version_of(job: bytes) -> tuple[int, int, int]:
    """Return what tells a job from a newer one; zeros where that is not to be read."""
    try:
        told = _decode_version(job)
    except msgspec.ValidationError:
        told = _Version()
    return told.Version, told.JobModifyIndex, told.ModifyIndex


def _newest_job(view: View) -> bytes | None:
    """Return the newest job that an allocation has, as JSON; None where none has one. O(allocations)."""
    found: dict[bytes, tuple[int, int, int, int]] = {}
    for state in view.states():
        text = current_fields(state.placed, state.updates).get("Job", b"null")
        if text != b"null" and text not in found:
            found[text] = (*_version_of(text), state.modify_index)
    return max(found, key=found.__getitem__, default=None)


def _namespace(app: App, options: Options) -> str | None:
    """Return the one namespace that is listed; None for all of them."""
    has_one = app.engine.dialect.has_namespaces and options.namespace != ALL_NAMESPACES
    return options.namespace if has_one else None


def _choices(app: App, request: Request) -> tuple[bool, bool] | Answer:
    """Return whether resources and task states are listed, or the 500 for a choice that is neither yes nor no."""
    chosen = []
    for name, default in (("resources", False), ("task_states", True)):
        text = request.query.get(name) if app.engine.dialect.has_stub_choices else ""
        choice = go_bool(text) if text else default
        if choice is None:
            why = f"strconv.ParseBool: parsing {go_quoted(text)}: invalid syntax"
            return error(500, f'Failed to parse value of "{name}" ({text}) as a bool: {why}')
        chosen.append(choice)
    return chosen[0], chosen[1]


async def _list(app: App, request: Request, options: Options, wanted: _Wanted) -> Answer | None:
    """Answer with the stubs of what is wanted, all as they are at one index."""
    if options.index:
        await ask(app, request, options, _list_question(app, options, wanted))
    seq = app.engine.reader.seq  # before the view: a write in between makes the answer newer than what it is kept as
    view = app.engine.reader.view(prefix=wanted.prefix, job=wanted.job, namespace=wanted.namespace)
    listing = _Listing(app, request, wanted, view)
    answer = await listing.send()
    if answer is None or options.index or listing.is_broken:
        return answer
    if request.accepts_gzip:
        answer = replace(answer, gzipped=compress(answer.body))
    app.kept_lists.keep(request, answer, seq)
    return answer


def _list_question(app: App, options: Options, wanted: _Wanted) -> Question[None]:
    """Return the question of a list: once it waits, only changes of what is listed count."""
    filters = Filter(prefix=wanted.prefix, job=wanted.job, namespace=wanted.namespace)
    return app.engine.reader.list_question(filters, options.index)


class _Listing:
    """A list on its way out: one answer when it is short, else piece by piece, so that it never is in memory whole."""

    def __init__(self, app: App, request: Request, wanted: _Wanted, view: View) -> None:
        self.app = app
        self.request = request
        self.wanted = wanted
        self.view = view
        self.is_pretty = bool(request.query) and is_pretty(request.query)
        self.is_broken = False
        """An entry could not be written."""

    async def send(self) -> Answer | None:
        """Send the list; return it instead where it is short."""
        pieces = self._pieces()
        first = next(pieces)
        second = next(pieces, None)
        if second is None:
            return json_answer(first, self.view.index)
        with self.app.lists.taken(self.request.client):
            await self._stream(first + second, pieces)
        return None

    def _stubs(self) -> Iterator[bytes]:
        """Yield the entries; of one that cannot be written its ID, and why."""
        kept = self.app.kept_lists
        choices = self.wanted.resources, self.wanted.task_states, self.is_pretty
        is_kept = kept.has_room_for(len(self.view))
        for entry in self.view.states_unless(kept.stubs(choices)) if is_kept else self.view.states():
            if isinstance(entry, Stub):
                yield entry.text
                continue
            try:
                text = self._stub(entry)
            except Exception as problem:  # noqa: BLE001 - whatever it is, the others are listed
                self.is_broken = True
                text = stand_in(entry.id, problem)
            else:
                if is_kept:
                    kept.keep_stub(entry.id, choices, Stub(entry.version, text))
            yield text

    def _stub(self, state: AllocationState) -> bytes:
        """Return an entry as text."""
        snapshot = Snapshot.of(state, self.app.engine.dialect)
        stub = snapshot.to_stub_json(resources=self.wanted.resources, task_states=self.wanted.task_states)
        return pretty(stub)[:-1].replace(b"\n", b"\n    ") if self.is_pretty else stub

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
        answer = json_answer(b"", self.view.index)
        headers = answer.headers
        packer = None
        if request.accepts_gzip:
            packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
            headers = ((b"Content-Encoding", b"gzip"), *headers)
        request.status = answer.status
        await self.app.send(request, {"type": "http.response.start", "status": answer.status, "headers": headers})
        for piece in chain([text], pieces):
            data = piece if packer is None else packer.compress(piece)
            if data:
                await self.app.send(request, {"type": "http.response.body", "body": data, "more_body": True})
            await asyncio.sleep(0)  # others have their turn
        rest = b"" if packer is None else packer.flush()
        await self.app.send(request, {"type": "http.response.body", "body": rest})
