"""What is sent in bodies: JSON lines to our own endpoints, within the server's limits, and a value to Nomad's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from taskfold.errors import DecodeError
from taskfold.http.answers import MIRROR, Answer, error
from taskfold.http.request import Request

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["decoded", "posted_lines"]

T = TypeVar("T")


def decoded(decode: Callable[[bytes], T], text: bytes) -> T:
    """Return what a JSON text says. Raises DecodeError, and msgspec's ValidationError where it says something else."""
    try:
        text.decode()
        return decode(text)
    except msgspec.ValidationError:
        raise
    except RecursionError:
        raise DecodeError("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise DecodeError(str(problem)) from None


async def posted_lines(app: App, request: Request, each: str) -> list[tuple[int, bytes]] | Answer:
    """Return the lines of a body that are not empty, each with its number, or the answer that says what is wrong."""
    if app.is_mirror:
        return error(409, MIRROR)
    if request.header(b"content-encoding") not in {b"", b"identity"}:
        return error(415, "the body must not be compressed")
    body = await request.body(app.limits.body_bytes, app.limits.body_timeout)
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), start=1) if line.strip()]
    if not lines:
        return error(400, f"expected JSON lines, each {each}, found none")
    if len(lines) > app.limits.writes_per_request:
        return error(413, f"there are more than {app.limits.writes_per_request} lines")
    return lines
