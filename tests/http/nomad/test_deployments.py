"""There are no deployments here: that is told where it is known, and else who knows."""

from __future__ import annotations

import json

import pytest

from support.acting import app_with
from support.asgi import ask
from taskfold import AgentSettings, Engine
from taskfold.http import App
from taskfold.http.serve.upstream import Upstream

ID = "467e7ae7-0067-cfa0-161e-f38cb16a9279"
PLACED = "2902818a-93ea-964b-31e4-301c0bf05874"
LISTS = [("deployments", []), ("job/example/deployments", []), ("job/example/deployment", None)]


@pytest.mark.parametrize(("path", "nothing"), LISTS)
def test_where_no_allocation_is_of_a_deployment_there_is_none(path: str, nothing: object) -> None:
    app = app_with("main")

    reply = ask(app, f"GET /v1/{path}")

    assert (reply.status, json.loads(reply.text)) == (200, nothing)
    assert reply.header("X-Nomad-Index") == str(app.engine.index)
    waiting = ask(app, f"GET /v1/{path}?index={app.engine.index}&wait=1s&pretty")
    assert json.loads(waiting.text) == nothing


def test_a_deployment_that_nobody_names_is_not_found() -> None:
    app = app_with("main")

    reply = ask(app, f"GET /v1/deployment/{ID}")
    assert (reply.status, reply.text) == (404, "deployment not found")
    assert reply.header("X-Nomad-Index") == str(app.engine.index)
    reply = ask(app, "GET /v1/deployment/short")
    assert (reply.status, reply.text) == (500, "deployment lookup failed: index error: UUID must be 36 characters")
    assert ask(app, f"PUT /v1/deployment/{ID}").status == 405
    assert ask(app, f"PUT /v1/deployment/promote/{ID}").status == 501


def test_a_deployment_that_an_allocation_names_is_somebody_elses_to_tell() -> None:
    app = app_with("main")
    app.engine.place({"ID": PLACED, "JobID": "placed", "Namespace": "default", "DeploymentID": ID})

    for path in (f"deployment/{ID}", "deployments", "job/placed/deployment", "job/placed/deployments"):
        reply = ask(app, f"GET /v1/{path}")
        assert (reply.status, reply.text.endswith("ask an agent of Nomad for this")) == (501, True)
    assert ask(app, "GET /v1/job/example/deployments").text == "[]"


@pytest.mark.parametrize("path", [*(path for path, _ in LISTS), f"deployment/{ID}", f"evaluation/{ID}", "evaluations"])
def test_a_mirror_does_not_say_that_there_is_none_and_may_ask_its_agent(path: str) -> None:
    app = App(Engine(dialect="1.1.2"), is_mirror=True)
    assert ask(app, f"GET /v1/{path}").status == 501

    app.upstream = Upstream(AgentSettings(addresses=("http://127.0.0.1:1",)))
    assert ask(app, f"GET /v1/{path}").status == 502, "the agent was asked"


def test_nomads_before_deployments_have_no_such_endpoints() -> None:
    app = App(Engine(dialect="0.5.6"))
    for path in (f"deployment/{ID}", "deployments", "job/example/deployments", "job/example/deployment"):
        assert ask(app, f"GET /v1/{path}").status == 501
