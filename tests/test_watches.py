"""Watches: everybody who waits is woken once, by the first change of what they wait for."""

from hypothesis import given
from hypothesis import strategies as st

from taskfold.watch import Waiter, Watches, wake

KEYS = st.sampled_from("abc")
KINDS = st.sampled_from(["allocation", "job", "any"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KINDS, KEYS),
        st.tuples(st.just("remove"), st.integers(0, 30), st.none()),
        st.tuples(st.just("take"), KEYS, KEYS),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 3))
def test_a_change_takes_those_who_wait_for_it_and_nobody_else(steps, limit):
    watches = Watches(waiters_per_key=limit)
    waiting: dict[Waiter, tuple[str, str]] = {}
    added: list[Waiter] = []
    for step, one, other in steps:
        if step == "add":
            waiter = Waiter(lambda: None)
            watches.add(waiter, one, other)
            assert waiter.place is not None
            # Beyond the limit of a key they wait for anything.
            waiting[waiter] = waiter.place
            added.append(waiter)
        elif step == "remove" and one < len(added):
            watches.remove(added[one])
            waiting.pop(added[one], None)
        elif step == "take":
            taken = watches.take(one, other)
            places = {("any", ""), ("allocation", one), ("job", other)}
            expected = {waiter for waiter, place in waiting.items() if place in places}
            assert set(taken) == expected
            assert len(taken) == len(expected)
            for waiter in expected:
                assert waiter.place is None
                del waiting[waiter]
        watches._check()
        assert len(watches) == len(waiting)


def test_a_key_has_a_limit_and_those_beyond_it_wait_for_anything():
    watches = Watches(waiters_per_key=2)
    woken = []
    for name in ("first", "second", "third"):
        watches.add(Waiter(lambda name=name: woken.append(name)), "allocation", "a")

    wake(watches.take("another", "job"))
    assert woken == ["third"]

    wake(watches.take("a", "job"))
    assert woken == ["third", "first", "second"]


def test_everybody_is_taken_at_the_end():
    watches = Watches()
    for kind in ("allocation", "job", "any"):
        watches.add(Waiter(lambda: None), kind, "x")

    assert len(watches.take_all()) == 3
    assert len(watches) == 0
    watches._check()
