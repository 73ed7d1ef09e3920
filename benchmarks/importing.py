"""Importing a Nomad event stream: comparing what it says with what is known, and folding what must have happened.

Rivals: msgspec decoding only the needed fields of each line, msgspec decoding all of it, and json.loads; none of them
folds anything. Budgets: at least 90 MB/s, and memory that does not grow with the number of frames.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

import taskfold as tf
from benchmarks.harness import SIZE, Budget, Row, in_child, label, peak_bytes, seconds, take_turns, tell
from benchmarks.streams import growing, interleaved
from taskfold.model.record import Gap, Observed

DECODING = "decoding what is needed is a fifth; the rest are small steps for what changed, and for jobs"


class Event(Struct):
    """The needed fields of a task event."""

    Type: str
    Time: int
    ExitCode: int = 0
    Signal: int = 0
    StartDelay: int = 0
    KillTimeout: int = 0
    FailsTask: bool = False
    Message: str = ""
    RestartReason: str = ""


class TaskState(Struct):
    """The needed fields of a task state."""

    State: str
    Failed: bool = False
    Restarts: int = 0
    StartedAt: str | None = None
    FinishedAt: str | None = None
    LastRestart: str | None = None
    Events: list[Event] | None = None


class Allocation(Struct):
    """The needed fields of an allocation."""

    ID: str
    ModifyIndex: int
    DesiredStatus: str = ""
    ClientStatus: str = ""
    TaskStates: dict[str, TaskState] | None = None


class Payload(Struct):
    """What an event of the stream carries."""

    Allocation: Allocation | None = None


class StreamEvent(Struct):
    """An event of the stream."""

    Topic: str
    Payload: Payload


class Frame(Struct):
    """A line of the stream."""

    Index: int = 0
    Events: list[StreamEvent] | None = None


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure speed with few and with many stories at once, the import into a log, and memory."""
    size = 300_000 if quick else 100_000_000
    with TemporaryDirectory() as folder:
        path = Path(folder) / "stream.ndjson"
        for at_once in (10, 20) if quick else (100, 2_000):
            lines = interleaved(path, size, at_once)
            yield speed(path, lines, at_once)
        yield from into_log(path)
        path.unlink()
        yield memory(Path(folder), frames=100 if quick else 10_000, allocations=10 if quick else 200)


def _rate(path: Path, work: Callable[[], object]) -> Callable[[], float]:
    """Return a run of work that reads the whole file, in MB/s."""
    return lambda: path.stat().st_size / seconds(work) / 1e6


def _each_line(path: Path, decode: Callable[[bytes], object]) -> Callable[[], float]:
    def work() -> None:
        with path.open("rb") as file:
            for line in file:
                decode(line)

    return _rate(path, work)


def speed(path: Path, lines: int, at_once: int) -> Row:
    """Measure how fast a stream is read and folded."""
    records = list(tf.replay(path))
    lost = sum(isinstance(record.event, (Gap, Observed)) for record in records)
    allocations = len({record.alloc for record in records})
    del records
    values = take_turns(
        {
            "taskfold, replay(path).fold()": _rate(path, lambda: tf.replay(path).fold()),
            label("msgspec", "only the needed fields"): _each_line(path, msgspec.json.Decoder(Frame).decode),
            label("msgspec", "everything"): _each_line(path, msgspec.json.Decoder().decode),
            "json.loads": _each_line(path, json.loads),
        }
    )
    return Row(
        f"a stream of {path.stat().st_size / 1e6:,.0f} MB, {at_once:,} stories at once",
        "MB/s",
        values,
        better="higher",
        budgets=(Budget("≥", 90, why=DECODING),),
        note=f"{lines:,} lines, {allocations:,} allocations, {lost:,} records of kind Gap or Observed",
    )


def into_log(path: Path) -> Iterator[Row]:
    """Measure the import into an NDJSON log, and how large the log is."""
    log = path.with_name("log.jsonl")

    def work() -> None:
        log.unlink(missing_ok=True)
        tf.ingest(path, into=log)

    values = take_turns(
        {
            "taskfold, ingest(path, into=log)": _rate(path, work),
            "taskfold, replay(path).fold()": _rate(path, lambda: tf.replay(path).fold()),
        }
    )
    yield Row("the same stream into an NDJSON log", "MB/s", values, better="higher")
    sizes = {"taskfold, the log": [log.stat().st_size / 1e6], "the stream": [path.stat().st_size / 1e6]}
    yield Row("size of that log", "MB", sizes, words=SIZE)


def memory(folder: Path, frames: int, allocations: int) -> Row:
    """Measure whether more frames of the same allocations need more memory."""
    few, many = f"taskfold, {frames:,} frames", f"taskfold, {4 * frames:,} frames"
    for name, count in ((few, frames), (many, 4 * frames)):
        growing(folder / name, count, allocations)
    values = take_turns(
        {
            many: lambda: in_child("importing", folder / many) / 1e6,
            few: lambda: in_child("importing", folder / few) / 1e6,
        },
        repetitions=2,
        warm_up=False,
    )
    small, large = ((folder / name).stat().st_size / 1e6 for name in (few, many))
    return Row(
        f"peak memory of the process, {allocations:,} allocations",
        "MB",
        values,
        budgets=(Budget("≤", 1.1, few),),
        note=f"streams of {small:,.1f} and {large:,.1f} MB",
        words=SIZE,
    )


if __name__ == "__main__":
    tf.replay(sys.argv[2]).fold()
    tell(peak_bytes())
