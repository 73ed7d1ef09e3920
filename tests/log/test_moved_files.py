"""A log whose file is moved, removed, replaced or cut off is written no more; a path means what it meant at first."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import taskfold as tf
from taskfold import Engine, events
from taskfold.errors import LogError
from taskfold.live.cursor import Cursor
from taskfold.log import NdjsonLog
from taskfold.log.check import check_log
from taskfold.sources.follow import Follower
from taskfold.testing.logs import records_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.jsonl"


@pytest.fixture
def engine(path: Path) -> Engine:
    engine = Engine.open(path, dialect="1.1.2")
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Started())
    return engine


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere.jsonl"))


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    copied = path.with_name("copy.jsonl")
    shutil.copy(path, copied)
    copied.replace(path)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 9)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


HAPPENINGS = [
    (moved, "was moved away"),
    (removed, "was removed"),
    (replaced, "was replaced by another file"),
    (cut_off, "was cut off at byte"),
    (emptied, "was cut off at byte 0"),
]


@pytest.mark.parametrize(("happens", "what"), HAPPENINGS, ids=lambda value: getattr(value, "__name__", None))
def test_nothing_is_acknowledged_into_a_file_that_the_path_does_not_name_any_more(
    engine: Engine, path: Path, happens: Callable[[Path], None], what: str
) -> None:
    happens(path)
    before = {found.name: found.read_bytes() for found in path.parent.iterdir()}

    log = engine.store.log
    for use in (lambda: engine.record("a", "web", events.Signaling()), lambda: engine.place({"ID": "b"})):
        with pytest.raises(LogError, match=f"{path}: the log {what}.*: nothing more is written"):
            use()
    assert engine.task("a", "web").state == "running"
    assert {found.name: found.read_bytes() for found in path.parent.iterdir()} == before

    log.append("z", 0, records_of("z", 1, 1), sync=False)
    for use in (log.sync, log.compact, log.close):
        with pytest.raises(LogError, match=what):
            use()


@pytest.mark.parametrize(("happens", "what"), HAPPENINGS[:3], ids=lambda value: getattr(value, "__name__", None))
def test_a_write_that_is_overtaken_is_taken_back(
    engine: Engine, path: Path, monkeypatch: pytest.MonkeyPatch, happens: Callable[[Path], None], what: str
) -> None:
    """The file goes when it is written already, and not acknowledged yet."""
    fsync = os.fsync
    happenings = [happens]

    def overtaken(file: int) -> None:
        fsync(file)
        while happenings:
            happenings.pop()(path)

    monkeypatch.setattr(os, "fsync", overtaken)
    held = os.open(path, os.O_RDONLY)
    with pytest.raises(LogError, match=what):
        engine.record("a", "web", events.Signaling())
    engine.close()

    assert b"Signaling" not in os.pread(held, 1 << 20, 0)
    os.close(held)


def test_a_log_that_is_back_at_its_place_goes_on(engine: Engine, path: Path) -> None:
    moved(path)
    with pytest.raises(LogError, match="was moved away"):
        engine.record("a", "web", events.Signaling(), id="once")
    path.with_name("elsewhere.jsonl").rename(path)

    assert engine.record("a", "web", events.Signaling(), id="once") is not None
    engine.close()

    assert check_log(path).records == 3


def test_nothing_is_removed_but_what_was_begun_here(path: Path) -> None:
    log = NdjsonLog(path, "1.1.2")
    log.append("a", 0, records_of("a", 1, 1), sync=False)
    replaced(path)

    log.roll_back()

    assert path.exists()


@pytest.mark.parametrize("happens", [moved, replaced])
def test_a_history_is_never_that_of_another_file(engine: Engine, path: Path, happens: Callable[[Path], None]) -> None:
    happens(path)

    with pytest.raises(LogError, match=f"{path}: (cannot be read|the log was replaced)"):
        engine.history("a")
    engine.close()


# --- the working directory --------------------------------------------------------------------------------------------


@pytest.fixture
def two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return two folders with logs of the same names; the first is the working directory."""
    folders = tmp_path / "first", tmp_path / "second"
    for place, folder in enumerate(folders):
        folder.mkdir()
        for name in ("tasks.jsonl", "tasks.db"):
            with Engine.open(folder / name, dialect="1.1.2") as engine:
                for number in range(place + 1):
                    engine.place({"ID": f"{folder.name}-{number}"})
    monkeypatch.chdir(folders[0])
    return folders


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.db"])
def test_a_path_means_what_it_meant_when_it_was_named(
    two_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    named = tf.replay(name), tf.history(name, "first-0"), tf.diff(name, 0)
    with Engine.open(name) as engine:
        monkeypatch.chdir(two_folders[1])
        engine.record("first-0", "web", events.Started())

        assert [record.alloc for record in engine.history("first-0")] == ["first-0"] * 2
        assert [record.seq for record in engine.subscribe(timeout=0)] == [1, 2]
        assert engine.compact() == 0
    replayed, history, different = named

    assert [record.alloc for record in replayed] == ["first-0"] * 2
    assert [entry.record.seq for entry in history] == [1, 2]
    assert {found.alloc for found in different} == {"first-0"}
    assert check_log(two_folders[1] / name).records == 2


def test_what_is_followed_is_the_file_that_was_named(
    two_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in two_folders:
        (folder / "stream.jsonl").write_bytes(b"{}\n")
    notes: list[str] = []
    is_told = threading.Event()
    follower = Follower(
        Engine(dialect="1.1.2"),
        "stream.jsonl",
        on_note=lambda note: (notes.append(note), is_told.set()),
        poll_seconds=0.001,
    )
    monkeypatch.chdir(two_folders[1])
    follower.start()
    (two_folders[0] / "stream.jsonl").unlink()
    (two_folders[0] / "stream.jsonl").write_bytes(b"{}\n{}\n")

    assert is_told.wait(20)
    follower.stop()

    assert notes[0] == "stream.jsonl begins anew"


# --- following --------------------------------------------------------------------------------------------------------


class _Short(tf.MemoryLog):
    """A log that has lost what its engine holds the state of."""

    def read_all(self, after_seq: int = 0):
        return (record for record in super().read_all(after_seq) if record.seq < 2)


def test_a_log_with_less_than_its_engine_holds_ends_a_subscription_rather_than_spins() -> None:
    engine = Engine(_Short("1.1.2"))
    engine.place({"ID": "a"})
    engine.record("a", "web", events.Started())
    following = engine.subscribe()

    assert next(following).seq == 1
    with pytest.raises(LogError, match="the log ends at position 1, though the engine holds its state at 2"):
        next(following)
    reader = Cursor(engine.reader, 1)
    with pytest.raises(LogError, match="the log ends at position 1"):
        reader.read()
    reader.close()
