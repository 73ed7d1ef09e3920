"""Regions: what is asked of another one is answered by its server, as if it were here."""

from __future__ import annotations

import http.server
import json
import threading
import time

import httpx
import pytest

from support.asgi import ask
from support.servers import LATEST_S, served, until
from taskfold import Engine, MemoryLog, NdjsonLog
from taskfold.errors import ServeError
from taskfold.http.app import App
from taskfold.http.serve.regions import Peers, parse_peer, parse_token_file
from taskfold.http.serve.server import running

ID = "aaaaaaaa-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """Return the URL of a real second server, a process of its own, in region eu."""
    path = tmp_path_factory.mktemp("far") / "log.jsonl"
    engine = Engine(NdjsonLog(path, "1.1.2"))
    engine.place({"ID": ID, "JobID": "far", "Namespace": "default"})
    for number in range(400):
        engine.place({"ID": f"{number:08x}-0000-0000-0000-000000000000", "Namespace": "default"})
    engine.close()
    with served(path, "--region", "eu") as (_, url):
        yield url


@pytest.fixture(scope="module")
def near(far):
    """Return a server of region global that knows the other one, and one that nobody answers for."""
    engine = Engine(MemoryLog("1.1.2"))
    engine.place({"ID": ID, "JobID": "near"})
    app = App(engine, peers=Peers({"eu": far, "nowhere": "http://127.0.0.1:9"}))
    with running(app) as server, httpx.Client(base_url=server.url, timeout=LATEST_S) as client:
        client.app = app
        yield client


def test_the_own_region_is_answered_here(near):
    for query in ("", "?region=global", "?region="):
        assert near.get(f"/v1/allocation/{ID}{query}").json()["JobID"] == "near"


def test_another_region_is_answered_by_its_server(near, far):
    here, there = near.get(f"/v1/allocation/{ID}?region=eu"), httpx.get(f"{far}/v1/allocation/{ID}")

    assert here.json()["JobID"] == "far"
    assert here.content == there.content
    for name in ("Content-Type", "Vary", "X-Nomad-Index", "X-Nomad-KnownLeader", "X-Nomad-LastContact"):
        assert here.headers.get(name) == there.headers.get(name)


def test_a_long_list_and_a_compressed_one_pass_through(near, far):
    there = httpx.get(f"{far}/v1/allocations")

    assert len(there.json()) == 401
    assert near.get("/v1/allocations?region=eu").content == there.content
    plain = near.get("/v1/allocations?region=eu", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.content == there.content


def test_a_region_that_nobody_serves_has_no_path(near):
    reply = near.get(f"/v1/allocation/{ID}?region=asia")

    assert (reply.status_code, reply.text) == (500, "No path to region")


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        (
            "/v1/allocation/bad?region=eu",
            500,
            "rpc error: alloc lookup failed: index error: UUID must be 36 characters",
        ),
        (f"/v1/allocation/{ID[:-1]}9?region=eu", 404, "alloc not found"),
        (f"/v1/allocation/{ID}?region=eu&index=x", 400, "Invalid index"),
    ],
)
def test_an_error_of_the_other_region_is_told_as_nomad_tells_it(near, target, status, text):
    reply = near.get(target)

    assert (reply.status_code, reply.text) == (status, text)


def test_a_server_that_is_down_is_told(near):
    reply = near.get("/v1/allocations?region=nowhere")

    assert reply.status_code == 500
    assert reply.text.startswith("rpc error: failed to ask the server of region nowhere: ")


def test_a_blocking_query_is_woken_by_a_write_in_the_other_region(near, far):
    index = int(near.get(f"/v1/allocation/{ID}?region=eu").headers["X-Nomad-Index"])
    write = {"Alloc": ID, "Task": "web", "Event": {"Type": "Received"}}
    later = threading.Timer(0.3, httpx.post, (f"{far}/v1/allocations/events",), {"content": json.dumps(write)})
    later.start()

    reply = near.get(f"/v1/allocation/{ID}?region=eu&index={index}&wait=10m")

    assert int(reply.headers["X-Nomad-Index"]) > index
    assert reply.json()["TaskStates"]["web"]["State"] == "pending"
    later.join()


def test_writes_are_passed_on_too(near, far):
    index = int(httpx.get(f"{far}/v1/allocations").headers["X-Nomad-Index"])
    write = {"Alloc": ID, "Task": "db", "Event": {"Type": "Received"}}

    reply = near.post("/v1/allocations/events?region=eu", content=json.dumps(write))

    assert reply.json()["Index"] == index + 1
    assert httpx.get(f"{far}/v1/allocation/{ID}").json()["TaskStates"]["db"]["State"] == "pending"


def test_a_stream_of_another_region_is_passed_on_as_it_comes(near, far):
    frames = []
    with near.stream("GET", "/v1/event/stream?region=eu&from=now") as reply:
        lines = reply.iter_lines()
        assert next(lines) == "{}"
        write = {"Alloc": ID, "Task": "web", "Event": {"Type": "Received"}}
        httpx.post(f"{far}/v1/allocations/events", content=json.dumps(write))
        frames.append(json.loads(next(lines)))
    assert frames[0]["Events"][0]["Key"] == ID
    while near.app.context.streams.count:
        time.sleep(0.01)  # the client is gone, and the request to the peer ends with it


def test_a_client_that_goes_away_ends_the_request_to_the_peer(near, far):
    index = int(near.get(f"/v1/allocation/{ID}?region=eu").headers["X-Nomad-Index"])
    with pytest.raises(httpx.ReadTimeout):
        near.get(f"/v1/allocation/{ID}?region=eu&index={index}", timeout=httpx.Timeout(LATEST_S, read=0.3))

    until(lambda: "taskfold_blocked_queries 0.0" in httpx.get(f"{far}/v1/metrics?format=prometheus").text)
    assert near.app.context.blocked.count == 0


def test_servers_that_name_each_other_do_not_go_round_in_a_circle():
    one, other = (App(Engine(), region=name, peers=Peers({})) for name in ("one", "other"))
    with running(one) as first, running(other) as second:
        one.peers.urls["third"] = second.url
        other.peers.urls["third"] = first.url
        reply = httpx.get(f"{first.url}/v1/allocations?region=third", timeout=10)
    assert (reply.status_code, reply.text) == (500, "rpc error: No path to region")


def test_the_regions_are_listed(near):
    assert near.get("/v1/regions").json() == ["eu", "global", "nowhere"]


def test_a_token_is_passed_on():
    far_app = App(Engine(dialect="1.1.2"), region="far", token="s3cret")
    with running(far_app) as far, running(App(Engine(dialect="1.1.2"), peers=Peers({"far": far.url}))) as near:
        url = f"{near.url}/v1/allocations?region=far"
        assert httpx.get(url).status_code == 403
        assert httpx.get(url, headers={"X-Nomad-Token": "s3cret"}).text == "[]"


@pytest.mark.parametrize("text", ["eu", "=http://x", "eu=", "eu=ftp://x", "eu=127.0.0.1:4646", "eu=http://x?y"])
def test_a_peer_that_is_none_is_told(text):
    with pytest.raises(ServeError, match="expected NAME=URL"):
        parse_peer(text)


def test_a_server_that_stops_answers_what_waits_for_another_region_and_ends_its_streams(far):
    app = App(Engine(dialect="1.1.2"), peers=Peers({"eu": far}))
    index = int(httpx.get(f"{far}/v1/allocation/{ID}").headers["X-Nomad-Index"])
    replies = []
    begun = threading.Event()

    def ask(url):
        replies.append(httpx.get(f"{url}/v1/allocation/{ID}?region=eu&index={index}&wait=10m", timeout=600))

    def follow(url):
        with httpx.stream("GET", f"{url}/v1/event/stream?region=eu&from=now", timeout=LATEST_S) as reply:
            text = ""
            for part in reply.iter_text():
                text += part
                begun.set()
            replies.append(httpx.Response(reply.status_code, text=text))

    with running(app) as server:
        threads = [threading.Thread(target=run, args=(server.url,)) for run in (ask, follow)]
        for thread in threads:
            thread.start()
        until(lambda: app.context.blocked.count == 1 and begun.is_set())
        began = time.monotonic()
    assert time.monotonic() - began < LATEST_S, "it waits for no other region"
    for thread in threads:
        thread.join(LATEST_S)
    told = {reply.status_code: reply.text for reply in replies}
    assert told == {
        500: "rpc error: this server stops, and the other region has not answered yet",
        200: "{}\n",
    }


@pytest.mark.parametrize("text", ["eu=http://[::1", "eu=http://host:99999", "eu=http://:80", "eu=http://a\x00b"])
def test_a_url_that_cannot_be_asked_is_told(text):
    with pytest.raises(ServeError, match="expected NAME=URL"):
        parse_peer(text)


# --- tokens ---


class Recording(http.server.BaseHTTPRequestHandler):
    """A peer that answers everything, and keeps the headers that it was sent."""

    def do_GET(self):
        self.server.asked.append(self.headers)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_):
        pass


@pytest.fixture
def peer():
    """Yield a peer on loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recording) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def sent_tokens(monkeypatch, peer, url, **more):
    """Return what a peer at a URL is sent of the token of the server and of a client's; no name is looked up for it."""
    there = f"http://127.0.0.1:{peer.server_address[1]}"
    monkeypatch.setattr("taskfold.http.serve.regions._target", lambda _, request: f"{there}{request.path}")
    app = App(Engine(dialect="1.1.2"), token="the-own", peers=Peers({"eu": url}, **more))
    for headers in ({"X-Nomad-Token": "the-own"}, {"Authorization": "Bearer the-own"}):
        assert ask(app, "GET /v1/allocations?region=eu", headers).status == 200
    return [(asked["X-Nomad-Token"], asked["Authorization"]) for asked in peer.asked]


