"""The contract of drivers: one that keeps it passes, and each promise is broken by a fault that its test finds."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from support.toy_driver import ToyDriver, ToyProcess
from taskfold import Engine, MemoryLog
from taskfold.inputs import Exited, ProcessStarted, StartFailed
from taskfold.run.supervisor import Supervisor
from taskfold.testing import DriverContract, Run


class ToyContract(DriverContract):
    process = ToyProcess
    driver = ToyDriver
    patience_s = 1

    def make_driver(self):
        self.lives = getattr(self, "lives", {})
        return type("Driver", (self.driver,), {"process": self.process})(self.lives)

    def make_task(self, run):
        return {"Driver": "toy", "Config": {"run": msgspec.json.encode(run).decode()}}

    def lose(self, handle):
        self.lives[handle["Number"]].is_gone = True


class TestToyDriver(ToyContract):
    """A driver of one's own keeps the contract."""


PROMISES = [name for name in dir(DriverContract) if name.startswith("test_")]


class NeverStarts(ToyProcess):
    async def reports(self):
        async for report in super().reports():
            if not isinstance(report, ProcessStarted):
                yield report


class AlwaysEndsWell(ToyProcess):
    def go(self):
        super().go()
        if isinstance(self.life.end, Exited):
            self.life.end = Exited()


class SaysTheSignalAlone(ToyProcess):
    def end(self):
        end = super().end()
        return Exited(exit_code=0, signal=15) if end == Exited(exit_code=143, signal=15) else end


class CannotKill(ToyProcess):
    def send(self, name):
        super().send("SIGTERM" if self.life.has_begun else name)


class Raises(ToyProcess):
    def send(self, name):
        if self.is_over:
            raise ProcessLookupError
        super().send(name)


class GoesAtOnce(ToyDriver):
    def prepare(self, *arguments):
        process = super().prepare(*arguments)
        process.go()
        return process


class ExitsWhenItCannotStart(ToyProcess):
    def go(self):
        super().go()
        if isinstance(self.life.end, StartFailed):
            self.life.end = Exited(exit_code=127)


class ReportsToOneAtATime(ToyProcess):
    async def reports(self):
        if getattr(self.life, "is_awaited", False):
            await asyncio.Event().wait()
        self.life.is_awaited = True
        async for report in super().reports():
            yield report
        self.life.is_awaited = False


class FindsNothing(ToyDriver):
    def find(self, handle, directory):
        process = super().find(handle, directory)
        process.life = type(process.life)(process.life.run, is_gone=True)
        return process


class ForgetsTheEnd(ToyDriver):
    def find(self, handle, directory):
        process = super().find(handle, directory)
        if process.is_over:
            process.life = type(process.life)(process.life.run, has_begun=True, is_gone=True)
        return process


class TakesItForAnExit(ToyProcess):
    def end(self):
        end = super().end()
        return Exited() if isinstance(end, StartFailed) else end


class InventsAnEnd(ToyProcess):
    def end(self):
        end = super().end()
        return Exited() if isinstance(end, Exited) and end.exit_code is None else end


class OnlyAsksToEnd(ToyProcess):
    def close(self):
        self.send("SIGTERM" if self.life.has_begun else "SIGKILL")


class HasOneProcess(ToyDriver):
    def prepare(self, *arguments):
        process = super().prepare(*arguments)
        if len(self.lives) > 1:
            del self.lives[2]
            process = self.process(self.lives, 1)
        return process


FAULTS = {
    "test_a_process_reports_that_it_runs_and_then_that_it_ended": NeverStarts,
    "test_an_exit_code_is_reported_as_it_was": AlwaysEndsWell,
    "test_what_a_signal_ended_has_the_signal_and_128_more_as_exit_code": SaysTheSignalAlone,
    "test_what_ignores_its_signal_is_ended_by_sigkill": CannotKill,
    "test_an_end_is_reported_to_each_who_waits_whoever_gives_up": ReportsToOneAtATime,
    "test_a_signal_to_what_is_over_does_nothing": Raises,
    "test_nothing_runs_before_it_is_told_to_go": GoesAtOnce,
    "test_what_cannot_start_says_why_and_has_no_exit": ExitsWhenItCannotStart,
    "test_a_process_that_runs_is_found_by_its_handle": FindsNothing,
    "test_a_process_that_ended_meanwhile_is_found_with_its_end": ForgetsTheEnd,
    "test_a_process_that_never_began_is_neither_running_nor_over": TakesItForAnExit,
    "test_a_process_that_is_lost_has_ended_in_a_way_that_nobody_knows": InventsAnEnd,
    "test_closing_ends_the_process": OnlyAsksToEnd,
    "test_a_task_that_starts_again_has_a_process_of_its_own": HasOneProcess,
}


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise_is_seen_to_be_broken(promise, tmp_path):
    fault = FAULTS[promise]
    contract = ToyContract()
    if issubclass(fault, ToyDriver):
        contract.driver = fault
    else:
        contract.process = fault

    with pytest.raises((AssertionError, ProcessLookupError, StopAsyncIteration)):
        getattr(contract, promise)(tmp_path)


def test_a_contract_that_does_not_say_how_a_driver_is_made_is_told_what_to_write():
    with pytest.raises(NotImplementedError, match="def make_driver"):
        DriverContract().make_driver()
    with pytest.raises(NotImplementedError, match="def make_task"):
        DriverContract().make_task(Run())


# --- the supervisor has drivers of one's own ---


def toy_job(*runs):
    tasks = [{"Name": f"task-{number}", **ToyContract().make_task(run)} for number, run in enumerate(runs, 1)]
    policy = {"Attempts": 0, "Delay": 10**9, "Interval": 60 * 10**9, "Mode": "fail"}
    group = {"Name": "group", "RestartPolicy": policy, "Tasks": tasks}
    return {"ID": "example", "Name": "example", "Type": "batch", "TaskGroups": [group]}


def supervise(engine, job, folder, **more):
    async def run():
        supervisor = Supervisor(engine, folder, **more)
        [alloc] = supervisor.place(job)
        await asyncio.wait_for(supervisor.run(), 30)
        return alloc

    return asyncio.run(run())


def test_a_supervisor_runs_the_tasks_of_a_driver_of_ones_own(tmp_path):
    engine = Engine(MemoryLog("1.1.2"), seed=1)
    alloc = supervise(engine, toy_job(Run(after_ns=0)), tmp_path, drivers={"toy": ToyDriver({})})

    assert engine.snapshot(alloc).client_status == "complete"


def test_a_driver_that_is_not_there_fails_its_task_and_is_named(tmp_path):
    engine = Engine(MemoryLog("1.1.2"), seed=1)
    alloc = supervise(engine, toy_job(Run(after_ns=0)), tmp_path)

    assert engine.snapshot(alloc).client_status == "failed"
    errors = [getattr(event, "validation_error", "") for event in engine.task(alloc, "task-1").events]
    assert "driver 'toy' is not known here; there is raw_exec" in errors
