"""Source files, recognised by their content: a Nomad event stream, answers of its API, or a taskfold log.

* frames of ``/v1/event/stream``, one a line; heartbeats (``{}``) are skipped, and of topics other than allocations
  only facts on their jobs are used (`taskfold.nomad.importing.facts`);
* one allocation body, or one list of bodies or stubs, a line;
* one JSON document over several lines: a body or a list, as ``jq`` and ``nomad operator api`` write it;
* a taskfold log, as NDJSON or in SQLite.
Any of them may be gzip. The last line of a stream may be incomplete, as the recording was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from taskfold.log.header import is_header
from taskfold.log.lines import MAX_LINE_BYTES, lines, readable
from taskfold.log.ndjson.records import read_records, tail_note
from taskfold.log.registry import kind_of_bytes
from taskfold.log.store_kind import LogSource
from taskfold.model.errors import DecodeError, SourceError
from taskfold.model.record import LogHeader, Record
from taskfold.nomad.fields import DEFAULT_NAMESPACE, compact, fields_from_json
from taskfold.nomad.importing.facts import EvaluationWrite, Payload, facts_of_payload
from taskfold.nomad.importing.observation import INDEX_DIGITS, Statement, observation_from_fields, other_object

__all__ = ["MAX_DOCUMENT_BYTES", "Deregistered", "Source", "StoredSource", "files_of", "statements_of_line"]

MAX_DOCUMENT_BYTES: Final = 256 << 20
"""The largest document over several lines: it is held in memory."""

_PEEK_BYTES: Final = 64
_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")


_NO_INDEX: Final = Raw(b"0")


class Deregistered(NamedTuple):
    """A job that was stopped, or purged."""

    namespace: str
    job: str
    at_index: int


class _StreamEvent(Struct):
    Topic: str = ""
    # Values of any type, as they are unused for most topics.
    Type: Any = ""
    Namespace: Any = ""
    Key: Any = ""
    Index: Raw = _NO_INDEX
    Payload: Payload | None = None


class _Line(Struct):
    """The fields that distinguish a stream frame from an allocation."""

    Events: list[_StreamEvent] | None = None
    Index: Raw = _NO_INDEX
    ID: Raw = Raw(b"")
    Alloc: Raw = Raw(b"")
    """A field of records: its presence means that the header before it was lost."""


_decode_line: Final[Callable[[bytes], _Line]] = msgspec.json.Decoder(_Line).decode
_decode_list: Final[Callable[[bytes], list[Raw]]] = msgspec.json.Decoder(list[Raw]).decode
_decode_raw: Final = msgspec.json.Decoder(Raw).decode
_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class StoredSource:
    """A log that is not read as lines: a named one in a store, or an open one."""

    is_log = True

    def __init__(self, log: LogSource) -> None:
        self.name = log.name
        self._log = log

    def log(self) -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of the log, and its records in blocks. Raises SourceError."""
        return self._log.read()

    def newest(self) -> int | None:
        """Return the position of the newest record; None if the store cannot tell. Raises SourceError."""
        return self._log.newest()

    def statements(self) -> Iterator[Statement]:
        """Raise SourceError: a log has no statements."""
        raise SourceError(self.name, "is a taskfold log: it holds records, not what a Nomad said")


def files_of(path: str) -> list[str]:
    """Return the files of a source: itself, or the JSON files of a folder, sorted by name.

    Raises SourceError for a folder without any.
    """
    folder = Path(path)
    if path == "-" or not folder.is_dir():
        return [path]
    files = sorted(str(f) for f in folder.rglob("*") if f.is_file() and f.name.removesuffix(".gz").endswith(_SUFFIXES))
    if not files:
        raise SourceError(path, f"the folder has no file with the ending {', '.join(_SUFFIXES)} (or these with .gz)")
    return files


