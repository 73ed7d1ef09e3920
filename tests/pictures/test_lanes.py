"""A lane has an interval for each state, says of each run how it ended, and has no hole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.lives import at, cluster, life
from taskfold import events
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.model.record import Finished, Gap, Observed, Updated
from taskfold.pictures.kinds import KINDS, MARKS, mark_of
from taskfold.pictures.lanes import lanes_of
from taskfold.testing import strategies

LIFECYCLE = lifecycle_of("1.1.2")
BEGIN = ((1, "web", events.Received()), (2, "web", events.Started()))


def kinds(*happenings, end=20):
    (lane,) = lanes_of("a", life("a", *happenings), LIFECYCLE, at(end)).lanes
    return [(KINDS[one.kind].name, (one.end_ns - one.start_ns) / 1e9) for one in lane.bars]


def test_a_task_is_pending_from_its_placement_on_and_runs_until_the_end_of_what_was_read():
    assert kinds(*BEGIN) == [("pending", 2), ("running", 18)]


@pytest.mark.parametrize(
    ("happenings", "kind"),
    [
        ([(5, "web", events.Terminated())], "done"),
        ([(5, "web", events.Terminated(exit_code=1))], "failed"),
        ([(5, "web", events.Terminated(signal=11))], "failed"),
        ([(5, "web", events.Terminated(exit_code=None))], "done"),
        ([(5, "web", events.Terminated(oom_killed=True))], "failed"),
        ([(4, "web", events.Killing()), (5, "web", events.Terminated(exit_code=143))], "killed"),
        ([(4, "web", events.RestartSignaled()), (5, "web", events.Terminated(exit_code=143))], "killed"),
        ([(4, "web", events.Killing()), (5, "web", events.Terminated(exit_code=137, oom_killed=True))], "failed"),
        # A leader is told to end when it has ended.
        ([(5, "web", events.Terminated()), (5, "web", events.Killing())], "done"),
    ],
)
def test_a_run_is_told_by_how_it_ended(happenings, kind):
    assert kinds(*BEGIN, *happenings, (5, "web", events.Restarting()))[:3] == [
        ("pending", 2),
        (kind, 3),
        ("delay", 15),
    ]


def test_a_restart_is_a_delay_until_the_next_start():
    ends = ((5, "web", events.Terminated(exit_code=1)), (5, "web", events.Restarting()), (9, "web", events.Started()))

    assert kinds(*BEGIN, *ends) == [("pending", 2), ("failed", 3), ("delay", 4), ("running", 11)]


def test_a_dead_task_is_dead_to_the_end_and_a_failed_one_is_told_apart():
    end = (5, "web", events.Terminated(exit_code=1))

    assert kinds(*BEGIN, end, (5, "web", events.NotRestarting()))[-1] == ("dead_failed", 15)
    assert kinds(*BEGIN, (5, "web", events.Terminated()), (6, "web", Finished()))[1:] == [("done", 4), ("dead", 14)]


def test_what_was_lost_is_an_interval_of_its_own_up_to_the_next_event():
    lost = ((5, "web", Gap(restarts_before=0, restarts_after=3)), (8, "web", events.Started()))

    assert kinds(*BEGIN, *lost) == [("pending", 2), ("running", 3), ("gap", 3), ("running", 12)]


def test_a_state_that_nobody_knows_is_a_gap():
    assert kinds((1, "web", Observed(state="")), (5, "web", events.Received())) == [
        ("pending", 1),
        ("gap", 4),
        ("pending", 15),
    ]


def test_what_begins_with_the_last_record_is_the_last_bar_though_it_has_no_length():
    assert kinds(*BEGIN, end=2) == [("pending", 2), ("running", 0)]


def test_times_that_go_back_make_no_interval_of_a_negative_length():
    assert kinds((5, "web", events.Received()), (3, "web", events.Started())) == [("pending", 5), ("running", 15)]


def test_an_allocation_has_what_its_fields_say_at_the_end():
    records = life("a", *BEGIN, (3, "", Updated(fields={"DesiredStatus": b'"stop"'})))

    one = lanes_of("a", records, LIFECYCLE, at(20))

    assert (one.job, one.group, one.node, one.client_status, one.desired_status) == (
        "example",
        "group",
        "node-1",
        "running",
        "stop",
    )
    assert one.start_ns == at(0)
    assert [MARKS[mark_of(record.event)].name for record in one.records] == ["event", "desired"]


@given(strategies.histories("1.1.2", max_size=30), st.integers(0, 50))
def test_lanes_have_no_hole_begin_with_the_first_record_and_end_at_the_end(history, more):
    records = history.records
    end_ns = max(record.time_ns for record in records) + more

    for lane in lanes_of(records[0].alloc, records, LIFECYCLE, end_ns).lanes:
        for one, other in zip(lane.bars, lane.bars[1:], strict=False):
            assert one.end_ns == other.start_ns
        assert all(one.start_ns < one.end_ns for one in lane.bars[:-1])
        assert lane.bars[-1].end_ns == end_ns
        assert lane.bars[-1].start_ns <= end_ns
        assert KINDS[lane.bars[-1].kind].state == lane.state


def test_a_cluster_has_the_tasks_and_the_intervals_that_were_asked_for():
    records: dict[str, list] = {}
    for record in cluster(7, 21):
        records.setdefault(record.alloc, []).append(record)

    lanes = [lane for alloc, each in records.items() for lane in lanes_of(alloc, each, LIFECYCLE, at(10**5)).lanes]

    assert len(lanes) == 7
    assert all(21 <= len(lane.bars) <= 22 for lane in lanes)
