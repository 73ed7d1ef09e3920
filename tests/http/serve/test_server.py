"""The server on a real socket: slow, huge and stuck clients, tokens, and an orderly end."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from support.servers import LATEST_S, connected, received, served, until
from taskfold import Engine, NdjsonLog
from taskfold import events as ev
from taskfold.errors import ServeError
from taskfold.http.app import App
from taskfold.http.serve import protocol
from taskfold.http.serve.limits import Limits
from taskfold.http.serve.secrets import read_token
from taskfold.http.serve.server import Server, check_exposure, parse_bind, running

ID = "aaaaaaaa-0000-0000-0000-000000000000"


def app_of(count=1, **more):
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": ID, "JobID": "job", "Namespace": "default"})
    for number in range(1, count):
        engine.place({"ID": f"{number:08x}-0000-0000-0000-000000000000", "JobID": "x" * 200, "Namespace": "default"})
    return App(engine, **more)


def drip(opened, seconds):
    """Send a byte now and then. Raises OSError when the other side has closed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        opened.sendall(b"x")
        time.sleep(0.02)


def is_well(server):
    return httpx.get(f"{server.url}/v1/allocation/{ID}").status_code == 200


def test_the_protocol_has_what_the_guard_needs():
    missing = [name for name in protocol.NEEDED if not callable(getattr(HttpToolsProtocol, name, None))]

    assert missing == [], "this uvicorn is another one than the guard was made for"


def test_headers_that_drip_are_waited_for_so_long_only():
    with running(app_of(limits=Limits(header_timeout=0.3))) as server, connected(server) as slow:
        slow.sendall(b"GET /v1/allocation/")
        assert is_well(server), "others are served meanwhile"
        assert received(slow).startswith(b"HTTP/1.1 408 Request Timeout")


def test_a_connection_that_says_nothing_is_closed():
    with running(app_of(limits=Limits(header_timeout=0.2))) as server, connected(server) as silent:
        assert received(silent).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("head", "status", "problem"),
    [
        (b"GET /v1/regions HTTP/1.1\r\n", 400, b"missing required Host header"),
        (b"GET http://localhost/v1/regions HTTP/1.1\r\n", 400, b"missing required Host header"),
        (b"PUT /v1/jobs HTTP/1.1\r\nContent-Length: 0\r\n", 400, b"missing required Host header"),
        (b"GET /v1/regions HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400, b"too many Host headers"),
        (b"GET /v1/regions HTTP/1.1\r\nhOST: localhost\r\nConnection: close\r\n", 200, b""),
        (b"GET /v1/regions HTTP/1.0\r\n", 200, b""),
    ],
)
def test_a_request_of_http_1_1_names_one_host(head, status, problem):
    with running(app_of()) as server, connected(server) as opened:
        opened.sendall(head + b"\r\n")

        answer = received(opened)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if problem:
        assert answer.endswith(b"\r\n\r\n400 Bad Request: " + problem)
        assert b"\r\nConnection: close\r\n" in answer


def test_a_second_request_may_be_slow_no_longer_than_the_first():
    with running(app_of(limits=Limits(header_timeout=1))) as server, connected(server) as kept:
        kept.sendall(b"GET /v1/regions HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in kept.recv(65_536)
        kept.sendall(b"GET /v1/reg")
        assert b"408" in received(kept)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 5_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 5_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_000,
    ],
)
def test_headers_have_a_limit(sent):
    with running(app_of(limits=Limits(header_bytes=2_000))) as server, connected(server) as opened:
        opened.sendall(sent)
        assert received(opened).startswith(b"HTTP/1.1 431 ")
        assert is_well(server)


def test_what_is_no_http_is_told_and_hurts_nobody():
    with running(app_of()) as server, connected(server) as opened:
        opened.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n")
        assert received(opened).startswith(b"HTTP/1.1 400 ")
        assert is_well(server)


def test_a_query_has_a_limit():
    with running(app_of(limits=Limits(query_bytes=100))) as server:
        reply = httpx.get(f"{server.url}/v1/allocations?prefix={'a' * 101}")
        assert (reply.status_code, reply.text) == (414, "the query is longer than 100 bytes")


