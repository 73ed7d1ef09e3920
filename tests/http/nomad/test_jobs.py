"""The job of allocations, as Nomad answers for it."""

from __future__ import annotations

import json

import pytest

from support.asgi import Reply, ask
from support.recordings import Scenario, bodies, final, scenarios
from taskfold import Engine, ManualClock, MemoryLog, observation_from_json
from taskfold.http.app import App

OF_THE_STOP = {"JobModifyIndex", "ModifyIndex", "Stable", "Status", "Stop", "Version"}
"""What the end of a job changes, which no allocation sees: every recorded job was stopped before it was read."""


def mirror(scenario: Scenario) -> App:
    engine = Engine(MemoryLog(scenario.version), clock=ManualClock(2**62))
    for answer in bodies(scenario):
        engine.observe(observation_from_json(answer.body.encode()))
    return App(engine, seed=1)


def placed(*jobs: dict[str, object], dialect: str = "1.1.2") -> App:
    engine = Engine(dialect=dialect, clock=ManualClock(1_000))
    for number, job in enumerate(jobs):
        engine.place({"ID": f"a{number}", "JobID": "example", "Namespace": "ns", "Job": job})
    return App(engine, seed=1)


def not_found(app: App, reply: Reply) -> bool:
    index = str(app.engine.index)
    headers = [(name, value) for name, value in reply.headers if name.startswith("X-Nomad-")]
    told = [("X-Nomad-Index", index), ("X-Nomad-Knownleader", "true"), ("X-Nomad-Lastcontact", "0")]
    return (reply.status, reply.text, headers) == (404, "job not found", told)


@pytest.mark.parametrize("scenario", scenarios("1.1.2"), ids=str)
def test_the_job_of_recorded_allocations_is_the_recorded_one_before_it_was_stopped(scenario: Scenario) -> None:
    [(path, recorded)] = [(path, answer) for path, answer in final(scenario).items() if path.count("/") == 3]
    app = mirror(scenario)

    reply = ask(app, f"GET {path}")

    if recorded["status"] == 404:  # it was purged; its allocations have it still
        assert recorded["body"] == "job not found"
        assert reply.status == 200
        return
    told, was = json.loads(reply.text), json.loads(recorded["body"])
    assert list(told) == list(was)
    assert {name: told[name] for name in told.keys() - OF_THE_STOP} == {n: was[n] for n in was.keys() - OF_THE_STOP}


def test_the_newest_version_that_an_allocation_has_is_told() -> None:
    jobs = [{"ID": "example", "Version": version} for version in (1, 3, 2)]

    for app in (placed(*jobs), placed(*reversed(jobs))):
        told = json.loads(ask(app, "GET /v1/job/example?namespace=ns").text)
        assert (told["ID"], told["Version"]) == ("example", 3)
    indented = ask(app, "GET /v1/job/example?namespace=ns&pretty").text
    assert indented == json.dumps(told, indent=4) + "\n"


def test_the_old_agent_knows_no_namespaces() -> None:
    job = {"ID": "example", "JobModifyIndex": 7}

    assert json.loads(ask(placed(job, dialect="0.5.6"), "GET /v1/job/example").text) == job | {"Status": "running"}


@pytest.mark.parametrize("path", ["example", "nobody?namespace=ns", "exampl?namespace=ns", "a/b/c"])
def test_a_job_that_no_allocation_has_is_not_found(path: str) -> None:
    app = placed({"ID": "example"})

    assert not_found(app, ask(app, f"GET /v1/job/{path}"))


def test_a_job_is_not_found_where_allocations_have_none() -> None:
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a", "JobID": "example", "Namespace": "default"})
    app = App(engine)

    assert not_found(app, ask(app, "GET /v1/job/example"))


def test_an_id_may_have_slashes_and_what_nomad_has_below_a_job_is_no_part_of_it() -> None:
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a", "JobID": "a/periodic-1", "Namespace": "default", "Job": {"ID": "a/periodic-1"}})
    app = App(engine)

    assert ask(app, "GET /v1/job/a/periodic-1").status == 200
    assert ask(app, "GET /v1/job/a%2Fperiodic-1").status == 200
    for below in ("summary", "versions", "evaluations", "deployment", "deployments"):
        assert ask(app, f"GET /v1/job/a/periodic-1/{below}").status == 200
    for below in ("plan", "periodic/force"):
        assert ask(app, f"GET /v1/job/a/periodic-1/{below}").status == 501
    assert ask(app, "GET /v1/job/").status == 501
    assert ask(app, "PUT /v1/job/a/periodic-1").status == 501


def test_a_blocking_read_of_a_job_waits_for_its_allocations() -> None:
    app = placed({"ID": "example"})
    index = app.engine.index

    reply = ask(app, f"GET /v1/job/example?namespace=ns&index={index}&wait=1s")

    assert (reply.status, reply.header("X-Nomad-Index")) == (200, str(index))
