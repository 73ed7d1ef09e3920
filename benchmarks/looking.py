"""The page of a timeline: how long it takes to be made, how large it is, and how smoothly Chromium pans it.

10,000 tasks with 200,000 intervals. Chromium runs without a window and without a GPU: the processor draws every pixel.
Rivals: the same records as a list of JSON objects; a page of the same size that only asks for frames and draws none.
Budgets: at most 100 bytes an interval; at least 30 frames a second while panning at 1280 × 800.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.harness import ROOT, SIZE, Budget, Row, label, seconds, take_turns
from taskfold import Timeline, events
from taskfold.model.record import Placed, Record

SECOND = 1_000_000_000
EPOCH = 1_795_422_850 * SECOND
SIZES = ((1280, 800), (1920, 1080))
LANES = {"tall": "22", "dense": "3"}
EMPTY = "an empty page"
PAN = """async ([height, milliseconds]) => {
    const { chart, model } = timeline;
    const list = document.getElementById("height");
    list.value = height;
    list.dispatchEvent(new Event("change"));
    chart.setRange(model.span * 0.1, model.span * 0.6);
    const begin = performance.now(), first = chart.frames;
    await new Promise((resolve) => {
        let number = 0;
        const step = () => {
            if (performance.now() - begin > milliseconds) { resolve(); return; }
            number += 1;
            chart.pan(number % 200 < 100 ? 3 : -3);
            requestAnimationFrame(step);
        };
        step();
    });
    return (chart.frames - first) / (performance.now() - begin) * 1000;
}"""
IDLE = """async (milliseconds) => {
    const begin = performance.now();
    let frames = 0;
    await new Promise((resolve) => {
        const step = () => {
            if (performance.now() - begin > milliseconds) { resolve(); return; }
            frames += 1;
            requestAnimationFrame(step);
        };
        step();
    });
    return frames / (performance.now() - begin) * 1000;
}"""


def records_of(tasks: int, intervals: int) -> list[Record]:
    """Return the records of tasks that flap: each has so many intervals, or one more."""
    rng = random.Random(1)
    records: list[Record] = []
    for number in range(tasks):
        alloc = f"{rng.getrandbits(32):08x}-0000-4000-8000-{number:012x}"
        body = b'{"ID":"%b","JobID":"job-%d","NodeID":"node-%d"}' % (alloc.encode(), number % 97, number % 41)
        now = rng.uniform(0, 1_800)
        happenings: list[tuple[float, events.TaskEvent]] = [(now, events.Received())]
        for _ in range((intervals - 1) // 2):
            now += rng.uniform(0.1, 60)
            happenings.append((now, events.Started()))
            now += rng.expovariate(1 / 240)
            happenings.append((now, events.Terminated(exit_code=rng.choice((0, 0, 1)))))
            happenings.append((now, events.Restarting(start_delay_ns=SECOND)))
        happenings.append((now + 1, events.Started()))
        records.append(Record(index=1, alloc=alloc, version=1, time_ns=EPOCH, event=Placed(body=msgspec.Raw(body))))
        records += [
            Record(
                index=version,
                alloc=alloc,
                version=version,
                task="web",
                time_ns=EPOCH + round(second * SECOND),
                event=event,  # type: ignore[arg-type]
            )
            for version, (second, event) in enumerate(happenings, start=2)
        ]
    return records


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the making of the page, its size, and its frames."""
    tasks, repetitions = (100, 2) if quick else (10_000, 3)
    records = records_of(tasks, 21)
    timeline = Timeline(records, "1.1.2", title="cluster.db")
    bars = sum(len(lane.bars) for one in timeline.allocations for lane in one.lanes)
    encode = msgspec.json.Encoder().encode
    plain = label("msgspec", "the records as JSON")
    page = timeline.to_html(json_bytes=0)
    empty = len(Timeline((), "1.1.2").to_html())
    yield Row(
        f"the page of {tasks:,} tasks, {bars:,} intervals and {len(records):,} records, made",
        "s",
        take_turns(
            {
                "taskfold": lambda: seconds(lambda: Timeline(records, "1.1.2").to_html(json_bytes=0)),
                plain: lambda: seconds(lambda: encode(records)),
            },
            repetitions,
            warm_up=False,
        ),
    )
    yield Row(
        f"its size, without the {empty:,} B of an empty page",
        "B an interval",
        {"taskfold": [(len(page) - empty) / bars], plain: [len(encode(records)) / bars]},
        budgets=(Budget("≤", 100),),
        words=SIZE,
    )
    yield from _frames(page, tasks, quick=quick)


def _frames(page: str, tasks: int, *, quick: bool) -> Iterator[Row]:
    """Measure frames while panning, where there is a browser."""
    sys.path.append(str(ROOT / "tests"))
    from support.chromium import Watched, browser, missing

    if problem := missing():
        print(f"   no frames: {problem}")
        return
    repetitions, milliseconds = (1, 200) if quick else (5, 2_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "life.html"
        path.write_text(page, encoding="utf-8")
        for width, height in SIZES[:1] if quick else SIZES:
            viewport = {"width": width, "height": height}
            with browser(Path(folder) / f"profile-{width}", viewport=viewport) as context:
                blank = context.new_page()
                opened = Watched(context).open(path)
                for lanes, value in LANES.items():
                    yield Row(
                        f"panning {tasks:,} tasks at {width} × {height}, {lanes} lanes",
                        "frames/s",
                        take_turns(
                            {
                                "taskfold": partial(_in_front, opened, PAN, [value, milliseconds]),
                                EMPTY: partial(_in_front, blank, IDLE, milliseconds),
                            },
                            repetitions,
                        ),
                        better="higher",
                        budgets=(Budget("≥", 30),) if width == SIZES[0][0] else (),
                    )


def _in_front(page: object, script: str, argument: object) -> float:
    # A page in the background gets no frames.
    page.bring_to_front()  # type: ignore[attr-defined]
    return float(page.evaluate(script, argument))  # type: ignore[attr-defined]
