"""Go's quoted text, as Nomad's messages write names and values."""

from __future__ import annotations

from typing import Final

__all__ = ["go_quoted"]

_LAST_OF_16_BITS: Final = 0xFFFF
_FIRST_RAW_BYTE: Final = 0xDC80
_LAST_RAW_BYTE: Final = 0xDCFF
_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def go_quoted(text: str) -> str:
    r"""Return a text as Go's ``%q`` prints it: printable characters stay, whatever else is escaped.

    >>> print(go_quoted('say "é"\u2028'))
    "say \"é\"\u2028"
    """
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(c if c.isprintable() and c not in _ESCAPES else _escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    """Return a character as Go escapes it."""
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii():
        return f"\\x{code:02x}"
    if _FIRST_RAW_BYTE <= code <= _LAST_RAW_BYTE:  # a byte that is no UTF-8, as surrogateescape keeps it
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code <= _LAST_OF_16_BITS else f"\\U{code:08x}"
