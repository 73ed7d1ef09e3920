"""Instants as people write them: a date, a day, how long ago, or nanoseconds that were pasted from Nomad's JSON."""

from __future__ import annotations

import re
from typing import Final

from taskfold.model.go.durations import NS_PER_SECOND, parse_duration_ns
from taskfold.model.go.timestamps import parse_time_ns

__all__ = ["INSTANTS", "is_pasted_ns", "parse_instant_ns"]

INSTANTS: Final = "2026-11-23T08:34:10Z, 2026-11-23, yesterday, or 24h (ago)"
"""Examples of them, for messages."""

_DAY_NS: Final = 86_400 * NS_PER_SECOND
_DAYS: Final = {"today": 0, "yesterday": 1}
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MINUTE: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d", re.ASCII)
_AGO: Final = re.compile(r"(?:(\d{1,6})d)?(\S*?)(?: ago)?", re.ASCII)
_DIGITS_OF_NS: Final = 19
"""Nanoseconds have so many digits from 2001 to 2286; no index of a Nomad comes near."""


def is_pasted_ns(text: str) -> bool:
    """Tell whether a text is a number of unix nanoseconds, as Nomad's JSON writes the time of an event.

    >>> is_pasted_ns("1795422850000000000"), is_pasted_ns("1042")
    (True, False)
    """
    return len(text) == _DIGITS_OF_NS and text.isascii() and text.isdigit()


def parse_instant_ns(text: str, now_ns: int) -> int:
    """Return the unix nanoseconds that a text names; what has no zone is UTC, and a duration is that long ago.

    Raises ValueError, with examples, for a text that names no instant.

    >>> from taskfold.model.go.timestamps import parse_time_ns, time_text
    >>> now_ns = parse_time_ns("2026-11-24T12:00:00Z")
    >>> for text in ("2026-11-23 08:29", "2026-11-23", "yesterday", "24h", "1d12h ago", "1795422850000000000"):
    ...     print(time_text(parse_instant_ns(text, now_ns)))
    2026-11-23T08:29:00Z
    2026-11-23T00:00:00Z
    2026-11-23T00:00:00Z
    2026-11-23T12:00:00Z
    2026-11-23T00:00:00Z
    2026-11-23T08:34:10Z
    """
    try:
        return _instant_ns(text.strip(), now_ns)
    except ValueError:
        msg = f"{text!r} is not a time such as {INSTANTS}"
        raise ValueError(msg) from None


def _instant_ns(text: str, now_ns: int) -> int:
    if is_pasted_ns(text):
        return int(text)
    if text == "now":
        return now_ns
    if text in _DAYS:
        return (now_ns // _DAY_NS - _DAYS[text]) * _DAY_NS
    ago = _AGO.fullmatch(text)
    if ago is not None and text[:1].isdigit() and (ago[1] or ago[2]) and "-" not in text:
        return now_ns - int(ago[1] or 0) * _DAY_NS - parse_duration_ns(ago[2] or "0s")
    return parse_time_ns(_completed(text)) or 0


def _completed(text: str) -> str:
    """Return an instant with what people leave out: the time of a date, the seconds of a minute."""
    if _DATE.fullmatch(text):
        return f"{text}T00:00:00Z"
    return f"{text}:00Z" if _MINUTE.fullmatch(text) else text
