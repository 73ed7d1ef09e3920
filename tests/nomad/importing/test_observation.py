"""What the event stream and the lists of a real Nomad tell of an allocation follows from its body, to the letter."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from urllib.parse import parse_qs

import msgspec
import pytest

from support import recordings
from support.golden import same_to_the_letter
from taskfold.fold.task import TaskState
from taskfold.model.dialect import DIALECTS
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.observation import observation_from_json
from taskfold.nomad.snapshot import Snapshot


class Payload(msgspec.Struct):
    """The payload of an event of the stream, the allocation as text."""

    Allocation: msgspec.Raw = msgspec.Raw(b"")


class StreamEvent(msgspec.Struct):
    """An event of the stream."""

    Topic: str
    Payload: Payload


class Frame(msgspec.Struct):
    """A line of the stream; `{}` says nothing."""

    Events: list[StreamEvent] = []


class Place(msgspec.Struct, frozen=True):
    """Which allocation, and at which index."""

    ID: str
    ModifyIndex: int


read_place = msgspec.json.Decoder(Place).decode
SCENARIOS = [pytest.param(each, id=str(each)) for each in recordings.scenarios("1.1.2")]


@functools.cache
def payloads(scenario: recordings.Scenario) -> list[str]:
    """Return the text of every allocation that the stream of a scenario told, in order."""
    frames = [msgspec.json.decode(line, type=Frame) for line in recordings.stream_lines(scenario)]
    return [
        bytes(event.Payload.Allocation).decode()
        for frame in frames
        for event in frame.Events
        if event.Topic == "Allocation"
    ]


@functools.cache
def bodies(version: str) -> dict[Place, str]:
    """Return the text of every allocation at every index at which one version answered with it."""
    found = [answer.body for scenario in recordings.scenarios(version) for answer in recordings.bodies(scenario)]
    return {read_place(body): body for body in found}


# --- the stream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_payload_is_written_as_it_was_sent(scenario: recordings.Scenario) -> None:
    assert payloads(scenario)
    for sent in payloads(scenario):
        same_to_the_letter(Snapshot.from_json(sent).to_stream_json().decode(), sent)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_fold_of_a_stream_is_written_as_each_payload_was_sent(scenario: recordings.Scenario) -> None:
    importer = Importer("1.1.2")
    for sent in payloads(scenario):
        observation = observation_from_json(sent.encode(), kind="stream")
        importer.observe(observation)
        state = importer.fold[observation.alloc]
        assert state.modify_index == observation.index
        same_to_the_letter(Snapshot.of(state, "1.1.2").to_stream_json().decode(), sent)


def test_a_payload_is_the_body_of_its_index_without_the_job() -> None:
    compared = 0
    for scenario in recordings.scenarios("1.1.2"):
        for sent in payloads(scenario):
            body = bodies("1.1.2").get(read_place(sent))
            if body is None:
                continue
            compared += 1
            told, of_stream = Snapshot.from_json(body), Snapshot.from_json(sent)
            same_to_the_letter(told.to_stream_json().decode(), sent)
            assert "Job" in told.fields.keys() - of_stream.fields.keys()
            # What is kept of an event does not depend on where it was read.
            assert told.tasks == of_stream.tasks
    assert compared > 400


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_in_each_dialect_a_payload_is_the_body_without_the_job(version: str, dialect: str) -> None:
    for body in list(bodies(version).values())[::10]:
        snapshot = Snapshot.from_json(body, version)
        expected = json.loads(snapshot.to_json(dialect))
        del expected["Job"]
        written = json.loads(snapshot.to_stream_json(dialect))
        assert list(written.items()) == list(expected.items())


# --- the lists --------------------------------------------------------------------------------------------------------


def lists(version: str) -> Iterator[tuple[str, str, str]]:
    """Yield every recorded list of allocations: the name and the query of its request, and the text of the answer."""
    for scenario in recordings.scenarios(version):
        for text in recordings.list_bodies(scenario):
            yield str(scenario), "", text
    for edge in recordings.edges(version):
        path, _, query = edge.request.removeprefix("GET ").partition("?")
        if path == "/v1/allocations" and edge.status == 200 and edge.body and not (edge.gzipped or edge.pretty):
            yield edge.name, query, edge.body


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_entry_of_a_list_follows_from_the_body_of_its_index_and_from_the_request(version: str) -> None:
    compared: dict[str, int] = {}
    for name, query, text in lists(version):
        asked = parse_qs(query)
        choices = {key: asked[key] == ["true"] for key in ("resources", "task_states") if key in asked}
        for entry in msgspec.json.decode(text, type=list[msgspec.Raw]):
            body = bodies(version).get(read_place(entry))
            if body is not None:
                compared[name] = compared.get(name, 0) + 1
                written = Snapshot.from_json(body, version).to_stub_json(**choices)
                same_to_the_letter(written.decode(), bytes(entry).decode())
    assert sum(compared.values()) > 60
    assert compared.keys() >= {"list_task_states_false", "list_task_states_true", "list_resources_true"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_list_without_task_states_has_null_for_them_where_there_is_such_a_choice(dialect: str) -> None:
    for tasks in ({}, {"web": TaskState()}):
        snapshot = Snapshot({"ID": b'"a"'} | ({} if tasks else {"TaskStates": b"{}"}), tasks, dialect)
        whole, without = (json.loads(snapshot.to_stub_json(task_states=wanted)) for wanted in (True, False))
        assert whole["TaskStates"] is not None
        assert without == (whole | {"TaskStates": None} if dialect == "1.1.2" else whole)
