"""DisplayMessage and Details as Nomad derives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from support import recordings
from taskfold import events as ev
from taskfold.events import Extras, TaskEvent
from taskfold.nomad.events import event_from_object
from taskfold.nomad.messages import derived_details, derived_message, details, display_message

# The null event says that Nomad does nothing where there is no event: here there always is one.
# A case with only_tags is how one old Nomad said it that no dialect speaks.
CASES = [
    case
    for case in recordings.vector("display_message")["cases"]
    if case["event"] is not None and "only_tags" not in case
]


@pytest.mark.parametrize("case", [pytest.param(case, id=json.dumps(case["event"])) for case in CASES])
def test_the_conformance_cases_of_display_messages(case: dict[str, Any]) -> None:
    assert display_message(event_from_object(case["event"])) == case["expected"]


def test_only_two_conformance_cases_are_passed_over() -> None:
    assert len(recordings.vector("display_message")["cases"]) - len(CASES) == 2


# --- what was recorded ------------------------------------------------------------------------------------------------


def recorded_events() -> Iterator[dict[str, Any]]:
    """Yield every event that a Nomad 1.1.2 told in an answer of its API."""
    for scenario in recordings.scenarios("1.1.2"):
        for answer in recordings.bodies(scenario):
            for task in (json.loads(answer.body).get("TaskStates") or {}).values():
                yield from task["Events"] or ()


def test_what_a_nomad_said_is_what_is_derived_unless_it_is_kept() -> None:
    derived = 0
    for said in recorded_events():
        event = event_from_object(said)
        assert display_message(event) == said["DisplayMessage"]
        assert details(event) == said["Details"]
        kept = event.extras or Extras()
        assert (kept.display_message is msgspec.UNSET) == (derived_message(event) == said["DisplayMessage"])
        assert (kept.details is msgspec.UNSET) == (derived_details(event) == said["Details"])
        derived += event.extras is None
    assert derived > 2_000


def test_what_is_kept_of_recorded_events_is_what_no_annotation_tells() -> None:
    kept: dict[str, set[str]] = {"messages": set(), "details": set(), "fields": set()}
    for said in recorded_events():
        event = event_from_object(said)
        if event.extras is not None:
            kept["messages"] |= {said["Type"]} if event.extras.display_message is not msgspec.UNSET else set()
            kept["details"] |= {said["Type"]} if event.extras.details is not msgspec.UNSET else set()
            kept["fields"] |= event.extras.fields.keys()
    # Texts that Nomad's code passes by hand (a template, a restore, a signal by name), and nothing else.
    assert kept["messages"] <= {"Template", "Failed Restoring Task", "Killing", "Restart Signaled", "Signaling"}
    assert kept["details"] <= {"Signaling", "Killing"}
    assert not kept["fields"]


# --- the rules --------------------------------------------------------------------------------------------------------

MESSAGES: list[tuple[TaskEvent, str]] = [
    (ev.TaskSetup(message="Building Task Directory"), "Building Task Directory"),
    (ev.TaskSetup(), ""),
    (ev.Terminated(), "Exit Code: 0"),
    (ev.Terminated(exit_code=None), "Exit Code: 0"),
    (
        ev.Terminated(exit_code=137, signal=9, message='say "é"\n'),
        r'Exit Code: 137, Signal: 9, Exit Message: "say \"é\"\n"',
    ),
    (ev.Restarting(start_delay_ns=1_035_121_070), "Task restarting in 1.03512107s"),
    (ev.Restarting(restart_reason="Restart within policy"), "Task restarting in 0s"),
    (ev.Restarting(restart_reason="restart within policy"), "restart within policy - Task restarting in 0s"),
    (ev.SiblingTaskFailed(failed_sibling='a"b'), r"""Task's sibling "a\"b" failed"""),
    (ev.Killing(kill_timeout_ns=5_000_000_000), "Sent interrupt. Waiting 5s before force killing"),
    (ev.Signaling(task_signal="hangup", task_signal_reason="why"), "Task being sent signal hangup: why"),
    (ev.Generic(message="text", generic_source="Template"), "text"),
    (ev.UnknownEvent(wire_type="New", message="text"), "text"),
    (ev.Template(), ""),
    (ev.Template(extras=Extras(fields={"Message": "misplaced"})), "misplaced"),
    (ev.Started(extras=Extras(display_message="")), ""),
    (ev.Started(extras=Extras(details=None)), "Task started by client"),
]


@pytest.mark.parametrize(("event", "message"), MESSAGES)
def test_the_message_of_an_event(event: TaskEvent, message: str) -> None:
    assert display_message(event) == message


DETAILS: list[tuple[TaskEvent, dict[str, str] | None]] = [
    (ev.Received(), {}),
    (ev.TaskSetup(message="m"), {"message": "m"}),
    (ev.Terminated(message="m"), {"exit_code": "0", "signal": "0", "oom_killed": "false", "exit_message": "m"}),
    (
        ev.Terminated(exit_code=None, signal=9, oom_killed=True),
        {"exit_code": "unknown", "signal": "9", "oom_killed": "true"},
    ),
    # The delay of a restart is told as a number, the timeout of a kill as a duration.
    (ev.Restarting(start_delay_ns=5_000_000_000), {"restart_reason": "", "start_delay": "5000000000"}),
    (ev.Killing(kill_timeout_ns=5_000_000_000), {"kill_timeout": "5s"}),
    (ev.Killing(fails_task=True, kill_reason="r"), {"kill_reason": "r", "fails_task": "true"}),
    (ev.NotRestarting(restart_reason="r"), {"restart_reason": "r", "fails_task": "true"}),
    (ev.NotRestarting(fails_task=False), {"restart_reason": ""}),
    (ev.RestartSignaled(), {}),
    (ev.DiskResourcesExceeded(disk_limit=7), {"disk_limit": "7"}),
    (ev.Started(extras=Extras(details=None)), None),
    (ev.Started(extras=Extras(details={"signal": "SIGHUP"})), {"signal": "SIGHUP"}),
]


@pytest.mark.parametrize(("event", "expected"), DETAILS)
def test_the_details_of_an_event(event: TaskEvent, expected: dict[str, str] | None) -> None:
    assert details(event) == expected
