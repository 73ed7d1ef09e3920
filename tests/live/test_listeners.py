"""Listeners and bound models: what one of them raises keeps nobody else from hearing, and fails no recorded step."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from taskfold import Engine, ListenerError, ManualClock, Retention, Write, events, inputs
from taskfold.effects import Step

SECOND = 1_000_000_000
POLICY = {"Attempts": 3, "Interval": 60 * SECOND, "Delay": 5 * SECOND, "Mode": "fail"}
JOB = {"TaskGroups": [{"Name": "group", "RestartPolicy": POLICY, "Tasks": [{"Name": "web"}]}]}


@pytest.fixture
def engine() -> Engine:
    """Return an engine that decides for two allocations, whose tasks run."""
    engine = Engine(dialect="1.1.2", clock=ManualClock(SECOND), seed=1)
    for alloc in "ab":
        engine.place({"ID": alloc, "TaskGroup": "group", "Job": JOB})
        engine.report(alloc, "", inputs.PlacementReceived())
        engine.report(alloc, "web", inputs.ProcessStarted())
    return engine


def raising(error: BaseException) -> Callable[..., None]:
    def raise_it(*_: object) -> None:
        raise error

    return raise_it


def test_a_listener_that_raises_keeps_nobody_from_hearing_and_the_step_is_in_the_error(engine):
    heard: list[Step] = []
    engine.on_step(raising(ValueError("first")))
    engine.on_step(heard.append)
    engine.on_step(raising(KeyError("second")))

    with pytest.raises(
        ListenerError, match=r"recorded, and then a listener raised ValueError: first \(and 1 more"
    ) as told:
        engine.report("a", "web", inputs.Exited(exit_code=1))

    assert [type(problem) for problem in told.value.exceptions] == [ValueError, KeyError]
    assert told.value.steps == heard
    assert told.value.records == engine.history("a")[-len(told.value.records) :]
    assert engine.task("a", "web").state == "pending"
    assert engine.next_due() == heard[0].timers[0].due_ns
    assert engine.due() == []


def test_the_error_is_a_group_that_can_be_split_and_pickled(engine):
    engine.on_step(raising(ValueError("first")))
    engine.on_step(raising(KeyError("second")))
    with pytest.raises(ListenerError) as told:
        engine.report("a", "web", inputs.Exited(exit_code=1))

    split = told.value.subgroup(KeyError)
    assert isinstance(split, ListenerError)
    assert split.steps == told.value.steps
    again = pickle.loads(pickle.dumps(told.value))  # noqa: S301 - our own
    assert (str(again), again.steps, again.records) == (str(told.value), told.value.steps, told.value.records)


def test_what_was_due_is_returned_by_the_next_call_when_a_listener_raised(engine):
    for alloc in "ab":
        engine.report(alloc, "web", inputs.Exited(exit_code=1))
    engine.clock.advance(10 * SECOND)
    heard: list[Step] = []
    end = engine.on_step(raising(ValueError("no")))
    engine.on_step(heard.append)

    with pytest.raises(ListenerError, match=r"ValueError: no .and 1 more"):
        engine.due()

    end()
    assert {step.alloc for step in heard} == {"a", "b"}
    next_due = engine.next_due()
    assert next_due is not None
    assert next_due <= engine.clock.time_ns()
    assert engine.due() == heard
    assert engine.due() == []
    assert engine.next_due() is None


def test_ctrl_c_in_a_listener_is_raised_as_itself_after_everybody_was_told(engine):
    heard: list[Step] = []
    engine.on_step(raising(KeyboardInterrupt()))
    engine.on_step(raising(ValueError("and this")))
    engine.on_step(heard.append)

    with pytest.raises(KeyboardInterrupt) as told:
        engine.report("a", "web", inputs.Exited(exit_code=1))

    assert told.value.__notes__ == ["and a listener raised ValueError: and this"]
    assert engine.task("a", "web").state == "pending"
    assert [step.alloc for step in heard] == ["a"]
    assert engine.due() == heard, "what was recorded, and was not returned, is owed"
    assert engine.next_due() == heard[0].timers[0].due_ns


def test_an_on_collect_listener_that_raises_keeps_nobody_from_hearing(engine):
    for alloc in "ab":
        engine.report(alloc, "web", inputs.Exited(exit_code=0))
        engine.report(alloc, "", inputs.StopRequested())
    told: list[str] = []
    engine.on_collect(raising(ValueError("no")))
    engine.on_collect(lambda snapshot, _: told.append(snapshot.id))
    for alloc in ("c", "d", "e"):
        engine.place({"ID": alloc})
        engine.record(alloc, "web", events.Started())
        engine.record(alloc, "web", events.NotRestarting())

    with pytest.raises(ListenerError) as one:
        engine.collect("c")
    with pytest.raises(ListenerError) as others:
        engine.retain(Retention(keep=0))

    assert [record.alloc for record in one.value.records] == ["c"]
    assert {"d", "e"} <= {record.alloc for record in others.value.records}
    assert told == [record.alloc for record in (*one.value.records, *others.value.records)]


class Model:
    """A model that hears, and then raises what it is told to."""

    def __init__(self, heard: list[str], name: str, error: BaseException | None = None) -> None:
        self.heard, self.name, self.error = heard, name, error

    def on_enter_running(self, _: Any) -> None:
        self.heard.append(self.name)
        if self.error is not None:
            raise self.error

    def after_started(self, _: Any) -> None:
        self.heard.append(f"after {self.name}")


def test_a_model_that_raises_keeps_no_other_model_from_hearing():
    engine, heard = Engine(dialect="1.1.2"), list[str]()
    engine.place({"ID": "c"})
    models = [Model(heard, "first", ValueError("no")), Model(heard, "second")]
    for task, model in zip(("one", "two"), models, strict=True):
        engine.bind("c", task, model)

    with pytest.raises(ListenerError) as told:
        engine.append([Write(alloc="c", task=task, event=events.Started()) for task in ("one", "two")])

    assert heard == ["first", "second", "after second"]
    assert len(told.value.records) == 2
    assert [model.state for model in models] == ["running", "running"]


def test_a_listener_may_end_its_listening_and_others_go_on(engine):
    heard: list[str] = []
    ends = [engine.on_step(lambda _, name=name: heard.append(name)) for name in ("first", "first", "second")]
    ends[0]()
    ends[0]()
    engine.report("a", "web", inputs.Exited(exit_code=1))
    assert heard == ["first", "second"]
