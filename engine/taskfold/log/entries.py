"""Entries: a record beside the line that says it, which the reader of this version reads back as the same record.

Every append goes through `entry_of` or `entries_of`. What Python allows and a log cannot say (a text where a number
belongs, a subclass of an event, JSON text that is none, or nested deeper than a reader can follow) is refused there,
before any store has seen it. The record of an entry is the one that was read back, so that memory holds exactly what
the log holds.
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
"""How deep a record may be nested: far below what the smallest stack of a reader can follow (Python 3.11: some 980)."""

INT64: Final = 2**63
"""What every store, and Nomad itself, can count to."""

UNWRITABLE: Final = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError, AttributeError)
"""What is raised for a value that cannot be written as JSON, or read back: not all, since an alarm may be, too."""

_encode: Final = msgspec.json.Encoder().encode


class Entry(Struct, frozen=True, gc=False):
    """A record, and its line in a log, without the newline."""

    record: Record
    line: bytes


Entries: TypeAlias = tuple[list[Record], list[bytes]]
"""Records, and their lines: a plain pair, since one record is appended at a time, too, and a named one costs much then.
"""


@cache
def decoder() -> msgspec.json.Decoder[Record]:
    """Return the decoder of records, made when it is needed first: an import of this module should not wait for it."""
    return msgspec.json.Decoder(Record)


def entry_of(record: Record) -> Entry:
    r"""Return the entry of a record. O(length of its line).

    >>> from taskfold.events import Terminated
    >>> entry_of(Record(index=1, alloc="a", version=1, task="web", event=Terminated(exit_code=1))).line
    b'{"Index":1,"Alloc":"a","Version":1,"Task":"web","Event":{"Type":"Terminated","ExitCode":1}}'
    >>> entry_of(Record(index=1, alloc="a", version=1, task="web", event=Terminated(exit_code="1")))
    Traceback (most recent call last):
    ...
    taskfold.errors.DecodeError: $.Event.ExitCode: expected `int | null`, got `str`

    Raises DecodeError, naming the JSON path, for what the log could not be read back as.
    """
    line, back = read_back(record, decoder().decode)
    return Entry(_check_same_types(record, back), line)


def entries_of(records: list[Record]) -> Entries:
    """Return the entries of records, as `entry_of` gives each; many together cost half as much. O(length).

    Raises what `entry_of` raises for the first of them that it refuses.
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
    """Return what was read back of a record. Raises DecodeError for a number that no store has."""
    if not (0 <= back.seq < INT64 and 0 <= back.index < INT64 and -INT64 <= back.time_ns < INT64):
        raise DecodeError("$: Seq, Index and Time are whole numbers in 64 bits with a sign; the first two count from 0")
    # The texts that thousands of records share are not kept once for each of them.
    if type(record.alloc) is str:
        force_setattr(back, "alloc", record.alloc)
    if type(record.task) is str:
        force_setattr(back, "task", record.task)
    # Nor are two numbers for one time, where an event takes that of its record.
    if isinstance(back.event, TaskEvent) and back.event.time_ns == back.time_ns:
        force_setattr(back.event, "time_ns", back.time_ns)
    return back


