"""``taskfold serve --workers``: several processes that serve one log look like one server from outside."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.asgi import Call
from support.command_line import refused, run
from support.postgres import server
from support.servers import LATEST_S, served, until
from taskfold import Engine
from taskfold.errors import ServeError
from taskfold.http.app import App
from taskfold.http.routes import ROUTES
from taskfold.http.serve import crew as crew_module
from taskfold.http.serve.channel import Channel, OwnerCall, Problem, Settings, Stop, Wake, _packed
from taskfold.http.serve.crew import Cells, Crew
from taskfold.http.serve.limits import Limits
from taskfold.http.serve.server import Server
from taskfold.http.serve.workers import Workers
from taskfold.log.sqlite.log import SqliteLog

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes inherit no descriptors here")

WORKERS = 3
ALLOC = "203266e5-e0d6-9486-5e05-397ed2b184af"
READ = f"/v1/allocation/{ALLOC}"
OWN = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def postgres():
    with server() as running:
        yield running


@pytest.fixture(params=["log.db", "log.jsonl", "postgres"])
def log(request, tmp_path):
    """Return the name of a log that is not there yet, of every kind that processes can share."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres").new_schema()
    return tmp_path / request.param


class Client:
    """One connection, which one of the workers has."""

    def __init__(self, url):
        address = urlsplit(url)
        self.opened = socket.create_connection((address.hostname, address.port), timeout=LATEST_S)

    def close(self):
        self.opened.close()

    def send(self, target, method="GET", body="", headers=None):
        told = {"Host": "localhost", "Content-Length": len(body), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        # At once: who is answered before the body has come is left.
        self.opened.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n{body}".encode())

    def answer(self):
        """Return status, headers and body of what was sent."""
        reply = http.client.HTTPResponse(self.opened)
        reply.begin()
        headers = {name: value for name, value in reply.getheaders() if name != "date"}
        return reply.status, headers, reply.read()

    def ask(self, *request, **more):
        self.send(*request, **more)
        return self.answer()

    def write(self, *lines):
        """Record, and return the index."""
        body = "\n".join(json.dumps({"Alloc": ALLOC, **line}) for line in lines)
        status, headers, text = self.ask("/v1/allocations/events", "POST", body, OWN)
        assert status == 200, text
        return int(headers["x-nomad-index"])

    def place(self):
        return self.write({"Event": {"Type": "Placed", "Body": {"JobID": "example", "TaskGroup": "web"}}})

    def describe(self, text):
        return self.write({"Event": {"Type": "Updated", "Fields": {"DesiredDescription": text}}})


def numbers(url, name):
    """Return a number of each worker."""
    lines = httpx.get(f"{url}/v1/metrics?format=prometheus", timeout=LATEST_S).text.splitlines()
    told = [line for line in lines if line.startswith(f'taskfold_{name}{{worker="')]
    return {line.split('"')[1]: float(line.split()[1]) for line in told}


def clients_of_all(url, held):
    """Return connections, until each worker has two of them at least."""
    clients = []
    while True:
        client = Client(url)
        held.callback(client.close)
        clients.append(client)
        client.ask("/v1/regions")
        found = numbers(url, "connections")
        if len(found) == WORKERS and min(found.values()) >= 2:
            return clients
        assert len(clients) < 200, found


def followers_of(process):
    """Return the process IDs of the workers that follow."""
    told = subprocess.run(
        [shutil.which("pgrep"), "-P", str(process.pid)], capture_output=True, text=True, check=False
    ).stdout
    return sorted(map(int, told.split()))


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def health(url):
    return httpx.get(f"{url}/v1/agent/health", timeout=LATEST_S).json()["server"]["message"]


def test_several_workers_are_one_server_until_it_is_ended(log):
    with served(log, "--dialect", "1.1.2", "--workers", WORKERS) as (process, url), ExitStack() as held:
        assert health(url) == "ok", "it says where it serves when all of them do"
        clients = clients_of_all(url, held)
        clients[0].place()
        for number, writer in enumerate(clients):
            index = writer.describe(f"write {number}")
            for reader in clients:
                status, headers, body = reader.ask(READ)
                shown = json.loads(body)
                assert (status, int(headers["x-nomad-index"])) == (200, index)
                assert (shown["DesiredDescription"], shown["ModifyIndex"]) == (f"write {number}", index)
        for target in (READ, "/v1/allocations", "/v1/job/example/allocations", f"{READ}/history"):
            assert len({body for _, _, body in (client.ask(target) for client in clients)}) == 1, target

        # Every blocked query is woken, whichever worker holds it.
        waiting, writer = clients[:-1], clients[-1]
        for client in waiting:
            client.send(f"{READ}?index={index}&wait=100s")
        until(lambda: sum(numbers(url, "blocked_queries").values()) == len(waiting))
        index = writer.describe("news")
        for status, headers, body in [client.answer() for client in waiting]:
            assert (status, int(headers["x-nomad-index"])) == (200, index)
            assert json.loads(body)["DesiredDescription"] == "news"

        # So is every stream.
        streams = [held.enter_context(httpx.Client(timeout=LATEST_S)) for _ in range(12)]
        frames = []
        for stream in streams:
            opened = held.enter_context(stream.stream("GET", f"{url}/v1/event/stream?index=1"))
            lines = opened.iter_lines()
            frames.append(json.loads(line) for line in lines if line not in {"", "{}"})
        seen = [[next(told)["Index"] for _ in range(len(clients) + 2)] for told in frames]
        assert seen == [list(range(1, index + 1))] * len(streams)
        index = writer.describe("more news")
        assert [next(told)["Index"] for told in frames] == [index] * len(streams)

        # Who waits is answered at the end, and nobody is left.
        followers = followers_of(process)
        assert len(followers) == WORKERS - 1
        for client in waiting:
            client.send(f"{READ}?index={index}&wait=100s")
        until(lambda: sum(numbers(url, "blocked_queries").values()) == len(waiting))
        process.send_signal(signal.SIGTERM)
        assert [client.answer()[0] for client in waiting] == [200] * len(waiting)
        assert process.wait(LATEST_S) == 0
        assert process.stderr.read() == f"taskfold: stopped at index {index}\n"
        assert not any(map(is_there, followers))
        with pytest.raises(ConnectionRefusedError):
            Client(url)


def test_what_only_the_owner_can_answer_is_answered_by_all_in_the_same_words(tmp_path):
    with served(tmp_path / "log.db", "--dialect", "1.1.2", "--workers", WORKERS) as (_, url), ExitStack() as held:
        clients = clients_of_all(url, held)
        clients[0].place()
        _, _, body = clients[0].ask(f"{READ}/stop", "PUT")
        evaluation = json.loads(body)["EvalID"]
        many = "\n".join(["{}"] * (Limits().writes_per_request + 1))
        page = {"Origin": "http://elsewhere.example"}
        for request in (
            (f"/v1/evaluation/{evaluation}",),
            (f"/v1/evaluation/{evaluation}?pretty",),
            (f"/v1/evaluation/{evaluation}/allocations",),
            ("/v1/evaluation/00000000-0000-0000-0000-000000000000",),
            ("/v1/agent/health",),
            ("/v1/agent/health?type=client",),
            ("/v1/allocations/events", "POST", "not JSON", OWN),
            ("/v1/allocations/events", "POST", many, OWN),
            ("/v1/allocations/events", "POST", "{}", {"Content-Type": "text/plain"}),
            ("/v1/allocations/events", "POST", "{}", OWN | page),
            ("/v1/allocations/events", "GET"),
            ("/v1/allocations/events?region=eu", "POST", "{}", OWN),
            ("/v1/allocation/ffffffff-0000-0000-0000-000000000000/stop", "PUT"),
            (f"/v1/client/allocation/{ALLOC}/signal", "PUT", '{"Signal":"SIGNONE"}'),
            ("/v1/jobs", "PUT", '{"Job":7}'),
            ("/v1/none",),
            (READ, "GET", "", {"Host": "rebinding.example"}),
        ):
            answers = [client.ask(*request) for client in clients]
            assert all(answer == answers[0] for answer in answers), (request, answers)
        repeats = [client.ask("/v1/allocations/inputs", "POST", "{}", OWN)[0] for client in clients]
        assert len(set(repeats)) == 1


def test_a_worker_that_is_killed_comes_again_and_the_owner_takes_all_with_it(tmp_path):
    with served(tmp_path / "log.db", "--dialect", "1.1.2", "--workers", WORKERS) as (process, url), ExitStack() as held:
        clients_of_all(url, held)[0].place()
        killed, other = followers_of(process)
        os.kill(killed, signal.SIGKILL)

        line = process.stderr.readline()
        again = r"it is started again (in 0.5 s|at once)"  # by how long it had served
        assert re.search(rf" worker \d \(process {killed}\) was ended by SIGKILL; {again}$", line)
        number = line.split()[2]
        assert process.stderr.readline() == f"taskfold: worker {number} serves again\n"
        assert health(url) == "ok"
        clients = clients_of_all(url, held)
        index = clients[0].describe("after it")
        assert {int(client.ask(READ)[1]["x-nomad-index"]) for client in clients} == {index}

        now = followers_of(process)
        assert len(now) == 2
        assert other in now
        process.kill()
        process.wait()
        until(lambda: not any(map(is_there, now)))


def test_what_any_worker_acknowledged_is_in_the_log_when_a_signal_ends_all(tmp_path):
    path = tmp_path / "log.db"
    with served(path, "--dialect", "1.1.2", "--workers", WORKERS) as (process, url), ExitStack() as held:
        clients = clients_of_all(url, held)
        clients[0].place()
        acknowledged = []

        def write(number):
            """Write until the server is gone; a connection that ends without an answer acknowledges nothing."""
            with suppress(OSError, http.client.HTTPException):
                for count in range(10_000):
                    event = {"Type": "Updated", "Fields": {"DesiredDescription": "x"}}
                    line = {"Alloc": ALLOC, "Event": event, "ID": f"{number}-{count}"}
                    if clients[number].ask("/v1/allocations/events", "POST", json.dumps(line), OWN)[0] != 200:
                        return
                    acknowledged.append(line["ID"])

        writers = [threading.Thread(target=write, args=(number,)) for number in range(len(clients))]
        for writer in writers:
            writer.start()
        until(lambda: len(acknowledged) > 50)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LATEST_S) == 0
        for writer in writers:
            writer.join(LATEST_S)
    with SqliteLog(path) as log:
        assert {record.id for record in log.read_all()} >= set(acknowledged)