@pytest.mark.parametrize("url", ["http://10.0.0.7:4646", "http://tasks.example", "http://localhost.example"])
def test_no_token_is_sent_in_clear_over_a_network(monkeypatch, peer, url):
    assert sent_tokens(monkeypatch, peer, url) == [(None, None), (None, None)]


@pytest.mark.parametrize(
    "url", ["https://tasks.example", "http://127.0.0.1:4647", "http://[::1]:4647", "http://localhost"]
)
def test_a_token_is_passed_on_where_nobody_can_read_it(monkeypatch, peer, url):
    assert sent_tokens(monkeypatch, peer, url) == [("the-own", None), (None, "Bearer the-own")]


@pytest.mark.parametrize("url", ["https://tasks.example", "http://10.0.0.7:4646", "http://127.0.0.1:4647"])
def test_a_region_with_a_token_of_its_own_gets_that_and_no_other(monkeypatch, peer, url):
    assert sent_tokens(monkeypatch, peer, url, tokens={"eu": "the-peers"}) == [("the-peers", None)] * 2


def test_whoever_runs_it_is_told_what_is_not_sent_and_what_is_sent_in_clear():
    urls = {"eu": "http://10.0.0.7:4646", "us": "https://us.example", "here": "http://127.0.0.1:1"}

    [note] = Peers(urls).notes(has_token=True)
    assert "no token is sent to region eu" in note
    assert "--region-token-file eu=FILE" in note
    [note] = Peers(urls, {"eu": "x", "us": "y"}).notes(has_token=True)
    assert "the token of region eu is sent in clear" in note
    assert Peers(urls).notes(has_token=False) == []


