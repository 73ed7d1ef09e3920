"""A model of a user's own, bound to a live task: what runs when, what refuses, and what an exception does."""

import pytest
from transitions import EventData

from taskfold import Engine, IllegalEvent, ListenerError, LogError, ManualClock, Refused, TaskfoldError, Write
from taskfold import events as ev
from taskfold.fold.binding import Binding
from taskfold.model.record import Finished


class Watcher:
    """Writes down which of its callbacks ran, and in which state it was."""

    driver = "an attribute that has the name of a trigger"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.budget = 1

    def has_budget(self, _data: EventData) -> bool:
        self.calls.append("has_budget")
        return self.budget > 0

    def before_signaling(self, _data: EventData) -> None:
        self.calls.append("before_signaling")

    def before_started(self, data: EventData) -> None:
        self.calls.append(f"before_started in {self.state}, {type(data.kwargs['event']).__name__}")

    def on_exit_pending(self, _data: EventData) -> None:
        self.calls.append("on_exit_pending")

    def on_enter_running(self, data: EventData) -> None:
        self.calls.append(f"on_enter_running of {data.kwargs['task']}")

    def on_enter_pending(self, _data: EventData) -> None:
        self.calls.append("on_enter_pending")

    def after_started(self, _data: EventData) -> None:
        self.calls.append(f"after_started in {self.state}")

    def after_terminated(self, _data: EventData) -> None:
        self.calls.append("after_terminated")


@pytest.fixture
def engine() -> Engine:
    engine = Engine(dialect="1.1.2", clock=ManualClock(1))
    engine.place({"ID": "a"})
    engine.record("a", "web", ev.Received())
    return engine


def test_callbacks_run_around_the_append_in_the_order_of_transitions(engine):
    model = Watcher()
    engine.bind("a", "web", model, conditions={"started": "has_budget"})

    engine.record("a", "web", ev.Started())

    assert model.calls == [
        "has_budget",
        "before_started in pending, Started",
        "on_exit_pending",
        "on_enter_running of web",
        "after_started in running",
    ]
    assert model.state == engine.task("a", "web").state == "running"


def test_an_event_that_keeps_the_state_runs_no_enter_and_no_exit(engine):
    engine.record("a", "web", ev.Started())
    model = Watcher()
    engine.bind("a", "web", model)

    engine.record("a", "web", ev.Terminated())

    assert model.calls == ["after_terminated"]


@pytest.mark.parametrize(
    "asked",
    [
        {"conditions": {"started": "has_budget"}},
        {"conditions": {"started": [lambda _data: True, lambda _data: False]}},
        {"unless": {"started": lambda _data: True}},
    ],
)
def test_a_condition_that_is_not_met_refuses_and_changes_nothing(engine, asked):
    model = Watcher()
    model.budget = 0
    engine.bind("a", "web", model, **asked)
    before = engine.snapshot("a")

    with pytest.raises(Refused, match="Started was refused before it was recorded: a condition is not met"):
        engine.record("a", "web", ev.Started())

    assert engine.snapshot("a") == before
    assert len(engine.history("a", "web")) == 1
    assert model.state == "pending"
    assert "on_enter_running of web" not in model.calls


@pytest.mark.parametrize("where", ["before_started", "has_budget"])
def test_an_exception_before_the_append_refuses_and_changes_nothing(engine, where):
    model = Watcher()
    setattr(model, where, lambda _data: 1 / 0)
    engine.bind("a", "web", model, conditions={"started": "has_budget"})
    before = engine.snapshot("a")

    with pytest.raises(Refused, match="ZeroDivisionError") as refusal:
        engine.record("a", "web", ev.Started())

    assert isinstance(refusal.value.__cause__, ZeroDivisionError)
    assert engine.snapshot("a") == before
    assert model.state == "pending"


@pytest.mark.parametrize("where", ["on_exit_pending", "on_enter_running", "after_started"])
def test_an_exception_after_the_append_reaches_the_caller_and_the_record_stays(engine, where):
    model = Watcher()
    setattr(model, where, lambda _data: 1 / 0)
    engine.bind("a", "web", model)

    with pytest.raises(ListenerError, match="it was recorded, and then a listener raised ZeroDivisionError") as told:
        engine.record("a", "web", ev.Started())

    assert [type(problem) for problem in told.value.exceptions] == [ZeroDivisionError]
    assert told.value.records == engine.history("a", "web")[-1:]
    assert engine.task("a", "web").state == "running"
    assert model.state == "running"
    assert len(engine.history("a", "web")) == 2


def test_an_illegal_event_runs_no_callback(engine):
    model = Watcher()
    engine.bind("a", "web", model)

    with pytest.raises(IllegalEvent):
        engine.record("a", "web", ev.Signaling())

    assert model.calls == []
    assert model.state == "pending"


