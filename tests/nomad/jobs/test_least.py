"""What is answered where no job is known: a client of Nomad can work with it, and nobody takes it for more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support import recordings
from support.asgi import ask
from support.command_line import run
from support.recordings import Scenario, bodies, final, scenarios
from support.supervising import job_of
from taskfold import Engine, MemoryLog, events, observation_from_json
from taskfold.http.app import App
from taskfold.model.dialect import DIALECTS
from taskfold.nomad.importing.observation import Observation, observation_from_fields
from taskfold.nomad.jobs.canonical import canonical_job
from taskfold.nomad.jobs.least import NOT_TOLD
from taskfold.run.supervisor import Supervisor

OLD, NEW = "0.5.6", "1.1.2"


def answer(engine: Engine, alloc: str) -> dict[str, Any]:
    """Return the allocation as the server of an engine answers."""
    reply = ask(App(engine), f"GET /v1/allocation/{alloc}")
    assert reply.status == 200
    body: dict[str, Any] = json.loads(reply.text)
    return body


def read_as_the_command_line(body: dict[str, Any]) -> dict[str, str]:
    """Read what Nomad's command line reads of a job without looking whether it is there; return each task's hook.

    Source: alloc_status.go (formatAllocBasicInfo, outputTaskDetails, shortTaskStatus, outputTaskVolumes),
    alloc_restart.go, alloc_logs.go, api/allocations.go (Stub, GetTaskGroup) of v1.1.2, logs.go of v0.5.6.
    """
    job = body["Job"]
    assert isinstance(job["Type"], str)
    if "Version" in job:  # not before 0.6.0
        assert isinstance(job["Version"], int)
    assert all(isinstance(group["Name"], str) for group in job["TaskGroups"])
    own = next(group for group in job["TaskGroups"] if group["Name"] == body.get("TaskGroup", ""))
    hooks = {task["Name"]: (task.get("Lifecycle") or {"Hook": "main"})["Hook"] for task in own["Tasks"] or ()}
    assert (body.get("TaskStates") or {}).keys() <= hooks.keys()
    assert all(not task.get("VolumeMounts") for task in own["Tasks"] or ())
    return hooks


def mirror(scenario: Scenario, observations: Iterable[Observation]) -> Engine:
    engine = Engine(MemoryLog(scenario.version))
    for each in observations:
        engine.observe(each)
    return engine


def of_stream(scenario: Scenario) -> list[Observation]:
    """Return what a stream of allocations alone told."""
    return [
        observation_from_fields(
            {name: msgspec.json.encode(value) for name, value in event["Payload"]["Allocation"].items()}, "stream"
        )
        for line in recordings.stream_lines(scenario)
        for event in json.loads(line).get("Events") or ()
        if event["Topic"] == "Allocation"
    ]


def of_lists(scenario: Scenario) -> list[Observation]:
    """Return what the lists alone told."""
    return [
        observation_from_json(stub, "stub")
        for path, listed in final(scenario).items()
        if path.endswith("/allocations") and listed["status"] == 200
        for stub in msgspec.json.decode(listed["body"].encode(), type=list[msgspec.Raw])
    ]


@pytest.mark.parametrize("scenario", scenarios(NEW), ids=str)
def test_an_allocation_of_a_stream_alone_has_a_job_with_its_names_and_hooks(scenario: Scenario) -> None:
    engine = mirror(scenario, of_stream(scenario))
    jobs = {reply.allocation: json.loads(reply.body)["Job"] for reply in bodies(scenario)}
    assert len(engine.allocations()) > 0

    for snapshot in engine.allocations():
        body = answer(engine, snapshot.id or "")
        hooks = read_as_the_command_line(body)
        if (job := jobs.get(snapshot.id or "")) is not None:
            assert {name: body["Job"][name] for name in ("ID", "Name", "Namespace")} == {
                name: job[name] for name in ("ID", "Name", "Namespace")
            }
            assert hooks == read_as_the_command_line({**body, "Job": job})
        if snapshot.fields.get("Job", b"null") == b"null":
            assert (body["Job"]["StatusDescription"], body["Job"]["JobModifyIndex"]) == (NOT_TOLD, 0)


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_an_allocation_of_a_list_alone_has_a_job_of_the_type_and_version_that_are_told(scenario: Scenario) -> None:
    engine = mirror(scenario, of_lists(scenario))

    for path, listed in final(scenario).items():
        if path.endswith("/allocations") and listed["status"] == 200:
            for stub in json.loads(listed["body"]):
                body = answer(engine, stub["ID"])
                assert read_as_the_command_line(body).keys() == (stub["TaskStates"] or {}).keys()
                if scenario.version == NEW:
                    assert (body["Job"]["Type"], body["Job"]["Version"]) == (stub["JobType"], stub["JobVersion"])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_allocation_of_which_nothing_is_known_has_a_job(dialect: str) -> None:
    with Engine(dialect=dialect) as engine:
        engine.place({"ID": "a"})
        engine.place({"ID": "b", "Job": None, "JobID": "web", "Name": "x", "TaskGroup": "g"})
        engine.record("b", "main", events.Received())
        wrong = {"JobID": "web", "AllocatedResources": {"TaskLifecycles": {"t": {"Hook": 7}}}, "TaskResources": [1]}
        engine.place({"ID": "c", **wrong})

        assert read_as_the_command_line(answer(engine, "a")) == {}
        assert read_as_the_command_line(answer(engine, "b")) == {"main": "main"}
        assert answer(engine, "b")["Job"]["Name"] == "web"
        assert read_as_the_command_line(answer(engine, "c")) == {}


def test_a_job_that_is_told_later_is_answered_from_then_on() -> None:
    with Engine(dialect=NEW) as engine:
        engine.place({"ID": "a", "JobID": "example"})
        app = App(engine)
        assert json.loads(ask(app, "GET /v1/allocation/a").text)["Job"]["StatusDescription"] == NOT_TOLD
        engine.update("a", {"Job": job_of({"Name": "main"})})

        job = json.loads(ask(app, "GET /v1/allocation/a").text)["Job"]

    assert (job["StatusDescription"], job["TaskGroups"][0]["Tasks"][0]["Name"]) == ("", "main")


def test_a_job_that_was_made_up_is_in_no_list_no_stream_no_log_and_no_export(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Engine.open(path, dialect=NEW) as engine:
        engine.place({"ID": "a", "JobID": "example", "Namespace": "default"})
        engine.record("a", "main", events.Received())
        app = App(engine)
        assert NOT_TOLD in ask(app, "GET /v1/allocation/a").text

        assert ask(app, "GET /v1/job/example").status == 404
        listed = ask(app, "GET /v1/job/example/allocations").text
        assert (json.loads(listed)[0]["JobType"], json.loads(listed)[0]["JobVersion"]) == ("", 0)
        elsewhere = [listed, ask(app, "GET /v1/allocations").text, ask(app, "GET /v1/allocation/a/history").text]
        elsewhere.append(engine.snapshot("a").to_json().decode())
        elsewhere.append(engine.snapshot("a").to_stream_json().decode())
        assert engine.snapshot("a").view("Job") is None
        engine.backup(tmp_path / "copy.jsonl")
    elsewhere += [(tmp_path / name).read_text() for name in ("log.jsonl", "copy.jsonl")]
    for command in (("replay", path, "--format", "jsonl"), ("history", path, "a"), ("log", path)):
        elsewhere.append(run(*command).stdout)

    assert all(elsewhere)
    assert not any("was not told this job" in text for text in elsewhere)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_job_of_an_older_log_is_answered_whole(dialect: str) -> None:
    """Before it was canonicalised, a job was recorded as it was written."""
    written = msgspec.json.encode(job_of({"Name": "main"}))
    body = msgspec.Raw(b'{"ID":"a","JobID":"example","TaskGroup":"group","Job":%b}' % written)
    with Engine(MemoryLog(dialect)) as engine:
        engine.observe(observation_from_json(body, "body"))
        assert engine.snapshot("a").fields["Job"] == written

        read_as_the_command_line(answer(engine, "a"))
        assert json.dumps(answer(engine, "a")["Job"]) == json.dumps(json.loads(canonical_job(written, dialect)))


def test_what_is_no_job_in_an_older_log_is_answered_as_it_is() -> None:
    with Engine(MemoryLog(NEW)) as engine:
        engine.observe(observation_from_json(b'{"ID":"a","ModifyIndex":3,"Job":{"TaskGroups":7}}', "body"))

        assert answer(engine, "a")["Job"] == {"TaskGroups": 7}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_allocations_of_a_job_that_is_run_have_it_whole(dialect: str, tmp_path: Path) -> None:
    written = {"ID": "web", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "main", "Driver": "raw_exec"}]}]}
    with Engine(MemoryLog(dialect, region="eu"), seed=1) as engine:
        supervisor = Supervisor(engine, tmp_path)
        for job in (written, {"Job": written}):
            (alloc,) = supervisor.place(job)

        body = answer(engine, alloc)

    assert read_as_the_command_line(body) == {"main": "main"}
    assert body["Job"] == json.loads(canonical_job(json.dumps(written), dialect, region="eu"))
    assert body["Job"]["Region"] == "eu"
