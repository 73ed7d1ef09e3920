"""Writers that open one log at the same time: what one of them was told is acknowledged, no other one undoes.

What happens by chance between processes, happens here at a moment that is named: another writer comes and goes just
before the first call of a function. test_sqlite.py has processes race for one log that is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from taskfold.errors import LogError, VersionConflict
from taskfold.log.contract import StoredLog
from taskfold.log.registry import open_log
from taskfold.model.record import Collected, Record
from taskfold.testing.logs import record_of, records_of

fcntl = pytest.importorskip("fcntl", reason="where files cannot be locked, nobody is told to wait")

BUSY = "this process has the log open already"
MOMENTS = {"is opened": (os, "open"), "is locked": (fcntl, "flock")}
"""What a writer calls between finding a log and having it for itself."""


class Meanwhile:
    """Lets something happen once, just before a function is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._happened: list[bool] = []

    def before(self, owner: Any, name: str, do: Callable[[], object]) -> None:
        real, is_over = getattr(owner, name), [False]

        def call(*args: Any, **options: Any) -> Any:
            writes = name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR)
            if writes and not is_over[0]:
                is_over[0] = True
                do()
            return real(*args, **options)

        self._patch.setattr(owner, name, call)
        self._happened = is_over

    def check(self) -> None:
        if self._happened != [True]:
            pytest.fail(
                "nobody came between: the log is opened in another way now, and the moment has to be named anew"
            )


@pytest.fixture
def meanwhile(monkeypatch):
    between = Meanwhile(monkeypatch)
    yield between
    between.check()


def append_as(writer: str, log: StoredLog, version: int) -> list[str]:
    """Append a version of an allocation; return the ID of what was acknowledged."""
    try:
        return [str(r.id) for r in log.append("a", version - 1, [record_of("a", version, id=f"{writer}-{version}")])]
    except VersionConflict:
        return []


def append_alone(writer: str, path: Path) -> list[str]:
    """Open a log, append a first version, and close it; nothing is acknowledged where another process writes."""
    try:
        with open_log(path, "1.1.2") as log:
            return append_as(writer, log, 1)
    except LogError as error:
        return must_be_busy(error)


def must_be_busy(error: LogError) -> list[str]:
    assert BUSY in str(error)
    return []


def kept_in(path: Path) -> list[str]:
    """Return the IDs of what is in a log; where it is none any more, that."""
    try:
        with open_log(path) as log:
            return [str(r.id) for r in log.read_kept()]
    except LogError as error:
        return [str(error)]


cases = pytest.mark.parametrize(
    ("name", "version", "moment"),
    [
        pytest.param(name, version, moment, id=f"{there} {name} {moment}")
        for name in ("x.db", "x.jsonl")
        for there, version in (("new", 1), ("old", 2))
        for moment in MOMENTS
    ],
)
"""Each log, new or with a record in it, at each moment."""


@cases
def test_what_another_writer_appended_before_the_log_was_ours_is_there(tmp_path, meanwhile, name, version, moment):
    path, acknowledged = tmp_path / name, []
    if version > 1:
        with open_log(path, "1.1.2") as log:
            acknowledged += append_as("first", log, 1)

    def comes_and_goes() -> None:
        with open_log(path, "1.1.2") as other:
            acknowledged.extend(append_as("other", other, version))

    meanwhile.before(*MOMENTS[moment], comes_and_goes)
    with open_log(path, "1.1.2") as log:
        acknowledged += append_as("ours", log, version)

    assert kept_in(path) == acknowledged
    assert acknowledged[-1] == f"other-{version}"


@cases
def test_a_writer_that_is_told_to_wait_has_done_nothing_to_the_log(tmp_path, meanwhile, name, version, moment):
    path, acknowledged, others = tmp_path / name, [], []
    if version > 1:
        with open_log(path, "1.1.2") as log:
            acknowledged += append_as("first", log, 1)

    def comes_and_stays() -> None:
        others.append(open_log(path, "1.1.2"))
        acknowledged.extend(append_as("other", others[0], version))

    meanwhile.before(*MOMENTS[moment], comes_and_stays)
    with pytest.raises(LogError, match=BUSY):
        open_log(path, "1.1.2")
    acknowledged += append_as("other", others[0], version + 1)
    others[0].close()

    assert kept_in(path) == acknowledged
    assert acknowledged[-1] == f"other-{version + 1}"


@pytest.mark.parametrize(
    "name",
    [
        "x.db",
        "x.jsonl",
    ],
)
def test_a_log_that_is_compacted_while_it_is_opened_has_one_writer(tmp_path, meanwhile, name):
    path, acknowledged = tmp_path / name, []
    holder = open_log(path, "1.1.2")
    holder.append("c", 0, records_of("c", 1, 3))
    holder.append(
        "c", 3, [Record(index=9, alloc="c", version=4, event=Collected(reason="old", body=msgspec.Raw(b"{}")))]
    )

    meanwhile.before(fcntl, "flock", holder.compact)
    acknowledged += append_alone("ours", path)
    acknowledged += append_as("holder", holder, 1)
    holder.close()

    assert len(acknowledged) == 1
    assert kept_in(path)[1:] == acknowledged


@pytest.mark.parametrize(
    "name",
    [
        "x.db",
        "x.jsonl",
    ],
)
def test_a_log_that_is_taken_back_is_nobody_elses_until_it_is_gone(tmp_path, meanwhile, name):
    path, acknowledged = tmp_path / name, []
    log = open_log(path, "1.1.2")

    meanwhile.before(Path, "unlink", lambda: acknowledged.extend(append_alone("other", path)))
    log.roll_back()

    assert path.exists() == bool(acknowledged)


def test_a_log_that_was_taken_back_has_one_writer_again(tmp_path, meanwhile):
    path = tmp_path / "x.db"
    meanwhile.before(fcntl, "flock", lambda: open_log(path, "1.1.2").roll_back())
    with open_log(path, "1.1.2"):
        try:
            open_log(path, "1.1.2").close()
        except LogError as error:
            told = str(error)
        else:
            told = "there are two writers"

    assert BUSY in told


BEGINNER = """
import sys, time
from taskfold.errors import LogError, VersionConflict
from taskfold.log.registry import open_log
from taskfold.testing.logs import record_of
for line in sys.stdin:
    told = ""
    while not told:
        try:
            with open_log(line.strip(), "1.1.2") as log:
                log.append("a", 0, [record_of("a", 1)])
            told = "won"
        except VersionConflict as conflict:
            told = f"found {conflict.actual_version}"
        except LogError as error:
            told = "" if "another process is writing this log" in str(error) else str(error)
            time.sleep(0.001)
    print(told, flush=True)
"""


@pytest.mark.parametrize("name", ["x.db", "x.jsonl"])
def test_of_eight_processes_that_begin_a_log_exactly_one_wins(tmp_path, name):
    command = [sys.executable, "-c", BEGINNER]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **options) for _ in range(8)]
    told = []
    for number in range(40):
        for process in processes:
            process.stdin.write(f"{tmp_path / f'{number}-{name}'}\n")
            process.stdin.flush()
        told.append(sorted(process.stdout.readline().strip() for process in processes))
    for process in processes:
        process.communicate()

    assert told == [["found 1"] * 7 + ["won"]] * 40
    assert [len(kept_in(tmp_path / f"{number}-{name}")) for number in range(40)] == [1] * 40
