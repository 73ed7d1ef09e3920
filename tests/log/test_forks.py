"""What holds a log belongs to the process that opened it: a fork is refused, and nothing of it is copied or pickled."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import taskfold as tf
from support.forking import RECORDS, run_forks
from taskfold import Engine, events
from taskfold.live.background import LogListener, Retainer
from taskfold.log.check import check_log
from taskfold.log.sqlite.log import SqliteLog
from taskfold.run.process import ExecutorHandle, Process
from taskfold.run.supervisor import Supervisor

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


@pytest.mark.parametrize("name", ["memory", "tasks.jsonl", "tasks.db"])
def test_a_fork_is_refused_whatever_it_tries_and_the_log_of_its_parent_is_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    written = run_forks(name if name == "memory" else str(path))

    assert written >= RECORDS
    if name != "memory":
        found = check_log(path)
        assert found.is_whole, found.damages
        assert found.records == found.newest == written


WORKER = """
import multiprocessing, sys
from taskfold import Engine, events
from taskfold.errors import LogError

def work(number):
    try:
        engine.record("a", "web", events.Started(), id=f"worker-{number}")
    except LogError as error:
        return str(error)

if __name__ == "__main__":
    engine = Engine.open(sys.argv[1], dialect="1.1.2")
    engine.place({"ID": "a"})
    with multiprocessing.get_context("fork").Pool(2) as pool:
        told = pool.map(work, range(4))
    assert all("read_only=True" in text for text in told), told
    engine.record("a", "web", events.Started())
    engine.close()
"""


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.db"])
def test_a_pool_of_forked_workers_is_told_what_to_do(tmp_path: Path, name: str) -> None:
    assert "fork" in multiprocessing.get_all_start_methods()

    subprocess.run([sys.executable, "-c", WORKER, str(tmp_path / name)], check=True, timeout=120)

    assert [type(record.event).__name__ for record in tf.replay(tmp_path / name)] == ["Placed", "Started"]


PREEXEC = """
import subprocess, sys
from taskfold import Engine, events
engine = Engine.open(sys.argv[1], dialect="1.1.2")
engine.place({"ID": "a"})
subprocess.run(["true"], check=True, preexec_fn=lambda: engine.close())
engine.record("a", "web", events.Started())
engine.close()
"""


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.db"])
def test_what_runs_between_fork_and_exec_touches_nothing(tmp_path: Path, name: str) -> None:
    subprocess.run([sys.executable, "-c", PREEXEC, str(tmp_path / name)], check=True, timeout=120)

    assert check_log(tmp_path / name).records == 2


def _engine() -> Engine:
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Started())
    return engine


ONCE: dict[str, Callable[[Path], Any]] = {
    "Engine": lambda _: _engine(),
    "Store": lambda _: _engine().store,
    "Listing": lambda _: _engine().allocations(),
    "MemoryLog": lambda _: tf.MemoryLog(),
    "NdjsonLog": lambda path: tf.NdjsonLog(path / "x.jsonl", "1.1.2"),
    "SqliteLog": lambda path: SqliteLog(path / "x.db", "1.1.2"),
    "Replay": lambda path: tf.replay(path / "x.jsonl"),
    "Supervisor": lambda path: Supervisor(_engine(), path),
    "Process": lambda path: Process(path, ExecutorHandle(os.getpid(), 1)),
    "LogListener": lambda _: LogListener(_engine()),
    "Retainer": lambda _: Retainer(_engine(), tf.Retention(keep=0)),
}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda how: how.__name__)
@pytest.mark.parametrize("name", ONCE)
def test_what_there_is_once_is_neither_copied_nor_pickled(
    tmp_path: Path, name: str, copied: Callable[[Any], Any]
) -> None:
    made = ONCE[name](tmp_path)
    try:
        with pytest.raises(TypeError, match=f"'{name}' cannot be copied or pickled, since .*: [a-z`]"):
            copied(made)
    finally:
        if hasattr(made, "close"):
            made.close()


HOLDERS = """
import os, sys, types
from pathlib import Path
from taskfold import Engine, Retention
from taskfold.run.process import ExecutorHandle, Process
from taskfold.errors import LogError
from taskfold.live.background import Retainer
from taskfold.live.background import LogListener
from taskfold.run.supervisor import Supervisor

engine = Engine(dialect="1.1.2")
folder = Path(sys.argv[1])
held = Supervisor(engine, folder), LogListener(engine), Retainer(engine, Retention(keep=0))
process = Process(folder, ExecutorHandle(os.getpid(), 1))

@types.coroutine
def never():
    yield

async def supervise():  # as it is when a fork ends: its last words must not reach the tasks of its parent
    try:
        await never()
    finally:
        process.send("SIGKILL")

running = supervise()
running.send(None)
pid = os.fork()
if not pid:
    for one in held:
        one.stop()
    try:
        running.close()
    except LogError as error:
        sys.exit(0 if "leave its process to that one" in str(error) else 2)
    sys.exit(3)
status = os.waitpid(pid, 0)[1]
process.send = lambda name: None
running.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_fork_ends_neither_the_tasks_nor_the_threads_of_its_parent(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", HOLDERS, str(tmp_path)], check=True, timeout=120)
