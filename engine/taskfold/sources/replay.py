"""Replay: the state of every allocation at any index or time, from any source."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from msgspec import UNSET, Struct

from taskfold.fold.allocation import Fold
from taskfold.fold.status import is_terminal
from taskfold.log.compression import unpacked
from taskfold.log.lines import open_packed, readable
from taskfold.log.log_source import OpenLog
from taskfold.log.names import shown_name
from taskfold.log.ownership import Owned
from taskfold.log.registry import LogLike, server_kind, stored_log
from taskfold.log.store_kind import LogSource
from taskfold.model.clock import SystemClock
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import DecodeError, DialectError, Gone, SourceError
from taskfold.model.go.timestamps import time_text
from taskfold.model.instants import INSTANTS, is_pasted_ns, parse_instant_ns
from taskfold.model.record import Compacted, LogHeader, Record
from taskfold.nomad.fields import DEFAULT_NAMESPACE
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.observation import Observation, Statement
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.archives import SourceFile, members_of, parts_of_folder
from taskfold.sources.capture import Capture, CapturedSource, captures_among
from taskfold.sources.detect import detect, unknown_names
from taskfold.sources.source import Deregistered, Source, StoredSource

__all__ = ["At", "Replay", "parse_at", "replay"]


class At(Struct, frozen=True, kw_only=True):
    """The point up to which to fold: an index (Nomad's ModifyIndex), a time, a position, or, with none, the end.

    All records of an index are folded. Up to a time, each allocation is folded up to its first later record.
    """

    index: int | None = None
    time_ns: int | None = None
    seq: int | None = None
    """The position of a record, in the log or in the log that an import would make; it may split a write."""

    def __str__(self) -> str:
        """Return the point in words."""
        if self.seq is not None:
            return f"position {self.seq}"
        if self.time_ns is not None:
            return time_text(self.time_ns)
        return "the end" if self.index is None else f"index {self.index}"


def parse_at(text: str, now_ns: int | None = None) -> At:
    """Parse a point: a number is an index, ``@7`` a position, an instant a time.

    For the forms of an instant see `model.instants`; ``now_ns`` (unix nanoseconds; default: the system's clock) is the
    reference of ``24h`` and ``yesterday``. Raises ValueError for other texts.

    >>> parse_at("1042").index, parse_at("2026-11-23T08:34:10Z").time_ns, parse_at("1795422850000000000").time_ns
    (1042, 1795422850000000000, 1795422850000000000)
    """
    number = text.removeprefix("@")
    if number.isascii() and number.isdigit() and len(number) <= _DIGITS and not is_pasted_ns(text):
        return At(seq=int(number)) if text[0] == "@" else At(index=int(number))
    try:
        return At(time_ns=parse_instant_ns(text, SystemClock().time_ns() if now_ns is None else now_ns))
    except ValueError:
        msg = f"{text!r} is neither an index such as 1042 nor a time such as {INSTANTS}, nor a position (@7)"
        raise ValueError(msg) from None


_MOST_NAMES: Final = 5
_NOTED_FAULTS: Final = 10
"""The most unreadable documents that are noted one by one; later ones are only counted."""
_DIGITS: Final = 19
"""The most digits of an index, which is a 64-bit number."""


def _ignore(_: str) -> None:
    """Ignore a note."""


class Replay(Owned):
    """A source that is being read, as records; iterate over it once, or fold it."""

    instead = "read the source again where it is needed; its records, snapshots and fold can be copied"

    def __init__(
        self,
        *sources: LogLike,
        dialect: str | None = None,
        at: At | int | str | None = None,
        on_note: Callable[[str], None] = _ignore,
        skip_bad: bool = False,
    ) -> None:
        """Take sources: files, folders, archives, ``-`` for standard input, or one open log.

        ``on_note`` is called with a sentence for each kind of skipped input, and for names of a newer Nomad.
        ``skip_bad`` skips unreadable documents: each is noted and counted, and reading continues after it.
        """
        self._log = _open_log_of(sources)
        """The open log, if one was given instead of names."""
        self.sources = [self._log.name] if self._log is not None else list(map(str, sources))
        # The caller may change the working directory meanwhile.
        self._paths = [] if self._log is not None else [_path_of(name) for name in self.sources]
        self._folders = {path: parts_of_folder(name) for name, path in self._places() if _is_folder(path)}
        self.at = At() if at is None else at if isinstance(at, At) else parse_at(str(at))
        self.dialect = dialect
        """The dialect: as given, or, once reading has begun, as detected."""
        self.importer: Importer | None = None
        """The importer, once observations are being read."""
        self._on_note = on_note
        self.header: LogHeader | None = None
        """The header, once a taskfold log is being read."""
        self.bad_documents = 0
        """The number of unreadable documents that were skipped."""
        self._skips_bad = skip_bad
        self._noted_names: set[str] = set()
        self._gone: list[Deregistered] = []
        self._silent: list[str] = []
        """The sources without a statement."""
        self._stream: BinaryIO | None = None
        """The file that is being read, without unpacking."""
        self._done_bytes = 0
        self._bytes_read = 0
        self._seq = 0
        """The position of the newest record read from a log."""
        self._newest: int | None = None
        """The position of the log's newest record, if the log knows it without being read."""

    def __repr__(self) -> str:
        """Return its sources, dialect and end point."""
        at = "" if self.at == At() else f", up to {self.at}"
        return (
            f"<Replay of {', '.join(map(shown_name, self.sources))}, dialect {self.dialect or 'not detected yet'}{at}>"
        )

    def __iter__(self) -> Iterator[Record]:
        """Yield the records up to the end point, in the order of the source.

        Raises SourceError, naming file and line, for unreadable input, DialectError for mixed dialects, and Gone for an
        end point before the compacted records' end.
        """
        late: set[str] = set()
        for place, record in enumerate(self._records()):
            if not place and self.header is not None and self.header.compacted is not UNSET:
                self._check_at(self.header.compacted)
            if self.at.seq is not None and record.seq > self.at.seq:
                return
            if self.at.index is not None and record.index > self.at.index:
                continue
            if self.at.time_ns is not None:
                if record.time_ns > self.at.time_ns:
                    late.add(record.alloc)
                if record.alloc in late:
                    continue
            yield record

    def _check_at(self, compacted: Compacted) -> None:
        """Check that a log has all records that make the state at the end point. Raises Gone."""
        points = (self.at.seq, self.at.index, self.at.time_ns)
        removed = (compacted.seq, compacted.index, compacted.time_ns)
        if any(point is not None and point < limit for point, limit in zip(points, removed, strict=True)):
            raise Gone(
                f"{shown_name(self.sources[0])}: records were removed when the log was compacted: there is no state "
                f"before position {compacted.seq}, index {compacted.index} and time {time_text(compacted.time_ns)}",
                oldest=compacted.seq,
            )

    def fold(self) -> Fold:
        """Return the state at the end point. O(records); memory for the live state only. Raises as iterating does."""
        fold: Fold | None = None
        blocks = (records for _, records in self.steps()) if self.at == At() else ([record] for record in self)
        for records in blocks:
            # The importer has folded its records already; another fold is needed only for an earlier point.
            if self.importer is not None and self.at == At():
                continue
            fold = fold or Fold(self.dialect or NEWEST_DIALECT, on_illegal="keep")
            fold.apply_all(records)
        if self.importer is not None and self.at == At():
            return self.importer.fold
        return fold or Fold(self.dialect or NEWEST_DIALECT, on_illegal="keep")

    def matching(self, prefix: str) -> dict[str, list[Record]]:
        """Return the records of each allocation whose ID has this prefix, by ID.

        A database uses its index; if several match, and none equals the prefix, it returns the IDs without records.
        Other sources: O(records), and memory for the matches. Raises as iterating does.
        """
        matches: dict[str, list[Record]] = {}
        if self.at == At() and len(self.sources) == 1 and _is_utf8(prefix):
            log = self._log or stored_log(self._paths[0], self.sources[0])
            if log is not None:
                self.header, matches = log.matching(prefix)
                self._check_dialect(self.header, log.name)
                return matches
        for record in self:
            if record.alloc.startswith(prefix):
                matches.setdefault(record.alloc, []).append(record)
        return matches

    def snapshots(self) -> Iterator[Snapshot]:
        """Yield each allocation's snapshot at the end point, sorted by ID. Raises as iterating does."""
        fold = self.fold()
        for alloc in sorted(fold):
            yield Snapshot.of(fold[alloc], fold.dialect)

    def observations(self) -> Iterator[Observation]:
        """Yield the sources' observations of allocations; the dialect is detected before the first.

        Raises SourceError when a source is a taskfold log, which holds records instead.
        """
        return (statement for statement in self.statements() if isinstance(statement, Observation))

    def statements(self) -> Iterator[Statement]:
        """Yield the sources' observations of allocations, and facts on their jobs, in order.

        Raises as `observations` does.
        """
        return self._statements(self._open())

    def _statements(self, sources: Iterator[_Source]) -> Iterator[Statement]:
        statements = self._of_each(sources)
        if self.dialect is None:
            self.dialect, statements = detect(statements)
        for statement in statements:
            if isinstance(statement, Observation):
                self._note_unknown(statement)
            yield statement

    def _of_each(self, sources: Iterator[_Source]) -> Iterator[Statement]:
        """Yield the statements of each source; note the sources without any, if others have some."""
        count, self._silent = 0, []
        for source in sources:
            count += 1
            if source.is_log:
                raise SourceError(source.name, "is a taskfold log: it holds records, not what a Nomad said")
            yield from source.statements()
            self._bytes_read += source.bytes_read
            if source.is_silent:
                self._silent.append(source.name)
            if source.is_empty and len(self.sources) == 1 == count and not self._folders:
                raise SourceError(source.name, "is empty")
        if self._silent and len(self._silent) < count:
            names = ", ".join(self._silent[:_MOST_NAMES]) + (" …" if len(self._silent) > _MOST_NAMES else "")
            self._on_note(f"of {count} sources, these have no allocation: {names}")
        if self.bad_documents:
            self._on_note(f"unreadable documents skipped: {self.bad_documents}")

    def _places(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the path of each source."""
        return zip(self.sources, self._paths, strict=True) if self._log is None else iter(())

    def _open(self) -> Generator[_Source, None, None]:
        """Open one source after the other, and close each before the next."""
        self._done_bytes = self._bytes_read = 0
        if self._log is not None:
            yield StoredSource(self._log)
            return
        for name, path in self._places():
            if path in self._folders:
                yield from self._of_parts(self._folders[path])
                continue
            if (log := stored_log(path, name)) is not None:
                self._stream = None
                yield StoredSource(log)
                continue
            with open_packed(path, name) as packed, readable(name), unpacked(packed, name) as opened:
                self._stream = packed
                with members_of(opened, name, self._on_note) as (stream, members):
                    if members is None:
                        yield self._source(stream, name)
                    else:
                        yield from self._of_parts(members)
            self._done_bytes += _size(path)

    def _of_parts(self, parts: list[SourceFile]) -> Iterator[_Source]:
        """Open one part of a folder, or of an archive, after the other."""
        for part in captures_among(parts):
            if isinstance(part, Capture):
                yield CapturedSource(part, self._source, self._on_note)
            else:
                with part.open() as stream:
                    yield self._source(stream, part.name)

    def _source(self, stream: BinaryIO, name: str) -> Source:
        return Source(stream, name, self._on_note, self._gone.append, self._note_fault if self._skips_bad else None)

    def _note_fault(self, error: SourceError) -> None:
        """Count an unreadable document, and note the first few."""
        self.bad_documents += 1
        if self.bad_documents <= _NOTED_FAULTS:
            last = "; later ones will only be counted" if self.bad_documents == _NOTED_FAULTS else ""
            self._on_note(f"skipped: {error}{last}")

    @property
    def bytes_read(self) -> int:
        """The uncompressed size of the sources that were read to their end; 0 for a log."""
        return self._bytes_read

    def progress(self) -> float | None:
        """Return the fraction of the sources read so far, from 0 to 1; None if the total is unknown."""
        if self._newest:
            return min(self._seq / self._newest, 1.0)
        total = sum(map(_size, self._paths))
        if not total or self._folders or "-" in self.sources or self._stream is None or self._stream.closed:
            return None
        return min((self._done_bytes + self._stream.tell()) / total, 1.0)

    def steps(self) -> Iterator[tuple[Statement | None, list[Record]]]:
        """Yield each statement with the records that explain it; for a log, None with each block of records.

        The records of one step belong to one allocation. A statement about no allocation has no step. The end point is
        ignored: these are all steps of the sources.
        """
        with closing(self._open()) as sources:  # so that it closes even if an error's traceback keeps the reader alive
            first = next(sources)
            if first.is_log:
                for block in self._of_log(first):
                    yield None, block
                if next(sources, None) is not None:
                    raise self._not_alone(first)
                return
            yield from self._imported(chain([first], sources))

    def _imported(self, sources: Iterator[_Source]) -> Iterator[tuple[Statement, list[Record]]]:
        """Yield each statement with the records that explain it, grouped by allocation."""
        for statement in self._statements(sources):
            if self.importer is None:
                self.importer = Importer(self.dialect or NEWEST_DIALECT)
            try:
                records = self.importer.observe(statement)
            except DecodeError as error:
                fault = SourceError(statement.name, str(error), line=statement.line)
                if not self._skips_bad:
                    raise fault from None
                self._note_fault(fault)
                continue
            if isinstance(statement, Observation):
                yield statement, records
            elif records:
                yield from ((statement, list(group)) for _, group in groupby(records, attrgetter("alloc")))
        if self.importer is None or not self.importer.observations:
            self._on_note("the source has no allocation")
        else:
            self._note_gone(self.importer.fold)

    def _note_gone(self, fold: Fold) -> None:
        """Note allocations whose job was deregistered, and that neither ended nor were asked to, as far as was seen."""
        newest = {(gone.namespace, gone.job): gone.at_index for gone in self._gone}
        lives: dict[tuple[str, str], list[str]] = {}
        for alloc in fold.allocations if newest else ():
            snapshot = Snapshot.of(fold[alloc], fold.dialect)
            key = snapshot.namespace or DEFAULT_NAMESPACE, snapshot.job_id or ""
            has_ended = is_terminal(snapshot.desired_status or "", snapshot.client_status or "")
            # An allocation placed later belongs to the job as it was registered again.
            if key in newest and not has_ended and (snapshot.create_index or 0) <= newest[key]:
                lives.setdefault(key, []).append(alloc)
        for key, allocs in lives.items():
            names = ", ".join(sorted(allocs)[:_MOST_NAMES]) + (" …" if len(allocs) > _MOST_NAMES else "")
            self._on_note(f"job {key[1]!r} was deregistered at index {newest[key]}; no end was seen of {names}")

    def _records(self) -> Iterator[Record]:
        """Yield all records of the sources."""
        return (record for _, records in self.steps() for record in records)

    def _of_log(self, source: _Source) -> Iterator[list[Record]]:
        if len(self.sources) > 1:
            raise self._not_alone(source)
        header, records = source.log()
        self.header = header
        self._check_dialect(header, source.name)
        self._newest = source.newest()
        return self._passed(records)

    def _not_alone(self, log: _Source) -> SourceError:
        return SourceError(log.name, "is a taskfold log: it cannot be read together with other sources")

    def _check_dialect(self, header: LogHeader, name: str) -> None:
        """Use the dialect of a log. Raises DialectError if another one was given."""
        if self.dialect not in {None, header.dialect}:
            raise DialectError(f"{name} is of dialect {header.dialect}, not {self.dialect}")
        self.dialect = header.dialect

    def _passed(self, records: Iterator[list[Record]]) -> Iterator[list[Record]]:
        """Yield blocks of records, and remember the newest position."""
        for block in records:
            if block:
                self._seq = block[-1].seq
            yield block

    def _note_unknown(self, observation: Observation) -> None:
        """Note each unknown name once."""
        for name in unknown_names(observation):
            if name not in self._noted_names:
                self._noted_names.add(name)
                self._on_note(f"{name} is unknown: a Nomad newer than {NEWEST_DIALECT} is read with its table")


_Source: TypeAlias = Source | StoredSource | CapturedSource


def _open_log_of(sources: Sequence[LogLike]) -> LogSource | None:
    """Return the open log among the sources; None if all are names. Raises SourceError for several sources."""
    logs = [OpenLog(source) for source in sources if not isinstance(source, (str, os.PathLike))]
    if logs and len(sources) > 1:
        raise SourceError(logs[0].name, "is a taskfold log: it cannot be read together with other sources")
    return logs[0] if logs else None


def _path_of(name: str) -> str:
    """Return the absolute path of a source; other names are unchanged."""
    return name if name == "-" or server_kind(name) is not None else str(Path(name).absolute())


def _is_folder(path: str) -> bool:
    return path != "-" and server_kind(path) is None and Path(path).is_dir()


def _is_utf8(text: str) -> bool:
    """Tell whether an ID can have this prefix: it must be valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def replay(
    *sources: LogLike,
    at: At | int | str | None = None,
    dialect: str | None = None,
    on_note: Callable[[str], None] = _ignore,
    skip_bad: bool = False,
) -> Replay:
    """Return a replay of sources, or of an open log: iterate over its records, fold it, or get its snapshots.

    Errors are raised when it is read: SourceError, DialectError and Gone, as `Replay.__iter__` says.
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> log = folder.name + "/log.jsonl"
    >>> from taskfold.log import NdjsonLog
    >>> NdjsonLog(log, "0.5.6").close()
    >>> list(replay(log).snapshots())
    []
    >>> folder.cleanup()
    """
    return Replay(*sources, dialect=dialect, at=at, on_note=on_note, skip_bad=skip_bad)
