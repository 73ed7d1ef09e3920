"""What a mirror does not know is asked of the agent that it follows; writes only where that is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from support.asgi import ask
from taskfold import AgentSettings, Engine
from taskfold.http import App, running
from taskfold.http.serve.regions import Peers
from taskfold.http.serve.upstream import Upstream

ID = "203266e5-e0d6-9486-5e05-397ed2b184af"


@pytest.fixture
def agent() -> Iterator[str]:
    """Serve an agent that knows an allocation of its own."""
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": ID, "JobID": "site", "Job": {"ID": "site", "Type": "service"}})
    with running(App(engine)) as server:
        yield server.url


def mirror(agent: str, *, passes_writes: bool = False, token: str | None = None) -> App:
    app = App(Engine(dialect="1.1.2"), is_mirror=True, token=token)
    app.upstream = Upstream(AgentSettings(addresses=(agent,)), passes_writes=passes_writes)
    return app


def asked(app: App, method: str, path: str, **more: object) -> httpx.Response:
    with running(app) as server:
        return httpx.request(method, server.url + path, **more)  # type: ignore[arg-type]  # as httpx takes them


def test_an_allocation_that_the_mirror_has_not_is_the_agents(agent: str):
    answer = asked(mirror(agent), "GET", f"/v1/allocation/{ID}")
    assert answer.status_code == 200
    assert answer.json()["JobID"] == "site"


def test_a_path_without_an_endpoint_is_the_agents_and_its_answer_comes_as_it_is(agent: str):
    answer = asked(mirror(agent), "GET", "/v1/nodes")
    assert (answer.status_code, answer.text) == (501, asked(App(Engine(dialect="1.1.2")), "GET", "/v1/nodes").text)


def test_what_the_mirror_knows_is_answered_by_itself(agent: str):
    assert asked(mirror(agent), "GET", "/v1/allocations").json() == []


def test_writes_stay_here_unless_they_are_allowed(agent: str):
    path = f"/v1/allocation/{ID}/stop"
    assert asked(mirror(agent), "PUT", path).status_code == 404
    assert "EvalID" in asked(mirror(agent, passes_writes=True), "PUT", path).json()


@pytest.mark.parametrize("path", ["/v1/system/gc", "/v1/job/site", "/v1/system/gc?region=eu"])
def test_a_write_that_a_page_of_another_site_sends_is_not_passed_on(agent: str, path: str):
    app = mirror(agent, passes_writes=True)
    app.peers = Peers({"eu": agent})
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert asked(app, "DELETE", path, headers=headers).status_code == 403
    assert asked(app, "DELETE", path).status_code in {405, 500, 501}, "what the agent itself answers"


@pytest.mark.parametrize(
    "path", [f"/v1/client/allocation/{ID}/restart", f"/v1/client/allocation/{ID}/gc", "/v1/client/gc"]
)
def test_a_get_that_acts_is_a_write(path: str):
    assert asked(mirror("http://127.0.0.1:1"), "GET", path).status_code != 502, "the agent was asked"
    app = mirror("http://127.0.0.1:1", passes_writes=True)
    assert asked(app, "GET", path).status_code == 502
    assert asked(app, "GET", path, headers={"User-Agent": "Mozilla/5.0"}).status_code == 403


def test_a_method_that_the_mirror_does_not_take_is_the_agents_to_take(agent: str):
    assert asked(mirror(agent), "DELETE", "/v1/job/site").status_code == 501
    app = mirror("http://127.0.0.1:1", passes_writes=True)
    assert asked(app, "DELETE", "/v1/job/site").status_code == 502, "the agent was asked"


def test_our_own_endpoints_are_never_passed_on(agent: str):
    answer = asked(mirror(agent, passes_writes=True), "POST", "/v1/allocations/events", json={"Alloc": "a"})
    assert answer.status_code == 409


def test_the_token_of_a_mirror_is_not_sent_to_the_agent():
    with running(App(Engine(dialect="1.1.2"), token="agents")) as server:
        headers = {"X-Nomad-Token": "mirrors"}
        answer = asked(mirror(server.url, token="mirrors"), "GET", "/v1/nodes", headers=headers)
        assert answer.status_code == 403
        answer = asked(mirror(server.url), "GET", "/v1/nodes", headers={"X-Nomad-Token": "agents"})
        assert answer.status_code == 501


def test_an_agent_that_is_away_is_a_502_with_a_sentence():
    answer = asked(mirror("http://127.0.0.1:1"), "GET", "/v1/nodes")
    assert answer.status_code == 502
    assert answer.text.startswith("the agent that is followed, http://127.0.0.1:1, cannot be asked: ")


def test_every_path_of_nomads_is_passed_to_the_server_of_another_region():
    with running(App(Engine(dialect="1.1.2"), region="eu")) as server:
        app = App(Engine(dialect="1.1.2"), peers=Peers({"eu": server.url}))
        assert asked(app, "GET", "/v1/nodes?region=eu").status_code == 501
    assert ask(app, "GET /v1/nodes?region=us").text == "No path to region"
    assert json.loads(ask(app, "GET /v1/allocations").body) == []