def test_a_worker_that_cannot_read_the_log_is_told_and_so_is_its_end(tmp_path):
    path, elsewhere = tmp_path / "log.db", tmp_path / "elsewhere.db"
    with served(path, "--dialect", "1.1.2", "--workers", "2") as (process, url):
        path.rename(elsewhere)
        until(lambda: health(url) != "ok")
        assert health(url) == f"worker 2: {path}: the log was removed or moved away: put it back"
        assert process.stderr.readline() == f"taskfold: {health(url)}\n"
        elsewhere.rename(path)
        until(lambda: health(url) == "ok")
        assert process.stderr.readline() == "taskfold: worker 2 serves again\n"


def test_workers_share_a_socket_of_the_file_system_and_leave_nothing(tmp_path):
    path = tmp_path / "socket"
    command = ["log.db", "--dialect", "1.1.2", "--workers", "2", "--bind", f"unix:{path}"]
    with served(*command, cwd=tmp_path) as (process, url):
        assert url == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=LATEST_S) as client:
            assert client.get("http://localhost/v1/allocations").json() == []
        process.send_signal(signal.SIGINT)
        assert process.wait(LATEST_S) == 0
    assert not path.exists()


def test_readers_of_what_another_process_writes_may_be_several(tmp_path):
    path = tmp_path / "log.jsonl"
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": ALLOC, "JobID": "example"})
        with served(path, "--read-only", "--workers", WORKERS) as (_, url), ExitStack() as held:
            clients = clients_of_all(url, held)
            for client in clients:
                client.send(f"{READ}?index={engine.index}&wait=100s")
            until(lambda: sum(numbers(url, "blocked_queries").values()) == len(clients))
            engine.update(ALLOC, {"DesiredDescription": "news"})
            assert [client.answer()[0] for client in clients] == [200] * len(clients)
            told = [client.ask("/v1/allocations/events", "POST", "{}", OWN) for client in clients]
            assert {status for status, _, _ in told} == {409}


