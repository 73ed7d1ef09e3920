"""Import what a Nomad said into a log: whole or not at all, and as often as one likes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from taskfold.fold.allocation import Fold
from taskfold.log.contract import StoredLog, check_dialect, kept_records
from taskfold.log.opening import is_new_log, is_postgres, open_log, shown_name
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.record import Record
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.memory import Memory
from taskfold.nomad.importing.observation import Statement
from taskfold.sources.detect import told_by
from taskfold.sources.migrate import dialect_of_log, migrate
from taskfold.sources.replay import Replay

__all__ = ["Ingested", "ingest"]

_RECORDS_PER_STEP: Final = 10_000


class Ingested(Struct, frozen=True, kw_only=True):
    """What an import did."""

    log: str
    dialect: str
    observations: int
    records: int
    """Records that were appended."""
    repeats: int
    """Observations that told nothing new."""
    log_bytes: int | None
    """The size of the log's file afterwards; None for a database of a server."""


def ingest(
    *sources: str | Path,
    into: str | Path,
    dialect: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Replay, int], None] = lambda _replay, _records: None,
) -> Ingested:
    """Import sources into a log, and return what was done. Memory for the live state only.

    A log of another dialect than the one that is named is migrated to that, into a new log: see `sources.migrate`.
    A log that exists is gone on with: what it holds already is not added again. When a source cannot be read, or the
    import is interrupted (Ctrl-C, or a kill), nothing is added, and a log that was begun here is removed, or empty.

    ``on_progress`` is called now and then with the replay and the number of records so far.
    Raises SourceError, LogError and DialectError.
    """
    if dialect is not None and len(sources) == 1 and dialect_of_log(sources[0]) not in {None, dialect}:
        count = migrate(sources[0], into, dialect, on_note)
        size = Path(into).stat().st_size if Path(into).is_file() else None
        return Ingested(log=str(into), dialect=dialect, observations=0, records=count, repeats=0, log_bytes=size)
    replay = Replay(*sources, dialect=dialect, on_note=on_note)
    named, into = str(into), into if is_postgres(str(into)) else Path(into).absolute()
    target = _Target(into, replay)
    told = 0
    try:
        for statement, records in replay.steps():
            target.append(statement, records)
            if target.count - told >= _RECORDS_PER_STEP:
                told = target.count
                on_progress(replay, told)
    except BaseException as error:
        target.roll_back()
        if not isinstance(error, Exception):
            on_note(f"{shown_name(str(into))}: the import was interrupted: nothing of it was added")
        raise
    target.begin()
    target.close()
    importer = replay.importer
    if importer is not None and importer.conflicts_total:
        on_note(
            f"{_contradiction(importer)} (contradictions: {importer.conflicts_total}; taskfold verify names the fields)"
        )
    return Ingested(
        log=named,
        dialect=target.begin().header.dialect,
        observations=importer.observations if importer else 0,
        records=target.count,
        repeats=importer.repeats if importer else 0,
        log_bytes=None if is_postgres(str(into)) else Path(into).stat().st_size,
    )


def _contradiction(importer: Importer) -> str:
    """Return what contradicts what, of the first that is kept."""
    if importer.conflicts:
        first = importer.conflicts[0]
        where = f"{first.name}, line {first.line}: index {first.index} of {first.alloc}"
        return f"{where} was told otherwise before, which stays"
    job = importer.job_conflicts[0]
    return (
        f"{job.name}, line {job.line}: the Job of {job.alloc} is not version {job.write.version} of index "
        f"{job.write.registered_index}, as the stream tells of its job: what was told of the allocation stays"
    )


class _Target:
    """The log that is imported into: gone on with, or begun when the first observation tells the dialect."""

    def __init__(self, path: str | Path, replay: Replay) -> None:
        self.path = path
        self.replay = replay
        self.count = 0
        self._log: StoredLog | None = None
        self._is_named = replay.dialect is not None
        """The dialect was named by the caller, or an observation has told it: it is not asked for again."""
        if not is_new_log(path):
            self._log = open_log(path, replay.dialect)
            try:
                replay.dialect = self._log.header.dialect
                replay.importer = _importer(self._log)
            except BaseException:
                self._log.close()
                raise

    def begin(self) -> StoredLog:
        """Return the log; it is begun when it is needed first."""
        if self._log is None:
            self._log = open_log(self.path, self.replay.dialect or NEWEST_DIALECT)
        return self._log

    def append(self, statement: Statement | None, records: list[Record]) -> None:
        """Append the records of one statement, or, without one, a block of records of another log."""
        log = self.begin()
        if statement is None:
            new = [log.append(record.alloc, record.version - 1, [record], sync=False) for record in records]
            self.count += sum(map(len, new))
            return
        told = None if self._is_named else told_by(statement)
        if told is not None:
            check_dialect(log.header, told)
            self._is_named = True
        if records:
            log.append(records[0].alloc, records[0].version - 1, records, sync=False)
            self.count += len(records)

    def roll_back(self) -> None:
        """Leave the log as it was, or none where there was none."""
        if self._log is not None:
            self._log.roll_back()

    def close(self) -> None:
        """Acknowledge what was appended."""
        if self._log is not None:
            self._log.close()


def _importer(log: StoredLog) -> Importer:
    """Return an importer that goes on from what a log holds."""
    fold, memory = Fold(log.header.dialect, on_illegal="keep"), Memory()
    for record in kept_records(log):
        fold.apply(record)
        memory.resume(record)
    return Importer(log.header.dialect, fold, memory=memory)
