"""The page in a real browser: it opens from a file, filters, zooms, scrubs and opens, and asks nobody for anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import taskfold as tf
from support.chromium import Watched, browser, until
from support.lives import cluster, life
from taskfold import events

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"
NASTY = "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>\"'&\u2028😀" + "x" * 10_000
ARTEFACTS = "TASKFOLD_SCREENSHOTS"
"""The environment variable that names a folder for screenshots."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    viewport = {"width": 1280, "height": 800}
    with browser(tmp_path_factory.mktemp("profile"), viewport=viewport, color_scheme="light") as context:
        context.set_default_timeout(30_000)
        yield context


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tf.timeline(STREAM).write(tmp_path_factory.mktemp("stream") / "life.html")


@pytest.fixture
def watched(context: BrowserContext) -> Iterator[Watched]:
    """Give a page of which nothing may be complained, and which may ask for nothing but files and its own data."""
    one = Watched(context)
    yield one
    one.close()
    assert one.complaints == []
    assert [url for url in one.requests if not url.startswith(("file://", "data:"))] == []


@pytest.fixture
def page(watched: Watched, stream: Path) -> Page:
    return watched.open(stream)


def task_count(page: Page) -> int:
    """Return how many tasks are shown."""
    return page.evaluate("timeline.rows().lanes.length")


def span(page: Page) -> float:
    """Return how much of the time is shown: 1 is all of it."""
    return page.evaluate("(timeline.chart.to - timeline.chart.from) / timeline.model.span")


def place(page: Page, job: str, share: float) -> tuple[float, float]:
    """Return where, on the screen, a share of the time of a job's first lane is."""
    return page.evaluate(
        """([job, share]) => {
            const { chart, model } = timeline;
            const isOfJob = ({ lane }) => lane !== undefined && model.text("job", model.allocOf[lane]) === job;
            const row = chart.rows.findIndex(isOfJob);
            chart.show(row);
            const box = document.getElementById("chart").getBoundingClientRect();
            return [box.left + chart.x(model.span * share), box.top + chart.rowY(row) + chart.laneHeight / 2];
        }""",
        [job, share],
    )


