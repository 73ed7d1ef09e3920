"""Entries: a record with its line in the log, proved to decode to the same record.

Every append goes through `entry_of` or `entries_of`. They refuse, before any store sees it, what Python allows and a
log cannot hold: a text in place of a number, a subclass of an event, invalid JSON text, or nesting deeper than a reader
can follow. The record of an entry is the decoded one, so that memory holds exactly what the log holds.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import force_setattr

from taskfold.model.errors import DecodeError
from taskfold.model.events import TaskEvent
from taskfold.model.record import Placed, Record, Updated
from taskfold.nomad.fields import FROM_LOG, FROM_TASKS

__all__ = [
    "INT64",
    "MAX_DEPTH",
    "UNWRITABLE",
    "Entries",
    "Entry",
    "decoder",
    "digest_in",
    "entries_of",
    "entry_of",
    "event_digest",
    "is_deep",
    "is_of",
    "problem_of",
    "read_back",
]

MAX_DEPTH: Final = 128
"""The deepest nesting of a record: far below what the smallest stack can decode (Python 3.11: some 980 levels)."""

INT64: Final = 2**63
"""The limit of an integer in every store, and in Nomad."""

UNWRITABLE: Final = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError, AttributeError)
"""The exceptions for a value that cannot be encoded or decoded. Not Exception: an alarm's handler may raise others."""

_encode: Final = msgspec.json.Encoder().encode


class Entry(Struct, frozen=True, gc=False):
    """A record, and its line in a log, without the newline."""

    record: Record
    line: bytes


Entries: TypeAlias = tuple[list[Record], list[bytes]]
"""Records and their lines. A plain pair, since a named tuple would slow the append of a single record."""


@cache
def decoder() -> msgspec.json.Decoder[Record]:
    """Return the decoder of records, made at first use, so that importing this module stays fast."""
    return msgspec.json.Decoder(Record)


def entry_of(record: Record) -> Entry:
    r"""Encode a record, and decode it again. O(length of its line).

    >>> from taskfold.events import Terminated
    >>> entry_of(Record(index=1, alloc="a", version=1, task="web", event=Terminated(exit_code=1))).line
    b'{"Index":1,"Alloc":"a","Version":1,"Task":"web","Event":{"Type":"Terminated","ExitCode":1}}'
    >>> entry_of(Record(index=1, alloc="a", version=1, task="web", event=Terminated(exit_code="1")))
    Traceback (most recent call last):
    ...
    taskfold.errors.DecodeError: $.Event.ExitCode: expected `int | null`, got `str`

    Raises DecodeError, naming the JSON path, for a record that would decode to another one, or to none.
    """
    line, back = read_back(record, decoder().decode)
    return Entry(_check_same_types(record, back), line)


def entries_of(records: list[Record]) -> Entries:
    """Encode records as `entry_of` does each; many together cost half as much. O(length).

    Raises DecodeError as `entry_of` does, for the first that is refused.
    """
    if len(records) > 1 and (entries := _read_back_together(records)) is not None:
        return list(map(_check_same_types, records, entries[0])), entries[1]
    records_read, lines = [], []
    for record in records:
        line, back = read_back(record, decoder().decode)
        records_read.append(_check_same_types(record, back))
        lines.append(line)
    return records_read, lines


def _check_same_types(record: Record, back: Record) -> Record:
    """Return the decoded record, with shared texts. Raises DecodeError for a number that no store can hold."""
    if not (0 <= back.seq < INT64 and 0 <= back.index < INT64 and -INT64 <= back.time_ns < INT64):
        raise DecodeError("$: Seq, Index and Time are whole numbers in 64 bits with a sign; the first two count from 0")
    # Share the texts that thousands of records have in common.
    if type(record.alloc) is str:
        force_setattr(back, "alloc", record.alloc)
    if type(record.task) is str:
        force_setattr(back, "task", record.task)
    # Share one number where the event has the record's time.
    if isinstance(back.event, TaskEvent) and back.event.time_ns == back.time_ns:
        force_setattr(back.event, "time_ns", back.time_ns)
    return back


def _read_back_together(records: list[Record]) -> Entries | None:
    """Encode and decode many records at once; None if `read_back` refuses one of them.

    The lines can be split again safely: a decoded record that equals its original had no other line break in it.
    """
    try:
        lines = list(map(_encode, records))
        text = b"\n".join(lines)
        if not text.isascii():
            text.decode()
        back = decoder().decode_lines(text)
    except UNWRITABLE:
        return None
    if back != records or text.count(b"\n") != len(lines) - 1 or any(map(is_deep, lines)):
        return None
    return back, lines


T = TypeVar("T", bound=Struct)


def read_back(value: T, decode: Callable[[bytes], T]) -> tuple[bytes, T]:
    """Encode a value as a JSON line, and decode it again: both, if the decoded value is the same. O(length).

    Raises DecodeError, naming the JSON path, if it does not decode, or decodes to another value.
    """
    try:
        line = _encode(value)
        if not line.isascii():
            line.decode()  # the decoder does not look into raw JSON text
        back = decode(line)
    except UNWRITABLE as error:
        raise DecodeError(problem_of(error)) from None
    if back != value:
        raise DecodeError(f"${_difference(value, back)}: decodes to a value that is not the one to be written")
    if b"\n" in line:
        raise DecodeError("$: expected JSON text on one line, found a line break in raw JSON text")
    if len(line) > _SHALLOW_BYTES and is_deep(line):
        raise DecodeError(f"$: nested deeper than {MAX_DEPTH} levels, which is as deep as a record may be")
    return line, back


