"""Import: observations of a Nomad become records of a log, all or none; repeating an import adds nothing."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final, Generic, TypeVar

from msgspec import Struct

from taskfold.fold.allocation import Fold
from taskfold.log.contract import Append, EventLog, SealingLog, StoredLog, check_dialect, kept_records
from taskfold.log.log_source import OpenLog
from taskfold.log.names import shown_name
from taskfold.log.registry import LogLike, is_new_log, kind_named, open_log, server_kind
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.record import Record
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.memory import Memory
from taskfold.nomad.importing.observation import Statement
from taskfold.sources.detect import dialect_of_statement
from taskfold.sources.migrate import dialect_of_log, migrate
from taskfold.sources.replay import Replay

__all__ = ["Ingestion", "ingest"]

_RECORDS_PER_STEP: Final = 10_000
_RECORDS_TOGETHER: Final = 1_000
"""How many records go into a named log with one call."""
_WRITE_OF: Final = attrgetter("alloc", "index")
"""The allocation and the index of a record: the consecutive records of one write share them."""

L = TypeVar("L", bound=EventLog)


class Ingestion(Struct, frozen=True, kw_only=True):
    """The result of an import."""

    log: str
    dialect: str
    observations: int
    records: int
    """The number of appended records."""
    repeats: int
    """The number of observations without anything new."""
    log_bytes: int | None
    """The size of the log's file afterwards; None for a database server."""
    source_bytes: int = 0
    """The uncompressed size of the sources; 0 for a log."""
    bad_documents: int = 0
    """The number of unreadable documents that were skipped."""


def ingest(
    *sources: LogLike,
    into: LogLike,
    dialect: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Replay, int], None] = lambda _replay, _records: None,
    skip_bad: bool = False,
) -> Ingestion:
    """Import sources into a log, by name or open; return the result. Memory for the live state only.

    A log as the only source, with another ``dialect``, is migrated to it, into a new log (`sources.migrate`). An
    existing target is continued: records that it has are not added again. If a source cannot be read, or the import is
    interrupted (Ctrl-C, or a kill), nothing is added, and a target created by this call is deleted or empty. An open
    target gets all records at the end, by one append, and stays open: memory for the records.

    ``skip_bad`` skips unreadable documents, with a note. ``on_progress`` is called at intervals with the replay and the
    number of records so far. Raises SourceError, LogError and DialectError.
    """
    if isinstance(into, (str, os.PathLike)) and dialect is not None and _is_of_another(sources, dialect):
        count, size = migrate(sources[0], into, dialect, on_note), _size_of(into)
        return Ingestion(log=str(into), dialect=dialect, observations=0, records=count, repeats=0, log_bytes=size)
    replay = Replay(*sources, dialect=dialect, on_note=on_note, skip_bad=skip_bad)
    target = _target_of(into, replay)
    newest_report = 0
    try:
        for statement, records in replay.steps():
            target.append(statement, records)
            if target.count - newest_report >= _RECORDS_PER_STEP:
                newest_report = target.count
                on_progress(replay, newest_report)
    except BaseException as error:
        target.roll_back()
        if not isinstance(error, Exception):
            on_note(f"{target.name}: the import was interrupted: nothing was added")
        raise
    header = target.begin().header
    target.close()
    importer = replay.importer
    if importer is not None and importer.conflicts_total:
        on_note(
            f"{_contradiction(importer)} (contradictions: {importer.conflicts_total}; taskfold verify names the fields)"
        )
    return Ingestion(
        log=str(into) if isinstance(into, (str, os.PathLike)) else target.name,
        dialect=header.dialect,
        observations=importer.observations if importer else 0,
        records=target.count,
        repeats=importer.repeats if importer else 0,
        log_bytes=target.size(),
        source_bytes=replay.bytes_read,
        bad_documents=replay.bad_documents,
    )


def _is_of_another(sources: Sequence[LogLike], dialect: str) -> bool:
    """Tell whether the source is a log of another dialect."""
    return len(sources) == 1 and dialect_of_log(sources[0]) not in {None, dialect}


def _size_of(log: str | Path) -> int | None:
    """Return the size of a log's file; None for a database server."""
    kind = kind_named(log)
    return None if kind is None else kind.size(str(log))


def _contradiction(importer: Importer) -> str:
    """Describe the first contradiction that was kept."""
    if importer.conflicts:
        first = importer.conflicts[0]
        where = f"{first.name}, line {first.line}: index {first.index} of {first.alloc}"
        return f"{where} contradicts an earlier observation, which stays"
    job = importer.job_conflicts[0]
    return (
        f"{job.name}, line {job.line}: the Job of {job.alloc} is not version {job.write.version} of index "
        f"{job.write.registered_index}, though the stream says so of its job: the allocation's own Job stays"
    )


