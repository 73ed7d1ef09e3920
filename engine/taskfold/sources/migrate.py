"""Migrating a log to another dialect: the same events and states, and the JSON of the other Nomad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec

from taskfold.fold.allocation import Fold
from taskfold.fold.task import TaskState
from taskfold.log.registry import LogLike, is_log, is_new_log, open_log
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import LogError
from taskfold.model.events import TaskEvent, wire_type
from taskfold.model.record import Collected, LogHeader, Observed, Record
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.replay import Replay

__all__ = ["Migration", "dialect_of_log", "migrate"]

_STATE_FIELDS: Final = ("state", "failed", "restarts", "last_restart_ns", "started_at_ns", "finished_at_ns")
"""The parts of a task that a lifecycle decides; where two lifecycles disagree, the log corrects the new one."""


def dialect_of_log(source: LogLike) -> str | None:
    """Return the dialect of a log; None for other files, and for pipes. Raises SourceError."""
    if not is_log(source):
        return None
    replay = Replay(source)
    next(replay.steps(), None)
    return replay.dialect


def migrate(source: LogLike, into: str | Path, dialect: str, on_note: Callable[[str], None]) -> int:
    """Copy the records of a log to a new log of another dialect; return their number. O(records).

    Memory for the live state only. Every event is kept. Where the new lifecycle would leave a task in another state, a
    correction (`Observed`) follows the event, so that every allocation has the same state at every index as before.
    ``on_note`` is called with what the new dialect's JSON cannot express. Raises LogError when the new log exists, and
    SourceError; then nothing is left of it.
    """
    if not is_new_log(into):
        raise LogError(f"{into}: exists already, and a migration needs a new log: choose another name")
    replay = Replay(source, on_note=on_note)
    blocks = (block for _, block in replay.steps())
    first = next(blocks, [])
    assert replay.header is not None
    migration = Migration(replay.header, dialect_of(dialect))
    log = open_log(into, dialect, replay.header.region)
    count = 0
    try:
        for record in chain(first, chain.from_iterable(blocks)):
            for new in migration.records(record):
                log.append(new.alloc, new.version - 1, [new], sync=False)
                count += 1
    except BaseException:
        log.roll_back()
        raise
    log.close()
    for note in migration.notes():
        on_note(note)
    return count


class Migration:
    """Converts the records of a log to another dialect, one by one."""

    def __init__(self, header: LogHeader, dialect: Dialect) -> None:
        self._header = header
        self._before = Fold(header.dialect, on_illegal="keep")
        self._after = Fold(dialect, on_illegal="keep")
        self._versions: dict[str, int] = {}
        self._corrections = 0
        self._unknown_types: Counter[str] = Counter()

    def records(self, record: Record) -> Iterator[Record]:
        """Yield a record for the new log, and after it any correction. O(1)."""
        before = self._before.apply(record).tasks.get(record.task)
        yield self._renumbered(record)
        after = self._after.apply(record).tasks.get(record.task)
        self._note_type(record)
        if before is not None and after is not None:
            correction = _correction(before.freeze(), after.freeze())
            if correction is not None:
                self._corrections += 1
                observed = msgspec.structs.replace(record, id=msgspec.UNSET, event=correction)
                yield self._renumbered(observed)
                self._after.apply(observed)
        if isinstance(record.event, Collected):
            for fold in (self._before, self._after):
                del fold.allocations[record.alloc]

    def _renumbered(self, record: Record) -> Record:
        """Return a record with the next version of its allocation; the log assigns the position."""
        version = self._versions.get(record.alloc, 0) + 1
        self._versions[record.alloc] = version
        return msgspec.structs.replace(record, seq=0, version=version)

    def _note_type(self, record: Record) -> None:
        """Count an event whose type only the old dialect has."""
        cls = type(record.event)
        if issubclass(cls, TaskEvent) and cls in self._before.lifecycle.rules:
            self._unknown_types[wire_type(record.event)] += cls not in self._after.lifecycle.rules

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each difference from the old log. O(live state)."""
        old, new = self._before.dialect, self._after.dialect
        if self._header.compacted is not msgspec.UNSET:
            position = self._header.compacted.seq
            yield f"the log was compacted at position {position}: the removed records are in neither log"
        if self._corrections:
            yield (
                f"{self._corrections} corrections were added, where the lifecycle of dialect {new.name} would have "
                "left a task in another state"
            )
        types = ", ".join(f"{name!r} ({count})" for name, count in sorted(self._unknown_types.items()) if count)
        if types:
            yield f"dialect {new.name} has no events of the types {types}: they are kept, and move no task"
        lost = [
            f"{path} of {alloc}"
            for alloc in self._before.allocations
            for path in Snapshot.of(self._before[alloc], old).losses(new)
        ]
        if lost:
            yield (
                f"dialect {new.name} cannot express {len(lost)} paths, such as {lost[0]}: "
                "the log has them, and its JSON leaves them out"
            )
        if old.has_new_client is not new.has_new_client:
            yield f"decisions on live allocations follow the client of dialect {new.name} from now on"


def _correction(before: TaskState, after: TaskState) -> Observed | None:
    """Return the correction from one task state to another; None if they are equal."""
    different = {name: value for name in _STATE_FIELDS if (value := getattr(before, name)) != getattr(after, name)}
    return Observed(**different) if different else None
