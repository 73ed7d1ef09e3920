"""A bit that is flipped anywhere in the files of a log in SQLite: the right answer, or a documented error; no third.

Each flip is tried on a copy of a small log: it is opened and folded, each history is asked for, and each ID. What may
differ without an error is what was never acknowledged, as far as anybody can tell: the last commit of a write-ahead log
whose index is not there.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from taskfold import Engine, ManualClock, events, replay
from taskfold.errors import LogError, SourceError
from taskfold.log.check import check_log
from taskfold.model.record import Record

FLIPS = int(os.environ.get("TASKFOLD_FLIPS", "12"))
"""How many bits of each file are flipped; 0 stands for each, which takes hours: `make torture` flips some thousand."""
SECOND = 10**9
ALLOCS = [f"alloc-{number}" for number in range(5)]


class Answers(NamedTuple):
    """What a log answers."""

    states: dict[str, object]
    histories: dict[str, list[Record]]
    known: set[str]


IDS = [f"{alloc}-{number}" for alloc in ALLOCS for number in range(4)]


def fill(engine: Engine, first: int, last: int) -> None:
    """Write what happens from one round to another."""
    for number in range(first, last):
        for alloc in ALLOCS:
            if not number:
                engine.place({"ID": alloc, "JobID": "example"})
            engine.record(alloc, "web", events.Received(), id=f"{alloc}-{number}")
            engine.record(alloc, "db", events.Driver(driver_message=f"message {number}"))


def answers_of(engine: Engine) -> Answers:
    return Answers(
        {alloc: engine.store.read(alloc) for alloc in engine.store.fold},
        {alloc: engine.history(alloc) for alloc in ALLOCS},
        {known for known in IDS if engine.store.log.knows(known)},
    )


class Sample(NamedTuple):
    """The files of a log, and what it answers, now and before its last commit."""

    files: dict[str, bytes]
    right: Answers
    before: Answers


def sample(folder: Path, kind: str) -> Sample:
    """Return a log: closed, with a checkpoint, or as a kill leaves it, with and without the index of its frames."""
    path = folder / "x.db"
    has_checkpoint = "checkpoint" in kind
    with Engine.open(path, dialect="1.1.2", clock=ManualClock(SECOND)) as engine:
        fill(engine, 0, 2)
        if has_checkpoint:
            engine.checkpoint()
        if "wal" not in kind:
            fill(engine, 2, 4)
            before = right = answers_of(engine)
    if "wal" in kind:
        engine = Engine.open(path, clock=ManualClock(SECOND))
        fill(engine, 2, 4)
        before = answers_of(engine)
        engine.record(ALLOCS[0], "web", events.Started())
        right = answers_of(engine)
    ends = ("", "-wal", "-shm") if "shm" in kind else ("", "-wal") if "wal" in kind else ("",)
    files = {end: Path(f"{path}{end}").read_bytes() for end in ends}
    if "wal" in kind:
        engine.close()
    return Sample(files, right, before)


KINDS = ("closed", "closed, checkpoint", "wal", "wal, checkpoint", "wal, shm")


def flips(files: dict[str, bytes], seed: int) -> Iterator[tuple[str, int, int]]:
    """Yield files, places and bits: each, or some of each file, most of them where something is written."""
    chance = random.Random(seed)
    for end, content in files.items():
        if not FLIPS:
            yield from ((end, place, bit) for place in range(len(content)) for bit in range(8))
            continue
        written = [place for place, byte in enumerate(content) if byte]
        for _ in range(FLIPS):
            yield end, chance.choice(written), chance.randrange(8)


def outcome(folder: Path, files: dict[str, bytes], found: Sample) -> str:
    """Return what becomes of a log with these files."""
    path = folder / "x.db"
    for end, content in files.items():
        Path(f"{path}{end}").write_bytes(content)
    try:
        return "; ".join((_read(path, found), _opened(path, found), _checked(path, files)))
    finally:
        for file in folder.iterdir():
            file.unlink()


def _read(path: Path, found: Sample) -> str:
    try:
        fold = replay(path).fold()
    except SourceError as error:
        return "reading refused" if str(error).startswith(str(path)) else f"WRONG: {error}"
    states = {alloc: fold[alloc] for alloc in fold}
    if states == found.right.states:
        return "reading right"
    return "reading before" if states == found.before.states else "reading WRONG"


def _opened(path: Path, found: Sample) -> str:
    try:
        with Engine.open(path) as engine:
            answers = answers_of(engine)
    except LogError as error:
        is_named = str(path) in str(error) or "the log is damaged" in str(error)
        return "opening refused" if is_named else f"WRONG: {error}"
    if answers == found.right:
        return "opening right"
    return "opening before" if answers == found.before else "opening WRONG"


def _checked(path: Path, files: dict[str, bytes]) -> str:
    """Return what a check says of the same files; opening may have written others."""
    for file in path.parent.iterdir():
        file.unlink()
    for end, content in files.items():
        Path(f"{path}{end}").write_bytes(content)
    try:
        check = check_log(path)
    except SourceError:
        return "check refused"
    return "check damaged" if not check.is_whole else "check torn" if check.unacknowledged_bytes else "check whole"


def is_wrong(became: str, kind: str) -> bool:
    """Tell whether an outcome is none that may be."""
    if "WRONG" in became or ("before" in became and kind not in {"wal", "wal, checkpoint"}):
        return True
    return "check whole" in became and ("before" in became or "refused" in became)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bit_that_is_flipped_gives_the_right_answer_or_an_error(tmp_path, kind):
    found = sample(tmp_path, kind)
    assert ("wal" in kind) == ("-wal" in found.files)
    counts: Counter[str] = Counter()
    wrong = []
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - nothing has to outlast the test
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        assert outcome(Path(folder), found.files, found) == "reading right; opening right; check whole"
        for end, place, bit in flips(found.files, seed=len(kind)):
            damaged = bytearray(found.files[end])
            damaged[place] ^= 1 << bit
            became = outcome(Path(folder), {**found.files, end: bytes(damaged)}, found)
            counts[became] += 1
            if is_wrong(became, kind):
                wrong.append((end, place, bit, became))
    print(kind, dict(counts))  # noqa: T201 - the counts that are told

    assert wrong == []
    assert counts.total() == (FLIPS * len(found.files) or 8 * sum(map(len, found.files.values())))
    assert sum(count for became, count in counts.items() if "refused" in became) > 0
