"""Watches: everybody who waits is woken once, by the first change of what they wait for."""

from hypothesis import given
from hypothesis import strategies as st

from taskfold.live.waiters import Waiter, Watches

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
    woken: list[int] = []
    for step, one, other in steps:
        if step == "add":
            number = len(added)
            waiter = Waiter(lambda number=number: woken.append(number))
            watches.add(waiter, one, other)
            assert waiter.place is not None
            # Beyond the limit of a key they wait for anything.
            waiting[waiter] = waiter.place
            added.append(waiter)
        elif step == "remove" and one < len(added):
            watches.remove(added[one])
            waiting.pop(added[one], None)
        elif step == "take":
            woken.clear()
            watches.take(one, other)
            watches.wake()
            places = {("any", ""), ("allocation", one), ("job", other)}
            expected = {waiter for waiter, place in waiting.items() if place in places}
            assert set(woken) == {added.index(waiter) for waiter in expected}
            assert len(woken) == len(expected)
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

    watches.take("another", "job")
    watches.wake()
    assert woken == ["third"]

    watches.take("a", "job")
    watches.wake()
    assert woken == ["third", "first", "second"]


def test_everybody_is_taken_at_the_end():
    watches, woken = Watches(), list[str]()
    for kind in ("allocation", "job", "any"):
        watches.add(Waiter(lambda kind=kind: woken.append(kind)), kind, "x")

    watches.take_all()
    watches.wake()
    assert sorted(woken) == ["allocation", "any", "job"]
    assert len(watches) == 0
    watches._check()
