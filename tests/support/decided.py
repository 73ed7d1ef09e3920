"""Decided histories beside recorded ones."""

from __future__ import annotations

import json
from typing import Any

from support.told_inputs import Told
from taskfold import Engine
from taskfold import events as ev
from taskfold.events import TaskEvent, wire_type
from taskfold.nomad.messages import display_message


def line(event: TaskEvent) -> dict[str, Any]:
    """Return what is compared of an event: all but times and the random part of a delay."""
    kept = event.extras.details if event.extras is not None else None
    fields = {name: getattr(event, name) for name in event.__struct_fields__ if name not in {"time_ns", "extras"}}
    if isinstance(event, ev.Restarting):
        del fields["start_delay_ns"]
        return {"Type": wire_type(event), **fields}
    return {"Type": wire_type(event), **fields, "message": display_message(event), "details": kept}


def compared(engine: Engine, alloc: str, version: str, found: Told, *, newest: int = 0) -> list[str]:
    """Return where an allocation, or its newest events alone, differ from a recorded one: not in times and the ID."""
    body = json.loads(found.last_body)
    wrong = []
    for name, records in found.tasks.items():
        recorded = [record.event for record in records if isinstance(record.event, TaskEvent)][-newest:]
        decided = [r.event for r in engine.history(alloc, name) if isinstance(r.event, TaskEvent)][-newest:]
        if [line(event) for event in decided] != [line(event) for event in recorded]:
            wrong.append(f"{name}: {[wire_type(e) for e in decided]} != {[wire_type(e) for e in recorded]}")
            wrong += [f"{line(a)} != {line(b)}" for a, b in zip(decided, recorded, strict=False) if line(a) != line(b)]
        state, seen = engine.task(alloc, name), body["TaskStates"][name]
        facts = {"State": state.state, "Failed": state.failed}
        if version == "1.1.2":
            facts |= {"Restarts": state.restarts}
        wrong += [f"{name}: {fact}: {value} != {seen[fact]}" for fact, value in facts.items() if seen[fact] != value]
        for fact, value in (("StartedAt", state.started_at_ns), ("FinishedAt", state.finished_at_ns)):
            was_set = seen[fact] not in {None, "0001-01-01T00:00:00Z"}
            if was_set != (value is not None):
                wrong.append(f"{name}: {fact}: {value} != {seen[fact]}")
    written = json.loads(engine.snapshot(alloc).to_json())
    return wrong + [
        f"{name}: {written.get(name)!r} != {body.get(name)!r}"
        for name in DECIDED_FIELDS
        if compared_value(name, written) != compared_value(name, body)
    ]


DECIDED_FIELDS = (
    "AllocStates",
    "ClientDescription",
    "ClientStatus",
    "DesiredDescription",
    "DesiredStatus",
    "DesiredTransition",
    "NetworkStatus",
)
"""Every top-level field that a decision may write."""


def compared_value(name: str, body: dict[str, Any]) -> Any:
    """Return what is compared of a field: of what is wished for, only what an input asks for."""
    value = body.get(name)
    if name == "DesiredTransition":
        return bool((value or {}).get("Migrate"))
    return value or None
