"""What an engine promises of reports: each step is one write, owed, in order, and refused as a whole."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from support.asgi import Call
from support.deciding import NEW, OLD, Story, names
from support.jobs import POLICY, SECOND, job
from taskfold import Engine, ManualClock, inputs
from taskfold.decision.rules import due_of
from taskfold.effects import StartTask, Step
from taskfold.errors import (
    ClockWentBack,
    DecodeError,
    InputRefused,
    ListenerError,
    LogError,
    TaskfoldError,
    UnknownAllocation,
    UnknownTask,
    VersionConflict,
)
from taskfold.http.app import App


def test_an_input_that_was_recorded_is_not_decided_twice():
    story = Story("web")
    story.run("web")
    first = story.engine.report("a", "web", inputs.Exited(exit_code=1), id="exit-1")

    again = story.engine.report("a", "web", inputs.Exited(exit_code=1), id="exit-1")

    assert (first.outcome, again.outcome, again.events, again.effects) == ("decided", "repeated", (), ())


def test_a_step_is_one_write():
    story = Story("web", "db", policy=POLICY | {"Attempts": 0})
    story.run("web", "db")

    story.say(inputs.Exited(exit_code=1), "web")

    written = [r for r in story.engine.history("a") if r.index == story.engine.index]
    assert {r.task for r in written} == {"web", "db", ""}


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        ({"alloc": "b"}, UnknownAllocation, "no allocation 'b' is known"),
        ({"task": "no"}, UnknownTask, "the group has no task 'no'; it has 'web'"),
        ({"time_ns": 5}, ClockWentBack, "report inputs in the order of their time"),
        ({"time_ns": 2**70}, DecodeError, "in 64 bits"),
        ({"expected_version": 77}, VersionConflict, "not 77"),
        (
            {"input": inputs.Exited(exit_code=-9)},
            InputRefused,
            r"\$\.ExitCode: -9 is no exit code; .*Exited.of_returncode",
        ),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(said, error, why):
    story = Story("web")
    story.run("web")
    before = story.engine.index

    with pytest.raises(error, match=why):
        story.engine.report(**({"alloc": "a", "task": "web", "input": inputs.Exited()} | said))

    assert story.engine.index == before


def test_a_clock_that_goes_back_is_refused():
    story = Story("web")
    story.run("web")
    story.clock._time_ns -= 1

    with pytest.raises(ClockWentBack, match="1 ns before that"):
        story.say(inputs.Exited(), "web")


def test_timers_fire_in_order_of_time_then_of_setting():
    engine = Engine(dialect=NEW, clock=ManualClock(SECOND), seed=1)
    for alloc in ("b", "a", "c"):
        engine.place({"ID": alloc, "TaskGroup": "group", "Job": job("web", policy=POLICY | {"Delay": 1})})
        engine.report(alloc, "", inputs.PlacementReceived())
        engine.report(alloc, "web", inputs.ProcessStarted())
        engine.report(alloc, "web", inputs.Exited(exit_code=1))

    assert [step.alloc for step in engine.due(2 * SECOND)] == ["b", "a", "c"]


def test_several_threads_may_report_and_each_step_is_whole():
    engine = Engine(dialect=NEW, clock=ManualClock(SECOND), seed=1)
    allocs = [f"a{number}" for number in range(8)]
    steps: list[Step] = []
    engine.on_step(steps.append)
    policy = POLICY | {"Attempts": 1_000, "Delay": 1}
    for alloc in allocs:
        engine.place({"ID": alloc, "TaskGroup": "group", "Job": job("web", policy=policy)})
        engine.report(alloc, "", inputs.PlacementReceived())

    def live(alloc: str) -> None:
        for _ in range(25):
            engine.report(alloc, "web", inputs.ProcessStarted())
            engine.report(alloc, "web", inputs.Exited(exit_code=1))
            engine.due(2 * SECOND)

    threads = [threading.Thread(target=live, args=(alloc,)) for alloc in allocs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    engine.store._check()
    assert [engine.task(alloc, "web").restarts for alloc in allocs] == [25] * 8
    started = [effect for step in steps for effect in step.effects if isinstance(effect, StartTask)]
    assert len(started) == 8 * 26  # each once: when it was placed, and after each exit
    records = list(engine.store.log.read_all())
    for index in {record.index for record in records}:
        assert len({record.alloc for record in records if record.index == index}) == 1


def test_the_event_stream_tells_what_was_decided():
    story = Story("web")
    story.run("web")
    app = App(story.engine, seed=1)

    frames = [
        json.loads(line)
        for line in asyncio.run(first_lines(app, "GET /v1/event/stream?from=oldest", 5))
        if line.strip() != b"{}"
    ]

    assert [(frame["Index"], frame["Events"][0]["Type"]) for frame in frames[:3]] == [
        (1, "PlanResult"),
        (2, "AllocationUpdated"),
        (3, "AllocationUpdated"),
    ]


async def first_lines(app: App, request: str, count: int) -> list[bytes]:
    """Return the first lines of a stream."""
    call = Call(app, request)
    await call.until(lambda reply: b"".join(reply.parts).count(b"\n") >= min(count, 4))
    call.disconnect()
    reply = await call.finished()
    return b"".join(reply.parts).splitlines()


def waiting(*allocs: str, dialect: str) -> Engine:
    """Return an engine of allocations whose one task waits for its restart."""
    engine = Engine(dialect=dialect, clock=ManualClock(SECOND), seed=1)
    for alloc in allocs:
        engine.place({"ID": alloc, "TaskGroup": "group", "Job": job("web")})
        engine.report(alloc, "", inputs.PlacementReceived())
        engine.report(alloc, "web", inputs.ProcessStarted())
        engine.report(alloc, "web", inputs.Exited(exit_code=1))
    return engine


def test_what_cannot_be_decided_when_it_is_due_keeps_nobody_else_waiting():
    engine = waiting("a", "b", dialect=OLD)
    engine.update("a", {"Job": job("web", policy={"Mode": "nope"})})

    heard: list[Step] = []
    engine.on_step(heard.append)
    told_of = engine.due(60 * SECOND)
    found = {step.alloc: step for step in told_of}

    assert heard == told_of
    assert found["a"].outcome == "impossible"
    assert "Unsupported restart mode" in found["a"].notes[0][1]
    assert names(found["b"], StartTask) == ["web"]


def test_a_log_that_fails_leaves_what_is_due_to_be_told_later(monkeypatch):
    engine = waiting("a", "b", dialect=NEW)
    due_ns = {alloc: due_of(engine.task(alloc, "web")) for alloc in "ab"}
    first, second = sorted("ab", key=lambda alloc: due_ns[alloc] or 0)
    engine.clock = ManualClock(60 * SECOND)
    engine.report(second, "", inputs.StopRequested())  # so that its end is to be written
    with monkeypatch.context() as patch:
        patch.setattr(engine.store.log, "append_all", failing)
        told = engine.due()
        with pytest.raises(LogError, match="the disk is gone"):
            engine.due()

    assert [(step.alloc, names(step, StartTask)) for step in told] == [(first, ["web"])]
    assert [step.alloc for step in engine.due()] == [second]
    assert engine.task(second, "web").state == "dead"
    assert engine.next_due() is None


def failing(*_: object, **__: object) -> None:
    raise LogError("the disk is gone")


def test_a_step_is_owed_even_when_a_callback_raises_after_it_was_recorded():
    class Model:
        state = "running"

        def after_restarting(self, _: Any) -> None:
            raise RuntimeError("too late")

    story = Story("web")
    story.run("web")
    story.engine.bind("a", "web", Model())
    steps: list[Step] = []
    story.engine.on_step(steps.append)

    with pytest.raises(ListenerError, match="too late") as told:
        story.say(inputs.Exited(exit_code=1), "web")

    assert told.value.steps == steps
    assert story.state("web").state == "pending"
    assert story.engine.next_due() == steps[0].timers[0].due_ns


@pytest.mark.parametrize("dialect", [OLD, NEW])
def test_a_bound_model_sees_each_event_of_a_step_in_order(dialect):
    seen: list[str] = []

    class Model:
        state = "running"

        def before_terminated(self, _: Any) -> None:
            seen.append(f"before terminated {self.state}")

        def before_restarting(self, _: Any) -> None:
            seen.append(f"before restarting {self.state}")

        def on_enter_pending(self, _: Any) -> None:
            seen.append("enter pending")

        def after_restarting(self, _: Any) -> None:
            seen.append(f"after restarting {self.state}")

    story = Story("web", dialect=dialect)
    story.run("web")
    binding = story.engine.bind("a", "web", Model())

    story.say(inputs.Exited(exit_code=1), "web")

    assert seen == [
        "before terminated running",
        "before restarting running",
        "enter pending",
        "after restarting pending",
    ]
    assert binding.model.state == "pending"


def test_a_bound_model_may_refuse_a_whole_step():
    class Model:
        state = "running"

        def before_restarting(self, _: Any) -> None:
            raise RuntimeError("never")

    story = Story("web")
    story.run("web")
    story.engine.bind("a", "web", Model())
    before = story.engine.index

    with pytest.raises(TaskfoldError, match="Restarting was refused before it was recorded: RuntimeError: never"):
        story.say(inputs.Exited(exit_code=1), "web")

    assert (story.engine.index, story.state("web").state, story.engine.next_due()) == (before, "running", None)
