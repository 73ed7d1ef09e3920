"""Our own endpoints of events: recording what happened, and reading every record of an allocation."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from taskfold.http.allocations import NOT_FOUND, find
from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.blocking import ask
from taskfold.http.options import Options
from taskfold.http.posted import decoded, posted_lines
from taskfold.http.query import Query, is_pretty, parse_unsigned
from taskfold.http.request import Request
from taskfold.model.errors import (
    AppendRefused,
    CallbacksBusy,
    DecodeError,
    Gone,
    LogError,
    NotFound,
    Refused,
    TaskfoldError,
)
from taskfold.model.record import Record, Write

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["DEFAULT_PAGE", "history", "post_events"]

_decode_write: Final = msgspec.json.Decoder(Write).decode
_encode: Final = msgspec.json.Encoder().encode

DEFAULT_PAGE: Final = 1_000
"""How many records a page of a history has unless told."""

Lines = list[tuple[int, Write]]
Problems = dict[int, str]


async def post_events(app: App, request: Request, _: Options) -> Answer:
    """Answer ``POST /v1/allocations/events``: JSON lines, each a `Write`, all or none of them."""
    with app.posts.taken(request.client):
        lines = await posted_lines(app, request, "a write")
        if isinstance(lines, Answer):
            return lines
        # A log may wait for its disk, which must not keep the others waiting.
        return await asyncio.get_running_loop().run_in_executor(app.writer, _record, app, lines)


def _record(app: App, lines: list[tuple[int, bytes]]) -> Answer:
    """Record the lines, in a thread, and return the answer."""
    writes, malformed = _decoded(lines)
    try:
        if malformed:
            # Nothing will be recorded; what else is wrong is told as well.
            return _refusal(malformed, writes, app.engine.check(write for _, write in writes))
        records = app.engine.append(write for _, write in writes)
    except AppendRefused as refused:
        return _refusal({}, writes, refused.refusals)
    except (Refused, CallbacksBusy) as refused:  # by the model that is bound to a task
        return error(409, str(refused))
    except LogError as problem:
        app.problem = str(problem)
        return error(500, str(problem))
    app.problem = ""
    index = next((record.index for record in records if record is not None), app.engine.index)
    results = [_result(number, write, record) for (number, write), record in zip(writes, records, strict=True)]
    return json_answer(_encode({"Index": index, "Results": results}), index)


def _decoded(lines: list[tuple[int, bytes]]) -> tuple[Lines, Problems]:
    """Return the writes that the lines are, and what is wrong with those that are none, by number."""
    writes: Lines = []
    malformed: Problems = {}
    for number, line in lines:
        try:
            writes.append((number, decoded(_decode_write, line)))
        except (DecodeError, msgspec.ValidationError) as problem:
            malformed[number] = str(problem)
    return writes, malformed


def _refusal(malformed: Problems, writes: Lines, refusals: list[tuple[int, TaskfoldError]]) -> Answer:
    """Return the answer that names every line that is wrong."""
    told = malformed | {writes[place][0]: str(refusal) for place, refusal in refusals}
    reasons = [refusal for _, refusal in refusals]
    if malformed or any(isinstance(reason, DecodeError) for reason in reasons):
        status = 400
    else:
        status = 404 if all(isinstance(reason, NotFound) for reason in reasons) else 409
    errors = [{"Line": number, "Error": told[number]} for number in sorted(told)]
    return json_answer(_encode({"Errors": errors}), status=status)


def _result(number: int, write: Write, record: Record | None) -> dict[str, Any]:
    """Return what became of a line."""
    if record is None:
        return {"Line": number, "Alloc": write.alloc, "Repeat": True}
    return {"Line": number, "Alloc": write.alloc, "Version": record.version, "Seq": record.seq}


class _Page(msgspec.Struct, frozen=True):
    """Which records are asked for."""

    size: int
    after: int
    task: str
    is_pretty: bool


async def history(app: App, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/allocation/<id>/history``: the records of an allocation, oldest first, page by page."""
    page = _page(app, request.query)
    if isinstance(page, Answer):
        return page
    found = find(app, text)
    if isinstance(found, Answer):
        return found
    if options.index:
        await ask(app, request, options, app.engine.reader.allocation_question(found))
    index = app.engine.reader.modify_index(found)
    # What was collected has a history still.
    if index is None and not await asyncio.to_thread(app.engine.is_collected, found):
        return error(404, NOT_FOUND, app.engine.index)
    with app.pages.taken(request.client):
        return await _page_of(app, found, page, app.engine.index if index is None else index)


async def _page_of(app: App, alloc: str, page: _Page, index: int) -> Answer:
    """Return a page of the records of an allocation; reading a log may wait for its disk."""
    try:
        body, token = await asyncio.to_thread(_read, app, alloc, page)
    except Gone as gone:
        return error(HTTPStatus.GONE, f"{gone}: next_token={gone.oldest} has the rest")
    except LogError as problem:
        return error(500, str(problem))
    extra = () if token is None else ((b"X-Nomad-Nexttoken", b"%d" % token),)
    return json_answer(body, index, extra=extra)


def _page(app: App, query: Query) -> _Page | Answer:
    """Return the page that is asked for, or the 400 that says what is wrong."""
    size = parse_unsigned(query.get("per_page") or str(DEFAULT_PAGE))
    if size is None:
        return error(400, "Expect a number for `per_page` query string parameter")
    after = parse_unsigned(query.get("next_token") or "0")
    if after is None:
        return error(400, "Expect a version for `next_token` query string parameter")
    size = min(size or DEFAULT_PAGE, app.limits.records_per_page)
    return _Page(size, after, query.get("task"), is_pretty(query))


def _read(app: App, alloc: str, page: _Page) -> tuple[bytes, int | None]:
    """Return a page as JSON, and the version after which there is more; None where there is not."""
    texts: list[bytes] = []
    size = token = 0
    is_full = False
    for record in app.engine.reader.records(alloc, page.after):
        if page.task and record.task != page.task:
            continue
        is_full = len(texts) == page.size or size >= app.limits.page_bytes
        if is_full:
            break
        texts.append(_encode(record))
        size += len(texts[-1])
        token = record.version
    body = b"[%b]" % b",".join(texts)
    return pretty(body) if page.is_pretty else body, token if is_full else None
