"""What asks a scheduler to act: stopping, restarting and signalling allocations, and registering jobs.

What Nomad checks first is checked here: the ID, whether there is such an allocation, whether the body is JSON. Then the
engine decides, as Nomad's servers and clients do; whoever embeds it carries out the effects (`Engine.on_step`), and who
does so from outside sees the events. A server that mirrors a Nomad decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct

from taskfold.decision.decision import NOT_RUNNING
from taskfold.http.allocations import find
from taskfold.http.answers import INVALID_METHOD, Answer, error, json_answer
from taskfold.http.go_json import json_error
from taskfold.http.options import Options
from taskfold.http.posted import decoded, reported
from taskfold.http.request import Request
from taskfold.log.entries import MAX_DEPTH, is_deep
from taskfold.model.effects import Step
from taskfold.model.errors import DecodeError, LogError, TaskfoldError
from taskfold.model.inputs import Input, RestartRequested, SignalRequested, StopRequested

if TYPE_CHECKING:
    from taskfold.http.app import App

__all__ = ["CLIENT_ACTIONS", "client_allocation", "jobs", "stop"]

CLIENT_ACTIONS: Final = ("restart", "signal")

_ORIGIN: Final = ((b"Vary", b"Origin"),)

_EMPTY: Final = "EOF"
_NO_BODY: Final = "Request body is empty"
_MIGRATED: Final = "alloc is being migrated"
_encode: Final = msgspec.json.Encoder().encode


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
    """Return what a body asks for; a null asks for nothing in particular.

    Raises DecodeError, and msgspec's ValidationError where it is of another form.
    """
    value = decoded(msgspec.json.decode, body)
    return msgspec.convert(_renamed(value, kind.__struct_fields__), kind | None) or kind()


def _renamed(value: Any, names: Sequence[str]) -> Any:
    """Return an object with these keys named so: as Go has it, their case does not count, and the last of them does."""
    if not isinstance(value, dict):
        return value
    known = {name.casefold(): name for name in names}
    return {known.get(key.casefold(), key): item for key, item in value.items()}


async def stop(app: App, _: Request, __: Options, text: str) -> Answer:
    """Answer ``PUT /v1/allocation/<id>/stop``: the allocation is to be stopped, and its tasks are killed."""
    found = find(app, text)
    if isinstance(found, Answer):
        return found
    if found not in app.engine.reader:
        return error(404, "allocation not found")
    step = await _decided(app, found, "", StopRequested(description=_MIGRATED, migrate=True))
    if isinstance(step, Answer):
        return step
    made = app.evaluations.add(app.engine.snapshot(found))
    body = _encode({"EvalID": made.id, "Index": made.modify_index})
    return json_answer(body, extra=((b"X-Nomad-Index", b"%d" % made.modify_index),))


async def client_allocation(app: App, request: Request, _: Options, text: str, action: str) -> Answer:
    """Answer what is asked of the client that runs an allocation."""
    if action == "signal" and request.method == "GET":
        return error(405, INVALID_METHOD, extra=_ORIGIN)
    body = await request.body(app.limits.action_bytes, app.limits.body_timeout)
    refused = await _refused_body(body, action)
    if refused is not None:
        return refused
    found = find(app, text)
    if isinstance(found, Answer):
        return Answer(found.status, (*found.headers, *_ORIGIN), found.body, found.late)
    if found not in app.engine.reader:
        return error(404, f'Unknown allocation "{text}"', extra=_ORIGIN)
    return await _asked(app, found, action, body)


async def _asked(app: App, found: str, action: str, body: bytes) -> Answer:
    """Do what is asked for, where the body says it."""
    act = _restart if action == "restart" else _signal
    try:
        return await act(app, found, body.strip() or b"null")
    except DecodeError as problem:
        # Go reads the first value and no further; a request that says more than one thing is refused here.
        return error(400, f"Failed to decode body: {problem}", extra=_ORIGIN)
    except msgspec.ValidationError as problem:
        return error(400 if action == "signal" else 500, f"Failed to decode body: {problem}", extra=_ORIGIN)


async def _refused_body(body: bytes, action: str) -> Answer | None:
    """Return the error for a body that is no JSON, in Nomad's words, or that is nested too deeply; else None.

    A restart may come without one: it is of all tasks.
    """
    wrong = await _json_error(body)
    if wrong is not None and (wrong != _EMPTY or action == "signal"):
        wrong = wrong if body else _NO_BODY
        status, words = (400, f"Failed to decode body: {wrong}") if action == "signal" else (500, wrong)
        return error(status, words, extra=_ORIGIN)
    if is_deep(body):  # Go takes 10,000 levels, and what is asked for needs one
        return error(400, f"Failed to decode body: it is nested in more than {MAX_DEPTH} levels", extra=_ORIGIN)
    return None


async def _restart(app: App, alloc: str, body: bytes) -> Answer:
    asked = _read(body, _Restart)
    task = asked.TaskName or ""
    if task and not app.engine.reader.has_task(alloc, task):
        return error(500, f"Could not find task runner for task: {task}", extra=_ORIGIN)
    step = await _decided(app, alloc, task, RestartRequested(), extra=_ORIGIN)
    return step if isinstance(step, Answer) else _acted(step, task, lambda _, why: why)


async def _signal(app: App, alloc: str, body: bytes) -> Answer:
    asked = _read(body, _Signal)
    task = asked.Task or ""
    if task and not app.engine.reader.has_task(alloc, task):
        return error(500, "Task not found", extra=_ORIGIN)
    step = await _decided(app, alloc, task, SignalRequested(signal=asked.Signal or ""), extra=_ORIGIN)
    return (
        step
        if isinstance(step, Answer)
        else _acted(step, task, lambda t, why: f"Failed to signal task: {t}, err: {why}")
    )


def _acted(step: Step, task: str, say: Callable[[str, str], str]) -> Answer:
    """Return what a client says of what it did: the one refusal, or all of them in a list, as Go writes it."""
    # What is asked for a second time is under way already, which is no error.
    refused = [(name, why) for name, why in step.notes if why == NOT_RUNNING]
    if not refused:
        return json_answer(b'{"Index":0}', extra=_ORIGIN)
    if task:
        return error(500, NOT_RUNNING, extra=_ORIGIN)
    return error(500, _many([say(name, why) for name, why in refused]), extra=_ORIGIN)


def _many(problems: Sequence[str]) -> str:
    r"""Return several errors in one, as go-multierror writes them.

    >>> _many(["Task not running"])
    '1 error occurred:\n\t* Task not running\n\n'
    """
    count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
    lines = "".join(f"\t* {text}\n" for text in problems)
    return f"{count} occurred:\n{lines}\n"


async def _decided(
    app: App, alloc: str, task: str, said: Input, extra: tuple[tuple[bytes, bytes], ...] = ()
) -> Step | Answer:
    """Have the engine decide, in the thread that writes; or return what keeps it from that."""
    if app.is_mirror:
        return error(409, app.refusal, extra=extra)
    try:
        step = await asyncio.get_running_loop().run_in_executor(app.writer, reported, app.engine, alloc, task, said)
    except LogError as problem:
        app.problem = str(problem)
        return error(500, str(problem), extra=extra)
    except TaskfoldError as problem:
        return error(409, str(problem), extra=extra)
    app.problem = ""
    return step


async def _json_error(body: bytes) -> str | None:
    """Return what Go says of a body, where it is no JSON; in a thread, since a hostile one takes a while."""
    return await asyncio.to_thread(json_error, body)


async def jobs(app: App, request: Request, _: Options) -> Answer:
    """Answer ``PUT /v1/jobs``: a body that is wrong gets Nomad's answer, and a job is not taken."""
    if request.method != "GET":
        body = await request.body(app.limits.action_bytes, app.limits.body_timeout)
        wrong = await _json_error(body)
        if wrong == _EMPTY and not body and app.dialect.has_actions:
            wrong = _NO_BODY
        if wrong is None:
            wrong = await asyncio.to_thread(_job_problem, body)
        if wrong is not None:
            return error(400, wrong)
    return error(501, "taskfold serves allocations, and takes no jobs")


def _job_problem(body: bytes) -> str | None:
    """Return what is wrong with the registration of a job, in Nomad's words where it has some; else None."""
    if is_deep(body):
        return f"it is nested in more than {MAX_DEPTH} levels"
    try:
        job = _read(body, _Registration).Job
    except (DecodeError, msgspec.ValidationError) as problem:
        return str(problem)
    if job is None:
        return "Job must be specified"
    return "Job ID hasn't been provided" if _renamed(job, ("ID",)).get("ID") is None else None
