"""What two Nomads answered is answered again: each recorded body at its index, and the lists of the jobs."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from support.asgi import Call
from support.golden import same_to_the_letter
from support.recordings import bodies, final, scenarios
from taskfold import Engine, MemoryLog, observation_from_json
from taskfold.http.app import App


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_every_recorded_body_is_served_as_it_was(scenario):
    app = App(Engine(MemoryLog(scenario.version)))

    async def story():
        for answer in bodies(scenario):
            app.engine.observe(observation_from_json(answer.body.encode(), "body"))
            if app.engine.snapshot(answer.allocation).modify_index != answer.index:
                continue  # an answer that came late: what is served is newer
            reply = await Call(app, f"GET /v1/allocation/{answer.allocation}").finished()
            assert reply.status == 200
            assert reply.header("X-Nomad-Index") == str(answer.index)
            same_to_the_letter(reply.text, answer.body)

    asyncio.run(story())


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_the_list_of_a_job_is_served_as_it_was(scenario):
    lists = {
        path: answer
        for path, answer in final(scenario).items()
        if path.endswith("/allocations") and answer["status"] == 200
    }
    listed = {stub["ID"] for answer in lists.values() for stub in json.loads(answer["body"])}
    app = App(Engine(MemoryLog(scenario.version)))
    for answer in bodies(scenario):
        if answer.allocation in listed:  # others were collected meanwhile
            app.engine.observe(observation_from_json(answer.body.encode(), "body"))

    for path, answer in lists.items():
        for stub in msgspec.json.decode(answer["body"].encode(), type=list[msgspec.Raw]):
            app.engine.observe(observation_from_json(stub, "stub"))

        async def ask(path=path):
            return await Call(app, f"GET {path}").finished()

        reply = asyncio.run(ask())
        assert reply.status == 200
        assert [stub["ID"] for stub in json.loads(reply.text)] == [stub["ID"] for stub in json.loads(answer["body"])]
        same_to_the_letter(reply.text, answer["body"])
