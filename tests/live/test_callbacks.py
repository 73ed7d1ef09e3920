"""Callbacks and threads: nothing is locked while a callback runs, and everybody hears in the order of the records."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfold import (
    CallbacksBusy,
    Engine,
    IllegalEvent,
    ListenerError,
    ManualClock,
    Refused,
    Retention,
    Write,
    inputs,
)
from taskfold import events as ev
from taskfold.effects import Step
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.live import callbacks
from taskfold.nomad.importing.observation import observation_from_json

SECOND: Final = 1_000_000_000
PATIENCE: Final = 20.0
"""After how many seconds a thread that does not end is taken to hang."""
POLICY = {"Attempts": 3, "Interval": 60 * SECOND, "Delay": 5 * SECOND, "Mode": "fail"}
SIGNAL: Final = inputs.SignalRequested(signal="SIGHUP")
JOB = {"TaskGroups": [{"Name": "group", "RestartPolicy": POLICY, "Tasks": [{"Name": "web"}, {"Name": "db"}]}]}


@pytest.fixture
def engine() -> Engine:
    """Return an engine with an allocation whose tasks run, and another one that was received."""
    engine = Engine(dialect="1.1.2", clock=ManualClock(SECOND), seed=1)
    for alloc in "ab":
        engine.place({"ID": alloc, "TaskGroup": "group", "Job": JOB})
        engine.report(alloc, "", inputs.PlacementReceived())
    for task in ("web", "db"):
        engine.report("a", task, inputs.ProcessStarted())
    return engine


def in_thread(call: Callable[[], object]) -> Any:
    """Call in another thread, wait for it, and return what it returned, or raised; fail where it hangs."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:  # noqa: BLE001 - it is looked at below
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the other thread hangs"
    return found[0]


