"""The endpoints that ask a scheduler to act: to stop, restart and signal allocations, and to register jobs.

Here is checked what Nomad checks first: the ID, whether there is such an allocation, whether the body is JSON. Then the
engine decides, as Nomad's servers and clients do. The program that embeds it carries out the effects
(`Engine.on_step`); one outside of it follows the events. A server that mirrors a Nomad decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from taskfold.decision.decision import NOT_RUNNING
from taskfold.http.answers import INVALID_METHOD, Answer, Uint64, error, json_answer
from taskfold.http.context import Context
from taskfold.http.nomad.allocations import find
from taskfold.http.nomad.jobs import jobs as list_jobs
from taskfold.http.nomad.options import Options
from taskfold.http.request import Request, decode_json
from taskfold.log.entries import MAX_DEPTH, is_deep
from taskfold.model.effects import Step
from taskfold.model.errors import DecodeError, LogError, TaskfoldError
from taskfold.model.inputs import Input, RestartRequested, SignalRequested, StopRequested

__all__ = ["CLIENT_ACTIONS", "Acted", "Stopped", "client_allocation", "jobs", "stop"]

CLIENT_ACTIONS: Final = ("restart", "signal")

_ORIGIN: Final = ((b"Vary", b"Origin"),)

_EMPTY: Final = "EOF"
_TRUNCATED: Final = "Input data was truncated"
_TRAILING: Final = "trailing characters"
_NO_BODY: Final = "Request body is empty"
_MIGRATED: Final = "alloc is being migrated"
_encode: Final = msgspec.json.Encoder().encode


class Stopped(Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to a stop: its evaluation."""

    EvalID: str
    Index: Uint64


class Acted(Struct, frozen=True, forbid_unknown_fields=True):
    """The answer of a client that acts; its index is always 0."""

    Index: Uint64


class _Restart(Struct):
    """The body of a restart."""

    TaskName: str | None = None


class _Signal(Struct):
    """The body of a signal."""

    Task: str | None = None
    Signal: str | None = None


class _Registration(Struct):
    """The body of a job's registration."""

    Job: dict[str, Any] | None = None


T = TypeVar("T", _Restart, _Signal, _Registration)


def _read(body: bytes, kind: type[T]) -> T:
    """Return the value of a body; a null is the struct with its defaults.

    Raises DecodeError, and msgspec's ValidationError where it is of another form.
    """
    value = decode_json(msgspec.json.decode, body)
    return msgspec.convert(_renamed(value, kind.__struct_fields__), kind | None) or kind()


def _renamed(value: Any, names: Sequence[str]) -> Any:
    """Return an object whose keys are spelled as these names. As in Go, case does not count, and the last one wins."""
    if not isinstance(value, dict):
        return value
    canonical_names = {name.casefold(): name for name in names}
    return {canonical_names.get(key.casefold(), key): item for key, item in value.items()}


async def stop(context: Context, _: Request, __: Options, text: str) -> Answer:
    """Answer ``PUT /v1/allocation/<id>/stop``: the allocation is to be stopped, and its tasks are killed."""
    alloc = find(context, text)
    if isinstance(alloc, Answer):
        return alloc
    if alloc not in context.engine.reader:
        return error(404, "allocation not found")
    step = await _decide(context, alloc, "", StopRequested(description=_MIGRATED, migrate=True))
    if isinstance(step, Answer):
        return step
    evaluation = context.evaluations.add(context.engine.snapshot(alloc))
    body = _encode(Stopped(evaluation.id, evaluation.modify_index))
    return json_answer(body, extra=((b"X-Nomad-Index", b"%d" % evaluation.modify_index),))


async def client_allocation(context: Context, request: Request, _: Options, text: str, action: str) -> Answer:
    """Answer ``PUT /v1/client/allocation/<id>/restart`` and ``…/signal``: the client of an allocation acts."""
    if action == "signal" and request.method == "GET":
        return error(405, INVALID_METHOD, extra=_ORIGIN)
    body = await request.body(context.limits.action_bytes, context.limits.body_timeout)
    refusal = _refuse_body(body, action)
    if refusal is not None:
        return refusal
    alloc = find(context, text)
    if isinstance(alloc, Answer):
        return Answer(alloc.status, (*alloc.headers, *_ORIGIN), alloc.body, alloc.late)
    if alloc not in context.engine.reader:
        return error(404, f'Unknown allocation "{text}"', extra=_ORIGIN)
    return await _act(context, alloc, action, body)


async def _act(context: Context, alloc: str, action: str, body: bytes) -> Answer:
    """Perform the action in the body; return the error for an invalid body."""
    act = _restart if action == "restart" else _signal
    try:
        return await act(context, alloc, body.strip() or b"null")
    except DecodeError as problem:
        # Go reads the first value and no further; a request that says more than one thing is refused here.
        return error(400, f"Failed to decode body: {problem}", extra=_ORIGIN)
    except msgspec.ValidationError as problem:
        return error(400 if action == "signal" else 500, f"Failed to decode body: {problem}", extra=_ORIGIN)


