"""Go's text forms of durations and instants, as Nomad's messages and JSON write them.

Source: Go's ``time.Duration.String`` and RFC 3339 with up to nine digits of fraction, zeros trimmed.
Python's ``datetime`` cuts nanoseconds, so instants are handled as integers of nanoseconds here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

__all__ = [
    "ZERO_TIME",
    "ZERO_TIME_NS",
    "duration_text",
    "is_canonical_time",
    "is_known_time",
    "parse_duration_ns",
    "parse_time_ns",
    "time_text",
]

NS_PER_SECOND = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_SECOND

ZERO_TIME = "0001-01-01T00:00:00Z"
ZERO_TIME_NS: Final = -6_795_364_578_871_345_152
"""What Go makes of its zero time as unix nanoseconds, which 64 bits cannot hold: some drivers send it."""
"""How Nomad before 0.10.0 writes an instant that was never set; later versions write ``null``."""

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
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:[.,](\d+))?(Z|z|[+-]\d\d:\d\d)?", re.ASCII)
_MAX_NS = 2**63 - 1
_DIGITS: Final = 20
"""More than any number has that fits."""


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


_SHOWN_LENGTH: Final = 80
"""How much of a text is shown that is no duration."""


@lru_cache(maxsize=1024)
def _seconds_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _parse_seconds(text: str) -> int:
    return int((datetime.fromisoformat(text).astimezone(UTC) - _EPOCH).total_seconds())


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_known_time(time_ns: int | None) -> bool:
    """Tell whether this is an instant (unix nanoseconds): neither nothing nor Go's zero time."""
    return time_ns is not None and time_ns not in {0, ZERO_TIME_NS}


def is_canonical_time(text: str) -> bool:
    """Tell whether an RFC 3339 instant is written as `time_text` writes it: in UTC, zeros of the fraction trimmed."""
    if text.endswith("Z") and (len(text) == len(ZERO_TIME) or (text[-2] != "0" and len(text) <= _LONGEST)):
        return text[10:11] == "T"
    return False


_LONGEST: Final = len("2026-11-23T08:34:10.519993802Z")


def time_text(time_ns: int) -> str:
    """Return an instant (unix nanoseconds) as RFC 3339 in UTC, zeros of the fraction trimmed, as Go writes it.

    >>> time_text(1_447_806_038_427_841_000), time_text(1_795_422_850_000_000_000)
    ('2015-11-18T00:20:38.427841Z', '2026-11-23T08:34:10Z')
    """
    seconds, fraction = divmod(time_ns, NS_PER_SECOND)
    text = _seconds_text(seconds)
    return f"{text}.{str(fraction).zfill(9).rstrip('0')}Z" if fraction else f"{text}Z"


def parse_time_ns(text: str) -> int | None:
    """Return the unix nanoseconds of an RFC 3339 instant, or None for Go's zero time.

    Raises ValueError when the text is no instant.

    >>> parse_time_ns("2026-11-23T08:34:10.519993802Z")
    1795422850519993802
    >>> parse_time_ns("0001-01-01T00:00:00Z") is None
    True
    """
    if text == ZERO_TIME:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        msg = f"{text!r} is not an instant such as 2026-11-23T08:34:10.519993802Z"
        raise ValueError(msg)
    try:
        seconds = _parse_seconds(match[1].upper() + (match[3] or "Z").upper())
    except OverflowError:
        msg = f"{text!r} is outside the years 1 to 9999"
        raise ValueError(msg) from None
    return seconds * NS_PER_SECOND + int((match[2] or "0")[:9].ljust(9, "0"))
