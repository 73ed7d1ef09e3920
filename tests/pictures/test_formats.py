"""Drawings and traces are read by readers of their formats, and show what the lanes say."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

import taskfold as tf
from support.lives import SECOND, at, cluster, life
from taskfold import events
from taskfold.errors import Refused
from taskfold.model.record import Gap, Updated

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"
SVG = "{http://www.w3.org/2000/svg}"
NASTY = "</script><b>\"'&\u2028\u2029😀 \x00\x1b[31m" + "x" * 10_000

TRACE = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
        "traceEvents": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["ph", "pid", "tid", "name"],
                "properties": {
                    "pid": {"type": "integer"},
                    "tid": {"type": "integer"},
                    "name": {"type": "string"},
                    "args": {"type": "object"},
                },
                "oneOf": [
                    {
                        "properties": {
                            "ph": {"const": "X"},
                            "ts": {"type": "number"},
                            "dur": {"type": "number", "minimum": 0},
                            "cname": {"type": "string"},
                        },
                        "required": ["ts", "dur"],
                    },
                    {
                        "properties": {"ph": {"const": "i"}, "ts": {"type": "number"}, "s": {"enum": ["g", "p", "t"]}},
                        "required": ["ts", "s"],
                    },
                    {
                        "properties": {
                            "ph": {"const": "M"},
                            "name": {"enum": ["process_name", "process_sort_index", "thread_name"]},
                        },
                        "required": ["args"],
                    },
                ],
            },
        },
    },
}
"""The parts of the Trace Event Format that are written."""


def flapping():
    return tf.Timeline(
        life(
            "a",
            (1, "web", events.Received()),
            (2, "web", events.Started()),
            (12, "web", events.Terminated(exit_code=1)),
            (12, "web", events.Restarting(start_delay_ns=SECOND)),
            (22, "web", Gap()),
            (32, "web", events.Started()),
            (40, "", Updated(fields={"DesiredStatus": b'"stop"'})),
            (42, "web", events.Killing()),
        ),
        "1.1.2",
        title="flapping",
    )


def nasty():
    return tf.Timeline(
        life(NASTY, (1, NASTY, events.Driver(driver_message=NASTY)), (2, NASTY, events.Killing()), job=NASTY),
        "1.1.2",
        title=NASTY,
    )


def test_a_drawing_has_a_bar_for_each_interval_where_its_time_is():
    root = ET.fromstring(flapping().to_svg(width=1000))  # noqa: S314 - our own

    bars = [one for one in root.iter(f"{SVG}rect") if one.find(f"{SVG}title") is not None]
    assert [one.get("class") for one in bars] == ["pending", "failed", "delay", "gap", "running"]
    spans = [(float(one.get("x")), float(one.get("width"))) for one in bars]
    per_second = sum(width for _, width in spans) / 42
    for (x, width), start, length in zip(spans, (0, 2, 12, 22, 32), (2, 10, 10, 10, 10), strict=True):
        assert x == pytest.approx(220 + start * per_second, abs=0.1)
        assert width == pytest.approx(length * per_second, abs=0.1)
    assert sum(spans[-1]) == pytest.approx(990, abs=0.1)


def test_a_drawing_says_of_each_bar_and_mark_what_it_is():
    root = ET.fromstring(flapping().to_svg())  # noqa: S314

    titles = [one.text for one in root.iter(f"{SVG}title")]
    assert titles[:2] == [
        "flapping: 1 task of 1 allocation",
        "web: pending, 2026-11-23T08:34:10Z to 2026-11-23T08:34:12Z",
    ]
    assert any("ran, and failed" in title for title in titles)
    assert titles[-2:] == ["updated: DesiredStatus", "Killing: Sent interrupt"]


def test_a_drawing_lies_within_its_size_and_its_lanes_do_not_overlap():
    timeline = tf.Timeline(cluster(40, 21), "1.1.2")
    root = ET.fromstring(timeline.to_svg(width=640))  # noqa: S314
    width, height = float(root.get("width")), float(root.get("height"))

    lanes = []
    for rect in root.iter(f"{SVG}rect"):
        assert float(rect.get("x", 0)) >= 0
        assert float(rect.get("x", 0)) + float(rect.get("width")) <= width + 1
        assert float(rect.get("y", 0)) + float(rect.get("height")) <= height
    for group in root.iter(f"{SVG}g"):
        tops = [float(one.get("y")) for one in group.iter(f"{SVG}rect")]
        bottoms = [float(one.get("y")) + float(one.get("height")) for one in group.iter(f"{SVG}rect")]
        lanes.append((min(tops), max(bottoms)))
    assert len(lanes) == 40
    assert all(one[1] <= other[0] for one, other in pairwise(lanes))


def test_a_drawing_of_many_tasks_has_no_more_bars_than_pixels():
    root = ET.fromstring(tf.Timeline(cluster(4, 5_001), "1.1.2").to_svg(width=640))  # noqa: S314

    for group in root.iter(f"{SVG}g"):
        assert len(list(group.iter(f"{SVG}rect"))) <= 2 * 640


def test_a_drawing_narrower_than_its_labels_is_refused():
    with pytest.raises(Refused, match="at least 320 pixels, found 319"):
        flapping().to_svg(width=319)


@pytest.mark.parametrize("make", [flapping, nasty, lambda: tf.timeline(STREAM)], ids=["flapping", "nasty", "stream"])
def test_a_trace_is_what_the_format_says(make):
    timeline = make()
    trace = json.loads(timeline.to_perfetto())

    jsonschema.validate(trace, TRACE)
    lanes = [(one, lane) for one in timeline.allocations for lane in one.lanes]
    assert len([event for event in trace["traceEvents"] if event["ph"] == "X"]) == sum(
        len(lane.bars) for _, lane in lanes
    )
    names = [event for event in trace["traceEvents"] if event["name"] == "thread_name"]
    assert [event["args"]["name"] for event in names] == [lane.task for _, lane in lanes]


def test_the_events_of_a_trace_have_microseconds_and_their_place():
    trace = json.loads(flapping().to_perfetto())["traceEvents"]

    failed = next(event for event in trace if event["name"] == "ran, and failed")
    assert (failed["ts"], failed["dur"]) == (at(2) / 1_000, 10_000_000)
    killing = next(event for event in trace if event["name"] == "Killing")
    assert killing["args"] == {"message": "Sent interrupt", "index": 9, "version": 9}
    assert (failed["pid"], failed["tid"]) == (killing["pid"], killing["tid"]) == (1, 1)


def test_texts_of_any_kind_are_texts_in_a_drawing():
    root = ET.fromstring(nasty().to_svg())  # noqa: S314

    assert not [one for one in root.iter() if one.tag in {f"{SVG}script", f"{SVG}b"}]
    labels = [one.text for one in root.iter(f"{SVG}text")]
    assert any(label.startswith("</script><b>\"'&") for label in labels)
    assert max(map(len, labels)) < 300


@pytest.mark.parametrize(
    ("name", "format"), [("x.html", "html"), ("x.HTM", "html"), ("x.svg", "svg"), ("x.json", "perfetto")]
)
def test_a_file_has_the_format_that_its_name_ends_with(tmp_path, name, format):
    path = flapping().write(tmp_path / name)

    assert path.read_text("utf-8") == flapping().text(format)


def test_a_name_that_says_no_format_is_refused(tmp_path):
    with pytest.raises(Refused, match=re.escape("expected one that ends with .html, .htm, .svg, .json, or a format")):
        flapping().write(tmp_path / "x.png")
    with pytest.raises(Refused, match="'png' is no format of timelines; there are html, svg, perfetto"):
        flapping().text("png")
    assert not list(tmp_path.iterdir())


def test_the_timeline_of_nothing_can_be_drawn():
    nothing = tf.Timeline((), "1.1.2")

    assert repr(nothing) == "<Timeline: 0 tasks of 0 allocations, dialect 1.1.2>"
    assert nothing.to_html()
    assert ET.fromstring(nothing.to_svg()) is not None  # noqa: S314
    assert json.loads(nothing.to_perfetto())["traceEvents"] == []


def test_a_notebook_shows_the_drawing_and_the_words():
    bundle = flapping()._repr_mimebundle_()

    assert ET.fromstring(bundle["image/svg+xml"]).get("width") == "960"  # noqa: S314
    assert bundle["text/plain"] == "<Timeline: 1 task of 1 allocation, dialect 1.1.2>"


def test_only_some_allocations_and_tasks_are_shown_and_the_end_stays():
    whole = tf.timeline(STREAM)

    part = whole.only(lambda one: one.job == "sibling_failed", task="good")

    assert [(one.job, [lane.task for lane in one.lanes]) for one in part.allocations] == [("sibling_failed", ["good"])]
    assert part.end_ns == whole.end_ns
    assert len(whole) == 24


def test_an_engines_timeline_is_that_of_its_log(tmp_path):
    log = tmp_path / "log.db"
    with tf.Engine.open(log, dialect="1.1.2", clock=tf.ManualClock(SECOND)) as engine:
        engine.place({"ID": "a", "JobID": "example"})
        engine.record("a", "web", events.Received())
        drawn = engine.timeline(title=str(log)).to_svg()
    assert drawn == tf.timeline(log).to_svg()