def test_clients_are_spread_over_the_workers_and_a_taken_port_is_refused(tmp_path):
    with served(tmp_path / "log.db", "--workers", "2") as (_, url):
        port = urlsplit(url).port
        sentence = f"cannot listen at 127.0.0.1:{port}: "
        refused(run("serve", tmp_path / "b.db", "--workers", "2", "--bind", f"127.0.0.1:{port}"), sentence, "in use")
        refused(run("serve", "--bind", f"127.0.0.1:{port}"), sentence, "in use")


def test_a_token_is_asked_for_by_every_worker(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("secret\n")
    command = [tmp_path / "log.db", "--dialect", "1.1.2", "--workers", "2", "--token-file", secret]
    with served(*command) as (_, url), ExitStack() as held:
        clients = [Client(url) for _ in range(16)]
        for client in clients:
            held.callback(client.close)
        for target, status in ((READ, 403), ("/v1/metrics", 403), ("/v1/agent/health", 200)):
            assert {client.ask(target)[0] for client in clients} == {status}
        given = {"X-Nomad-Token": "secret"}
        assert {client.ask(READ, headers=given)[0] for client in clients} == {404}
        assert {client.ask("/v1/metrics", headers=given)[0] for client in clients} == {200}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["log.db", "--workers", "0"], "--workers"),
        (["log.db", "--workers", "-1"], "--workers"),
        (["log.db", "--workers", "65"], "--workers"),
        (["log.db", "--workers", "two"], "--workers"),
        (["--workers", "2"], "--workers needs a LOG that several processes can read"),
        (["--follow", "-", "--workers", "2"], "--workers needs a LOG that several processes can read"),
        (["none.db", "--read-only", "--workers", "2"], "none.db: there is no log"),
    ],
)
def test_workers_that_cannot_be_are_refused_in_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    refused(run("serve", *arguments), sentence)
    assert list(tmp_path.iterdir()) == []


