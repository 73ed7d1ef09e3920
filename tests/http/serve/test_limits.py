"""What clients hold and do not take: descriptors, connections, streams of the past, and what is sent in vain."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.asgi import Call, ask
from support.servers import received, served, until
from taskfold import AllocationState, Engine, ManualClock, Snapshot
from taskfold import events as ev
from taskfold.errors import LogError
from taskfold.http.app import App
from taskfold.http.nomad import past
from taskfold.http.serve.descriptors import backlog_for, descriptor_limit, raise_descriptor_limit, room_for_connections
from taskfold.http.serve.limits import Limits, Slots, TooMany
from taskfold.http.serve.server import running

ID = "aaaaaaaa-0000-0000-0000-000000000000"
PAST = "GET /v1/event/stream?from=oldest"


def named(number: int) -> str:
    return f"{number:08x}-0000-0000-0000-000000000000"


def app_of(count: int = 1, **more: object) -> App:
    """Return an application over so many allocations, of which the store keeps the newest changes only."""
    engine = Engine(dialect="1.1.2")
    for number in range(count):
        engine.place({"ID": named(number), "JobID": "job", "Namespace": "default"})
    return App(engine, limits=Limits(**more))


# --- descriptors and connections ---


def test_connections_leave_descriptors_for_the_log() -> None:
    for limit in (256, 1_024, 4_096, 20_000, 1 << 20):
        room = room_for_connections(limit, has_peers=False)
        assert room + backlog_for(limit) + 100 < limit, "all that wait may be accepted before one of them is counted"
        assert 2 * room_for_connections(limit, has_peers=True) <= room


def test_the_limit_is_raised_as_far_as_it_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        raise_descriptor_limit()
        assert descriptor_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_half_open_connections_keep_nobody_from_the_log(tmp_path) -> None:
    """More of them than the process may open files: what is beyond is turned away, and others read what is on disk."""
    path = tmp_path / "log.db"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": ID, "Namespace": "default"})
    # A hard limit is one that the server cannot raise; half of the connections are left to other addresses.
    with served(path, limits={resource.RLIMIT_NOFILE: 384}) as (process, url):
        port = int(url.rpartition(":")[2])
        held = []
        for _ in range(400):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=20))
            held[-1].send(b"GET /v1/allo")
            time.sleep(0.002)  # else the system drops some, which come again a second later
        until(lambda: len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 200)
        turned_away = received(held[-1])
        assert turned_away == b"" or turned_away.startswith(b"HTTP/1.1 503 ")
        # Another address of loopback is another client.
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=url, transport=transport) as other:
            for _ in range(3):
                assert other.get(f"/v1/allocation/{ID}/history").status_code == 200
                write = {"Alloc": ID, "Task": "web", "Event": {"Type": "Received"}}
                assert other.post("/v1/allocations/events", content=json.dumps(write)).status_code == 200
        for opened in held:
            opened.close()


def test_connections_of_one_client_are_counted_and_given_back() -> None:
    app = app_of(connections=4, connections_per_client=2)
    with running(app) as server, ExitStack() as opens:

        def connect(address: str) -> socket.socket:
            return opens.enter_context(socket.create_connection(("127.0.0.1", server.port), 10, (address, 0)))

        held = [connect("127.0.0.1") for _ in range(2)]
        until(lambda: app.context.connections.count == 2)
        with connect("127.0.0.1") as third:
            assert received(third).endswith(b"\r\n\r\ntoo many connections of one client: 2 at most")
        others = [connect("127.0.0.2"), connect("127.0.0.3")]
        until(lambda: app.context.connections.count == 4)
        with connect("127.0.0.4") as fifth:
            assert received(fifth).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        for opened in (*held, *others):
            opened.close()
        until(lambda: app.context.connections.count == 0)
        assert httpx.get(f"{server.url}/v1/regions").status_code == 200


def test_who_has_no_address_is_counted_in_all_alone() -> None:
    slots = Slots("streams", total=3, per_client=1)
    for _ in range(3):
        slots.take("")

    with pytest.raises(TooMany, match="too many streams: 3 at most"):
        slots.take("")


def test_streams_of_one_client_have_a_limit() -> None:
    app = app_of(streams=3, streams_per_client=1)

    async def story() -> None:
        first = Call(app, PAST)
        await first.until(lambda reply: reply.status == 200)
        refused = await Call(app, PAST).finished()
        assert (refused.status, refused.text) == (429, "too many streams of one client: 1 at most")
        other = Call(app, PAST, client="10.0.0.2")
        await other.until(lambda reply: reply.status == 200)
        for call in (first, other):
            call.disconnect()
            await call.finished()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("name", "path"), [("lists", "/v1/allocations"), ("pages", f"/v1/allocation/{named(1)}/history")]
)
def test_what_takes_memory_while_it_is_sent_has_a_limit(name: str, path: str) -> None:
    app = app_of(100, **{name: 1})

    async def story() -> None:
        slots = getattr(app.context, name)
        with slots.hold("10.0.0.9"):
            assert (await Call(app, f"GET {path}").finished()).status == 429
        assert (await Call(app, f"GET {path}").finished()).status == 200
        assert slots.count == 0

    asyncio.run(story())


# --- streams of the past ---


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a turn away sooner."""
    monkeypatch.setattr(past, "_PATIENCE_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_readers_of_the_past_that_take_nothing_keep_no_other_from_it() -> None:
    app = app_of(1_000, past_streams=2)

    async def story() -> None:
        stuck = [Call(app, PAST) for _ in range(20)]
        for call in stuck:
            await call.until(lambda reply: reply.status == 200)
            call.takes.clear()
        good = Call(app, PAST)
        await good.until(lambda reply: b'"Index":1000}\n' in b"".join(reply.parts[-1:]))
        assert app.context.past.active <= 2
        indexes = [json.loads(part)["Index"] for part in good.reply.parts if b"Index" in part]
        assert indexes == list(range(1, 1_001)), "nothing twice, nothing left out"
        # Who takes again goes on where it was.
        stuck[0].takes.set()
        await stuck[0].until(lambda reply: b'"Index":1000}\n' in b"".join(reply.parts[-1:]))
        indexes = [json.loads(part)["Index"] for part in stuck[0].reply.parts if b"Index" in part]
        assert indexes == list(range(1, 1_001))
        for call in (*stuck, good):
            call.takes.set()
            call.disconnect()
            await call.finished()
        assert (app.context.past.active, app.context.past.waiting) == (0, 0)

    asyncio.run(story())


@pytest.mark.usefixtures("impatient")
def test_what_was_read_for_one_that_takes_nothing_is_dropped_when_others_wait() -> None:
    app = app_of(600, past_streams=1)

    async def story() -> None:
        stuck = Call(app, PAST)
        await stuck.until(lambda reply: reply.status == 200)
        stuck.takes.clear()
        turns = app.context.past
        async with asyncio.timeout(20):
            while turns.active < 1:
                await asyncio.sleep(0.001)
            async with turns.turn() as turn:  # it is given although the other one has not ended
                assert not turn.is_over
            assert turns.active == 0
        stuck.takes.set()
        stuck.disconnect()
        await stuck.finished()

    asyncio.run(story())


def test_a_server_answers_while_many_read_the_past_and_take_nothing() -> None:
    app = app_of(1_000, streams_per_client=60)
    with running(app) as server, httpx.Client(base_url=server.url, timeout=20) as client:
        held = []
        for _ in range(60):
            opened = socket.socket()
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            opened.connect(("127.0.0.1", server.port))
            opened.sendall(b"GET /v1/event/stream?from=oldest HTTP/1.1\r\nHost: localhost\r\n\r\n")
            held.append(opened)
        until(lambda: app.context.streams.count == 60)
        assert app.context.past.active <= app.context.limits.past_streams
        for _ in range(10):
            assert client.get("/v1/agent/health").status_code == 200
            assert app.context.past.active <= app.context.limits.past_streams
            time.sleep(0.02)
        for opened in held:
            opened.close()
        until(lambda: (app.context.streams.count, app.context.past.active, app.context.unsent.bytes) == (0, 0, 0))


def test_what_nobody_takes_is_bounded_over_all_connections() -> None:
    """Those are left that have taken nothing for the longest time; the others get all of it."""
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": ID, "Job": {"Meta": {"text": "x" * 8_000_000}}})
    app = App(engine, limits=Limits(unsent_bytes=20_000_000))
    with running(app) as server, ExitStack() as opens:
        held = [opens.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(5)]
        for number, opened in enumerate(held, start=1):
            opened.sendall(f"GET /v1/allocation/{ID} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            until(lambda number=number: app.context.answers["allocation", 200] == number)
        assert app.context.unsent.bytes <= 20_000_000
        assert received(held[-1]).endswith(b"0\r\n\r\n")
        assert not received(held[0]).endswith(b"0\r\n\r\n")
        opens.close()
        until(lambda: app.context.unsent.bytes == 0)


def test_a_stream_whose_log_cannot_be_read_is_told_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of(600)

    def fails(*_: object, **__: object) -> None:
        raise LogError("the disk is gone")

    monkeypatch.setattr(app.engine.store.log, "read_all", fails)

    async def story() -> bytes:
        return (await Call(app, PAST).finished()).parts[-2]

    told = json.loads(asyncio.run(story()))["Error"]
    assert (told["Reason"], told["Message"], told["Position"]) == ("unreadable", "the disk is gone", 0)


# --- one that cannot be written ---


BROKEN = named(7)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> App:
    """Return an application of which one allocation cannot be written as JSON, neither as a stub nor as an event."""
    engine = Engine(dialect="1.1.2", clock=ManualClock())
    app = App(engine)
    of = Snapshot.of

    def breaks(state: AllocationState, *rest: Any) -> Snapshot:
        if state.id == BROKEN:
            raise RecursionError("too deep")
        return of(state, *rest)

    monkeypatch.setattr(Snapshot, "of", staticmethod(breaks))
    for number in range(40):
        engine.place({"ID": named(number), "JobID": "job", "Namespace": "default"})
    return app


def test_a_list_shows_the_others_and_names_the_one_that_cannot_be_shown(broken: App, caplog) -> None:
    for query in ("", "?pretty", "?prefix=0000"):
        listed = json.loads(ask(broken, f"GET /v1/allocations{query}").text)
        assert [stub["ID"] for stub in listed] == [named(number) for number in range(40)]
        assert [stub["ID"] for stub in listed if "cannot show" in stub.get("ClientDescription", "")] == [BROKEN]
    assert json.loads(ask(broken, "GET /v1/job/job/allocations").text) == listed
    told = [each for each in caplog.records if BROKEN in each.getMessage()]
    assert len(told) <= 1, "once, however often it is asked for"


@pytest.mark.parametrize("start", ["oldest", "39"])
def test_a_stream_sends_the_others_and_names_the_one_that_cannot_be_shown(broken: App, start: str) -> None:
    broken.engine.record(BROKEN, "web", ev.Received())
    broken.engine.record(named(8), "web", ev.Received())

    async def story() -> list[dict]:
        call = Call(broken, f"GET /v1/event/stream?from={start}")
        await call.until(lambda reply: b'"Index":42}\n' in b"".join(reply.parts[-1:]))
        call.disconnect()
        return [json.loads(part) for part in (await call.finished()).parts if b"Events" in part]

    frames = asyncio.run(story())
    assert [frame["Index"] for frame in frames] == list(range(1 if start == "oldest" else 40, 43))
    [event] = frames[-2]["Events"]
    assert (event["Key"], event["Type"], event["Topic"]) == (BROKEN, "AllocationUpdated", "Allocation")
    assert event["Payload"]["Allocation"]["ID"] == BROKEN
    assert "cannot show" in event["Payload"]["Allocation"]["ClientDescription"]
    assert frames[-1]["Events"][0]["Key"] == named(8)


def test_one_that_cannot_be_shown_is_told_when_it_is_asked_for(broken: App) -> None:
    assert ask(broken, f"GET /v1/allocation/{BROKEN}").status == 500
    assert ask(broken, f"GET /v1/allocation/{named(8)}").status == 200
