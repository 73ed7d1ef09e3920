"""A scheduler beside the model: one that is right passes, and each of its planted faults is found and told shortly."""

from __future__ import annotations

import traceback
from collections import deque

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from support.machines import QUICK, SPARE
from support.toy_scheduler import ToyScheduler
from taskfold import Engine, ManualClock, MemoryLog, effects, inputs
from taskfold.events import wire_type
from taskfold.model.dialect import DIALECTS
from taskfold.testing import AllocationStatus, Deviation, SchedulerMachine, TaskStatus
from taskfold.testing import strategies as kit


def machine_of(scheduler, dialect="1.1.2", **more):
    """Return the machine of a scheduler."""
    body = {"dialect": dialect, "make_scheduler": lambda _: scheduler(), **more}
    return type("Machine", (SchedulerMachine,), body)


class ScheduledByTaskfold:
    """taskfold itself as a scheduler: an engine, whose processes begin and end at once."""

    def __init__(self, dialect):
        self.clock = ManualClock(0)
        self.log = MemoryLog(dialect)
        self.processes = set()

    def start(self, job, now_ns):
        self.clock.advance(now_ns)
        self.engine = Engine(self.log, clock=self.clock, seed=1)
        self.engine.place({"ID": "a", "JobID": "example", "TaskGroup": "group", "Job": job})
        self.report("", inputs.PlacementReceived())

    def report(self, task, said):
        self.carry_out([self.engine.report("a", task, said)])

    def carry_out(self, steps):
        owed = deque(effect for step in steps for effect in step.effects)
        while owed:
            effect = owed.popleft()
            if isinstance(effect, effects.StartTask):
                self.processes.add(effect.task)
                owed.extend(self.engine.report("a", effect.task, inputs.ProcessStarted()).effects)
            elif isinstance(effect, effects.KillTask):
                self.processes.discard(effect.task)
                owed.extend(self.engine.report("a", effect.task, inputs.Exited(exit_code=143, signal=15)).effects)

    def advance(self, now_ns):
        self.clock.advance(now_ns - self.clock.time_ns())
        self.carry_out(self.engine.due())

    def exit(self, task, exit_code):
        self.processes.discard(task)
        self.report(task, inputs.Exited(exit_code=exit_code))

    def kill(self):
        self.report("", inputs.StopRequested())

    def restart(self, task):
        self.report(task, inputs.RestartRequested())

    def signal(self, task, signal):
        self.report(task, inputs.SignalRequested(signal=signal))

    def crash(self):
        self.engine = Engine(self.log, clock=self.clock, seed=2)
        for task in sorted(self.processes):
            self.report(task, inputs.Restored())
        self.carry_out(self.engine.restore())

    def observe(self):
        snapshot = self.engine.snapshot("a")
        starts = {
            name: state.memory.start_at_ns
            for name, state in snapshot.tasks.items()
            if state.state == "pending" and state.memory is not None
        }
        return AllocationStatus(
            tasks={
                name: TaskStatus(
                    state=state.state,
                    failed=state.failed,
                    restarts=state.restarts,
                    events=[wire_type(event) for event in state.events],
                    due_ns=starts.get(name),
                )
                for name, state in snapshot.tasks.items()
            },
            client_status=snapshot.client_status,
        )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_engine_of_taskfold_is_a_scheduler_that_does_what_the_model_does(dialect):
    machine = machine_of(lambda: ScheduledByTaskfold(dialect), dialect)
    run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=40))


def test_a_scheduler_that_is_right_passes():
    run_state_machine_as_test(machine_of(ToyScheduler), settings=settings(QUICK, max_examples=100))


class CountsInSeconds(ToyScheduler):
    """Its times are seconds with a fraction, which are not quite exact."""

    def start_again(self, task, due_ns):
        super().start_again(task, int(round(due_ns / 10**9, 6) * 10**9))


def test_a_scheduler_may_be_a_little_less_exact():
    run_state_machine_as_test(machine_of(CountsInSeconds), settings=settings(QUICK, max_examples=40))


class SaysLittle(ToyScheduler):
    """It shows states alone."""

    def observe(self):
        tasks = super().observe().tasks.items()
        return AllocationStatus(tasks={name: TaskStatus(state=task.state, due_ns=task.due_ns) for name, task in tasks})


def test_what_a_scheduler_does_not_say_is_not_compared():
    run_state_machine_as_test(machine_of(SaysLittle), settings=settings(QUICK, max_examples=40))


class OnlyEnds(ToyScheduler):
    """It can do nothing that somebody wants, and cannot come again."""

    kill = restart = signal = crash = None


def test_a_scheduler_is_never_asked_for_what_it_cannot_do():
    machine = machine_of(OnlyEnds, without=frozenset({"kill", "restart", "signal", "crash"}))
    run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=40))


def test_the_jobs_are_those_that_a_machine_names():
    jobs = kit.jobs("1.1.2", type="batch", hooks=False, leader=True, min_tasks=2, max_tasks=2)
    types = set()

    class Noting(ToyScheduler):
        def start(self, job, now_ns):
            tasks = job["TaskGroups"][0]["Tasks"]
            types.add((job["Type"], len(tasks), any(task.get("Leader") for task in tasks)))
            super().start(job, now_ns)

    machine = machine_of(Noting, jobs=lambda _: jobs)
    run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=20))

    assert types == {("batch", 2, True)}


