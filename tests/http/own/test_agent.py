"""What the server tells of itself: its numbers, its health, its regions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import islice

import httpx
import pytest

from support.asgi import Call, ask
from taskfold import DIALECTS, AgentSettings, Engine, ManualClock
from taskfold import events as ev
from taskfold.http import App, running
from taskfold.live.store import Listing
from taskfold.recording.agents import Agents

ID = "aaaaaaaa-0000-0000-0000-000000000000"
OK = {"message": "ok", "ok": True}
NO_CLIENT = {"message": "client not enabled", "ok": False}


def app_of(**more):
    engine = Engine(dialect="1.1.2", clock=ManualClock(1_000))
    engine.place({"ID": ID, "JobID": "job"})
    engine.record(ID, "web", ev.Received())
    engine.record(ID, "web", ev.Started())
    return App(engine, **more)


def test_the_numbers_are_told_for_prometheus():
    app = app_of()
    ask(app, f"GET /v1/allocation/{ID}")
    ask(app, f"GET /v1/allocation/{ID}")
    ask(app, "GET /v1/nothing")

    reply = ask(app, "GET /v1/metrics?format=prometheus")

    assert reply.header("Content-Type").startswith("text/plain")
    told = reply.text.splitlines()
    for line in (
        'taskfold_requests_total{endpoint="allocation",status="200"} 2.0',
        'taskfold_requests_total{endpoint="other",status="404"} 1.0',
        'taskfold_allocations{status="running"} 1.0',
        "taskfold_index 3.0",
        "taskfold_records 3.0",
        "taskfold_waiters 0.0",
        "taskfold_blocked_queries 0.0",
        "taskfold_streams 0.0",
        "taskfold_healthy 1.0",
    ):
        assert line in told
    assert "# TYPE taskfold_requests_total counter" in told
    assert any(line.startswith('taskfold_request_seconds_total{endpoint="allocation"} ') for line in told)
    assert float(next(line for line in told if line.startswith("taskfold_kept_body_bytes ")).split()[1]) > 0


def test_every_number_says_what_it_means():
    told = ask(app_of(), "GET /v1/metrics?format=prometheus").text.splitlines()

    typed = {line.split()[2] for line in told if line.startswith("# TYPE ")}
    described = {line.split()[2] for line in told if line.startswith("# HELP ") and len(line.split()) > 3}
    assert typed == described
    assert {name for name in typed if name.startswith("taskfold_")} >= {"taskfold_index", "taskfold_allocations"}


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("", 200, {"server": OK}),
        ("?type=server", 200, {"server": OK}),
        ("?type=client", 500, {"client": NO_CLIENT}),
        ("?type=server&type=client", 500, {"client": NO_CLIENT, "server": OK}),
        ("?type=other", 200, {}),
    ],
)
def test_health_is_told_by_part(query, status, told):
    reply = ask(app_of(), f"GET /v1/agent/health{query}")

    assert (reply.status, json.loads(reply.body)) == (status, told)


def test_health_tells_what_is_wrong_and_needs_no_token():
    app = app_of(token="secret")
    app.context.problem = "the disk is full"

    reply = ask(app, "GET /v1/agent/health")

    assert reply.status == 503
    assert json.loads(reply.body) == {"server": {"message": "the disk is full", "ok": False}}
    assert "taskfold_healthy 0.0" in ask(app, "GET /v1/metrics?format=prometheus", {"X-Nomad-Token": "secret"}).text
    assert ask(app, "GET /v1/metrics?format=prometheus").status == 403


def test_the_regions_are_listed():
    assert ask(app_of(region="here"), "GET /v1/regions").text == '["here"]'


def test_a_defect_is_logged_and_told_without_its_details(monkeypatch, caplog):
    app = app_of()
    monkeypatch.setattr(app.context.bodies, "get", lambda *_, **__: 1 // 0)

    reply = ask(app, f"GET /v1/allocation/{ID}")

    assert (reply.status, reply.text) == (500, "an internal error of the server; its log has the details")
    assert "a request for allocation could not be answered" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_defect_amid_an_answer_is_logged_and_leaves_it_without_an_end(monkeypatch, caplog):
    app = app_of()
    for number in range(60):
        app.engine.place({"ID": f"{number:08x}-0000-0000-0000-000000000000"})
    states = Listing.states_unless

    def fails_late(listing, made):
        yield from islice(states(listing, made), 40)
        raise ZeroDivisionError

    monkeypatch.setattr(Listing, "states_unless", fails_late)
    monkeypatch.setattr("taskfold.http.nomad.allocations._WHOLE_BYTES", 100)  # a longer list goes in pieces

    async def story():
        call = Call(app, "GET /v1/allocations")
        with pytest.raises(ZeroDivisionError):
            await call.finished()
        return call.reply

    reply = asyncio.run(story())
    assert reply.status == 200
    assert not reply.is_done, "half a list must not look like a whole one"
    assert "a request for allocations could not be answered" in caplog.text


def test_the_numbers_are_told_in_json_as_nomad_has_it():
    app = app_of()
    ask(app, f"GET /v1/allocation/{ID}")

    reply = ask(app, "GET /v1/metrics")

    assert reply.header("Content-Type") == "application/json"
    told = json.loads(reply.text)
    assert list(told) == ["Counters", "Gauges", "Points", "Samples", "Timestamp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC", told["Timestamp"])
    gauges = {(each["Name"], *each["Labels"].values()): each["Value"] for each in told["Gauges"]}
    assert gauges["taskfold.index",] == gauges["taskfold.records",] == 3
    assert gauges["taskfold.allocations", "running"] == 1
    [requests] = [each for each in told["Counters"] if each["Labels"] == {"endpoint": "allocation", "status": "200"}]
    assert requests.keys() == {"Count", "Labels", "Max", "Mean", "Min", "Name", "Rate", "Stddev", "Sum"}
    assert (requests["Name"], requests["Count"], requests["Sum"]) == ("taskfold.requests", 1, 1)
    assert json.loads(ask(app, "GET /v1/metrics?format=other&pretty").text).keys() == told.keys()
    assert ask(app, "GET /v1/metrics?pretty").text.startswith("{\n    ")


def test_every_number_is_told_in_both_forms():
    app = app_of()
    in_text = {
        line.split()[2].removesuffix("_total")
        for line in ask(app, "GET /v1/metrics?format=prometheus").text.splitlines()
        if line.startswith("# TYPE taskfold_")
    }

    told = json.loads(ask(app, "GET /v1/metrics").text)

    in_json = {each["Name"].replace(".", "_") for kind in ("Counters", "Gauges") for each in told[kind]}
    assert in_json == in_text


# --- the agent itself, and its page ---


def test_an_agent_tells_what_clients_read_of_one():
    told = json.loads(ask(app_of(region="eu"), "GET /v1/agent/self").body)

    assert told["config"]["Region"] == told["member"]["Tags"]["region"] == "eu"
    assert told["config"]["Datacenter"] == ""
    assert told["config"]["Version"]["Version"] == "1.1.2"
    assert told["member"]["Name"].endswith(".eu")
    assert told["stats"]["taskfold"]["allocations"] == str(len(app_of().engine.reader))
    assert all(isinstance(value, str) for part in told["stats"].values() for value in part.values())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_recorder_knows_the_dialect_of_a_server_without_allocations(dialect):
    async def dialect_of(url):
        agents = Agents(AgentSettings(addresses=(url,)))
        try:
            return (await agents.dialect()).name
        finally:
            await agents.close()

    with running(App(Engine(dialect=dialect))) as server:
        assert asyncio.run(dialect_of(server.url)) == dialect
        member = httpx.get(f"{server.url}/v1/agent/self?pretty").json()["member"]
    assert (member["Addr"], member["Port"]) == ("127.0.0.1", server.port)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.tags = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            assert name in {"lang", "charset", "name", "content", "href"}, "nothing is loaded, and nothing runs"
            if name == "href":
                self.links.append(value)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_page_of_a_server_loads_nothing_and_its_links_are_answered(dialect):
    app = App(Engine(dialect=dialect))
    reply = ask(app, "GET /", {"Accept": "text/html"})
    page = Page(reply.text)

    assert (reply.status, reply.header("Content-Type")) == (200, "text/html; charset=utf-8")
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "form", "base"})
    assert "/v1/agent/health" in page.links
    assert "/v1/openapi.json" in page.links
    for link in page.links:
        assert ask(app, f"GET {link}").status == 200, link


def test_the_policy_of_the_page_allows_its_style_and_nothing_else():
    reply = ask(app_of(), "GET /")
    style = reply.text.partition("<style>")[2].partition("</style>")[0].encode()
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()

    rules = dict(rule.split(" ", 1) for rule in reply.header("Content-Security-Policy").split("; "))
    assert rules.pop("style-src") == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert set(rules.values()) == {"'none'"}
    assert reply.header("X-Content-Type-Options") == "nosniff"


def test_the_page_and_the_agent_are_guarded_as_everything_else():
    for path in ("/", "/v1/agent/self"):
        assert ask(app_of(token="secret"), f"GET {path}").status == 403
        assert ask(app_of(token="secret"), f"GET {path}", {"X-Nomad-Token": "secret"}).status == 200
        assert ask(app_of(), f"GET {path}", {"Host": "evil.example"}).status == 403
        assert ask(app_of(), f"PUT {path}").status == 405
