"""Steps on an event loop: each decision once and in order, and what is due at its time."""

from __future__ import annotations

import asyncio
import threading

from taskfold import Engine, ManualClock, SystemClock, inputs
from taskfold.effects import StartTask, Step
from taskfold.steps_async import steps_async

POLICY = {"Attempts": 3, "Interval": 60 * 10**9, "Delay": 20_000_000, "Mode": "fail"}
JOB = {"TaskGroups": [{"Name": "group", "RestartPolicy": POLICY, "Tasks": [{"Name": "web"}]}]}


def engine_with(clock: ManualClock | SystemClock) -> Engine:
    """Return an engine whose one task runs."""
    engine = Engine(dialect="1.1.2", clock=clock, seed=1)
    engine.place({"ID": "a", "TaskGroup": "group", "Job": JOB})
    engine.report("a", "", inputs.Placed())
    engine.report("a", "web", inputs.Started())
    return engine


async def listen(engine: Engine, heard: list[Step]) -> None:
    """Collect the steps."""
    async for step in steps_async(engine):
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
        assert engine._listeners == []

    asyncio.run(run())
