"""Rings of ten events: which events are the same, and what is new in a ring after another."""

from __future__ import annotations

import pytest

from taskfold.events import Extras, Received, Restarting, Started, TaskEvent, Terminated
from taskfold.nomad.importing.rings import Growth, compare, is_whole, same_events

FLOAT_NS = 2**60
"""A time that a float holds; of the next ones it makes the same."""


def ring(*times_ns: int, kind: type[TaskEvent] = Started) -> tuple[TaskEvent, ...]:
    """Return events at these times."""
    return tuple(kind(time_ns=time_ns) for time_ns in times_ns)


def with_extras(**parts: object) -> tuple[TaskEvent, ...]:
    """Return a ring of one event with these extras."""
    return (Started(time_ns=1, extras=Extras(**parts)),)


# --- the same events ---


@pytest.mark.parametrize(
    "other",
    [
        ring(1),
        with_extras(),
        with_extras(details={}),
        with_extras(details=None),
        with_extras(details={"signal": ""}),
        with_extras(display_message=""),
        with_extras(display_message=None),
        with_extras(display_message="Task started by client"),
        with_extras(fields={"New": "text"}),
        with_extras(fields={"DiskLimit": ""}),
    ],
)
def test_what_tells_nothing_makes_no_other_event(other):
    assert same_events(ring(1), other)
    assert same_events(other, ring(1))
    assert compare(ring(1), other, None) == Growth("grown", ())


@pytest.mark.parametrize(
    "other",
    [
        ring(2),
        ring(1, kind=Received),
        ring(1, 1),
        (),
        with_extras(details={"signal": "SIGHUP"}),
        with_extras(display_message="other"),
    ],
)
def test_what_tells_something_else_is_another_event(other):
    assert not same_events(ring(1), other)
    assert not same_events(other, ring(1))


def test_details_that_follow_from_the_event_tell_nothing():
    plain = (Terminated(time_ns=1, exit_code=7),)
    told = (
        Terminated(
            time_ns=1, exit_code=7, extras=Extras(details={"exit_code": "7", "signal": "0", "oom_killed": "false"})
        ),
    )

    assert same_events(plain, told)


def test_a_time_is_the_float_next_to_it():
    assert float(FLOAT_NS) == float(FLOAT_NS + 100)
    assert same_events(ring(FLOAT_NS), ring(FLOAT_NS + 100))
    assert not same_events(ring(FLOAT_NS), ring(FLOAT_NS + 1000))
    assert not same_events(ring(FLOAT_NS), ring(FLOAT_NS, FLOAT_NS + 100))
    assert compare(ring(FLOAT_NS), ring(FLOAT_NS + 100, FLOAT_NS + 5000), None) == Growth(
        "grown", ring(FLOAT_NS + 5000)
    )


# --- what is new ---


@pytest.mark.parametrize(
    ("old", "new", "growth"),
    [
        ((), (), Growth("grown", ())),
        ((), ring(1), Growth("grown", ring(1))),
        (ring(1), ring(1), Growth("grown", ())),
        (ring(1), ring(1, 2), Growth("grown", ring(2))),
        (ring(1, 1), ring(1, 1, 1), Growth("grown", ring(1))),
        (ring(*range(10)), ring(*range(1, 11)), Growth("grown", ring(10))),
        (ring(*range(10)), ring(*range(9, 19)), Growth("grown", ring(*range(10, 19)))),
        (ring(*range(9)), ring(*range(1, 11)), Growth("grown", ring(9, 10))),
        # A full ring without any that was known has lost some.
        (ring(*range(10)), ring(*range(10, 20)), Growth("gap", ring(*range(10, 20)))),
        ((), ring(*range(10)), Growth("gap", ring(*range(10)))),
        # One that is not full has lost none, so that it is of a task created anew, or its beginning is lost.
        (ring(1, 2), ring(2, 3), Growth("gap", ring(2, 3))),
        (ring(1, 2), (*ring(5, kind=Received), *ring(6)), Growth("anew", (*ring(5, kind=Received), *ring(6)))),
        (
            ring(*range(10)),
            (*ring(50, kind=Received), *ring(*range(51, 60))),
            Growth("gap", (*ring(50, kind=Received), *ring(*range(51, 60)))),
        ),
    ],
)
def test_what_is_new_in_a_ring_follows_from_the_greatest_overlap(old, new, growth):
    assert compare(old, new, None) == growth


def test_the_overlap_agrees_with_restarts():
    old, again = ring(*range(10), kind=Restarting), ring(*[5] * 10, kind=Restarting)

    assert compare(again, again, 0) == Growth("grown", ())
    assert compare(again, again, 3) == Growth("grown", again[:3])
    assert compare(again, again, 9) == Growth("grown", again[:9])
    # More than a ring holds: something is lost, but nothing new is visible.
    assert compare(again, again, 10) == Growth("grown", ())
    assert compare(ring(1), ring(1, 2), 1) == Growth("gap", ring(1, 2))
    assert compare(old, (*old[1:], *ring(10)), 1) == Growth("gap", (*old[1:], *ring(10)))
    assert compare(ring(1), (*ring(1), *ring(2, kind=Restarting)), 1) == Growth("grown", ring(2, kind=Restarting))


@pytest.mark.parametrize(
    ("old", "new", "dropped", "kind"),
    [
        # The beginning of what is known, of which nothing was dropped.
        (ring(1, 2, 3), ring(1, 2), 0, "rolled back"),
        (ring(1, 2, 3), ring(1), 0, "rolled back"),
        (ring(1, 2, 3), (), 0, "rolled back"),
        (ring(1, 2, 3), ring(2), 0, "gap"),
        # One that is not full begins with the first event of all.
        (ring(*range(5, 15)), ring(*range(3, 12)), 2, "rolled back"),
        (ring(*range(5, 15)), ring(*range(3, 12)), 1, "gap"),
        (ring(*range(5, 15)), ring(*range(3, 12)), 3, "gap"),
        # A full one may have dropped some, too.
        (ring(*range(5, 15)), ring(*range(3, 13)), 2, "rolled back"),
        (ring(*range(5, 15)), ring(*range(3, 13)), 3, "rolled back"),
        (ring(*range(5, 15)), ring(*range(3, 13)), 1, "gap"),
        (ring(*range(5, 15)), ring(*range(4, 14)), 1, "rolled back"),
        # Without an overlap the times decide, if so many were dropped.
        (ring(*range(20, 30)), ring(1, 2), 2, "rolled back"),
        (ring(*range(20, 30)), ring(1, 20), 2, "rolled back"),
        (ring(*range(20, 30)), ring(1, 21), 2, "gap"),
        (ring(*range(20, 30)), ring(1, 2), 1, "gap"),
        (ring(*range(20, 30)), ring(*range(10)), 10, "rolled back"),
        ((), ring(*range(10)), 10, "gap"),
    ],
)
def test_an_older_copy_shows_what_was_known_before(old, new, dropped, kind):
    growth = compare(old, new, None, dropped)

    assert growth == Growth(kind, new)
    assert dropped or compare(old, new, None) == growth


@pytest.mark.parametrize(
    ("events", "is_it"),
    [
        ((), True),
        (ring(1), False),
        (ring(1, kind=Received), True),
        ((*ring(1, kind=Received), *ring(*range(8))), True),
        ((*ring(1, kind=Received), *ring(*range(9))), False),
        ((*ring(1), *ring(2, kind=Received)), False),
    ],
)
def test_a_first_ring_is_whole_if_it_begins_with_received_and_is_not_full(events, is_it):
    assert is_whole(events) == is_it