def test_a_body_has_a_limit_however_it_is_sent():
    with running(app_of(limits=Limits(body_bytes=1_000))) as server:
        url = f"{server.url}/v1/allocations/events"
        assert httpx.post(url, content=b"x" * 1_001).status_code == 413
        assert httpx.post(url, content=(b"x" * 100 for _ in range(11))).status_code == 413
        assert is_well(server)


def test_a_body_that_drips_is_waited_for_so_long_only():
    with running(app_of(limits=Limits(body_timeout=0.2))) as server, connected(server) as slow:
        slow.sendall(b"POST /v1/allocations/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
        assert b"408" in slow.recv(65_536)


def test_one_that_never_reads_is_left_and_costs_no_memory():
    app = app_of(3_000, limits=Limits(send_timeout=0.3))
    with running(app) as server, connected(server) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stuck.sendall(b"GET /v1/allocations HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: is_well(server) and app.context.answers[("allocations", 200)])
        assert app.context.answers[("allocations", 200)] == 1
        assert len(app.engine.store._listings) == 0


def test_many_idle_connections_hurt_nobody():
    with running(app_of()) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
        assert is_well(server)
        for opened in idle:
            opened.close()


def test_every_request_but_the_one_for_health_needs_the_token():
    app = app_of(token="s3cret")
    with running(app) as server:

        def status(path="/v1/allocations", **headers):
            return httpx.get(server.url + path, headers=headers).status_code

        assert status() == 403
        assert status(**{"X-Nomad-Token": "wrong"}) == 403
        assert status(Authorization="Basic s3cret") == 403
        assert status(**{"X-Nomad-Token": "s3cret"}) == 200
        assert status(Authorization="Bearer s3cret") == 200
        assert status("/v1/nothing") == 403, "nobody learns which paths there are"
        assert status("/v1/metrics?format=prometheus") == 403
        assert status("/v1/agent/health") == 200
        assert httpx.get(f"{server.url}/v1/allocations").text == "Permission denied"
        assert httpx.post(f"{server.url}/v1/allocations/events", content=b"x").status_code == 403


def test_a_token_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    with running(app_of(token="s3cret")) as server:
        httpx.get(f"{server.url}/v1/allocations", headers={"X-Nomad-Token": "guess"})

    assert compared == [(b"guess", b"s3cret")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104 - it is refused
def test_it_is_not_reachable_from_elsewhere_without_a_token(host):
    with pytest.raises(ServeError, match="give a token"):
        check_exposure(host, None)
    check_exposure(host, "token")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_token(host):
    check_exposure(host, None)


@pytest.mark.parametrize("text", ["", "4646", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", ":1"])
def test_an_address_that_is_none_is_told(text):
    with pytest.raises(ServeError, match="expected HOST:PORT"):
        parse_bind(text)


def test_signals_end_it_also_where_an_event_loop_takes_none(monkeypatch):
    """As on Windows."""
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)

    class Loop:
        called = ()

        def add_signal_handler(self, *_):
            raise NotImplementedError

        def call_soon_threadsafe(self, callback):
            self.called = (*self.called, callback)

    server, loop = Server(app_of()), Loop()
    server._loop = loop
    server._handle_signals(loop)
    assert handlers.keys() == {signal.SIGINT, signal.SIGTERM}

    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert loop.called == (server._end,)
    server.close()


def test_a_port_that_is_taken_is_told():
    with running(app_of()) as server, pytest.raises(ServeError, match=rf"cannot listen at 127.0.0.1:{server.port}: "):
        Server(app_of(), port=server.port)


def test_a_token_comes_from_where_it_is_said(tmp_path):
    file = tmp_path / "token"
    file.write_text("  from-file \nsecond line\n")
    file.chmod(0o600)
    notes = []

    assert read_token(None, str(file), {}, notes.append) == "from-file"
    assert notes == []
    file.chmod(0o644)
    assert read_token(None, str(file), {}, notes.append) == "from-file"
    assert notes == [f"others can read {file}, which holds the token"]
    assert read_token("given", None, {"TASKFOLD_TOKEN": "other"}) == "given"
    assert read_token(None, None, {"TASKFOLD_TOKEN": "environment"}) == "environment"
    assert read_token(None, None, {}) is None
    file.write_text("\nlater")
    for text, path, environment, problem in (
        (None, str(file), {}, "holds no token"),
        (None, str(tmp_path / "none"), {}, "No such file"),
        (None, str(tmp_path), {}, "directory"),
        (" ", None, {}, "is empty"),
        (None, None, {"TASKFOLD_TOKEN": ""}, "is empty"),
        ("a", "b", {}, "given twice"),
        ("tökén", None, {}, "printable ASCII"),
    ):
        with pytest.raises(ServeError, match=problem):
            read_token(text, path, environment)


# --- what a connection may do ---


@pytest.fixture
def impatient(monkeypatch):
    """Have the guard wait for a moment only where it waits five seconds."""
    monkeypatch.setattr(protocol, "_GRACE", 0.3)


def test_an_empty_line_after_an_answer_does_not_hold_the_connection():
    with running(app_of(limits=Limits(header_timeout=1))) as server, connected(server) as kept:
        kept.sendall(b"GET /v1/regions HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in kept.recv(65_536)
        kept.sendall(b"\r\n")
        assert b"408" in received(kept)


@pytest.mark.usefixtures("impatient")
def test_a_body_that_goes_on_after_its_answer_does_not_hold_the_connection():
    with running(app_of(limits=Limits(body_bytes=10))) as server, connected(server) as endless:
        endless.sendall(b"POST /v1/allocations/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert b" 413 " in endless.recv(65_536), "the answer comes before the connection ends"
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            drip(endless, seconds=10)


def test_a_slow_head_is_not_refused_amid_the_answer_before_it():
    with running(app_of(limits=Limits(header_timeout=0.2))) as server, connected(server) as opened:
        target = f"/v1/allocation/{ID}?index=1&wait=5s"
        opened.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/reg".encode())
        assert received(opened) == b"", "a 408 would be taken for the answer of the first request"


def test_what_follows_headers_that_are_too_large_is_not_done():
    app = app_of(limits=Limits(header_bytes=2_000))
    write = json.dumps({"Alloc": ID, "Task": "web", "Event": {"Type": "Received"}}).encode()
    with running(app) as server, connected(server) as opened:
        opened.sendall(
            b"GET / HTTP/1.1\r\nX-Long: %b\r\n\r\nPOST /v1/allocations/events HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b"
            % (b"x" * 3_000, len(write), write)
        )
        assert received(opened).count(b"HTTP/1.1") == 1
        assert is_well(server)
    assert app.engine.index == 1


@pytest.fixture
def large():
    """Return an application with one allocation that fits into no buffer of the system."""
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": ID, "Job": {"Meta": {"text": "x" * 16_000_000}}})
    return App(engine, limits=Limits(send_timeout=1))


@pytest.mark.usefixtures("impatient")
def test_a_last_answer_that_nobody_takes_does_not_hold_the_connection(large):
    with running(large) as server, connected(server) as stuck:
        connections = server._uvicorn.server_state.connections
        stuck.sendall(f"GET /v1/allocation/{ID} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert b"200 OK" in stuck.recv(1_000)
        assert len(connections) == 1
        until(lambda: not connections)


@pytest.mark.usefixtures("impatient")
def test_one_that_takes_slowly_gets_everything(large):
    data = b""
    began = time.monotonic()
    with running(large) as server, connected(server) as slow:
        slow.sendall(f"GET /v1/allocation/{ID} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        while part := slow.recv(100_000):
            data += part
            time.sleep(0.01)
    assert data.endswith(b"\r\n0\r\n\r\n")
    longest = large.context.limits.send_timeout + protocol._GRACE
    assert time.monotonic() - began > longest, "taking it all takes longer than one may take nothing"


def test_of_two_that_begin_at_one_address_at_once_only_one_does():
    first = Server(app_of())
    with pytest.raises(ServeError, match="in use"):
        Server(app_of(), port=first.port)
    first.close()


# --- the command, as a process of its own ---


def listens(host, port):
    """Tell whether somebody takes connections there."""
    try:
        socket.create_connection((host, port)).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_the_blocked_queries_ends_the_streams_and_keeps_the_log(tmp_path, name):
    path = tmp_path / "log.jsonl"
    engine = Engine(NdjsonLog(path, "1.1.2"))
    engine.place({"ID": ID, "Namespace": "default"})
    engine.close()
    with served(path) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        blocked = [socket.create_connection((host, int(port)), timeout=20) for _ in range(20)]
        for opened in blocked:
            opened.sendall(f"GET /v1/allocation/{ID}?index=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        stream = socket.create_connection((host, int(port)), timeout=20)
        stream.sendall(b"GET /v1/event/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b'"Index":1' not in stream.recv(65_536):
            pass
        write = {"Alloc": ID, "Task": "db", "Event": {"Type": "Received"}}
        metrics = httpx.get(f"{url}/v1/metrics?format=prometheus").text
        while "taskfold_blocked_queries 20.0" not in metrics:
            metrics = httpx.get(f"{url}/v1/metrics?format=prometheus").text
        process.send_signal(name)
        for opened in blocked:
            assert received(opened).startswith(b"HTTP/1.1 200 OK")
            opened.close()
        assert received(stream).endswith(b"0\r\n\r\n"), "the stream has a proper end"
        stream.close()
        assert process.wait(20) == 0
        assert "stopped at index 1" in process.stderr.read()
    with served(path) as (process, url):
        assert httpx.post(f"{url}/v1/allocations/events", content=json.dumps(write)).status_code == 200
        process.send_signal(name)
        assert process.wait(20) == 0
    with NdjsonLog(path) as log:
        assert [record.seq for record in log.read_all()] == [1, 2]


def test_a_second_signal_ends_it_at_once():
    with served() as (process, url):
        host, port = url.removeprefix("http://").split(":")
        slow = socket.create_connection((host, int(port)))
        head = b"POST /v1/allocations/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        slow.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert b"100 Continue" in slow.recv(65_536), "the body is waited for"
        process.send_signal(signal.SIGTERM)
        until(lambda: not listens(host, int(port)))
        assert process.poll() is None, "it waits for what is running"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LATEST_S) == 0
        slow.close()


def test_the_token_is_nowhere_in_what_is_printed():
    with served(TASKFOLD_TOKEN="very-secret") as (process, url):
        assert httpx.get(f"{url}/v1/allocations", headers={"X-Nomad-Token": "very-secret"}).status_code == 200
        assert httpx.get(f"{url}/v1/allocations", headers={"X-Nomad-Token": "a-guess"}).status_code == 403
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        printed = process.stderr.read()
    assert "very-secret" not in printed
    assert "a-guess" not in printed


@pytest.mark.parametrize("name", ["log.jsonl", "log.db"])
def test_an_acknowledged_write_survives_a_kill(tmp_path, name):
    path = tmp_path / name
    with served(path, "--dialect", "1.1.2") as (process, url), httpx.Client(base_url=url) as client:
        client.post("/v1/allocations/events", content=json.dumps({"Alloc": ID, "Event": {"Type": "Placed"}}))
        for number in range(50):
            write = {"Alloc": ID, "Task": "web", "Event": {"Type": "Received"}, "ID": str(number)}
            assert client.post("/v1/allocations/events", content=json.dumps(write)).status_code == 200
        process.kill()
        process.wait()
    with Engine.open(path) as engine:
        assert engine.task(ID, "web").events_total == 50


def test_a_write_in_a_thread_wakes_a_client():
    app = app_of()
    with running(app) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        threading.Timer(0.2, app.engine.record, (ID, "web", ev.Started())).start()
        reply = client.get(f"/v1/allocation/{ID}?index=1")
        assert reply.headers["X-Nomad-Index"] == "2"
        assert reply.json()["ClientStatus"] == "running"
