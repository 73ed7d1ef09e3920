"""The core: it decides and keeps what an engine does, from the same reports, and from the engine's records."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfold import Core, Engine, ManualClock, events, inputs
from taskfold.errors import IdConflict, IllegalEvent, UnknownAllocation
from taskfold.model.record import Write
from taskfold.testing import strategies as kit

SECOND = 1_000_000_000
ALLOCS = "a", "b"
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(ALLOCS), st.sampled_from(["web", "db"]), kit.inputs("1.1.2") | kit.inputs("0.5.6")),
        st.integers(0, 60).map(lambda seconds: seconds * SECOND),
    ),
    max_size=30,
)


def allocation(alloc: str) -> dict[str, Any]:
    return {"ID": alloc, "JobID": "job"}


def outcome_of(call: Any, *args: Any, **more: Any) -> object:
    try:
        return call(*args, **more)
    except Exception as error:  # noqa: BLE001 - it is compared
        return type(error), str(error)


@given(ACTIONS, st.integers(0, 99), st.sampled_from(["0.5.6", "1.1.2"]))
def test_a_core_decides_what_an_engine_decides_and_its_records_are_the_engines(
    actions: list[Any], seed: int, dialect: str
) -> None:
    clock = ManualClock(SECOND)
    engine, core, rng = Engine(dialect=dialect, clock=clock, seed=seed), Core(dialect), random.Random(seed)
    for alloc in ALLOCS:
        engine.place(allocation(alloc))
        core.place(allocation(alloc), time_ns=clock.time_ns())
    for action in actions:
        now_ns = clock.time_ns()
        if isinstance(action, int):
            clock.advance(action)
            now_ns = clock.time_ns()
            assert core.due(now_ns, rng=rng) == engine.due()
        else:
            assert outcome_of(core.report, *action, now_ns=now_ns, rng=rng) == outcome_of(engine.report, *action)
        assert core.next_due() == engine.next_due()

    records = list(engine.store.log.read_all())
    assert core.ready() == records
    assert (core.index, core.seq) == (engine.index, engine.reader.seq)

    again = Core(dialect)
    for record in records:
        again.apply([record])
    for alloc in ALLOCS:
        assert again.read(alloc) == core.read(alloc) == engine.reader.read(alloc)
        assert again.snapshot(alloc).to_json() == engine.snapshot(alloc).to_json()
    later_ns = clock.time_ns() + 3_600 * SECOND
    rngs = random.Random(seed), random.Random(seed)
    assert again.restore(later_ns, rng=rngs[0]) == Engine(engine.store.log, clock=clock, seed=seed).restore(later_ns)
    again._check()
    core._check()


def test_what_is_refused_changes_nothing() -> None:
    core = Core("1.1.2")
    core.place(allocation("a"), time_ns=SECOND)
    core.record("a", "web", events.Started(), time_ns=SECOND, id="once")
    before, seq = core.read("a"), core.seq

    with pytest.raises(IllegalEvent):
        core.record("a", "web", events.Started(), time_ns=SECOND)
    with pytest.raises(UnknownAllocation):
        core.report("b", "web", inputs.ProcessStarted(), now_ns=SECOND, rng=random.Random(1))
    with pytest.raises(IdConflict):
        core.record("a", "web", events.Terminated(), time_ns=SECOND, id="once")

    assert (core.read("a"), core.seq) == (before, seq)


def test_a_repeat_is_known_by_its_id_also_in_a_core_that_took_in_the_records() -> None:
    core, again, rng = Core("1.1.2"), Core("1.1.2"), random.Random(1)
    core.place(allocation("a"), time_ns=SECOND)
    core.report("a", "web", inputs.ProcessStarted(), now_ns=SECOND, rng=rng, id="s-1")
    again.apply(core.ready())

    step = again.report("a", "web", inputs.ProcessStarted(), now_ns=SECOND, rng=rng, id="s-1")

    assert (step.outcome, again.ready()) == ("repeated", [])


def test_what_is_ready_is_handed_over_once_and_in_order() -> None:
    core = Core("1.1.2")
    core.place(allocation("a"), time_ns=SECOND)
    writes = [Write(alloc="a", task=task, event=events.Received()) for task in ("web", "db")]
    core.append(writes, time_ns=SECOND)
    core.update("a", {"DesiredStatus": "stop"}, time_ns=2 * SECOND)

    assert [(record.seq, record.index, record.version) for record in core.ready()] == [
        (1, 1, 1),
        (2, 2, 2),
        (3, 2, 3),
        (4, 3, 4),
    ]
    assert core.ready() == []


def test_a_core_has_no_say_in_time_or_chance() -> None:
    steps = []
    for _ in range(2):
        core, rng = Core("1.1.2"), random.Random(7)
        core.place(allocation("a"), time_ns=SECOND)
        for one in (inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.Exited(exit_code=1)):
            step = core.report("a", "web", one, now_ns=SECOND, rng=rng)
        steps.append((step, core.ready()))
    assert steps[0] == steps[1]
