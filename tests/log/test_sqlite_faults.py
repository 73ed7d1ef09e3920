"""A fault below SQLite that passes while a log is open; test_faults.py proves what one leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.faulty_library import FROM_THEN_ON, HERE, ONCE, SHORT, library
from taskfold import Engine, events
from taskfold.errors import DecodeError, Gone, LogError
from taskfold.log.sqlite.log import SqliteLog
from taskfold.testing.logs import record_of

__all__ = ["library"]  # a fixture

SAID = {"ENOSPC": ("disk is full", "disk I/O error"), "EIO": ("disk I/O error",)}
"""What SQLite calls each error: what is no write of a page is an I/O error to it, whatever the reason."""

every_fault = pytest.mark.parametrize(
    ("error", "mode", "how"),
    [
        pytest.param(error, mode, how, id=f"{error} {how}")
        for error in SAID
        for mode, how in ((ONCE, "once"), (FROM_THEN_ON, "from then on"), (SHORT, "short"))
        if (error, mode) != ("EIO", SHORT)  # what is short is a disk that fills up
    ],
)


def runs(library: Path, folder: Path, story: str, error: str, mode: int) -> list[dict]:
    """Return what became of a log whose n-th call failed, for every n, until nothing failed any more.

    Skips, loudly, where no call can be made to fail.
    """
    folder = folder.resolve()
    settings = {"LD_PRELOAD": str(library), "TASKFOLD_FAULTS": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, HERE / "faults.py", folder, story, error, str(mode)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=120)
    if "undefined symbol: taskfold_fail" in done.stderr:
        pytest.skip("LD_PRELOAD does not take here: no call below SQLite can be made to fail")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if not any(one["calls"] for one in found):
        pytest.skip("SQLite does not call the system through libc here: no call below it can be made to fail")
    assert [one["n"] for one in found if one["over"]] == [len(found)], "every call was made to fail once"
    return found


@every_fault
def test_every_call_that_fails_is_told_and_the_same_log_goes_on_when_it_has_passed(library, tmp_path, error, mode, how):
    *failed, whole = runs(library, tmp_path, "passes", error, mode)

    assert [one for one in [*failed, whole] if one["wrong"]] == []
    assert len(failed) > 15, how
    assert [one["n"] for one in failed if not one["told"]] == [], "nothing fails in silence"
    assert whole["told"] == []
    for sentence in (sentence for one in failed for sentence in one["told"]):
        assert sentence.startswith(str(tmp_path.resolve()))
        assert sentence.endswith(SAID[error])


@every_fault
def test_a_log_knows_what_became_of_a_pending_append_when_the_next_one_fails(library, tmp_path, error, mode, how):
    *failed, whole = runs(library, tmp_path, "takes along", error, mode)

    assert [one for one in [*failed, whole] if one["wrong"]] == []
    assert len(failed) > 5, how
    assert [one["n"] for one in failed if not one["told"]] == [], "nothing fails in silence"
    assert whole["told"] == []


@every_fault
def test_a_log_of_an_older_format_keeps_every_record_whatever_call_fails_while_it_is_converted(
    library, tmp_path, error, mode, how
):
    # Not every call that fails is told: what is not copied back from the write-ahead log at the end is there still.
    *failed, whole = runs(library, tmp_path, "is converted", error, mode)

    assert [one for one in [*failed, whole] if one["wrong"]] == []
    assert sum(bool(one["told"]) for one in failed) > 10, how
    assert whole["told"] == []


def test_what_a_sync_acknowledges_is_there_whatever_append_failed_before_it(tmp_path):
    with SqliteLog(tmp_path / "x.db", "1.1.2") as log:
        log.append("a", 0, [record_of("a", 1)], sync=False)
        with pytest.raises(DecodeError, match="64 bits"):
            log.append("b", 0, [record_of("b", 1, index=2**63)])

        log.sync()

        assert [(r.alloc, r.version) for r in log.read_all()] == [("a", 1)]


def test_a_time_limit_that_ends_a_compaction_after_its_commit_leaves_a_log_that_can_be_read(tmp_path, monkeypatch):
    engine = Engine.open(tmp_path / "x.db")
    for alloc in ("a", "b"):
        engine.place({"ID": alloc})
        engine.record(alloc, "web", events.Received())
    engine.update("a", {"ClientStatus": "complete"})
    engine.collect("a")
    commit = SqliteLog._end_with

    def ends_late(self, *arguments):
        commit(self, *arguments)
        raise TimeoutError("a time limit")

    monkeypatch.setattr(SqliteLog, "_end_with", ends_late)
    with pytest.raises(LogError, match="a time limit"):
        engine.compact()
    monkeypatch.undo()

    kept = [(record.alloc, record.version) for record in engine.store.log.read_kept()]
    assert kept == [("b", 1), ("b", 2), ("a", 4)]
    with pytest.raises(Gone):
        engine.history("a")
    assert len(engine.history("b")) == 2
    engine._check()
    engine.close()
