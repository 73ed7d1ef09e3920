"""The timeline as a trace in Chrome's JSON format, for Perfetto, chrome://tracing, speedscope and others.

An allocation is a process, a task a thread, an interval a complete event ("X"), a record an instant ("i"). Times are
microseconds since 1970. Source: the Trace Event Format document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from taskfold.model.record import Record
from taskfold.nomad.record_texts import event_text, message_text
from taskfold.pictures.kinds import KINDS, MARKS, mark_of
from taskfold.pictures.lanes import LanesOfOne

__all__ = ["trace_of"]

_NS_PER_US: Final = 1_000
_COLOURS: Final = {
    "pending": "thread_state_runnable",
    "delay": "thread_state_iowait",
    "running": "thread_state_running",
    "done": "good",
    "failed": "terrible",
    "killed": "bad",
    "dead": "grey",
    "dead_failed": "terrible",
    "gap": "thread_state_unknown",
}
"""Names of colours that the format has."""


def _us(time_ns: int) -> float:
    # A whole number where that is exact, as most readers keep microseconds.
    whole, rest = divmod(time_ns, _NS_PER_US)
    return whole + rest / _NS_PER_US if rest else whole


def trace_of(allocations: Sequence[LanesOfOne], *, title: str) -> str:
    """Return the trace, as JSON. O(records)."""
    trace = {
        "traceEvents": list(_events(allocations)),
        "displayTimeUnit": "ms",
        "otherData": {"source": title, "producer": "taskfold"},
    }
    return msgspec.json.encode(trace).decode()


def _events(allocations: Sequence[LanesOfOne]) -> Iterator[dict[str, Any]]:
    for pid, one in enumerate(allocations, start=1):
        name = " ".join(filter(None, (one.job, one.id)))
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
        for record in one.records:
            if MARKS[mark_of(record.event)].name == "desired":
                yield _instant(record, pid, 0, scope="p")
        for tid, lane in enumerate(one.lanes, start=1):
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": lane.task}}
            for bar in lane.bars:
                kind = KINDS[bar.kind]
                yield {
                    "ph": "X",
                    "name": kind.words,
                    "cat": kind.state or "unknown",
                    "cname": _COLOURS[kind.name],
                    "pid": pid,
                    "tid": tid,
                    "ts": _us(bar.start_ns),
                    "dur": _us(bar.end_ns - bar.start_ns),
                    "args": {"alloc": one.id, "job": one.job, "node": one.node},
                }
            for record in lane.records:
                yield _instant(record, pid, tid, scope="t")


def _instant(record: Record, pid: int, tid: int, scope: str) -> dict[str, Any]:
    return {
        "ph": "i",
        "s": scope,
        "name": event_text(record),
        "cat": MARKS[mark_of(record.event)].name,
        "pid": pid,
        "tid": tid,
        "ts": _us(record.time_ns),
        "args": {"message": message_text(record), "index": record.index, "version": record.version},
    }
