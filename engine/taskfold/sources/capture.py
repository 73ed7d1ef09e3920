"""A capture of ``nomad operator debug``: its files with allocations, in the order of the indexes.

A capture has a list of allocations for each interval, the event stream if that was requested, and many other files.
Layout (Nomad 0.12 to 2.0, command/operator_debug.go)::

    nomad-debug-2026-11-23-083410Z/
        cluster/eventstream.json             if requested, since 1.2.4: one event per line
        interval/0000/allocations.json       in older versions nomad/0000/…; one list, or one stub per line
        interval/0001/allocations.json
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import BinaryIO, Final, NamedTuple, NoReturn

from taskfold.model.errors import SourceError
from taskfold.nomad.importing.observation import Statement
from taskfold.sources.archives import SourceFile
from taskfold.sources.source import Source

__all__ = ["Capture", "CapturedSource", "captures_among"]

_LIST: Final = re.compile(r"(?P<root>.*?)/?(?:interval|nomad)/\d{4,}/allocations\.json(?:\.\w+)?")
_STREAM: Final = re.compile(r".*?/?(?:cluster/)?eventstream\.json(?:\.\w+)?")


class Capture(NamedTuple):
    """The files of a capture."""

    name: str
    streams: list[SourceFile]
    """The events."""
    lists: list[SourceFile]
    """The allocations, interval by interval."""
    others: list[SourceFile]
    """The files without allocations."""


def captures_among(parts: Iterable[SourceFile]) -> list[SourceFile | Capture]:
    """Return the parts in order, with the parts of each capture as one."""
    parts = list(parts)
    roots = sorted({match["root"] for part in parts if (match := _LIST.fullmatch(part.name)) is not None})
    captures: dict[str, Capture] = {}
    ordered: list[SourceFile | Capture] = []
    for part in parts:
        root = next((root for root in roots if not root or part.name.startswith(f"{root}/")), None)
        if root is None:
            ordered.append(part)
            continue
        if root not in captures:
            captures[root] = Capture(root or ".", [], [], [])
            ordered.append(captures[root])
        capture = captures[root]
        kinds = ((_LIST, capture.lists), (_STREAM, capture.streams))
        next((files for kind, files in kinds if kind.fullmatch(part.name)), capture.others).append(part)
    return ordered


class CapturedSource:
    """A capture that is being read.

    Each list repeats unchanged allocations; changed ones are merged into the stream by index, so that none is late.
    """

    is_log = False
    is_empty = False

    def __init__(
        self, capture: Capture, source_of: Callable[[BinaryIO, str], Source], on_note: Callable[[str], None]
    ) -> None:
        """Take the files, and a function that makes a source of a stream and its name."""
        self.name = capture.name
        self.bytes_read = 0
        """The number of uncompressed bytes read."""
        self.is_silent = True
        """Whether it has no statement, once it was read."""
        self._capture = capture
        self._source_of = source_of
        self._on_note = on_note

    def statements(self) -> Iterator[Statement]:
        """Yield the statements. Memory for one list. Raises SourceError."""
        streams, lists, others = self._capture[1:]
        self._on_note(
            f"{self.name} is a capture of `nomad operator debug`: its lists of allocations ({len(lists)}) and its "
            f"event streams ({len(streams)}) are read, its other files ({len(others)}) are not"
        )
        by_index = attrgetter("index")
        of_lists = (statement for part in lists for statement in sorted(self._of(part), key=by_index))
        return heapq.merge(*map(self._of, streams), of_lists, key=by_index)

    def _of(self, part: SourceFile) -> Iterator[Statement]:
        with part.open() as stream:
            source = self._source_of(stream, part.name)
            yield from source.statements()
            self.bytes_read += source.bytes_read
            self.is_silent = self.is_silent and source.is_silent

    def log(self) -> NoReturn:
        """Raise SourceError: a capture has no records."""
        raise SourceError(self.name, "is a capture of `nomad operator debug`, no log")

    def newest(self) -> None:
        """Return None: a capture has no records."""
