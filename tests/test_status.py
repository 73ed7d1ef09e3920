"""What a status means: every case of the vectors that no other test covers."""

from __future__ import annotations

import re

import pytest

import recordings
from taskfold.dialect import DIALECTS
from taskfold.events import NotRestarting, Terminated
from taskfold.status import (
    AllocState,
    is_client_terminal,
    is_server_terminal,
    is_successful,
    is_terminal,
    last_event_time_ns,
    last_start_ns,
    last_unknown_ns,
    needs_to_reconnect,
    with_status,
)
from taskfold.task import TaskState

# `cases` and `test_cases` are of the client status itself: test_task_state.py has them.
CASES = recordings.vector("client_status")
MINUTE_NS = 60 * 10**9
NOW_NS = 10**18
UNITS = {"m": MINUTE_NS, "h": 60 * MINUTE_NS}


def instant(text: str | None) -> int | None:
    """Return the time of a text such as t1-2h."""
    if text is None:
        return None
    back = re.fullmatch(r"(?:t1|now)(?:-(\d+)([mh]))?", text)
    assert back is not None
    return NOW_NS - (int(back[1]) * UNITS[back[2]] if back[1] else 0)


@pytest.mark.parametrize("case", CASES["terminal_matrix"], ids=lambda c: f"{c['DesiredStatus']}/{c['ClientStatus']}")
def test_an_allocation_is_terminal_by_its_servers_or_its_client(case):
    desired, client = case["DesiredStatus"], case["ClientStatus"]

    assert is_server_terminal(desired) == case["ServerTerminal"]
    assert is_client_terminal(client) == case["ClientTerminal"]
    assert is_terminal(desired, client) == case["TerminalStatus"]


@pytest.mark.parametrize("case", CASES["terminated"], ids=lambda c: f"{c['DesiredStatus']}/{c['ClientStatus']}")
def test_an_allocation_has_terminated_when_its_client_says_so(case):
    assert is_client_terminal(case["ClientStatus"]) == case["Terminated"]


@pytest.mark.parametrize("case", CASES["needs_to_reconnect"], ids=lambda c: c["name"])
def test_an_allocation_has_to_reconnect_when_it_was_last_unknown(case):
    states: list[AllocState] = []
    for place, value in enumerate(case["AllocStates"] or ()):
        states = with_status(states, value, place)

    assert needs_to_reconnect(states) == case["expected"]


def test_an_unknown_status_began_with_the_first_of_its_run():
    states: list[AllocState] = []
    for place, value in enumerate(["unknown", "running", "unknown", "", "unknown"], start=1):
        states = with_status(states, value, place * 10**9)

    assert last_unknown_ns(states) == 3 * 10**9
    assert last_unknown_ns([]) is None
    assert last_unknown_ns(with_status(states, "running", 9 * 10**9)) == 3 * 10**9


@pytest.mark.parametrize("case", CASES["last_event_time"], ids=lambda c: c["name"])
def test_the_last_event_is_the_newest_end_or_else_the_last_write(case):
    tasks = [TaskState(finished_at_ns=instant(told.get("FinishedAt"))) for told in (case["tasks"] or {}).values()]

    assert last_event_time_ns(tasks, NOW_NS) == instant(case["expected"])


@pytest.mark.parametrize("case", CASES["last_start_of_task"], ids=lambda c: c["name"])
def test_the_last_start_is_the_last_restart_or_else_the_first_start(case):
    told = case["task"]
    task = told and TaskState(
        started_at_ns=instant(told["StartedAt"]),
        restarts=told["Restarts"],
        last_restart_ns=instant(told.get("LastRestart")),
    )
    expected = None if case["expected"] == "zero time" else instant(case["expected"])

    assert last_start_ns(task) == expected


@pytest.mark.parametrize("case", CASES["task_successful"], ids=lambda c: f"{c['state']}-{c['last_event']}")
def test_what_a_success_is_depends_on_the_client(case):
    last = case["last_event"]
    events = ()
    if last is not None:
        is_end = last["Type"] == "Terminated"
        signal = last.get("Signal", 0)
        events = (Terminated(exit_code=last["ExitCode"], signal=signal) if is_end else NotRestarting(),)
    task = TaskState(state=case["state"]["State"], failed=case["state"]["Failed"], events=events)

    assert is_successful(task, DIALECTS["0.5.6"]) == case["v056_successful"]
    assert is_successful(task, DIALECTS["1.1.2"]) == case["main_successful"]


def test_a_task_that_lives_is_not_successful_yet():
    assert not is_successful(TaskState(state="running"), DIALECTS["1.1.2"])