def _read_back_together(records: list[Record]) -> Entries | None:
    """Return what is read back of records, and their lines; None where `read_back` refuses one of them.

    What is equal was read from a line of its own: there are no other line breaks, and a record that reached beyond one
    would have it in what stays JSON text.
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
    """Return the JSON line of a value, and what a decoder reads back from it: the same. O(length).

    Raises DecodeError, naming the JSON path, where it reads back nothing, or something else.
    """
    try:
        line = _encode(value)
        if not line.isascii():
            line.decode()  # what stays JSON text is not looked into by the decoder
        back = decode(line)
    except UNWRITABLE as error:
        raise DecodeError(problem_of(error)) from None
    if back != value:
        raise DecodeError(f"${_difference(value, back)}: reads back as something else than what was to be written")
    if b"\n" in line:
        raise DecodeError("$: expected JSON text on one line, found a line break in a part that is JSON text already")
    if len(line) > _SHALLOW_BYTES and is_deep(line):
        raise DecodeError(f"$: nested deeper than {MAX_DEPTH} levels, which is as deep as a record may be")
    return line, back


_MESSAGE: Final = re.compile(r"(?P<what>.*?) - at `(?P<path>\$.*)`", re.DOTALL)


def problem_of(error: BaseException) -> str:
    """Return what is wrong with a value that cannot be written or read: the JSON path first, where it is known.

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
    """Return the path, after the root, to the first field that differs."""
    if type(one) is type(other) and isinstance(one, Struct):
        for name, wire in zip(one.__struct_fields__, one.__struct_encode_fields__, strict=True):
            mine, theirs = getattr(one, name), getattr(other, name)
            if mine != theirs:
                return f".{wire}{_difference(mine, theirs)}"
    return ""


# --- depth ------------------------------------------------------------------------------------------------------------

_SHALLOW_BYTES: Final = 2 * MAX_DEPTH
"""Up to which length no text is deep: each level is two brackets."""

_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"{}[]")


def is_deep(text: bytes) -> bool:
    """Tell whether JSON text is nested deeper than `MAX_DEPTH`. O(length).

    >>> is_deep(b"[" * 128 + b"]" * 128), is_deep(b"[" * 129 + b"]" * 129), is_deep(b'["' + b"[" * 999 + b'"]')
    (False, True, False)
    >>> is_deep(b'["]",' * 129 + b"1" + b"]" * 129)  # what closes nothing, since it stands in a text
    True
    """
    # Most texts are too short, or have too few brackets; the others lose them level by level, not byte by byte.
    if len(text) <= _SHALLOW_BYTES or text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _without_texts(text).translate(_ONE_KIND, _NO_BRACKETS)
    for depth in range(MAX_DEPTH + 1):
        if depth + brackets.count(b"[") <= MAX_DEPTH:
            return False
        brackets = brackets.replace(b"[]", b"")  # those of one kind alone: each step takes one level
    return True


def _without_texts(text: bytes) -> bytes:
    """Return JSON text without what stands between quotation marks. O(length)."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


# --- repeats ----------------------------------------------------------------------------------------------------------

_NOT_THE_WRITERS: Final = (*FROM_LOG, *FROM_TASKS, "CreateTime")
"""Fields of a placed allocation that the record has from elsewhere than from whoever places it."""

_canonical: Final = msgspec.json.Encoder(order="sorted").encode


def event_digest(alloc: str, task: str, event: Struct) -> int:
    """Return a number that tells apart what is recorded of an allocation or task, whenever it happened. O(length).

    Its upper half is that of the allocation (`is_of`).

    >>> from taskfold.events import Started, Terminated
    >>> event_digest("a", "web", Started(time_ns=5)) == event_digest("a", "web", Started())
    True
    >>> event_digest("a", "web", Terminated(exit_code=1)) == event_digest("a", "web", Terminated())
    False

    Raises DecodeError for an event that cannot be written.
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
    """Tell whether a digest is that of a record of an allocation."""
    return digest >> _HALF == _digest(alloc)


_HALF: Final = 32


def _digest(alloc: str) -> int:
    return zlib.crc32(alloc.encode())


def _canonical_fields(text: bytes, left_out: tuple[str, ...]) -> bytes:
    """Return a JSON object without some of its fields, written in one way, whoever has written it."""
    try:
        fields = msgspec.json.decode(text)
        return _canonical({name: value for name, value in fields.items() if name not in left_out})
    except (msgspec.MsgspecError, RecursionError):
        return text  # a log of an older taskfold may hold what is refused today


def digest_in(line: bytes) -> int:
    """Return the digest of what a line records. O(length). Raises msgspec.DecodeError where it is damaged."""
    record = decoder().decode(line)
    return event_digest(record.alloc, record.task, record.event)
