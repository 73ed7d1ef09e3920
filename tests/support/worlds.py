"""An engine on a log whose calls are interrupted, and what is compared afterwards."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

from taskfold import Engine, ManualClock, Retention, events, inputs
from taskfold.effects import Step
from taskfold.fold.allocation import Fold
from taskfold.log.check import check_log
from taskfold.log.contract import kept_records
from taskfold.log.memory import MemoryLog
from taskfold.model.record import Record, Write
from taskfold.nomad.importing.observation import observation_from_json

HOW_MANY: Final = os.environ.get("TASKFOLD_INTERRUPTIONS", "2")


SEED: Final = int(os.environ.get("TASKFOLD_SEED", "15"))


SECOND: Final = 1_000_000_000


POLICY = {"Attempts": 10, "Interval": 3600 * SECOND, "Delay": 5 * SECOND, "Mode": "delay"}


JOB = {"TaskGroups": [{"Name": "group", "RestartPolicy": POLICY, "Tasks": [{"Name": "web"}]}]}


class Model:
    """What is bound to a task."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_enter_running(self, _: Any) -> None:
        self.heard.append("running")


class Asked(Model):
    """A model that may refuse."""

    def before_started(self, _: Any) -> None:
        """Agree."""


class World:
    """An engine on a log, and what is made ready for a call that is to be interrupted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock = ManualClock(SECOND)
        self.open()
        self.count = 0

    def open(self) -> None:
        if self.name == "memory":
            self.memory = getattr(self, "memory", None) or MemoryLog("1.1.2")
            self.engine = Engine(self.memory, clock=self.clock, seed=SEED)
        else:
            self.engine = Engine.open(self.name, dialect="1.1.2", clock=self.clock, seed=SEED)
        self.heard: list[Step] = []
        self.collected: list[str] = []
        self.engine.on_step(self.heard.append)
        for _ in range(2):  # one may be interrupted itself
            self.engine.on_collect(lambda snapshot, _: self.collected.append(snapshot.id))

    @property
    def log(self) -> Any:
        return self.engine.store.log

    def new(self, *said: events.TaskEvent | inputs.Input) -> str:
        """Place another allocation, and tell what happened to its task."""
        self.count += 1
        self.clock.advance(1)
        alloc = f"alloc-{self.count}"
        self.engine.place({"ID": alloc, "JobID": "example", "TaskGroup": "group", "Job": JOB})
        for one in said:
            if isinstance(one, events.TaskEvent):
                self.engine.record(alloc, "web", one)
            else:
                self.engine.report(alloc, "" if isinstance(one, inputs.PlacementReceived) else "web", one)
        return alloc

    # --- what is interrupted ---

    def record(self) -> Callable[[], object]:
        alloc = self.new(events.Received())
        return lambda: self.engine.record(alloc, "web", events.Started(), id=f"id-{alloc}")

    def record_bound(self) -> Callable[[], object]:
        alloc = self.new(events.Received())
        self.model = Model()
        self.engine.bind(alloc, "web", self.model)
        return lambda: self.engine.record(alloc, "web", events.Started())

    def record_asked(self) -> Callable[[], object]:
        alloc = self.new(events.Received())
        self.model = Asked()
        self.engine.bind(alloc, "web", self.model)
        return lambda: self.engine.record(alloc, "web", events.Started())

    def append(self) -> Callable[[], object]:
        allocs = [self.new() for _ in range(3)]
        writes = [Write(alloc=alloc, task="web", event=events.Received()) for alloc in allocs]
        writes += [Write(alloc=alloc, task="web", event=events.Started()) for alloc in allocs]
        return lambda: self.engine.append(writes)

    def place(self) -> Callable[[], object]:
        self.count += 1
        return lambda: self.engine.place({"ID": f"alloc-{self.count}", "NodeID": "n"})

    def update(self) -> Callable[[], object]:
        alloc = self.new()
        return lambda: self.engine.update(alloc, {"JobID": "another", "DesiredStatus": "stop"})

    def observe(self) -> Callable[[], object]:
        self.count += 1
        text = b'{"ID":"alloc-%d","ModifyIndex":%d,"NodeID":"n"}' % (self.count, self.engine.index + 1)
        seen = observation_from_json(text, "body")
        return lambda: self.engine.observe(seen)

    def report(self) -> Callable[[], object]:
        alloc = self.new(inputs.PlacementReceived(), inputs.ProcessStarted())
        return lambda: self.engine.report(alloc, "web", inputs.Exited(exit_code=1))

    def report_batch(self) -> Callable[[], object]:
        allocs = [self.new(inputs.PlacementReceived(), inputs.ProcessStarted()) for _ in range(2)]
        reports = [inputs.PostedInput(alloc=alloc, task="web", input=inputs.Exited(exit_code=1)) for alloc in allocs]
        return lambda: self.engine.report_batch(reports)

    def due(self) -> Callable[[], object]:
        for _ in range(2):
            self.new(inputs.PlacementReceived(), inputs.ProcessStarted(), inputs.Exited(exit_code=1))
        self.clock.advance(10 * SECOND)
        return self.engine.due

    def collect(self) -> Callable[[], object]:
        alloc = self.new(events.Started(), events.NotRestarting())
        return lambda: self.engine.collect(alloc)

    def retain(self) -> Callable[[], object]:
        for _ in range(2):
            self.new(events.Started(), events.NotRestarting())
        return lambda: self.engine.retain(Retention(keep=0))

    def compact(self) -> Callable[[], object]:
        self.engine.collect(self.new(events.Started(), events.NotRestarting()))
        return self.engine.compact

    def checkpoint(self) -> Callable[[], object]:
        self.new(events.Received())
        return self.engine.checkpoint

    def list_by_status(self) -> Callable[[], object]:
        for _ in range(2):
            self.new(events.Started())
        return lambda: list(self.engine.allocations(status="running"))

    def close(self) -> Callable[[], object]:
        self.new(events.Started())
        return self.engine.close

    def reopen(self) -> Callable[[], object]:
        self.new(events.Started())
        self.engine.close()
        return self.open


def told(world: World) -> list[Record]:
    return list(kept_records(world.log))


def wrong_with(world: World) -> list[str]:
    """Return in what the state is not what the log says, or is not whole."""
    engine, records = world.engine, told(world)
    wrong = []
    positions = [record.seq for record in records]
    if positions != sorted(set(positions)):
        wrong.append(f"positions {positions[-10:]}")
    if world.name != "memory" and positions and world.log.seq != positions[-1]:
        wrong.append(f"the log is at {world.log.seq}, its records at {positions[-1]}")
    fold = Fold(engine.dialect, on_illegal="keep")
    fold.apply_all(records)
    expected = {alloc: found.freeze() for alloc, found in fold.allocations.items() if not found.collected}
    state = {alloc: found.freeze() for alloc, found in engine.store.fold.allocations.items()}
    if state != expected:
        differ = [alloc for alloc in {*state, *expected} if state.get(alloc) != expected.get(alloc)]
        wrong.append(f"the state differs in {differ}")
    if positions and engine.store.seq != positions[-1]:
        wrong.append(f"the state is at {engine.store.seq}, the log at {positions[-1]}")
    if engine.index < max((record.index for record in records), default=0):
        wrong.append("the index is behind")
    for (alloc, task), binding in engine._turns.models.bindings.items():
        if binding.model.state != engine.task(alloc, task).state:
            wrong.append(f"the model of {alloc} is {binding.model.state}")
    try:
        engine._check()
    except AssertionError as error:
        wrong.append(f"_check: {error!r}")
    return wrong + held(world)


def held(world: World) -> list[str]:
    """Return which locks are held still."""
    found: list[str] = []

    def take() -> None:
        for name, lock in (("turn", world.engine.store.turn), ("lock", world.engine.store.lock)):
            if lock.acquire(timeout=5):
                lock.release()
            else:
                found.append(f"the {name} is held")

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    if world.name.startswith("postgresql"):
        import psycopg

        with psycopg.connect(world.name, autocommit=True) as other:
            try:
                other.execute("SELECT seq FROM taskfold_head FOR UPDATE NOWAIT")
            except psycopg.errors.LockNotAvailable:
                found.append("the head of the log is held")
    if world.name.endswith(".db") and world.log._database.in_transaction:
        found.append("a transaction is open")
    return found


def goes_on(world: World) -> list[str]:
    """Write, close, open again, and write again; return what is wrong with any of it."""
    alloc = world.new(events.Received(), events.Started())
    wrong = wrong_with(world)
    before = told(world)
    world.engine.close()
    if world.name != "memory" and not (checked := check_log(world.name)).is_whole:
        wrong.append(f"--check: {checked.damages}")
    world.open()
    if told(world) != before:
        wrong.append("another log is opened than was closed")
    world.engine.record(alloc, "web", events.Terminated(exit_code=1))
    return wrong + wrong_with(world)
