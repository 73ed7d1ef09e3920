"""The timeline as a static drawing in SVG: lanes below a time axis, with what each interval was as its title."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

from taskfold.model.errors import Refused
from taskfold.model.go.timestamps import time_text
from taskfold.model.words import count_text, visible
from taskfold.nomad.record_texts import event_text, message_text
from taskfold.pictures.kinds import KINDS, MARKS, mark_of
from taskfold.pictures.lanes import Bar, Lane, LanesOfOne

__all__ = ["LEAST_WIDTH", "svg_of"]

LEAST_WIDTH: Final = 320
"""The least width of a drawing, in pixels."""
_LABEL_SHARE: Final = 0.22
_ROW: Final = 20
_TOP: Final = 62
"""The height of title, legend and axis."""
_MARGIN: Final = 10
_LABEL_LENGTH: Final = 44
_TITLE_LENGTH: Final = 400
_LEAST_MARK_DISTANCE: Final = 7.0
_TICK_WIDTH: Final = 110
_STEPS_S: Final = tuple(
    factor * unit
    for unit, factors in (
        (0.000_001, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
        (0.001, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
        (1, (1, 2, 5, 10, 15, 30)),
        (60, (1, 2, 5, 10, 15, 30)),
        (3_600, (1, 2, 3, 6, 12)),
        (86_400, (1, 2, 7, 14, 30, 90, 365, 3_650)),
    )
    for factor in factors
)
_NS: Final = 1_000_000_000
_BARS: Final = {"dead": (9, 2), "dead_failed": (8, 4), "pending": (6, 8), "delay": (6, 8)}
"""Distance from the top, and height, of the low bars."""
_TALL: Final = (2, 16)
_STYLE: Final = "".join(
    [
        "text{font:12px system-ui,sans-serif;fill:#1b1f24}.f{fill:#57606a}.g{font-weight:600}",
        ".m{fill:#1b1f24;stroke:#fff;stroke-width:1}.x{fill:none;stroke:#1b1f24;stroke-width:2}",
        *(f".{kind.name}{{fill:{kind.light}}}" for kind in KINDS if kind.name != "gap"),
        ".gap{fill:url(#hatch);stroke:#5f6670}.ground{fill:#fff}.line{stroke:#d5d9df}.band{fill:#f5f6f8}",
        "@media(prefers-color-scheme:dark){text{fill:#e6e9ee}.f{fill:#a3acb8}.ground{fill:#12151a}.line{stroke:#343b45}",
        ".band{fill:#1b2027}.m{fill:#e6e9ee;stroke:#12151a}.x{stroke:#e6e9ee}",
        *(f".{kind.name}{{fill:{kind.dark}}}" for kind in KINDS if kind.name != "gap"),
        "}",
    ]
)
_HATCH: Final = (
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="ground" width="6" height="6"/><rect class="m" width="2" height="6" style="stroke:none"/></pattern>'
)


def _text(words: str, most: int = _LABEL_LENGTH) -> str:
    """Return a text as XML may have it, cut off."""
    text = visible(words)
    return escape(text if len(text) <= most else f"{text[: most - 1]}…", quote=True)


class _Scale:
    """The time axis."""

    def __init__(self, start_ns: int, end_ns: int, first_x: float, last_x: float) -> None:
        self.start_ns, self.end_ns, self.first_x, self.last_x = start_ns, max(end_ns, start_ns + 1_000), first_x, last_x

    def x(self, time_ns: int) -> float:
        share = (time_ns - self.start_ns) / (self.end_ns - self.start_ns)
        return round(self.first_x + share * (self.last_x - self.first_x), 2)

    def ticks(self) -> Iterator[tuple[int, str]]:
        """Yield the times of the ticks (unix nanoseconds), and their texts."""
        most = max((self.last_x - self.first_x) / _TICK_WIDTH, 1)
        span_s = (self.end_ns - self.start_ns) / _NS
        step_s = next((step for step in _STEPS_S if span_s / step <= most), _STEPS_S[-1])
        step_ns = max(round(step_s * _NS), 1_000)
        for number in range(-(-self.start_ns // step_ns), self.end_ns // step_ns + 1):
            instant = time_text(number * step_ns).rstrip("Z")
            day, _, clock = instant.partition("T")
            yield number * step_ns, day if step_s >= _STEPS_S[-8] else clock


def svg_of(allocations: Sequence[LanesOfOne], *, title: str, end_ns: int, width: int) -> str:
    """Return the drawing. O(records). Raises Refused for a width below `LEAST_WIDTH`."""
    if width < LEAST_WIDTH:
        raise Refused(f"expected a width of at least {LEAST_WIDTH} pixels, found {width}")
    with_lanes = [one for one in allocations if one.lanes]
    tasks = sum(len(one.lanes) for one in with_lanes)
    height = _TOP + _ROW * (tasks + len(with_lanes)) + _MARGIN
    first_x = round(width * _LABEL_SHARE)
    scale = _Scale(min((one.start_ns for one in with_lanes), default=end_ns), end_ns, first_x, width - _MARGIN)
    summary = f"{count_text(tasks, 'task')} of {count_text(len(with_lanes), 'allocation')}"
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
        f'<title id="title">{_text(title or "Timeline", _TITLE_LENGTH)}: {summary}</title>',
        f"<style>{_STYLE}</style><defs>{_HATCH}</defs>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
        f'<text class="g" x="{_MARGIN}" y="18">{_text(title or "Timeline", width // 12)}</text>',
        f'<text class="f" x="{width - _MARGIN}" y="18" text-anchor="end">{summary}, UTC</text>',
        *_legend(width),
    ]
    for time_ns, words in scale.ticks():
        x = scale.x(time_ns)
        parts.append(f'<line class="line" x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{height}"/>')
        parts.append(f'<text class="f" x="{x}" y="{_TOP - 10}" text-anchor="middle">{words}</text>')
    y = _TOP
    for one in with_lanes:
        parts.append(f'<rect class="band" x="0" y="{y}" width="{width}" height="{_ROW}"/>')
        heading = " · ".join(filter(None, (one.job, one.id[:8], one.client_status)))
        parts.append(f'<text class="g" x="{_MARGIN}" y="{y + 14}">{_text(heading, width // 8)}</text>')
        y += _ROW
        for lane in one.lanes:
            parts.append(f'<g><text x="{_MARGIN + 12}" y="{y + 14}">{_text(lane.task, max(first_x // 8, 8))}</text>')
            parts += _bars(lane, scale, y)
            parts += _marks(one, lane, scale, y)
            parts.append("</g>")
            y += _ROW
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(width: int) -> Iterator[str]:
    x = float(_MARGIN)
    for kind in KINDS:
        needed = 26 + 6.3 * len(kind.words)
        if x + needed > width:
            return
        top, tall = _BARS.get(kind.name, _TALL)
        at = f'x="{x:.0f}" y="{24 + top * 0.6:.1f}" width="14" height="{max(tall * 0.6, 2):.1f}"'
        yield f'<rect class="{kind.name}" {at}/>'
        yield f'<text class="f" x="{x + 18:.0f}" y="34">{kind.words}</text>'
        x += needed


def _bars(lane: Lane, scale: _Scale, y: int) -> Iterator[str]:
    for intervals in _pixels(lane.bars, scale):
        first, last = intervals[0], intervals[-1]
        kind = KINDS[first.kind if len(intervals) == 1 else max(intervals, key=_weight).kind]
        x, last_x = scale.x(first.start_ns), scale.x(last.end_ns)
        top, tall = _BARS.get(kind.name, _TALL)
        if len(intervals) == 1:
            words = f"{kind.words}, {time_text(first.start_ns)} to {time_text(first.end_ns)}"
        else:
            words = f"{len(intervals)} intervals, {time_text(first.start_ns)} to {time_text(last.end_ns)}"
        yield (
            f'<rect class="{kind.name}" x="{x}" y="{y + top}" width="{max(round(last_x - x, 2), 1)}" height="{tall}">'
            f"<title>{_text(lane.task)}: {words}</title></rect>"
        )


def _weight(bar: Bar) -> int:
    """Return how much an interval matters beside others in the same pixel: the worst is drawn."""
    order = ("dead", "done", "running", "pending", "delay", "killed", "gap", "dead_failed", "failed")
    return order.index(KINDS[bar.kind].name)


def _pixels(intervals: Iterable[Bar], scale: _Scale) -> Iterator[list[Bar]]:
    """Yield each interval alone, or those together that share a pixel."""
    group: list[Bar] = []
    for bar in intervals:
        if scale.x(bar.end_ns) - scale.x(bar.start_ns) >= 1:
            if group:
                yield group
                group = []
            yield [bar]
        elif group and int(scale.x(group[0].start_ns)) != int(scale.x(bar.start_ns)):
            yield group
            group = [bar]
        else:
            group.append(bar)
    if group:
        yield group


def _marks(one: LanesOfOne, lane: Lane, scale: _Scale, y: int) -> Iterator[str]:
    newest = -_LEAST_MARK_DISTANCE
    records = [record for record in lane.records if MARKS[mark_of(record.event)].name not in {"event", "gap"}]
    records += [record for record in one.records if MARKS[mark_of(record.event)].name == "desired"]
    for record in sorted(records, key=lambda record: record.time_ns):
        x = scale.x(record.time_ns)
        if x - newest < _LEAST_MARK_DISTANCE:
            continue
        newest = x
        words = _text(f"{event_text(record)}: {message_text(record)}", _TITLE_LENGTH)
        shape = _SHAPES[MARKS[mark_of(record.event)].shape]
        yield f'<path transform="translate({x} {y + _ROW // 2})" {shape}><title>{words}</title></path>'


_SHAPES: Final = {
    "triangle": 'class="m" d="M0-5 5 4H-5z"',
    "diamond": 'class="m" d="M0-5 5 0 0 5-5 0z"',
    "square": 'class="m" d="M-4-4H4V4H-4z"',
    "cross": 'class="x" d="M-4-4 4 4M4-4-4 4"',
    "ring": 'class="x" d="M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"',
    "flag": 'class="m" d="M0 6V-6L7-3 0 0z"',
}
