"""What Go says of a body that is no JSON: its decoder's error, to the letter.

Source: the scanner of encoding/json, whose states this follows.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["json_error"]

_MAX_DEPTH: Final = 10_000
_EMPTY: Final = "EOF"
_CUT_OFF: Final = "unexpected EOF"

_SPACE: Final = b" \t\r\n"
_DIGITS: Final = b"0123456789"
_HEX: Final = b"0123456789abcdefABCDEF"
_ESCAPED: Final = b'bfnrt\\/"'
_LITERALS: Final = {ord("t"): "true", ord("f"): "false", ord("n"): "null"}
_NAMES: Final = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 39: "\\'", 92: "\\\\"}

# A string with escapes, and a scalar that is wrong, are no token here: _Scalar goes over them byte by byte.
_TOKEN: Final = re.compile(
    rb"""[ \t\r\n]*
    ( [{}\[\]:,]
    | "[^"\\\x00-\x1f]*"
    | -?(?:0|[1-9][0-9]*(?![0-9]))(?:\.[0-9]+(?![0-9]))?(?:[eE][+-]?[0-9]+(?![0-9]))?(?![.eE])
    | true | false | null )""",
    re.VERBOSE,
)
_VISIBLE: Final = re.compile(rb"[^ \t\r\n]")
_SPECIAL: Final = re.compile(rb'["\\\x00-\x1f]')

_VALUE, _VALUE_OR_END, _KEY, _KEY_OR_END, _COLON, _PAIR_ENDED, _ELEMENT_ENDED, _ENDED = range(8)
"""What must come next. The last stands for the two before it, or for the end of all: that depends on what is open."""

_SCALARS: Final = dict.fromkeys(b'"-0123456789tfn', _ENDED)
_VALUES: Final = {**_SCALARS, ord("{"): _KEY_OR_END, ord("["): _VALUE_OR_END}
_TABLE: Final[dict[int, tuple[str, dict[int, int]]]] = {
    _VALUE: ("looking for beginning of value", _VALUES),
    _VALUE_OR_END: ("looking for beginning of value", {**_VALUES, ord("]"): _ENDED}),
    _KEY: ("looking for beginning of object key string", {ord('"'): _COLON}),
    _KEY_OR_END: ("looking for beginning of object key string", {ord('"'): _COLON, ord("}"): _ENDED}),
    _COLON: ("after object key", {ord(":"): _VALUE}),
    _PAIR_ENDED: ("after object key:value pair", {ord(","): _KEY, ord("}"): _ENDED}),
    _ELEMENT_ENDED: ("after array element", {ord(","): _VALUE, ord("]"): _ENDED}),
}
"""How Go calls a place, and what follows it, by the first byte of the token that is there."""


class _Wrong(Exception):
    """The error's text."""


def json_error(body: bytes) -> str | None:
    """Return the error of Go's decoder for the first value of a body; None where it is well formed. O(length).

    >>> json_error(b"{bad"), json_error(b""), json_error(b"[1"), json_error(b"{} and more")
    ("invalid character 'b' looking for beginning of object key string", 'EOF', 'unexpected EOF', None)
    """
    if not body.strip(_SPACE):
        return _EMPTY
    try:
        _go_over_value(body)
    except _Wrong as error:
        return str(error)
    return None


def _go_over_value(body: bytes) -> None:
    """Go over the first value, token by token. Raises _Wrong."""
    opened: list[int] = []
    state, position = _VALUE, 0
    while True:
        token = _TOKEN.match(body, position)
        start = token.start(1) if token else _visible(body, position)
        byte = body[start]
        where, following = _TABLE[state]
        if byte not in following:
            raise _unexpected(byte, where)
        position = token.end() if token else _Scalar(body, start).end()
        state = following[byte]
        if byte in b"{[":
            opened.append(byte)
            if len(opened) > _MAX_DEPTH:
                raise _unexpected(byte, "exceeded max depth")
        elif byte in b"}]":
            opened.pop()
        if state == _ENDED:
            if not opened:
                return
            state = _PAIR_ENDED if opened[-1] == ord("{") else _ELEMENT_ENDED


def _visible(body: bytes, position: int) -> int:
    """Return where the next byte is that is no space. Raises _Wrong."""
    found = _VISIBLE.search(body, position)
    if found is None:
        raise _Wrong(_CUT_OFF)
    return found.start()


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


class _Scalar:
    """A string, a number or a literal, byte by byte: an error names the byte that is wrong."""

    def __init__(self, body: bytes, start: int) -> None:
        self._body = body
        self._at = start

    def end(self) -> int:
        """Return where it ends. Raises _Wrong."""
        byte = self._next()
        if byte == ord('"'):
            self._string()
        elif byte in _LITERALS:
            self._literal(_LITERALS[byte])
        else:
            self._number(byte)
        return self._at

    def _string(self) -> None:
        while found := _SPECIAL.search(self._body, self._at):
            self._at = found.end()
            byte = self._body[found.start()]
            if byte == ord('"'):
                return
            if byte != ord("\\"):
                raise _unexpected(byte, "in string literal")
            self._escape()
        raise _Wrong(_CUT_OFF)

    def _escape(self) -> None:
        byte = self._next()
        if byte == ord("u"):
            for _ in range(4):
                digit = self._next()
                if digit not in _HEX:
                    raise _unexpected(digit, "in \\u hexadecimal character escape")
        elif byte not in _ESCAPED:
            raise _unexpected(byte, "in string escape code")

    def _literal(self, literal: str) -> None:
        for expected in literal[1:]:
            byte = self._next()
            if byte != ord(expected):
                raise _unexpected(byte, f"in literal {literal} (expecting '{expected}')")

    def _number(self, byte: int) -> None:
        if byte == ord("-"):
            byte = self._next()
            if byte not in _DIGITS:
                raise _unexpected(byte, "in numeric literal")
        if byte != ord("0"):
            self._digits()
        if self._takes(b"."):
            self._some_digits("after decimal point in numeric literal")
        if self._takes(b"eE"):
            self._takes(b"+-")
            self._some_digits("in exponent of numeric literal")

    def _some_digits(self, where: str) -> None:
        byte = self._next()
        if byte not in _DIGITS:
            raise _unexpected(byte, where)
        self._digits()

    def _digits(self) -> None:
        while self._takes(_DIGITS):
            pass

    def _takes(self, choices: bytes) -> bool:
        """Go over the next byte if it is one of these; tell whether it was."""
        taken = self._at < len(self._body) and self._body[self._at] in choices
        self._at += taken
        return taken

    def _next(self) -> int:
        if self._at >= len(self._body):
            raise _Wrong(_CUT_OFF)
        self._at += 1
        return self._body[self._at - 1]
