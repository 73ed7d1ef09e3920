"""Folding columns: the kernel beside the fold of objects, and Parquet beside lines of JSON, end to end.

Rival: `Fold.apply_all` on the same records, decoded and all in memory; and the replay of the same log, end to end.
Budgets: the kernel at least 25 times the fold of objects in any order, 20 times with intervals; Parquet with integer
keys at least 25 times the replay of the lines; lines at least 3 times; a tenth of the bytes; three times the records of
the same tasks in 1.3 times the memory; an end point at 1.2 times the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa

import taskfold as tf
from benchmarks.harness import SIZE, Budget, Row, in_child, peak_bytes, take_turns, tell
from benchmarks.histories import DIALECT, write_log
from taskfold.columnar import ColumnarFold, kernel, read
from taskfold.columnar.exporting import _parquet_writer
from taskfold.columnar.fold import FOLDED_COLUMNS
from taskfold.fold.allocation import Fold

APPLY_ALL, KERNEL = "Fold.apply_all, decoded records", "taskfold, kernel"
WITH_INTERVALS = "taskfold, kernel with intervals"
REPLAY = "replay(x.jsonl).fold()"
RANDOM = "in random order"
TOGETHER = (
    "the objects of a task are in the cache here, so that the fold of objects is several times as fast as elsewhere"
)
TEXTS = "with 20 records a task, its texts and its row of the result are a good part; longer lives need less of both"
DECODING = (
    "lines of JSON are decoded into objects first, which is most of the time; what is folded often is exported once"
)


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure 400,000 records of 20,000 tasks, in random order and with those of an allocation together."""
    records, tasks = (10_000, 500) if quick else (400_000, 20_000)
    repetitions = 1 if quick else 2
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        for together, order in ((False, RANDOM), (True, "an allocation's records together")):
            write_log(path, records, tasks, together=together)
            batches = list(read(path))
            yield from of_kernel(path, batches, records, order, repetitions)
            if not together:
                yield from of_files(path, batches, records, repetitions)
                yield of_ends(batches, records, repetitions)
        yield of_memory(Path(folder), 200 if quick else 20_000)


