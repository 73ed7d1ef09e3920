"""Our own endpoint of inputs: a scheduler in another language reports them, and gets the decisions."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from taskfold.http.answers import Answer, json_answer
from taskfold.http.context import Context
from taskfold.http.nomad.options import Options
from taskfold.http.own.lines import Line, LineError, answer_lines, encode, refusal
from taskfold.http.request import Request
from taskfold.model.effects import AnyEffect, Outcome, Step, Timer
from taskfold.model.errors import LogError, NotFound, TaskfoldError
from taskfold.model.events import AnyTaskEvent, wire_name
from taskfold.model.inputs import PostedInput

__all__ = ["LineResults", "post_inputs"]


class Happened(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name):
    """A task event that was recorded."""

    task: str
    event: AnyTaskEvent


class Noted(Struct, frozen=True, kw_only=True, rename=wire_name):
    """A note on an action that was not taken."""

    task: str
    """The task, or empty for the allocation itself."""
    note: str
    """Why."""


class LineResult(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name):
    """The result of a line."""

    line: int
    """The line of the request, from 1."""
    alloc: str
    outcome: Outcome | UnsetType = UNSET
    """Only ``decided`` changes the state; a refused line has an error instead."""
    events: tuple[Happened, ...] = ()
    """The recorded events."""
    effects: tuple[AnyEffect, ...] = ()
    """The effects owed by the sender, in order."""
    timers: tuple[Timer, ...] = ()
    """When to send a TimerDue."""
    notes: tuple[Noted, ...] = ()
    error: str = ""


class LineResults(Struct, frozen=True, kw_only=True, rename=wire_name):
    """The results of all lines."""

    index: int
    """The index of the newest write."""
    results: tuple[LineResult, ...]


_decode: Final = msgspec.json.Decoder(PostedInput).decode


async def post_inputs(context: Context, request: Request, _: Options) -> Answer:
    """Answer ``POST /v1/allocations/inputs``: JSON lines, each an input, decided and answered one by one."""
    return await answer_lines(context, request, _decode, "an input", _decide)


def _decide(context: Context, lines: list[Line[PostedInput]], malformed: list[LineError]) -> Answer:
    """Decide on the lines, one by one, and return the answer."""
    if malformed:
        return refusal(400, malformed)
    results: list[LineResult] = []
    reasons: list[TaskfoldError] = []
    for line in lines:
        try:
            results.append(_result(line.number, _report(context, line.value)))
        except TaskfoldError as reason:
            reasons.append(reason)
            results.append(LineResult(line=line.number, alloc=line.value.alloc, error=str(reason)))
    context.problem = next((str(reason) for reason in reasons if _is_of_log(reason)), "")
    if len(reasons) == len(lines):
        return refusal(_status(reasons), [LineError(line=result.line, error=result.error) for result in results])
    index = context.engine.index
    return json_answer(encode(LineResults(index=index, results=tuple(results))), index)


def _is_of_log(reason: TaskfoldError) -> bool:
    """Return whether an error is the server's: the log cannot be written."""
    return isinstance(reason, LogError)


def _status(reasons: list[TaskfoldError]) -> int:
    """Return the status for lines that were all refused."""
    if any(map(_is_of_log, reasons)):
        return 500
    return 404 if all(isinstance(reason, NotFound) for reason in reasons) else 409


def _report(context: Context, line: PostedInput) -> Step:
    return context.report(
        line.alloc, line.task, line.input, time_ns=line.time_ns, id=line.id, expected_version=line.expected_version
    )


def _result(number: int, step: Step) -> LineResult:
    """Return the result of a line that was decided on."""
    return LineResult(
        line=number,
        alloc=step.alloc,
        outcome=step.outcome,
        events=tuple(Happened(task=task, event=event) for task, event in step.events),
        effects=step.effects,
        timers=step.timers,
        notes=tuple(Noted(task=task, note=note) for task, note in step.notes),
    )
