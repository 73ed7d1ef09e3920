"""Query strings, and the values in them, as Go reads them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from taskfold.model.go.quoting import go_quoted

__all__ = ["Query", "go_bool", "is_pretty", "parse_query", "parse_signed_error", "parse_unsigned"]

_TRUE: Final = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9a-fA-F]{2})")
_DIGITS: Final = "0123456789"
_MAX_UNSIGNED: Final = 2**64 - 1
_MAX_SIGNED: Final = 2**63 - 1


class Query:
    """The parameters of a request, in order, each with all its values."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, list[str]]) -> None:
        self._values = values

    def __bool__(self) -> bool:
        """Return whether there is any parameter."""
        return bool(self._values)

    def get(self, name: str) -> str:
        """Return the first value of a parameter; empty where there is none."""
        return self._values[name][0] if name in self._values else ""

    def has(self, name: str) -> bool:
        """Return whether a parameter is there, whatever its value."""
        return name in self._values

    def all(self, name: str) -> list[str]:
        """Return every value of a parameter."""
        return self._values.get(name, [])


_NOTHING: Final = Query({})


def parse_query(raw: bytes) -> Query:
    """Return the parameters of a query string. O(length). It never raises.

    As Go's url.ParseQuery has it, pairs with a semicolon or with a bad escape are dropped. Bytes that are no UTF-8 come
    out again as they were where a text is encoded with ``surrogateescape``.

    >>> query = parse_query(b"index=1&index=2&a=%zz&pretty")
    >>> query.get("index"), query.has("a"), query.has("pretty")
    ('1', False, True)
    """
    if not raw:
        return _NOTHING
    values: dict[str, list[str]] = {}
    for pair in raw.split(b"&"):
        if not pair or b";" in pair or _BAD_ESCAPE.search(pair):
            continue
        name, _, value = pair.partition(b"=")
        values.setdefault(_text(name), []).append(_text(value))
    return Query(values)


def _text(raw: bytes) -> str:
    """Return a name or a value without its escapes."""
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode(errors="surrogateescape")


def is_pretty(query: Query) -> bool:
    """Return whether indented JSON is asked for: by the key, unless its value is 0. Source: command/agent/http.go."""
    return query.has("pretty") and query.get("pretty") != "0"


def go_bool(text: str) -> bool | None:
    """Parse a boolean as Go's strconv.ParseBool does; None for any other text.

    >>> go_bool("T"), go_bool("false"), go_bool("yes")
    (True, False, None)
    """
    if text in _TRUE:
        return True
    return False if text in _FALSE else None


def parse_unsigned(text: str) -> int | None:
    """Parse an unsigned 64-bit number as Go's strconv.ParseUint does; None for any other text.

    >>> parse_unsigned("18446744073709551615"), parse_unsigned("18446744073709551616"), parse_unsigned("+1")
    (18446744073709551615, None, None)
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(_MAX_UNSIGNED)) or int(digits) > _MAX_UNSIGNED:
        return None
    return int(digits)


def parse_signed_error(text: str) -> int | str:
    """Parse a number as Go's strconv.Atoi does; return it, or the text of its error.

    >>> parse_signed_error("-7"), parse_signed_error("abc")
    (-7, 'strconv.Atoi: parsing "abc": invalid syntax')
    """
    is_negative = text.startswith("-")
    unsigned = text[1:] if is_negative or text.startswith("+") else text
    rest = unsigned.lstrip(_DIGITS)
    digits = unsigned.removesuffix(rest)
    number = parse_unsigned(digits)
    # Go reads digit by digit: too many of them are noticed before what follows them.
    if not digits or (rest and number is not None):
        return f"strconv.Atoi: parsing {go_quoted(text)}: invalid syntax"
    if number is None or number > _MAX_SIGNED + is_negative:
        return f"strconv.Atoi: parsing {go_quoted(text)}: value out of range"
    return -number if is_negative else number
