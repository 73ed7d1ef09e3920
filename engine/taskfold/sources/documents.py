"""The JSON documents of a stream of bytes, wherever one ends and the next begins. O(bytes), memory for one document.

Most streams have one document per line: a line that can be decoded needs no other scan. Any other text is scanned from
bracket to bracket: documents over several lines, adjacent documents (``{…}{…}``), and lists of any length
(``[{…},{…}][{…}]``), whose entries are documents.

Anything else is an `InvalidText`. Reading continues after it: at the end of the document if its brackets match,
otherwise at the next line that begins with a bracket, or, if no document began there, at the next line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

__all__ = ["MAX_DOCUMENT_BYTES", "NOT_JSON", "Document", "Documents", "InvalidText"]

MAX_DOCUMENT_BYTES: Final = 256 << 20
"""The largest document: it is held in memory. A list may be longer, since each entry is a document."""

_LONGEST_LINE: Final = 32 << 20
"""A longer line is scanned before its end has arrived."""
_EXCERPT_BYTES: Final = 4096
_AROUND_BYTES: Final = 20

_MAX_DEPTH: Final = 1_000
"""The deepest nesting of a document. Without a limit of its own, some Pythons would decode ten thousand levels."""

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_skip: Final[Callable[[bytes], Raw]] = msgspec.json.Decoder(Raw).decode

_STRING: Final = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
_FLAT: Final = rb'[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+'
_to_bracket: Final = re.compile(_FLAT + rb"[{}\[\]]").match
"""Matches up to the next bracket outside of strings, from outside of a string."""
_to_string: Final = re.compile(_FLAT).match
"""Matches up to a bracket, a string without an end, or the end, from outside of a string."""
_in_string: Final = re.compile(rb'[^"\\\n]*+(?:\\.[^"\\\n]*+)*+').match
"""Matches up to the end of a string, or of the text, from inside of the string."""
_MARK: Final = b"\xef\xbb\xbf"
_between: Final = re.compile(rb"(?:[ \t\r,\[\]]|\xef\xbb\xbf)*+").match
"""Matches the text between documents of a line: brackets of lists, and the byte order marks of appended files."""
_bracket: Final = re.compile(rb"[\[\]]").finditer
_to_space: Final = re.compile(rb"[^\s{}\[\],]*+").match
_line_end: Final = re.compile(rb"\n").search
_next_start: Final = re.compile(rb"\n(?=[{\[])").search
"""Finds the place where reading continues after a fault."""
_CUT: Final = "it has no end"
_NUMBER: Final = b"0123456789+-.eE"
_OPENING: Final = b"{["
_HINT_BYTES: Final = 1 << 20
"""The largest incomplete document that is checked at each line that begins with a bracket."""
_GUESS_BYTES: Final = 1 << 17
"""The distance within which the end of a document is guessed."""

T = TypeVar("T")


class Document(Struct, Generic[T], frozen=True, gc=False):
    """A document, and its decoded value."""

    text: bytes
    value: T
    line: int
    """The number of its first line."""
    offset: int
    """The number of bytes before it."""


class InvalidText(NamedTuple):
    """A part of the stream that is no document."""

    message: str
    text: bytes
    """Its first bytes."""
    line: int
    offset: int
    is_cut: bool = False
    """It is an incomplete document at the end of the stream."""
    at: int | None = None
    """The offset in it of the invalid byte, if known."""
    around: bytes = b""
    """The bytes around that place."""


class Documents(Generic[T]):
    """The documents of a stream, to be iterated over once."""

    def __init__(self, blocks: Iterable[bytes], decode: Callable[[bytes], T]) -> None:
        """Take blocks of any size, and the function that decodes the text of a document.

        ``decode`` raises msgspec.ValidationError for JSON of another type, and another of `NOT_JSON` for invalid JSON.
        """
        self._blocks = iter(blocks)
        self._decode = decode
        self._buffer = b""
        self._at = 0
        """The current place in the buffer."""
        self._line = 1
        self._offset = 0
        self._open_lists = 0
        self._list_start = 1, 0
        """The line and the offset of the open list."""
        self.is_empty = True
        """Whether only white space was read."""

    @property
    def lines(self) -> int:
        """The number of complete lines read."""
        return self._line - 1

    def __iter__(self) -> Iterator[Document[T] | InvalidText]:
        """Yield each document as soon as it is complete: at the end of its line, or at its last bracket."""
        decode = self._decode
        while True:
            at, end = self._at, self._buffer.find(b"\n", self._at)
            line = self._read_line() if end < 0 else self._buffer[at:end]
            if line is None:
                if not self._buffer:
                    break
                self.is_empty = self.is_empty and self._buffer.isspace()
                yield from self._inside()
                continue
            if end >= 0:
                self._at = end + 1
            number, offset, fault = self._line, self._offset, ""
            self._line += 1
            self._offset += len(line) + 1
            if not line or line.isspace():
                continue
            self.is_empty = False
            try:
                value = decode(line)
            except msgspec.ValidationError as error:
                fault = str(error)
            except NOT_JSON:
                self._line, self._offset = number, offset
                self._buffer, self._at = line + b"\n" + self._buffer[self._at :], 0
                yield from self._inside()
                continue
            yield InvalidText(fault, line, number, offset) if fault else Document(line, value, number, offset)
        if self._open_lists:
            number, offset = self._list_start
            yield InvalidText(_CUT, b"[", number, offset, is_cut=True)

    # --- reading ---

    def _read_line(self) -> bytes | None:
        """Return the line that continues after the buffer, and advance to its end.

        None at the end of the stream, if a document ends within the line, and for a very long line: then the buffer has
        the available part of it.
        """
        parts = [self._buffer[self._at :]]
        size = len(parts[0])
        while size <= _LONGEST_LINE:
            block = next(self._blocks, b"")
            end = block.find(b"\n")
            if end >= 0:
                parts.append(block[:end])
                self._buffer, self._at = block, end + 1
                return b"".join(parts)
            parts.append(block)
            size += len(block)
            if not block or b"}{" in block:
                break
        self._buffer, self._at = b"".join(parts), 0
        return None

    def _read_on(self) -> bool:
        """Add another block to the buffer; return whether there was one."""
        block = next(self._blocks, b"")
        self._buffer, self._at = self._buffer[self._at :] + block, 0
        return bool(block)

    def _advance(self, at: int) -> None:
        """Advance to a place of the buffer."""
        self._line += self._buffer.count(b"\n", self._at, at)
        self._offset += at - self._at
        self._at = at

    # --- scanning ---

    def _inside(self) -> Iterator[Document[T] | InvalidText]:
        """Yield the documents from here, up to the end of a line with no incomplete document."""
        while True:
            match = _between(self._buffer, self._at)
            assert match is not None, "the pattern fits anywhere"
            self._note_lists(match[0])
            self._advance(match.end())
            if len(self._buffer) - self._at < len(_MARK) and self._read_on():
                continue
            start = self._buffer[self._at : self._at + 1]
            if start in {b"", b"\n"}:
                self._advance(self._at + len(start))
                return
            document = self._document() if start == b"{" else self._other()
            if document is not None:
                yield document
            if self._at and self._buffer[self._at - 1 : self._at] == b"\n":
                return

    def _note_lists(self, text: bytes) -> None:
        """Count the brackets of lists between documents."""
        for bracket in _bracket(text):
            if bracket[0] == b"]":
                self._open_lists = max(0, self._open_lists - 1)
                continue
            if not self._open_lists:
                self._list_start = self._line, self._offset + bracket.start()
            self._open_lists += 1

    def _other(self) -> InvalidText | None:
        """Skip text that does not begin with a bracket; return its fault, or None for null."""
        size, is_more = -1, True
        while is_more and size < (size := len(self._word())) < _EXCERPT_BYTES:
            is_more = self._at + size < len(self._buffer) or self._read_on()
        word = self._word()
        if word == b"null" or (not is_more and (b"null".startswith(word) or _MARK.startswith(word))):
            self._advance(self._at + len(word))
            return None
        return self._invalid_text("it begins with neither { nor [", _line_end)

    def _word(self) -> bytes:
        """Return the text up to a space or a bracket."""
        match = _to_space(self._buffer, self._at)
        assert match is not None, "the pattern fits anywhere"
        return match[0]

    def _invalid_text(self, message: str, search: Callable[..., re.Match[bytes] | None] = _next_start) -> InvalidText:
        """Return a fault up to the place where a document may begin, and advance to it."""
        excerpt = self._buffer[self._at : self._at + _EXCERPT_BYTES]
        excerpt = excerpt[: match.start()] if (match := search(excerpt)) is not None else excerpt
        at = _place_in(message)
        around = b"" if at is None else _around(self._buffer, self._at + at)
        fault = InvalidText(message, excerpt, self._line, self._offset, at=at, around=around)
        self._open_lists = 0
        while (match := search(self._buffer, self._at)) is None:
            self._advance(max(len(self._buffer) - 1, self._at))  # a line break at the end may be that place
            if not self._read_on():
                self._advance(len(self._buffer))
                return fault
        self._advance(match.end())
        return fault

    def _document(self) -> Document[T] | InvalidText:
        """Return the document that begins here, which may span many blocks."""
        guess = self._guess()
        if guess is not None:
            return guess
        walk = _Walk()
        parts: list[bytes] = []
        size = size_before = 0
        message, is_over = "", False
        while not is_over:
            at = walk.go(self._buffer, self._at)
            if walk.is_closed or walk.is_torn:
                return self._ended(parts, at, is_closed=walk.is_closed)
            part = (parts[-1][-1:] if parts else b"") + self._buffer[self._at : at]
            parts.append(self._buffer[self._at : at])
            self._at = at
            size += len(parts[-1])
            may_begin = _next_start(part) is not None
            if not message and (size >= 2 * size_before or (size < _HINT_BYTES and may_begin)):
                # Otherwise, the whole stream would be read before an early fault is noticed.
                message, size_before = _problem(b"".join(parts)), size
                may_begin = bool(message) and _next_start(b"".join(parts)) is not None
            if not message and walk.depth > _MAX_DEPTH:
                message, may_begin = f"it is nested in more than {_MAX_DEPTH:,} levels", _next_start(part) is not None
            if size > MAX_DOCUMENT_BYTES:
                message = f"it is larger than {MAX_DOCUMENT_BYTES >> 20} MiB"
            is_over = size > MAX_DOCUMENT_BYTES or (bool(message) and may_begin)
            if not is_over and not self._read_on():
                return self._ended(parts, self._at, message, is_cut=True)
        return self._ended(parts, self._at, message)

    def _ended(
        self, parts: list[bytes], end: int, message: str = "", *, is_closed: bool = False, is_cut: bool = False
    ) -> Document[T] | InvalidText:
        """Return the document that ends here, or its fault, and advance to its end."""
        line, offset = self._line, self._offset
        text = b"".join([*parts, self._buffer[self._at : end if is_closed else None]])
        is_one = _next_start(text) is None
        if is_closed:
            try:
                value = self._decode(text)
            except NOT_JSON as error:
                message = str(error)
                is_one = is_one or isinstance(error, msgspec.ValidationError)
            else:
                self._line += text.count(b"\n")
                self._offset += len(text)
                self._at = end
                return Document(text, value, line, offset)
        else:
            message = message or _problem(text)
        if parts:
            self._buffer, self._at = text + (self._buffer[end:] if is_closed else b""), 0
        if is_one and (is_closed or (is_cut and not message)):
            self._advance(self._at + len(text))
            at = _place_in(message)
            around = b"" if at is None else _around(text, at)
            return InvalidText(
                message or _CUT, text[:_EXCERPT_BYTES], line, offset, is_cut=is_cut, at=at, around=around
            )
        return self._invalid_text(message or _CUT)

    def _guess(self) -> Document[T] | None:
        """Return the document that begins here, if its end is the first match of a likely pattern.

        Searching for a few bytes is much faster than scanning, and decoding shows whether the guess is right.
        """
        buffer, at = self._buffer, self._at
        limit = at + _GUESS_BYTES
        if buffer[at + 1 : at + 2] in {b"\n", b"\r"}:
            margin = buffer.rfind(b"\n", 0, at) + 1
            indent = buffer[margin:at]
            end = buffer.find(b"\n" + indent + b"}", at, limit) if not indent or indent.isspace() else -1
            end = end if end < 0 else end + 2 + len(indent)
        else:
            end = buffer.find(b"}{", at, limit) + 1 or -1
        if end < 0:
            return None
        text = buffer[at:end]
        try:
            value = self._decode(text)
        except NOT_JSON:
            return None
        document = Document(text, value, self._line, self._offset)
        self._advance(end)
        return document


class _Walk:
    """The state of a scan through a document, from bracket to bracket and block by block."""

    def __init__(self) -> None:
        self.depth = 0
        self.is_in_string = False
        self.is_closed = False
        """The last bracket matches the first one."""
        self.is_torn = False
        """A string has a line break: the document is torn."""

    def go(self, buffer: bytes, at: int) -> int:
        """Scan a buffer, and return the place after the last bracket, or after the last complete token.

        Both kinds of brackets are counted alike, as decoding checks them.
        """
        if self.is_in_string:
            match = _in_string(buffer, at)
            assert match is not None, "the pattern fits anywhere"
            at = match.end()
            if buffer[at : at + 1] != b'"':
                return self._stopped(buffer, at)
            self.is_in_string = False
            at += 1
        depth = self.depth
        while (match := _to_bracket(buffer, at)) is not None:
            at = match.end()
            if buffer[at - 1] in _OPENING:
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    self.is_closed = True
                    return at
        self.depth = depth
        match = _to_string(buffer, at)
        assert match is not None, "the pattern fits anywhere"
        at = match.end()
        if at == len(buffer):
            return at
        self.is_in_string = True
        match = _in_string(buffer, at + 1)
        assert match is not None, "the pattern fits anywhere"
        return self._stopped(buffer, match.end())

    def _stopped(self, buffer: bytes, at: int) -> int:
        """Return the place where a string stops: the end of the buffer, or a line break."""
        self.is_torn = b"\n" in buffer[at : at + 2]
        return at


_place: Final = re.compile(r"\(byte (\d+)\)$").search


def _place_in(message: str) -> int | None:
    """Return the offset in a message of the decoder; None if it has none."""
    match = _place(message)
    return None if match is None else int(match[1])


def _around(text: bytes, at: int) -> bytes:
    """Return some bytes before and after a place, within one line."""
    start = max(text.rfind(b"\n", 0, at) + 1, at - _AROUND_BYTES, 0)
    return text[start : at + _AROUND_BYTES].partition(b"\n")[0]


def _problem(text: bytes) -> str:
    """Return the decoder's message for an incomplete document; empty if it is valid so far. O(length)."""
    try:
        _skip(text.rstrip(_NUMBER))  # an incomplete number is invalid
    except NOT_JSON as error:
        return "" if "truncated" in str(error) else str(error)
    return ""
