"""The allocations of a client: what it got from its servers, and its own state of each task."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from taskfold.nomad.importing.client_state import client_allocations


def fields_of(state: dict[str, Any]) -> list[dict[str, Any]]:
    text = Raw(json.dumps(state).encode())
    return [{name: json.loads(part) for name, part in fields.items()} for fields in client_allocations(text)]


def test_the_states_of_the_client_go_before_those_that_it_was_sent():
    sent = {"web": {"State": "pending"}, "db": {"State": "pending"}}
    own = {"web": {"RemoteState": {"State": "running"}}, "db": None, "log": {"RemoteState": None}, "old": {}}

    assert fields_of({"a": {"Alloc": {"ID": "a", "TaskStates": sent}, "Tasks": own}}) == [
        {"ID": "a", "TaskStates": {"web": {"State": "running"}, "db": {"State": "pending"}}}
    ]


@pytest.mark.parametrize("tasks", [{}, {"Tasks": None}, {"Tasks": {}}, {"Tasks": {"web": None}}])
def test_what_the_client_was_sent_stays_where_it_has_no_state_of_its_own(tasks):
    assert fields_of({"a": {"Alloc": {"ID": "a", "TaskStates": None}} | tasks}) == [{"ID": "a", "TaskStates": None}]


def test_the_health_that_the_client_found_out_is_that_of_the_deployment():
    state = {"a": {"Alloc": {"ID": "a", "DeploymentStatus": None}, "DeployStatus": {"Healthy": True}}}

    assert fields_of(state) == [{"ID": "a", "DeploymentStatus": {"Healthy": True}}]
    assert fields_of({"a": {"Alloc": {"ID": "a"}, "DeployStatus": None}}) == [{"ID": "a"}]


def test_what_has_no_allocation_is_left_out():
    state = {"a": None, "b": {}, "c": {"Alloc": None}, "d": {"Alloc": {}}, "e": {"Alloc": {"ID": "e"}}}

    assert fields_of(state) == [{"ID": "e"}]
