"""Memory while a log is folded: it is bounded by the live tasks, whatever number of records there are.

Rival: the same log as a list of its decoded records, which is what folding would need that is not done as it is read.
Budget: ten times the records need at most 1.3 times the memory; and a log whose records would need ten times what the
process may have is folded all the same.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import taskfold as tf
from benchmarks.harness import SIZE, Budget, Row, in_child, peak_bytes, tell
from benchmarks.histories import write_log

FEW, MANY = "{count:,} records", "{count:,} records, ten times as many"
LIST = "list(replay(path)), ten times as many"


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure two logs of the same live tasks, one ten times as long as the other, in both kinds of files."""
    tasks = 200 if quick else 5_000
    few, many = tasks * 20, tasks * 200  # full rings in both
    with TemporaryDirectory() as folder:
        lines = {count: Path(folder) / f"{count}.jsonl" for count in (few, many)}
        for count, path in lines.items():
            write_log(path, count, tasks)
        for suffix in ("jsonl", "db"):
            paths = {count: Path(folder) / f"{count}.{suffix}" for count in (few, many)}
            if suffix == "db":
                for count, path in paths.items():
                    tf.ingest(lines[count], into=path)
            yield of_logs(paths, tasks, suffix)


def of_logs(paths: dict[int, Path], tasks: int, suffix: str) -> Row:
    """Measure the peak of processes that fold, beyond that of one that only imports."""
    few, many = sorted(paths)
    idle = in_child("folding", "idle")
    fold = {count: in_child("folding", "fold", path)["peak"] - idle["peak"] for count, path in paths.items()}
    list_peak = in_child("folding", "list", paths[many])["peak"] - idle["peak"]
    # A tenth of what the records need, or what the live tasks need where that is more; and what a process maps unused.
    limit = max(list_peak // 10, int(1.3 * fold[few]))
    assert in_child("folding", "limited", paths[many], limit)["tasks"] == tasks
    return Row(
        f"folding a log of {tasks:,} tasks in .{suffix}: peak of the process",
        "MB",
        {
            f"taskfold, {MANY.format(count=many)}": [fold[many] / 1e6],
            f"taskfold, {FEW.format(count=few)}": [fold[few] / 1e6],
            LIST: [list_peak / 1e6],
        },
        budgets=(Budget("≤", 1.3, f"taskfold, {FEW.format(count=few)}"),),
        note=f"also folded where the process could have no more than {limit / 1e6:,.0f} MB beyond its start",
        words=SIZE,
    )


def child(what: str, path: str = "", limit: str = "0") -> None:
    """Do one thing, and tell how much memory it took."""
    tf.Fold("1.1.2")
    if what == "limited":
        mapped = next(
            int(line.split()[1]) << 10
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmSize")
        )
        # Beyond what is mapped already; the allocator maps whole arenas.
        most = mapped + int(limit) + (32 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    state = list(tf.replay(path)) if what == "list" else tf.replay(path).fold() if path else None
    measures = {"peak": peak_bytes()}
    if isinstance(state, tf.Fold):
        measures["tasks"] = sum(len(allocation.tasks) for allocation in state.allocations.values())
    tell(measures)


if __name__ == "__main__":
    child(*sys.argv[2:])
