"""The OpenAPI document says what the endpoints really take and answer."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import get_args

import jsonschema
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from schemathesis import checks

from support.asgi import Call
from taskfold import DIALECTS, Engine, ManualClock
from taskfold import events as ev
from taskfold.http.app import App
from taskfold.http.nomad.frames import Reason, StreamError, StreamFrame, frame_text
from taskfold.http.query import Query
from taskfold.http.routes import ROUTES
from tools import openapi

ROOT = Path(__file__).parents[2]
ID = "aaaaaaaa-0000-0000-0000-000000000000"
UNHEEDED = {"stale", "consistent"}


def app_of(dialect="1.1.2"):
    engine = Engine(dialect=dialect, clock=ManualClock())
    engine.place({"ID": ID, "JobID": "job", "Namespace": "default"})
    engine.record(ID, "web", ev.Received())
    return App(engine, hosts=["testserver"])


def test_the_committed_document_is_what_the_routes_and_types_say():
    assert openapi.main(["--check", str(ROOT / "schemas")]) == 0


def test_a_stale_document_is_told(tmp_path, capsys):
    assert openapi.main(["--write", str(tmp_path)]) == 0
    file = tmp_path / "openapi.json"
    file.write_bytes(file.read_bytes().replace(b"taskfold", b"another"))

    assert openapi.main(["--check", str(tmp_path)]) == 1
    assert "openapi.json: is stale" in capsys.readouterr().err


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_reference_is_defined_and_every_schema_is_one(dialect):
    document = openapi.document(dialect)

    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for reference in json.dumps(schema).split('"$ref": "')[1:]:
            target = reference.partition('"')[0].removeprefix("#/components/schemas/")
            assert target in document["components"]["schemas"], f"{name} refers to {target}"


def test_a_server_tells_its_own_document():
    async def ask(app):
        return await Call(app, "GET /v1/openapi.json").finished()

    for dialect in DIALECTS:
        body = asyncio.run(ask(app_of(dialect))).body
        told = json.loads(body)
        assert body == msgspec.json.encode(openapi.document(dialect))
        assert ("/v1/allocation/{id}/stop" in told["paths"]) == (dialect == "1.1.2")


@pytest.mark.parametrize("reason", get_args(Reason))
def test_a_stream_may_end_with_every_reason_that_there_is(reason):
    error = StreamError(Reason=reason, Message="why", Oldest=1, Newest=2, Position=3)
    schema = openapi.document() | {"$ref": "#/components/schemas/StreamFrame"}

    jsonschema.validate(json.loads(frame_text(StreamFrame(Error=error))), schema)
    with pytest.raises(jsonschema.ValidationError, match="'tired'"):
        jsonschema.validate(json.loads(frame_text(StreamFrame(Error=replace(error, Reason="tired")))), schema)


def described(dialect):
    """Return every operation of a dialect's document."""
    paths = openapi.document(dialect)["paths"]
    return [(dialect, path, method, told) for path, methods in paths.items() for method, told in methods.items()]


OPERATIONS_BY_DIALECT = [case for dialect in DIALECTS for case in described(dialect)]


@pytest.mark.parametrize(
    ("dialect", "path", "method", "told"),
    OPERATIONS_BY_DIALECT,
    ids=[f"{dialect} {told['operationId']}" for dialect, _, _, told in OPERATIONS_BY_DIALECT],
)
def test_the_parameters_of_an_endpoint_are_those_that_it_reads(dialect, path, method, told, monkeypatch):
    app = app_of(dialect)
    read = set()

    def noted(method):
        def note(query, name):
            read.add(name)
            return method(query, name)

        return note

    for name in ("get", "has", "all"):
        monkeypatch.setattr(Query, name, noted(getattr(Query, name)))
    is_stream = told["operationId"] == "event_stream"

    async def ask():
        # Something must be asked, or nothing is read at all; a dialect without a stream has one for who asks with from.
        query = "from=oldest" if is_stream else "something"
        parts = defaultdict(lambda: "1", id=ID, job="job", action="restart")
        call = Call(app, f"{method.upper()} {path.format_map(parts)}?{query}", body=b"{}")
        if is_stream:
            await call.until(lambda reply: reply.parts)
            call.disconnect()
        return await call.finished()

    asyncio.run(ask())
    documented = {parameter["name"] for parameter in told["parameters"] if parameter["in"] == "query"}
    assert read == documented - UNHEEDED


def test_every_endpoint_is_described():
    paths = openapi.document()["paths"]

    assert {(route.path, method.lower()) for route in ROUTES.values() for method in route.methods} == {
        (path, method) for path, methods in paths.items() for method in methods
    }


def served():
    """Return an application that lets nobody wait: what is asked at random would wait for 300 seconds."""
    app = app_of()
    app.engine.store.release()
    return app


@schemathesis.serializer("application/x-ndjson")
def one_line(_, value):
    return json.dumps(value).encode() + b"\n"


# The stream has no end; it has tests of its own.
FINITE = schemathesis.openapi.from_asgi("/v1/openapi.json", served()).exclude(path="/v1/event/stream")
OPERATIONS = [operation.ok() for operation in FINITE.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@given(data=st.data())
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_is_answered_is_what_the_document_says(operation, data):
    case = data.draw(operation.as_strategy())

    case.call_and_validate(
        checks=[
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_schema_conformance,
            checks.response_headers_conformance,
        ]
    )