class _Target(ABC, Generic[L]):
    """The target log of an import."""

    def __init__(self, name: str, replay: Replay, log: L | None) -> None:
        self.name = name
        self.replay = replay
        self.count = 0
        """The number of new records."""
        self.log = log
        self._is_of_known_dialect = replay.dialect is not None
        """The caller named the dialect, or an observation showed it; further observations are not examined for it."""
        if log is not None:
            replay.dialect = log.header.dialect
            replay.importer = _importer(log)

    @abstractmethod
    def begin(self) -> L:
        """Return the log, creating it if necessary."""

    @abstractmethod
    def add(self, append: Append) -> None:
        """Add records."""

    @abstractmethod
    def roll_back(self) -> None:
        """Restore the log as it was, or delete it if it is new."""

    @abstractmethod
    def close(self) -> None:
        """Acknowledge the added records."""

    @abstractmethod
    def size(self) -> int | None:
        """Return the size of the log's file; None if it has none."""

    def append(self, statement: Statement | None, records: list[Record]) -> None:
        """Append the records of one statement, or, without one, a block of another log's records."""
        log = self.begin()
        if statement is None:
            for (alloc, _), some in groupby(records, _WRITE_OF):
                write = list(some)
                self.add(Append(alloc, write[0].version - 1, write))
            return
        dialect = None if self._is_of_known_dialect else dialect_of_statement(statement)
        if dialect is not None:
            check_dialect(log.header, dialect)
            self._is_of_known_dialect = True
        if records:
            self.add(Append(records[0].alloc, records[0].version - 1, records))


class _NamedTarget(_Target[StoredLog]):
    """A named target, opened for the import, or created when the first observation shows its dialect."""

    def __init__(self, path: str | Path, replay: Replay) -> None:
        self.path = path
        self._appends: list[Append] = []
        """Appends that are to go into the log together."""
        self._size = 0
        """The number of their records."""
        log = None if is_new_log(path) else open_log(path, replay.dialect)
        try:
            super().__init__(shown_name(str(path)), replay, log)
        except BaseException:
            if log is not None:
                log.close()
            raise

    def begin(self) -> StoredLog:
        if self.log is None:
            self.log = open_log(self.path, self.replay.dialect or NEWEST_DIALECT)
        return self.log

    def add(self, append: Append) -> None:
        self._appends.append(append)
        self._size += len(append.records)
        if self._size >= _RECORDS_TOGETHER or isinstance(self.begin(), SealingLog):
            self._flush()

    def _flush(self) -> None:
        """Give the log the appends so far: one call for many is several times as fast."""
        if self._appends:
            log = self.begin()
            appends = self._appends
            self._appends, self._size = [], 0
            self.count += len(log.append_all(appends, sync=False))

    def roll_back(self) -> None:
        self._appends.clear()
        if self.log is not None:
            self.log.roll_back()

    def close(self) -> None:
        self._flush()
        if self.log is not None:
            self.log.close()

    def size(self) -> int | None:
        return _size_of(self.path)


class _OpenTarget(_Target[EventLog]):
    """An open target: imported records are appended at the end, in one append."""

    def __init__(self, log: EventLog, replay: Replay) -> None:
        if replay.dialect is not None:
            check_dialect(log.header, replay.dialect)
        super().__init__(OpenLog(log).name, replay, log)
        self._log = log
        self._appends: list[Append] = []

    def begin(self) -> EventLog:
        return self._log

    def add(self, append: Append) -> None:
        self._appends.append(append)
        self.count += len(append.records)

    def roll_back(self) -> None:
        self._appends.clear()

    def close(self) -> None:
        self.count = len(self._log.append_all(self._appends))

    def size(self) -> int | None:
        return None


def _target_of(into: LogLike, replay: Replay) -> _NamedTarget | _OpenTarget:
    """Return the target of an import. Raises LogError and DialectError."""
    if not isinstance(into, (str, os.PathLike)):
        return _OpenTarget(into, replay)
    return _NamedTarget(into if server_kind(into) is not None else Path(into).absolute(), replay)


def _importer(log: EventLog) -> Importer:
    """Return an importer that continues from the records of a log."""
    fold, memory = Fold(log.header.dialect, on_illegal="keep"), Memory()
    for record in kept_records(log):
        fold.apply(record)
        memory.resume(record)
    return Importer(log.header.dialect, fold, memory=memory)
