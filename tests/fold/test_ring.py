"""The ring of a task's newest events is a list of which only the last ten are shown."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest

from taskfold.events import Received, Started, TaskEvent
from taskfold.fold.ring import EventRing
from taskfold.model.dialect import EVENTS_PER_TASK


def events(count: int, first: int = 0) -> list[TaskEvent]:
    """Return different events, in no order of time."""
    return [Started(time_ns=n * 7919 % 1009) for n in range(first, first + count)]


def ring_of(count: int) -> EventRing:
    """Return a ring that has seen so many events."""
    ring = EventRing()
    for event in events(count):
        ring.append(event)
    return ring


@pytest.mark.parametrize("count", range(35))
def test_the_ten_newest_are_shown_in_order_of_arrival(count: int) -> None:
    ring = ring_of(count)
    ring._check()
    shown = events(count)[-10:]
    assert ring.events() == tuple(shown)
    assert list(ring) == shown
    assert len(ring) == len(shown)
    assert ring.newest == (shown[-1] if shown else None)
    assert (ring.total, ring.dropped) == (count, max(count - 10, 0))


def test_the_capacity_is_nomads() -> None:
    assert EVENTS_PER_TASK == 10


def test_equal_events_are_all_kept() -> None:
    ring, event = EventRing(), Received(time_ns=1)
    for _ in range(3):
        ring.append(event)
    assert ring.events() == (event,) * 3


@pytest.mark.parametrize("count", [0, 3, 10, 17])
def test_what_was_read_and_what_was_copied_never_changes(count: int) -> None:
    ring = ring_of(count)
    twin, read, kept = ring.copy(), ring.events(), copy.deepcopy(ring.events())
    for event in events(13, first=100):
        ring.append(event)
    assert read == kept == twin.events()
    twin.append(Received())
    assert ring.newest != Received()
    twin._check()
    ring._check()


@pytest.mark.parametrize("count", [0, 3, 10, 17])
def test_a_cleared_ring_shows_nothing_and_remembers_how_many_there_were(count: int) -> None:
    ring = ring_of(count)
    ring.clear()
    ring._check()
    assert (ring.events(), ring.newest, ring.total, ring.dropped) == ((), None, count, count)
    ring.append(Received())
    ring._check()
    assert (ring.events(), ring.total, ring.dropped) == ((Received(),), count + 1, count)


@pytest.mark.parametrize("count", [0, 1, 9, 10])
def test_a_ring_is_made_again_from_what_it_shows(count: int) -> None:
    shown = tuple(events(count))
    ring = EventRing.of(shown, 50)
    ring._check()
    assert (ring.events(), ring.total, ring.dropped) == (shown, 50, 50 - count)
    ring.append(Received())
    assert ring.events() == (*shown, Received())[-10:]


class Model:
    """The same as a plain list."""

    def __init__(self) -> None:
        self.shown: list[TaskEvent] = []
        self.total = 0


def append(ring: EventRing, model: Model, chance: random.Random) -> EventRing:
    event = Started(time_ns=chance.randrange(5))
    ring.append(event)
    model.shown = [*model.shown, event][-10:]
    model.total += 1
    return ring


def clear(ring: EventRing, model: Model, _: random.Random) -> EventRing:
    ring.clear()
    model.shown = []
    return ring


def make_again(ring: EventRing, _: Model, __: random.Random) -> EventRing:
    return EventRing.of(ring.events(), ring.total)


def go_on_with_a_copy(ring: EventRing, _: Model, chance: random.Random) -> EventRing:
    twin = ring.copy()
    for _ in range(chance.randrange(12)):
        ring.append(Received())  # the ring that was left must not reach its copy
    return twin


Action = Callable[[EventRing, Model, random.Random], EventRing]
ACTIONS: dict[Action, int] = {append: 40, clear: 1, make_again: 3, go_on_with_a_copy: 3}
"""What is done, and how often."""


@pytest.mark.parametrize("seed", range(10))
def test_stress(seed: int) -> None:
    chance, ring, model = random.Random(seed), EventRing(), Model()
    for action in chance.choices(list(ACTIONS), list(ACTIONS.values()), k=1_000):
        ring = action(ring, model, chance)
        ring._check()
        assert list(ring) == model.shown, action.__name__
        assert (ring.total, ring.dropped) == (model.total, model.total - len(model.shown))
        assert ring.newest == (model.shown[-1] if model.shown else None)
    assert model.total > 500


BROKEN = [
    ("more events than the capacity", {"slots": tuple(events(11)), "total": 11}),
    ("fewer events ever than are shown", {"slots": tuple(events(3)), "total": 2}),
    ("something that is no task event", {"slots": ("Started",), "total": 1}),
]


@pytest.mark.parametrize(("message", "broken"), BROKEN)
def test_a_broken_ring_is_noticed_and_printed(message: str, broken: dict) -> None:
    ring = EventRing(**broken)
    with pytest.raises(AssertionError, match=message) as caught:
        ring._check()
    assert repr(ring) in caught.value.__notes__
