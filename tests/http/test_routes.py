"""The table of endpoints is the router: what a row says is what answers, is counted and is described."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import msgspec
import pytest

from support.asgi import ask
from taskfold import DIALECTS, Engine, ManualClock
from taskfold.http.answers import json_answer
from taskfold.http.app import App
from taskfold.http.routes import ROUTES
from taskfold.http.routing import Route, Router
from tools import openapi

ID = "aaaaaaaa-0000-0000-0000-000000000000"
PACKAGE = Path(__file__).parents[2] / "engine" / "taskfold"


class Double(msgspec.Struct):
    """A number that was doubled."""

    value: int


def app_of(routes, dialect="1.1.2"):
    engine = Engine(dialect=dialect, clock=ManualClock())
    engine.place({"ID": ID, "JobID": "job", "Namespace": "default"})
    return App(engine, routes=routes)


def changed(name, path):
    return ROUTES | {name: msgspec.structs.replace(ROUTES[name], path=path)}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("allocation", "/v1/allocation/{id}", "/v2/allocations/{id}"),
        ("history", "/v1/allocation/{id}/history", "/v1/allocation/{id}/past"),
        ("job_allocations", "/v1/job/{job}/allocations", "/v1/job/{job}/placed"),
        ("regions", "/v1/regions", "/v1/places"),
    ],
)
def test_the_path_of_a_row_is_the_path_that_answers(name, old, new):
    app = app_of(changed(name, new))
    old_path, new_path = (path.format(id=ID, job="job") for path in (old, new))

    assert ask(app, f"GET {new_path}").status == 200
    assert app.context.answers == {(name, 200): 1}
    assert ask(app, f"GET {old_path}").status == 404


def test_a_new_endpoint_is_one_row_and_its_handler():
    async def double(_, __, number):
        return json_answer(msgspec.json.encode(Double(2 * int(number))))

    row = Route(
        "double",
        "/v1/double/{number}",
        ("GET",),
        double,
        "Double.",
        answers={200: Double},
        is_own=True,
        is_regional=False,
    )
    app = app_of(ROUTES | {"double": row})

    assert ask(app, "GET /v1/double/21").text == '{"value":42}'
    assert ask(app, "PUT /v1/double/21").status == 405
    assert app.context.answers == {("double", 200): 1, ("double", 405): 1}
    document = openapi.document("1.1.2", ROUTES | {"double": row})
    content = document["paths"]["/v1/double/{number}"]["get"]["responses"]["200"]["content"]
    assert content == {"application/json": {"schema": {"$ref": "#/components/schemas/Double"}}}
    assert document["components"]["schemas"]["Double"]["properties"] == {"value": {"type": "integer"}}


def test_no_module_but_the_table_has_the_path_of_an_endpoint():
    texts = {
        path.name
        for path in (PACKAGE / "http").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and str(node.value).startswith("/v1/")
    }

    assert texts == {"routes.py"}


@pytest.mark.parametrize(
    ("path", "dialect", "name", "parts"),
    [
        ("/v1/allocation/", "1.1.2", "allocation", ("",)),
        ("/v1/allocation/a/b", "0.5.0", "allocation", ("a/b",)),
        ("/v1/allocation/a/stop", "0.5.0", "allocation", ("a/stop",)),
        ("/v1/allocation/a/history", "0.5.0", "history", ("a",)),
        ("/v1/allocation/a/stop", "1.1.2", "stop", ("a",)),
        ("/v1/job/a/b/allocations", "1.1.2", "job_allocations", ("a/b",)),
        ("/v1/job/allocations", "1.1.2", "job", ("allocations",)),
        ("/v1/job/a/b", "1.1.2", "job", ("a/b",)),
        ("/v1/job/plan", "1.1.2", "job", ("plan",)),
        ("/v1/job/a\n/b", "1.1.2", "job", ("a\n/b",)),
        ("/v1/evaluation/", "1.1.2", "evaluation", ("",)),
        ("/v1/evaluation/a/b", "1.1.2", "evaluation", ("a/b",)),
        ("/v1/evaluation/a/allocations", "1.1.2", "evaluation_allocations", ("a",)),
        ("/v1/client/allocation/a/restart", "1.1.2", "client_allocation", ("a", "restart")),
    ],
)
def test_a_path_is_taken_apart_as_nomad_does(path, dialect, name, parts):
    route, found = Router(ROUTES.values(), DIALECTS[dialect]).match(path)

    assert (route.name, found) == (name, parts)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/job/", "1.1.2"),
        ("/v1/job/a/plan", "1.1.2"),
        ("/v1/evaluation/a", "0.5.0"),
        ("/v1/nothing", "1.1.2"),
        ("/v1/regions/", "1.1.2"),
    ],
)
def test_a_path_of_no_endpoint_is_none(path, dialect):
    assert Router(ROUTES.values(), DIALECTS[dialect]).match(path) is None


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/allocation/a/b", "1.1.2"),
        ("/v1/client/allocation/a/gc", "1.1.2"),
        ("/v1/client/allocation/a/restart", "0.5.0"),
    ],
)
def test_below_some_paths_nomad_knows_no_resource(path, dialect):
    answer = Router(ROUTES.values(), DIALECTS[dialect]).match(path)

    assert (answer.status, answer.body) == (404, b"resource not found")


def test_the_document_has_the_tag_of_who_owns_an_endpoint():
    document = json.loads(ask(app_of(ROUTES), "GET /v1/openapi.json").body)
    tags = {each["operationId"]: each["tags"] for path in document["paths"].values() for each in path.values()}

    assert tags["history"] == ["taskfold"]
    assert tags["allocation"] == ["nomad"]
