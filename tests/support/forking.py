"""A process that forks while it writes a log: what its workers try is refused, and the log is whole.

Run as a program, with the name of a log (or ``memory``), it says how many records it was told to have written.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Final

from taskfold import Engine, events, inputs
from taskfold.errors import LogError
from taskfold.live.background import LogListener
from taskfold.log.memory import MemoryLog

WORKERS: Final = 3
RECORDS: Final = 40


def run_forks(name: str) -> int:
    """Run this program over a log; return how many records were acknowledged."""
    ran = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def uses_of(engine: Engine) -> list[Callable[[], object]]:
    """Return every kind of use of an engine, and of what was made of it before the fork."""
    view, another = engine.allocations(), engine.allocations()
    following = engine.subscribe()
    next(following)
    log = engine.store.log
    return [
        lambda: engine.place({"ID": "b"}),
        lambda: engine.record("a", "web", events.Started(), id="worker"),
        lambda: engine.append([]),
        lambda: engine.check([]),
        lambda: engine.report("a", "web", inputs.ProcessStarted()),
        lambda: engine.collect("a"),
        engine.restore,
        engine.due,
        engine.compact,
        engine.checkpoint,
        engine.catch_up,
        lambda: engine.index,
        lambda: engine.task("a", "web"),
        lambda: engine.snapshot("a"),
        lambda: engine.history("a"),
        lambda: engine.wait("a", after=0, timeout=5),
        lambda: engine.subscribe(timeout=5).__next__(),
        lambda: list(view),
        lambda: list(engine.allocations()),
        lambda: next(iter(another)),
        lambda: engine.store.read("a"),
        lambda: list(following),
        lambda: log.append("a", 1, []),
        lambda: list(log.read_all()),
        lambda: log.seq,
        *([] if isinstance(log, MemoryLog) else [log.sync, log.roll_back]),
    ]


def work(engine: Engine, uses: list[Callable[[], object]], owner: int) -> None:
    """Try every use, in a fork, and end as any process does."""
    signal.alarm(60)  # a lock that stays locked for ever
    for place, use in enumerate(uses):
        try:
            use()
        except LogError as error:
            told = str(error)
        else:
            told = ""
        assert f"was opened by process {owner}, of which this one is a fork: " in told, f"use {place}: {told}"
    with engine:
        pass
    engine.close()


def main() -> None:
    name, owner = sys.argv[1], os.getpid()
    engine = Engine(dialect="1.1.2") if name == "memory" else Engine.open(name, dialect="1.1.2")
    listener = LogListener(engine)
    listener.start()
    atexit.register(engine.close)
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Started())
    uses = uses_of(engine)
    # Another thread holds every lock at the moment of the fork.
    is_held, is_forked = threading.Event(), threading.Event()

    def hold() -> None:
        with engine._turns.lock, engine.store.lock:
            is_held.set()
            is_forked.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    reading, writing = os.pipe()
    workers = []
    for number in range(WORKERS + 1):
        pid = os.fork()
        if not pid:
            os.close(writing)
            listener.stop()
            if number == WORKERS:  # this one stays, and holds what it inherited
                os.read(reading, 1)
            else:
                work(engine, uses, owner)
            sys.exit(0)
        workers.append(pid)
    is_forked.set()
    holder.join()
    for number in range(RECORDS):
        engine.record("a", "web", events.Restarting() if number % 2 else events.Terminated(exit_code=1))
        if number % 2:
            engine.record("a", "web", events.Started(), id=f"again-{number}")
    assert [os.waitpid(pid, 0)[1] for pid in workers[:WORKERS]] == [0] * WORKERS
    engine.record("a", "web", events.Signaling())
    listener.stop()
    engine.store._check()
    written = engine.store.seq
    assert [record.seq for record in engine.store.log.read_all()] == list(range(1, written + 1))
    engine.close()
    if name != "memory":
        with Engine.open(name) as again:  # a worker that lives keeps nobody out
            again.record("a", "web", events.Signaling())
            written = again.store.seq
    os.close(writing)
    assert os.waitpid(workers[-1], 0)[1] == 0
    print(written)  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
