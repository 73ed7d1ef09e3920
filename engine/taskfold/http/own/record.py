"""Our own endpoint of events: a scheduler in another language records them."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from taskfold.http.answers import Answer, error, json_answer
from taskfold.http.context import Context
from taskfold.http.nomad.options import Options
from taskfold.http.own.lines import Line, LineError, answer_lines, encode, refusal
from taskfold.http.request import Request
from taskfold.model.errors import (
    AppendRefused,
    CallbacksBusy,
    DecodeError,
    LogError,
    NotFound,
    Refused,
    TaskfoldError,
)
from taskfold.model.events import wire_name
from taskfold.model.record import Record, Write

__all__ = ["Recorded", "post_events"]

_decode: Final = msgspec.json.Decoder(Write).decode


class RecordedLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename=wire_name):
    """The result of a line."""

    line: int
    """The line of the request, from 1."""
    alloc: str
    version: int | UnsetType = UNSET
    """The version that the allocation got."""
    seq: int | UnsetType = UNSET
    """The position in the log."""
    repeat: bool = False
    """Its ID was recorded before."""


class Recorded(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=wire_name):
    """The results of all lines."""

    index: int
    """The index of the write."""
    results: tuple[RecordedLine, ...]


async def post_events(context: Context, request: Request, _: Options) -> Answer:
    """Answer ``POST /v1/allocations/events``: JSON lines, each a `Write`, all or none of them."""
    return await answer_lines(context, request, _decode, "a write", _record)


def _record(context: Context, lines: list[Line[Write]], malformed: list[LineError]) -> Answer:
    """Record the lines, and return the answer."""
    engine = context.engine
    try:
        if malformed:
            # Nothing will be recorded; further errors are reported as well.
            return _refusal(malformed, lines, engine.check(line.value for line in lines))
        records = engine.append(line.value for line in lines)
    except AppendRefused as problem:
        return _refusal([], lines, problem.refusals)
    except (Refused, CallbacksBusy) as problem:  # by the model that is bound to a task
        return error(409, str(problem))
    except LogError as problem:
        context.problem = str(problem)
        return error(500, str(problem))
    context.problem = ""
    index = next((record.index for record in records if record is not None), engine.index)
    results = tuple(_result(line, record) for line, record in zip(lines, records, strict=True))
    return json_answer(encode(Recorded(index=index, results=results)), index)


def _refusal(malformed: list[LineError], lines: list[Line[Write]], refusals: list[tuple[int, TaskfoldError]]) -> Answer:
    """Return the answer with the error of every invalid line."""
    reasons = [reason for _, reason in refusals]
    if malformed or any(isinstance(reason, DecodeError) for reason in reasons):
        status = 400
    else:
        status = 404 if all(isinstance(reason, NotFound) for reason in reasons) else 409
    errors = [LineError(line=lines[place].number, error=str(reason)) for place, reason in refusals]
    return refusal(status, [*malformed, *errors])


def _result(line: Line[Write], record: Record | None) -> RecordedLine:
    """Return the result of a line."""
    alloc = line.value.alloc
    if record is None:
        return RecordedLine(line=line.number, alloc=alloc, repeat=True)
    return RecordedLine(line=line.number, alloc=alloc, version=record.version, seq=record.seq)
