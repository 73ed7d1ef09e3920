"""What an interactive session shows of the objects that people hold."""

from __future__ import annotations

import pytest

import taskfold as tf
from taskfold.events import Received


@pytest.fixture
def engine():
    engine = tf.Engine(dialect="1.1.2")
    for alloc in ("a", "b"):
        engine.place({"ID": alloc})
    engine.record("a", "web", Received())
    return engine


def test_an_engine_shows_its_log_its_dialect_and_how_far_it_is(engine, tmp_path):
    assert repr(engine) == "<Engine on MemoryLog, dialect 1.1.2: 2 allocations at index 3>"
    for name in ("log.db", "log.jsonl"):
        with tf.Engine.open(tmp_path / name, dialect="0.5.6") as opened:
            assert repr(opened) == f"<Engine on {tmp_path / name}, dialect 0.5.6: 0 allocations at index 0>"
        assert repr(opened).endswith("index 0, closed>")


def test_a_view_shows_its_index_and_whether_it_can_be_read_still(engine):
    listing = engine.allocations()
    assert repr(listing) == "<Listing of 2 allocations at index 3>"

    list(listing)

    assert repr(listing) == "<Listing of 2 allocations at index 3, read or closed>"


def test_a_replay_shows_its_sources_its_dialect_and_its_point(tmp_path):
    path = tmp_path / "log.jsonl"
    tf.NdjsonLog(path, "0.5.6").close()
    replay = tf.replay(path, at=7)
    assert repr(replay) == f"<Replay of {path}, dialect not detected yet, up to index 7>"

    assert repr(replay.fold()) == "<Fold, dialect 0.5.6: 0 allocations>"
    assert repr(replay) == f"<Replay of {path}, dialect 0.5.6, up to index 7>"


@pytest.mark.parametrize(
    ("at", "text"), [("@7", "position 7"), ("2026-11-23", "2026-11-23T00:00:00Z"), ("7", "index 7")]
)
def test_a_point_is_shown_as_it_can_be_written(at, text, tmp_path):
    assert f", up to {text}>" in repr(tf.Replay(tmp_path / "x", at=at))


def test_a_lifecycle_shows_whose_it_is():
    assert repr(tf.lifecycle_of("1.1.2")).startswith("<Lifecycle of dialect 1.1.2: ")
