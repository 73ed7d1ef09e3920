"""Interruptions: whatever is raised at whatever instruction, the log and the state are one, and go on together.

Each call is interrupted at places that a seed chooses (`TASKFOLD_INTERRUPTIONS` says at how many of each call, `all` is
every one), once, and sometimes once more while that is put right.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from interrupting import interrupted
from postgres import Server, server
from taskfold import Engine, ManualClock, Retention, events, ingest, inputs, replay
from taskfold.allocation import Fold
from taskfold.decide import due_of
from taskfold.effects import Step
from taskfold.errors import LogError
from taskfold.log.check import check_log
from taskfold.log.contract import Append, kept_records
from taskfold.log.memory import MemoryLog
from taskfold.log.ndjson import NdjsonLog
from taskfold.log.opening import open_log
from taskfold.nomad.observation import observation_from_json
from taskfold.record import Record, Write
from taskfold.testing.logs import record_of
from taskfold.watch import Waiter

# A file, or a connection, that was opened when it was interrupted is closed by the interpreter, which says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

HOW_MANY: Final = os.environ.get("TASKFOLD_INTERRUPTIONS", "2")
SEED: Final = int(os.environ.get("TASKFOLD_SEED", "15"))
ALARMS: Final = int(os.environ.get("TASKFOLD_ALARMS", "12"))
ALARMED: Final = Path(__file__).parent / "alarmed.py"
RUNS_PER_LOG: Final = 20
SECOND: Final = 1_000_000_000
STORES: Final = ["memory", "x.jsonl", "x.db", "postgresql"]
POLICY = {"Attempts": 10, "Interval": 3600 * SECOND, "Delay": 5 * SECOND, "Mode": "delay"}
JOB = {"TaskGroups": [{"Name": "group", "RestartPolicy": POLICY, "Tasks": [{"Name": "web"}]}]}


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=STORES)
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], World]]:
    """Return what begins a log, and an engine on it; the one that was begun before is closed."""
    made: list[World] = []

    def begin() -> World:
        name = request.param
        if name == "postgresql":
            name = request.getfixturevalue("database").new_schema()
        elif name != "memory":
            name = str(tmp_path / f"{len(made)}-{name}")
        made.append(World(name))
        if made[:-1]:
            made[-2].engine.close()
        return made[-1]

    yield begin
    made[-1].engine.close()


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
                self.engine.report(alloc, "" if isinstance(one, inputs.Placed) else "web", one)
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
        alloc = self.new(inputs.Placed(), inputs.Started())
        return lambda: self.engine.report(alloc, "web", inputs.Exited(exit_code=1))

    def report_batch(self) -> Callable[[], object]:
        allocs = [self.new(inputs.Placed(), inputs.Started()) for _ in range(2)]
        reports = [inputs.Said(alloc=alloc, task="web", input=inputs.Exited(exit_code=1)) for alloc in allocs]
        return lambda: self.engine.report_batch(reports)

    def due(self) -> Callable[[], object]:
        for _ in range(2):
            self.new(inputs.Placed(), inputs.Started(), inputs.Exited(exit_code=1))
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
    for (alloc, task), binding in engine._bindings.items():
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


def places_of(call: Callable[[], object]) -> int:
    """Return at how many places a call can be interrupted."""
    return interrupted(call, 0)[1]


CALLS: Final = [
    "record",
    "record_bound",
    "record_asked",
    "append",
    "place",
    "update",
    "observe",
    "report",
    "report_batch",
    "due",
    "collect",
    "retain",
    "compact",
    "checkpoint",
    "list_by_status",
    "close",
    "reopen",
]


@pytest.mark.parametrize("name", CALLS)
def test_what_is_interrupted_at_any_instruction_leaves_log_and_state_equal(
    begin: Callable[[], World], name: str
) -> None:
    world = begin()
    chance = random.Random(f"{SEED} {name} {world.name[:4]}")
    places = places_of(getattr(world, name)())
    every = range(1, places + 1)
    chosen = every if HOW_MANY == "all" else chance.sample(every, min(int(HOW_MANY), places))
    for count, n in enumerate(chosen):
        if count % RUNS_PER_LOG == 0:
            world = begin()
        again = chance.choice([0, 0, chance.randrange(1, 60)])
        wrong = interrupt(world, name, n, again)
        assert not wrong, f"{name} at {n} of {places}, and {again} later: TASKFOLD_SEED={SEED}"


def interrupt(world: World, name: str, n: int, again: int) -> list[str]:
    """Interrupt a call, and return what is wrong then, and when it was gone on with."""
    call = getattr(world, name)()
    before = told(world)
    woken: list[int] = []
    world.engine.store.watches.add(Waiter(lambda: woken.append(1)), "any")
    world.heard.clear()
    world.collected.clear()
    is_raised, _ = interrupted(call, n, again)
    if name in {"close", "reopen"}:
        with suppress(LogError):
            world.engine.close()
        world.open()
        return goes_on(world)
    # Interrupted once, it is put right before anybody can look; twice, by the next call.
    after = world.new() if again else ""
    wrong = wrong_with(world)
    newest = max((record.seq for record in before), default=0)
    new = [record for record in told(world) if record.seq > newest and record.alloc != after]
    expected = EXPECTED.get(name)
    if expected is not None and len(new) not in {0, expected}:
        wrong.append(f"{len(new)} records of {expected}")
    if expected and not is_raised and not new:
        wrong.append("it was acknowledged, and is not there")
    if new and not woken:
        wrong.append("nobody was woken")
    if not again:
        wrong += heard_wrong(world, name, new)
    if name != "compact" and told(world)[: len(before)] != before:
        wrong.append("records are gone")
    return wrong + goes_on(world)


EXPECTED: Final = {
    **dict.fromkeys(("list_by_status", "checkpoint", "compact"), 0),
    **dict.fromkeys(("record", "record_bound", "record_asked", "place", "update", "observe", "collect"), 1),
    "append": 6,
    "report": 3,
    "report_batch": 6,
}
"""How many records a call writes: all of them, or none."""


def heard_wrong(world: World, name: str, new: list[Record]) -> list[str]:
    """Return who was not told of what was recorded, or of what was not."""
    if name in {"report", "report_batch", "due"}:
        there = {record.alloc for record in new}
        heard = {step.alloc for step in world.heard if step.written}
        if heard != there:
            return [f"recorded were {there}, and heard {heard}"]
    # Its callback itself may be what was interrupted.
    if name in {"record_bound", "record_asked"} and len(world.model.heard) > len(new):
        return [f"recorded were {len(new)}, and the model heard {world.model.heard}"]
    if name in {"report", "report_batch"}:
        tasks = {alloc: world.engine.store.fold.allocations[alloc].tasks["web"] for alloc in {r.alloc for r in new}}
        planned = {alloc: world.engine._decider.timers.get(alloc, "web") for alloc in tasks}
        if planned != {alloc: due_of(task) for alloc, task in tasks.items()}:
            return [f"planned is {planned}"]
    if name in {"collect", "retain"}:
        there = {record.alloc for record in new}
        if set(world.collected) != there:
            return [f"collected were {there}, and heard {world.collected}"]
    return []


# --- a log without an engine, and whoever waits ---


@pytest.mark.parametrize("store", STORES)
def test_a_log_that_is_interrupted_goes_on_from_what_is_there(
    request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    name = request.getfixturevalue("database").new_schema() if store == "postgresql" else str(tmp_path / store)
    log: Any = MemoryLog("1.1.2") if store == "memory" else open_log(name, "1.1.2")
    chance = random.Random(f"{SEED} {store}")
    count = 0
    for _ in range(10 if HOW_MANY == "2" else 500):
        new = [Append(alloc, count, [record_of(alloc, count + 1), record_of(alloc, count + 2)]) for alloc in "ab"]
        interrupted(lambda new=new: log.append_all(new), chance.randrange(1, 250))  # type: ignore[misc]
        ends = len(list(log.read("z")))
        log.append("z", ends, [record_of("z", ends + 1)])
        kept = list(log.read_all())
        assert [record.seq for record in kept] == list(range(1, len(kept) + 1))
        counts = {alloc: len(list(log.read(alloc))) for alloc in "ab"}
        assert counts in ({"a": count, "b": count}, {"a": count + 2, "b": count + 2})
        if counts["a"] == count:
            log.append_all(new)
        count += 2
    kept = list(log.read_all())
    log.close()
    if store != "memory":
        with open_log(name) as log:
            assert list(log.read_all()) == kept


def test_a_wait_that_is_interrupted_leaves_nobody_waiting_and_nothing_locked() -> None:
    world = World("memory")
    engine = world.engine = Engine(dialect="1.1.2")  # on the system's clock
    engine.place({"ID": "a"})

    def wait() -> None:
        engine.wait("a", after=1, timeout=0.001)

    for n in range(1, places_of(wait) + 1):
        interrupted(wait, n)
        assert len(engine.store.watches) == 0, n
        assert not held(world), n


# --- an alarm at a random moment ---


@pytest.mark.parametrize(("store", "seed"), [("memory", 21), ("x.jsonl", 22), ("x.db", 23), ("postgresql", 24)])
def test_an_alarm_at_any_moment_leaves_log_and_state_equal(
    request: pytest.FixtureRequest, tmp_path: Path, store: str, seed: int
) -> None:
    name = store if store == "memory" else str(tmp_path / store)
    if store == "postgresql":
        name = request.getfixturevalue("database").new_schema()
    command = [sys.executable, "-W", "ignore", str(ALARMED), name, str(seed), str(ALARMS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["interruptions"] == ALARMS
    assert not answer["wrong"], f"with the seed {seed}"


# --- logs that cannot tell what became of a write ---


class Forgetful:
    """A log of somebody's own, which does not know what an interruption left."""

    def __init__(self) -> None:
        self._log = MemoryLog("1.1.2")
        self.error: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "recover":
            raise AttributeError(name)
        return getattr(self._log, name)

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        if self.error is not None:
            raise self.error
        return self._log.append_all(appends)


