"""Facts: what a payload of the event stream says of jobs, evaluations and deployments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from taskfold.nomad.importing.facts import DeploymentWrite, EvaluationWrite, JobWrite, Payload, facts_of_payload

JOB = {"ID": "web", "Version": 2, "CreateIndex": 5, "ModifyIndex": 9, "JobModifyIndex": 8}
EVALUATION = {"ID": "e", "JobID": "web", "CreateIndex": 5, "ModifyIndex": 9}
DEPLOYMENT = {"ID": "d", "JobID": "web", "JobCreateIndex": 5, "ModifyIndex": 9}


def raw(value: dict[str, Any]) -> Raw:
    return Raw(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("namespace", "expected"), [({}, "default"), ({"Namespace": ""}, "default"), ({"Namespace": "ops"}, "ops")]
)
def test_a_payload_is_a_fact_for_each_of_its_objects(namespace, expected):
    job = JOB | namespace
    payload = Payload(Job=raw(job), Evaluation=raw(EVALUATION | namespace), Deployment=raw(DEPLOYMENT | namespace))

    facts = facts_of_payload(payload, "EvaluationUpdated", "stream.ndjson", 7)

    common: dict[str, Any] = {"namespace": expected, "job": "web", "index": 9, "name": "stream.ndjson", "line": 7}
    text = json.dumps(job).encode()
    assert facts == [
        JobWrite(**common, version=2, created_index=5, registered_index=8, is_stopped=False, text=text),
        EvaluationWrite(**common, id="e", created_index=5, job_index=0, snapshot_index=0, is_plan=False, is_done=False),
        DeploymentWrite(**common, id="d", job_version=0, job_created_index=5),
    ]
    assert {fact.job_key for fact in facts} == {(expected, "web")}


def test_a_fact_has_what_its_object_tells():
    payload = Payload(
        Job=raw(JOB | {"Stop": True}),
        Evaluation=raw(EVALUATION | {"JobModifyIndex": 8}),
        Deployment=raw(DEPLOYMENT | {"JobVersion": 3}),
    )

    job, evaluation, deployment = facts_of_payload(payload, "PlanResult")

    assert isinstance(job, JobWrite)
    assert isinstance(evaluation, EvaluationWrite)
    assert isinstance(deployment, DeploymentWrite)
    assert (job.is_stopped, job.name, job.line) == (True, "", 0)
    assert (evaluation.job_index, evaluation.is_plan) == (8, True)
    assert deployment.job_version == 3


@pytest.mark.parametrize(
    ("status", "is_done"),
    [("complete", True), ("failed", True), ("canceled", True), ("blocked", False), ("pending", False), ("", False)],
)
def test_an_evaluation_tells_the_state_that_its_scheduler_used_when_it_has_ended(status, is_done):
    payload = Payload(Evaluation=raw(EVALUATION | {"Status": status, "SnapshotIndex": 7}))

    [fact] = facts_of_payload(payload, "EvaluationUpdated")

    assert isinstance(fact, EvaluationWrite)
    assert (fact.is_done, fact.snapshot_index) == (is_done, 7 if is_done else 0)


def test_an_evaluation_that_ended_without_a_state_tells_none():
    [fact] = facts_of_payload(Payload(Evaluation=raw(EVALUATION | {"Status": "complete"})), "EvaluationUpdated")

    assert isinstance(fact, EvaluationWrite)
    assert fact.snapshot_index == 0


def test_a_fact_that_was_read_from_no_file_names_none():
    fact = DeploymentWrite(namespace="default", job="web", index=9, id="d", job_version=0, job_created_index=5)

    assert (fact.name, fact.line) == ("", 0)


LEAST = {"Job": JOB, "Evaluation": EVALUATION, "Deployment": DEPLOYMENT}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *((kind, field, None) for kind, fields in LEAST.items() for field in fields),
        *((kind, field, 0) for kind, fields in LEAST.items() for field in fields if field.endswith("Index")),
        *((kind, field, 2**63) for kind, fields in LEAST.items() for field in fields if field.endswith("Index")),
        *((kind, field, "") for kind, fields in LEAST.items() for field in fields if field.endswith("ID")),
        ("Job", "Version", -1),
        ("Job", "Version", 2**63),
        ("Evaluation", "JobModifyIndex", -1),
        ("Evaluation", "SnapshotIndex", 2**63),
        ("Deployment", "JobVersion", -1),
    ],
)
def test_an_object_that_is_not_as_nomad_sends_it_is_no_fact(kind, field, value):
    assert facts_of_payload(Payload(**{kind: raw(LEAST[kind] | {field: value})}), "JobRegistered") == []


@pytest.mark.parametrize(
    ("field", "value"), [("Version", 0), ("Version", 2**63 - 1), ("CreateIndex", 1), ("CreateIndex", 2**63 - 1)]
)
def test_an_index_has_63_bits(field, value):
    [fact] = facts_of_payload(Payload(Job=raw(JOB | {field: value})), "JobRegistered")

    assert isinstance(fact, JobWrite)
    assert {"Version": fact.version, "CreateIndex": fact.created_index}[field] == value


@pytest.mark.parametrize("text", [b'{"ID": "\xff"}', b'{"X": ' + b"[" * 100_000, b"{"])
def test_an_object_that_cannot_be_read_is_no_fact(text):
    assert facts_of_payload(Payload(Job=Raw(text), Evaluation=raw(EVALUATION)), "JobRegistered")[1:] == []
