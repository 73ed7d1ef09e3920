"""The state of a task: every field after every record, as Nomad's own code and tests have it, and pure folding."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import recordings
from taskfold import events as ev
from taskfold.errors import IllegalEvent
from taskfold.events import EVENT_TYPES, TaskEvent
from taskfold.fold.allocation import CLIENT_DESCRIPTIONS, client_status
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.fold.task import Task, TaskState, apply, evolve
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import Decided, Event, Finished, Gap, Observed, Placed, Record, Updated
from taskfold.nomad.events import event_from_object
from taskfold.testing import strategies as kit

SECOND = 1_000_000_000
DIALECT_OF = {"v0.5.6": "0.5.6", "main": "1.1.2"}
# "group_cases_v056" tells what a group does when one of its tasks dies, which a single task's state cannot show.
CASES = recordings.vector("task_state")["cases"]
STATUS_CASES = recordings.vector("client_status")["cases"]


def record_of(event: Event, time_ns: int) -> Record:
    return Record(index=1, alloc="a", version=1, task="web", time_ns=time_ns, event=event)


def event_of(cls: type[TaskEvent], time_ns: int = 0, *, fails: bool = False) -> TaskEvent:
    """Return an event that fails its task or not: some types have a field for it, others keep what the wire said."""
    if "fails_task" in cls.__struct_fields__:
        return cls(time_ns=time_ns, fails_task=fails)
    return cls(time_ns=time_ns, extras=ev.Extras(fields={"FailsTask": True}) if fails else None)


def nanoseconds(second: int | None) -> int | None:
    return None if second is None else second * SECOND


def fold_of(dialect: str, *events: Event) -> TaskState:
    """Return the state after these events, the first at second 1, the next at second 2, and so on."""
    state = TaskState()
    for second, event in enumerate(events, start=1):
        state = evolve(state, record_of(event, second * SECOND), lifecycle_of(dialect))
    return state


# --- Nomad's own cases ------------------------------------------------------------------------------------------------


def given_event(step: dict) -> Event:
    """Return the event of a step; a state that is given without an event can only be the end."""
    if step["event"] is None:
        assert step["state"] == "dead"
        return Finished()
    return event_from_object({"Time": step["at"] * SECOND} | step["event"])


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case['applies']}: {case['name']}") for case in CASES])
def test_the_conformance_cases_of_task_states(case: dict) -> None:
    lifecycle = lifecycle_of(DIALECT_OF[case["applies"]])
    task = Task()
    for step in case["steps"]:
        apply(task, record_of(given_event(step), step["at"] * SECOND), lifecycle)
        if step["state"]:
            assert task.state == step["state"], step
    expected, found = case["expected"], task.freeze()
    assert found.state == expected["State"]
    assert found.failed is expected["Failed"]
    assert found.started_at_ns == nanoseconds(expected["StartedAt_at"])
    assert found.finished_at_ns == nanoseconds(expected["FinishedAt_at"])
    assert [ev.wire_type(event) for event in found.events] == expected["events"]
    assert len(found.events) == expected["event_count"]
    if case["applies"] == "main":
        assert found.restarts == expected["Restarts"]
        assert found.last_restart_ns == expected["LastRestart_ns"]
    assert found.irregular == 0


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case["task_states"])) for case in STATUS_CASES])
def test_the_conformance_cases_of_the_client_status(case: dict) -> None:
    expected = case["expected"]
    states = [TaskState(state=told["State"], failed=told["Failed"]) for told in case["task_states"].values()]
    status = client_status(states)
    # Without tasks nothing follows: None. There 0.5.6 leaves what the server said, and newer versions say "".
    assert expected["v056_status"] == ("(unchanged: server value)" if status is None else status)
    assert expected["main_status"] == (status or "")
    assert expected["main_description"] == CLIENT_DESCRIPTIONS.get(status or "", "")
    assert client_status(reversed(states)) == status


# --- the rules of the fields ------------------------------------------------------------------------------------------

STARTED = (ev.Received(), ev.Started())
FAILS = ev.NotRestarting()

FINISHED_AT = [
    # dialect, events (one a second), FinishedAt in seconds, why
    ("0.5.6", [*STARTED, Finished()], 3, "it ran"),
    ("1.1.2", [*STARTED, Finished()], 3, "it ran"),
    ("0.5.0", [*STARTED, Finished()], 3, "kept although this dialect does not show it"),
    ("0.5.6", [*STARTED, FAILS, Finished()], 4, "every update to dead moves it"),
    ("1.1.2", [*STARTED, FAILS, Finished()], 3, "the first one stays"),
    ("0.5.6", [ev.Received(), FAILS, Finished()], None, "it never ran"),
    ("1.1.2", [ev.Received(), FAILS, Finished()], 2, "although it never ran"),
    ("0.5.6", [ev.Received(), ev.Killed(), ev.Killed()], None, "it never ran"),
    ("0.5.6", [*STARTED, Finished(), ev.Killed()], 4, "a repeat on a dead task moves it, too"),
    ("1.1.2", [*STARTED, Finished(), ev.Killing()], 3, "a late note does not move it"),
    ("1.1.2", [*STARTED, Finished(), ev.Restarting(), ev.Started(), Finished()], 3, "it stays over another life"),
    ("0.5.6", [*STARTED, ev.Restarting(), ev.Killing()], 4, "it ran once, and was ended before it ran again"),
    ("0.5.6", [*STARTED, Finished(finished_at_ns=9 * SECOND)], 9, "what was observed counts"),
    ("1.1.2", [*STARTED, Finished(finished_at_ns=9 * SECOND)], 9, "what was observed counts"),
    ("1.1.2", [*STARTED, Finished(dies=False, finished_at_ns=9 * SECOND)], 9, "without dying"),
]


@pytest.mark.parametrize(("dialect", "events", "second", "why"), FINISHED_AT)
def test_finished_at_by_dialect(dialect: str, events: list[Event], second: int | None, why: str) -> None:
    assert fold_of(dialect, *events).finished_at_ns == nanoseconds(second), why


def test_finished_without_dying_moves_times_only() -> None:
    before = fold_of("1.1.2", *STARTED)
    after = fold_of("1.1.2", *STARTED, Finished(dies=False, started_at_ns=1, finished_at_ns=2, last_restart_ns=3))
    assert after == msgspec.structs.replace(before, started_at_ns=1, finished_at_ns=2, last_restart_ns=3)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_started_at_moves_only_when_the_state_moves_to_running(dialect: str) -> None:
    assert fold_of(dialect, *STARTED).started_at_ns == 2 * SECOND
    assert fold_of(dialect, *STARTED, ev.Terminated(), ev.Killing(), ev.Killed()).started_at_ns == 2 * SECOND
    assert fold_of(dialect, *STARTED, ev.Restarting()).started_at_ns == 2 * SECOND
    assert fold_of(dialect, *STARTED, ev.Restarting(), ev.Started()).started_at_ns == 4 * SECOND
    assert fold_of(dialect, *STARTED, Finished()).started_at_ns == 2 * SECOND


def test_a_driver_message_hides_a_running_task_in_0_5_6_only() -> None:
    old = fold_of("0.5.6", *STARTED, ev.Driver(driver_message="pulling"))
    new = fold_of("1.1.2", *STARTED, ev.Driver(driver_message="pulling"))
    documented = fold_of("0.5.0", *STARTED, ev.Driver(driver_message="pulling"))
    assert (old.state, new.state, documented.state) == ("pending", "running", "running")
    assert old.started_at_ns == 2 * SECOND
    assert fold_of("0.5.6", *STARTED, ev.Driver(), ev.Signaling()).started_at_ns == 4 * SECOND


@pytest.mark.parametrize("dialect", DIALECTS)
def test_failed_is_set_by_any_event_that_says_so_and_never_reset(dialect: str) -> None:
    assert not fold_of(dialect, *STARTED, ev.Killing()).failed
    assert fold_of(dialect, *STARTED, ev.Killing(fails_task=True)).failed
    assert fold_of(dialect, *STARTED, ev.Killing(fails_task=True), ev.Restarting(), ev.Started()).failed
    assert not fold_of(dialect, *STARTED, ev.NotRestarting(fails_task=False)).failed
    assert fold_of(dialect, event_of(ev.UnknownEvent, fails=True)).failed
    assert fold_of(dialect, *STARTED, event_of(ev.Terminated, fails=True)).failed


@pytest.mark.parametrize("dialect", DIALECTS)
def test_restarts_count_and_last_restart_is_the_time_of_the_event(dialect: str) -> None:
    state = fold_of(dialect, *STARTED, ev.Restarting(time_ns=42), ev.Started())
    assert (state.restarts, state.last_restart_ns) == (1, 42)
    again = fold_of(dialect, *STARTED, ev.Restarting(time_ns=42), ev.Started(), ev.Restarting(time_ns=41))
    assert (again.restarts, again.last_restart_ns) == (2, 41)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_counts_come_from_the_whole_history(dialect: str) -> None:
    lifecycle, task = lifecycle_of(dialect), Task()
    apply(task, record_of(ev.Received(), 0), lifecycle)
    for n in range(1_000):
        for event in (ev.Started(time_ns=n), ev.Terminated(exit_code=1, time_ns=n), ev.Restarting(time_ns=n)):
            apply(task, record_of(event, n), lifecycle)
    state = task.freeze()
    assert state.counts == {"Received": 1, "Started": 1_000, "Terminated": 1_000, "Restarting": 1_000}
    assert (state.restarts, state.events_total, state.events_dropped) == (1_000, 3_001, 2_991)
    assert [event.time_ns for event in state.events] == [996, 997, 997, 997, 998, 998, 998, 999, 999, 999]


# --- what the wire never shows ----------------------------------------------------------------------------------------


def test_an_older_copy_is_shown_until_the_next_event_and_the_history_goes_on() -> None:
    older = (ev.Received(),)
    seen = fold_of("0.5.6", *STARTED, Observed(state="pending", older_events=older))
    assert (seen.state, seen.events, seen.newest_events) == ("pending", older, STARTED)
    assert (seen.events_total, seen.events_dropped) == (2, 0)
    back = fold_of("0.5.6", *STARTED, Observed(older_events=older), Observed(older_events=None))
    assert (back.events, back.newest_events) == (STARTED, None)
    after = fold_of("0.5.6", *STARTED, Observed(older_events=older), ev.Terminated())
    assert (after.events, after.newest_events) == ((*STARTED, ev.Terminated()), None)
    unknown = fold_of("0.5.6", *STARTED, Observed(older_events=older), ev.UnknownEvent())
    assert (unknown.events, unknown.newest_events) == ((*STARTED, ev.UnknownEvent()), None)


OBSERVATIONS = [
    {"state": "dead"},
    {"state": ""},
    {"failed": True},
    {"restarts": 7},
    {"last_restart_ns": 8},
    {"started_at_ns": None},
    {"finished_at_ns": 9},
    {"hidden": True},
]


@pytest.mark.parametrize("fields", OBSERVATIONS, ids=str)
def test_an_observation_sets_what_it_tells_and_nothing_else(fields: dict) -> None:
    before = fold_of("1.1.2", *STARTED)
    assert fold_of("1.1.2", *STARTED, Observed(**fields)) == msgspec.structs.replace(before, **fields)
    assert fold_of("1.1.2", *STARTED, Observed(**fields), Observed()) == msgspec.structs.replace(before, **fields)


def test_what_decisions_remember_stays_until_they_remember_something_else() -> None:
    memory = Decided(window_start_ns=3, window_count=2)
    assert fold_of("1.1.2", ev.Received(), memory, ev.Started()).memory is memory
    assert fold_of("1.1.2", ev.Received(), memory, ev.Started(), Decided()).memory == Decided()


def test_a_gap_anchors_the_fold_anew_and_keeps_the_counts() -> None:
    gap = Gap(state="running", failed=True, restarts=7, last_restart_ns=1, started_at_ns=2, finished_at_ns=None)
    state = fold_of("1.1.2", *STARTED, gap, ev.Terminated())
    assert state == TaskState(
        state="running",
        failed=True,
        restarts=7,
        last_restart_ns=1,
        started_at_ns=2,
        events=(ev.Terminated(),),
        events_total=3,
        packed_counts=state.packed_counts,
    )
    assert state.counts == {"Received": 1, "Started": 1, "Terminated": 1}


def test_a_task_created_anew_is_fresh_but_for_its_counts() -> None:
    fields = {"TaskHandle": msgspec.Raw(b'{"ID":1}')}
    lived = (*STARTED, Updated(fields=fields), event_of(ev.Restarting, fails=True), Decided(window_count=1), Finished())
    shown = Observed(hidden=True, older_events=(ev.Received(),))
    state = fold_of("1.1.2", *lived, shown, Placed())
    assert state == TaskState(events_total=3, packed_counts=state.packed_counts)
    assert state.counts == {"Received": 1, "Started": 1, "Restarting": 1}


def test_other_fields_of_a_task_are_kept_and_cleared() -> None:
    said = {"TaskHandle": msgspec.Raw(b'{"ID":1}'), "Paused": msgspec.Raw(b'"force_run"')}
    assert fold_of("1.1.2", Updated(fields=said)).fields == {"TaskHandle": b'{"ID":1}', "Paused": b'"force_run"'}
    cleared = fold_of("1.1.2", Updated(fields=said), Updated(cleared=("Paused", "Never")))
    assert cleared.fields == {"TaskHandle": b'{"ID":1}'}


def test_a_state_goes_on_by_its_name_whichever_object_says_it() -> None:
    running = TaskState(state=msgspec.json.decode(b'"running"'), started_at_ns=1)
    assert evolve(running, record_of(ev.Killing(), 5), lifecycle_of("1.1.2")).started_at_ns == 1
    for cls in (Observed, Gap):
        task = Task()
        apply(task, record_of(cls(state=running.state, started_at_ns=1), 5), lifecycle_of("1.1.2"))
        apply(task, record_of(ev.Killing(), 6), lifecycle_of("1.1.2"))
        assert (task.state, task.started_at_ns) == ("running", 1)


def test_a_task_without_a_state_has_none_until_an_event_moves_it() -> None:
    assert evolve(TaskState(state=""), record_of(Observed(failed=True), 5), lifecycle_of("1.1.2")).state == ""
    assert evolve(TaskState(state=""), record_of(ev.Started(), 5), lifecycle_of("1.1.2")).state == "running"


def test_a_text_that_events_say_again_is_one_object() -> None:
    said = [ev.Driver(driver_message=msgspec.json.decode(b'"pulling the image"')) for _ in range(3)]
    events = fold_of("1.1.2", ev.Received(), *said).events[1:]
    assert [event.driver_message for event in events] == ["pulling the image"] * 3
    assert len({id(event.driver_message) for event in events}) == 1


def test_what_few_tasks_have_takes_no_room_in_the_others() -> None:
    assert Task.thaw(TaskState(state="running", restarts=3)).rest is None
    assert Task.thaw(TaskState(irregular=1)).rest is not None


# --- any history ------------------------------------------------------------------------------------------------------

TIMES = st.integers(0, 30)
TYPES = [*(row.cls for row in EVENT_TYPES), ev.UnknownEvent]
TASK_EVENTS = kit.events(types=TYPES, nasty=True) | st.sampled_from(TYPES).map(lambda cls: event_of(cls, fails=True))
INTERNAL = kit.internal_events(types=[Observed, Finished, Gap, Placed, Updated])
# Mostly events of a plain life, so that legal runs are long.
LIFE = kit.events(types=[ev.Received, ev.Started, ev.Terminated, ev.Restarting, ev.Killing])
HISTORIES = st.lists(st.tuples(LIFE | LIFE | TASK_EVENTS | INTERNAL, TIMES), max_size=40)


@given(st.sampled_from(list(DIALECTS)), HISTORIES, st.sampled_from(["raise", "keep"]))
def test_evolve_is_pure_and_does_what_apply_does(
    dialect: str, history: Sequence[tuple[Event, int]], on_illegal: str
) -> None:
    lifecycle, task, state = lifecycle_of(dialect), Task(), TaskState()
    handed_out: list[tuple[TaskState, TaskState]] = []
    for event, time_ns in history:
        record, before = record_of(event, time_ns), copy.deepcopy(state)
        try:
            after = evolve(state, record, lifecycle, on_illegal)
        except IllegalEvent:
            after = state
            with pytest.raises(IllegalEvent):
                apply(task, record, lifecycle, on_illegal)
        else:
            apply(task, record, lifecycle, on_illegal)
        assert state == before
        assert task.freeze() == after
        task._check()
        handed_out.append((after, copy.deepcopy(after)))
        state = after
    assert all(snapshot == as_it_was for snapshot, as_it_was in handed_out)


@given(st.sampled_from(list(DIALECTS)), HISTORIES)
def test_ring_and_counts_are_those_of_a_plain_list(dialect: str, history: Sequence[tuple[Event, int]]) -> None:
    lifecycle, task = lifecycle_of(dialect), Task()
    ever: list[TaskEvent] = []
    visible: list[TaskEvent] = []
    failed, irregular = False, 0
    for event, time_ns in history:
        is_illegal = isinstance(event, TaskEvent) and not lifecycle.may(task.state, event)
        irregular += is_illegal
        state_before = task.state
        apply(task, record_of(event, time_ns), lifecycle, "keep")
        if isinstance(event, TaskEvent):
            ever.append(event)
            visible.append(event)
            failed = failed or event.fails_task
            assert not is_illegal or task.state == state_before
        elif isinstance(event, Gap | Placed):
            visible.clear()
            failed = isinstance(event, Gap) and event.failed
        elif isinstance(event, Observed) and event.failed is not msgspec.UNSET:
            failed = event.failed
    state = task.freeze()
    assert (state.events if state.newest_events is None else state.newest_events) == tuple(visible[-10:])
    assert state.events_total == len(ever)
    assert state.events_dropped == len(ever) - len(visible[-10:])
    assert state.counts == Counter(str(type(event).__struct_config__.tag) for event in ever)
    assert (state.failed, state.irregular) == (failed, irregular)
