"""The timeline of any source."""

from __future__ import annotations

from collections.abc import Callable

from taskfold.log.names import shown_name
from taskfold.log.registry import LogLike
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.pictures.timeline import Timeline
from taskfold.sources.replay import At, Replay

__all__ = ["timeline", "timeline_of"]


def timeline(
    *sources: LogLike,
    at: At | int | str | None = None,
    dialect: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    skip_bad: bool = False,
) -> Timeline:
    """Return the timeline of sources, or of an open log, up to a point. O(records), and memory for them.

    Raises what `taskfold.replay` raises.

    >>> import taskfold as tf
    >>> tf.timeline("examples/nomad-1.1.2-stream.ndjson.gz")
    <Timeline: 24 tasks of 14 allocations, dialect 1.1.2>
    """
    return timeline_of(Replay(*sources, at=at, dialect=dialect, on_note=on_note, skip_bad=skip_bad))


def timeline_of(replay: Replay) -> Timeline:
    """Return the timeline of a replay, which it reads. O(records). Raises as iterating over it does."""
    records = list(replay)
    return Timeline(records, replay.dialect or NEWEST_DIALECT, title=", ".join(map(shown_name, replay.sources)))
