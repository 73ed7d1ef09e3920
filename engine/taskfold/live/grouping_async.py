"""Grouping on an event loop: concurrent writes of its tasks share one wait for the disk, in a thread.

A task puts its request into the engine's queue (`grouping`), and continues when it is woken. One thread leads for all
tasks of a loop, as long as any of them waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from taskfold.live.grouping import Drafted, Groups, WriteOutcome, WriteRequest, result_of, steps_of
from taskfold.live.overlay import StateLike

__all__ = ["write_async"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def write_async(groups: Groups, draft: Callable[[StateLike, *Ts], Drafted[T]], *args: *Ts) -> T:
    """Write the draft of a function in a group, without blocking the event loop."""
    loop = asyncio.get_running_loop()
    alone = partial(groups.write_alone, draft, *args)
    if not groups.is_grouping:
        return await _write_in_thread(groups, loop, alone)
    future: asyncio.Future[None] = loop.create_future()
    notify = partial(loop.call_soon_threadsafe, _end, future)
    request = WriteRequest(lambda state: draft(state, *args), loop, notify)
    groups.requests[request] = None
    try:
        _start_worker(groups, loop)
        await future
    except BaseException:
        request.is_abandoned = True
        groups.owe_abandoned(request)
        raise
    finally:
        groups.requests.pop(request, None)
    if request.outcome is not None and request.outcome.is_alone:
        return await _write_in_thread(groups, loop, alone)
    return result_of(request.outcome, alone)


async def _write_in_thread(groups: Groups, loop: asyncio.AbstractEventLoop, alone: Callable[[], T]) -> T:
    """Write in a thread; if the task is cancelled first, the steps are owed."""
    future = loop.run_in_executor(None, alone)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(partial(_owe_result, groups))
        raise


def _owe_result(groups: Groups, future: asyncio.Future[Any]) -> None:
    """Owe the steps of a write whose task was cancelled."""
    if not future.cancelled() and future.exception() is None:
        groups.owe(steps_of(future.result()))


def _start_worker(groups: Groups, loop: asyncio.AbstractEventLoop) -> None:
    """Start a thread that leads for the tasks of a loop, unless there is one."""
    token = object()
    if groups.roles.setdefault(loop, token) is token:
        try:
            loop.run_in_executor(None, _lead_for_tasks, groups, loop, token)
        except BaseException:
            del groups.roles[loop]
            raise


def _lead_for_tasks(groups: Groups, loop: asyncio.AbstractEventLoop, token: object) -> None:
    """Lead, or wait for the leader, while any task of a loop waits."""
    roles = groups.roles
    while True:
        try:
            late: set[WriteRequest] = set()
            while (request := _first_of(groups, loop)) is not None:
                _lead_for(groups, request, loop)
                late = _wake_again(groups, loop, late)
        finally:
            del roles[loop]
        _wake_again(groups, loop, set(groups.requests))
        # A task may have come before the role was free.
        if _first_of(groups, loop) is None or roles.setdefault(loop, token) is not token:
            return


def _lead_for(groups: Groups, request: WriteRequest, loop: asyncio.AbstractEventLoop) -> None:
    """Write a request; exceptions of listeners go to the loop, as its tasks have been woken by then."""
    try:
        groups.wait_for(request)
    except Exception as error:  # noqa: BLE001 - the task raises it
        if request.outcome is None:
            request.outcome = WriteOutcome(error=error)
            request.wake()
    for problem in request.problems:
        context = {"message": "a listener of a taskfold engine raised", "exception": problem}
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(loop.call_exception_handler, context)


def _wake_again(groups: Groups, loop: asyncio.AbstractEventLoop, earlier: set[WriteRequest]) -> set[WriteRequest]:
    """Wake tasks again that had an outcome at the last look, in case their waker was interrupted."""
    ready = {one for one in tuple(groups.requests) if one.loop is loop and one.outcome is not None}
    for request in ready & earlier:
        request.wake()
    return ready


def _first_of(groups: Groups, loop: asyncio.AbstractEventLoop) -> WriteRequest | None:
    """Return the first request of a loop's tasks without an outcome."""
    waiting = (one for one in tuple(groups.requests) if one.loop is loop and not one.is_abandoned)
    return next((one for one in waiting if one.outcome is None), None)


def _end(future: asyncio.Future[None]) -> None:
    """End the wait of a task, unless it was cancelled."""
    if not future.done():
        future.set_result(None)
