"""Instants as Go writes and reads them: RFC 3339 with up to nine digits of fraction, zeros trimmed.

Python's ``datetime`` cuts nanoseconds, so that instants are whole unix nanoseconds here. Source: ``time.RFC3339Nano``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from taskfold.model.go.durations import NS_PER_SECOND

__all__ = ["ZERO_TIME", "ZERO_TIME_NS", "is_canonical_time", "is_known_time", "parse_time_ns", "time_text"]

ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""How Nomad before 0.10.0 writes an instant that was never set; later versions write ``null``."""
ZERO_TIME_NS: Final = -6_795_364_578_871_345_152
"""Go's zero time as unix nanoseconds, overflown in 64 bits: some drivers send it."""

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:[.,](\d+))?(Z|z|[+-]\d\d:\d\d)?", re.ASCII)
_LONGEST: Final = len("2026-11-23T08:34:10.519993802Z")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1024)
def _seconds_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _parse_seconds(text: str) -> int:
    return int((datetime.fromisoformat(text).astimezone(UTC) - _EPOCH).total_seconds())


def is_known_time(time_ns: int | None) -> bool:
    """Tell whether this is an instant (unix nanoseconds): neither nothing nor Go's zero time."""
    return time_ns is not None and time_ns not in {0, ZERO_TIME_NS}


def is_canonical_time(text: str) -> bool:
    """Tell whether an RFC 3339 instant is written as `time_text` writes it: in UTC, zeros of the fraction trimmed."""
    if text.endswith("Z") and (len(text) == len(ZERO_TIME) or (text[-2] != "0" and len(text) <= _LONGEST)):
        return text[10:11] == "T"
    return False


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
