"""The pictures of the documents, drawn from a recording: screenshots of the timeline, and its drawing.

``make pictures`` runs it; it needs Chromium, and writes docs/pictures/.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from support.chromium import Watched, browser
from taskfold import timeline

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docs" / "pictures"
STREAM: Final = "examples/nomad-1.1.2-stream.ndjson.gz"
DRAWING: Final = FOLDER / "timeline.svg"
_OPEN_ONE: Final = """() => {
    const { model, chart, select, setCursor } = timeline;
    const lane = [...model.allocOf].findIndex((alloc) => model.text("job", alloc) === "alloc_signal");
    chart.setRange(model.span * 0.64, model.span * 0.76);
    chart.scroller.scrollTop = (chart.rows.findIndex((row) => row.lane === lane) - 7) * chart.laneHeight;
    const event = model.eventsFrom[lane] + 6;
    setCursor(model.time[event]);
    select(lane, event);
}"""
SHOTS: Final = (
    ("timeline-light.png", "light", ""),
    ("timeline-dark.png", "dark", ""),
    ("allocation-light.png", "light", _OPEN_ONE),
    ("allocation-dark.png", "dark", _OPEN_ONE),
)


def drawing() -> str:
    """Return the drawing of the documents."""
    return timeline(STREAM).only(lambda one: one.job in {"alloc_signal", "lifecycle_all"}).to_svg(width=1100)


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    DRAWING.write_text(drawing(), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        page_path = timeline(STREAM).write(Path(folder) / "life.html")
        with browser(Path(folder) / "profile", viewport={"width": 1280, "height": 900}) as context:
            for name, scheme, script in SHOTS:
                watched = Watched(context)
                watched.page.emulate_media(color_scheme=scheme)
                page = watched.open(page_path)
                if script:
                    page.evaluate(script)
                page.wait_for_timeout(300)
                page.screenshot(path=FOLDER / name)
                watched.close()


if __name__ == "__main__":
    main()