def test_the_token_of_a_region_comes_from_a_file_and_opens_its_server(tmp_path):
    file = tmp_path / "eu.token"
    file.write_text("the-peers\n")
    file.chmod(0o600)
    with (
        served("--region", "eu", TASKFOLD_TOKEN="the-peers") as (_, eu),
        served("--region-peer", f"eu={eu}", "--region-token-file", f"eu={file}", TASKFOLD_TOKEN="the-own") as (_, url),
    ):
        headers = {"X-Nomad-Token": "the-own"}
        assert httpx.get(f"{url}/v1/allocations?region=eu", headers=headers).status_code == 200
        assert httpx.get(f"{eu}/v1/allocations", headers=headers).status_code == 403
        assert httpx.get(f"{url}/v1/allocations?region=eu").status_code == 403


@pytest.mark.parametrize("text", ["eu", "=file", "eu=", ""])
def test_a_token_file_that_is_none_is_told(text):
    with pytest.raises(ServeError, match="expected NAME=FILE"):
        parse_token_file(text)


def test_the_path_of_a_request_never_becomes_a_part_of_the_address(monkeypatch):
    asked = []
    monkeypatch.setattr(httpx.AsyncClient, "stream", lambda _, __, url, **___: asked.append(url) or 1 // 0)
    app = App(Engine(dialect="1.1.2"), peers=Peers({"eu": "http://tasks.example"}, {"eu": "secret"}))
    paths = ["/v1/allocation/@evil.example", "/v1/job/%40evil.example%3A1/allocations", "/v1/allocation/a%23b"]
    for path in paths:
        ask(app, f"GET {path}?region=eu&x=@evil.example/")

    assert [url.host for url in asked] == ["tasks.example"] * 3
    assert [url.raw_path.partition(b"?")[0].decode() for url in asked] == paths
    assert ask(app, "GET %2Fv1%2Fallocation%2F@evil.example?region=eu").status == 400
    assert len(asked) == 3
