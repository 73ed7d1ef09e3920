"""The content of a source, recognised by its bytes: a Nomad event stream, answers of its API, or a taskfold log.

* frames of ``/v1/event/stream``; heartbeats (``{}``) are skipped, and other topics give facts on the jobs of
  allocations (`taskfold.nomad.importing.facts`);
* single events of the stream, or their payloads;
* bodies of allocations, stubs, and lists of them;
* the output of ``nomad operator client-state``;
* a taskfold log, as NDJSON or in SQLite.

All but a log may be mixed, in any layout of JSON (`taskfold.sources.documents`), in any Unicode encoding
(`taskfold.sources.encodings`), compressed or not (`taskfold.log.compression`). The end may be incomplete, as the
recording was stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw, Struct

from taskfold.log.header import is_header
from taskfold.log.lines import MAX_LINE_BYTES, readable
from taskfold.log.ndjson.records import read_records, tail_note
from taskfold.log.registry import kind_of_bytes
from taskfold.log.store_kind import LogSource
from taskfold.model.errors import DecodeError, SourceError
from taskfold.model.record import LogHeader, Record
from taskfold.nomad.fields import DEFAULT_NAMESPACE, compact, fields_from_json
from taskfold.nomad.importing.client_state import client_allocations
from taskfold.nomad.importing.facts import EvaluationWrite, Payload, facts_of_payload
from taskfold.nomad.importing.observation import (
    INDEX_DIGITS,
    Observation,
    ObservationKind,
    Statement,
    observation_from_fields,
    other_object,
)
from taskfold.sources.documents import NOT_JSON, Document, Documents, InvalidText
from taskfold.sources.encodings import as_utf8

__all__ = [
    "DecodedDocument",
    "Deregistered",
    "DocumentReader",
    "Source",
    "StoredSource",
    "decode_document",
    "invalid_text_error",
    "statements_of_line",
]

_PEEK_BYTES: Final = 64
_BLOCK_BYTES: Final = 1 << 16
"""The size of one read: its decoded documents still fit the cache."""
_NONE: Final = Raw(b"")


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
    Index: Raw = _NONE
    Payload: Payload | None = None


class ObjectDocument(Struct):
    """The fields that distinguish the kinds of objects."""

    Events: list[_StreamEvent] | None = None
    """A field of stream frames."""
    Index: Raw = _NONE
    ID: Raw = _NONE
    """A field of allocations."""
    Topic: Raw = _NONE
    """A field of stream events."""
    Allocation: Raw = _NONE
    """A field of payloads."""
    Allocations: Raw = _NONE
    """A field of a client's state."""
    Alloc: Raw = _NONE
    """A field of records: its presence means that the header before it was lost."""


DecodedDocument: TypeAlias = ObjectDocument | list[Raw]

_decode_object: Final[Callable[[bytes], ObjectDocument]] = msgspec.json.Decoder(ObjectDocument).decode
_decode_list: Final[Callable[[bytes], list[Raw]]] = msgspec.json.Decoder(list[Raw]).decode
_decode_event: Final[Callable[[bytes], _StreamEvent]] = msgspec.json.Decoder(_StreamEvent).decode


def decode_document(text: bytes) -> DecodedDocument:
    """Decode a document: the distinguishing fields of an object, or the entries of a list. O(length).

    Raises one of `NOT_JSON`, msgspec.ValidationError among them for any other JSON.
    """
    # Raw parts are not decoded here, so that nothing else would notice invalid UTF-8 in them.
    if not text.isascii():
        text.decode()
    if text[:1] == b"{":
        return _decode_object(compact(text))
    plain = text.strip()
    if plain[:1] == b"[":
        return _decode_list(compact(plain))
    return [] if plain == b"null" else _decode_object(compact(plain))


class StoredSource:
    """A log that is not read as lines: a named one in a store, or an open one."""

    is_log = True
    is_empty = is_silent = False
    bytes_read = 0

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


