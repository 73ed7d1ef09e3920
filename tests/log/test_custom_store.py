"""A store of one's own: registered, it works with every command and every function, as those of taskfold do."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import taskfold as tf
from support import toy_store
from support.command_line import refused, run
from support.examples import EXAMPLE
from taskfold.errors import LogError, ReadOnly
from taskfold.log import EventLog, StoreKind, check_log, open_reader, register, registry, repair
from taskfold.log.backup import backup
from taskfold.testing import LogContract


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    """Register the kind while a test runs."""
    register(toy_store.KIND)
    yield
    registry._registered.clear()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Import the recorded example into a toy."""
    path = tmp_path / "x.toy"
    tf.ingest(EXAMPLE, into=path)
    return path


class TestToy(LogContract):
    """It keeps the contract of every log."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.toy"

    def make_log(self, dialect: str = "1.1.2", region: str = "global") -> EventLog:
        return toy_store.ToyLog(self.path, dialect, region)


def states(source: object) -> list[dict[str, object]]:
    return [json.loads(snapshot.to_json()) for snapshot in tf.replay(source).snapshots()]


def test_every_function_takes_it_by_its_name(log: Path, tmp_path: Path) -> None:
    tf.ingest(EXAMPLE, into=tmp_path / "x.db")

    assert states(log) == states(tmp_path / "x.db")
    assert tf.verify(log).agrees
    assert check_log(log).is_whole
    records = list(tf.replay(log))
    alloc = records[0].alloc
    assert [entry.record for entry in tf.history(log, alloc)] == [r for r in records if r.alloc == alloc]
    assert list(tf.diff(log, 1, records[-1].index)) == list(tf.diff(tmp_path / "x.db", 1, records[-1].index))
    assert tf.ingest(EXAMPLE, into=log).records == 0


def test_it_is_opened_reopened_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "x.toy"
    with tf.Engine.open(path, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})
        engine.record("a", "web", tf.events.Received())
    with tf.Engine.open(path) as engine:
        assert engine.index == 2
        engine.record("a", "web", tf.events.Started())
    with tf.Engine.open(path, read_only=True) as engine:
        assert engine.store.fold["a"].tasks["web"].state == "running"
        with pytest.raises(ReadOnly):
            engine.record("a", "web", tf.events.Terminated())


@pytest.mark.parametrize("ending", [".toy", ".db", ".jsonl"])
def test_it_is_backed_up_and_repaired_into_every_kind(log: Path, tmp_path: Path, ending: str) -> None:
    assert backup(log, tmp_path / f"copy{ending}").is_whole
    assert states(tmp_path / f"copy{ending}") == states(log)
    assert repair(log, tmp_path / f"good{ending}").is_whole
    assert states(tmp_path / f"good{ending}") == states(log)
    assert backup(tmp_path / f"copy{ending}", tmp_path / "back.toy").is_whole


@pytest.mark.parametrize(
    "command",
    [
        ["replay"],
        ["replay", "--format", "json"],
        ["verify"],
        ["log"],
        ["log", "--check"],
        ["diff", "--from", "1"],
        ["collect", "--collect-after", "0s", "--dry-run"],
    ],
    ids=" ".join,
)
def test_every_command_says_of_it_what_it_says_of_a_database(log: Path, tmp_path: Path, command: list[str]) -> None:
    database = tmp_path / "x.db"
    tf.ingest(EXAMPLE, into=database)
    name, *options = command

    of_toy, of_database = run(name, log, *options), run(name, database, *options)

    assert of_toy.stdout.replace(str(log), "LOG") == of_database.stdout.replace(str(database), "LOG")
    assert (of_toy.exit_code, of_toy.stderr) == (of_database.exit_code, of_database.stderr)


def test_the_commands_that_write_take_it(log: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toy"

    assert run("import", EXAMPLE, "--into", other).exit_code == 0
    assert states(other) == states(log)
    assert run("collect", other, "--collect-after", "0s", "--compact").exit_code == 0
    assert run("verify", other).exit_code == 0
    assert run("backup", other, tmp_path / "copy.toy").exit_code == 0
    assert run("log", other, "--repair", tmp_path / "good.db").exit_code == 0
    alloc = next(iter(tf.replay(log))).alloc
    assert run("history", log, alloc).exit_code == 0


def test_it_is_recognised_by_its_first_bytes_whatever_its_name(log: Path, tmp_path: Path) -> None:
    named_otherwise = log.rename(tmp_path / "whatever")

    assert states(named_otherwise)
    assert check_log(named_otherwise).is_whole
    assert open_reader(named_otherwise).seq == check_log(named_otherwise).newest
    refused(run("replay", "-", input=named_otherwise.read_bytes()), "is a toy that is packed or piped")


def test_a_name_of_no_store_is_refused_with_all_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"\.db, .*\(JSON lines\).*postgresql://.*, or ends in \.toy \(a toy\)$"):
        tf.Engine.open(tmp_path / "x.unknown")


def test_a_name_belongs_to_one_store() -> None:
    class Other(toy_store.ToyKind):
        endings = (".db",)

    with pytest.raises(ValueError, match=r"\.db names a log of SQLite"):
        register(Other())


def test_an_entry_point_registers_it(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry._registered.clear()
    point = importlib.metadata.EntryPoint("toy", "support.toy_store:KIND", "taskfold.stores")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] if group == point.group else [])
    registry._installed.cache_clear()
    try:
        assert states(log)
        assert isinstance(registry.kind_of(log), StoreKind)
    finally:
        registry._installed.cache_clear()


@pytest.mark.parametrize("value", ["support.nowhere:KIND", "support.toy_store:MAGIC"])
def test_an_entry_point_that_is_no_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    registry._registered.clear()
    point = importlib.metadata.EntryPoint("toy", value, "taskfold.stores")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [point])
    registry._installed.cache_clear()
    try:
        with pytest.raises(LogError, match=f"the store 'toy' \\({value}\\)"):
            tf.Engine.open(tmp_path / "x.toy")
    finally:
        registry._installed.cache_clear()


# --- a log that is open -----------------------------------------------------------------------------------------------


@pytest.fixture
def memory(log: Path) -> tf.MemoryLog:
    """Return the same records, in memory."""
    memory = tf.MemoryLog("1.1.2")
    for record in tf.replay(log):
        memory.append(record.alloc, record.version - 1, [record])
    return memory


def test_every_function_takes_a_log_that_is_open(log: Path, memory: tf.MemoryLog, tmp_path: Path) -> None:
    assert states(memory) == states(log)
    assert list(tf.replay(memory)) == list(tf.replay(log))
    report = tf.verify(memory)
    assert report.agrees
    assert report.records == tf.verify(log).records
    assert check_log(memory).is_whole
    alloc = next(iter(tf.replay(log))).alloc
    assert list(tf.history(memory, alloc)) == list(tf.history(log, alloc))
    assert list(tf.diff(memory, 1)) == list(tf.diff(log, 1))
    assert tf.ingest(memory, into=tmp_path / "copy.db").records == memory.seq
    assert states(tmp_path / "copy.db") == states(log)


def test_what_is_open_is_taken_into_what_is_open(memory: tf.MemoryLog) -> None:
    into = tf.MemoryLog("1.1.2")

    assert tf.ingest(memory, into=into).records == memory.seq
    assert states(into) == states(memory)
    assert tf.ingest(EXAMPLE, into=into).records == 0


def test_an_import_that_fails_adds_nothing_to_a_log_that_is_open(tmp_path: Path) -> None:
    into = tf.MemoryLog("1.1.2")
    broken = tmp_path / "broken.jsonl"
    lines = gzip.decompress(EXAMPLE.read_bytes()).splitlines(keepends=True)
    broken.write_bytes(b"".join([*lines[:40], b"{no JSON}\n", *lines[40:]]))

    with pytest.raises(tf.errors.SourceError):
        tf.ingest(broken, into=into)
    assert into.seq == 0
    assert msgspec.json.encode(list(into.read_all())) == b"[]"
