"""Odd and wrong requests are answered as two real Nomads answered them: status, headers and body."""

from __future__ import annotations

import json

import msgspec
import pytest

from support.asgi import Call, ask
from support.recordings import VERSIONS, Edge, edges
from taskfold import Engine, ManualClock, MemoryLog, observation_from_json
from taskfold.http.app import App
from taskfold.http.own.home import PAGE

# What the recordings show, and is answered in another way on purpose: how.
OTHERWISE = {
    # Nomad writes a 400 and then a 200 into it; one 400 is enough.
    ("1.1.2", "stream_index_negative"): (400, "Invalid index"),
    # There is a page of ours where one Nomad has nothing, and the other leads to its user interface.
    ("0.5.6", "root"): (200, PAGE.decode()),
    ("1.1.2", "root"): (200, PAGE.decode()),
}

# Go's JSON decoder names the byte and its place in its own words; which is the status, and how the sentence begins, is
# enough. What is compressed has zlib's length and not Go's, too: what it unpacks to is compared, and not its length.
BEGINNING = "invalid character"

ACTS = "client_alloc_restart_get"
"""The one request that changes something: it is asked of an application of its own."""


def mirror(version: str) -> App:
    """Return the application over what the agent had when it was asked."""
    asked = {edge.name: edge for edge in edges(version)}
    engine = Engine(MemoryLog(version), clock=ManualClock(2**62))
    plain = asked["plain"]
    engine.observe(observation_from_json((plain.body or "").encode()))
    for stub in msgspec.json.decode((asked["list_resources_true"].body or "").encode(), type=list[msgspec.Raw]):
        engine.observe(observation_from_json(stub, "stub"))
    index = int(dict(asked["list_prefix"].headers)["X-Nomad-Index"])
    if engine.index < index:
        # The newest write there was of an allocation that is gone.
        engine.observe(observation_from_json(b'{"ID":"gone","Namespace":"gone","ModifyIndex":%d}' % index, "stub"))
    return App(engine, seed=1)


APPS = {version: mirror(version) for version in VERSIONS}


def normal(body: str) -> str:
    """Return JSON with its maps sorted, as taskfold writes them; Go's are in random order."""
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except ValueError:
        return body


CASES = [(version, edge) for version in VERSIONS for edge in edges(version)]


@pytest.mark.parametrize(("version", "edge"), CASES, ids=lambda value: getattr(value, "name", value))
def test_a_request_is_answered_as_it_was(version: str, edge: Edge) -> None:
    app = mirror(version) if edge.name == ACTS else APPS[version]
    if edge.status is None:
        pytest.skip("it had no answer within six seconds: see the test of waits")
    body = (edge.request_body or "").encode()
    if "/v1/event/stream" in edge.request and edge.status == 200:
        reply = first_line(app, edge)
    else:
        reply = ask(app, edge.request, edge.request_headers, body)
    if (version, edge.name) in OTHERWISE:
        assert (reply.status, reply.text) == OTHERWISE[version, edge.name]
        assert (reply.status, reply.text) != (edge.status, edge.body), "it need not be an exception any more"
        return

    assert reply.status == edge.status
    skipped = {"Date", "Transfer-Encoding"}
    is_of_decoder = (edge.body or "").startswith(BEGINNING)
    if edge.gzipped or is_of_decoder:
        skipped.add("Content-Length")
    recorded, headers = ([pair for pair in pairs if pair[0] not in skipped] for pairs in (edge.headers, reply.headers))
    assert headers == recorded
    if edge.request.startswith("HEAD"):
        assert reply.body == b""
        return
    if is_of_decoder:
        assert reply.text.startswith(BEGINNING)
        return
    assert normal(reply.text) == normal(edge.body or "")
    if not reply.text.startswith(("{", "[")):
        assert reply.text == edge.body
    assert len(reply.text) == len(edge.body or "")


def first_line(app: App, edge: Edge):
    """Return the beginning of a stream, which has no end."""
    import asyncio

    async def run():
        call = Call(app, edge.request, edge.request_headers)
        await call.until(lambda reply: b"\n" in b"".join(reply.parts))
        call.disconnect()
        return await call.finished()

    return asyncio.run(run())


@pytest.mark.parametrize(("version", "edge"), [case for case in CASES if case[1].status == 200], ids=str)
def test_an_answer_is_compressed_when_that_is_asked_for(version: str, edge: Edge) -> None:
    if "event/stream" in edge.request or (version, edge.name) in OTHERWISE:
        pytest.skip("a stream is not compressed, since nobody would see its events in time")
    app = mirror(version) if edge.name == ACTS else APPS[version]
    plain = ask(app, edge.request, edge.request_headers)

    packed = ask(app, edge.request, {**edge.request_headers, "Accept-Encoding": "gzip, deflate"})

    assert packed.header("Content-Encoding") == "gzip"
    assert packed.body == plain.body
    assert packed.header("X-Nomad-Index") == plain.header("X-Nomad-Index")