def test_a_log_that_cannot_tell_what_became_of_a_write_is_to_be_opened_again() -> None:
    log = Forgetful()
    engine = Engine(log)
    engine.place({"ID": "a"})
    log.error = LogError("the disk is full")
    with pytest.raises(LogError, match="the disk is full"):
        engine.place({"ID": "b"})
    log.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        engine.place({"ID": "b"})
    log.error = None
    for _ in range(2):
        with pytest.raises(LogError, match=r"a write was interrupted, and Forgetful cannot tell .* reopen the log"):
            engine.place({"ID": "c"})
    assert [snapshot.id for snapshot in engine.allocations()] == ["a"]


class Unreadable(MemoryLog):
    """A log that is interrupted when it has taken a write, and cannot be read for a while."""

    is_interrupted = is_unreadable = False

    def append_all(self, appends: Sequence[Append]) -> list[Record]:
        placed = super().append_all(appends)
        if self.is_interrupted:
            self.is_unreadable = True
            raise KeyboardInterrupt
        return placed

    def recover(self) -> None:
        if self.is_unreadable:
            raise LogError("the disk is gone")
        super().recover()


def test_what_cannot_be_read_after_an_interruption_is_read_by_the_next_call_that_can() -> None:
    log = Unreadable("1.1.2")
    engine = Engine(log)
    log.is_interrupted = True
    with pytest.raises(KeyboardInterrupt):
        engine.place({"ID": "a"})
    assert len(engine.allocations()) == 0
    log.is_interrupted = False
    with pytest.raises(LogError, match=r"a write was interrupted, and what became of it .* reopen .*the disk is gone"):
        engine.place({"ID": "b"})
    log.is_unreadable = False
    engine.place({"ID": "b"})
    assert [(snapshot.id, snapshot.create_index) for snapshot in engine.allocations()] == [("a", 1), ("b", 2)]


