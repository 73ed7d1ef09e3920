"""Whoever reads a log while another process writes it sees it as of one moment: whole, and all of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.postgres import server
from taskfold import replay
from taskfold.log.check import check_log, repair

CHECKS: int = int(os.environ.get("TASKFOLD_CHECKS", "6"))
"""How often each reader looks at a log that is being written: `make torture` does it some hundred times."""
WRITER = """
import sys
from taskfold import Engine, events
engine = Engine.open(sys.argv[1], dialect="1.1.2")
number = 0
print("ready", flush=True)
while True:
    alloc = f"a{number}"
    engine.place({"ID": alloc})
    for _ in range(20):
        engine.record(alloc, "web", events.Received())
    if number % 7 == 3:
        engine.checkpoint()
    engine.record(alloc, "web", events.NotRestarting())
    print(engine.store.seq, flush=True)
    if number % 25 == 24:
        engine.collect(alloc)
        engine.compact()
    number += 1
"""


@pytest.fixture(params=["x.db", "x.jsonl", "postgresql"])
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of a log that a process writes as fast as it can."""
    # In memory where that can be: a disk would make the writer too slow to be in anybody's way.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - nothing has to outlast the test
    with tempfile.TemporaryDirectory(dir=shared) as folder, ExitStack() as held:
        if request.param == "postgresql":
            name = held.enter_context(server()).new_schema()
        else:
            name = str(Path(folder) / request.param)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, name], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        assert int(writer.stdout.readline()) > 0
        yield name
        is_alive = writer.poll() is None
        writer.kill()
        writer.communicate()
        assert is_alive, "the writer has ended by itself"


def test_a_log_that_is_being_written_is_whole(name, tmp_path):
    first = newest = check_log(name).newest
    for number in range(CHECKS):
        found = check_log(name)
        assert found.is_whole, (number, found.damages)
        assert found.newest >= newest
        newest = found.newest
        folded = replay(name)
        folded.fold()
        assert folded._seq >= newest
        if number % 5 == 0:
            copy = repair(name, tmp_path / f"{number}.jsonl")
            assert copy.is_whole
            assert copy.records > 0
        time.sleep(0.002 * (number % 5))
    assert newest > first, "it was not written meanwhile"
