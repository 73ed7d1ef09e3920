"""Courses: the intervals of a task are its fold's states in order, and each death has the reason that fits its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import recordings
from support.deciding import NEW, OLD, Story
from taskfold import Death, Interval, deaths, inputs, intervals, replay
from taskfold import events as ev
from taskfold.fold.allocation import Fold
from taskfold.fold.course import REASONS, CourseFold, DeathReason
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import Event, Finished, Gap, Observed, Placed, Record, Updated
from taskfold.testing import strategies

STATES = ("", "pending", "running", "dead")
LOST = Updated(fields={"ClientStatus": msgspec.Raw(b'"lost"')})
STOP = Updated(fields={"DesiredStatus": msgspec.Raw(b'"stop"')})


def _task_of(event: Event, task: str) -> str:
    return "" if isinstance(event, Updated) else task


def records_of(*events: Event, task: str = "web") -> list[Record]:
    """Return a record of each event, the first at second 1; updates are of the allocation."""
    return [
        Record(
            seq=n,
            index=n,
            alloc="a",
            version=n,
            task="" if isinstance(event, Updated) else task,
            time_ns=n,
            event=event,
        )
        for n, event in enumerate(events, start=1)
    ]


def death_of(*events: Event, dialect: str = NEW) -> Death:
    """Return the only death that these events tell."""
    (death,) = deaths(records_of(*events), dialect)
    return death


# --- why it died ------------------------------------------------------------------------------------------------------

RUN = (ev.Received(), ev.Started())
FAILURE = ev.Terminated(exit_code=1)
KILLS = (ev.Killing(), ev.Terminated(exit_code=143, signal=15), ev.Killed(), Finished())


@pytest.mark.parametrize(
    ("reason", "events"),
    [
        ("not-restarting", (*RUN, FAILURE, ev.NotRestarting())),
        ("not-restarting", (ev.Received(), ev.DriverFailure(), ev.NotRestarting())),
        ("driver-failure", (ev.Received(), ev.DriverFailure(), Finished())),
        ("setup-failure", (ev.Received(), ev.SetupFailure(fails_task=True), Finished())),
        ("validation-failure", (ev.Received(), ev.FailedValidation(), Finished())),
        ("out-of-memory", (*RUN, ev.Terminated(exit_code=137, oom_killed=True), Finished())),
        ("exit-code", (*RUN, FAILURE, Finished())),
        ("exit-code", (*RUN, ev.Terminated(exit_code=None), Finished())),
        ("exit-code", (*RUN, ev.Terminated(signal=9), Finished())),
        ("exit-code", (*RUN, ev.Terminated(message="the driver lost it"), Finished())),
        ("sibling", (*RUN, ev.SiblingTaskFailed(failed_sibling="db"), *KILLS)),
        ("leader", (*RUN, ev.LeaderTaskDead(), *KILLS)),
        ("main-tasks", (*RUN, ev.MainTasksDead(), *KILLS)),
        ("stop", (*RUN, STOP, *KILLS)),
        ("kill", (*RUN, *KILLS)),
        ("kill", (ev.Received(), ev.Killing(), Finished())),
        ("lost-node", (*RUN, LOST)),
        ("success", (*RUN, ev.Terminated(), Finished())),
        ("gap", (Gap(state="dead"),)),
        ("gap", (*RUN, Gap(state="dead"))),
        ("gap", (*RUN, Observed(state="dead"))),
        ("none", (*RUN, Finished())),
    ],
)
def test_a_death_has_the_first_reason_that_applies(reason: str, events: Sequence[Event]) -> None:
    assert death_of(*events).reason == reason


def test_every_reason_has_a_sentence_in_the_order_in_which_it_applies() -> None:
    assert tuple(REASONS) == get_args(DeathReason)


def test_what_a_task_does_when_others_have_ended_it_is_no_reason() -> None:
    killed = death_of(*RUN, ev.Killing(), ev.Terminated(exit_code=137, oom_killed=True), ev.Killed(), Finished())

    assert (killed.reason, killed.exit_code, killed.oom_killed) == ("kill", 137, True)


@pytest.mark.parametrize(("exit_code", "reason"), [(1, "exit-code"), (0, "success")])
def test_an_end_before_a_kill_stays_the_reason(exit_code: int, reason: str) -> None:
    exited = ev.Terminated(exit_code=exit_code)

    assert death_of(*RUN, exited, ev.LeaderTaskDead(), ev.Killing(), ev.Killed(), Finished()).reason == reason


def test_the_death_of_another_task_goes_before_a_kill_that_came_first() -> None:
    death = death_of(*RUN, ev.Killing(), ev.SiblingTaskFailed(failed_sibling="db"), ev.Killed(), Finished())

    assert death.reason == "sibling"
    assert death.event == ev.SiblingTaskFailed(failed_sibling="db")


@pytest.mark.parametrize("new_attempt", [ev.Restarting(), Placed(), Gap()])
def test_what_came_before_the_last_attempt_is_no_reason(new_attempt: Event) -> None:
    death = death_of(*RUN, ev.Terminated(exit_code=3, signal=9), new_attempt, ev.Started(), Finished())

    assert (death.reason, death.exit_code, death.signal) == ("none", None, 0)


def test_a_process_that_was_started_after_all_forgets_why_it_was_not() -> None:
    assert death_of(ev.Received(), ev.DriverFailure(), ev.Started(), Finished()).reason == "none"


def test_a_task_that_is_started_while_it_is_killed_died_of_the_kill() -> None:
    assert death_of(ev.Received(), ev.Killing(), ev.Started(), FAILURE, Finished()).reason == "kill"


def test_a_death_tells_the_end_of_the_last_process_and_which_restart_it_was() -> None:
    first = (*RUN, FAILURE, ev.Restarting())
    death = death_of(*first, ev.Started(), ev.Terminated(exit_code=137, signal=9), ev.NotRestarting())

    assert death == Death(
        alloc="a",
        task="web",
        time_ns=7,
        index=7,
        seq=7,
        reason="not-restarting",
        event=ev.NotRestarting(),
        failed=True,
        exit_code=137,
        signal=9,
        ran_ns=1,
        restarts=1,
    )


@pytest.mark.parametrize(
    ("events", "is_intended"),
    [
        ((*RUN, ev.Terminated(), Finished()), True),
        ((*RUN, STOP, *KILLS), True),
        ((*RUN, *KILLS), True),
        ((*RUN, ev.Killing(fails_task=True), Finished()), False),
        ((*RUN, ev.SiblingTaskFailed(), *KILLS), False),
        ((*RUN, FAILURE, ev.NotRestarting()), False),
        ((*RUN, LOST), False),
        ((Gap(state="dead"),), False),
    ],
)
def test_an_end_is_intended_where_somebody_wanted_it_and_nothing_failed(
    events: Sequence[Event], is_intended: bool
) -> None:
    assert death_of(*events).is_intended is is_intended


def test_a_process_ran_until_it_ended_and_not_until_its_task_was_dead() -> None:
    delayed = (*RUN, ev.Killing(), ev.WaitingForShutdownDelay(), ev.Terminated(), ev.Killed(), Finished())

    assert death_of(*delayed).ran_ns == 3
    assert death_of(*RUN, Finished()).ran_ns == 1
    assert death_of(ev.Received(), Finished()).ran_ns is None
    assert death_of(*RUN, FAILURE, ev.Restarting(), ev.Killing(), Finished()).ran_ns is None


def test_a_task_of_a_lost_node_dies_once() -> None:
    came_back = (*RUN, LOST, LOST, *KILLS)

    death = death_of(*came_back)
    assert (death.reason, death.index, death.event) == ("lost-node", 3, LOST)


def test_a_lost_node_is_no_death_of_a_dead_task() -> None:
    assert death_of(*RUN, FAILURE, Finished(), LOST).reason == "exit-code"


def test_a_task_that_is_started_again_dies_again() -> None:
    dead = (*RUN, FAILURE, ev.NotRestarting())
    again = (ev.Restarting(), ev.Started(), ev.Terminated(), Finished())

    assert [each.reason for each in deaths(records_of(*dead, *again), NEW)] == ["not-restarting", "success"]
    started_anew = deaths(records_of(*dead, ev.Started(), ev.Terminated(), Finished()), NEW)
    assert [each.reason for each in started_anew] == ["not-restarting", "success"]


def test_late_notes_on_a_dead_task_are_no_death() -> None:
    assert death_of(*RUN, FAILURE, ev.NotRestarting(), ev.Killing(), Finished()).reason == "not-restarting"


def test_a_time_that_nobody_told_is_none() -> None:
    (record,) = records_of(Finished())
    (death,) = deaths([msgspec.structs.replace(record, time_ns=0)], NEW)

    assert death.time_ns is None


@pytest.mark.parametrize("dialect", [OLD, NEW])
def test_what_was_decided_for_siblings_tells_who_died_of_what(dialect: str) -> None:
    story = Story("web", "db", dialect=dialect, policy={"Attempts": 0, "Mode": "fail"})
    story.run("web", "db")
    story.say(inputs.Exited(exit_code=7), "web")
    story.say(inputs.Exited(exit_code=143, signal=15), "db")

    found = {death.task: death for death in deaths(story.engine.history("a"), dialect)}
    assert {task: death.reason for task, death in found.items()} == {"web": "not-restarting", "db": "sibling"}
    assert found["web"].exit_code == 7


# --- the intervals ----------------------------------------------------------------------------------------------------


def test_an_interval_lasts_as_long_as_its_state() -> None:
    records = records_of(*RUN, ev.Terminated(), ev.Restarting(start_delay_ns=2), ev.Driver(), ev.Driver(), ev.Started())

    shown = [(i.state, i.since_ns, i.until_ns, i.began_with, i.ended_with, i.delay_ns) for i in intervals(records, NEW)]
    assert shown == [
        ("pending", 1, 2, "Received", "Started", 0),
        ("running", 2, 4, "Started", "Restarting", 0),
        ("pending", 4, 7, "Restarting", "Started", 2),
        ("running", 7, None, "Started", None, 0),
    ]


def test_an_open_interval_has_no_end() -> None:
    (interval,) = intervals(records_of(ev.Received()), NEW)

    assert interval.is_open
    assert (interval.until_ns, interval.until_index, interval.until_seq, interval.duration_ns) == (None,) * 4


@pytest.mark.parametrize(
    ("events", "delay_ns"),
    [
        ((ev.Restarting(start_delay_ns=10), ev.Started()), 1),
        ((ev.Restarting(start_delay_ns=10),), 10),
        ((ev.Restarting(start_delay_ns=10), ev.DriverFailure(), ev.Restarting(start_delay_ns=10)), 12),
        ((ev.Restarting(start_delay_ns=1), ev.DriverFailure(), ev.Restarting(start_delay_ns=10), ev.Started()), 2),
        ((ev.Restarting(), ev.Started()), 0),
    ],
)
def test_a_delay_lasts_at_most_until_the_next_start(events: Sequence[Event], delay_ns: int) -> None:
    (waiting,) = (i for i in intervals(records_of(*RUN, FAILURE, *events), NEW) if i.began_with == "Restarting")

    assert waiting.delay_ns == delay_ns


def test_a_gap_is_counted_where_events_were_lost() -> None:
    found = intervals(records_of(*RUN, Gap(state="running"), Gap(state="dead"), Gap(state="dead")), NEW)

    assert [(each.state, each.gaps) for each in found] == [("pending", 0), ("running", 1), ("dead", 2)]


def test_times_that_go_back_make_no_negative_duration() -> None:
    first, second, third = records_of(ev.Received(), ev.Started(), Finished())
    found = list(intervals([first, msgspec.structs.replace(second, time_ns=-1), third], NEW))

    assert [each.duration_ns for each in found] == [0, 4, None]


def check(records: Sequence[Record], dialect: str) -> Counter[str]:
    """Check the courses of all tasks beside the fold, record by record; return the reasons of their deaths."""
    fold, course = Fold(dialect, on_illegal="keep"), CourseFold(dialect)
    happenings: list[Interval | Death] = []
    closed: dict[tuple[str, str], list[Interval]] = {}
    reasons: Counter[str] = Counter()
    for record in records:
        known = fold.allocations.get(record.alloc)
        before = known.tasks[record.task].state if known and record.task in known.tasks else None
        fold.apply(record)
        for each in course.apply(record):
            happenings.append(each)
            if isinstance(each, Death):
                reasons[each.reason] += 1
                assert (each.time_ns or 0, each.index, each.seq) == (record.time_ns, record.index, record.seq)
                continue
            assert each.state == before
            assert each.ended_with == ev.wire_type(record.event)
            closed.setdefault((each.alloc, each.task), []).append(each)
        if record.task:
            now = course.open_interval(record.alloc, record.task)
            assert now is not None
            assert now.state == fold.owned(record.alloc).tasks[record.task].state
    at_once = CourseFold(dialect)
    assert at_once.apply_all(records) == happenings
    only_deaths = CourseFold(dialect).apply_all(records, with_intervals=False)
    assert only_deaths == [each for each in happenings if isinstance(each, Death)]
    assert all(at_once.fold[alloc] == course.fold[alloc] == fold[alloc] for alloc in fold)
    open_ones = list(course.open_intervals())
    assert {(i.alloc, i.task) for i in open_ones} == {(a, t) for a in fold for t in fold[a].tasks}
    for each in open_ones:
        check_contiguous([*closed.get((each.alloc, each.task), []), each])
    everyone = [*chain.from_iterable(closed.values()), *open_ones]
    assert Counter(map(str, intervals(records, dialect))) == Counter(map(str, everyone))
    return reasons


def check_contiguous(course: Sequence[Interval]) -> None:
    assert [each.is_open for each in course] == [False] * (len(course) - 1) + [True]
    for one, other in pairwise(course):
        assert one.state != other.state
        assert (one.until_ns, one.until_index, one.until_seq) == (other.since_ns, other.since_index, other.since_seq)
        assert one.ended_with == other.began_with
        assert one.delay_ns <= (one.duration_ns or 0)
        assert one.delay_ns == 0 or one.state == "pending"


@given(strategies.histories(tasks=2, legal=False) | strategies.histories(tasks=2))
def test_the_course_of_a_history_is_the_fold_of_it_at_every_record(history: Any) -> None:
    check(history.records, history.dialect)


times = st.none() | st.integers(0, 50)
any_event = st.one_of(
    st.sampled_from([*RUN, *KILLS, FAILURE, LOST, STOP, ev.Restarting(start_delay_ns=9), Placed(), Finished()]),
    st.builds(Gap, state=st.sampled_from(STATES), started_at_ns=times),
    st.builds(Observed, state=st.just(msgspec.UNSET) | st.sampled_from(STATES)),
)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("tu"), any_event, st.integers(0, 60)), max_size=40),
    st.sampled_from(list(DIALECTS)),
)
def test_the_course_of_any_records_is_the_fold_of_them(lines: list[tuple[str, str, Event, int]], dialect: str) -> None:
    versions: Counter[str] = Counter()
    records = []
    for seq, (alloc, task, event, time_ns) in enumerate(lines, start=1):
        versions[alloc] += 1
        records.append(
            Record(
                seq=seq,
                index=seq,
                alloc=alloc,
                version=versions[alloc],
                task=_task_of(event, task),
                time_ns=time_ns,
                event=event,
            )
        )
    check(records, dialect)


@pytest.mark.parametrize("scenario", recordings.scenarios("1.1.2"), ids=str)
def test_the_course_of_every_recorded_stream_is_its_fold(scenario: recordings.Scenario) -> None:
    reading = replay(scenario.path / "stream.ndjson.gz")
    records = list(reading)

    check(records, reading.dialect or "")


RECORDED = {
    ("stop", False): 35,
    ("not-restarting", True): 33,
    ("success", False): 35,
    ("sibling", False): 6,
    ("main-tasks", False): 4,
    ("leader", False): 2,
    ("lost-node", False): 1,
    ("kill", True): 1,
}
"""How many deaths of the recorded streams have each reason, and were a failure to Nomad."""


def test_every_recorded_death_has_a_reason_that_its_last_event_seldom_tells() -> None:
    found, last_events = Counter[tuple[str, bool]](), Counter[str]()
    for scenario in recordings.scenarios("1.1.2"):
        reading = replay(scenario.path / "stream.ndjson.gz")
        records = list(reading)
        last = {(each.alloc, each.task): each.event for each in records if isinstance(each.event, ev.TaskEvent)}
        for death in deaths(records, reading.dialect or ""):
            found[death.reason, death.failed] += 1
            last_events[ev.wire_type(last[death.alloc, death.task])] += death.failed

    assert found == RECORDED
    assert last_events["Not Restarting"] < found["not-restarting", True]
