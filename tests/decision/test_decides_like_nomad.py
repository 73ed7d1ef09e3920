"""Told the same, taskfold decides as the recorded Nomads did: the same events, states, reasons and messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.decided import DECIDED_FIELDS, compared
from support.recordings import Scenario, scenarios
from support.told_inputs import Told, told
from taskfold import Engine, ManualClock
from taskfold import events as ev
from taskfold.events import TaskEvent
from taskfold.inputs import Input
from taskfold.model.dialect import dialect_of
from taskfold.model.policy import DELAYED, WITHIN_POLICY
from taskfold.model.record import Updated
from taskfold.nomad.fields import ALLOCATION_FIELDS
from taskfold.nomad.groups import group_of

JITTER = 1.25
WINDOW_TOLERANCE_NS = 100_000_000
"""How much later than the window's end a real client may come to its decision, or begin its window."""

ENGINE = Path(__file__).parents[2] / "engine" / "taskfold"
DECIDING = ("decision", "nomad_0_9", "nomad_0_5", "rules")
"""The modules that write what is decided."""

VERDICTS = Path(__file__).parents[1] / "data" / "decides-like-nomad.txt"
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
    source = "".join(path.read_text(encoding="utf-8") for path in ENGINE.glob("decision/*.py") if path.stem in DECIDING)
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