def test_it_opens_from_a_file_and_says_what_it_shows(page: Page) -> None:
    assert page.title() == f"{STREAM} – timeline"
    assert page.inner_text("#summary").startswith("24 tasks in 14 allocations, 2026-11-23 08:28:03 to 08:29:59 UTC")
    assert page.inner_text("#then-title") == "24 tasks as of 2026-11-23 08:29:59.530 UTC"
    assert page.locator("#rows tbody tr:not(.space)").first.inner_text().split("\t")[2:5] == [
        "batch_fail_attempts3_raw",
        "oracle-node",
        "dead, failed",
    ]
    pixels = page.evaluate(
        """() => {
            const canvas = document.querySelector("#chart canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    assert pixels > 10


def test_filters_leave_what_fits_and_sorts_put_the_worst_first(page: Page) -> None:
    page.select_option("#status", label="failed (8)")
    assert task_count(page) == 8
    page.select_option("#job", label="sibling_failed (2)")
    assert task_count(page) == 2
    page.select_option("#job", label="all")
    page.select_option("#status", label="all")

    # In messages, too.
    page.fill("#text", "Bad Response Code: 404")
    until(page, "timeline.rows().lanes.length === 1")
    assert "artifact_404" in page.inner_text("#rows tbody")
    page.fill("#text", "no such text")
    until(page, "timeline.rows().lanes.length === 0")
    assert page.inner_text("#summary").startswith("0 tasks of 24")
    page.fill("#text", "")
    until(page, "timeline.rows().lanes.length === 24")

    page.select_option("#group", "none")
    page.select_option("#sort", "restarts")
    assert page.locator("#rows tbody tr td:nth-child(7)").first.inner_text() == "8"
    page.select_option("#sort", "pending")
    assert page.locator("#rows tbody tr td:nth-child(3)").first.inner_text() == "deploy_unhealthy_deadline_pending"


def test_wheel_brush_and_keys_zoom_and_the_whole_time_comes_back(page: Page) -> None:
    x, y = place(page, "alloc_signal", 0.7)
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    until(page, "timeline.chart.to - timeline.chart.from < timeline.model.span * 0.9")
    zoomed = span(page)
    page.focus("#chart")
    page.keyboard.press("+")
    assert span(page) == pytest.approx(zoomed * 0.6, rel=0.01)
    page.keyboard.press("-")
    assert span(page) == pytest.approx(zoomed, rel=0.01)
    page.click("#fit")
    assert span(page) == pytest.approx(1.02, rel=0.01)

    box = page.locator("#chart").bounding_box()
    page.mouse.move(box["x"] + 400, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 10, steps=3)
    page.mouse.up()
    assert span(page) == pytest.approx(200 / 1022 * 1.02, rel=0.02)
    page.keyboard.press("0")
    overview = page.locator("#overview").bounding_box()
    page.mouse.move(overview["x"] + 500, overview["y"] + 20)
    page.mouse.down()
    page.mouse.move(overview["x"] + 700, overview["y"] + 20, steps=3)
    page.mouse.up()
    brushed = page.evaluate("[timeline.chart.from, timeline.chart.to]")
    assert span(page) == pytest.approx(200 / 1022, rel=0.02)
    page.mouse.move(box["x"] + 700, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 650, box["y"] + 200, steps=3)
    page.mouse.up()
    assert page.evaluate("timeline.chart.from") > brushed[0]
    assert span(page) == pytest.approx(200 / 1022, rel=0.02)


def test_a_cursor_shows_the_table_as_it_was(page: Page) -> None:
    page.focus("#scrub")
    page.keyboard.press("Home")
    until(page, "document.querySelector('#rows tbody').innerText.includes('not yet placed')")
    assert page.inner_text("#then-title") == "24 tasks as of 2026-11-23 08:28:03.856 UTC"
    page.evaluate("timeline.setCursor(Number(1795422484800000n - timeline.model.origin / 1000n))")
    until(page, "document.querySelector('#rows tbody tr').innerText.includes('waits to be started again')")
    first = page.locator("#rows tbody tr").first.inner_text()
    assert "Restarting: Task restarting in" in first
    (expected,) = tf.replay(STREAM, at="2026-11-23T08:28:04.8Z").snapshots()
    assert expected.tasks["main"].state == "pending"
    assert page.get_attribute("#scrub", "aria-valuetext") == "2026-11-23 08:28:04.800 UTC"


def test_a_click_opens_the_history_and_the_json_at_that_index(page: Page) -> None:
    x, y = place(page, "sibling_failed", 0.5)
    page.mouse.move(x, y)
    page.wait_for_selector("#tip:not([hidden])")
    assert "dead, failed" in page.inner_text("#tip")
    page.mouse.click(x, y)

    details = page.locator("#details")
    assert details.locator("h2").inner_text().startswith("bad of 0e263ec2-")
    assert "its restart policy gave it up" in details.inner_text()
    assert details.locator("tr[aria-current]").count() == 1
    index = int(details.locator("h3").last.inner_text().removeprefix("JSON at index "))
    (snapshot,) = (one for one in tf.replay(STREAM, at=index).snapshots() if one.job_id == "sibling_failed")
    assert json.loads(details.locator("pre").inner_text()) == json.loads(snapshot.to_json())

    details.locator("tbody button").first.click()
    assert json.loads(details.locator("pre").inner_text())["ClientStatus"] == "pending"
    page.keyboard.press("Escape")
    assert details.is_hidden()


def test_the_keyboard_alone_moves_between_tasks_and_events_and_opens_one(page: Page) -> None:
    page.evaluate("timeline.setCursor(0)")
    page.focus("#chart")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#status-line").startswith("main of batch_fail_attempts3_raw dc7eed70")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "Received" in page.inner_text("#status-line") or "Task Setup" in page.inner_text("#status-line")
    page.keyboard.press("Enter")
    assert page.inner_text("#details h2").startswith("main of dc7eed70-")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")
    before = page.evaluate("timeline.chart.rowCount")
    page.keyboard.press("Enter")
    assert page.evaluate("timeline.chart.rowCount") == before - 1
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"


def test_texts_of_any_kind_are_shown_as_texts(watched: Watched, tmp_path: Path) -> None:
    records = life(NASTY, (1, NASTY, events.Driver(driver_message=NASTY)), (2, NASTY, events.Killing()), job=NASTY)
    page = watched.open(tf.Timeline(records, "1.1.2", title=NASTY).write(tmp_path / "nasty.html"))

    page.locator("#rows tbody button").first.click()

    assert page.text_content("#details h2") == f"{NASTY} of {NASTY}"
    assert page.evaluate(
        "document.querySelector('#details').textContent.includes(timeline.model.texts.find((one) => one.length > 9000))"
    )
    assert page.evaluate("window.broken") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_policy_holds(context: BrowserContext, stream: Path) -> None:
    watched = Watched(context)
    page = watched.open(stream)

    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.broken = 1";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/x.png";
            document.body.append(image);
            return fetch("http://127.0.0.1:9/").catch(() => 0);
        }"""
    )

    assert page.evaluate("window.broken") is None
    refusals = [one for one in watched.complaints if "Content Security Policy" in one]
    assert len(refusals) >= 3
    watched.close()