def test_a_machine_that_does_not_say_how_a_scheduler_is_made_is_told_what_to_write():
    with pytest.raises(NotImplementedError, match="def make_scheduler"):
        run_state_machine_as_test(SchedulerMachine, settings=QUICK)


# --- faults ---


class NeverForgets(ToyScheduler):
    """An interval that is over still counts."""

    def count(self, task):
        task.count += 1


class StartsTooSoon(ToyScheduler):
    """The delay is half of what the policy says."""

    def start_again(self, task, due_ns):
        super().start_again(task, (due_ns + self.now_ns) // 2)


class CountsWishes(ToyScheduler):
    """A restart that somebody wants uses up an attempt."""

    def restart(self, task):
        self.count(self.tasks[task])
        super().restart(task)


class GivesUp(ToyScheduler):
    """Mode delay is taken for mode fail."""

    def start(self, job, now_ns):
        group = job["TaskGroups"][0]
        policy = {**group["RestartPolicy"], "Mode": "fail"}
        super().start({**job, "TaskGroups": [{**group, "RestartPolicy": policy}]}, now_ns)


class SparesSiblings(ToyScheduler):
    """A task that failed does not end the others."""

    def reason(self, members, live):
        reason = super().reason(members, live)
        return "" if reason == "Sibling Task Failed" else reason


class OutlivesItsLeader(ToyScheduler):
    """The end of the leader does not end the others."""

    def reason(self, members, live):
        reason = super().reason(members, live)
        return "" if reason == "Leader Task Dead" else reason


class DoesNotPrepare(ToyScheduler):
    """Main tasks do not wait for those that prepare them."""

    def is_stage_over(self):
        return self.stage == "prestart" or super().is_stage_over()


class NeverCleansUp(ToyScheduler):
    """Tasks of the stage poststop are never started."""

    def may_start(self, task):
        return task.hook != "poststop" and super().may_start(task)


class NeverEnds(ToyScheduler):
    """What ended well is started again, in a batch job, too."""

    def start(self, job, now_ns):
        super().start({**job, "Type": "service"}, now_ns)


class StartsTheKilled(ToyScheduler):
    """A kill does not cancel the start of a task that waits for its delay."""

    def kill_task(self, task):
        due_ns = task.due_ns
        super().kill_task(task)
        task.due_ns = due_ns


class ForgetsInACrash(ToyScheduler):
    """A crash loses how many attempts were used up."""

    def crash(self):
        super().crash()
        for task in self.tasks.values():
            task.count = 0


class ShowsTheFailedAsComplete(ToyScheduler):
    """The status of an allocation leaves out that a task failed."""

    def client_status(self):
        status = super().client_status()
        return "complete" if status == "failed" else status


FAULTS = [
    (NeverForgets, {"state"}, 4),
    (StartsTooSoon, {"starts again"}, 2),
    (CountsWishes, {"state", "starts again"}, 3),
    (GivesUp, {"state"}, 4),
    (SparesSiblings, {"state"}, 2),
    (OutlivesItsLeader, {"events"}, 2),
    (DoesNotPrepare, {"state"}, 1),
    (NeverCleansUp, {"state"}, 2),
    (NeverEnds, {"events"}, 2),
    (StartsTheKilled, {"starts again"}, 3),
    (ForgetsInACrash, {"state", "starts again"}, 5),
    (ShowsTheFailedAsComplete, {"client status"}, 2),
]


@pytest.mark.parametrize(("scheduler", "fields", "steps"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
def test_a_fault_is_found_and_told_in_the_fewest_steps(scheduler, fields, steps):
    # A fault that is about crashes alone takes many runs until the rest of them happens to be out of the way.
    without = frozenset({"kill", "restart", "signal"}) if scheduler is ForgetsInACrash else frozenset()
    with pytest.raises(Deviation) as deviation:
        run_state_machine_as_test(machine_of(scheduler, without=without), settings=QUICK)

    assert fields & {each.field for each in deviation.value.fields}
    assert steps <= len(deviation.value.steps) <= steps + SPARE
    report = "".join(traceback.format_exception_only(deviation.value))
    assert len(report.splitlines()) <= 30
    assert max(map(len, report.splitlines())) <= 240


def test_a_deviation_says_which_task_which_field_and_both_values():
    policy = {"Attempts": 1, "Interval": 5 * 10**9, "Delay": 10**9, "Mode": "fail"}
    group = {"Name": "group", "RestartPolicy": policy, "Tasks": [{"Name": "web"}, {"Name": "db", "Leader": True}]}
    machine = machine_of(StartsTooSoon)()
    machine.start({"ID": "example", "Type": "service", "TaskGroups": [group]})
    machine.wait(60)
    with pytest.raises(Deviation) as deviation:
        machine.fail("web")

    assert str(deviation.value) == (
        "the scheduler deviates from the model (1.1.2)\n"
        "  web starts again: model 'in 1s to 1.25s', scheduler 'in 550ms'\n"
        "after\n"
        "  start <service job of web, db (leader); attempts 1 in 5s, delay 1s, mode fail>\n"
        "  wait 1m0s\n"
        "  exit web with 1"
    )