class Source:
    """A file, or standard input (``-``), that is being read."""

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        on_note: Callable[[str], None],
        on_gone: Callable[[Deregistered], None] = lambda _: None,
        on_fault: Callable[[SourceError], None] | None = None,
    ) -> None:
        """Read the beginning. Raises SourceError if no kind of source begins like that.

        ``on_gone`` is called with each job that is deregistered, and ``on_fault`` with the error of each unreadable
        document, which is raised unless ``on_fault`` is given.
        """
        self.name = name
        self._stream = stream
        with readable(name):
            start: bytes = stream.peek(_PEEK_BYTES)[:_PEEK_BYTES].lstrip()  # type: ignore[attr-defined]
        self._on_note = on_note
        self._others: set[str] = set()
        """The kinds of objects that were skipped and noted."""
        self._on_gone = on_gone
        self._on_fault = on_fault
        self.is_empty = False
        """Whether it has no content, once it was read."""
        self.is_silent = True
        """Whether it has no statement, once it was read."""
        self.bytes_read = 0
        """The number of uncompressed bytes read."""
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

        Raises SourceError, naming the line, for unreadable input, unless ``on_fault`` was given.
        """
        is_begun = False
        documents = Documents(as_utf8(self._blocks(), self.name), decode_document)
        reader = DocumentReader(self.name, self._note_skipped, self._on_gone)
        for document in documents:
            try:
                if isinstance(document, InvalidText):
                    if not document.is_cut or not is_begun:
                        raise invalid_text_error(document, self.name, is_begun=is_begun and self._on_fault is None)
                    where = f"{self.name}, line {document.line}"
                    self._on_note(f"{where}: the last document is cut off, and was skipped")
                    continue
                statements = reader.statements(document)
                # If bad documents are skipped, each is read completely or not at all.
                yield from statements if self._on_fault is None else list(statements)
            except SourceError as error:
                if self._on_fault is None:
                    raise
                self._on_fault(error)
            is_begun = True
        self.is_empty, self.is_silent = documents.is_empty, reader.is_silent

    def _blocks(self) -> Iterator[bytes]:
        """Yield the content of the stream; incomplete compressed data ends where it is cut off."""
        read = self._stream.read1  # type: ignore[attr-defined]
        with readable(self.name):
            try:
                # read1 returns available bytes, so that a slow stream is read as it grows.
                while block := read(_BLOCK_BYTES):
                    self.bytes_read += len(block)
                    yield block
            except EOFError:
                if not self.bytes_read:
                    raise
                self._on_note(f"{self.name}: the compressed data is cut off after {self.bytes_read:,} bytes")

    def _note_skipped(self, number: int, other: str) -> None:
        """Note each kind of skipped object once."""
        if other not in self._others:
            self._others.add(other)
            self._on_note(f"{self.name}, line {number}: looks like {other}, not an allocation: skipped")


# --- the content of a document ----------------------------------------------------------------------------------------


class DocumentReader:
    """Reads the statements in the documents of a source."""

    def __init__(
        self,
        name: str,
        on_other: Callable[[int, str], object] = lambda _, __: None,
        on_gone: Callable[[Deregistered], None] = lambda _: None,
    ) -> None:
        """Take the name of the source.

        ``on_other`` is called with the line, and the kind, of an object that is no allocation, such as ``a job``;
        ``on_gone`` with a job that was deregistered.
        """
        self._name = name
        self._on_other = on_other
        self._on_gone = on_gone
        self._line = 0
        self._is_long = False
        """The document is longer than the longest line of a log."""
        self.is_silent = True
        """Whether no document has had a statement yet."""

    def statements(self, document: Document[DecodedDocument]) -> Iterable[Statement]:
        """Return the statements of a document, in order; iterate before the next call. O(length).

        Raises SourceError, naming the line, for a document that is invalid.
        """
        self._line, self._is_long = document.line, len(document.text) > MAX_LINE_BYTES
        if isinstance(document.value, list):
            return self._whole_list(document.value)
        try:
            return self._of_object(document.value, document.text)
        except (DecodeError, *NOT_JSON) as error:
            raise SourceError(self._name, str(error), line=self._line) from None

    def _whole_list(self, items: list[Raw]) -> Iterator[Statement]:
        try:
            yield from self._of_list(items)
        except DecodeError as error:
            raise SourceError(self._name, str(error), line=self._line) from None

    def _of_object(self, decoded: ObjectDocument, text: bytes) -> Iterable[Statement]:
        """Return the statements of an object of any kind."""
        statements: list[Statement] = []
        if decoded.Events is not None:
            for event in decoded.Events:
                if event.Payload is not None or event.Topic == "Job":
                    self._add_event(statements, event, decoded.Index)
            return statements
        if decoded.Alloc:
            raise DecodeError("is a record of a taskfold log whose header is missing or damaged")
        if decoded.ID:
            return self._of_allocation(fields_from_json(text))
        if decoded.Topic:
            self._add_event(statements, _decode_event(compact(text)), _NONE)
            return statements
        if decoded.Allocation:
            return [self._observation(fields_from_json(decoded.Allocation), "stream")]
        if decoded.Allocations:
            return self._of_client(decoded.Allocations)
        if not decoded.Index and text.strip() != b"{}":
            self._on_other(self._line, "an object without an ID")
        return ()

    def _observation(
        self, fields: dict[str, bytes], kind: ObservationKind | None = None, index: int = 0, write_type: str = ""
    ) -> Observation:
        """Return the observation of an allocation. Raises DecodeError if it is too long for a log."""
        self.is_silent = False
        if self._is_long and sum(map(len, fields.values())) > MAX_LINE_BYTES:
            raise DecodeError(f"the allocation is longer than {MAX_LINE_BYTES >> 20} MiB, the longest line of a log")
        return observation_from_fields(fields, kind, self._name, self._line, index=index, write_type=write_type)

    def _of_list(self, items: list[Raw]) -> Iterator[Statement]:
        """Yield the statements of a list's entries: allocations, or other documents."""
        for place, text in enumerate(map(bytes, items)):
            try:
                fields = fields_from_json(text) if text[:1] == b"{" else {}
                if "ID" in fields:
                    yield from self._of_allocation(fields)
                    continue
                entry = decode_document(text)
                yield from self._of_list(entry) if isinstance(entry, list) else self._of_object(entry, text)
            except (DecodeError, *NOT_JSON) as error:
                raise DecodeError(f"entry {place} of the list: {error}") from None

    def _of_allocation(self, fields: dict[str, bytes]) -> tuple[Statement, ...]:
        """Return the observation in an object with an ID, if it is an allocation."""
        other = other_object(fields)
        if other:
            self._on_other(self._line, other)
            return ()
        return (self._observation(fields),)

    def _of_client(self, allocations: Raw) -> Iterable[Statement]:
        """Return the statements of a client's state, or of a list of allocations."""
        if bytes(allocations)[:1] == b"[":
            return list(self._of_list(_decode_list(allocations)))
        return [self._observation(fields) for fields in client_allocations(allocations)]

    def _add_event(self, statements: list[Statement], event: _StreamEvent, frame_index: Raw) -> None:
        """Add the statements of a stream event; an event without an index has its frame's."""
        kind = event.Type if isinstance(event.Type, str) else ""
        if event.Topic == "Job" and kind == _DEREGISTERED and (index := _number(event.Index) or _number(frame_index)):
            self._on_gone(Deregistered(str(event.Namespace or DEFAULT_NAMESPACE), str(event.Key), index))
        if event.Payload is None:
            return
        if event.Topic == "Allocation" and (body := event.Payload.Allocation) is not None:
            index = _number(event.Index) or _number(frame_index)
            fields = {name: bytes(text) for name, text in body.items()}
            statements.append(self._observation(fields, "stream", index, kind))
        for fact in facts_of_payload(event.Payload, kind, self._name, self._line):
            if isinstance(fact, EvaluationWrite) and kind == _DEREGISTERED:
                # The last event of a job that is purged at once.
                self._on_gone(Deregistered(fact.namespace, fact.job, fact.index))
            statements.append(fact)
            self.is_silent = False


