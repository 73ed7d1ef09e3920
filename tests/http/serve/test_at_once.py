"""A request that is answered at once, without a task of its own, is answered as every other one, on a real socket."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.servers import connected, received, until
from taskfold import Engine, events
from taskfold.http.app import App
from taskfold.http.serve.limits import Limits
from taskfold.http.serve.server import Server, running

ID = "aaaaaaaa-0000-0000-0000-000000000000"
ONE = f"/v1/allocation/{ID}"
LIST = "/v1/job/job/allocations"
WAITS = f"{ONE}?index=1&wait=10ms"


def app_of(length: int = 3_000, **more: Any) -> App:
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": ID, "JobID": "job", "Namespace": "default", "Job": {"Meta": {"text": "x" * length}}}, time_ns=7)
    for odd in ("aA", "a%41"):
        engine.place({"ID": odd, "JobID": "odd"}, time_ns=7)
    return App(engine, **more)


class Counted:
    """Counts how many requests an application answers at once; it may be told to answer none so."""

    def __init__(self, app: App, *, is_on: bool = True) -> None:
        self.count = 0
        self._ask = app.at_once
        self._is_on = is_on
        app.at_once = self  # type: ignore[method-assign,assignment]

    def __call__(self, target: bytes, scope: Any) -> Any:
        found = self._ask(target, scope) if self._is_on else None
        self.count += found is not None
        return found


@contextmanager
def counting(**more: Any) -> Iterator[tuple[Server, App, Counted]]:
    app = app_of(**more)
    counted = Counted(app)
    with running(app) as server:
        yield server, app, counted


def request(target: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: localhost", *headers, "", ""]).encode()


LAST = request("/v1/regions", "Connection: close")


def answers(server: Server, *requests: bytes) -> bytes:
    """Send requests in one packet, and return all that is answered, but for the times."""
    with connected(server) as opened:
        opened.sendall(b"".join(requests))
        return re.sub(rb"\r\ndate: [^\r]*", b"\r\ndate: now", received(opened))


TARGETS = [
    ONE,
    LIST,
    f"{ONE}?pretty",
    f"{LIST}?pretty",
    "/v1/allocations?prefix=aa",
    "/v1/job/none/allocations",
    "/v1/allocation/none",
    "/v1/allocation/aA",
    "/v1/allocation/a%41",
    "/v1/allocation/a%2541",
    f"{ONE}#there",
    f"http://localhost{ONE}",
    f"/v1//allocation/{ID}",
    "/v1/job/j%6Fb/allocations",
    f"{LIST}?region=far",
    WAITS,
    "/v1/regions",
    "/",
    "*",
]
BODIES = {"": b"", "Content-Length: 5": b"hello", "Transfer-Encoding: chunked": b"5\r\nhello\r\n0\r\n\r\n"}
REQUESTS = st.builds(
    lambda target, headers, method, version, body: (
        request(target, *headers, *filter(None, [body]), method=method, version=version) + BODIES[body]
    ),
    st.sampled_from(TARGETS),
    st.lists(
        st.sampled_from(
            [
                "Accept-Encoding: gzip",
                "Accept-Encoding: gzip;q=0",
                "Connection: keep-alive",
                "Connection: close",
                "Upgrade: h2c",
                "Expect: 100-continue",
                "X-Nomad-Token: guess",
                "Origin: http://example.org",
            ]
        ),
        max_size=2,
        unique=True,
    ),
    st.sampled_from(["GET", "GET", "GET", "HEAD", "PUT"]),
    st.sampled_from(["1.1", "1.1", "1.1", "1.0"]),
    st.sampled_from(["", "", *BODIES]),
)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Server, Server, Counted]]:
    """Return two servers of the same, of which one answers nothing at once."""
    app, other = [app_of(limits=Limits(keep_alive_timeout=2)) for _ in range(2)]
    counted, _ = Counted(app), Counted(other, is_on=False)
    with running(app) as server, running(other) as plain:
        for each in (server, plain):
            for headers in ([], ["Accept-Encoding: gzip"]):
                answers(each, *[request(target, *headers) for target in TARGETS], LAST)
        yield server, plain, counted


@settings(max_examples=150)
@given(st.lists(REQUESTS, min_size=1, max_size=5))
def test_any_requests_of_one_packet_are_answered_byte_for_byte_as_by_tasks(
    both: tuple[Server, Server, Counted], requests: list[bytes]
) -> None:
    server, plain, _ = both
    assert answers(server, *requests, LAST) == answers(plain, *requests, LAST)


@pytest.mark.parametrize("headers", [[], ["Accept-Encoding: gzip"]], ids=["plain", "gzip"])
def test_every_target_is_answered_byte_for_byte_as_by_tasks(
    both: tuple[Server, Server, Counted], headers: list[str]
) -> None:
    server, plain, counted = both
    before = counted.count
    for target in TARGETS:
        assert answers(server, request(target, *headers), LAST) == answers(plain, request(target, *headers), LAST)
    assert counted.count > before


def test_what_was_read_before_is_answered_at_once() -> None:
    with counting() as (server, app, counted):
        for target in (ONE, LIST, "/v1/allocations", f"{LIST}?pretty"):
            for headers in ([], ["Accept-Encoding: gzip"]):
                first = answers(server, request(target, *headers), LAST)
                before = counted.count
                assert answers(server, request(target, *headers), LAST) == first
                assert counted.count == before + 1, target
        assert app.context.answers["allocation", 200] == 4
        assert app.context.answers["job_allocations", 200] == 8
        app.engine.record(ID, "web", events.Started())
        for target in (ONE, LIST):
            assert b'"running"' in answers(server, request(target), LAST)


def test_answers_come_in_the_order_of_the_requests() -> None:
    with counting() as (server, _, counted):
        answers(server, request(ONE), LAST)
        got = answers(server, request(ONE), request(WAITS.replace("=1&", "=9&")), request(ONE), request(LIST), LAST)
        assert counted.count == 1, "only the first has nothing before it"
        bodies = re.findall(rb"\r\n\r\n(?:[0-9a-f]+\r\n)?([{\[].)", got)
        assert bodies == [b'{"', b'{"', b'{"', b"[{", b'["']
        assert got.endswith(b'["global"]')


def test_a_connection_that_was_answered_at_once_may_say_nothing_for_as_long_as_any_other() -> None:
    with counting(limits=Limits(header_timeout=0.2, keep_alive_timeout=1)) as (server, _, counted):
        answers(server, request(ONE), LAST)
        with connected(server) as opened:
            opened.sendall(request(ONE))
            whole = b"".join(iter(lambda: opened.recv(65_536), b""))
            assert whole.endswith(b"\r\n0\r\n\r\n"), "it is closed in the end, and nothing is said of it"
            assert counted.count == 1


def test_a_request_that_waits_behind_one_that_was_answered_at_once_is_let_wait() -> None:
    with counting(limits=Limits(header_timeout=0.2, keep_alive_timeout=1)) as (server, _, counted):
        answers(server, request(ONE), LAST)
        got = answers(server, request(ONE), request(f"{ONE}?index=9&wait=1500ms"), LAST)
        assert counted.count == 1
        assert got.count(b"HTTP/1.1 200 OK") == 3


def test_a_head_that_comes_slowly_after_an_answer_is_waited_for_so_long_only() -> None:
    with counting(limits=Limits(header_timeout=0.3)) as (server, _, counted), connected(server) as opened:
        answers(server, request(ONE), LAST)
        opened.sendall(request(ONE) + b"GET /v1/reg")
        assert b"HTTP/1.1 408 Request Timeout" in received(opened)
        assert counted.count == 1


def test_a_head_that_comes_in_parts_is_answered_at_once_when_it_is_whole() -> None:
    with counting() as (server, _, counted):
        whole = answers(server, request(ONE), LAST)
        with connected(server) as opened:
            for byte in (request(ONE) + LAST)[:-1]:
                opened.sendall(bytes([byte]))
            opened.sendall(b"\n")
            assert re.sub(rb"date: [^\r]*", b"date: now", received(opened)) == whole
        assert counted.count == 1


def test_one_that_asks_much_and_takes_nothing_costs_no_memory_and_gets_everything_in_the_end() -> None:
    many = 100
    with counting(length=100_000) as (server, app, counted), connected(server) as stuck:
        one = answers(server, request(ONE), LAST)
        stuck.sendall(request(ONE) * many + LAST)
        until(lambda: app.context.unsent.bytes > 0)
        assert app.context.unsent.bytes < 3 * len(one), (
            "what is written before it is noticed, and what the system takes"
        )
        whole = received(stuck)
        assert whole.count(b"HTTP/1.1 200 OK") == many + 1
        assert whole.endswith(b'["global"]')
        assert 0 < counted.count < many


def test_a_server_stops_although_clients_that_were_answered_at_once_stay() -> None:
    with counting() as (server, _, counted):
        answers(server, request(ONE), LAST)
        opened = socket.create_connection(("127.0.0.1", server.port))
        opened.sendall(request(ONE))
        assert opened.recv(65_536)
        assert counted.count == 1
    assert opened.recv(65_536) == b""
    opened.close()


class Others:
    """Other processes that serve the same log."""

    def __init__(self) -> None:
        self.is_behind = False
        self.published = 0

    def publish(self) -> None:
        self.published += 1


@pytest.mark.parametrize("target", [ONE, LIST])
def test_one_of_several_processes_answers_at_once_only_while_it_is_as_far_as_the_others(target: str) -> None:
    app = app_of()
    with running(app) as server:
        answers(server, request(target), LAST)
    app.context.crew = others = Others()  # type: ignore[assignment]
    assert app.may_answer_at_once(target.encode())
    assert app.at_once(target.encode(), {"headers": []}) is not None
    assert others.published == 1, "before anything is told"
    others.is_behind = True
    assert app.at_once(target.encode(), {"headers": []}) is None
