"""The memory of a process that runs a scheduler for long: allocations come and go, as many live as ever.

``make soak`` runs it for TASKFOLD_SOAK_MINUTES (3 unless told) at full speed, on a log in SQLite: allocations are
placed, their tasks run and end, some are lost while a restart is due, all are collected, and the log is compacted now
and then.
It draws the curve, writes ``benchmarks/results/soak.json``, and fails when the process has grown.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import monotonic

import msgspec
from msgspec import Raw

from benchmarks import report
from benchmarks.harness import Budget, Row, resident_bytes
from taskfold import Engine, Retention, Write, inputs
from taskfold import events as ev
from taskfold.model.record import Placed

NS = 1_000_000_000
WAVE = 100
"""How many allocations are placed at a time."""
REPORTING = 5
"""How many of a wave are decided for, one report after the other."""
KEEP = 200
COMPACT_EVERY = 100
"""Waves between two compactions."""
SAMPLES = 60
RECORDS_AN_HOUR = 1_000_000
"""A thousand tasks that end after half a minute leave about so many in an hour."""
SETTLED = 1 / 3
"""The first part of a run fills caches and the interpreter's pools."""
POLICY = {"Attempts": 5, "Interval": 600 * NS, "Delay": 60 * NS, "Mode": "fail"}
GROUP = {"Name": "g", "RestartPolicy": POLICY, "Tasks": [{"Name": "web"}]}


def wave(engine: Engine, number: int) -> None:
    """Have a wave of allocations come and go."""
    allocs = [f"{number * WAVE + place:08x}-e0d6-9486-5e05-397ed2b184af" for place in range(WAVE)]
    job = f"job-{number}"
    fields = {"JobID": job, "NodeID": f"node-{number % 50}", "TaskGroup": "g"}
    fields["Job"] = {"ID": job, "Type": "batch", "TaskGroups": [GROUP]}
    for alloc in allocs[:REPORTING]:
        engine.place({"ID": alloc, **fields})
        engine.report(alloc, "", inputs.PlacementReceived(), id=f"{alloc}-placed")
        engine.report(alloc, "web", inputs.ProcessStarted(), id=f"{alloc}-started")
        engine.report(alloc, "web", inputs.Exited(exit_code=1), id=f"{alloc}-exited")  # it waits for its restart
        engine.update(alloc, {"ClientStatus": "lost"})
    body = Raw(msgspec.json.encode(fields))
    engine.append(Write(alloc=alloc, event=Placed(body=body)) for alloc in allocs[REPORTING:])
    life = (ev.Received(), ev.TaskSetup(), ev.Started(), ev.Terminated(), ev.NotRestarting())
    engine.append(
        Write(alloc=alloc, task="web", event=event, id=f"{alloc}-{place}")
        for alloc in allocs[REPORTING:]
        for place, event in enumerate(life)
    )
    engine.due()
    engine.retain(Retention(keep=KEEP))
    if number % COMPACT_EVERY == COMPACT_EVERY - 1:
        engine.compact()


def soak(seconds: float) -> Iterator[tuple[int, float]]:
    """Yield, while it runs, how many records were written and how much memory the process has (MB)."""
    with tempfile.TemporaryDirectory() as folder, Engine.open(f"{folder}/soak.db", dialect="1.1.2", seed=1) as engine:
        began, number, steps = monotonic(), 0, 0
        while (passed := monotonic() - began) < seconds:
            wave(engine, number)
            number += 1
            if passed >= steps * seconds / SAMPLES:
                steps += 1
                gc.collect()
                yield engine.store.seq, resident_bytes() / 1e6
        engine._check()  # noqa: SLF001 - nothing is kept of what is gone
        yield engine.store.seq, resident_bytes() / 1e6


def main() -> int:
    """Soak, show the curve, write the result; 1 when the process has grown."""
    minutes = float(os.environ.get("TASKFOLD_SOAK_MINUTES", "3"))
    curve = []
    for records, megabytes in soak(minutes * 60):
        curve.append((records, megabytes))
        print(f"{records:>10,} records {megabytes:7.1f} MB {'#' * round(megabytes)}", flush=True)
    records = curve[-1][0]
    settled = [megabytes for _, megabytes in curve[int(len(curve) * SETTLED) :]]
    part = max(len(settled) // 4, 1)
    row = Row(
        "a scheduler at a constant number of live tasks: memory of the process at its end",
        "MB",
        {
            "taskfold, at the end": settled[-part:],
            "taskfold, once it is settled": settled[:part],
            "taskfold, the whole curve": [megabytes for _, megabytes in curve],
        },
        budgets=(Budget("≤", 1.05, "taskfold, once it is settled"),),
        note=f"{records:,} records in {minutes:g} min, {records / RECORDS_AN_HOUR:.1f} hours' worth",
    )
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else report.RESULTS
    report.write("soak", [row], folder, quick=False)
    before, after = median(settled[:part]), median(settled[-part:])
    print(f"{before:.1f} MB once it was settled, {after:.1f} MB at the end, {records:,} records")
    return int(after > before * row.budgets[0].limit)


if __name__ == "__main__":
    sys.exit(main())
