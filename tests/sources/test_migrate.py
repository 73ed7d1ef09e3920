"""A log that is migrated to another dialect has the same events and states, and what its Nomad cannot say is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import run
from taskfold import Engine, Fold, LogError, ManualClock, Replay, SourceError, events, ingest, inputs
from taskfold.model.dialect import DIALECTS
from taskfold.model.record import Observed

STATE = ("state", "failed", "restarts", "last_restart_ns", "started_at_ns", "finished_at_ns", "events", "counts")
JOB = {
    "ID": "j",
    "Type": "service",
    "TaskGroups": [
        {
            "Name": "g",
            "RestartPolicy": {"Attempts": 1, "Interval": 60 * 10**9, "Delay": 10**9, "Mode": "fail"},
            "Tasks": [{"Name": "web"}, {"Name": "db"}],
        }
    ],
}


def begin(path: Path, dialect: str) -> None:
    """Begin a log in which tasks start, fail, are started again and end, one allocation is collected, one is odd."""
    clock = ManualClock(10**18)
    with Engine.open(path, dialect=dialect, clock=clock, seed=1) as engine:
        for alloc in ("a", "b", "c"):
            engine.place({"ID": alloc, "TaskGroup": "g", "Job": JOB})
            for report in (inputs.PlacementReceived(), inputs.ProcessStarted()):
                for task in ("web", "db"):
                    engine.report(alloc, task, report)
                    clock.advance(10**9)
            for _ in range(2):
                engine.report(alloc, "web", inputs.Exited(exit_code=1))
                clock.advance(3 * 10**9)
                engine.due()
                engine.report(alloc, "web", inputs.ProcessStarted())
        for task in ("web", "db"):
            engine.report("b", task, inputs.Exited(exit_code=0))
        engine.report("b", "", inputs.StopRequested())
        engine.report("b", "", inputs.KillRequested())
        for task in ("web", "db"):
            engine.report("b", task, inputs.Exited(exit_code=0))
        engine.record("c", "db", events.Signaling(task_signal="hangup"))
        if dialect != "0.5.0":
            engine.place({"ID": "d"})
            engine.record("d", "web", events.Started())
            engine.record("d", "web", events.Driver(driver_message="hello"))


def states(path: Path) -> list[object]:
    """Return what a log says of every task after each of its indexes."""
    fold = Fold(Replay(path).fold().dialect, on_illegal="keep")
    told: dict[int, object] = {}
    for record in Replay(path):
        fold.apply(record)
        told[record.index] = [
            (alloc, name, *(getattr(fold[alloc].tasks[name], field) for field in STATE))
            for alloc in fold
            for name in fold[alloc].tasks
        ]
    return list(told.items())


@pytest.mark.parametrize("suffix", ["db", "jsonl"])
@pytest.mark.parametrize("new", DIALECTS)
@pytest.mark.parametrize("old", DIALECTS)
def test_a_log_of_another_dialect_has_the_same_events_and_states_at_every_index(
    tmp_path: Path, old: str, new: str, suffix: str
) -> None:
    before, after = tmp_path / f"old.{suffix}", tmp_path / f"new.{suffix}"
    begin(before, old)

    result = ingest(before, into=after, dialect=new)

    assert result.dialect == Replay(after).fold().dialect.name == new
    assert result.records == sum(1 for _ in Replay(after))
    assert states(after) == states(before)
    kept = [record.event for record in Replay(after) if not isinstance(record.event, Observed)]
    assert kept == [record.event for record in Replay(before) if not isinstance(record.event, Observed)]
    with Engine.open(after) as engine:
        assert engine.dialect.name == new
        engine.report("c", "", inputs.StopRequested())


def test_what_the_new_dialect_cannot_express_is_told(tmp_path: Path) -> None:
    begin(tmp_path / "old.db", "1.1.2")
    notes: list[str] = []

    ingest(tmp_path / "old.db", into=tmp_path / "new.db", dialect="0.5.0", on_note=notes.append)

    told = "\n".join(notes)
    assert "dialect 0.5.0 has no events of the types 'Driver' (1): they are kept, and move no task" in told
    assert "dialect 0.5.0 cannot express" in told
    assert "decisions on live allocations follow the client of dialect 0.5.0 from now on" in told


def test_where_a_lifecycle_differs_the_state_is_corrected_and_that_is_told(tmp_path: Path) -> None:
    begin(tmp_path / "old.db", "0.5.6")
    notes: list[str] = []

    ingest(tmp_path / "old.db", into=tmp_path / "new.db", dialect="1.1.2", on_note=notes.append)

    corrections = [record for record in Replay(tmp_path / "new.db") if isinstance(record.event, Observed)]
    assert corrections
    assert notes[0].startswith(f"{len(corrections)} corrections were added")


def test_a_log_is_migrated_into_a_new_one_and_stays_as_it_is(tmp_path: Path) -> None:
    begin(tmp_path / "old.db", "0.5.6")
    before = states(tmp_path / "old.db")

    done = run("import", str(tmp_path / "old.db"), "--into", str(tmp_path / "new.db"), "--dialect", "1.1.2")
    assert done.exit_code == 0, done.stderr
    assert "imported" in done.stdout
    with pytest.raises(LogError, match="a migration needs a new log"):
        ingest(tmp_path / "old.db", into=tmp_path / "new.db", dialect="1.1.2")
    assert states(tmp_path / "old.db") == before


def test_a_migration_that_fails_leaves_no_log(tmp_path: Path) -> None:
    begin(tmp_path / "old.jsonl", "0.5.6")
    lines = (tmp_path / "old.jsonl").read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = lines[len(lines) // 2].replace(b"Time", b"Tame", 1)
    (tmp_path / "old.jsonl").write_bytes(b"".join(lines))

    with pytest.raises(SourceError):
        ingest(tmp_path / "old.jsonl", into=tmp_path / "new.jsonl", dialect="1.1.2")

    assert not (tmp_path / "new.jsonl").exists()
