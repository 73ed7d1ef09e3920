"""Run by tests/log/test_faults.py with faults.c preloaded: a log whose file system fails at every call in turn.

Prints a JSON line for each run: at which call it failed, what was told, and what is wrong, if anything.
"""

from __future__ import annotations

import ctypes
import errno
import json
import sys
from pathlib import Path

import msgspec
from msgspec import UNSET

from taskfold.errors import LogError, VersionConflict
from taskfold.log.contract import Append, StoredLog
from taskfold.log.registry import open_log
from taskfold.model.record import Collected, Record
from taskfold.testing.logs import record_of, records_of

FAULTS = ctypes.CDLL(None)
APPENDS = [
    [Append("a", 0, [record_of("a", 1, id="first")])],
    [Append("a", 1, records_of("a", 2, 40)), Append("b", 0, records_of("b", 1, 40))],
    [Append("a", 40, [record_of("a", 41, index=99, id="last")])],
    [
        Append("a", 41, [record_of("a", 42, index=100)]),
        Append("b", 40, [record_of("b", 41, index=101)]),
        Append("a", 42, [record_of("a", 43, index=102)]),
    ],
    [Append("c", 0, records_of("c", 1, 3))],
]
COLLECTED = Record(index=100, alloc="c", version=4, event=Collected(reason="old", body=msgspec.Raw(b"{}")))


def main() -> None:
    folder, name, error, mode = Path(sys.argv[1]), sys.argv[2], getattr(errno, sys.argv[3]), int(sys.argv[4])
    n, is_over = 0, False
    while not is_over:
        n += 1
        path = folder / str(n) / name
        path.parent.mkdir()
        FAULTS.taskfold_fail(n, error, mode)
        told, acknowledged = run(path)
        is_over = FAULTS.taskfold_calls() < n
        FAULTS.taskfold_fail(0, 0, 0)
        wrong = check(path, acknowledged)
        print(json.dumps({"n": n, "told": told, "wrong": wrong, "over": is_over}), flush=True)  # noqa: T201 - its answer


def run(path: Path) -> tuple[list[str], list[Record]]:
    """Write a log; return what was told, and what was acknowledged."""
    told: list[str] = []
    acknowledged: list[Record] = []
    try:
        log = open_log(path, "1.1.2")
    except LogError as error:
        return [str(error)], []
    for appends in APPENDS:
        try:
            acknowledged += log.append_all(appends)
        except (LogError, VersionConflict) as error:
            told.append(str(error))
    try:
        acknowledged += log.append("c", 3, [COLLECTED])
        log.compact()
        acknowledged = [record for record in acknowledged if record.alloc != "c" or record.version == COLLECTED.version]
    except (LogError, VersionConflict) as error:
        told.append(str(error))
    if hasattr(log, "save_checkpoint"):
        try:
            log.save_checkpoint([b"x" * 9_000])
        except LogError as error:
            told.append(str(error))
    try:
        log.close()
    except LogError as error:
        told.append(str(error))
    return told, acknowledged


def check(path: Path, acknowledged: list[Record]) -> list[str]:
    """Return what is wrong with a log that is opened when nothing fails any more."""
    wrong = []
    with open_log(path, "1.1.2") as log:
        kept = list(log.read_kept())
        # A compaction that was told to have failed may be there after all, as an append may: but whole.
        removed = 3 if log.header.compacted is not UNSET else 0
        acknowledged = [r for r in acknowledged if not removed or r.alloc != "c" or r.version == COLLECTED.version]
        if missing := [(r.alloc, r.version) for r in acknowledged if (r.alloc, r.version) not in known(kept)]:
            wrong.append(f"acknowledged, and gone: {missing}")
        if [r.seq for r in kept if r.alloc != "c"] != list(
            range(1, len(kept) - (1 if removed else count_of_c(kept)) + 1)
        ):
            wrong.append("there are holes")
        wrong += halves(kept, has_c=not removed)
        wrong += goes_on(log, len(kept) + removed)
    return wrong


def known(records: list[Record]) -> set[tuple[str, int]]:
    return {(record.alloc, record.version) for record in records}


def count_of_c(records: list[Record]) -> int:
    return sum(record.alloc == "c" for record in records)


def halves(kept: list[Record], *, has_c: bool) -> list[str]:
    """Return which appends are there in part."""
    there = known(kept)
    return [
        f"append {number} is there in part"
        for number, appends in enumerate(APPENDS)
        if len({(r.alloc, r.version) in there for append in appends for r in append.records}) > 1
        and (has_c or appends[0].alloc != "c")
    ]


def goes_on(log: StoredLog, count: int) -> list[str]:
    (record,) = log.append("z", 0, [record_of("z", 1)])
    return [] if record.seq == count + 1 else ["it does not go on"]


if __name__ == "__main__":
    main()
