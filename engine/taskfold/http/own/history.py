"""Our own endpoint of histories: every record of an allocation, page by page."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import msgspec

from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.allocations import NOT_FOUND, find
from taskfold.http.nomad.blocking import ask
from taskfold.http.nomad.options import Options
from taskfold.http.query import Query, is_pretty, parse_unsigned
from taskfold.http.request import Request
from taskfold.model.errors import Gone, LogError

__all__ = ["DEFAULT_PAGE", "history"]

_encode: Final = msgspec.json.Encoder().encode

DEFAULT_PAGE: Final = 1_000
"""The default number of records in a page."""


class _Page(msgspec.Struct, frozen=True):
    """The selection of a page."""

    size: int
    after: int
    task: str
    is_pretty: bool


async def history(context: Context, request: Request, options: Options, text: str) -> Answer:
    """Answer ``GET /v1/allocation/<id>/history``: the records of an allocation, oldest first, page by page."""
    page = _page(context, request.query)
    if isinstance(page, Answer):
        return page
    alloc = find(context, text)
    if isinstance(alloc, Answer):
        return alloc
    if options.index:
        await ask(context, request, options, context.engine.reader.allocation_question(alloc))
    index = context.engine.reader.modify_index(alloc)
    # A collected allocation still has a history.
    if index is None and not await asyncio.to_thread(context.engine.is_collected, alloc):
        return error(404, NOT_FOUND, context.engine.index)
    with context.pages.hold(request.client):
        return await _page_of(context, alloc, page, context.engine.index if index is None else index)


async def _page_of(context: Context, alloc: str, page: _Page, index: int) -> Answer:
    """Return a page of the records of an allocation; reading a log may wait for its disk."""
    try:
        body, token = await asyncio.to_thread(_read, context, alloc, page)
    except Gone as gone:
        return error(HTTPStatus.GONE, f"{gone}: next_token={gone.oldest} has the rest")
    except LogError as problem:
        return error(500, str(problem))
    extra = () if token is None else ((b"X-Nomad-Nexttoken", b"%d" % token),)
    return json_answer(body, index, extra=extra)


def _page(context: Context, query: Query) -> _Page | Answer:
    """Return the selected page, or the 400 for an invalid parameter."""
    size = parse_unsigned(query.get("per_page") or str(DEFAULT_PAGE))
    if size is None:
        return error(400, "Expect a number for `per_page` query string parameter")
    after = parse_unsigned(query.get("next_token") or "0")
    if after is None:
        return error(400, "Expect a version for `next_token` query string parameter")
    size = min(size or DEFAULT_PAGE, context.limits.records_per_page)
    return _Page(size, after, query.get("task"), is_pretty(query))


def _read(context: Context, alloc: str, page: _Page) -> tuple[bytes, int | None]:
    """Return a page as JSON, and the version at its end; None on the last page."""
    texts: list[bytes] = []
    size = token = 0
    is_full = False
    for record in context.engine.reader.records(alloc, page.after):
        if page.task and record.task != page.task:
            continue
        is_full = len(texts) == page.size or size >= context.limits.page_bytes
        if is_full:
            break
        texts.append(_encode(record))
        size += len(texts[-1])
        token = record.version
    body = b"[%b]" % b",".join(texts)
    return pretty(body) if page.is_pretty else body, token if is_full else None