def in_threads(call: Callable[[int], object], count: int) -> None:
    """Call in so many threads at the same time; fail where one hangs, or raises."""
    ended: list[int] = []
    threads = [
        threading.Thread(target=lambda number=number: (call(number), ended.append(number)), daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(ended) == list(range(count))


# --- whatever is called, it may wait for another thread ---


def others_calls(engine: Engine) -> dict[str, Callable[[], object]]:
    """Return what another thread may do while a callback waits for it."""
    seen = observation_from_json(b'{"ID":"m","ModifyIndex":1000,"NodeID":"n"}', "body")
    return {
        "task": lambda: engine.task("a", "web"),
        "allocations": lambda: list(engine.allocations()),
        "history": lambda: engine.history("a"),
        "wait": lambda: engine.wait("a", after=0, timeout=1),
        "next_due": engine.next_due,
        "restore": engine.restore,
        "group": lambda: engine.group("a"),
        "check": lambda: engine.check([Write(alloc="a", task="web", event=ev.Received())]),
        "record": lambda: engine.record("b", "db", ev.Received()),
        "record of the same task": lambda: engine.record("a", "web", ev.Generic()),
        "append": lambda: engine.append([Write(alloc="b", task="db", event=ev.Received())]),
        "update": lambda: engine.update("a", {"NodeID": "n"}),
        "place": lambda: engine.place({"ID": "c"}),
        "report": lambda: engine.report("b", "web", inputs.ProcessStarted()),
        "due": engine.due,
        "bind": lambda: engine.bind("b", "web", object.__new__(Heard)),
        "unbind": lambda: engine.unbind("b", "web"),
        "retain": lambda: engine.retain(Retention(keep=0)),
        "compact": engine.compact,
        "checkpoint": engine.checkpoint,
        "catch_up": engine.catch_up,
        "observe": lambda: engine.observe(seen),
    }


class Heard:
    """A model that calls somebody when its task is dead."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def on_enter_dead(self, _: Any) -> None:
        self.call()


def from_model(engine: Engine, call: Callable[[], object]) -> None:
    engine.bind("a", "web", Heard(call))
    engine.record("a", "web", ev.NotRestarting())


def from_model_of_a_report(engine: Engine, call: Callable[[], object]) -> None:
    engine.bind("a", "web", Heard(call))
    engine.report("a", "", inputs.StopRequested())
    engine.report("a", "web", inputs.Exited(exit_code=0))


def from_step(engine: Engine, call: Callable[[], object]) -> None:
    end = engine.on_step(lambda _: (end(), call()))
    engine.report("a", "web", inputs.Exited(exit_code=1))


def from_due(engine: Engine, call: Callable[[], object]) -> None:
    engine.report("a", "web", inputs.Exited(exit_code=1))
    engine.clock.advance(60 * SECOND)  # type: ignore[attr-defined]  # a manual one
    end = engine.on_step(lambda _: (end(), call()))
    engine.due()


def from_collect(engine: Engine, call: Callable[[], object]) -> None:
    end = engine.on_collect(lambda *_: (end(), call()))
    engine.place({"ID": "z"})
    for event in (ev.Started(), ev.NotRestarting()):
        engine.record("z", "web", event)
    engine.collect("z")


def from_condition(engine: Engine, call: Callable[[], object]) -> None:
    calls = [call]

    def ask(_: Any) -> bool:
        if calls:
            calls.pop()()
        return True

    engine.bind("a", "web", Quiet(), conditions={"terminated": ask})
    engine.record("a", "web", ev.Terminated())


def from_writes(engine: Engine, call: Callable[[], object]) -> None:
    def writes() -> Any:
        yield Write(alloc="a", task="web", event=ev.Terminated())
        call()

    engine.append(writes())


PLACES: Final = [
    from_model,
    from_model_of_a_report,
    from_step,
    from_due,
    from_collect,
    from_condition,
    from_writes,
]
"""Where somebody else's function is called."""


class Quiet:
    """A model without callbacks."""


@pytest.mark.parametrize("name", others_calls(Engine()))
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_whatever_an_engine_calls_may_wait_for_another_thread_that_does_anything(
    engine: Engine, place: Callable[[Engine, Callable[[], object]], None], name: str
) -> None:
    found: list[Any] = []
    place(engine, lambda: found.append(in_thread(others_calls(engine)[name])))
    assert len(found) == 1
    assert not isinstance(found[0], Exception), found[0]
    assert not engine._turns.callbacks.pending
    engine._check()


# --- the order ---


def test_a_write_from_a_callback_is_recorded_at_once_and_told_after_what_is_under_way(engine: Engine) -> None:
    heard: list[str] = []

    class Chain:
        state: str

        def on_exit_running(self, _: Any) -> None:
            heard.append(f"exit in {self.state}")
            engine.record("a", "web", ev.Started())
            heard.append(engine.task("a", "web").state)

        def on_enter_pending(self, _: Any) -> None:
            heard.append(f"enter pending in {self.state}")

        def on_enter_running(self, _: Any) -> None:
            heard.append(f"enter running in {self.state}")

        def after_restarting(self, _: Any) -> None:
            heard.append(f"after in {self.state}")

    model = Chain()
    engine.bind("a", "web", model)
    engine.record("a", "web", ev.Restarting())

    assert heard == [
        "exit in running",
        "running",
        "enter pending in pending",
        "after in pending",
        "enter running in running",
    ]
    assert model.state == "running"


def test_a_listener_may_report_and_hears_of_it_next(engine: Engine) -> None:
    heard: list[int] = []

    def listen(_: Step) -> None:
        number = len(heard)
        heard.append(number)
        if number < 5:
            engine.report("a", "db", SIGNAL)
            assert len(heard) == number + 1

    engine.on_step(listen)
    engine.report("a", "db", SIGNAL)
    assert heard == list(range(6))


def test_what_another_thread_writes_meanwhile_is_told_by_who_is_telling_and_what_it_raises_reaches_that_one(
    engine: Engine,
) -> None:
    heard: list[tuple[str, int]] = []
    written: list[Any] = []

    class First:
        def on_enter_dead(self, _: Any) -> None:
            written.append(in_thread(lambda: engine.record("a", "db", ev.NotRestarting())))
            heard.append(("web", threading.get_ident()))

    class Second:
        def on_enter_dead(self, _: Any) -> None:
            heard.append(("db", threading.get_ident()))
            raise ValueError("no")

    engine.bind("a", "web", First())
    engine.bind("a", "db", Second())
    with pytest.raises(ListenerError, match="ValueError: no") as told:
        engine.record("a", "web", ev.NotRestarting())

    assert heard == [("web", threading.get_ident()), ("db", threading.get_ident())]
    (db,) = written
    web, after = engine.history("a")[-2:]
    assert after == db
    assert told.value.records == [web]


def test_a_callback_that_raises_keeps_what_it_wrote_itself_and_all_is_told(engine: Engine) -> None:
    class Chain(Quiet):
        def on_enter_dead(self, _: Any) -> None:
            engine.record("a", "db", ev.NotRestarting())
            raise KeyError("first")

    class Second(Quiet):
        def on_enter_dead(self, _: Any) -> None:
            raise ValueError("second")

    engine.bind("a", "web", Chain())
    engine.bind("a", "db", Second())
    with pytest.raises(ListenerError) as told:
        engine.record("a", "web", ev.NotRestarting())
    assert [type(problem) for problem in told.value.exceptions] == [KeyError, ValueError]
    assert [record.task for record in told.value.records] == ["web", "db"]
    assert {engine.task("a", task).state for task in ("web", "db")} == {"dead"}


# --- what may refuse ---


def test_a_model_is_asked_again_when_its_allocation_was_written_to_meanwhile(engine: Engine) -> None:
    asked: list[str] = []

    class Careful:
        state: str

        def before_terminated(self, data: Any) -> None:
            asked.append(data.state.name)
            if len(asked) == 1:
                in_thread(lambda: engine.record("a", "web", ev.Restarting()))

    model = Careful()
    engine.bind("a", "web", model)
    engine.record("a", "web", ev.Terminated())
    assert asked == ["running", "pending"]
    assert model.state == engine.task("a", "web").state == "pending"


def test_an_event_that_is_not_legal_any_more_when_a_model_was_asked_is_refused(engine: Engine) -> None:
    def end(_: Any) -> bool:
        in_thread(lambda: engine.record("a", "web", ev.NotRestarting()))
        return True

    engine.bind("a", "web", Quiet(), conditions={"received": end})
    engine.record("a", "web", ev.Restarting())
    with pytest.raises(Exception, match="is dead: 'Received' is not legal"):
        engine.record("a", "web", ev.Received())


def test_a_condition_that_always_has_its_allocation_written_to_is_told_so(engine: Engine) -> None:
    engine.bind("a", "web", Quiet(), conditions={"terminated": lambda _: bool(in_thread(write))})

    def write() -> object:
        return engine.record("a", "db", ev.Generic())

    with pytest.raises(Refused, match=r"task 'web': allocation a was written to each of the 16 times"):
        engine.record("a", "web", ev.Terminated())
    assert engine.task("a", "web").counts.get("Terminated", 0) == 0
    assert engine.record("a", "web", ev.Generic()) is not None


def test_what_a_model_agreed_to_is_what_is_recorded() -> None:
    """The jitter of a delay, and the time of an event, are not drawn once more after the answer."""
    agreed: list[Any] = []

    class Careful(Quiet):
        def before_restarting(self, data: Any) -> None:
            agreed.append(data.kwargs["event"])

        def before_started(self, data: Any) -> None:
            agreed.append(data.kwargs["event"])

    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a", "TaskGroup": "group", "Job": JOB})
    engine.report("a", "", inputs.PlacementReceived())
    engine.bind("a", "web", Careful())
    engine.report("a", "web", inputs.ProcessStarted())
    engine.report("a", "web", inputs.Exited(exit_code=1))
    engine.record("a", "web", ev.Started())
    recorded = [record.event for record in engine.history("a", "web")]
    assert agreed == [event for event in recorded if isinstance(event, (ev.Started, ev.Restarting))]
    assert len(agreed) == 3


@pytest.mark.parametrize("is_refused", [True, False])
def test_what_is_due_and_refused_by_a_model_is_given_up_and_told_and_keeps_nobody_else(
    engine: Engine, *, is_refused: bool
) -> None:
    engine.report_all("b", [(task, inputs.ProcessStarted()) for task in ("web", "db")])
    for alloc in "ab":
        engine.report(alloc, "web", inputs.Exited(exit_code=1))
    engine.clock.advance(60 * SECOND)  # type: ignore[attr-defined]  # a manual one
    engine.report(
        "a", "web", inputs.KillRequested()
    )  # before anybody was told to start it: it is over when that is due
    model, heard = Quiet(), list[Step]()
    engine.bind("a", "web", model, unless={"finished": lambda _: is_refused})
    engine.on_step(heard.append)

    steps = {step.alloc: step for step in engine.due()}

    assert list(steps.values()) == heard
    assert steps["b"].effects
    assert steps["a"].outcome == ("impossible" if is_refused else "decided")
    assert ("a condition is not met" in str(steps["a"].notes)) == is_refused
    assert engine.task("a", "web").state == ("pending" if is_refused else "dead") == model.state  # type: ignore[attr-defined]
    assert engine.due() == []


def test_a_callback_that_waits_for_who_asks_a_model_gets_an_error_there_and_no_hang(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "WAIT_SECONDS", 0.05)
    found: list[Any] = []

    def wait() -> None:
        found.append(in_thread(lambda: engine.record("a", "db", ev.Terminated())))

    engine.bind("a", "web", Heard(wait))
    engine.bind("a", "db", Quiet(), conditions={"terminated": lambda _: True})
    engine.record("a", "web", ev.NotRestarting())

    (error,) = found
    assert isinstance(error, CallbacksBusy)
    assert "a callback must not wait for a thread that writes what a model may refuse" in str(error)
    assert engine.record("a", "db", ev.Terminated()) is not None


# --- many threads ---


class Recorder:
    """A model that writes down each state that it enters, and in which it was then."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.inside = 0
        self.is_alone = True

    def _enter(self, name: str) -> None:
        self.inside += 1
        self.is_alone &= self.inside == 1 and self.state == name  # type: ignore[attr-defined]  # the binding gives it
        self.seen.append(name)
        self.inside -= 1

    def on_enter_pending(self, _: Any) -> None:
        self._enter("pending")

    def on_enter_running(self, _: Any) -> None:
        self._enter("running")

    def on_enter_dead(self, _: Any) -> None:
        self._enter("dead")


class Vetoing(Recorder):
    """One that is asked before some events, too."""

    def before_started(self, _: Any) -> None:
        """Agree."""

    def before_restarting(self, _: Any) -> None:
        """Agree."""


def states_of(engine: Engine, alloc: str, task: str) -> list[str]:
    """Return the states that the log has a task enter."""
    lifecycle, state, entered = lifecycle_of("1.1.2"), "pending", []
    for record in engine.history(alloc, task):
        target = lifecycle.target(state, record.event) or state
        if target != state:
            entered.append(target)
        state = target
    return entered


EVENTS: Final = [ev.Started(), ev.Restarting(), ev.NotRestarting(), ev.Terminated(), ev.Received(), ev.Generic()]


def write_some(engine: Engine, tasks: list[tuple[str, str]], chance: random.Random) -> None:
    """Record events, of which many are not legal."""
    for _ in range(12):
        with suppress(IllegalEvent):
            engine.record(*chance.choice(tasks), chance.choice(EVENTS))


@given(
    seed=st.integers(0, 1_000_000),
    threads=st.integers(1, 4),
    kinds=st.lists(st.sampled_from([Recorder, Vetoing]), min_size=3, max_size=3),
)
def test_the_states_that_a_model_sees_are_those_of_the_log(seed: int, threads: int, kinds: list[Any]) -> None:
    engine = Engine(dialect="1.1.2", clock=ManualClock(SECOND))
    for alloc in "ab":
        engine.place({"ID": alloc})
    order: list[tuple[str, str]] = []
    tasks = [("a", "web"), ("a", "db"), ("b", "web")]
    models = {key: kind() for key, kind in zip(tasks, kinds, strict=True)}
    for key, model in models.items():
        model.after_terminated = lambda _, key=key: order.append(key)
        engine.bind(*key, model)

    in_threads(lambda number: write_some(engine, tasks, random.Random(seed + number)), threads)

    assert not engine._turns.callbacks.pending
    for key, model in models.items():
        assert model.seen == states_of(engine, *key)
        assert model.state == engine.task(*key).state if model.seen else model.state == "pending"
        assert model.is_alone
    logged = [record for record in engine.store.log.read_all() if isinstance(record.event, ev.Terminated)]
    assert order == [(record.alloc, record.task) for record in logged], "of all allocations in the order of the log"


def test_who_writes_too_much_that_is_untold_waits_and_tells_in_the_place_of_who_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "PENDING", 4)
    most, tellers = 0, set()

    def listen(_: Step) -> None:
        nonlocal most
        most = max(most, len(engine._turns.callbacks.pending))
        tellers.add(threading.get_ident())

    engine.on_step(listen)
    count = 6
    in_threads(lambda _: [engine.report("a", "db", SIGNAL) for _ in range(50)], count)
    assert most <= 4 + count + 1
    assert not engine._turns.callbacks.pending


def test_a_callback_that_has_too_much_written_while_it_waits_holds_nobody_for_ever(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "PENDING", 2)
    monkeypatch.setattr(callbacks, "WAIT_SECONDS", 0.02)
    heard: list[Step] = []

    def listen(step: Step) -> None:
        heard.append(step)
        if len(heard) == 1:
            in_thread(lambda: [engine.report("a", "db", SIGNAL) for _ in range(6)])

    engine.on_step(listen)
    engine.report("a", "db", SIGNAL)
    assert len(heard) == 7


# --- on an event loop ---


def test_on_an_event_loop_a_callback_may_wait_for_a_thread_and_every_step_comes_once() -> None:
    async def run() -> None:
        engine = Engine(dialect="1.1.2", seed=1)
        engine.place({"ID": "a", "TaskGroup": "group", "Job": JOB})
        steps, heard, told = engine.steps_async(), list[Step](), list[Step]()

        async def collect() -> None:
            async for step in steps:
                heard.append(step)

        def listen(step: Step) -> None:
            told.append(step)
            if len(told) == 1:
                in_thread(lambda: engine.report("a", "web", inputs.ProcessStarted()))

        engine.on_step(listen)
        task = asyncio.create_task(collect())
        await asyncio.to_thread(engine.report, "a", "", inputs.PlacementReceived())
        engine.report("a", "web", SIGNAL)
        while len(heard) < 3:
            await asyncio.sleep(0.002)
        task.cancel()
        assert heard == told

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


# --- what is observed ---


def test_a_model_follows_what_is_observed_of_its_task() -> None:
    engine = Engine(dialect="1.1.2")

    def body(index: int, state: str) -> bytes:
        return b'{"ID":"a","ModifyIndex":%d,"TaskStates":{"web":{"State":"%s","Events":[]}}}' % (index, state.encode())

    engine.observe(observation_from_json(body(1, "pending"), "body"))
    model: Any = Quiet()
    engine.bind("a", "web", model)
    engine.observe(observation_from_json(body(2, "running"), "body"))
    assert model.state == engine.task("a", "web").state == "running"
