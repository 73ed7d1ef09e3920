"""A log that is opened to be read only is followed as another process writes it, and nothing is locked or changed."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import taskfold as tf
from support.command_line import refused, run
from support.killing import KILLS
from support.servers import served, until
from taskfold import Engine, events, inputs
from taskfold.errors import DialectError, Gone, LogError, ReadOnly
from taskfold.live.background import LogListener
from taskfold.live.cursor import Cursor
from taskfold.log.registry import open_reader
from taskfold.nomad.importing.observation import observation_from_json

NAMES = ["tasks.db", "tasks.jsonl"]


@pytest.fixture(params=NAMES)
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a log with one allocation."""
    path = tmp_path / request.param
    with Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a", "JobID": "example"})
    return path


@contextmanager
def reader_of(path: object) -> Iterator[Engine]:
    with Engine.open(path, read_only=True) as engine:
        yield engine


def states(engine: Engine) -> list[bytes]:
    return [snapshot.to_json() for snapshot in engine.allocations()]


def test_a_reader_follows_its_writer_and_wakes_who_waits(path: Path) -> None:
    with reader_of(path) as reader, Engine.open(path) as writer:
        told: list[object] = []
        waiting = [
            threading.Thread(target=lambda: told.append(reader.wait("a", after=1, timeout=30).client_status)),
            threading.Thread(target=lambda: told.append(reader.wait_job("example", after=1, timeout=30))),
            threading.Thread(target=lambda: told.append(asyncio.run(reader.wait_index_async(after=1, timeout=30)))),
        ]
        for thread in waiting:
            thread.start()
        following = reader.subscribe(after=1, timeout=30)
        writer.record("a", "web", events.Started())

        assert isinstance(next(following).event, events.Started)
        for thread in waiting:
            thread.join()
        assert sorted(map(str, told)) == ["2", "2", "running"]
        for number in range(300):
            writer.record("a", "web", events.Signaling(), id=f"signal-{number}")
        assert [record.seq for _, record in zip(range(300), following, strict=False)] == list(range(3, 303))
        assert reader.wait_index(after=301, timeout=30) == 302
        assert states(reader) == states(writer)
        assert reader.history("a") == writer.history("a")
        assert reader.store.log.knows("signal-299")
        assert not reader.store.log.knows("signal-300")
        reader.store._check()


def writes() -> dict[str, Callable[[Engine], object]]:
    body = b'{"ID":"b","ModifyIndex":7,"ClientStatus":"running"}'
    return {
        "place": lambda engine: engine.place({"ID": "b"}),
        "record": lambda engine: engine.record("a", "web", events.Started()),
        "update": lambda engine: engine.update("a", {"DesiredStatus": "stop"}),
        "append": lambda engine: engine.append([tf.Write(alloc="a", task="web", event=events.Started())]),
        "check": lambda engine: engine.check([]),
        "report": lambda engine: engine.report("a", "web", inputs.ProcessStarted()),
        "observe": lambda engine: engine.observe(observation_from_json(body, None)),
        "collect": lambda engine: engine.collect("a"),
        "retain": lambda engine: engine.retain(tf.Retention(keep=0)),
        "due": lambda engine: engine.due(),
        "restore": lambda engine: engine.restore(),
        "compact": lambda engine: engine.compact(),
        "checkpoint": lambda engine: engine.checkpoint(),
        "the log's append": lambda engine: engine.store.log.append("a", 1, []),
        "the log's compact": lambda engine: engine.store.log.compact(),
    }


@pytest.mark.parametrize("write", writes())
def test_every_method_that_writes_refuses(path: Path, write: str) -> None:
    before = path.read_bytes()
    with reader_of(path) as reader:
        with pytest.raises(ReadOnly, match=f"{path}: was opened to be read only"):
            writes()[write](reader)
        assert reader.is_read_only
        assert len(reader.history("a")) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("is_written", [False, True])
def test_nothing_is_made_in_the_folder(path: Path, is_written: bool) -> None:
    writer = Engine.open(path) if is_written else None
    before = sorted(path.parent.iterdir())
    with reader_of(path) as reader:
        assert len(reader.history("a")) == 1
        assert sorted(path.parent.iterdir()) == before
        if writer is not None:
            writer.record("a", "web", events.Started())
            assert reader.wait("a", after=1, timeout=30) is not None
    assert sorted(path.parent.iterdir()) == before
    if writer is not None:
        writer.close()


