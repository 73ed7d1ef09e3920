"""Run by tests/log/test_sqlite_faults.py with faults.c preloaded: SQLite below which every call fails in turn.

Where failing_log.py lets a log live and die with its fault, here the fault passes while the log is open. Prints a JSON
line for each run: at which call it failed, what was told, and what is wrong, if anything.
"""

from __future__ import annotations

import ctypes
import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from taskfold import replay
from taskfold.errors import LogError
from taskfold.log.contract import Append
from taskfold.log.sqlite.log import SqliteLog
from taskfold.model.record import Record
from taskfold.testing.logs import record_of

FORMAT_1 = Path(__file__).parents[1] / "data" / "format-1.sqlite3"
OLD, NEW = [b"o" * 9_000, b"o"], [b"n" * 9_000, b"n"]
"""A checkpoint, and the one that takes its place."""


def named(alloc: str, first: int, last: int) -> Append:
    """Return records that are known by their IDs, so that they may be appended once more."""
    records = [record_of(alloc, version, id=f"{alloc}-{version}") for version in range(first, last + 1)]
    return Append(alloc, first - 1, records)


BEFORE = [named("a", 1, 1)]
APPENDS = {
    "one record": [named("a", 2, 2)],
    "two allocations": [named("b", 1, 40), named("c", 1, 40)],
    "pending": [named("d", 1, 1)],
}
"""What is appended while a call fails."""
RECORDS = 1 + sum(len(append.records) for appends in APPENDS.values() for append in appends)


class Fault(NamedTuple):
    """Which call fails, and how."""

    n: int
    error: int
    mode: int

    def begin(self) -> None:
        ctypes.CDLL(None).taskfold_fail(self.n, self.error, self.mode)

    def end(self) -> int:
        """Let every call succeed again; return how many there were."""
        library = ctypes.CDLL(None)
        calls: int = library.taskfold_calls()
        library.taskfold_fail(0, 0, 0)
        return calls


class Outcome(NamedTuple):
    """What became of a log."""

    calls: int
    told: list[str]
    wrong: list[str]


def told_by(call: Callable[[], object]) -> list[str]:
    """Return what a call told; whatever is no LogError ends the process."""
    try:
        call()
    except LogError as error:
        return [str(error)]
    return []


def append(log: SqliteLog, name: str) -> None:
    """Append, and have it acknowledged: at once, or by a sync of its own."""
    log.append_all(APPENDS[name], sync=name != "pending")
    log.sync()


def told_while_it_lasts(log: SqliteLog) -> dict[str, list[str]]:
    """Do everything that writes; return what each told."""
    told = {name: told_by(lambda name=name: append(log, name)) for name in APPENDS}  # type: ignore[misc]
    return told | {"checkpoint": told_by(lambda: log.save_checkpoint(NEW))}


def wrong_with(log: SqliteLog, told: dict[str, list[str]]) -> list[str]:
    """Return where a log says another thing than was told: of its records, its IDs, its positions, its checkpoint."""
    kept = list(log.read_all())
    expected: list[Record] = [r for append in BEFORE for r in append.records]
    expected += [r for name, appends in APPENDS.items() if not told[name] for append in appends for r in append.records]
    wrong = []
    if [r.id for r in kept] != [r.id for r in expected]:
        wrong.append(f"there are {len(kept)} records, where {len(expected)} were acknowledged")
    if [r.seq for r in kept] != list(range(1, log.seq + 1)):
        wrong.append("there are holes")
    for name, appends in APPENDS.items():
        if {log.knows(str(r.id)) for append in appends for r in append.records} != {not told[name]}:
            wrong.append(f"{name}: told {told[name]}, and known otherwise")
    if list(log.checkpoint_parts()) != (OLD if told["checkpoint"] else NEW):
        wrong.append("the checkpoint is not the one that it has to be")
    return wrong


def passes(path: Path, fault: Fault) -> Outcome:
    """Let a fault pass while the log is open, and try again what it kept from being done."""
    with SqliteLog(path, "1.1.2") as log:
        log.append_all(BEFORE)
        log.save_checkpoint(OLD)
        fault.begin()
        told = told_while_it_lasts(log)
        calls = fault.end()
        wrong = wrong_with(log, told)
        for name, appends in APPENDS.items():
            if bool(log.append_all(appends)) != bool(told[name]):
                wrong.append(f"{name}: cannot be appended once more")
        log.save_checkpoint(NEW)
        at_last = list(log.read_all())
    with SqliteLog(path) as log:
        if list(log.read_all()) != at_last or list(log.checkpoint_parts()) != NEW:
            wrong.append("another log is opened than was closed")
        if [r.seq for r in log.append("z", 0, [record_of("z", 1)])] != [RECORDS + 1]:
            wrong.append("it does not go on")
    return Outcome(calls, [sentence for sentences in told.values() for sentence in sentences], wrong)


def takes_along(path: Path, fault: Fault) -> Outcome:
    """Let an append fail while another one is pending: whatever becomes of that, the log knows it."""
    with SqliteLog(path, "1.1.2") as log:
        log.append_all(BEFORE)
        log.append_all(APPENDS["pending"], sync=False)
        fault.begin()
        told = told_by(lambda: log.append_all(APPENDS["two allocations"]))
        calls = fault.end()
        lost = told_by(log.sync)
        kept = {r.id: r.seq for r in log.read_all()}
        wrong = [] if list(kept.values()) == list(range(1, log.seq + 1)) else ["there are holes"]
        for name in ("pending", "two allocations"):
            ids = [r.id for append in APPENDS[name] for r in append.records]
            there = {one in kept for one in ids}
            if {log.knows(str(one)) for one in ids} != there or len(there) > 1:
                wrong.append(f"{name}: known otherwise than it is there")
            if len(log.append_all(APPENDS[name])) != (0 if ids[0] in kept else len(ids)):
                wrong.append(f"{name}: cannot be appended once more")
        if bool(told) == ("b-1" in kept):
            wrong.append("it was told otherwise than it is there")
        if bool(lost) == ("d-1" in kept):
            wrong.append("what was pending is gone, and sync is silent")
    return Outcome(calls, told, wrong)


def is_converted(path: Path, fault: Fault) -> Outcome:
    """Open a log of the first format, of which every record is written anew."""
    shutil.copy(FORMAT_1, path)
    before = list(replay(path))
    fault.begin()
    told = told_by(lambda: SqliteLog(path).close())
    calls = fault.end()
    with SqliteLog(path) as log:
        wrong = [] if before and list(log.read_all()) == before else ["other records than before"]
        if [r.seq for r in log.append("z", 0, [record_of("z", 1)])] != [len(before) + 1]:
            wrong.append("it does not go on")
    return Outcome(calls, told, wrong)


STORIES = {"passes": passes, "takes along": takes_along, "is converted": is_converted}


def main() -> None:
    folder, story, error, mode = Path(sys.argv[1]), sys.argv[2], getattr(errno, sys.argv[3]), int(sys.argv[4])
    run = STORIES[story]
    n, is_over = 0, False
    while not is_over:
        n += 1
        path = folder / str(n) / "x.db"
        path.parent.mkdir()
        outcome = run(path, Fault(n, error, mode))
        is_over = outcome.calls < n
        print(json.dumps({"n": n, "over": is_over} | outcome._asdict()), flush=True)  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
