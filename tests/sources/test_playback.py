"""Playback: at every point, and on every way to it, the state is that of a fold of the records up to there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import taskfold as tf
from taskfold.fold.allocation import Fold
from taskfold.model.errors import UnknownAllocation
from taskfold.sources import playback as module
from taskfold.sources.playback import Playback

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"


@pytest.fixture(scope="module")
def records():
    return list(tf.replay(STREAM))


@pytest.fixture
def engine():
    log = tf.MemoryLog("1.1.2")
    tf.ingest(STREAM, into=log)
    return tf.Engine(log)


def state_of(playback):
    return {alloc: playback[alloc] for alloc in playback}


def folded(records, place):
    """Return the state after so many writes, by a plain fold."""
    fold, writes, index = Fold("1.1.2", on_illegal="keep"), 0, None
    for record in records:
        writes, index = writes + (record.index != index), record.index
        if writes > place:
            break
        fold.apply(record)
    return {alloc: fold[alloc] for alloc in fold}


@pytest.mark.parametrize("window", [1, 7, 1_000])
def test_the_state_at_every_point_is_that_of_a_fold_whatever_the_way_to_it(engine, records, monkeypatch, window):
    monkeypatch.setattr(module, "_WINDOW", window)
    playback = Playback(engine)
    assert state_of(playback) == folded(records, len(playback))

    places = list(range(0, len(playback), 5))
    random.Random(window).shuffle(places)
    for place in places:
        playback.move(place - playback.place)
        assert playback.place == place
        assert state_of(playback) == folded(records, place)


def test_a_step_back_and_a_step_on_lead_to_the_same_state(engine):
    playback = Playback(engine)
    end = state_of(playback)

    for _ in range(len(playback)):
        playback.move(-1)
    assert (playback.place, state_of(playback)) == (0, {})
    playback.move(-1)
    assert playback.place == 0
    for _ in range(len(playback)):
        playback.move(1)
    playback.move(1)

    assert state_of(playback) == end


def test_the_point_moves_to_an_index_a_time_or_a_position(engine, records):
    playback = Playback(engine)
    middle = records[len(records) // 2]

    playback.move_to(tf.At(index=middle.index))
    assert playback.at.index == middle.index
    playback.move_to(tf.At(time_ns=middle.time_ns))
    assert playback.at.time_ns <= middle.time_ns
    playback.move(1)
    assert playback.at.time_ns > middle.time_ns
    playback.move_to(tf.At(seq=middle.seq))
    assert playback.at.seq <= middle.seq
    playback.move_to(tf.At(index=0))
    assert playback.place == 0
    playback.move_to(tf.At())
    assert playback.place == len(playback)


def test_what_is_written_meanwhile_is_read_and_the_point_stays():
    engine = tf.Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    playback = Playback(engine)
    engine.record("a", "web", tf.events.Started())
    engine.record("a", "web", tf.events.NotRestarting())
    engine.collect("a", reason="asked for")

    assert (list(playback), playback["a"].tasks) == (["a"], {})
    assert playback.read() == 3
    assert playback["a"].tasks == {}
    playback.move(1)
    assert playback["a"].tasks["web"].state == "running"
    playback.move_to_end()
    assert (list(playback), "a" in playback) == ([], True)


def test_an_allocation_that_was_not_known_yet_is_unknown():
    engine = tf.Engine(dialect="1.1.2")
    engine.place({"ID": "a"})
    playback = Playback(engine)
    playback.move(-1)

    with pytest.raises(UnknownAllocation, match="'a' was known at"):
        playback["a"]