NOBODY = 65_534
READER = """
import os, sys
import taskfold.log.ndjson.reader, taskfold.log.sqlite.reader, taskfold.live.background, transitions
from taskfold.log import registry
registry.kind_named("x.db")
from taskfold import Engine
if os.geteuid() == 0:  # root may do everything
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
with Engine.open(sys.argv[1], read_only=True) as engine:
    print(engine.index, flush=True)
    print(engine.wait_index(after=engine.index, timeout=30), len(engine.history("a")), flush=True)
try:
    open(os.path.join(os.path.dirname(sys.argv[1]), "mine"), "x")
except PermissionError:
    print("read-only")
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_that_may_write_nothing_follows_the_writer(name: str) -> None:
    # Not in the folder of pytest, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with Engine.open(path, dialect="1.1.2") as writer:
            writer.place({"ID": "a"})
            for found in path.parent.iterdir():
                found.chmod(0o644)
            path.parent.chmod(0o555)
            command = [sys.executable, "-c", READER, str(path), str(NOBODY)]
            reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert reader.stdout is not None
            assert reader.stdout.readline() == "1\n"
            writer.record("a", "web", events.Started())
            assert reader.stdout.read().splitlines() == ["2 2", "read-only"]
            assert reader.wait(30) == 0
            reader.stdout.close()
            path.parent.chmod(0o755)


def test_a_writer_that_ends_and_comes_again_is_followed(path: Path) -> None:
    with reader_of(path) as reader:
        for number in range(3):
            with Engine.open(path) as writer:
                writer.record("a", "web", events.Driver(driver_message=f"{number}"))
            assert reader.wait_index(after=number + 1, timeout=30) == number + 2
        assert len(reader.history("a")) == 4


def test_a_writer_that_is_killed_keeps_no_reader_from_reading(path: Path) -> None:
    script = "import os, sys; from taskfold import Engine, events; e = Engine.open(sys.argv[1]); "
    script += "e.record('a', 'web', events.Started()); os.kill(os.getpid(), 9)"
    with reader_of(path) as reader:
        subprocess.run([sys.executable, "-c", script, str(path)], check=False)
        assert reader.wait_index(after=1, timeout=30) == 2
    with reader_of(path) as later:
        assert later.index == 2


def test_a_compaction_takes_nothing_from_the_state_and_is_told_who_asks_for_what_is_gone(path: Path) -> None:
    with Engine.open(path) as writer, reader_of(path) as reader:
        following = reader.subscribe(timeout=30)
        next(following)
        writer.place({"ID": "b"})
        assert reader.wait_index(after=1, timeout=30) == 2
        follower = Cursor(reader.reader, reader.store.seq)
        # What was placed, ended and removed before the reader had looked is not needed for its state.
        with reader._turns.lock:
            writer.record("b", "web", events.NotRestarting())
            writer.collect("b")
            writer.place({"ID": "c"})
            writer.record("c", "web", events.NotRestarting())
            writer.collect("c")
            assert writer.compact() > 0
            writer.record("a", "web", events.Started())
        assert reader.wait("a", after=1, timeout=30).client_status == "running"

        assert states(reader) == states(writer)
        assert follower.recent() is None
        with pytest.raises(Gone):
            follower.read()
        follower.close()
        assert reader.store.seq == writer.store.seq
        assert reader.store.oldest_seq == writer.store.oldest_seq > 0
        with pytest.raises(Gone):
            list(following)
        with pytest.raises(Gone):
            list(reader.store.log.read_all())
        assert list(reader.store.log.read_kept()) == list(writer.store.log.read_kept())
        assert [record.version for record in reader.history("a")] == [1, 2]
        reader.store._check()


def test_a_log_that_is_gone_is_told_of_and_followed_again_when_it_is_back(path: Path) -> None:
    problems: list[str] = []
    with Engine(open_reader(path)) as reader:
        away = path.with_name("away")
        with LogListener(reader, on_problem=problems.append, poll_seconds=0.02):
            path.rename(away)
            until(lambda: problems)
            assert len(states(reader)) == 1
            with pytest.raises(LogError, match="the log was removed or moved away"):
                reader.catch_up()
            away.rename(path)
            until(lambda: len(problems) == 2)
            with Engine.open(path) as writer:
                writer.record("a", "web", events.Started())
                assert reader.wait_index(after=1, timeout=30) == 2
    assert "the log was removed or moved away" in problems[0]
    assert problems[1:] == [""]


def test_another_log_in_the_place_of_the_one_that_was_opened_is_refused(path: Path, tmp_path: Path) -> None:
    with Engine(open_reader(path)) as reader:
        other = tmp_path / f"other{path.suffix}"
        with Engine.open(other, dialect="1.1.2") as writer:
            for alloc in ("x", "y", "z"):
                writer.place({"ID": alloc})
        other.replace(path)
        with pytest.raises(LogError, match="close this one, and open"):
            reader.catch_up()
        assert len(states(reader)) == 1


def test_what_is_not_acknowledged_yet_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    with Engine.open(path, dialect="1.1.2") as writer:
        writer.place({"ID": "a"})
        whole = path.read_bytes()
        writer.record("a", "web", events.Started())
    line = path.read_bytes()[len(whole) :]
    path.write_bytes(whole)
    with Engine(open_reader(path)) as reader:
        for end in (1, len(line) // 2, len(line) - 1):
            path.write_bytes(whole + line[:end])
            assert reader.catch_up() == 0
        path.write_bytes(whole + line)
        assert reader.catch_up() == 1
        path.write_bytes(whole)
        with pytest.raises(LogError, match="the log was cut off at byte"):
            reader.catch_up()


@pytest.mark.parametrize("name", ["format-1.jsonl", "format-1.sqlite3"])
def test_a_log_of_an_older_format_is_read_as_it_is_and_followed_when_it_is_brought_to_the_present_one(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes((Path(__file__).parents[1] / "data" / name).read_bytes())
    before = path.read_bytes()

    with reader_of(path) as reader:
        assert path.read_bytes() == before
        assert reader.store.log.header.taskfold == 1
        with Engine.open(path) as writer:
            assert states(writer) == states(reader)
            writer.place({"ID": "new"})
            assert reader.wait("new", after=writer.index - 1, timeout=30) is not None
            assert reader.history("new") == writer.history("new")
        assert reader.store.log.header.taskfold > 1


def test_what_cannot_be_followed_is_refused_in_a_sentence(path: Path, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no log"):
        Engine.open(tmp_path / "none.db", read_only=True)
    with pytest.raises(DialectError):
        Engine.open(path, dialect="0.5.6", read_only=True)
    (tmp_path / "nomad.jsonl").write_bytes(b'{"ID":"a"}\n')
    with pytest.raises(LogError, match="not a taskfold log"):
        Engine.open(tmp_path / "nomad.jsonl", read_only=True)
    refused(run("serve", "--read-only"), "--read-only serves the log of another process")
    refused(run("serve", "--read-only", path, "--collect-after", "1h"), "--read-only serves")
    refused(run("serve", "--read-only", path, "--follow", path), "--read-only serves")
    refused(run("serve", "--read-only", tmp_path / "none.db"), "there is no log")


def test_waiting_for_a_writer_takes_next_to_no_time_of_a_processor(path: Path) -> None:
    with reader_of(path) as reader:
        before = time.process_time()
        assert reader.wait_index(after=1, timeout=1) == 1
        assert time.process_time() - before < 0.25


def test_a_server_that_only_reads_follows_the_writer_and_takes_no_writes(path: Path) -> None:
    with Engine.open(path) as writer, served("--read-only", path) as (_, url):
        blocked: list[httpx.Response] = []
        asked = {"index": "1", "wait": "30s"}
        waiting = threading.Thread(
            target=lambda: blocked.append(httpx.get(f"{url}/v1/allocation/a", params=asked, timeout=40))
        )
        waiting.start()
        writer.record("a", "web", events.Started())
        waiting.join()
        assert blocked[0].json()["ClientStatus"] == "running"
        answer = httpx.post(f"{url}/v1/allocations/events", content=b'{"Alloc":"a"}\n')
        assert answer.status_code == 409
        assert "another process writes" in answer.text
        assert httpx.put(f"{url}/v1/allocation/a/stop").status_code == 409
        assert httpx.get(f"{url}/v1/agent/health").status_code == 200
        assert len(httpx.get(f"{url}/v1/allocation/a/history").json()) == 2
        writer.record("a", "web", events.Terminated(exit_code=1))  # nobody keeps it from writing


BUSY = """
import sys
from taskfold import Engine, events
engine = Engine.open(sys.argv[1])
print("ready", flush=True)
number = engine.store.seq
while True:
    number += 1
    engine.place({"ID": f"x{number}"})
    engine.record("a", "web", events.Driver(driver_message=f"{number}"))
    engine.record(f"x{number}", "web", events.NotRestarting())
    if number % 3 == 0:
        engine.retain(__import__("taskfold").Retention(keep=2))
    if number % 7 == 0:
        engine.compact()
    if number % 11 == 0:
        engine.checkpoint()
"""


def test_a_reader_beside_a_writer_that_compacts_and_is_killed_has_the_state_of_the_log(path: Path) -> None:
    chance = random.Random(15)
    problems: list[str] = []
    with Engine(open_reader(path)) as reader, LogListener(reader, on_problem=problems.append, poll_seconds=0.05):
        for _ in range(max(KILLS // 9, 1)):
            child = subprocess.Popen([sys.executable, "-c", BUSY, str(path)], stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            before = reader.store.seq
            until(lambda seq=before: reader.store.seq > seq + 50)
            time.sleep(chance.random() * 0.1)
            child.kill()
            child.wait()
            child.stdout.close()
            with Engine.open(path) as writer:
                writer.record("a", "web", events.Driver(driver_message="last"))
                assert reader.wait_index(after=writer.index - 1, timeout=30) == writer.index
                assert states(reader) == states(writer)
                assert list(reader.store.log.read_kept()) == list(writer.store.log.read_kept())
                reader.store._check()
    assert problems == []