def test_whoever_reads_what_was_interrupted_twice_sees_no_half_of_it() -> None:
    for n in range(1, 400, 7):
        world = World("memory")
        call = world.append()
        before = [world.engine.snapshot(f"alloc-{number}").modify_index for number in (1, 2, 3)]
        interrupted(call, n, 9)
        seen: list[list[int]] = []

        def look(world: World = world, seen: list[list[int]] = seen) -> None:
            seen.append([snapshot.modify_index for snapshot in world.engine.allocations()])

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen in ([before], [[world.engine.index] * 3]), n


# --- imports ---


@pytest.mark.parametrize("store", STORES[1:])
def test_an_import_that_is_interrupted_adds_nothing(request: pytest.FixtureRequest, tmp_path: Path, store: str) -> None:
    chance = random.Random(f"{SEED} {store}")
    source = tmp_path / "source.jsonl"
    with NdjsonLog(source, "1.1.2") as log:
        for version in range(1, 1_200):  # more than is kept in memory
            log.append("a", version - 1, [record_of("a", version)], sync=False)
    records = list(replay(source))
    for count in range(2 if HOW_MANY == "2" else 40):
        name = str(tmp_path / f"{count}-{store}")
        if store == "postgresql":
            name = request.getfixturevalue("database").new_schema()
        with open_log(name, "1.1.2") as log:
            log.append("z", 0, [record_of("z", 1)])
        begun = chance.randrange(1, 15_000)
        is_raised, places = interrupted(lambda name=name: ingest(source, into=name), begun)  # type: ignore[misc]
        assert places
        with open_log(name, "1.1.2") as log:
            kept = list(log.read_all())
            expected = 1 if is_raised and places < begun + 1_000 else len(records) + 1
            assert len(kept) in {1, expected}, f"{len(kept)} records; interrupted at {begun} of {places}"
            (record,) = log.append("z", 1, [record_of("z", 2)])
            assert record.seq == len(kept) + 1
        assert not list(tmp_path.glob("*-new")) or store != "x.jsonl"


def test_an_import_that_is_killed_adds_nothing(tmp_path: Path) -> None:
    code = """
import os, sys
from taskfold.log.ndjson import NdjsonLog
from taskfold.log.opening import open_log
from taskfold.log.sqlite import SqliteLog
from taskfold.testing.logs import record_of
log = NdjsonLog(sys.argv[1])
for version in range(1, 3_000):
    log.append("a", version - 1, [record_of("a", version)], sync=False)
os._exit(9)
"""
    path = tmp_path / "x.jsonl"
    with NdjsonLog(path, "1.1.2") as log:
        log.append("z", 0, [record_of("z", 1)])
    before = path.read_bytes()
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_bytes() == before
    with NdjsonLog(path) as log:
        for version in range(1, 3_000):
            log.append("a", version - 1, [record_of("a", version)], sync=False)
    assert len(list(replay(path))) == 3_000
    assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"]


def test_what_a_link_leads_to_is_written_and_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, path = tmp_path / "x.jsonl", tmp_path / "there" / "y.jsonl"
    link.symlink_to(path)
    with NdjsonLog(link, "1.1.2") as log:
        for version in range(1, 2_000):
            log.append("a", version - 1, [record_of("a", version)], sync=False)
    assert link.is_symlink()
    assert len(list(replay(path))) == 1_999