def cpu_seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Return a run that tells the CPU seconds of the work: other processes of the machine take none of them."""

    def run() -> float:
        begin = process_time()
        result = work()
        elapsed = process_time() - begin
        del result
        return elapsed

    return run


def kernel_columns(batches: list[Any]) -> list[kernel.Columns]:
    """Return batches as the kernel takes them: they are what `ColumnarFold` makes of the batches."""
    batches_of_kernel: list[kernel.Columns] = []

    class Seen(kernel.Kernel):
        def apply(self, columns: kernel.Columns, *, intervals: bool = False) -> Any:
            batches_of_kernel.append(columns)
            return super().apply(columns, intervals=intervals)

    fold = ColumnarFold(DIALECT)
    fold._kernel = Seen(DIALECT)  # noqa: SLF001 - what stands between a batch and the kernel is measured apart
    for batch in batches:
        fold.apply(batch)
    return batches_of_kernel


def of_kernel(path: Path, batches: list[Any], count: int, order: str, repetitions: int) -> Iterator[Row]:
    """Measure the kernel on columns beside the fold of objects on decoded records."""
    decoded = list(tf.replay(path))
    columns = kernel_columns(batches)

    def objects() -> Fold:
        fold = Fold(DIALECT, on_illegal="keep")
        fold.apply_all(decoded)
        return fold

    def arrays(*, intervals: bool = False) -> kernel.Kernel:
        each = kernel.Kernel(DIALECT)
        for part in columns:
            each.apply(part, intervals=intervals)
        return each

    fold = objects()
    assert arrays().total.sum() == sum(t.total for a in fold.allocations.values() for t in a.tasks.values())
    values = take_turns(
        {
            KERNEL: cpu_seconds(arrays),
            WITH_INTERVALS: cpu_seconds(lambda: arrays(intervals=True)),
            "taskfold, ColumnarFold.apply on Arrow": cpu_seconds(lambda: fold_all(batches)),
            APPLY_ALL: cpu_seconds(objects),
        },
        repetitions,
    )
    # Objects that lie together are in the cache: then the fold of objects waits for no memory.
    why = "" if order == RANDOM else TOGETHER
    what = f"{count:,} records folded from columns, {order}"
    yield Row(
        f"{what}, with intervals",
        "s",
        {WITH_INTERVALS: values.pop(WITH_INTERVALS), APPLY_ALL: values[APPLY_ALL]},
        budgets=(Budget("≥", 20, APPLY_ALL, why),),
        note="CPU seconds",
    )
    yield Row(what, "s", values, budgets=(Budget("≥", 25, APPLY_ALL, why),), note="CPU seconds")


def fold_all(batches: Any, **how: Any) -> ColumnarFold:
    """Fold batches."""
    fold = ColumnarFold(DIALECT, **how)
    for batch in batches:
        fold.apply(batch)
    return fold


def write_parquet(batches: list[Any], path: Path) -> None:
    """Write batches as an export does."""
    with _parquet_writer(path, batches[0].schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]))


def of_files(path: Path, batches: list[Any], count: int, repetitions: int) -> Iterator[Row]:
    """Measure files end to end: from the disk to the table of tasks."""
    parquet = path.with_suffix(".parquet")
    write_parquet(batches, parquet)
    count = sum(1 for alloc in tf.replay(path).fold().allocations.values() for _ in alloc.tasks)
    assert (
        fold_all(read(parquet, columns=FOLDED_COLUMNS)).tasks().num_rows
        == fold_all(read(path)).tasks().num_rows
        == count
    )
    values = take_turns(
        {
            "taskfold, Parquet to the table of tasks": cpu_seconds(
                lambda: fold_all(read(parquet, columns=FOLDED_COLUMNS)).tasks()
            ),
            "taskfold, x.jsonl to the table of tasks": cpu_seconds(lambda: fold_all(read(path)).tasks()),
            REPLAY: cpu_seconds(lambda: tf.replay(path).fold()),
        },
        repetitions,
    )
    yield Row(
        f"{count:,} records from a file to states, in random order",
        "s",
        values,
        budgets=(Budget("≥", 25, REPLAY, TEXTS),),
        note="CPU seconds",
    )
    lines = "taskfold, x.jsonl to the table of tasks"
    yield Row(
        f"{count:,} records from lines of JSON to states",
        "s",
        {lines: values[lines], REPLAY: values[REPLAY]},
        budgets=(Budget("≥", 3, REPLAY, DECODING),),
        note="CPU seconds",
    )
    yield Row(
        f"{count:,} records in a file",
        "B a record",
        {"taskfold, Parquet": [parquet.stat().st_size / count], "lines of JSON": [path.stat().st_size / count]},
        budgets=(Budget("≤", 0.1, "lines of JSON"),),
        words=SIZE,
    )


def of_ends(batches: list[Any], count: int, repetitions: int) -> Row:
    """Measure what an end point costs: all records come before it, so that as many are folded."""
    late = int(np.iinfo(np.int64).max)
    ends = {"a time": tf.At(time_ns=late), "an index": tf.At(index=late), "a position": tf.At(seq=late)}
    values = take_turns(
        {f"taskfold, up to {name}": cpu_seconds(lambda at=at: fold_all(batches, at=at)) for name, at in ends.items()}
        | {"without an end point": cpu_seconds(lambda: fold_all(batches))},
        repetitions,
    )
    return Row(
        f"{count:,} records folded up to an end point",
        "s",
        values,
        budgets=(Budget("≤", 1.2, "without an end point"),),
        note="CPU seconds",
    )


def of_memory(folder: Path, tasks: int) -> Row:
    """Measure the peak of processes that fold Parquet, beyond that of one that only imports."""
    few, many = tasks * 20, tasks * 60
    idle = in_child("columnar", "idle")["peak"]
    peaks = {}
    for count in (few, many):
        path = folder / f"{count}.jsonl"
        write_log(path, count, tasks)
        parquet = path.with_suffix(".parquet")
        batches = read(path)
        first = next(batches)
        with _parquet_writer(parquet, first.schema) as writer:
            writer.write_table(pa.Table.from_batches([first]))
            for batch in batches:
                writer.write_table(pa.Table.from_batches([batch]))
        path.unlink()
        peaks[count] = in_child("columnar", "fold", parquet)["peak"] - idle
    return Row(
        f"folding Parquet of {tasks:,} tasks: peak of the process",
        "MB",
        {
            f"taskfold, {many:,} records, three times as many": [peaks[many] / 1e6],
            f"taskfold, {few:,} records": [peaks[few] / 1e6],
        },
        budgets=(Budget("≤", 1.3, f"taskfold, {few:,} records"),),
        words=SIZE,
    )


def child(what: str, path: str = "") -> None:
    """Do one thing, and tell how much memory it took."""
    ColumnarFold(DIALECT)
    fold = fold_all(read(path, columns=FOLDED_COLUMNS)) if what == "fold" else None
    tell({"peak": peak_bytes(), "tasks": 0 if fold is None else len(fold)})


if __name__ == "__main__":
    child(*islice(sys.argv, 2, None))