class Source:
    """A file, or standard input (``-``), that is being read."""

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        on_note: Callable[[str], None],
        on_gone: Callable[[Deregistered], None] = lambda _: None,
    ) -> None:
        """Read the beginning. Raises SourceError if no kind of source begins like that.

        ``on_gone`` is called with each job that is deregistered.
        """
        self.name = name
        self._stream = stream
        self._on_note = on_note
        self._others: set[str] = set()
        """The kinds of objects that were skipped and noted."""
        self._on_gone = on_gone
        with readable(name):
            start: bytes = stream.peek(_PEEK_BYTES)[:_PEEK_BYTES].lstrip()  # type: ignore[attr-defined]
        if (kind := kind_of_bytes(start)) is not None:
            raise SourceError(name, f"is {kind.noun} that is packed or piped: it can be read from its own file")
        self.is_log = is_header(start)
        """Whether it is a taskfold log, with records; otherwise it has observations."""

    def log(self) -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of a log, and its records in blocks. Raises SourceError for an invalid record."""
        return read_records(self._stream, self.name, lambda tail: self._on_note(tail_note(self.name, tail)))

    def newest(self) -> int | None:
        """Return None: the newest record is known only at the end."""
        return None

    def statements(self) -> Iterator[Statement]:
        """Yield observations of allocations, and facts on their jobs, in order.

        Raises SourceError, naming the line, for unreadable input.
        """
        following = lines(self._stream, self.name)
        number, line = next(following, (0, b""))
        if not line:
            raise SourceError(self.name, "is empty")
        if line.lstrip()[:1] not in {b"{", b"["}:
            raise SourceError(self.name, _not_json(line), line=number)
        if not _is_json(line):
            yield from self._document(number, line, following)
            return
        yield from self._of_line(line, number)
        waiting: tuple[int, bytes] | None = None
        for number, line in following:
            if waiting is not None:
                yield from self._of_line(waiting[1], waiting[0])
            waiting = number, line
        if waiting is not None:
            number, line = waiting
            if _is_json(line):
                yield from self._of_line(line, number)
            else:
                self._on_note(f"{self.name}, line {number}: the last line is cut off, and was skipped")

    def _document(self, number: int, line: bytes, following: Iterator[tuple[int, bytes]]) -> Iterator[Statement]:
        """Yield the statements of a document over several lines."""
        whole = [line]
        size = len(line)
        for _, rest in following:
            whole.append(rest)
            size += len(rest)
            if size > MAX_DOCUMENT_BYTES:
                raise SourceError(self.name, f"the document is larger than {MAX_DOCUMENT_BYTES >> 20} MiB", line=number)
        try:
            document = compact(b"\n".join(whole))
            _decode_raw(document)
        except _NOT_JSON as error:
            raise SourceError(self.name, f"is not JSON: {error}", line=number) from None
        yield from self._of_line(document, number)

    def _of_line(self, line: bytes, number: int) -> Iterator[Statement]:
        """Yield the statements of a line; other objects are skipped, and each kind is noted once."""
        return statements_of_line(line, self.name, number, partial(self._note_skipped, number), self._on_gone)

    def _note_skipped(self, number: int, other: str) -> None:
        if other not in self._others:
            self._others.add(other)
            self._on_note(f"{self.name}, line {number}: looks like {other}, not an allocation: skipped")


def statements_of_line(
    line: bytes,
    name: str,
    number: int,
    on_other: Callable[[str], object] = lambda _: None,
    on_gone: Callable[[Deregistered], None] = lambda _: None,
) -> Iterator[Statement]:
    """Yield the statements of one line: a frame, a body, or a list. O(length).

    ``on_other`` is called with the kind of an object that is no allocation, such as ``a job``, and ``on_gone`` with a
    job that was deregistered. Raises SourceError, naming the line, for a line that is none of these.
    """
    # Raw parts are not decoded here, so that nothing else would notice invalid UTF-8 in them.
    if not line.isascii() and not _is_utf8(line):
        raise SourceError(name, "is not UTF-8", line=number)
    try:
        if line.lstrip()[:1] == b"[":
            yield from _of_list(_decode_list(compact(line)), name, number, on_other)
            return
        decoded = _decode_line(compact(line))
        if decoded.Alloc:
            raise SourceError(name, "is a record of a taskfold log whose header is missing or damaged", line=number)
        if decoded.ID:
            yield from _of_object(line, name, number, on_other)
            return
        for event in decoded.Events or ():
            yield from _of_event(event, decoded.Index, name, number, on_gone)
    except DecodeError as error:
        raise SourceError(name, str(error), line=number) from None
    except _NOT_JSON as error:
        raise SourceError(name, f"{_not_json(line)} ({error})", line=number) from None


def _of_event(
    event: _StreamEvent, frame_index: Raw, name: str, number: int, on_gone: Callable[[Deregistered], None]
) -> list[Statement]:
    """Return the statements of a stream event; an event without an index has its frame's."""
    kind = event.Type if isinstance(event.Type, str) else ""
    if event.Topic == "Job" and kind == _DEREGISTERED and (index := _number(event.Index) or _number(frame_index)):
        on_gone(Deregistered(str(event.Namespace or DEFAULT_NAMESPACE), str(event.Key), index))
    if event.Payload is None:
        return []
    statements: list[Statement] = []
    if event.Topic == "Allocation" and (body := event.Payload.Allocation) is not None:
        index = _number(event.Index) or _number(frame_index)
        fields = {name: bytes(text) for name, text in body.items()}
        statements.append(observation_from_fields(fields, "stream", name, number, index=index, write_type=kind))
    for fact in facts_of_payload(event.Payload, kind, name, number):
        if isinstance(fact, EvaluationWrite) and kind == _DEREGISTERED:
            # The last event of a job that is purged at once.
            on_gone(Deregistered(fact.namespace, fact.job, fact.index))
        statements.append(fact)
    return statements


_DEREGISTERED: Final = "JobDeregistered"


def _number(text: Raw) -> int:
    """Return an index; 0 for an invalid one."""
    return int(bytes(text)) if bytes(text).isdigit() and len(text) <= INDEX_DIGITS else 0


def _of_list(items: list[Raw], name: str, number: int, on_other: Callable[[str], object]) -> Iterator[Statement]:
    for place, item in enumerate(items):
        try:
            yield from _of_object(item, name, number, on_other)
        except DecodeError as error:
            raise SourceError(name, f"entry {place} of the list: {error}", line=number) from None


def _of_object(text: bytes | Raw, name: str, number: int, on_other: Callable[[str], object]) -> Iterator[Statement]:
    """Yield the observation in an object, if it is an allocation."""
    fields = fields_from_json(text)
    other = other_object(fields)
    if other:
        on_other(other)
    else:
        yield observation_from_fields(fields, None, name, number)


def _is_json(line: bytes) -> bool:
    """Tell whether a line is complete JSON."""
    try:
        _decode_raw(line)
    except _NOT_JSON:
        return False
    return True


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_json(line: bytes) -> str:
    """Describe a line that is not JSON."""
    start = line.lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "is an HTML or XML page, not JSON; was it an answer of a proxy?"
    if not line[:4096].isascii() or b"\0" in line[:4096]:
        return "is binary data, not JSON"
    if len(line) > MAX_LINE_BYTES:
        return f"is longer than {MAX_LINE_BYTES >> 20} MiB"
    beginning = line[:40].decode(errors="replace")
    return f"is not the JSON of a stream frame, an allocation or a list of them: {beginning!r}"
