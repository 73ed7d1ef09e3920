"""What Go says of a body that is no JSON: its decoder's error, to the letter.

Source: the scanner of encoding/json, whose states this follows.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

__all__ = ["json_error"]

_SPACE: Final = b" \t\r\n"
_SPACES: Final = re.compile(rb"[ \t\r\n]*")
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*')
"""What stands in a string as it is."""

_DIGITS: Final = frozenset(b"0123456789")
_NONZERO: Final = frozenset(b"123456789")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_ESCAPED: Final = frozenset(b'bfnrt\\/"')
_MAX_DEPTH: Final = 10_000
_LITERALS: Final = {ord("t"): "true", ord("f"): "false", ord("n"): "null"}
_NAMES: Final = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 39: "\\'", 92: "\\\\"}

_EMPTY: Final = "EOF"
_CUT_OFF: Final = "unexpected EOF"


class _Wrong(Exception):
    """The error's text."""


def json_error(body: bytes) -> str | None:
    """Return the error of Go's decoder for the first value of a body; None where it is well formed. O(length).

    >>> json_error(b"{bad"), json_error(b""), json_error(b"[1"), json_error(b"{} and more")
    ("invalid character 'b' looking for beginning of object key string", 'EOF', 'unexpected EOF', None)
    """
    if not body.strip(_SPACE):
        return _EMPTY
    if _is_well_formed(body):
        return None
    try:
        _Scanner(body).value()
    except _Wrong as error:
        return str(error)
    return None


def _is_well_formed(body: bytes) -> bool:
    """Tell the usual good body fast; False only means that the scanner has to look."""
    try:
        # Raw makes no objects. It takes less than Go's decoder does: one value alone, and not as deep.
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


class _Scanner:
    """Goes over one value, byte by byte, with the open objects and arrays on a stack of its own."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def value(self) -> None:
        """Go over the first value. Raises _Wrong."""
        closing: list[int] = []
        while True:
            byte = self._next_token()
            if byte in b"{[":
                closing.append(ord("}") if byte == ord("{") else ord("]"))
                if len(closing) > _MAX_DEPTH:
                    raise self._unexpected(byte, "exceeded max depth")
                if self._opens(closing[-1]):
                    continue
                closing.pop()
            else:
                self._scalar(byte)
            if not self._goes_on(closing):
                return

    def _opens(self, close: int) -> bool:
        """Go into an object, up to its first value, or an array; tell whether there is a value in it."""
        byte = self._next_token()
        if byte == close:
            return False
        if close == ord("}"):
            self._key(byte)
        else:
            self._at -= 1
        return True

    def _goes_on(self, closing: list[int]) -> bool:
        """Go from the end of a value to the next one, out of what ends; tell whether there is one."""
        while closing:
            byte = self._next_token()
            if byte == closing[-1]:
                closing.pop()
                continue
            is_object = closing[-1] == ord("}")
            if byte != ord(","):
                raise self._unexpected(byte, "after object key:value pair" if is_object else "after array element")
            if is_object:
                self._key(self._next_token())
            return True
        return False

    def _key(self, byte: int) -> None:
        """Go over the key of an object and its colon."""
        if byte != ord('"'):
            raise self._unexpected(byte, "looking for beginning of object key string")
        self._string()
        byte = self._next_token()
        if byte != ord(":"):
            raise self._unexpected(byte, "after object key")

    def _scalar(self, byte: int) -> None:
        """Go over a string, a number or a literal."""
        if byte == ord('"'):
            self._string()
        elif byte in _LITERALS:
            self._literal(_LITERALS[byte])
        elif byte == ord("-") or byte in _DIGITS:
            self._number(byte)
        else:
            raise self._unexpected(byte, "looking for beginning of value")

    def _string(self) -> None:
        while True:
            self._skip(_PLAIN)
            byte = self._next()
            if byte == ord('"'):
                return
            if byte != ord("\\"):
                raise self._unexpected(byte, "in string literal")
            self._escape()

    def _escape(self) -> None:
        byte = self._next()
        if byte == ord("u"):
            for _ in range(4):
                digit = self._next()
                if digit not in _HEX:
                    raise self._unexpected(digit, "in \\u hexadecimal character escape")
        elif byte not in _ESCAPED:
            raise self._unexpected(byte, "in string escape code")

    def _literal(self, literal: str) -> None:
        for expected in literal[1:]:
            byte = self._next()
            if byte != ord(expected):
                raise self._unexpected(byte, f"in literal {literal} (expecting '{expected}')")

    def _number(self, byte: int) -> None:
        if byte == ord("-"):
            byte = self._next()
            if byte not in _DIGITS:
                raise self._unexpected(byte, "in numeric literal")
        if byte in _NONZERO:
            self._digits()
        if self._peek() == ord("."):
            self._at += 1
            self._some_digits("after decimal point in numeric literal")
        if self._peek() in {ord("e"), ord("E")}:
            self._at += 1
            if self._peek() in {ord("+"), ord("-")}:
                self._at += 1
            self._some_digits("in exponent of numeric literal")

    def _some_digits(self, where: str) -> None:
        byte = self._next()
        if byte not in _DIGITS:
            raise self._unexpected(byte, where)
        self._digits()

    def _digits(self) -> None:
        while self._peek() in _DIGITS:
            self._at += 1

    def _peek(self) -> int:
        return self._body[self._at] if self._at < len(self._body) else -1

    def _next(self) -> int:
        if self._at >= len(self._body):
            raise _Wrong(_CUT_OFF)
        self._at += 1
        return self._body[self._at - 1]

    def _next_token(self) -> int:
        self._skip(_SPACES)
        return self._next()

    def _skip(self, run: re.Pattern[bytes]) -> None:
        found = run.match(self._body, self._at)
        if found is not None:
            self._at = found.end()

    @staticmethod
    def _unexpected(byte: int, where: str) -> _Wrong:
        return _Wrong(f"invalid character {_quoted(byte)} {where}")


def _quoted(byte: int) -> str:
    """Return a byte as Go's quoteChar shows it."""
    if byte in _NAMES:
        return f"'{_NAMES[byte]}'"
    character = chr(byte)
    if character.isprintable():
        return f"'{character}'"
    return f"'\\x{byte:02x}'" if character.isascii() else f"'\\u{byte:04x}'"
