"""Summaries: what tasks went through within a time, against times and counts that were made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import recordings
from taskfold import events as ev
from taskfold import intervals, replay
from taskfold.fold.allocation import Fold
from taskfold.model.record import Event, Finished, Gap, Observed, Placed, Record, Updated
from taskfold.sources.summary import Flapping, GroupKey, Summaries, TaskSummary, grouped, summaries_of
from taskfold.testing import strategies

LOST = Updated(fields={"ClientStatus": msgspec.Raw(b'"lost"')})
STOP = Updated(fields={"DesiredStatus": msgspec.Raw(b'"stop"')})


def placed(alloc: str, **fields: str) -> Placed:
    return Placed(body=msgspec.Raw(json.dumps({"ID": alloc, "JobID": "job", "TaskGroup": "group"} | fields).encode()))


def records_of(*events: tuple[int, Event], alloc: str = "a", **fields: str) -> list[Record]:
    """Return the records of the task web of an allocation, each at its second."""
    first = Record(index=1, alloc=alloc, version=1, time_ns=events[0][0], event=placed(alloc, **fields))
    return [
        first,
        *(
            Record(
                index=n,
                alloc=alloc,
                version=n,
                task="" if isinstance(event, Updated) else "web",
                time_ns=second,
                event=event if isinstance(event, (Updated, Finished, Gap, Observed)) else at(event, second),
            )
            for n, (second, event) in enumerate(events, start=2)
        ),
    ]


def at(event: Any, second: int) -> Any:
    return msgspec.structs.replace(event, time_ns=second)


def summary_of(*events: tuple[int, Event], **options: Any) -> TaskSummary:
    """Return the summary of a task with these events, each at its second."""
    (summary,) = summaries(records_of(*events), **options)
    return summary


def summaries(records: list[Record], **options: Any) -> list[TaskSummary]:
    reading = Summaries("1.1.2", **options)
    reading.apply_all(records)
    return list(reading.of_tasks())


FLAPS = (
    (10, ev.Received()),
    (20, ev.Started()),
    (30, ev.Terminated(exit_code=3, signal=9)),
    (30, ev.Restarting(start_delay_ns=10)),
    (40, ev.Started()),
    (70, ev.Terminated(exit_code=4)),
    (70, ev.NotRestarting()),
    (100, ev.AllocUnhealthy()),
)


def test_a_summary_has_the_times_in_each_state_and_why_the_task_died() -> None:
    assert summary_of(*FLAPS) == TaskSummary(
        alloc="a",
        task="web",
        job="job",
        group="group",
        namespace=None,
        node=None,
        status="failed",
        state="dead",
        failed=True,
        restarts=1,
        deaths=1,
        pending_ns=20,
        running_ns=40,
        dead_ns=30,
        availability=40 / 90,
        reason="not-restarting",
        message="its restart policy gave it up: Task exceeded restart policy",
        exit_code=4,
        signal=None,
        last_seen_ns=100,
        gaps=0,
        down_ns=30,
    )


@pytest.mark.parametrize(
    ("since", "until", "times", "restarts", "deaths"),
    [
        (None, None, (20, 40, 30), 1, 1),
        (0, 200, (20, 40, 130), 1, 1),
        (25, None, (10, 35, 30), 1, 1),
        (30, None, (10, 30, 30), 1, 1),
        (31, None, (9, 30, 30), 0, 1),
        (75, None, (0, 0, 25), 0, 0),
    ],
)
def test_only_what_is_within_the_time_is_counted(
    since: int | None, until: int | None, times: tuple[int, int, int], restarts: int, deaths: int
) -> None:
    summary = summary_of(*FLAPS, since_ns=since, until_ns=until)

    assert (summary.pending_ns, summary.running_ns, summary.dead_ns) == times
    assert (summary.restarts, summary.deaths) == (restarts, deaths)


def test_a_task_that_was_over_before_the_time_has_no_summary() -> None:
    assert summaries(records_of(*FLAPS), since_ns=101) == []
    lost = ((10, ev.Received()), (20, ev.Started()), (30, LOST))
    assert summaries(records_of(*lost), since_ns=40, until_ns=50) == []
    running = ((10, ev.Received()), (20, ev.Started()))
    assert [each.running_ns for each in summaries(records_of(*running), since_ns=40, until_ns=50)] == [10]


@pytest.mark.parametrize(
    ("end", "availability"),
    [
        (((60, ev.Terminated()), (60, Finished())), 40 / 50),
        (((50, STOP), (60, ev.Killing()), (60, Finished())), 40 / 50),
        (((60, ev.SiblingTaskFailed()), (60, ev.Killing()), (60, Finished())), 40 / 90),
        (((60, Gap(state="dead")),), 40 / 90),
        ((), 80 / 90),
    ],
)
def test_the_time_after_an_end_that_was_intended_lowers_no_availability(
    end: tuple[tuple[int, Event], ...], availability: float
) -> None:
    summary = summary_of((10, ev.Received()), (20, ev.Started()), *end, until_ns=100)

    assert summary.availability == availability


def test_a_task_that_was_not_to_run_has_no_availability() -> None:
    assert summary_of((10, Gap(state="dead")), (10, ev.Driver())).availability is None


def test_a_task_of_a_lost_node_is_down_from_the_loss_on() -> None:
    summary = summary_of((10, ev.Received()), (20, ev.Started()), (50, LOST), until_ns=100)

    assert (summary.state, summary.running_ns, summary.dead_ns, summary.down_ns) == ("running", 30, 50, 50)
    assert (summary.reason, summary.status) == ("lost-node", "lost")

    came_back = ((60, ev.Killing()), (80, ev.Terminated(exit_code=143)), (80, Finished()))
    later = summary_of((10, ev.Received()), (20, ev.Started()), (50, LOST), *came_back, until_ns=100)
    assert (later.running_ns, later.dead_ns, later.deaths, later.reason) == (30, 50, 1, "lost-node")


def test_a_task_that_is_missing_from_the_task_states_has_no_summary() -> None:
    assert summaries(records_of((10, ev.Received()), (20, Observed(hidden=True)))) == []


def test_gaps_are_counted_and_restarts_in_them_where_no_time_is_asked_for() -> None:
    events = ((10, ev.Received()), (20, Gap(state="running", restarts=5)), (30, ev.Driver()))

    assert (summary_of(*events).gaps, summary_of(*events).restarts) == (1, 5)
    assert summary_of(*events, since_ns=1).restarts == 0


def restarts_at(*seconds: int) -> list[Record]:
    return records_of((0, ev.Started()), *((second, ev.Restarting()) for second in seconds))


@pytest.mark.parametrize(
    ("seconds", "flapping", "flaps"),
    [
        ((1, 2, 3), Flapping(3, 2), True),
        ((1, 2, 4), Flapping(3, 2), False),
        ((1, 2, 9, 10, 11), Flapping(3, 2), True),
        ((1, 3, 5, 7, 9, 11), Flapping(3, 3), False),
        ((1,), Flapping(1, 0), True),
        ((), Flapping(1, 100), False),
    ],
)
def test_a_task_flaps_when_it_was_started_again_so_often_within_so_long(
    seconds: tuple[int, ...], flapping: Flapping, *, flaps: bool
) -> None:
    assert bool(summaries(restarts_at(*seconds), flapping=flapping)) is flaps


def test_restarts_before_the_time_make_no_task_flap() -> None:
    assert summaries(restarts_at(1, 2, 3), flapping=Flapping(3, 10), since_ns=2) == []


@given(st.lists(st.integers(0, 30), max_size=12).map(sorted), st.integers(1, 4), st.integers(0, 10))
def test_flapping_is_what_counting_every_window_says(seconds: list[int], restarts: int, within: int) -> None:
    expected = any(sum(begin <= s <= begin + within for s in seconds) >= restarts for begin in seconds)

    assert bool(summaries(restarts_at(*seconds), flapping=Flapping(restarts, within))) is expected


@given(strategies.histories(tasks=2, legal=False), st.integers(0, 20), st.integers(0, 20))
def test_the_times_of_a_summary_are_those_of_the_intervals(history: Any, first: int, last: int) -> None:
    times = sorted({record.time_ns for record in history.records})
    since, until = sorted((times[min(first, len(times) - 1)], times[min(last, len(times) - 1)]))
    reading = Summaries(history.dialect, since_ns=since, until_ns=until)
    reading.apply_all(list(history.records))

    expected: dict[str, dict[str, int]] = {}
    for each in intervals(history.records, history.dialect):
        spans = expected.setdefault(each.task, dict.fromkeys(("", "pending", "running", "dead"), 0))
        span = min(until if each.until_ns is None else each.until_ns, until) - max(each.since_ns or 0, since)
        spans[each.state] += max(span, 0)
    for summary in reading.of_tasks():
        shown = (summary.pending_ns, summary.running_ns, summary.dead_ns)
        assert shown == tuple(expected[summary.task][state] for state in ("pending", "running", "dead"))


KEYS: dict[GroupKey, list[str]] = {"job": ["job", "other"], "node": ["n1", "n2"], "group": ["job / group", "other / g"]}


@pytest.mark.parametrize("key", KEYS)
def test_tasks_are_summed_up_by_what_they_belong_to(key: GroupKey) -> None:
    records = [
        *records_of(*FLAPS, alloc="a", NodeID="n1"),
        *records_of(*FLAPS[:-2], alloc="b", NodeID="n1"),
        *records_of(*FLAPS, alloc="c", NodeID="n2", JobID="other", TaskGroup="g"),
    ]
    first, second = grouped(summaries(records), key)

    assert [first.name, second.name] == KEYS[key]
    assert (first.allocations, first.tasks, first.restarts, first.deaths, first.failed) == (2, 2, 2, 1, 1)
    assert (first.pending_ns, first.running_ns, first.dead_ns) == (40, 110, 30)
    assert first.availability == 110 / 180
    assert (first.reasons, second.reasons, first.last_seen_ns) == ("not-restarting 1", "not-restarting 1", 100)


def test_a_fold_of_summaries_is_the_fold_of_the_records() -> None:
    for scenario in recordings.scenarios("1.1.2")[:5]:
        path = scenario.path / "stream.ndjson.gz"
        fold = Fold("1.1.2", on_illegal="keep")
        fold.apply_all(replay(path))
        summed = summaries_of(replay(path)).fold

        assert {alloc: summed[alloc] for alloc in summed} == {alloc: fold[alloc] for alloc in fold}


@pytest.mark.parametrize("at", [None, 900, "2026-11-23T08:28:10Z"])
def test_a_source_is_summed_up_at_any_point(at: int | str | None) -> None:
    path = recordings.RECORDINGS / "1.1.2" / "service_ring_fast_raw" / "stream.ndjson.gz"
    reading = summaries_of(replay(path, at=at))

    expected = replay(path, at=at).fold()

    assert [(alloc, reading.fold[alloc]) for alloc in reading.fold] == [(alloc, expected[alloc]) for alloc in expected]


def test_callbacks_choose_the_tasks() -> None:
    nobody: Callable[[str, str], bool] = lambda _alloc, task: task != "web"  # noqa: E731
    reading = Summaries("1.1.2")
    reading.apply_all(records_of(*FLAPS))

    assert list(reading.of_tasks(nobody)) == []
