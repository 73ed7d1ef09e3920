"""The contract of every driver, as tests.

Inherit from `DriverContract`, say how a driver is made, and let pytest find it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import msgspec
import pytest

from taskfold.model.dialect import dialect_of
from taskfold.model.inputs import Exited, ProcessStarted, StartFailed
from taskfold.nomad.jobs.canonical import canonical_job
from taskfold.nomad.views.decode import view
from taskfold.nomad.views.job import Job
from taskfold.run.driver import DriverProcess, Handle, TaskDriver
from taskfold.run.environment import Placement, environment_of
from taskfold.run.task_directory import TaskDirectory
from taskfold.testing.worlds import Run

__all__ = ["DriverContract", "DriverProcess", "TaskDriver"]

T = TypeVar("T")

_POLL_S: Final = 0.01
_WHILE_S: Final = 0.1
"""How long is looked whether something does not happen."""

_ENDS: Final = Run(after_ns=0, exit_code=7)
_STAYS: Final = Run()
_STUBBORN: Final = Run(ignores_kill=True)
_BROKEN: Final = Run(fails_to_start="no such command")


class DriverContract:
    """The contract of drivers: starts, ends, signals, and that a process is found again.

    A subclass says how a driver is made, and which task behaves as a `Run` says. `make_driver` is called anew where a
    supervisor comes again: the new driver must find what the one before has started.
    """

    patience_s: ClassVar[float] = 30
    """How long anything may take, in seconds."""

    # --- what a subclass says ---

    def make_driver(self) -> TaskDriver:
        """Return a driver."""
        raise NotImplementedError("say how the driver is made: def make_driver(self): return MyDriver()")

    def make_task(self, run: Run) -> dict[str, Any]:
        """Return a task as jobs have it, with ``Driver`` and ``Config``, whose process goes as the run says.

        Four runs are asked for: it ends at once with exit code 7; it runs until a signal ends it; it ignores every
        signal but ``SIGKILL``; it cannot be started.
        """
        raise NotImplementedError('say how a task is made: def make_task(self, run): return {"Driver": …, "Config": …}')

    def is_ready(self, directory: Path) -> bool:  # noqa: ARG002 - of those that have to look
        """Tell whether the process in this working directory, which runs, does what its run says on signals."""
        return True

    def lose(self, handle: Handle) -> None:  # noqa: ARG002 - of those that can
        """Let the driver lose a process that runs, so that nobody will know how it ends; skips without a way to."""
        pytest.skip("nothing says how a process is lost: def lose(self, handle)")

    # --- the promises ---

    def test_a_process_reports_that_it_runs_and_then_that_it_ended(self, tmp_path: Path) -> None:
        """A process reports that it runs, and then that it ended."""

        async def check() -> None:
            with closing(self._prepare(_STAYS, tmp_path)) as process:
                process.go()
                reports = process.reports()
                assert await anext(reports) == ProcessStarted()
                assert (process.is_started, process.is_alive, process.is_over) == (True, True, False)
                await self._ready(tmp_path)
                process.send("SIGTERM")
                assert [type(report) async for report in reports] == [Exited]
                assert (process.is_started, process.is_alive, process.is_over) == (True, False, True)

        self._run(check())

    def test_an_exit_code_is_reported_as_it_was(self, tmp_path: Path) -> None:
        """An exit code is reported as it was."""

        async def check() -> None:
            with closing(self._prepare(_ENDS, tmp_path)) as process:
                process.go()
                reports = [report async for report in process.reports()]
                assert reports == [ProcessStarted(), Exited(exit_code=7)]
                assert process.end() == Exited(exit_code=7)

        self._run(check())

    def test_what_a_signal_ended_has_the_signal_and_128_more_as_exit_code(self, tmp_path: Path) -> None:
        """A process that a signal ended has the signal, and 128 more as its exit code."""

        async def check() -> None:
            with closing(await self._start(_STAYS, tmp_path)) as process:
                process.send("SIGTERM")
                assert await self._end(process) == Exited(exit_code=143, signal=15)

        self._run(check())

    def test_what_ignores_its_signal_is_ended_by_sigkill(self, tmp_path: Path) -> None:
        """A process that ignores its signal runs on, and is ended by SIGKILL."""

        async def check() -> None:
            with closing(await self._start(_STUBBORN, tmp_path)) as process:
                process.send("SIGTERM")
                await asyncio.sleep(_WHILE_S)
                assert not process.is_over
                process.send("SIGKILL")
                assert await self._end(process) == Exited(exit_code=137, signal=9)

        self._run(check())

    def test_an_end_is_reported_to_each_who_waits_whoever_gives_up(self, tmp_path: Path) -> None:
        """An end is reported to each waiter, also when another one gives up."""

        async def check() -> None:
            with closing(await self._start(_STAYS, tmp_path)) as process:
                one, other = (asyncio.ensure_future(self._end(process)) for _ in range(2))
                await asyncio.sleep(_WHILE_S)
                one.cancel()
                await asyncio.wait({one})
                gc.collect()
                process.send("SIGTERM")
                assert await other == Exited(exit_code=143, signal=15)

        self._run(check())

    def test_a_signal_to_what_is_over_does_nothing(self, tmp_path: Path) -> None:
        """A signal to what is over does nothing, and neither does a second close."""

        async def check() -> None:
            with closing(await self._start(_ENDS, tmp_path)) as process:
                assert await self._end(process) == Exited(exit_code=7)
                process.send("SIGTERM")
                process.close()
                assert process.end() == Exited(exit_code=7)

        self._run(check())

    def test_nothing_runs_before_it_is_told_to_go(self, tmp_path: Path) -> None:
        """Nothing runs before it is told to go, and SIGKILL gives it up."""

        async def check() -> None:
            with closing(self._prepare(_ENDS, tmp_path)) as process:
                await asyncio.sleep(_WHILE_S)
                assert (process.is_started, process.is_alive, process.is_over) == (False, True, False)
                process.send("SIGKILL")
                assert [type(report) async for report in process.reports()] == [StartFailed]

        self._run(check())

    def test_what_cannot_start_says_why_and_has_no_exit(self, tmp_path: Path) -> None:
        """A task that cannot start says why, by a report or by an error, and has no exit."""

        async def check() -> None:
            try:
                process = self._prepare(_BROKEN, tmp_path)
            except (OSError, ValueError):
                return
            with closing(process):
                process.go()
                reports = [report async for report in process.reports()]
                assert [type(report) for report in reports] == [StartFailed]
                assert all(isinstance(report, StartFailed) and report.error for report in reports)
                assert not process.is_started

        self._run(check())

    def test_a_process_that_runs_is_found_by_its_handle(self, tmp_path: Path) -> None:
        """A process that runs is found by its handle, from JSON, and reports its start again and its end."""

        async def check() -> None:
            process = await self._start(_STAYS, tmp_path)
            with closing(process), closing(self._find(process.handle, tmp_path)) as again:
                assert (again.is_started, again.is_alive, again.is_over) == (True, True, False)
                again.send("SIGTERM")
                reports = [report async for report in again.reports()]
                assert reports == [ProcessStarted(), Exited(exit_code=143, signal=15)]

        self._run(check())

    def test_a_process_that_ended_meanwhile_is_found_with_its_end(self, tmp_path: Path) -> None:
        """A process that ended meanwhile is found with its end."""

        async def check() -> None:
            with closing(await self._start(_ENDS, tmp_path)) as process:
                await self._end(process)
                again = self._find(process.handle, tmp_path)
                assert (again.is_started, again.is_alive, again.is_over) == (True, False, True)
                assert again.end() == Exited(exit_code=7)

        self._run(check())

    def test_a_process_that_never_began_is_neither_running_nor_over(self, tmp_path: Path) -> None:
        """A process that never began is neither running nor over: its start failed, and may succeed later."""

        async def check() -> None:
            process = self._prepare(_STAYS, tmp_path)
            process.close()
            await self._until(lambda: not self._find(process.handle, tmp_path).is_alive)
            again = self._find(process.handle, tmp_path)
            assert (again.is_started, again.is_over) == (False, False)
            end = again.end()
            assert isinstance(end, StartFailed)
            assert end.recoverable

        self._run(check())

    def test_a_process_that_is_lost_has_ended_in_a_way_that_nobody_knows(self, tmp_path: Path) -> None:
        """A process that is lost is ended, and has ended in a way that nobody knows."""

        async def check() -> None:
            with closing(await self._start(_STAYS, tmp_path)) as process:
                self.lose(process.handle)
                await self._until(lambda: not self._find(process.handle, tmp_path).is_alive)
                again = self._find(process.handle, tmp_path)
                assert (again.is_started, again.is_over) == (True, False)
                again.end_orphan()
                end = again.end()
                assert isinstance(end, Exited)
                assert end.exit_code is None

        self._run(check())

    def test_closing_ends_the_process(self, tmp_path: Path) -> None:
        """Closing ends the process."""

        async def check() -> None:
            process = await self._start(_STUBBORN, tmp_path)
            process.close()
            assert not process.is_alive
            await self._until(lambda: not self._find(process.handle, tmp_path).is_alive)

        self._run(check())

    def test_a_task_that_starts_again_has_a_process_of_its_own(self, tmp_path: Path) -> None:
        """A task that starts again has another process in the same directory, with a handle of its own."""

        async def check() -> None:
            with closing(await self._start(_ENDS, tmp_path)) as first:
                await self._end(first)
            with closing(self._prepare(_STAYS, tmp_path)) as second:
                assert second.handle != first.handle
                assert (second.is_started, second.is_alive, second.is_over) == (False, True, False)

        self._run(check())

    # --- how they are tried ---

    def _prepare(self, run: Run, folder: Path) -> DriverProcess:
        """Return a process that may go."""
        dialect = dialect_of("1.1.2")
        task = {"Name": "main", **self.make_task(run)}
        group = {"Name": "group", "Tasks": [task]}
        job = {"ID": "example", "Name": "example", "Type": "batch", "TaskGroups": [group]}
        whole = view(canonical_job(msgspec.json.encode(job), dialect, region="global"), Job, path="$")
        [its_group] = whole.task_groups or ()
        [its_task] = its_group.tasks or ()
        placement = Placement(dialect, "global", whole, its_group, "example.group[0]")
        directory = _directory(folder)
        return self.make_driver().prepare(its_task, environment_of(placement, its_task, directory), directory)

    async def _start(self, run: Run, folder: Path) -> DriverProcess:
        """Return a process that runs, or has run."""
        process = self._prepare(run, folder)
        process.go()
        assert await anext(process.reports()) == ProcessStarted()
        if run is not _ENDS:
            await self._ready(folder)
        return process

    async def _ready(self, folder: Path) -> None:
        await self._until(lambda: self.is_ready(_directory(folder).path))

    def _find(self, handle: Handle, folder: Path) -> DriverProcess:
        """Return the process of a handle, as a supervisor has it that comes later."""
        text = msgspec.json.encode(handle)
        return self.make_driver().find(msgspec.json.decode(text), _directory(folder))

    async def _end(self, process: DriverProcess) -> StartFailed | Exited | ProcessStarted:
        """Return how a process ends."""
        return [report async for report in process.reports()][-1]

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():  # noqa: ASYNC110 - of a process that nobody else looks at
            await asyncio.sleep(_POLL_S)

    def _run(self, check: Coroutine[Any, Any, None]) -> None:
        """Run a check to its end. Raises AssertionError where that takes too long."""
        asyncio.run(self._in_time(check))

    async def _in_time(self, check: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(check, self.patience_s)
        except TimeoutError:
            raise AssertionError(f"it takes longer than {self.patience_s} s") from None


def _directory(folder: Path) -> TaskDirectory:
    return TaskDirectory(folder, "alloc", "main")
