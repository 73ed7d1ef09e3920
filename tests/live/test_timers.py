"""Timers: sorted by time, one for each task, and nothing that was let go of comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskfold.live.timers import Timers

KEYS = st.sampled_from([(alloc, task) for alloc in "abc" for task in ("web", "db")])
CHANGES = st.one_of(
    st.tuples(st.just("set"), KEYS, st.integers(0, 20)),
    st.tuples(st.just("discard"), KEYS, st.just(0)),
    st.tuples(st.just("forget"), KEYS, st.just(0)),
    st.tuples(st.just("pop"), KEYS, st.integers(0, 20)),
)


@given(st.lists(CHANGES, max_size=60))
def test_what_is_due_is_what_a_scan_would_find(changes):
    timers = Timers()
    model: dict[tuple[str, str], tuple[int, int]] = {}
    for place, (what, key, time_ns) in enumerate(changes):
        if what == "set":
            timers.set(*key, time_ns)
            model[key] = time_ns, place
        elif what == "discard":
            timers.discard(*key)
            model.pop(key, None)
        elif what == "forget":
            timers.forget(key[0])
            model = {found: due for found, due in model.items() if found[0] != key[0]}
        else:
            due = sorted((at, set_at, found) for found, (at, set_at) in model.items() if at <= time_ns)
            assert [(found.alloc, found.task) for found in timers.pop(time_ns)] == [found for _, _, found in due]
            for _, _, found in due:
                del model[found]
        timers._check()
        assert {(found.alloc, found.task) for found in timers} == model.keys()
        assert len(timers) == len(model)
        assert timers.next_ns == min((at for at, _ in model.values()), default=None)
        assert timers.get(*key) == (model[key][0] if key in model else None)


def test_timers_that_are_set_again_and_again_do_not_pile_up():
    timers = Timers()
    timers.set_all([("a", "db", 10**9)])
    for time_ns in range(10_000):
        timers.set("a", "web", 10**6 + time_ns)

    assert len(timers._times) <= 1_025
    assert [(due.task, due.due_ns) for due in timers.pop(10**9)] == [("web", 10**6 + 9_999), ("db", 10**9)]


def test_timers_of_one_time_do_not_pile_up_either():
    timers = Timers()
    for _ in range(10_000):
        timers.set("a", "web", 7)

    timers._check()
    assert [(due.task, due.due_ns) for due in timers.pop(7)] == [("web", 7)]


def test_timers_that_are_dropped_do_not_pile_up():
    timers = Timers()
    for number in range(10_000):
        timers.set(f"a{number}", "web", 10**6 + number)
        timers.set(f"a{number}", "db", 10**6 + number)
    for number in range(9_000):
        timers.forget(f"a{number}")
    for number in range(9_000, 9_900):
        timers.discard(f"a{number}", "web")

    timers._check()
    assert len(timers) == 1_100
    assert timers._entry_count <= 2_200
    assert timers.next_ns == 10**6 + 9_000
