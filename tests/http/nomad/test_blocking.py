"""Blocking queries: who waits is answered by the change, at the end of the wait, or when the server stops."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.asgi import Call, ask
from taskfold import Engine, ManualClock
from taskfold import events as ev
from taskfold.http.app import App
from taskfold.http.nomad.options import MAX_WAIT_NS, wait_limit_ns
from taskfold.http.serve.limits import Limits

A = "aaaaaaaa-0000-0000-0000-000000000000"
B = "bbbbbbbb-0000-0000-0000-000000000000"
ABSENT = "cccccccc-0000-0000-0000-000000000000"
SECOND = 1_000_000_000


def serve(**limits: int) -> App:
    """Return an application over two allocations, on a clock that stands still."""
    engine = Engine(dialect="1.1.2", clock=ManualClock(1_000 * SECOND))
    engine.place({"ID": A, "JobID": "job", "Namespace": "default"})
    engine.place({"ID": B, "JobID": "other", "Namespace": "special"})
    return App(engine, limits=Limits(**limits), seed=7)


async def blocked(app: App, request: str, **more: str) -> Call:
    """Return a request that waits."""
    before = len(app.engine.store.watches)
    call = Call(app, request, **more)
    for _ in range(1000):
        await asyncio.sleep(0)
        if len(app.engine.store.watches) > before:
            return call
        assert not call.task.done(), (call.reply.status, call.reply.text)
    raise AssertionError("it does not wait")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@given(st.integers(-(2**62), 2**62), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_at_most_300_seconds_and_a_sixteenth_of_jitter(wait_ns, fraction):
    limit = wait_limit_ns(wait_ns, fraction)

    asked = wait_ns if 0 < wait_ns <= MAX_WAIT_NS else MAX_WAIT_NS
    assert asked <= limit < asked + asked / 16 + 1


@pytest.mark.parametrize("wait", ["", "&wait=0s", "&wait=-5s", "&wait=10m", "&wait=", "&wait=300s"])
def test_a_query_waits_300_seconds_unless_it_asks_for_less(wait):
    app = serve()
    clock = app.context.clock

    async def story():
        call = await blocked(app, f"GET /v1/allocation/{A}?index=1{wait}")
        clock.advance(300 * SECOND - 1)
        await settle()
        assert not call.task.done()
        clock.advance(300 * SECOND // 16)
        return await call.finished()

    reply = asyncio.run(story())
    assert reply.status == 200
    assert reply.header("X-Nomad-Index") == "1"
    assert msgspec.json.decode(reply.body)["ID"] == A
    assert clock.waiting == 0


def test_a_short_wait_is_as_long_as_it_asks_for():
    app = serve()

    async def story():
        call = await blocked(app, f"GET /v1/allocation/{A}?index=1&wait=1m30s")
        app.context.clock.advance(90 * SECOND - 1)
        await settle()
        assert not call.task.done()
        app.context.clock.advance(6 * SECOND)
        return await call.finished()

    assert asyncio.run(story()).status == 200


def test_a_change_of_the_allocation_answers_and_another_does_not():
    app = serve()

    async def story():
        call = await blocked(app, f"GET /v1/allocation/{A}?index=1")
        await asyncio.to_thread(app.engine.record, B, "web", ev.Received())
        await settle()
        assert not call.task.done()
        await asyncio.to_thread(app.engine.record, A, "web", ev.Started())
        return await call.finished()

    reply = asyncio.run(story())
    assert reply.header("X-Nomad-Index") == "4"
    assert msgspec.json.decode(reply.body)["TaskStates"]["web"]["State"] == "running"


def test_an_absent_allocation_counts_with_the_index_of_the_store():
    app = serve()
    assert ask(app, f"GET /v1/allocation/{ABSENT}?index=1").status == 404

    async def story():
        call = await blocked(app, f"GET /v1/allocation/{ABSENT}?index=2")
        app.engine.record(B, "web", ev.Received())
        return await call.finished()

    reply = asyncio.run(story())
    assert (reply.status, reply.text, reply.header("X-Nomad-Index")) == (404, "alloc not found", "3")

    async def appears():
        call = await blocked(app, f"GET /v1/allocation/{ABSENT}?index=3")
        app.engine.place({"ID": ABSENT})
        return await call.finished()

    assert asyncio.run(appears()).status == 200


@pytest.mark.parametrize(
    ("request_", "is_woken_by"),
    [
        ("GET /v1/allocations?index=2&namespace=*", {A, B}),
        ("GET /v1/allocations?index=2", {A}),
        ("GET /v1/allocations?index=2&namespace=special", {B}),
        ("GET /v1/allocations?index=2&namespace=*&prefix=bb", {B}),
        ("GET /v1/allocations?index=2&namespace=*&prefix=cc", set()),
        ("GET /v1/job/job/allocations?index=2", {A}),
        ("GET /v1/job/none/allocations?index=2", set()),
    ],
)
def test_a_list_is_woken_by_what_it_lists(request_, is_woken_by):
    for alloc in (A, B):
        app = serve()

        async def story(app=app, alloc=alloc):
            call = await blocked(app, request_)
            app.engine.record(alloc, "web", ev.Received())
            await settle()
            is_answered = call.task.done()
            assert is_answered == (alloc in is_woken_by), alloc
            app.context.clock.advance(400 * SECOND)
            return await call.finished()

        reply = asyncio.run(story())
        assert reply.status == 200
        assert reply.header("X-Nomad-Index") == "3"
        ids = [stub["ID"] for stub in msgspec.json.decode(reply.body)]
        assert (alloc in ids) == (alloc in is_woken_by)


def test_an_old_index_is_answered_at_once_also_for_a_prefix_that_nothing_has():
    app = serve()

    reply = ask(app, "GET /v1/allocations?index=1&prefix=cc")

    assert (reply.status, reply.text) == (200, "[]")
    assert app.context.clock.waiting == 0


def test_a_client_that_goes_away_frees_its_waiter():
    app = serve()

    async def story():
        call = await blocked(app, f"GET /v1/allocation/{A}?index=1")
        assert app.context.blocked.count == 1
        call.disconnect()
        return await call.finished()

    reply = asyncio.run(story())
    assert reply.status == 0
    assert len(app.engine.store.watches) == 0
    assert app.context.blocked.count == 0
    assert app.context.clock.waiting == 0


def test_one_client_cannot_take_every_place():
    app = serve(blocked_per_client=2, blocked=3)

    async def story():
        request = f"GET /v1/allocation/{A}?index=1"
        held = [await blocked(app, request), await blocked(app, request)]
        refused = await Call(app, request).finished()
        held.append(await blocked(app, request, client="10.0.0.2"))
        full = await Call(app, request, client="10.0.0.3").finished()
        app.close()
        return refused, full, [await call.finished() for call in held]

    refused, full, answered = asyncio.run(story())
    assert (refused.status, refused.text) == (429, "too many blocked queries of one client: 2 at most")
    assert (full.status, full.text) == (429, "too many blocked queries: 3 at most")
    assert [reply.status for reply in answered] == [200, 200, 200]


def test_a_stop_answers_every_blocked_query_with_what_is_known():
    app = serve()

    async def story():
        calls = [
            await blocked(app, f"GET /v1/allocation/{A}?index=1"),
            await blocked(app, f"GET /v1/allocation/{ABSENT}?index=2"),
            await blocked(app, "GET /v1/allocations?index=2"),
        ]
        app.close()
        return [await call.finished() for call in calls]

    assert [reply.status for reply in asyncio.run(story())] == [200, 404, 200]
    assert ask(app, f"GET /v1/allocation/{A}?index=1").status == 200, "nothing waits any more"


def test_a_blocked_query_asks_its_question_once_before_it_sleeps(monkeypatch):
    app = serve()
    reader = app.engine.reader
    question = reader.allocation_question(A)
    count = 0

    def counting():
        nonlocal count
        count += 1
        return question()

    monkeypatch.setattr(reader, "allocation_question", lambda _: counting)

    async def story():
        call = await blocked(app, f"GET /v1/allocation/{A}?index=1")
        await settle()
        assert count == 1
        await asyncio.to_thread(app.engine.record, A, "web", ev.Received())
        await call.finished()
        assert count == 2

    asyncio.run(story())
    assert reader.waiters == 0
