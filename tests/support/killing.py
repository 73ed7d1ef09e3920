"""Writers that are killed at any moment: child processes that write through an engine, and say what is kept."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from taskfold.events import Restarting, Terminated
from taskfold.model.record import Record

KILLS: Final = int(os.environ.get("TASKFOLD_KILLS", "18"))
"""How often the writer of each store is killed: `make torture` does it some hundred times."""

CHILD = """
import sys
from taskfold import Engine, events, inputs
engine = Engine.open(sys.argv[1], dialect="1.1.2")
if "a" not in engine.store.fold:
    engine.place({"ID": "a"})
    engine.report("a", "web", inputs.PlacementReceived())
print("ready", flush=True)
while True:
    said = inputs.ProcessStarted() if engine.task("a", "web").state == "pending" else inputs.Exited(exit_code=None)
    engine.report("a", "web", inputs.RestartRequested() if isinstance(said, inputs.Exited) else said)
    if isinstance(said, inputs.Exited):
        engine.report("a", "web", said)
    print(engine.store.read("a").version, flush=True)
"""


def kill_writers(name: str, kept: Callable[[], Sequence[Record]], seed: int) -> None:
    """Have a child write a log, kill it, look at what is there, and begin again, `KILLS` times."""
    chance = random.Random(seed)
    acknowledged = 0
    for _ in range(KILLS):
        child = subprocess.Popen([sys.executable, "-c", CHILD, name], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        # It has acknowledged something, however busy the machine is; then any moment will do.
        lines = [child.stdout.readline() for _ in range(chance.randrange(1, 4))]
        time.sleep(chance.random() * 0.05)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
        told = [int(line) for line in lines if line.endswith("\n")]
        child.wait()
        child.stdout.close()
        acknowledged = max([acknowledged, *told])
        check(kept(), acknowledged)
    assert acknowledged > 2, "what a child does before it says that it is ready"


def check(records: Sequence[Record], acknowledged: int) -> None:
    """Check that everything that was acknowledged is there, and no half of anything."""
    assert len(records) >= acknowledged
    assert [r.seq for r in records] == [r.version for r in records] == list(range(1, len(records) + 1))
    # A step is one append: no half of one is there.
    assert {r.index for r in records} == set(range(1, records[-1].index + 1))
    ended, again = ({r.index for r in records if isinstance(r.event, kind)} for kind in (Terminated, Restarting))
    assert ended == again
