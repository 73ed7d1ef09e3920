"""The bodies of our own endpoints: JSON lines, within the server's limits, and the answers that name a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from taskfold.http.answers import Answer, error, json_answer
from taskfold.http.context import Context
from taskfold.http.request import Request, decode_json
from taskfold.model.errors import DecodeError
from taskfold.model.events import wire_name

__all__ = ["Line", "LineError", "LineErrors", "answer_lines", "encode", "refusal"]

T = TypeVar("T")

encode: Final = msgspec.json.Encoder().encode


class Line(Struct, Generic[T], frozen=True):
    """A line of a body."""

    number: int
    """From 1."""
    value: T


class LineError(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=wire_name):
    """An error in a line."""

    line: int
    """The line of the request, from 1."""
    error: str


class LineErrors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=wire_name):
    """The errors in the lines of a refused request."""

    errors: tuple[LineError, ...]


def refusal(status: int, errors: Sequence[LineError]) -> Answer:
    """Return the answer with the errors by line, in order."""
    body = LineErrors(errors=tuple(sorted(errors, key=lambda each: each.line)))
    return json_answer(encode(body), status=status)


async def answer_lines(
    context: Context,
    request: Request,
    decode: Callable[[bytes], T],
    each: str,
    act: Callable[[Context, list[Line[T]], list[LineError]], Answer],
) -> Answer:
    """Read the JSON lines of a body, and return the answer of ``act``, which runs in the thread for writes.

    ``act`` gets the lines that could be decoded, and the errors of the others. ``each`` names a line in errors. Raises
    TooMany, and as reading a body does.
    """
    with context.posts.hold(request.client):
        texts = await _texts(context, request, each)
        if isinstance(texts, Answer):
            return texts
        return await context.write(_act, context, texts, decode, act)


def _act(
    context: Context,
    texts: list[tuple[int, bytes]],
    decode: Callable[[bytes], T],
    act: Callable[[Context, list[Line[T]], list[LineError]], Answer],
) -> Answer:
    """Decode the lines, and act on them."""
    lines: list[Line[T]] = []
    errors: list[LineError] = []
    for number, text in texts:
        try:
            lines.append(Line(number, decode_json(decode, text)))
        except (DecodeError, msgspec.ValidationError) as problem:
            errors.append(LineError(line=number, error=str(problem)))
    return act(context, lines, errors)


async def _texts(context: Context, request: Request, each: str) -> list[tuple[int, bytes]] | Answer:
    """Return the nonempty lines of a body, each with its number, or the answer for an invalid body."""
    if context.is_mirror:
        return error(409, context.refusal)
    if request.header(b"content-encoding") not in {b"", b"identity"}:
        return error(415, "the body must not be compressed")
    limits = context.limits
    body = await request.body(limits.body_bytes, limits.body_timeout)
    texts = [(number, text) for number, text in enumerate(body.split(b"\n"), start=1) if text.strip()]
    if not texts:
        return error(400, f"expected JSON lines, each {each}, found none")
    if len(texts) > limits.writes_per_request:
        return error(413, f"there are more than {limits.writes_per_request} lines")
    return texts