def test_a_repeated_id_runs_no_callback(engine):
    engine.record("a", "web", ev.Started(), id="start-1")
    model = Watcher()
    engine.bind("a", "web", model)

    assert engine.record("a", "web", ev.Started(), id="start-1") is None
    assert model.calls == []


def test_an_unknown_event_is_recorded_and_runs_no_callback(engine):
    model = Watcher()
    engine.bind("a", "web", model)

    engine.record("a", "web", ev.UnknownEvent(wire_type="Something New"))

    assert model.calls == []
    assert engine.task("a", "web").counts["Unknown"] == 1


def test_the_end_without_an_event_has_callbacks_too(engine):
    seen = []

    class Model:
        def before_finished(self, _data: EventData) -> None:
            seen.append("before")

        def on_enter_dead(self, _data: EventData) -> None:
            seen.append("dead")

    engine.bind("a", "web", Model())
    engine.record("a", "web", Finished())

    assert seen == ["before", "dead"]
    assert engine.task("a", "web").state == "dead"


def test_models_of_different_classes_do_not_disturb_each_other(engine):
    class Silent:
        pass

    engine.record("a", "db", ev.Received())
    loud, silent = Watcher(), Silent()
    engine.bind("a", "web", loud)
    engine.bind("a", "db", silent)

    engine.record("a", "db", ev.Started())
    assert loud.calls == []
    assert silent.state == "running"

    engine.record("a", "web", ev.Started())
    assert "on_enter_running of web" in loud.calls


def test_binding_adds_no_method_and_replaces_no_attribute_but_state(engine):
    model = Watcher()
    attributes = set(dir(model))

    engine.bind("a", "web", model)

    assert set(dir(model)) - attributes == {"state"}
    assert model.driver == Watcher.driver


def test_an_unbound_task_builds_no_machine_and_triggers_nothing(engine, monkeypatch):
    def fail(*_args: object, **_kwargs: object) -> None:
        pytest.fail("an unbound task must not reach a machine")

    monkeypatch.setattr("taskfold.fold.binding.build_machine", fail)
    monkeypatch.setattr("transitions.core.Event.trigger", fail)

    engine.record("a", "web", ev.Started())

    assert engine.task("a", "web").state == "running"


def test_callbacks_never_run_when_a_log_is_read_again(engine):
    model = Watcher()
    engine.bind("a", "web", model)
    engine.record("a", "web", ev.Started())
    calls = list(model.calls)

    again = Engine(engine.store.log)

    assert again.task("a", "web").state == "running"
    assert model.calls == calls


def test_unbinding_lets_the_model_go(engine):
    model = Watcher()
    engine.bind("a", "web", model)
    engine.unbind("a", "web")
    engine.unbind("a", "never bound")

    engine.record("a", "web", ev.Started())

    assert model.calls == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"conditions": {"no_such": "has_budget"}}, "'no_such' is no trigger of dialect 1.1.2; there are received"),
        ({"conditions": {"started": "no_such"}}, "Watcher has no method 'no_such'"),
    ],
)
def test_a_wrong_name_fails_when_it_is_bound(asked, message):
    with pytest.raises(TaskfoldError, match=message):
        Binding(Watcher(), "1.1.2", state="pending", **asked)


def test_a_model_that_cannot_carry_a_state_is_refused():
    class Closed:
        __slots__ = ()

    with pytest.raises(TaskfoldError, match="Closed cannot carry the attribute 'state'"):
        Binding(Closed(), "1.1.2", state="pending")


def test_what_the_log_says_reaches_the_caller_as_it_is(engine, monkeypatch):
    model = Watcher()
    engine.bind("a", "web", model)
    state = model.state

    def full(*_):
        raise LogError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(engine.store.log, "append_all", full)
        with pytest.raises(LogError, match="the disk is full") as told:
            engine.record("a", "web", ev.Started())

    assert not isinstance(told.value, Refused)
    assert model.state == state
    assert engine.record("a", "web", ev.Started()) is not None


def test_a_task_whose_state_nobody_told_is_bound_as_pending():
    binding = Binding(Watcher(), "1.1.2", state="")

    assert binding.model.state == "pending"


def test_models_are_asked_before_an_append_of_several_and_told_after_it(engine):
    one, other = Watcher(), Watcher()
    engine.bind("a", "web", one)
    engine.bind("a", "db", other, conditions={"started": lambda _: False})
    writes = [Write(alloc="a", task=task, event=ev.Started()) for task in ("web", "db")]

    with pytest.raises(Refused, match="task 'db'"):
        engine.append(writes)
    assert engine.index == 2
    assert one.state == "pending"

    engine.bind("a", "db", other)
    engine.append(writes)
    assert (one.state, other.state) == ("running", "running")

    with pytest.raises(Refused, match="one append can have one event of it"):
        engine.append(Write(alloc="a", task="web", event=event) for event in (ev.Terminated(), ev.Restarting()))