_DEREGISTERED: Final = "JobDeregistered"


def statements_of_line(
    line: bytes, name: str, number: int, on_gone: Callable[[Deregistered], None] = lambda _: None
) -> Iterable[Statement]:
    """Return the statements of a line that is one document. O(length). Raises SourceError."""
    try:
        value = decode_document(line)
    except NOT_JSON as error:
        raise invalid_text_error(InvalidText(str(error), line, number, 0), name, is_begun=False) from None
    return DocumentReader(name, on_gone=on_gone).statements(Document(line, value, number, 0))


def _number(text: Raw) -> int:
    """Return an index; 0 for an invalid one."""
    return int(bytes(text)) if bytes(text).isdigit() and len(text) <= INDEX_DIGITS else 0


# --- unreadable input -------------------------------------------------------------------------------------------------


def invalid_text_error(fault: InvalidText, name: str, *, is_begun: bool) -> SourceError:
    """Return the error for unreadable input: its place, its content, and the expected content.

    ``is_begun`` means that a document comes before it, so that skipping may help.
    """
    sentence = _description(fault)
    if is_begun:
        sentence += " (--skip-bad, or skip_bad=True in Python, skips it)"
    return SourceError(name, sentence, line=fault.line)


_DOCUMENT_KINDS: Final = "a frame or an event of the event stream, an allocation, or a list of them"
_not_a_number: Final = re.compile(rb"[+-]?(?:NaN|Inf(?:inity)?)", re.IGNORECASE).search
_place: Final = re.compile(r" \(byte \d+\)$")


