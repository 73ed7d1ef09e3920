"""The data of the page: columns of small numbers, and every text once.

`schema` of the page's data, as the page reads it: times are microseconds since ``origin_ns``, delta-encoded in their
lane; texts are numbers of ``texts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from taskfold.fold.lifecycle import Lifecycle
from taskfold.model.record import Record
from taskfold.nomad.record_texts import event_text, message_text
from taskfold.pictures.bodies import BodyColumns
from taskfold.pictures.kinds import KINDS, MARKS, mark_of
from taskfold.pictures.lanes import LanesOfOne

__all__ = ["FORMAT", "columns_of"]

FORMAT = 1
"""The version of the page's data."""
_NS_PER_US = 1_000


class _Texts:
    """Texts, each with a number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


class _Events:
    """The columns of records."""

    def __init__(self, texts: _Texts, origin_ns: int) -> None:
        self._texts, self._origin_ns = texts, origin_ns
        self.columns: dict[str, list[int]] = {
            name: [] for name in ("time", "type", "message", "index", "version", "mark")
        }

    def add(self, records: Sequence[Record]) -> int:
        """Add the records of a lane, and return how many they are."""
        columns, texts = self.columns, self._texts
        time_us = index = version = 0
        for record in records:
            new_us = max((record.time_ns - self._origin_ns) // _NS_PER_US, 0)
            columns["time"].append(new_us - time_us)
            columns["type"].append(texts(event_text(record)))
            columns["message"].append(texts(message_text(record)))
            columns["index"].append(record.index - index)
            columns["version"].append(record.version - version)
            columns["mark"].append(mark_of(record.event))
            time_us, index, version = new_us, record.index, record.version
        return len(records)


def columns_of(
    allocations: Sequence[LanesOfOne],
    records: dict[str, list[Record]],
    lifecycle: Lifecycle,
    *,
    title: str,
    end_ns: int,
    json_bytes: int,
) -> dict[str, Any]:
    """Return the data of the page, which is JSON. O(records).

    The JSON of allocations is there as far as it fits into ``json_bytes``: first that of failed ones, and of those
    with lost events.
    """
    origin_ns = min((one.start_ns for one in allocations), default=end_ns) // _NS_PER_US * _NS_PER_US
    texts = _Texts()
    events = _Events(texts, origin_ns)
    facts: dict[str, list[int]] = {
        name: [] for name in ("job", "group", "node", "node_name", "namespace", "name", "status", "desired")
    }
    allocs: dict[str, Any] = {"id": [], **facts, "events": []}
    lanes: dict[str, list[int]] = {
        name: [] for name in ("alloc", "task", "state", "reason", "restarts", "intervals", "events")
    }
    starts: list[int] = []
    lengths: list[int] = []
    kinds: list[int] = []
    for number, one in enumerate(allocations):
        allocs["id"].append(one.id)
        values = (one.job, one.group, one.node, one.node_name, one.namespace, one.name)
        for name, value in zip(facts, (*values, one.client_status, one.desired_status), strict=True):
            allocs[name].append(texts(value))
        allocs["events"].append(events.add(one.records))
        for lane in one.lanes:
            lanes["alloc"].append(number)
            lanes["task"].append(texts(lane.task))
            lanes["state"].append(texts(lane.state))
            lanes["reason"].append(texts(lane.reason))
            lanes["restarts"].append(lane.restarts)
            lanes["intervals"].append(len(lane.bars))
            lanes["events"].append(events.add(lane.records))
            end_us = 0
            for bar in lane.bars:
                start_us = (bar.start_ns - origin_ns) // _NS_PER_US
                starts.append(start_us - end_us)
                end_us = (bar.end_ns - origin_ns) // _NS_PER_US
                lengths.append(end_us - start_us)
                kinds.append(bar.kind)
    bodies = BodyColumns(texts, json_bytes)
    first = sorted(range(len(allocations)), key=lambda number: not _is_of_interest(allocations[number]))
    steps = [(n, bodies.steps(allocations[n].id, records[allocations[n].id], lifecycle)) for n in first]
    return {
        "format": FORMAT,
        "title": title,
        "dialect": lifecycle.dialect.name,
        "origin_ns": str(origin_ns),
        "end": (end_ns - origin_ns) // _NS_PER_US,
        "kinds": [msgspec.structs.asdict(kind) for kind in KINDS],
        "marks": [msgspec.structs.asdict(mark) for mark in MARKS],
        "allocs": allocs,
        "lanes": lanes,
        "intervals": {"start": starts, "length": lengths, "kind": kinds},
        "events": events.columns,
        "bodies": {str(number): each for number, each in steps if each is not None},
        "texts": list(texts.numbers),
    }


def _is_of_interest(one: LanesOfOne) -> bool:
    """Tell whether people will want the JSON of an allocation sooner than that of others."""
    return one.client_status in {"failed", "lost"} or any(lane.failed or lane.restarts for lane in one.lanes)