def test_people_who_cannot_see_or_point_can_use_it(page: Page) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.locator("#rows tbody button").first.click()
    for options in (None, {"runOnly": ["color-contrast"]}):
        results = Axe().run(page, options=options)
        serious = [one for one in results.response["violations"] if one["impact"] in {"serious", "critical"}]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in serious] == []
        page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_json_that_is_not_carried_is_named_by_the_command_that_prints_it(watched: Watched, tmp_path: Path) -> None:
    path = tmp_path / "small.html"
    path.write_text(tf.timeline(STREAM).to_html(json_bytes=0), encoding="utf-8")
    page = watched.open(path)

    page.locator("#rows tbody button").first.click()

    assert page.inner_text("#details pre").startswith(f"taskfold replay {STREAM} --at ")
    assert page.inner_text("#details pre").endswith(" --format json")


def test_paper_has_light_colours_and_every_lane(page: Page) -> None:
    page.click("#theme")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")

    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    height = page.evaluate("parseFloat(document.querySelector('#chart canvas').style.height)")
    assert height >= 26 + 22 * page.evaluate("timeline.chart.rowCount")
    assert page.locator("#filters").is_hidden()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_many_tasks_have_few_elements_and_each_can_be_reached(watched: Watched, tmp_path: Path) -> None:
    timeline = tf.Timeline(cluster(1_000, 5), "1.1.2", title="cluster.db")
    path = tmp_path / "many.html"
    path.write_text(timeline.to_html(json_bytes=0), encoding="utf-8")
    page = watched.open(path)

    assert page.inner_text("#summary").startswith("1,000 tasks in 500 allocations")
    assert page.evaluate("document.querySelectorAll('*').length") < 6_000
    page.focus("#chart")
    page.keyboard.press("End")
    assert page.evaluate(
        "timeline.chart.focusRow === timeline.chart.rowCount - 1 && timeline.chart.scroller.scrollTop > 1000"
    )
    page.evaluate("document.querySelector('#rows').scrollTop = 1e9")
    until(page, "document.querySelector('#rows tbody tr:last-child').getAttribute('aria-rowindex') === '1001'")
    if folder := os.environ.get(ARTEFACTS):
        page.screenshot(path=Path(folder) / "timeline-1000.png")
