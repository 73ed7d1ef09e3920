"""Durations as Go writes and reads them. Source: ``time.Duration.String`` and ``time.ParseDuration``."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["NS_PER_SECOND", "duration_text", "parse_duration_ns"]

NS_PER_SECOND = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_SECOND

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NS_PER_SECOND,
    "m": NS_PER_MINUTE,
    "h": 60 * NS_PER_MINUTE,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MAX_NS = 2**63 - 1
_DIGITS: Final = 20
"""More than any number has that fits."""
_SHOWN_LENGTH: Final = 80
"""How much of a text is shown that is no duration."""


def duration_text(duration_ns: int) -> str:
    """Return a duration in nanoseconds as Go prints it, largest unit first.

    >>> duration_text(0), duration_text(1_500), duration_text(90_000_000_000), duration_text(86_400_000_000_000)
    ('0s', '1.5µs', '1m30s', '24h0m0s')
    """
    if duration_ns < NS_PER_SECOND:
        return _short_text(duration_ns)
    if duration_ns < NS_PER_MINUTE:
        return f"{_decimal(duration_ns, 9)}s"
    minutes, second_part = divmod(duration_ns, NS_PER_MINUTE)
    hours, minute = divmod(minutes, 60)
    text = f"{minute}m{_decimal(second_part, 9)}s"
    return f"{hours}h{text}" if hours else text


def _short_text(duration_ns: int) -> str:
    """Return a duration of less than a second, which may be negative, in the largest unit that it reaches."""
    if duration_ns <= 0:
        return f"-{duration_text(-duration_ns)}" if duration_ns else "0s"
    if duration_ns >= _UNITS_NS["ms"]:
        return f"{_decimal(duration_ns, 6)}ms"
    return f"{_decimal(duration_ns, 3)}µs" if duration_ns >= _UNITS_NS["µs"] else f"{duration_ns}ns"


def _decimal(value: int, digits: int) -> str:
    """Return a value with so many digits after the point, exact, without trailing zeros."""
    text = str(value).zfill(digits + 1)
    fraction = text[-digits:].rstrip("0")
    return f"{text[:-digits]}.{fraction}" if fraction else text[:-digits]


def parse_duration_ns(text: str) -> int:
    """Return the nanoseconds of a duration in Go's syntax, such as ``1m30s``, ``.5s`` or ``-1.5h``.

    Raises ValueError where Go's ``time.ParseDuration`` refuses the text: a missing unit, days, over 292 years.

    >>> parse_duration_ns("1m30s"), parse_duration_ns("0")
    (90000000000, 0)
    """
    body = text[1:] if text[:1] in {"+", "-"} else text
    if body == "0":
        return 0
    total, position = 0, 0
    while position < len(body):
        part = _PART.match(body, position)
        if part is None:
            break
        whole, _, fraction = part[1].partition(".")
        unit = _UNITS_NS[part[2]]
        # Python reads no number of thousands of digits; that many are too many anyway, or mean nothing after a point.
        whole, fraction = whole.lstrip("0")[:_DIGITS], fraction[:_DIGITS]
        total += int(whole or "0") * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
        position = part.end()
    if not body or position < len(body) or total > _MAX_NS + (text[0] == "-"):
        beginning = text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"
        msg = f"{beginning!r} is not a duration such as 10s, 1m30s or 250ms"
        raise ValueError(msg)
    return -total if text[0] == "-" else total
