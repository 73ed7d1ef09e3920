"""The timeline of tasks: the public face of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from msgspec.structs import replace

from taskfold.fold.lifecycle import lifecycle_of
from taskfold.model.dialect import Dialect
from taskfold.model.errors import Refused
from taskfold.model.record import Record
from taskfold.model.words import count_text
from taskfold.pictures.columns import columns_of
from taskfold.pictures.lanes import LanesOfOne, lanes_of

__all__ = ["JSON_BYTES", "TIMELINE_FORMATS", "Timeline", "TimelineFormat"]

TimelineFormat: TypeAlias = Literal["html", "svg", "perfetto"]
TIMELINE_FORMATS: Final[tuple[TimelineFormat, ...]] = get_args(TimelineFormat)
"""The formats of a timeline, the default first."""
JSON_BYTES: Final = 2_000_000
"""The room that a page has for the JSON of allocations, unless it is given."""
_ENDINGS: Final[Mapping[str, TimelineFormat]] = {
    ".html": "html",
    ".htm": "html",
    ".svg": "svg",
    ".json": "perfetto",
}


class Timeline:
    """The lives of tasks side by side: a page (HTML), a drawing (SVG), or a trace for Perfetto and Chrome.

    `taskfold.timeline` makes one of any source, `Engine.timeline` of an engine's log.

    >>> from taskfold import Engine, ManualClock, events
    >>> engine = Engine(dialect="1.1.2", clock=ManualClock(1_000_000_000))
    >>> engine.place({"ID": "203266e5", "JobID": "example"})
    >>> for event in (events.Received(), events.Started()):
    ...     _ = engine.record("203266e5", "redis", event)
    >>> engine.timeline()
    <Timeline: 1 task of 1 allocation, dialect 1.1.2>
    >>> engine.timeline().to_html()[:15]
    '<!doctype html>'
    """

    def __init__(self, records: Iterable[Record], dialect: str | Dialect, *, title: str = "") -> None:
        """Take records in the order of their log, with a title. Memory for all of them; O(records)."""
        self.title = title
        self.lifecycle = lifecycle_of(dialect)
        self._records: dict[str, list[Record]] = {}
        for record in records:
            self._records.setdefault(record.alloc, []).append(record)

    @property
    def dialect(self) -> Dialect:
        """The dialect of the records."""
        return self.lifecycle.dialect

    @cached_property
    def end_ns(self) -> int:
        """The end of the records (unix nanoseconds): the newest time of any record; 0 without any."""
        return max((record.time_ns for records in self._records.values() for record in records), default=0)

    @cached_property
    def allocations(self) -> list[LanesOfOne]:
        """The allocations with the lanes of their tasks, in the order in which they were first seen. O(records)."""
        return [lanes_of(alloc, each, self.lifecycle, self.end_ns) for alloc, each in self._records.items()]

    def __len__(self) -> int:
        """Return the number of lanes."""
        return sum(len(one.lanes) for one in self.allocations)

    def __repr__(self) -> str:
        """Return how much it shows."""
        allocations = count_text(len(self._records), "allocation")
        return f"<Timeline: {count_text(len(self), 'task')} of {allocations}, dialect {self.dialect.name}>"

    def only(self, is_wanted: Callable[[LanesOfOne], bool], *, task: str | None = None) -> Timeline:
        """Return the timeline of some allocations, and of the tasks of one name in them. The end stays. O(records)."""
        part = Timeline((), self.dialect, title=self.title)
        part.end_ns = self.end_ns
        part.allocations = []
        for one in filter(is_wanted, self.allocations):
            lanes = [lane for lane in one.lanes if task in {None, lane.task}]
            if lanes or task is None:
                part.allocations.append(replace(one, lanes=lanes))
                part._records[one.id] = self._records[one.id]
        return part

    def to_html(self, *, json_bytes: int = JSON_BYTES) -> str:
        """Return the page: one HTML file that needs no other, and no network. O(records).

        ``json_bytes`` bounds the JSON of allocations in it: first come those that failed, or lost events.
        """
        from taskfold.pictures.page import page_of

        data = columns_of(
            self.allocations,
            self._records,
            self.lifecycle,
            title=self.title,
            end_ns=self.end_ns,
            json_bytes=json_bytes,
        )
        return page_of(data)

    def to_svg(self, *, width: int = 1280) -> str:
        """Return a static drawing, this many pixels wide. O(records). Raises Refused for a width below 320."""
        from taskfold.pictures.svg import svg_of

        return svg_of(self.allocations, title=self.title, end_ns=self.end_ns, width=width)

    def to_perfetto(self) -> str:
        """Return a trace in Chrome's JSON format, which Perfetto and others open. O(records)."""
        from taskfold.pictures.perfetto import trace_of

        return trace_of(self.allocations, title=self.title)

    def text(self, format: TimelineFormat = "html") -> str:
        """Return the timeline in a format. Raises Refused for an unknown one."""
        if format == "html":
            return self.to_html()
        if format == "svg":
            return self.to_svg()
        if format == "perfetto":
            return self.to_perfetto()
        raise Refused(f"{format!r} is no format of timelines; there are {', '.join(TIMELINE_FORMATS)}")

    def write(self, path: str | Path, format: TimelineFormat | None = None) -> Path:
        """Write the timeline to a file, in a format or, by default, in that of the file's ending; return its path.

        Endings are ``.html``, ``.svg`` and ``.json`` (Perfetto). Raises Refused for another one, and OSError.
        """
        target = Path(path)
        target.write_text(self.text(format or self.format_of(target)), encoding="utf-8")
        return target

    @staticmethod
    def format_of(path: str | Path) -> TimelineFormat:
        """Return the format that a file's name ends with. Raises Refused where it ends otherwise.

        >>> Timeline.format_of("life.html"), Timeline.format_of("life.json")
        ('html', 'perfetto')
        """
        by_ending = _ENDINGS.get(Path(path).suffix.lower())
        if by_ending is None:
            endings = ", ".join(_ENDINGS)
            raise Refused(
                f"{path}: the name does not say the format: expected one that ends with {endings}, or a format"
            )
        return by_ending

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Return what a notebook shows: the drawing, and the words."""
        return {"image/svg+xml": self.to_svg(width=960), "text/plain": repr(self)}