_MESSAGE: Final = re.compile(r"(?P<what>.*?) - at `(?P<path>\$.*)`", re.DOTALL)


def problem_of(error: BaseException) -> str:
    """Describe why a value cannot be encoded or decoded: the JSON path first, where it is known.

    >>> problem_of(ValueError("Expected `int`, got `str` - at `$.Index`"))
    '$.Index: expected `int`, got `str`'
    """
    text = str(error) or type(error).__name__
    match = _MESSAGE.fullmatch(text)
    path, what = ("$", text) if match is None else (match["path"], match["what"])
    if what[:9] == "Expected ":
        what = f"expected {what[9:]}"
    return f"{path}: {what}"


def _difference(one: Any, other: Any) -> str:
    """Return the path, after the root, of the first field that differs."""
    if type(one) is type(other) and isinstance(one, Struct):
        for name, wire in zip(one.__struct_fields__, one.__struct_encode_fields__, strict=True):
            mine, theirs = getattr(one, name), getattr(other, name)
            if mine != theirs:
                return f".{wire}{_difference(mine, theirs)}"
    return ""


# --- depth ------------------------------------------------------------------------------------------------------------

_SHALLOW_BYTES: Final = 2 * MAX_DEPTH
"""A text up to this length cannot be too deep: each level takes two brackets."""

_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"{}[]")


def is_deep(text: bytes) -> bool:
    """Tell whether JSON text is nested deeper than `MAX_DEPTH`. O(length).

    >>> is_deep(b"[" * 128 + b"]" * 128), is_deep(b"[" * 129 + b"]" * 129), is_deep(b'["' + b"[" * 999 + b'"]')
    (False, True, False)
    >>> is_deep(b'["]",' * 129 + b"1" + b"]" * 129)  # the brackets inside the strings do not count
    True
    """
    # Most texts are too short, or have too few brackets; in the others, whole levels are removed at a time, not bytes.
    if len(text) <= _SHALLOW_BYTES or text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _without_texts(text).translate(_ONE_KIND, _NO_BRACKETS)
    for depth in range(MAX_DEPTH + 1):
        if depth + brackets.count(b"[") <= MAX_DEPTH:
            return False
        brackets = brackets.replace(b"[]", b"")  # brackets of one kind alone: each pass removes one level
    return True


def _without_texts(text: bytes) -> bytes:
    """Remove the contents of strings from JSON text. O(length)."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


# --- repeats ----------------------------------------------------------------------------------------------------------

_NOT_THE_WRITERS: Final = (*FROM_LOG, *FROM_TASKS, "CreateTime")
"""Fields of a placed allocation that its record takes from elsewhere, not from the caller."""

_canonical: Final = msgspec.json.Encoder(order="sorted").encode


def event_digest(alloc: str, task: str, event: Struct) -> int:
    """Return a number that identifies the content of an event of an allocation or task, without its time. O(length).

    The upper half identifies the allocation (`is_of`).
    >>> from taskfold.events import Started, Terminated
    >>> event_digest("a", "web", Started(time_ns=5)) == event_digest("a", "web", Started())
    True
    >>> event_digest("a", "web", Terminated(exit_code=1)) == event_digest("a", "web", Terminated())
    False

    Raises DecodeError for an event that cannot be encoded.
    """
    content: object = event
    try:
        if isinstance(event, TaskEvent):
            content = msgspec.structs.replace(event, time_ns=0) if event.time_ns else event
        elif isinstance(event, Placed) and event.body is not UNSET:
            content = _canonical_fields(bytes(event.body), _NOT_THE_WRITERS)
        elif isinstance(event, Updated):
            content = _canonical_fields(_encode(event.fields), FROM_LOG), sorted(event.cleared)
        return _digest(alloc) << _HALF | zlib.crc32(_encode((type(event).__name__, task, content)))
    except UNWRITABLE as error:
        raise DecodeError(problem_of(error)) from None


def is_of(digest: int, alloc: str) -> bool:
    """Tell whether a digest belongs to this allocation."""
    return digest >> _HALF == _digest(alloc)


_HALF: Final = 32


def _digest(alloc: str) -> int:
    return zlib.crc32(alloc.encode())


def _canonical_fields(text: bytes, left_out: tuple[str, ...]) -> bytes:
    """Return a JSON object in canonical form, without some of its fields."""
    try:
        fields = msgspec.json.decode(text)
        return _canonical({name: value for name, value in fields.items() if name not in left_out})
    except (msgspec.MsgspecError, RecursionError):
        return text  # an older log may hold text that is refused today


def digest_in(line: bytes) -> int:
    """Return the digest of the event in a line. O(length). Raises msgspec.DecodeError if it is damaged."""
    record = decoder().decode(line)
    return event_digest(record.alloc, record.task, record.event)