def test_one_worker_is_a_server_without_others():
    with served("--workers", "1") as (process, url):
        assert followers_of(process) == []
        assert "worker=" not in httpx.get(f"{url}/v1/metrics?format=prometheus").text


def settings_of(log):
    return Settings(
        log=str(log), region="global", peers={}, peer_tokens={}, token=None, limits=Limits(), is_mirror=False
    )


def test_a_worker_that_cannot_begin_ends_the_server_and_says_why(tmp_path):
    async def serve():
        app = App(Engine(dialect="1.1.2"))
        serving = Server(app, workers=2)
        app.context.crew = Workers(app, settings_of(tmp_path / "none.db"), serving.sockets, on_note=lambda _: None)
        try:
            await serving.run()
        finally:
            serving.close()

    with pytest.raises(ServeError, match=r"^worker 2 cannot begin: .*none\.db: there is no log$"):
        asyncio.run(serve())


def test_every_endpoint_that_writes_is_the_owners():
    writing = [route for route in ROUTES.values() if any(map(route.writes, route.methods))]
    assert [route.name for route in writing if not route.is_owners] == []


@pytest.mark.parametrize("target", [READ, f"{READ}?index=1", "/v1/allocations", "/v1/event/stream", f"{READ}/history"])
def test_a_worker_answers_no_read_while_another_one_is_farther_unless_what_is_stale_is_asked_for(
    tmp_path, monkeypatch, target
):
    monkeypatch.setattr(crew_module, "_PATIENCE_SECONDS", 0.05)

    async def ask(app, target):
        call = Call(app, f"GET {target}")
        await told(call)
        call.task.cancel()
        return call.reply.status, call.reply.text if call.reply.status != 200 else "", dict(call.reply.headers)

    async def told(call):
        while not call.reply.status:
            await asyncio.sleep(0.001)

    async def story():
        engine = Engine(dialect="1.1.2")
        engine.place({"ID": ALLOC, "JobID": "example"})
        engine.update(ALLOC, {"DesiredDescription": "b"})
        app = App(engine)
        with (tmp_path / "cells").open("w+b") as file:
            cells = Cells.begin(file.fileno(), 2)
        app.context.crew = Crew(app.engine, app.counts, cells, 1)
        cells.put(2, engine.store.seq)
        status, _, headers = await ask(app, target)
        assert (status, headers.get("X-Nomad-Knownleader", "true")) == (200, "true")
        cells.put(2, engine.store.seq + 1)
        assert (await ask(app, target))[:2] == (500, "No cluster leader")
        status, _, headers = await ask(app, target + ("&" if "?" in target else "?") + "stale")
        assert (status, headers.get("X-Nomad-Knownleader", "false")) == (200, "false")
        assert headers.get("X-Nomad-Lastcontact", "1") != "0"
        monkeypatch.setattr(crew_module, "_PATIENCE_SECONDS", LATEST_S)
        waiting = asyncio.create_task(ask(app, target))
        await asyncio.sleep(0)
        engine.update(ALLOC, {"DesiredDescription": "c"})
        status, _, headers = await waiting
        assert (status, headers.get("X-Nomad-Knownleader", "true")) == (200, "true")

    asyncio.run(story())


def test_nothing_is_told_before_the_others_know_how_far_it_is(tmp_path):
    async def story():
        engine = Engine(dialect="1.1.2")
        app = App(engine)
        with (tmp_path / "cells").open("w+b") as file:
            cells = Cells.begin(file.fileno(), 2)
        app.context.crew = Crew(app.engine, app.counts, cells, 2)
        sent = []

        async def send(message):
            sent.append((message["type"], cells.newest()))

        for number in range(1, 4):
            engine.place({"ID": f"{number:08x}-e0d6-9486-5e05-397ed2b184af"})
            for path in ("/v1/allocations", "/v1/event/stream"):
                scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}

                async def receive():
                    await asyncio.sleep(0.05)
                    return {"type": "http.disconnect"}

                await app(scope, receive, send)
                assert sent
                assert {newest for _, newest in sent} == {number}
                sent.clear()

    asyncio.run(story())


FRAMES = [
    Wake(),
    Problem("the log is gone"),
    OwnerCall(7, "POST", b"/v1/\xff", b"/v1/%ff", b"a=%zz", ((b"host", b"\xff"),), "::1", b"\x00" * 100),
    Stop(),
]


@given(st.lists(st.integers(1, 40), max_size=40))
def test_frames_come_whole_however_they_are_cut(sizes):
    taken = []
    channel = Channel(taken.append, lambda: None)
    data = b"".join(map(_packed, FRAMES))
    for size in [*sizes, len(data)]:
        part, data = data[:size], data[size:]
        channel.data_received(part)

    assert taken == FRAMES
