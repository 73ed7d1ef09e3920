"""Steps on an event loop: each decision once and in order, and what is due at its time."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

from taskfold import Engine, ManualClock, SystemClock, inputs
from taskfold.effects import KillTask, StartTask, Step

POLICY = {"Attempts": 3, "Interval": 60 * 10**9, "Delay": 20_000_000, "Mode": "fail"}
JOB = {"TaskGroups": [{"Name": "group", "RestartPolicy": POLICY, "Tasks": [{"Name": "web"}]}]}


def engine_with(clock: ManualClock | SystemClock) -> Engine:
    """Return an engine whose one task runs."""
    engine = Engine(dialect="1.1.2", clock=clock, seed=1)
    engine.place({"ID": "a", "TaskGroup": "group", "Job": JOB})
    engine.report("a", "", inputs.PlacementReceived())
    engine.report("a", "web", inputs.ProcessStarted())
    return engine


async def listen(engine: Engine, heard: list[Step]) -> None:
    """Collect the steps."""
    async for step in engine.steps_async():
        heard.append(step)  # noqa: PERF401 - each as it comes


async def until(heard: list[Step], count: int) -> None:
    """Wait until so many were heard."""
    while len(heard) < count:
        await asyncio.sleep(0.002)


def test_what_is_reported_in_another_thread_is_heard_and_what_is_due_comes_at_its_time():
    async def run() -> None:
        engine, heard = engine_with(SystemClock()), list[Step]()
        task = asyncio.create_task(listen(engine, heard))
        await asyncio.sleep(0.01)
        thread = threading.Thread(target=engine.report, args=("a", "web", inputs.Exited(exit_code=1)))
        thread.start()
        await asyncio.wait_for(until(heard, 2), 10)
        thread.join()
        task.cancel()

        exited, due = heard
        assert due.effects == (StartTask(task="web", at_ns=exited.timers[0].due_ns),)
        assert due.time_ns >= exited.timers[0].due_ns

    asyncio.run(run())


def test_nothing_is_due_before_a_manual_clock_says_so():
    async def run() -> None:
        clock = ManualClock(1)
        engine, heard = engine_with(clock), list[Step]()
        task = asyncio.create_task(listen(engine, heard))
        await asyncio.sleep(0)
        engine.report("a", "web", inputs.Exited(exit_code=1))
        await asyncio.wait_for(until(heard, 1), 10)
        while not clock.waiting:
            await asyncio.sleep(0.001)
        clock.advance(heard[0].timers[0].due_ns - clock.time_ns() - 1)
        await asyncio.sleep(0.02)
        assert len(heard) == 1

        clock.advance(1)
        await asyncio.wait_for(until(heard, 2), 10)
        task.cancel()
        assert isinstance(heard[1].effects[0], StartTask)

    asyncio.run(run())


def test_it_ends_with_the_engine_and_lets_go_of_it():
    async def run() -> None:
        engine, heard = engine_with(SystemClock()), list[Step]()
        task = asyncio.create_task(listen(engine, heard))
        await asyncio.sleep(0.01)

        engine.close()
        await asyncio.wait_for(task, 10)

        assert heard == []
        assert not engine._groups.recorders

    asyncio.run(run())


def test_it_listens_from_its_call_on_and_not_from_its_first_step():
    async def run() -> None:
        engine, heard = engine_with(SystemClock()), list[Step]()
        owed = engine.restore()
        steps = engine.steps_async()
        thread = threading.Thread(target=engine.report, args=("a", "", inputs.StopRequested()))
        thread.start()
        thread.join()
        heard.append(await asyncio.wait_for(anext(steps), 10))

        assert owed == []
        assert [type(effect) for effect in heard[0].effects] == [KillTask]
        await steps.aclose()  # type: ignore[attr-defined]
        assert not engine._groups.recorders

    asyncio.run(run())


def test_it_may_be_made_before_there_is_a_loop():
    engine = engine_with(SystemClock())
    steps = engine.steps_async()
    engine.report("a", "", inputs.StopRequested())

    async def first() -> Step:
        return await asyncio.wait_for(anext(steps), 10)

    assert asyncio.run(first()).alloc == "a"


def test_it_lets_go_when_it_is_closed_or_dropped_without_a_step():
    engine = engine_with(SystemClock())
    steps = engine.steps_async()
    assert len(engine._groups.recorders) == 1
    asyncio.run(steps.aclose())
    assert not engine._groups.recorders
    steps = engine.steps_async()
    assert len(engine._groups.recorders) == 1
    del steps
    gc.collect()
    assert not engine._groups.recorders


def test_what_another_listener_raises_is_the_loops_to_tell_and_ends_nothing():
    async def run() -> None:
        clock = ManualClock(1)
        engine, told = engine_with(clock), list[dict[str, Any]]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        engine.report("a", "web", inputs.Exited(exit_code=1))
        steps = engine.steps_async()

        def refuse(_: Step) -> None:
            raise ValueError("no")

        engine.on_step(refuse)
        clock.advance(60 * 10**9)
        step = await asyncio.wait_for(anext(steps), 10)
        await asyncio.sleep(0)

        assert step.effects == (StartTask(task="web", at_ns=step.effects[0].at_ns),)
        assert [str(context["exception"].exceptions[0]) for context in told] == ["no"]

    asyncio.run(run())
