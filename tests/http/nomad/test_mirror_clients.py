"""What Nomad's own command line asks of an agent, asked of a mirror of it: the answers make the same output."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from support.asgi import ask
from support.recordings import read_bytes
from taskfold import Engine, observation_from_json
from taskfold.http import App

CLIENTS = Path(__file__).parents[2] / "data" / "clients" / "1.1.2"
COMMANDS = [json.loads(line) for line in read_bytes(CLIENTS / "commands.jsonl.gz").split(b"\n") if line]
BODIES = [line for line in read_bytes(CLIENTS / "bodies-before.jsonl.gz").split(b"\n") if line]


@pytest.fixture(scope="module")
def mirror() -> App:
    """Return a mirror of the agent before the commands."""
    engine = Engine(dialect="1.1.2")
    observations = [observation_from_json(line, "body") for line in BODIES]
    engine.observe(*sorted(observations, key=lambda observation: observation.index))
    return App(engine, is_mirror=True)


def exchange(path: str) -> dict[str, Any]:
    """Return the recorded request for a path, as reading commands sent it first, and its answer."""
    return next(
        request
        for command in COMMANDS
        if command["kind"] == "read"
        for request in command["requests"]
        if request["path"] == path
    )


def answered(app: App, path: str) -> tuple[Any, Any]:
    """Return what the agent answered, and what the mirror answers."""
    request = exchange(path)
    reply = ask(app, f"{request['method']} {path}", body=(request["body"] or "").encode())
    assert reply.status == request["status"], reply.text
    return json.loads(request["answer"]), json.loads(reply.body)


def only(fields: dict[str, Any], *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in left_out}


def test_the_list_of_jobs_has_the_jobs_with_their_status_and_summary(mirror: App):
    theirs, ours = answered(mirror, "/v1/jobs")

    # When the summary, and the job itself, moved last is not known of allocations.
    moving = ("ModifyIndex", "JobSummary")
    assert [only(job, *moving) for job in ours] == [only(job, *moving) for job in theirs]
    assert [only(job["JobSummary"], "ModifyIndex") for job in ours] == [
        only(job["JobSummary"], "ModifyIndex") for job in theirs
    ]


def test_the_summary_of_a_job_counts_as_nomad_does(mirror: App):
    theirs, ours = answered(mirror, "/v1/job/svc/summary?namespace=default")
    assert only(ours, "ModifyIndex") == only(theirs, "ModifyIndex")


def test_the_versions_of_a_job_are_those_that_its_allocations_have(mirror: App):
    theirs, ours = answered(mirror, "/v1/job/svc/versions?diffs=false&namespace=default")
    versions = {job["Version"]: only(job, "ModifyIndex", "Stable", "Status") for job in theirs["Versions"]}
    assert [job["Version"] for job in ours["Versions"]] == sorted(
        {job["Version"] for job in ours["Versions"]}, reverse=True
    )
    for job in ours["Versions"]:
        assert only(job, "ModifyIndex", "Stable", "Status") == versions[job["Version"]]


@pytest.mark.parametrize("choice", ["true", "false"])
def test_the_allocations_of_a_job_are_listed_with_its_type_and_version(mirror: App, choice: str):
    theirs, ours = answered(mirror, f"/v1/job/svc/allocations?all={choice}&namespace=default")
    assert {stub["ID"]: stub for stub in ours} == {stub["ID"]: stub for stub in theirs}


def test_a_search_finds_jobs_and_allocations(mirror: App):
    reply = ask(mirror, "PUT /v1/search", body=json.dumps({"Prefix": "svc", "Context": "all"}).encode())
    assert json.loads(reply.body)["Matches"] == {"allocs": None, "jobs": ["svc"]}
    alloc = json.loads(BODIES[0])["ID"]
    reply = ask(mirror, "PUT /v1/search", body=json.dumps({"Prefix": alloc[:8], "Context": "allocs"}).encode())
    assert json.loads(reply.body)["Matches"] == {"allocs": [alloc]}
    assert ask(mirror, "PUT /v1/search", body=b'{"Prefix":"x","Context":"nodes"}').status == 501
    assert ask(mirror, "PUT /v1/search", body=b"[1]").status == 400


def test_the_use_of_an_allocation_is_that_of_one_that_has_ended(mirror: App):
    theirs, ours = answered(mirror, "/v1/client/allocation/6fb838e5-92ba-443b-a859-419a8311389b/stats")
    assert ours == theirs
    unknown = ask(mirror, "GET /v1/client/allocation/00000000-0000-0000-0000-000000000000/stats")
    assert (unknown.status, unknown.text.partition('"')[0]) == (404, "Unknown allocation ")


def test_the_allocations_of_a_node_an_evaluation_and_a_deployment_are_those_that_name_it(mirror: App):
    bodies = [json.loads(line) for line in BODIES]
    for field, path in (
        ("NodeID", "/v1/node/{}/allocations"),
        ("EvalID", "/v1/evaluation/{}/allocations"),
        ("DeploymentID", "/v1/deployment/allocations/{}"),
    ):
        value = next(body[field] for body in bodies if body.get(field))
        reply = ask(mirror, f"GET {path.format(value)}")
        assert {entry["ID"] for entry in json.loads(reply.body)} == {
            body["ID"] for body in bodies if body.get(field) == value
        }


def test_allocations_of_a_job_that_was_purged_and_run_again_are_listed_where_all_are_asked_for():
    engine = Engine(dialect="1.1.2")
    for number, index in (("1", 5), ("2", 9)):
        job = {"ID": "site", "CreateIndex": index, "JobModifyIndex": index, "Type": "service"}
        engine.place({"ID": f"0000000{number}-0000-0000-0000-000000000000", "JobID": "site", "Job": job})
    app = App(engine)

    def listed(path: str) -> list[str]:
        return [stub["ID"][:8] for stub in json.loads(ask(app, f"GET {path}").body)]

    assert listed("/v1/job/site/allocations") == ["00000002"]
    assert listed("/v1/job/site/allocations?all=false") == ["00000002"]
    assert listed("/v1/job/site/allocations?all=true") == ["00000001", "00000002"]


def test_of_a_job_that_was_purged_the_newest_version_is_no_version_of_the_next_one():
    engine = Engine(dialect="1.1.2")
    for number, (index, version) in enumerate(((5, 3), (9, 0))):
        job = {"ID": "site", "CreateIndex": index, "JobModifyIndex": index, "ModifyIndex": index, "Version": version}
        engine.place({"ID": f"0000000{number}-0000-0000-0000-000000000000", "JobID": "site", "Job": job})
    app = App(engine)

    assert json.loads(ask(app, "GET /v1/job/site").body)["CreateIndex"] == 9
    assert [job["Version"] for job in json.loads(ask(app, "GET /v1/job/site/versions").body)["Versions"]] == [0]
    assert json.loads(ask(app, "GET /v1/jobs").body)[0]["JobModifyIndex"] == 9


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs",
        "/v1/job/svc/summary",
        "/v1/job/svc/versions",
        "/v1/node/ddeced86-15c2-f534-3339-683327db44b4/allocations",
        "/v1/deployment/allocations/7cf344ea-7426-39de-f0e2-ccb5cd62dc3a",
    ],
)
def test_a_read_waits_for_what_is_newer_than_its_index(mirror: App, path: str):
    begin = perf_counter()
    reply = ask(mirror, f"GET {path}?index={mirror.engine.index}&wait=300ms")
    assert perf_counter() - begin >= 0.3
    assert reply.status == 200


def test_a_search_tells_of_its_namespace_only():
    engine = Engine(dialect="1.1.2")
    for number, namespace in enumerate(("default", "team")):
        alloc = f"0000000{number}-0000-0000-0000-000000000000"
        engine.place({"ID": alloc, "JobID": f"site-{namespace}", "Namespace": namespace})
    app = App(engine)

    def found(namespace: str) -> list[str]:
        body = json.dumps({"Prefix": "site", "Context": "jobs", "Namespace": namespace}).encode()
        return json.loads(ask(app, "PUT /v1/search", body=body).body)["Matches"]["jobs"]

    assert found("team") == ["site-team"]
    assert found("default") == ["site-default"]
    assert found("*") == ["site-default", "site-team"]


@pytest.mark.parametrize("path", ["/v1/nodes", "/v1/namespaces", "/v1/operator/raft/configuration", "/v1/job/a/plan"])
def test_what_is_nomads_and_not_served_is_told_in_a_sentence(mirror: App, path: str):
    reply = ask(mirror, f"GET {path}")
    assert (reply.status, reply.text) == (
        501,
        "taskfold serves allocations, and what follows from them: ask an agent of Nomad for this",
    )
    assert ask(mirror, "GET /v1/nonsense").status == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_job_is_neither_changed_nor_stopped_here_and_a_sentence_says_so(mirror: App, method: str):
    reply = ask(mirror, f"{method} /v1/job/svc")
    assert (reply.status, reply.text.partition(",")[0]) == (501, "taskfold serves allocations")
    assert ask(mirror, "PATCH /v1/job/svc").status == 405
