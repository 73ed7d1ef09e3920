"""DisplayMessage and Details as Nomad derives them, and Go's texts of durations, instants and quoted strings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import recordings
from taskfold import events as ev
from taskfold.events import Extras, TaskEvent
from taskfold.model.duration import ZERO_TIME, duration_text, parse_duration_ns, parse_time_ns, time_text
from taskfold.model.quoting import go_quoted
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


# --- Go's texts -------------------------------------------------------------------------------------------------------

QUOTED = [
    ("", '""'),
    ("plain é 日本 🙂", '"plain é 日本 🙂"'),
    ('"\\', r'"\"\\"'),
    ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
    ("\x00\x01\x1b\x7f", r'"\x00\x01\x1b\x7f"'),
    ("\x80\x9f\xa0\xad", r'"\u0080\u009f\u00a0\u00ad"'),
    ("\u2028\u2029\u200b\ufeff\u3000", r'"\u2028\u2029\u200b\ufeff\u3000"'),
    ("\U000e0001\U0010ffff\ue000", r'"\U000e0001\U0010ffff\ue000"'),
    ("'`${}<&>", '"\'`${}<&>"'),
    ("\ufffd", '"\ufffd"'),
]


@pytest.mark.parametrize(("text", "quoted"), QUOTED)
def test_a_text_is_quoted_as_go_does(text: str, quoted: str) -> None:
    assert go_quoted(text) == quoted


@given(st.text())
def test_a_quoted_text_is_printable_and_loses_nothing(text: str) -> None:
    quoted = go_quoted(text)
    assert quoted.isprintable()
    inner = quoted.removeprefix('"').removesuffix('"')
    # Python reads the same escapes; what is beyond them stays as it is.
    assert inner.encode("ascii", "backslashreplace").decode("unicode_escape") == text


SECOND = 1_000_000_000
DURATIONS = [
    (0, "0s"),
    (1, "1ns"),
    (-1, "-1ns"),
    (999, "999ns"),
    (1_000, "1µs"),
    (1_500, "1.5µs"),
    (1_001, "1.001µs"),
    (207_860_561, "207.860561ms"),
    (250_000_000, "250ms"),
    (999_999_999, "999.999999ms"),
    (SECOND, "1s"),
    (2 * SECOND, "2s"),
    (10 * SECOND, "10s"),
    (15_234_567_891, "15.234567891s"),
    (59_999_999_999, "59.999999999s"),
    (60 * SECOND, "1m0s"),
    (90 * SECOND, "1m30s"),
    (300 * SECOND, "5m0s"),
    (3_600 * SECOND, "1h0m0s"),
    (3_600 * SECOND + 1, "1h0m0.000000001s"),
    (86_400 * SECOND, "24h0m0s"),
    (-90 * SECOND - 500_000_000, "-1m30.5s"),
    (2**63 - 1, "2562047h47m16.854775807s"),
    (-(2**63), "-2562047h47m16.854775808s"),
]


@pytest.mark.parametrize(("duration_ns", "text"), DURATIONS)
def test_a_duration_is_written_and_read_as_go_does(duration_ns: int, text: str) -> None:
    assert duration_text(duration_ns) == text
    assert parse_duration_ns(text) == duration_ns


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**12), 10**12))
def test_every_duration_of_64_bits_comes_back(duration_ns: int) -> None:
    assert parse_duration_ns(duration_text(duration_ns)) == duration_ns


SPELLINGS = [
    ("0", 0),
    ("-0", 0),
    (".5s", SECOND // 2),
    ("1.s", SECOND),
    ("+1s", SECOND),
    ("-1.5h", -5_400 * SECOND),
    ("1us", 1_000),
    ("1µs", 1_000),
    ("1\u03bcs", 1_000),  # the Greek letter, which Go reads as well
    ("1m1m", 120 * SECOND),
    ("0.0000000001s", 0),
    ("1h1ms", 3_600 * SECOND + 1_000_000),
]


@pytest.mark.parametrize(("text", "duration_ns"), SPELLINGS)
def test_other_spellings_of_a_duration_are_read(text: str, duration_ns: int) -> None:
    assert parse_duration_ns(text) == duration_ns


NO_DURATIONS = [
    "",
    "-",
    "+",
    "5",
    "1d",
    " 1s",
    "1s ",
    "1s500",
    "1e3ms",
    ".s",
    "s",
    "--1s",
    "1.5.5s",
    "2562048h",
    "1S",
    "\u0663s",  # another script's digit
]


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_what_go_refuses_as_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 10s"):
        parse_duration_ns(text)


INSTANTS = [
    (0, "1970-01-01T00:00:00Z"),
    (1, "1970-01-01T00:00:00.000000001Z"),
    (-1, "1969-12-31T23:59:59.999999999Z"),
    (1_447_806_038_427_841_000, "2015-11-18T00:20:38.427841Z"),
    (1_795_422_850_519_993_802, "2026-11-23T08:34:10.519993802Z"),
    (1_795_422_850_500_000_000, "2026-11-23T08:34:10.5Z"),
    (253_402_300_799_999_999_999, "9999-12-31T23:59:59.999999999Z"),
]


@pytest.mark.parametrize(("time_ns", "text"), INSTANTS)
def test_an_instant_is_written_and_read_with_all_nanoseconds(time_ns: int, text: str) -> None:
    assert time_text(time_ns) == text
    assert parse_time_ns(text) == time_ns


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_instant_of_64_bits_comes_back(time_ns: int) -> None:
    assert parse_time_ns(time_text(time_ns)) == time_ns


def test_other_spellings_of_an_instant_are_read_and_the_zero_time_is_none() -> None:
    assert parse_time_ns(ZERO_TIME) is None
    for text in ("2015-11-18T01:20:38.5+01:00", "2015-11-17T19:50:38.5-04:30", "2015-11-18t00:20:38.500z"):
        assert parse_time_ns(text) == 1_447_806_038_500_000_000


NO_INSTANTS = [
    "",
    "now",
    "2015-11-18",
    "2015-11-18T00:20Z",
    "2015-13-18T00:20:38Z",
    "2015-11-18T25:20:38Z",
    "0000-01-01T00:00:00Z",
    "\u0662026-11-23T08:34:10Z",
    "2026-11-23T08:34:10+99:99",
    "9999-12-31T23:59:59-01:00",
]


@pytest.mark.parametrize("text", NO_INSTANTS)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time_ns(text)
