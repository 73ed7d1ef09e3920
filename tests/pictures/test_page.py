"""The page is one file that loads nothing; its data is all of the records, in little room."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

import taskfold as tf
from support.lives import cluster, life
from taskfold import events
from taskfold.pictures import page
from taskfold.pictures.bodies import BodyColumns

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"
ASSETS = Path(page.__file__).parent / "assets"
NASTY = "</script><script>alert(1)</script><!--\u2028\u2029\"'&😀@@data@@"


class Elements(HTMLParser):
    """The elements of a page, each with its attributes and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        self.is_closed = False

    def handle_data(self, data):
        if self.elements and not self.is_closed:
            self.elements[-1][2] += data

    def handle_endtag(self, _):
        self.is_closed = True

    def of(self, tag):
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]


def data_of(text):
    return json.loads(next(text for attributes, text in Elements(text).of("script") if attributes.get("id") == "data"))


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else():
    elements = Elements(tf.timeline(STREAM).to_html())

    (policy,) = (attributes["content"] for attributes, _ in elements.of("meta") if "http-equiv" in attributes)
    (script,) = (text for attributes, text in elements.of("script") if "type" not in attributes)
    ((_, style),) = elements.of("style")
    hashes = ["'sha256-" + b64encode(sha256(text.encode()).digest()).decode() + "'" for text in (script, style)]
    assert policy == (
        f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; base-uri 'none'; form-action 'none'"
    )
    # A policy in a page holds for what follows it.
    assert [tag for tag, *_ in elements.elements[:4]] == ["html", "head", "meta", "meta"]


def test_the_page_names_no_address():
    text = tf.Timeline((), "1.1.2").to_html()

    assert (
        re.findall(
            r"(?:https?:)?//[\w.]+\.\w+|\bsrc=|\bhref=|@import|url\(|fetch\(|XMLHttp|WebSocket|innerHTML|eval\(", text
        )
        == []
    )


def test_no_text_leaves_its_place_in_the_page():
    timeline = tf.Timeline(
        life(NASTY, (1, NASTY, events.Driver(driver_message=NASTY)), job=NASTY, node=NASTY), "1.1.2", title=NASTY
    )
    text = timeline.to_html()

    assert len(Elements(text).of("script")) == 2
    assert "\u2028" not in text.partition('id="data"')[2]
    data = data_of(text)
    assert data["title"] == NASTY
    assert data["allocs"]["id"] == [NASTY]
    assert NASTY in data["texts"]


def test_the_data_has_every_interval_and_every_record():
    timeline = tf.timeline(STREAM)
    data = data_of(timeline.to_html())

    kinds = [kind["name"] for kind in data["kinds"]]
    intervals, at = data["intervals"], 0
    origin_ns = int(data["origin_ns"])
    for one in timeline.allocations:
        for lane in one.lanes:
            time_us = 0
            for interval in lane.bars:
                start_us = time_us + intervals["start"][at]
                time_us = start_us + intervals["length"][at]
                assert origin_ns + start_us * 1_000 == interval.start_ns // 1_000 * 1_000
                assert origin_ns + time_us * 1_000 == interval.end_ns // 1_000 * 1_000
                assert kinds[intervals["kind"][at]]
                at += 1
    assert at == len(intervals["kind"])
    records = sum(1 for _ in tf.replay(STREAM))
    assert {name: len(column) for name, column in data["events"].items()} == dict.fromkeys(data["events"], records)


def put_together(data, alloc, index):
    """Return the body of an allocation at an index, as the page puts it together."""
    texts, members, tasks = data["texts"], {}, {}

    def change(into, changes):
        for name, text in zip(changes[::2], changes[1::2], strict=True):
            if text < 0:
                del into[texts[name]]
            else:
                into[texts[name]] = json.loads(texts[text])

    for at, changes, task_changes in data["bodies"][str(alloc)]:
        if at > index:
            break
        change(members, changes)
        for name, parts, dropped, new in task_changes:
            if dropped < 0:
                del tasks[texts[name]]
                continue
            task, events_of = tasks.setdefault(texts[name], ({}, []))
            change(task, parts)
            events_of[:dropped] = []
            events_of += [json.loads(texts[one]) for one in new]
    shown = {name: task | ({"Events": ring} if ring else {}) for name, (task, ring) in tasks.items()}
    return members | ({"TaskStates": shown} if shown else {})


def without_nulls(body):
    """Return a body without what is null or empty of its task states: there it is left out."""
    tasks = body.get("TaskStates") or {}
    cleaned = {
        name: {key: value for key, value in task.items() if key != "Events" or value} for name, task in tasks.items()
    }
    return {key: value for key, value in body.items() if key != "TaskStates"} | (
        {"TaskStates": cleaned} if cleaned else {}
    )


def test_the_json_of_every_allocation_at_every_index_is_what_a_replay_says():
    timeline = tf.timeline(STREAM)
    data = data_of(timeline.to_html())

    assert len(data["bodies"]) == len(timeline.allocations)
    by_alloc = {alloc: number for number, alloc in enumerate(data["allocs"]["id"])}
    for index in sorted({record.index for record in tf.replay(STREAM)})[::4]:
        for snapshot in tf.replay(STREAM, at=index).snapshots():
            expected = without_nulls(json.loads(snapshot.to_json()))
            assert put_together(data, by_alloc[snapshot.id], index) == expected


def test_the_json_of_failed_allocations_comes_first_and_keeps_to_its_room():
    timeline = tf.timeline(STREAM)

    part = data_of(timeline.to_html(json_bytes=60_000))
    texts = part["texts"]

    assert data_of(timeline.to_html(json_bytes=0))["bodies"] == {}
    assert 0 < len(part["bodies"]) < len(timeline.allocations)
    statuses = [texts[part["allocs"]["status"][int(alloc)]] for alloc in part["bodies"]]
    assert set(statuses) <= {"failed", "complete"}
    assert "failed" in statuses
    assert len(timeline.to_html(json_bytes=60_000)) - len(timeline.to_html(json_bytes=0)) < 150_000


def test_an_allocation_that_does_not_fit_is_left_out_whole():
    numbers: dict[str, int] = {}
    bodies = BodyColumns(lambda text: numbers.setdefault(text, len(numbers)), 10)
    records = life("a", (1, "web", events.Received()))

    assert bodies.steps("a", records, tf.lifecycle_of("1.1.2")) is None
    assert bodies.steps("a", records, tf.lifecycle_of("1.1.2")) is None


def test_the_page_without_its_data_stays_small():
    assert len(tf.Timeline((), "1.1.2").to_html().encode()) < 100_000
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 100_000


def test_an_interval_takes_few_bytes():
    timeline = tf.Timeline(cluster(100, 101), "1.1.2")
    intervals = sum(len(lane.bars) for one in timeline.allocations for lane in one.lanes)

    size = len(timeline.to_html(json_bytes=0)) - len(tf.Timeline((), "1.1.2").to_html())

    assert intervals >= 100 * 101
    assert size / intervals < 60


@pytest.mark.parametrize("name", ["timeline.html", "timeline.css", "timeline.js"])
def test_the_assets_are_texts_without_a_line_that_ends_with_a_space(name):
    text = (ASSETS / name).read_text("utf-8")

    assert not re.findall(r"[ \t]+$", text, re.MULTILINE)
    assert text.endswith("\n")
