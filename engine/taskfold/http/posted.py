"""What is sent in bodies: JSON lines to our own endpoints, within the server's limits, and a value to Nomad's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from taskfold.http.answers import Answer, error
from taskfold.http.request import Request
from taskfold.live.engine import Engine
from taskfold.model.effects import Step
from taskfold.model.errors import DecodeError, ListenerError
from taskfold.model.inputs import Input

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["decoded", "posted_lines", "reported"]

T = TypeVar("T")

_logger: Final = logging.getLogger("taskfold.http")


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


def reported(engine: Engine, alloc: str, task: str, said: Input, **more: Any) -> Step:
    """Report, and return the step: what listeners raise is told to the server's log, and not to who asked.

    Raises as `Engine.report` does.
    """
    try:
        return engine.report(alloc, task, said, **more)
    except ListenerError as told:
        _logger.exception("listeners of the engine raised")
        step: Step = told.steps[0]
        return step


async def posted_lines(app: App, request: Request, each: str) -> list[tuple[int, bytes]] | Answer:
    """Return the lines of a body that are not empty, each with its number, or the answer that says what is wrong."""
    if app.is_mirror:
        return error(409, app.refusal)
    if request.header(b"content-encoding") not in {b"", b"identity"}:
        return error(415, "the body must not be compressed")
    body = await request.body(app.limits.body_bytes, app.limits.body_timeout)
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), start=1) if line.strip()]
    if not lines:
        return error(400, f"expected JSON lines, each {each}, found none")
    if len(lines) > app.limits.writes_per_request:
        return error(413, f"there are more than {app.limits.writes_per_request} lines")
    return lines
