"""Clients that were written for Nomad, pointed at `taskfold serve`: they get what Nomad answered.

docs/serving.md has the table of what works, which `make clients` writes.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from nomad.api.exceptions import BaseNomadException, URLNotFoundNomadException

import nomad
from support.golden import same_to_the_letter
from support.recordings import bodies, final, scenarios, stream_lines
from support.servers import LATEST_S, served
from taskfold import events as ev
from taskfold import ingest, inputs
from taskfold.http.app import App
from taskfold.http.serve.server import running
from taskfold.live.engine import Engine
from tools.clients.asking import CLIENTS, SCRIPTS, ask, read_results, table

DOCS = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BY_NAME = {str(scenario): scenario for scenario in scenarios()}
ABSENT = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module", params=["1.1.2/service_ring_mock", "0.5.6/service_ring_mock", "1.1.2/lifecycle_all"])
def replayed(request, tmp_path_factory):
    """Return a scenario, the URL of a server over what was recorded of it, and python-nomad pointed at that."""
    scenario = BY_NAME[request.param]
    folder = tmp_path_factory.mktemp("clients")
    source, log = folder / "bodies.jsonl", folder / "log.jsonl"
    source.write_text("".join(answer.body + "\n" for answer in bodies(scenario)), encoding="utf-8")
    ingest(source, into=log)
    with served(log) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        yield scenario, url, nomad.Nomad(host=host, port=int(port), timeout=20)


def newest_bodies(scenario):
    """Return the newest recorded body of each allocation."""
    newest = {}
    for answer in bodies(scenario):
        index = json.loads(answer.body)["ModifyIndex"]
        if index >= newest.get(answer.allocation, (0, ""))[0]:
            newest[answer.allocation] = index, answer.body
    return {alloc: body for alloc, (_, body) in newest.items()}


def test_python_nomad_reads_every_allocation(replayed):
    scenario, _, client = replayed

    for alloc, body in newest_bodies(scenario).items():
        assert client.allocation.get_allocation(alloc) == json.loads(body)
        assert client.allocation[alloc] == json.loads(body)
        assert alloc in client.allocation
    assert ABSENT not in client.allocation
    with pytest.raises(URLNotFoundNomadException):
        client.allocation.get_allocation(ABSENT)
    with pytest.raises(BaseNomadException, match="UUID must be 36 characters"):
        client.allocation.get_allocation("bad")


def test_python_nomad_lists_allocations(replayed):
    scenario, _, client = replayed
    expected = newest_bodies(scenario)

    stubs = client.allocations.get_allocations()
    assert [stub["ID"] for stub in stubs] == sorted(expected)
    for stub in stubs:
        body = json.loads(expected[stub["ID"]])
        assert all(body.get(key) == value for key, value in stub.items() if key in body)
        assert client.allocations.get_allocations(prefix=stub["ID"][:8])[0] == stub
    recorded = next(a for path, a in final(scenario).items() if path.endswith("/allocations") and a["status"] == 200)
    job = json.loads(next(iter(expected.values())))["JobID"]
    assert client.job.get_allocations(job) == json.loads(recorded["body"])


def test_python_nomad_blocks_until_a_wait_is_over(replayed):
    scenario, _, client = replayed
    alloc, body = next(iter(newest_bodies(scenario).items()))
    index = json.loads(body)["ModifyIndex"]
    began = time.monotonic()

    reply = client.allocation.request(alloc, params={"index": index, "wait": "300ms"}, method="get")

    assert time.monotonic() - began >= 0.3
    assert reply.headers["X-Nomad-Index"] == str(index)
    assert reply.json() == json.loads(body)


def test_python_nomad_lists_the_regions(replayed):
    assert replayed[2].regions.get_regions() == ["global"]


@pytest.mark.parametrize("version", ["0.5.6", "1.1.2"])
def test_python_nomad_stops_an_allocation_where_nomad_can(version, tmp_path):
    log = tmp_path / "log.jsonl"
    with Engine.open(log, dialect=version) as engine:
        engine.place({"ID": ABSENT, "JobID": "example"})
        engine.report(ABSENT, "web", inputs.PlacementReceived())
        engine.report(ABSENT, "web", inputs.ProcessStarted())
    with served(log) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        client = nomad.Nomad(host=host, port=int(port), timeout=20)
        if version == "0.5.6":
            with pytest.raises(BaseNomadException, match="Invalid method"):
                client.allocation.stop_allocation(ABSENT)
            return
        answer = client.allocation.stop_allocation(ABSENT)
        stopped = client.allocation.get_allocation(ABSENT)

    assert sorted(answer) == ["EvalID", "Index"]
    assert (stopped["ModifyIndex"], stopped["DesiredStatus"]) == (answer["Index"], "stop")
    assert stopped["DesiredTransition"] == {"ForceReschedule": None, "Migrate": True, "Reschedule": None}
    assert [event["Type"] for event in stopped["TaskStates"]["web"]["Events"]] == ["Received", "Started", "Killing"]


def test_httpx_gets_each_body_to_the_letter(replayed):
    scenario, url, _ = replayed

    for alloc, body in newest_bodies(scenario).items():
        reply = httpx.get(f"{url}/v1/allocation/{alloc}")
        assert reply.headers["X-Nomad-Index"] == str(json.loads(body)["ModifyIndex"])
        same_to_the_letter(reply.text, body)


@pytest.mark.parametrize("scenario", [BY_NAME["1.1.2/lifecycle_all"], BY_NAME["1.1.2/update_destructive"]], ids=str)
def test_python_nomad_follows_the_event_stream_of_a_recording(scenario, tmp_path):
    source, log = tmp_path / "stream.ndjson", tmp_path / "log.jsonl"
    source.write_bytes(b"\n".join(stream_lines(scenario)) + b"\n")
    ingest(source, into=log)
    expected = [
        (frame["Index"], [event["Payload"]["Allocation"]["ID"] for event in events])
        for frame in map(json.loads, stream_lines(scenario))
        if (events := [event for event in frame.get("Events") or () if event["Topic"] == "Allocation"])
    ]
    with served(log) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        client = nomad.Nomad(host=host, port=int(port))
        thread, leave, frames = client.event.stream.get_stream(index=0, topic={"Allocation": "*"}, timeout=LATEST_S)
        thread.daemon = True
        thread.start()
        got = []
        while len(got) < len(expected):
            frame = frames.get(timeout=LATEST_S)
            got.append((frame["Index"], [event["Payload"]["Allocation"]["ID"] for event in frame["Events"]]))
        leave.set()
        process.send_signal(signal.SIGTERM)  # which ends the stream, and so the client's thread
        assert process.wait(20) == 0
        thread.join(20)
    assert [(index, sorted(ids)) for index, ids in got] == [(index, sorted(ids)) for index, ids in expected]


def test_httpx_follows_allocations_by_blocking_queries_and_the_stream():
    """A watcher that only knows blocking queries, and one that only knows the stream, see the same end."""
    alloc = "aaaaaaaa-0000-0000-0000-000000000000"
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": alloc, "Namespace": "default"})
    story = [ev.Received(), ev.Started(), ev.Terminated(exit_code=1), ev.Restarting(), ev.Started(), ev.Killing()]

    async def watch(client):
        index, seen = 0, []
        while len(seen) == 0 or len(seen[-1]) < len(story):
            reply = await client.get(f"/v1/allocation/{alloc}?index={index}&wait=10m")
            assert int(reply.headers["X-Nomad-Index"]) > index
            index = int(reply.headers["X-Nomad-Index"])
            states = reply.json().get("TaskStates", {"web": {"Events": []}})
            seen.append([event["Type"] for event in states["web"]["Events"]])
        return seen[-1]

    async def follow(client):
        last = []
        async with client.stream("GET", "/v1/event/stream?topic=Allocation") as reply:
            async for line in reply.aiter_lines():
                for event in json.loads(line).get("Events", ()):
                    states = event["Payload"]["Allocation"].get("TaskStates", {"web": {"Events": []}})
                    last = [each["Type"] for each in states["web"]["Events"]]
                if len(last) == len(story):
                    return last
        return last

    async def both(url):
        async with httpx.AsyncClient(base_url=url, timeout=LATEST_S) as client:
            return await asyncio.gather(watch(client), follow(client))

    def write():
        for event in story:
            time.sleep(0.02)
            engine.record(alloc, "web", event)

    with running(App(engine)) as server:
        threading.Timer(0.1, write).start()
        watched, followed = asyncio.run(both(server.url))

    assert watched == followed == ["Received", "Started", "Terminated", "Restarting", "Started", "Killing"]


def test_the_table_of_clients_is_that_of_the_results():
    assert f"<!-- clients -->\n{table(read_results())}<!-- /clients -->\n" in DOCS
    assert [client.name for client in CLIENTS] == list(read_results())


def test_python_nomad_gets_today_what_the_results_say():
    client = CLIENTS[0]
    assert client.name == "python-nomad"
    assert ask(client, [sys.executable, SCRIPTS / client.script]) == read_results()[client.name]
