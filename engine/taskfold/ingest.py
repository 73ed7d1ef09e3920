"""Import what a Nomad said into a log: whole or not at all, and as often as one likes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from taskfold.allocation import Fold
from taskfold.dialect import NEWEST_DIALECT
from taskfold.errors import LogError, TaskfoldError
from taskfold.log.ndjson import NdjsonLog
from taskfold.nomad.importer import Importer
from taskfold.record import Record
from taskfold.replay import Replay

__all__ = ["Ingested", "ingest", "open_log"]

_SUFFIXES: Final = (".jsonl", ".ndjson")
_RECORDS_PER_SYNC: Final = 10_000


class Ingested(Struct, frozen=True, kw_only=True):
    """What an import did."""

    log: str
    dialect: str
    observations: int
    records: int
    """Records that were appended."""
    repeats: int
    """Observations that told nothing new."""
    log_bytes: int
    """The size of the log afterwards."""


def open_log(path: str | Path, dialect: str | None = None, region: str = "global") -> NdjsonLog:
    """Open the log that a path names, or begin one; the store is picked by the ending.

    Raises LogError for an ending that names no store, and for whatever `NdjsonLog` refuses.
    """
    name = str(path)
    if not name.endswith(_SUFFIXES):
        msg = f"{name}: a log ends in {' or '.join(_SUFFIXES)} (JSON lines); this taskfold has no other store"
        raise LogError(msg)
    return NdjsonLog(path, dialect, region)


def ingest(
    *sources: str | Path,
    into: str | Path,
    dialect: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Replay, int], None] = lambda _replay, _records: None,
) -> Ingested:
    """Import sources into a log, and return what was done. Memory for the live state only.

    A log that exists is gone on with: what it holds already is not added again. When a source cannot be read, nothing
    is added; when the import is interrupted (Ctrl-C), what was read so far stays, and importing again goes on from there.

    ``on_progress`` is called now and then with the replay and the number of records so far.
    Raises SourceError, LogError and DialectError.
    """
    log = open_log(into) if Path(into).exists() and Path(into).stat().st_size else None
    replay = Replay(*sources, dialect=dialect or (log.header.dialect if log else None), on_note=on_note)
    if log is not None:
        replay.importer = Importer(log.header.dialect, _fold(log))
    count = 0
    try:
        for observation, records in replay.steps():
            if log is None:
                log = open_log(into, replay.dialect or NEWEST_DIALECT)
            if observation is None:
                count += _copy(log, records)
            elif records:
                log.append(observation.alloc, records[0].version - 1, records, sync=False)
                count += len(records)
            if count % _RECORDS_PER_SYNC < len(records):
                on_progress(replay, count)
    except TaskfoldError:
        if log is not None:
            log.roll_back()
        raise
    except BaseException:
        if log is not None:
            log.close()
        raise
    if log is None:
        log = open_log(into, replay.dialect or NEWEST_DIALECT)
    log.close()
    importer = replay.importer
    return Ingested(
        log=str(into),
        dialect=log.header.dialect,
        observations=importer.observations if importer else 0,
        records=count,
        repeats=importer.repeats if importer else 0,
        log_bytes=Path(into).stat().st_size,
    )


def _fold(log: NdjsonLog) -> Fold:
    """Return the state that a log holds."""
    fold = Fold(log.header.dialect, on_illegal="keep")
    for record in log.read_all():
        fold.apply(record)
    return fold


def _copy(log: NdjsonLog, records: list[Record]) -> int:
    """Append the records of another log; those that are here already are passed over."""
    return sum(len(log.append(record.alloc, record.version - 1, [record], sync=False)) for record in records)
