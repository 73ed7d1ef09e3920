"""Told the same, taskfold decides as the recorded Nomads did: the same events, states, reasons and messages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from recordings import Scenario, scenarios
from taskfold import Engine, ManualClock
from taskfold import events as ev
from taskfold.codecs.fields import ALLOCATION_FIELDS
from taskfold.codecs.groups import group_of
from taskfold.dialect import dialect_of
from taskfold.events import TaskEvent, wire_type
from taskfold.inputs import Input
from taskfold.messages import display_message
from taskfold.policy import DELAYED, WITHIN_POLICY
from taskfold.record import Updated
from told_inputs import Told, told

JITTER = 1.25
WINDOW_TOLERANCE_NS = 100_000_000
"""How much later than the window's end a real client may come to its decision, or begin its window."""

ENGINE = Path(__file__).parent.parent / "engine" / "taskfold"
DECIDING = ("client", "client_new", "client_old", "decide")
"""The modules that write what is decided."""

VERDICTS = Path(__file__).parent / "data" / "decides-like-nomad.txt"
"""Every scenario, with ``same``, or why not in one sentence."""

SAME = "same"


def verdicts() -> dict[str, str]:
    """Return the table."""
    lines = VERDICTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


def play(version: str, found: Told) -> Engine:
    """Tell an engine what the client was told, when it was told, and return the engine."""
    clock = ManualClock(0)
    engine = Engine(dialect=version, clock=clock, seed=1)
    body = json.loads(found.body)
    # As the scheduler placed it: what the client and the servers said later is told as inputs.
    body |= {"DesiredStatus": "run", "DesiredDescription": "", "ClientStatus": "pending", "ClientDescription": ""}
    engine.place(body, time_ns=0)
    told_then: list[tuple[int, str, Input | Updated]] = [*found.inputs, *((at, "", job) for at, job in found.updates)]
    for time_ns, task, said in sorted(told_then, key=lambda entry: entry[0]):
        clock.advance(max(time_ns - clock.time_ns(), 0))
        engine.due()
        if isinstance(said, Updated):
            engine.update(body["ID"], {"Job": said.fields["Job"]})
        else:
            engine.report(body["ID"], task, said)
    return engine


def line(event: TaskEvent) -> dict[str, Any]:
    """Return what is compared of an event: all but times and the random part of a delay."""
    kept = event.kept.details if event.kept is not None else None
    fields = {name: getattr(event, name) for name in event.__struct_fields__ if name not in {"time_ns", "kept"}}
    if isinstance(event, ev.Restarting):
        del fields["start_delay_ns"]
        return {"Type": wire_type(event), **fields}
    return {"Type": wire_type(event), **fields, "message": display_message(event), "details": kept}


def differences(version: str, found: Told) -> list[str]:
    """Return where taskfold's decisions differ from what was recorded; empty when they are the same."""
    engine = play(version, found)
    body = json.loads(found.last_body)
    wrong = compared(engine, body["ID"], version, found)
    for name, records in found.tasks.items():
        recorded = [record.event for record in records if isinstance(record.event, TaskEvent)]
        decided = [r.event for r in engine.history(body["ID"], name) if isinstance(r.event, TaskEvent)]
        wrong += [f"{name}: {text}" for text in delays(version, found, name, decided, recorded)]
    return wrong


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


def delays(version: str, found: Told, task: str, decided: list[TaskEvent], recorded: list[TaskEvent]) -> list[str]:
    """Return what is wrong with the delays before restarts: each has the policy's bounds."""
    delay_ns = group_of(found.body.encode(), None, dialect_of(version)).plan(task).policy.delay_ns
    wrong = []
    pairs = zip(
        [event for event in decided if isinstance(event, ev.Restarting)],
        [event for event in recorded if isinstance(event, ev.Restarting)],
        strict=False,
    )
    for ours, theirs in pairs:
        low, high = 0, 1
        if theirs.restart_reason == WITHIN_POLICY:
            low, high = max(delay_ns, 1), max(int(delay_ns * JITTER), 2)
        elif theirs.restart_reason == DELAYED:
            low, high = theirs.start_delay_ns - WINDOW_TOLERANCE_NS, theirs.start_delay_ns + WINDOW_TOLERANCE_NS
        wrong += [
            f"a delay of {found_ns} is not in [{low}, {high})"
            for found_ns in (ours.start_delay_ns, theirs.start_delay_ns)
            if not low <= found_ns < high
        ]
    return wrong


def test_every_field_that_decisions_write_is_compared() -> None:
    """A field that a decision begins to write has to be compared with the recorded ones, too."""
    source = "".join(path.read_text(encoding="utf-8") for path in ENGINE.glob("*.py") if path.stem in DECIDING)
    names = set(re.findall(r'"([A-Z][A-Za-z]+)"(?=: |\])', source)) & ALLOCATION_FIELDS.keys()
    assert names == set(DECIDED_FIELDS)


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_what_a_client_is_told_makes_taskfold_do_what_it_did(scenario: Scenario) -> None:
    """Every allocation of every recording; the table says where not, and is not allowed to be out of date."""
    wrong = [text for found in told(scenario) for text in differences(scenario.version, found)]
    is_same = verdicts()[str(scenario)] == SAME
    assert is_same == (not wrong and bool(told(scenario))), wrong


def test_the_table_names_every_scenario_once() -> None:
    """None is left out, and none is gone."""
    assert list(verdicts()) == [str(scenario) for scenario in scenarios()]


def test_nearly_all_scenarios_are_the_same() -> None:
    """Only what no input can express may differ."""
    assert [name for name, verdict in verdicts().items() if verdict != SAME] == [
        "0.5.6/raw_exec_missing_command",
        "1.1.2/service_ring_fast_raw",
    ]
