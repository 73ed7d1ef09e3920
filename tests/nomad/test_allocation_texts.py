"""An allocation that is read again and again is written as one that is read once."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from support import recordings
from support.any_values import MIRRORING, WRITING, begin, clock
from taskfold import Engine, MemoryLog, events, observation_from_json
from taskfold.errors import TaskfoldError
from taskfold.fold.allocation import AllocationState
from taskfold.fold.task import TaskState
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import Updated, Write
from taskfold.nomad import snapshot
from taskfold.nomad.snapshot import AllocationTexts, Snapshot
from taskfold.testing import strategies as kit

PLENTY = 1 << 20


def check_same(texts: AllocationTexts, state: AllocationState) -> None:
    """Check that a state is written as its plain snapshot, however often it is asked for."""
    plain = Snapshot.of(state, texts.dialect)
    for _ in range(3):
        snapshot = texts.snapshot(state)
        assert texts.body(state) == snapshot.to_json() == plain.to_json()
        assert texts.stream_body(state) == snapshot.to_stream_json() == plain.to_stream_json()
    assert snapshot == plain
    assert repr(snapshot) == repr(plain)
    assert snapshot.to_stub_json() == plain.to_stub_json()
    for dialect in DIALECTS:
        assert snapshot.to_json(dialect) == plain.to_json(dialect)


def check_engine(engine: Engine, texts: AllocationTexts) -> None:
    """Check it of every allocation of an engine."""
    for state in engine.allocations().states():
        check_same(texts, state)
        assert engine.snapshot(state.id).to_json() == texts.body(state)
    assert texts.size <= texts._cache.limit_bytes


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.one_of(WRITING, MIRRORING), st.sampled_from(sorted(DIALECTS)), st.sampled_from([PLENTY, 3_000, 0]))
def test_after_any_writes_it_is_written_as_its_plain_snapshot(
    calls: list[Callable[[Engine], object]], dialect: str, limit_bytes: int
) -> None:
    engine = Engine(dialect=dialect, clock=clock())
    texts = AllocationTexts(DIALECTS[dialect], limit_bytes)
    begin(engine)
    for call in calls:
        try:
            call(engine)
        except TaskfoldError:
            continue
        check_engine(engine, texts)


ODD = st.sampled_from(
    ["", "plain", "%b %d", '"\\', "\u2028\u2029", "é\U0001f600", "\0", "\0ModifyIndex\0", "</script>"]
)
TOLD = st.one_of(
    kit.events("1.1.2"),
    kit.events("1.1.2", [events.Driver, events.Terminated, events.Restarting, events.Started], nasty=True),
    st.just(Updated(fields={"TaskHandle": b'{"Driver":"docker"}'})),
    st.just(Updated(cleared=("TaskHandle",))),
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "ClientStatus": st.sampled_from(["lost", "running", ""]),
        "ClientDescription": ODD | st.none(),
        "DesiredStatus": st.sampled_from(["run", "stop"]),
        "JobID": ODD,
        "ModifyTime": st.integers(0, 2) | st.none(),
        "Odd": ODD | st.none(),
    },
)


@given(
    st.lists(st.tuples(st.sampled_from(["web", "db", "\u2028%"]), TOLD, st.integers(0, 2)), max_size=30),
    st.lists(FIELDS, min_size=1, max_size=3),
    st.sampled_from(sorted(DIALECTS)),
)
def test_rings_that_move_and_fields_that_change_are_written_as_they_are_now(
    told: list[tuple[str, Any, int]], fields: list[dict[str, Any]], dialect: str
) -> None:
    engine = Engine(dialect=dialect, clock=clock())
    texts = AllocationTexts(DIALECTS[dialect], PLENTY)
    engine.place({"ID": "a", "Job": {"ID": "job\u2028"}} | fields[0])
    for place, (task, event, count) in enumerate(told):
        try:
            engine.append([Write(alloc="a", task=task, event=event)] * (count + 1))
            if count == 2 and task == "db":
                engine.update("a", fields[place % len(fields)])
        except TaskfoldError:
            pass  # refused whole
        check_same(texts, engine.store.read("a"))


@pytest.mark.parametrize("scenario", recordings.scenarios(), ids=str)
def test_every_recorded_body_is_written_so(scenario: Any) -> None:
    engine = Engine(MemoryLog(scenario.version))
    for answer in recordings.bodies(scenario):
        engine.observe(observation_from_json(answer.body.encode(), "body"))
        check_same(engine.store.texts, engine.store.read(answer.allocation))


def states_of(count: int) -> list[AllocationState]:
    """Return an allocation after each of so many events."""
    engine = Engine(dialect="1.1.2", clock=clock())
    engine.place({"ID": "a", "JobID": "job", "Job": {"ID": "job"}})
    states = []
    for number in range(count):
        engine.record("a", "web", events.Driver(time_ns=number, driver_message="x" * (number % 7)))
        states.append(engine.store.read("a"))
    return states


def test_what_was_read_once_is_not_kept_and_what_was_read_twice_is() -> None:
    texts = AllocationTexts(DIALECTS["1.1.2"], PLENTY)
    first, second, *_ = states_of(2)
    texts.body(first)
    assert texts.size == 0
    texts.body(second)
    assert texts.size > len(texts.body(second))


def test_events_that_are_told_again_are_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    states, texts = states_of(30), AllocationTexts(DIALECTS["1.1.2"], PLENTY)
    for state in states[:15]:
        texts.body(state)
    written: list[object] = []
    writers = snapshot.event_writers(texts.dialect)
    counted = {cls: (lambda event, cls=cls: (written.append(event), writers[cls](event))[1]) for cls in writers}
    monkeypatch.setattr(snapshot, "event_writers", lambda _: counted)
    for state in states[15:]:
        texts.body(state)
        texts.stream_body(state)
    assert len(written) == 15


@pytest.mark.parametrize("before", [(), (events.Received(time_ns=4),)], ids=["alone", "behind the same event"])
def test_equal_events_that_are_written_differently_are_not_taken_for_each_other(before: tuple[Any, ...]) -> None:
    """1 equals 1.0 and True, and is written differently."""
    texts, state = AllocationTexts(DIALECTS["1.1.2"], PLENTY), states_of(1)[0]
    told = [events.Started(time_ns=5, extras=events.Extras(fields={"Odd": value})) for value in (1, 1.0, True, 2, 1)]
    for rings in ([(*before, event) for event in told], [(*before, *told[:count]) for count in (2, 5, 1, 3)]):
        for ring in rings:
            check_same(texts, replace(state, tasks={"web": TaskState(state="running", events=ring)}))


def test_fields_that_look_like_a_hole_are_not_filled() -> None:
    texts, [state] = AllocationTexts(DIALECTS["1.1.2"], PLENTY), states_of(1)
    for odd in (b"\0ModifyIndex\0", b"\0", b"\0\0", b"\0x\0"):
        check_same(texts, replace(state, updates={"Odd": b'"%b"' % odd}))


def test_what_is_kept_has_the_limit_at_most() -> None:
    engine = Engine(dialect="1.1.2", clock=clock())
    texts = AllocationTexts(DIALECTS["1.1.2"], limit_bytes=100_000)
    for number in range(300):
        engine.place({"ID": f"{number:03}", "Job": {"ID": "x" * 1_000}})
        engine.record(f"{number:03}", "web", events.Started())
        for _ in range(3):
            texts.body(engine.store.read(f"{number:03}"))
        assert texts.size <= 100_000
    assert texts.size > 50_000


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))],  # noqa: S301 - our own
    ids=["copy", "deep", "pickle"],
)
def test_a_snapshot_can_be_copied_without_what_is_kept(copied: Callable[[Snapshot], Snapshot]) -> None:
    texts, [state] = AllocationTexts(DIALECTS["1.1.2"], PLENTY), states_of(1)
    snapshot = texts.snapshot(state)
    again = copied(snapshot)
    assert again == snapshot == Snapshot.of(state, "1.1.2")
    assert again.to_json() == snapshot.to_json()


def test_many_threads_may_read() -> None:
    states, texts = states_of(60), AllocationTexts(DIALECTS["1.1.2"], limit_bytes=30_000)
    expected = [
        (Snapshot.of(state, "1.1.2").to_json(), Snapshot.of(state, "1.1.2").to_stream_json()) for state in states
    ]
    wrong: list[int] = []

    def read(seed: int) -> None:
        order = random.Random(seed)
        for _ in range(400):
            place = order.randrange(len(states))
            if (texts.body(states[place]), texts.stream_body(states[place])) != expected[place]:
                wrong.append(place)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 <= texts.size <= 30_000
