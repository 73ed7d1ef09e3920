"""A list that is asked for again and again is answered as one that nobody asked for before."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.any_values import MIRRORING, WRITING, begin, clock
from support.asgi import Call, Reply, ask
from taskfold import Engine, ManualClock, MemoryLog, events
from taskfold.errors import TaskfoldError
from taskfold.http.app import App
from taskfold.http.nomad import allocations
from taskfold.http.nomad.lists import KeptList
from taskfold.http.request import Request
from taskfold.http.serve.limits import Limits
from taskfold.http.serve.regions import Peers
from taskfold.model.dialect import DIALECTS
from taskfold.nomad.snapshot import Snapshot

NOTHING_KEPT = Limits(lists_bytes=0, bodies_bytes=0)
TOKEN = "secret"


def named(number: int, *, prefix: int = 0) -> str:
    return f"{prefix:08x}-0000-0000-0000-{number:012x}"


GZIP = {"Accept-Encoding": "gzip"}
LISTS = [
    "/v1/allocations",
    "/v1/allocations?prefix=00000001",
    "/v1/allocations?prefix=00000009",
    "/v1/allocations?namespace=*&pretty",
    "/v1/allocations?namespace=other",
    "/v1/allocations?resources=true",
    "/v1/allocations?task_states=false",
    "/v1/allocations?resources=true&task_states=0&pretty",
    "/v1/allocations?task_states=perhaps",
    "/v1/allocations?index=1",
    "/v1/allocations?region=elsewhere",
    "/v1/allocations?region=global&stale",
    "/v1/job/example/allocations",
    "/v1/job/example/allocations?pretty&index=1",
    "/v1/job/ex%61mple/allocations",
    "/v1/job/a%2Fb/allocations",
    "/v1/job/a/b/allocations",
    "/v1/job/a//b/allocations",
    "/v1/job/nobody/allocations",
    "/v1/allocation/a",
]


async def asked(app: App, target: str, headers: dict[str, str], method: str = "GET") -> Reply:
    return await Call(app, f"{method} {target}", headers).finished()


def check_answers(app: App, plain: App) -> None:
    """Check that every list is answered by both alike, and counted alike, however often it is asked for."""

    async def story() -> None:
        for headers in ({}, GZIP):
            for target in LISTS:
                for method in ("GET", "HEAD", "GET"):
                    one, other = [await asked(each, target, headers, method) for each in (app, plain)]
                    told = [(reply.status, reply.headers, reply.body) for reply in (one, other)]
                    assert told[0] == told[1], (target, method)

    asyncio.run(story())
    assert app.context.answers == plain.context.answers
    assert 0 <= app.context.list_cache.size <= app.context.limits.lists_bytes


def apps(engine: Engine, limits: Limits | None = None) -> tuple[App, App]:
    """Return an application that keeps lists, and one that keeps nothing."""
    return App(engine, limits=limits), App(engine, limits=NOTHING_KEPT)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=50)
@given(
    st.one_of(WRITING, MIRRORING),
    st.sampled_from(sorted(DIALECTS)),
    st.sampled_from([Limits(), Limits(lists_bytes=6_000), Limits(lists_bytes=1_000)]),
)
def test_after_any_writes_every_list_is_what_it_would_be_without_anything_kept(
    calls: list[Callable[[Engine], object]], dialect: str, limits: Limits
) -> None:
    engine = Engine(dialect=dialect, clock=clock())
    begin(engine)
    kept, plain = apps(engine, limits)
    for call in (lambda _: None, *calls):
        try:
            call(engine)
        except TaskfoldError:
            continue
        check_answers(kept, plain)


def filled(engine: Engine, count: int = 5) -> Engine:
    """Return an engine with allocations of several jobs, namespaces and prefixes, of which some have ended."""
    for number in range(count):
        for prefix, job in ((1, "example"), (2, "a/b"), (3, "other")):
            alloc = named(number, prefix=prefix)
            told = {"Namespace": "other"} if prefix == 3 else {}
            engine.place({"ID": alloc, "JobID": job, "AllocatedResources": {"Tasks": {}}, **told})
            engine.record(alloc, "web", events.Received(time_ns=number))
    return engine


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_what_is_written_between_two_lists_is_in_the_second(dialect: str) -> None:
    engine = filled(Engine(dialect=dialect, clock=ManualClock()))
    kept, plain = apps(engine)
    check_answers(kept, plain)
    for write in (
        lambda: engine.record(named(1, prefix=1), "web", events.Started()),
        lambda: engine.update(named(1, prefix=1), {"ClientStatus": "lost"}),
        lambda: engine.update(named(2, prefix=1), {"JobID": "a/b"}),
        lambda: engine.place({"ID": named(77, prefix=1), "JobID": "example"}),
        lambda: engine.record(named(2, prefix=2), "web", events.NotRestarting()),
        lambda: engine.collect(named(2, prefix=2), reason="ended"),
    ):
        write()
        check_answers(kept, plain)


@pytest.mark.parametrize("whole_bytes", [5_000, 1_048_576])
def test_a_list_that_changes_on_its_way_is_of_one_index(monkeypatch: pytest.MonkeyPatch, whole_bytes: int) -> None:
    """Between two pieces of a long list others write, and ask for lists, too: those of one in pieces, or whole."""
    monkeypatch.setattr(allocations, "_WHOLE_BYTES", whole_bytes)
    engine = filled(Engine(MemoryLog("1.1.2"), clock=ManualClock()), count=60)
    kept, plain = apps(engine)

    async def story() -> None:
        for _ in range(3):
            expected = await asked(plain, "/v1/allocations?namespace=*", {})
            call = Call(kept, "GET /v1/allocations?namespace=*")
            call.takes.clear()  # so that the list is still on its way
            for _ in range(3):
                await asyncio.sleep(0)
            for number in (0, 30, 59):
                engine.record(named(number, prefix=3), "web", events.Signaling() if number else events.Received())
            other = await asked(kept, "/v1/allocations?namespace=*", {})
            assert not call.reply.parts
            call.takes.set()
            assert (await call.finished()).body == expected.body
            assert other.body == (await asked(plain, "/v1/allocations?namespace=*", {})).body != expected.body

    engine.record(named(30, prefix=3), "web", events.Started())
    engine.record(named(59, prefix=3), "web", events.Started())
    asyncio.run(story())


@pytest.mark.parametrize("name", ["log.db", "log.jsonl"])
def test_a_server_that_only_reads_shows_what_another_process_wrote(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        with Engine.open(path, dialect="1.1.2") as writer:
            filled(writer)
            with Engine.open(path, read_only=True) as reader:
                kept, plain = apps(reader)
                check_answers(kept, plain)
                for number in range(3):
                    writer.record(named(number, prefix=1), "web", events.Started())
                    assert reader.wait_index(after=writer.index - 1, timeout=30) == writer.index
                    check_answers(kept, plain)


def test_an_entry_is_written_once_however_often_lists_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = filled(Engine(MemoryLog("1.1.2"), clock=ManualClock()))
    kept, _ = apps(engine)
    written: list[str] = []
    to_stub = Snapshot.to_stub_json

    def counted(snapshot: Snapshot, *args: Any, **choices: Any) -> bytes:
        written.append(snapshot.id or "")
        return to_stub(snapshot, *args, **choices)

    monkeypatch.setattr(Snapshot, "to_stub_json", counted)

    async def story() -> None:
        for target in LISTS * 2:
            if "prefix=00000001" in target or "/example/" in target or "index" in target:
                await asked(kept, target, {})
                await asked(kept, target, GZIP)

    asyncio.run(story())
    first = len(written)
    assert first == 10 + 5, "all of the namespace, once; those of a job also indented"
    engine.record(named(1, prefix=1), "web", events.Started())
    asyncio.run(story())
    assert written[first:] == [named(1, prefix=1)] * 2, "what has changed, plain and indented"


def test_a_list_stays_as_it_is_after_writes_of_others() -> None:
    engine = filled(Engine(MemoryLog("1.1.2"), clock=ManualClock()))
    kept, plain = apps(engine)
    targets = ("/v1/job/example/allocations", "/v1/allocations?prefix=00000001", "/v1/job/nobody/allocations")

    def entries() -> list[KeptList]:
        got = [kept.context.list_cache.current(request_of(target)) for target in targets]
        return [entry for entry in got if entry is not None]

    check_answers(kept, plain)
    before = entries()
    engine.record(named(1, prefix=3), "web", events.Started())
    after = entries()
    assert len(after) == len(before) == len(targets)
    assert all(one.answer.body is other.answer.body for one, other in zip(before, after, strict=True))
    assert all((b"X-Nomad-Index", b"%d" % engine.index) in entry.answer.headers for entry in after)
    check_answers(kept, plain)
    engine.record(named(1, prefix=1), "web", events.Started())
    assert [entry.answer.body for entry in entries()] == [b"[]"], "of nobody's job: the others have changed"


def request_of(target: str) -> Request:
    path, _, query = target.encode().partition(b"?")
    return Request({"method": "GET", "path": path.decode(), "query_string": query, "headers": []}, *[None] * 2)  # type: ignore[arg-type]  # nothing is sent


def test_a_list_of_many_entries_is_kept_whole_up_to_a_size() -> None:
    engine = filled(Engine(MemoryLog("1.1.2"), clock=ManualClock()), count=100)
    app, small, plain = (App(engine, limits=each) for each in (Limits(), Limits(lists_bytes=200_000), NOTHING_KEPT))
    target = "/v1/job/example/allocations"
    for headers in ({}, GZIP):
        replies = [asyncio.run(asked(each, target, headers)) for each in (app, app, small, small, plain)]
        assert len({(reply.status, tuple(reply.headers), reply.text) for reply in replies}) == 1
    assert app.context.list_cache.current(request_of(target)) is not None
    assert small.context.list_cache.current(request_of(target)) is None, "it would evict many others"


def test_a_list_that_could_not_be_written_whole_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = filled(Engine(MemoryLog("1.1.2"), clock=ManualClock()))
    kept, plain = apps(engine)
    to_stub = Snapshot.to_stub_json

    def fails(snapshot: Snapshot, *args: Any, **choices: Any) -> bytes:
        if snapshot.id == named(1, prefix=1):
            raise MemoryError
        return to_stub(snapshot, *args, **choices)

    with monkeypatch.context() as patched:
        patched.setattr(Snapshot, "to_stub_json", fails)
        for app in (kept, plain):
            assert "cannot show" in asyncio.run(asked(app, "/v1/job/example/allocations", {})).text
    check_answers(kept, plain)


def test_a_list_that_nothing_new_is_in_waits_again() -> None:
    clock = ManualClock()
    app = App(filled(Engine(MemoryLog("1.1.2"), clock=clock)))
    for _ in range(3):
        before = clock.time_ns()
        assert ask(app, f"GET /v1/job/example/allocations?index={app.engine.index}&wait=10s").status == 200
        assert clock.time_ns() - before >= 10_000_000_000


def test_what_is_kept_is_for_who_may_read_it() -> None:
    app = App(filled(Engine(MemoryLog("1.1.2"), clock=ManualClock())), token=TOKEN)
    for target in ("/v1/job/example/allocations", f"/v1/allocation/{named(1, prefix=1)}"):
        for headers, status in (
            ({"X-Nomad-Token": TOKEN}, 200),
            ({}, 403),
            ({"Authorization": f"Bearer {TOKEN}"}, 200),
            ({"X-Nomad-Token": "wrong"}, 403),
        ):
            assert asyncio.run(asked(app, target, headers)).status == status


def test_what_is_kept_is_for_the_names_of_this_server_only() -> None:
    app = App(filled(Engine(MemoryLog("1.1.2"), clock=ManualClock())))
    for host, status in (("localhost", 200), ("example.org", 403), ("127.0.0.1:4646", 200)):
        assert asyncio.run(asked(app, "/v1/job/example/allocations", {"Host": host})).status == status


def test_a_list_of_another_region_is_never_answered_from_here() -> None:
    engine = filled(Engine(MemoryLog("1.1.2"), clock=ManualClock()))
    app = App(engine, peers=Peers({}))
    for _ in range(2):
        assert asyncio.run(asked(app, "/v1/job/example/allocations", {})).status == 200
        assert asyncio.run(asked(app, "/v1/job/example/allocations?region=far", {})).status == 500


def test_a_list_that_would_drive_out_all_others_is_not_kept() -> None:
    engine = filled(Engine(MemoryLog("1.1.2"), clock=ManualClock()), count=100)
    app = App(engine, limits=Limits(lists_bytes=200_000))
    asyncio.run(asked(app, "/v1/job/example/allocations?prefix=00000001", {}))
    before = app.context.list_cache.size
    asyncio.run(asked(app, "/v1/allocations?namespace=*", {}))
    assert 0 <= app.context.list_cache.size - before <= 1_000
