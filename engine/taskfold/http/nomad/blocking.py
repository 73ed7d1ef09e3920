"""Blocking queries: `index` and `wait`, as semantics and limits of Nomad's blockingRPC have them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from taskfold.http.context import Context
from taskfold.http.nomad.options import Options, wait_limit_ns
from taskfold.http.request import Disconnected, Request
from taskfold.live.waiters import AsyncWait, Question, Reply

__all__ = ["ask", "while_connected"]

T = TypeVar("T")


async def ask(context: Context, request: Request, options: Options, question: Question[T]) -> Reply[T]:
    """Return the answer to a question: at once, or, with an index, when it is newer or the wait is over.

    Raises TooMany when the client has as many blocked queries as it may have, and Disconnected when it went away.
    """
    if not options.index:
        return context.engine.reader.ask(question)
    waiting = AsyncWait(context.engine.reader, question, options.index)
    reply = waiting.ask()
    if reply is not None:
        return reply
    try:
        seconds = wait_limit_ns(options.wait_ns, context.random.random()) / 1_000_000_000
        with context.blocked.hold(request.client):
            return await while_connected(request, waiting.finish(seconds, context.clock))
    finally:
        waiting.close()


async def while_connected(request: Request, running: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; when the client disconnects first, cancel it and raise Disconnected."""
    task = asyncio.current_task()
    assert task is not None
    is_running = True

    def end(_: asyncio.Task[None]) -> None:
        if is_running:
            task.cancel()

    gone = asyncio.ensure_future(request.until_gone())
    gone.add_done_callback(end)
    try:
        return await running
    except asyncio.CancelledError:
        if gone.done() and not gone.cancelled():
            task.uncancel()
            raise Disconnected from None
        raise
    finally:
        is_running = False
        gone.cancel()