def _refuse_body(body: bytes, action: str) -> Answer | None:
    """Return the error for a body that is no JSON, in Nomad's words, or that is nested too deeply; else None.

    A restart may come without one: it is of all tasks.
    """
    wrong = _json_problem(body)
    if wrong is not None and (wrong != _EMPTY or action == "signal"):
        wrong = wrong if body else _NO_BODY
        status, words = (400, f"Failed to decode body: {wrong}") if action == "signal" else (500, wrong)
        return error(status, words, extra=_ORIGIN)
    if is_deep(body):  # Go accepts 10,000 levels, and a request needs one
        return error(400, f"Failed to decode body: it is nested in more than {MAX_DEPTH} levels", extra=_ORIGIN)
    return None


async def _restart(context: Context, alloc: str, body: bytes) -> Answer:
    order = _read(body, _Restart)
    task = order.TaskName or ""
    if task and not context.engine.reader.has_task(alloc, task):
        return error(500, f"Could not find task runner for task: {task}", extra=_ORIGIN)
    step = await _decide(context, alloc, task, RestartRequested(), extra=_ORIGIN)
    return step if isinstance(step, Answer) else _acted(step, task, lambda _, why: why)


async def _signal(context: Context, alloc: str, body: bytes) -> Answer:
    order = _read(body, _Signal)
    task = order.Task or ""
    if task and not context.engine.reader.has_task(alloc, task):
        return error(500, "Task not found", extra=_ORIGIN)
    step = await _decide(context, alloc, task, SignalRequested(signal=order.Signal or ""), extra=_ORIGIN)
    return (
        step
        if isinstance(step, Answer)
        else _acted(step, task, lambda t, why: f"Failed to signal task: {t}, err: {why}")
    )


def _acted(step: Step, task: str, say: Callable[[str, str], str]) -> Answer:
    """Return the client's answer: nothing, its one refusal, or the list of all, as Go writes it."""
    # A repeated request is already in progress, which is no error.
    refusals = [(name, why) for name, why in step.notes if why == NOT_RUNNING]
    if not refusals:
        return json_answer(_encode(Acted(0)), extra=_ORIGIN)
    if task:
        return error(500, NOT_RUNNING, extra=_ORIGIN)
    return error(500, _many([say(name, why) for name, why in refusals]), extra=_ORIGIN)


def _many(problems: Sequence[str]) -> str:
    r"""Return several errors in one, as go-multierror writes them.

    >>> _many(["Task not running"])
    '1 error occurred:\n\t* Task not running\n\n'
    """
    count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
    lines = "".join(f"\t* {text}\n" for text in problems)
    return f"{count} occurred:\n{lines}\n"


async def _decide(
    context: Context, alloc: str, task: str, input: Input, extra: tuple[tuple[bytes, bytes], ...] = ()
) -> Step | Answer:
    """Report an input, in the thread for writes; return the step, or the error."""
    if context.is_mirror:
        return error(409, context.refusal, extra=extra)
    try:
        step = await context.write(context.report, alloc, task, input)
    except LogError as problem:
        context.problem = str(problem)
        return error(500, str(problem), extra=extra)
    except TaskfoldError as problem:
        return error(409, str(problem), extra=extra)
    context.problem = ""
    return step


def _json_problem(body: bytes) -> str | None:
    """Return the error of a body that is no JSON, which begins as that of Go's decoder; else None. O(length).

    What follows the first value is none of its business: Go reads no further.

    >>> _json_problem(b" "), _json_problem(b"[1"), _json_problem(b"{} and more")
    ('EOF', 'unexpected EOF', None)
    >>> _json_problem(b"{bad")
    'invalid character: object keys must be strings (byte 1)'
    """
    if not body.strip():
        return _EMPTY
    try:
        msgspec.json.decode(body)
    except (RecursionError, UnicodeDecodeError):
        # The limit of depth is another error. Go takes any bytes in a text; before msgspec 0.20 this is who does not.
        return None
    except msgspec.DecodeError as problem:
        prefix, _, reason = str(problem).partition(": ")
        if prefix == _TRUNCATED:
            return "unexpected EOF"
        if not reason or reason.startswith(_TRAILING) or "surrogate" in reason:  # Go takes any surrogate
            return None
        return f"invalid character: {reason}"
    return None


async def jobs(context: Context, request: Request, options: Options) -> Answer:
    """Answer ``/v1/jobs``: the list, and, where a job is sent, Nomad's answer to an invalid body; a job is refused."""
    if request.method == "GET":
        return await list_jobs(context, request, options)
    body = await request.body(context.limits.action_bytes, context.limits.body_timeout)
    wrong = _json_problem(body)
    if wrong == _EMPTY and not body and context.dialect.has_actions:
        wrong = _NO_BODY
    if wrong is None:
        wrong = await asyncio.to_thread(_job_problem, body)
    if wrong is not None:
        return error(400, wrong)
    return error(501, "taskfold serves allocations, and accepts no jobs")


def _job_problem(body: bytes) -> str | None:
    """Return the error of the registration of a job, in Nomad's words where it has some; else None."""
    if is_deep(body):
        return f"it is nested in more than {MAX_DEPTH} levels"
    try:
        job = _read(body, _Registration).Job
    except (DecodeError, msgspec.ValidationError) as problem:
        return str(problem)
    if job is None:
        return "Job must be specified"
    return "Job ID hasn't been provided" if _renamed(job, ("ID",)).get("ID") is None else None
