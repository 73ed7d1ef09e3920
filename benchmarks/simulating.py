"""Ten minutes of simulated clusters, seed after seed, in which no invariant may be broken.

``make soak`` runs it for TASKFOLD_SIMULATION_MINUTES (10 unless told), from the seed TASKFOLD_SIMULATION_SEED (1): the
dialects take turns, and so do sizes. It writes the seeds and their counts into ``benchmarks/results/simulating.json``,
and fails at the first violation, with the commands that show it again.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path
from time import monotonic

from benchmarks import report
from benchmarks.harness import Row
from taskfold.model.dialect import DIALECTS
from taskfold.testing import Simulation, counterexample_of

SIZES = ((10, 24.0), (100, 3.0), (1_000, 1.0))
"""Allocations and hours: few for long, and many for a short time."""


def main() -> int:
    """Simulate until the time is over, and write what was simulated; 1 at a violation."""
    end = monotonic() + 60 * float(os.environ.get("TASKFOLD_SIMULATION_MINUTES", "10"))
    first = int(os.environ.get("TASKFOLD_SIMULATION_SEED", "1"))
    values: dict[str, list[float]] = {f"taskfold, dialect {name}": [] for name in DIALECTS}
    restarts = crashes = operations = 0
    seed = first
    for seed in count(first):
        allocations, hours = SIZES[seed % len(SIZES)]
        for dialect in DIALECTS:
            simulation = Simulation(allocations=allocations, seed=seed, hours=hours, dialect=dialect)
            summary = simulation.run()
            if summary.violations:
                print(*counterexample_of(simulation, summary.violations[0]).lines(), sep="\n")
                return 1
            values[f"taskfold, dialect {dialect}"].append(summary.records)
            restarts, crashes = restarts + summary.restarts, crashes + summary.crashes
            operations += summary.operations
            print(
                f"seed {seed:>4}  {dialect}  {allocations:>5,} allocations  {summary.records:>9,} records", flush=True
            )
        if monotonic() > end:
            break
    records = sum(map(sum, values.values()))
    sizes = ", ".join(f"{allocations:,} for {hours:g} h" for allocations, hours in SIZES)
    row = Row(
        "simulated clusters, seed after seed: records of each without a violation",
        "records",
        values,
        better="higher",
        note=f"seeds {first} to {seed}, allocations in turn {sizes}: {records:,} records, {restarts:,} restarts, "
        f"{crashes:,} crashes of the scheduler, {operations:,} other operations, 0 violations",
    )
    report.write("simulating", [row], Path(sys.argv[1]) if len(sys.argv) > 1 else report.RESULTS, quick=False)
    print(row.note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