_BEGINNINGS: Final = (
    (
        ("<!doctype", "<html", "<?xml", "<head", "<body"),
        "is an HTML or XML page, not JSON; was it an answer of a proxy?",
    ),
    (("http/",), "is the head of an HTTP answer, not JSON; was it written by `curl -i`?"),
    (("curl: (",), "is a message of curl, not JSON; was its standard error written to the file?"),
)


def _description(fault: InvalidText) -> str:
    """Describe input that is no document."""
    start = fault.text.lstrip()[:20].decode(errors="replace").lower()
    for beginnings, sentence in _BEGINNINGS:
        if start.startswith(beginnings):
            return sentence
    if not _is_utf8(fault.text) or "\0" in start:
        return "is not UTF-8" if start.startswith(("{", "[")) else "is binary data, not JSON"
    excerpt = repr(fault.text[:40].decode(errors="replace"))
    return f"is cut off: the document has no end: {excerpt}" if fault.is_cut else _invalid(fault, excerpt)


def _invalid(fault: InvalidText, excerpt: str) -> str:
    """Describe invalid JSON."""
    message = _place.sub("", fault.message.removeprefix("JSON is malformed: "))
    if fault.at is None:
        return f"is not the JSON of {_DOCUMENT_KINDS}: {message}: {excerpt} (byte {fault.offset:,})"
    where = f"byte {fault.offset + fault.at:,}" + (
        f", in {fault.around.decode(errors='replace')!r}" if fault.around else ""
    )
    if (number := _not_a_number(fault.around)) is not None:
        return f"is not JSON: {number[0].decode()} is not a number of JSON ({where})"
    return f"is not JSON: {message} ({where}); expected {_DOCUMENT_KINDS}"


def _is_utf8(text: bytes) -> bool:
    """Tell whether a text is UTF-8; its last character may be incomplete."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.end == len(text) and error.reason == "unexpected end of data"
    return True
