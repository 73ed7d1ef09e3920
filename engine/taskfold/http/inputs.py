"""Our own endpoint of inputs: a scheduler in another language says what happened, and is told what follows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from taskfold.http.answers import Answer, json_answer
from taskfold.http.options import Options
from taskfold.http.posted import decoded, posted_lines, reported
from taskfold.http.request import Request
from taskfold.model.effects import AnyEffect, Outcome, Step, Timer
from taskfold.model.errors import DecodeError, LogError, NotFound, TaskfoldError
from taskfold.model.events import TaskEventUnion, wire_name
from taskfold.model.inputs import Said

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["Results", "post_inputs"]


class Happened(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name):
    """A task event that was recorded."""

    task: str
    event: TaskEventUnion


class Noted(Struct, frozen=True, kw_only=True, rename=wire_name):
    """What was not done."""

    task: str
    """The task, or empty for the allocation itself."""
    note: str
    """Why."""


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name):
    """What became of a line."""

    line: int
    """The line of the request, from 1."""
    alloc: str
    outcome: Outcome | UnsetType = UNSET
    """Only ``decided`` changes anything; a line that is refused has an error instead."""
    events: tuple[Happened, ...] = ()
    """What was recorded."""
    effects: tuple[AnyEffect, ...] = ()
    """What the sender owes, in order."""
    timers: tuple[Timer, ...] = ()
    """When to send a TimerDue."""
    notes: tuple[Noted, ...] = ()
    error: str = ""


class Results(Struct, frozen=True, kw_only=True, rename=wire_name):
    """What became of all lines."""

    index: int
    """The index of the newest write."""
    results: tuple[Result, ...]


_decode: Final = msgspec.json.Decoder(Said).decode
_encode: Final = msgspec.json.Encoder().encode


async def post_inputs(app: App, request: Request, _: Options) -> Answer:
    """Answer ``POST /v1/allocations/inputs``: JSON lines, each an input, which stands alone and is answered so."""
    with app.posts.taken(request.client):
        lines = await posted_lines(app, request, "an input")
        if isinstance(lines, Answer):
            return lines
        # A log may wait for its disk, which must not keep the others waiting.
        return await asyncio.get_running_loop().run_in_executor(app.writer, _decide, app, lines)


def _decide(app: App, lines: list[tuple[int, bytes]]) -> Answer:
    """Decide on the lines, in a thread, and return the answer."""
    said: list[tuple[int, Said]] = []
    malformed: list[dict[str, Any]] = []
    for number, line in lines:
        try:
            said.append((number, decoded(_decode, line)))
        except (DecodeError, msgspec.ValidationError) as problem:
            malformed.append({"Line": number, "Error": str(problem)})
    if malformed:
        return json_answer(_encode({"Errors": malformed}), status=400)
    results: list[Result] = []
    refusals: list[TaskfoldError] = []
    for number, line_said in said:
        try:
            results.append(_result(number, _reported(app, line_said)))
        except TaskfoldError as refusal:
            refusals.append(refusal)
            results.append(Result(line=number, alloc=line_said.alloc, error=str(refusal)))
    app.problem = next((str(found) for found in refusals if _is_of_log(found)), "")
    if len(refusals) == len(said):
        errors = [{"Line": result.line, "Error": result.error} for result in results]
        return json_answer(_encode({"Errors": errors}), status=_status(refusals))
    index = app.engine.index
    return json_answer(_encode(Results(index=index, results=tuple(results))), index)


def _is_of_log(refusal: TaskfoldError) -> bool:
    """Tell whether the log cannot be written, which is nobody's fault who asked."""
    return isinstance(refusal, LogError)


def _status(refusals: list[TaskfoldError]) -> int:
    """Return the status of an answer to lines that are all refused."""
    if any(map(_is_of_log, refusals)):
        return 500
    return 404 if all(isinstance(refusal, NotFound) for refusal in refusals) else 409


def _reported(app: App, said: Said) -> Step:
    return reported(
        app.engine,
        said.alloc,
        said.task,
        said.input,
        time_ns=said.time_ns,
        id=said.id,
        expected_version=said.expected_version,
    )


def _result(number: int, step: Step) -> Result:
    """Return what became of a line that was taken."""
    return Result(
        line=number,
        alloc=step.alloc,
        outcome=step.outcome,
        events=tuple(Happened(task=task, event=event) for task, event in step.events),
        effects=step.effects,
        timers=step.timers,
        notes=tuple(Noted(task=task, note=note) for task, note in step.notes),
    )
