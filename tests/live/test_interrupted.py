"""Interruptions: whatever is raised at whatever instruction, the log and the state are one, and go on together.

Each call is interrupted at places that a seed chooses (`TASKFOLD_INTERRUPTIONS` says at how many of each call, `all` is
every one), once, and sometimes once more while that is put right.
"""

from __future__ import annotations

import gc
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

from support.interrupting import interrupted
from support.postgres import Server, server
from support.worlds import HOW_MANY, SEED, World, goes_on, held, told, wrong_with
from taskfold import Engine, ingest, replay
from taskfold.decision.rules import due_of
from taskfold.errors import LogError
from taskfold.live.waiters import Waiter
from taskfold.log.contract import Append
from taskfold.log.memory import MemoryLog
from taskfold.log.ndjson.log import NdjsonLog
from taskfold.log.registry import open_log
from taskfold.model.record import Record
from taskfold.testing.logs import record_of

# A file, or a connection, that was opened when it was interrupted is closed by the interpreter, which says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Have the interpreter close what was left open here, and not in the middle of somebody else's test."""
    yield
    gc.collect()


ALARMS: Final = int(os.environ.get("TASKFOLD_ALARMS", "12"))
ALARMED: Final = Path(__file__).parents[1] / "support" / "alarmed.py"
RUNS_PER_LOG: Final = 20
STORES: Final = ["memory", "x.jsonl", "x.db", "postgresql"]


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
        heard = {step.alloc for step in world.heard if step.writes}
        if heard != there:
            return [f"recorded were {there}, and heard {heard}"]
    # Its callback itself may be what was interrupted.
    if name in {"record_bound", "record_asked"} and len(world.model.heard) > len(new):
        return [f"recorded were {len(new)}, and the model heard {world.model.heard}"]
    if name in {"report", "report_batch"}:
        tasks = {alloc: world.engine.store.fold.allocations[alloc].tasks["web"] for alloc in {r.alloc for r in new}}
        planned = {alloc: world.engine._core.timers.get(alloc, "web") for alloc in tasks}
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
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=paths, capture_output=True, text=True, check=False, timeout=240)
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
    with pytest.raises(LogError, match=r"a write was interrupted, and the log cannot be read.*the disk is gone"):
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
from taskfold.log.ndjson.log import NdjsonLog
from taskfold.log.registry import open_log
from taskfold.log.sqlite.log import SqliteLog
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
