"""Replaying a taskfold NDJSON log: reading, decoding and folding every record.

Rival: msgspec decoding the whole file at once into the same types, which folds nothing; and, as the floor, the same
with one dict update per record. Budgets: at most 4.5 times the rival in random order, where each
record waits for memory; at most twice where an allocation's records are together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

import taskfold as tf
from benchmarks.harness import Budget, Row, label, seconds, take_turns
from benchmarks.histories import write_log
from taskfold.model.record import Record


class _Line(Record, frozen=True, kw_only=True):
    """A record as its line in the file has it."""

    seal: str = ""


decode_lines = msgspec.json.Decoder(_Line).decode_lines
DECODE = label("msgspec", "decode_lines of the whole file at once")
FLOOR = label("msgspec", "the same and one dict update per record")
MEMORY_LATENCY = "each record waits for the memory of its task; a fold over columns, not over objects, would be needed"


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure logs of a million records of 50,000 tasks: in random order, which is the worst, and in the best one."""
    records, tasks = (10_000, 500) if quick else (1_000_000, 50_000)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        for together, order, limit in (
            (False, "in random order", 4.5),
            (True, "an allocation's records together", 2.0),
        ):
            write_log(path, records, tasks, together=together)
            yield of_log(path, records, tasks, order, limit)


def of_log(path: Path, count: int, tasks: int, order: str, limit: float) -> Row:
    """Measure the contestants on one log."""

    def fold() -> tf.Fold:
        return tf.replay(path).fold()

    def iterate() -> int:
        return sum(1 for _ in tf.replay(path))

    def decode() -> list[_Line]:
        return decode_lines(path.read_bytes().partition(b"\n")[2])

    def floor() -> object:
        records, newest = decode(), {}
        for record in records:
            newest[record.alloc, record.task] = record
        return records, newest

    assert sum(len(allocation.tasks) for allocation in fold().allocations.values()) == tasks
    assert iterate() == len(decode()) == count
    values = take_turns(
        {
            "taskfold, replay(path).fold()": lambda: seconds(fold),
            "taskfold, iterating over replay(path)": lambda: seconds(iterate),
            DECODE: lambda: seconds(decode),
            FLOOR: lambda: seconds(floor),
        }
    )
    return Row(
        f"{count:,} records of {tasks:,} tasks, {order}",
        "s",
        values,
        budgets=(Budget("≤", limit, DECODE, MEMORY_LATENCY),),
        note=f"{path.stat().st_size / count:.0f} B a record; decoding at once needs memory for all of them",
    )
