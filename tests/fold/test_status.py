"""What a status means: every case of the vectors that no other test covers."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from support import recordings
from taskfold.events import NotRestarting, TaskEvent, Terminated
from taskfold.fold.allocation import client_status
from taskfold.fold.status import (
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
from taskfold.fold.task import TaskState
from taskfold.model.dialect import DIALECTS, Dialect

# Left out: `cases`, which test_task_state.py has; `precedence`, the same rule in words; and `overrides`, statuses that
# are told and do not follow from the tasks (one of them is of Nomad 2.0.3, which no dialect is).
CASES = recordings.vector("client_status")
SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS
NOW_NS = 10**18
UNITS = {"m": MINUTE_NS, "h": 60 * MINUTE_NS}


def instant(text: str | None) -> int | None:
    """Return the time of a text such as t1-2h."""
    if text is None:
        return None
    back = re.fullmatch(r"(?:t1|now)(?:-(\d+)([mh]))?", text)
    assert back is not None
    return NOW_NS - (int(back[1]) * UNITS[back[2]] if back[1] else 0)


def states_of(*values: str) -> list[AllocState]:
    """Return the entries of these statuses, given at second 1, at second 2, and so on."""
    states: list[AllocState] = []
    for second, value in enumerate(values, start=1):
        states = with_status(states, value, second * SECOND_NS)
    return states


@pytest.mark.parametrize("case", CASES["test_cases"], ids=lambda c: c["name"])
def test_a_group_ends_as_its_tasks_did(case: dict[str, Any]) -> None:
    tasks = [TaskState(state=told["State"], failed=told["Failed"]) for told in case["task_states"].values()]

    assert client_status(tasks) == case["expected"]["main_status"]


@pytest.mark.parametrize("case", CASES["terminal_matrix"], ids=lambda c: f"{c['DesiredStatus']}/{c['ClientStatus']}")
def test_an_allocation_is_terminal_by_its_servers_or_its_client(case: dict[str, Any]) -> None:
    desired, client = case["DesiredStatus"], case["ClientStatus"]

    assert is_server_terminal(desired) == case["ServerTerminal"]
    assert is_client_terminal(client) == case["ClientTerminal"]
    assert is_terminal(desired, client) == case["TerminalStatus"]


@pytest.mark.parametrize("case", CASES["terminated"], ids=lambda c: f"{c['DesiredStatus']}/{c['ClientStatus']}")
def test_an_allocation_has_terminated_when_its_client_says_so(case: dict[str, Any]) -> None:
    assert is_client_terminal(case["ClientStatus"]) == case["Terminated"]


@pytest.mark.parametrize("case", CASES["needs_to_reconnect"], ids=lambda c: c["name"])
def test_an_allocation_has_to_reconnect_when_it_was_last_unknown(case: dict[str, Any]) -> None:
    assert needs_to_reconnect(states_of(*case["AllocStates"] or ())) == case["expected"]


def test_an_empty_status_does_not_reconnect_an_allocation() -> None:
    assert needs_to_reconnect(states_of("unknown", ""))


@pytest.mark.parametrize(
    ("values", "second"),
    [
        ((), None),
        (("running",), None),
        (("unknown", "running", "unknown", "unknown"), 3),
        (("unknown", "unknown", "running"), 1),
        (("unknown", "", "unknown"), 3),
    ],
)
def test_an_unknown_status_began_with_the_first_of_its_newest_run(values: tuple[str, ...], second: int | None) -> None:
    assert last_unknown_ns(states_of(*values)) == (None if second is None else second * SECOND_NS)


def test_entries_that_are_not_of_the_client_status_do_not_count() -> None:
    other = AllocState(field=1, value="running", time="1970-01-01T00:00:02Z")
    first, second = states_of("unknown", "unknown")

    assert needs_to_reconnect([first, other])
    assert last_unknown_ns([first, other, second]) == SECOND_NS


def test_a_status_is_one_entry_more_in_the_words_of_the_wire() -> None:
    before = states_of("unknown")
    after = with_status(before, "running", 2 * SECOND_NS)

    assert len(before) == 1
    assert after[:1] == before
    assert msgspec.to_builtins(after[1]) == {"Field": 0, "Value": "running", "Time": "1970-01-01T00:00:02Z"}


@pytest.mark.parametrize("case", CASES["last_event_time"], ids=lambda c: c["name"])
def test_the_last_event_is_the_newest_end_or_else_the_last_write(case: dict[str, Any]) -> None:
    tasks = [TaskState(finished_at_ns=instant(told.get("FinishedAt"))) for told in (case["tasks"] or {}).values()]

    assert last_event_time_ns(tasks, NOW_NS) == instant(case["expected"])


@pytest.mark.parametrize("case", CASES["last_start_of_task"], ids=lambda c: c["name"])
def test_the_last_start_is_the_last_restart_or_else_the_first_start(case: dict[str, Any]) -> None:
    told = case["task"]
    task = told and TaskState(
        started_at_ns=instant(told["StartedAt"]),
        restarts=told["Restarts"],
        last_restart_ns=instant(told.get("LastRestart")),
    )
    expected = None if case["expected"] == "zero time" else instant(case["expected"])

    assert last_start_ns(task) == expected


@pytest.mark.parametrize("case", CASES["task_successful"], ids=lambda c: f"{c['state']}-{c['last_event']}")
def test_what_a_success_is_depends_on_the_client(case: dict[str, Any]) -> None:
    last = case["last_event"]
    events: tuple[TaskEvent, ...] = ()
    if last is not None:
        is_end = last["Type"] == "Terminated"
        signal = last.get("Signal", 0)
        events = (Terminated(exit_code=last["ExitCode"], signal=signal) if is_end else NotRestarting(),)
    task = TaskState(state=case["state"]["State"], failed=case["state"]["Failed"], events=events)

    assert is_successful(task, DIALECTS["0.5.6"]) == case["v056_successful"]
    assert is_successful(task, DIALECTS["1.1.2"]) == case["main_successful"]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_a_task_that_lives_is_not_successful_yet(dialect: Dialect) -> None:
    assert not is_successful(TaskState(state="running", events=(Terminated(exit_code=0),)), dialect)


def test_an_exit_code_that_nobody_knows_is_no_success() -> None:
    task = TaskState(state="dead", events=(Terminated(exit_code=None),))

    assert not is_successful(task, DIALECTS["0.5.6"])


def test_an_unknown_allocation_may_come_back() -> None:
    assert not is_terminal("run", "unknown")
    assert is_terminal("run", "complete")


def test_only_the_last_event_makes_a_success_of_the_old_client() -> None:
    failure, success = Terminated(exit_code=1), Terminated(exit_code=0)

    assert is_successful(TaskState(state="dead", events=(failure, success)), DIALECTS["0.5.6"])
    assert not is_successful(TaskState(state="dead", events=(success, failure)), DIALECTS["0.5.6"])


def test_a_restart_that_was_not_counted_is_no_start() -> None:
    assert last_start_ns(TaskState(started_at_ns=1, restarts=0, last_restart_ns=2)) == 1
