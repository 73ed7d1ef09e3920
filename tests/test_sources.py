"""Several sources of one cluster: what each spells and tells in its own way folds to the same allocation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import recordings
from taskfold import verify
from taskfold.codecs.events import event_from_object
from taskfold.nomad.importer import Importer
from taskfold.nomad.observation import Observation, observation_from_json
from taskfold.record import Record
from taskfold.replay import replay

REPORTS = recordings.DATA / "reports"
"""Small inputs made after public bug reports."""


def report(name: str) -> Path:
    """Return the one file of a report."""
    (path,) = (REPORTS / name).iterdir()
    return path


def written_types(records: list[Record]) -> list[tuple[str, str]]:
    return [(record.task, type(record.event).__name__) for record in records]


# --- events that are spelled in another way ---


def with_null_details(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"Details": event.get("Details") or None}


def with_a_new_field(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"NewField": "", "Another": 0}


def without_what_follows(event: dict[str, Any]) -> dict[str, Any]:
    """Leave out what follows from the annotations; a text of its own is what tells an event from another."""
    if event_from_object(event).kept is not None:
        return event
    return event | {"Details": None, "DisplayMessage": ""}


def without_what_is_zero(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if value or name in {"Details", "DisplayMessage"}}


SPELLINGS: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    with_null_details,
    with_a_new_field,
    without_what_follows,
    without_what_is_zero,
]


def spelled(text: str, spelling: Callable[[dict[str, Any]], dict[str, Any]]) -> Observation:
    """Return what a body tells, each of its events spelled in another way."""
    body = json.loads(text)
    for task in (body.get("TaskStates") or {}).values():
        task["Events"] = [spelling(event) for event in task["Events"] or ()]
    return observation_from_json(json.dumps(body).encode())


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_an_event_is_the_same_however_a_source_spells_it(
    version: str, spelling: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    compared = 0
    for scenario in recordings.scenarios(version)[::4]:
        texts = [answer.body for answer in recordings.bodies(scenario)]
        plain, mixed = Importer(version), Importer(version)
        for place, text in enumerate(texts):
            expected = plain.observe(observation_from_json(text.encode()))
            is_other = place % 2 == 1
            other = spelled(text, spelling) if is_other else observation_from_json(text.encode())
            assert written_types(mixed.observe(other)) == written_types(expected), (str(scenario), place)
            compared += is_other
    assert compared > 10


@pytest.mark.parametrize("name", ["new-event-field-after-upgrade", "details-null"])
def test_a_ring_that_another_server_writes_belongs_to_the_same_task(name: str) -> None:
    records = [record for record in replay(report(name)) if record.task]

    types = [type(record.event).__name__ for record in records]
    assert types == ["Received", "TaskSetup", "Started", "Updated", "Terminated", "Finished"]
    assert verify(report(name)).agrees
