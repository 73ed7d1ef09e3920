"""The words of the command line: instants, spans of time, sizes and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from taskfold.model.go.timestamps import is_known_time
from taskfold.model.words import count_text, visible

__all__ = [
    "age_text",
    "bytes_text",
    "count_text",
    "instant_text",
    "one_line",
    "short_ids",
    "visible",
]

_NS_PER_MS: Final = 1_000_000
_NS_PER_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_TEN_SECONDS: Final = 10
_KILO: Final = 1000
_ID_LENGTHS: Final = (8, 13, 18, 23)
"""The lengths at which a UUID may be cut off: before its dashes."""


def one_line(text: str) -> str:
    r"""Return a text on one line.

    >>> one_line("No such option.\n  Did you mean it?")
    'No such option. Did you mean it?'
    """
    return visible(" ".join(text.split()))


def instant_text(time_ns: int | None) -> str:
    """Return an instant in UTC with milliseconds; a dash for one that is not known.

    >>> instant_text(1_795_422_850_519_993_802), instant_text(0)
    ('2026-11-23 08:34:10.519', '-')
    """
    if time_ns is None or not is_known_time(time_ns):
        return "-"
    seconds, rest = divmod(time_ns, _NS_PER_SECOND)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest // _NS_PER_MS:03d}"
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"


def age_text(age_ns: int) -> str:
    """Return a span of time in at most two units.

    >>> [age_text(seconds * 10**9) for seconds in (0, 9, 59, 90, 7_260, 200_000)]
    ['0.0s', '9.0s', '59s', '1m30s', '2h01m', '2d07h']
    """
    seconds = age_ns // _NS_PER_SECOND
    if seconds < _TEN_SECONDS:
        return f"{age_ns // 100 / 10 / _NS_PER_MS:.1f}s"
    if seconds < _MINUTE:
        return f"{seconds}s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}m{seconds % _MINUTE:02d}s"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h{seconds % _HOUR // _MINUTE:02d}m"
    return f"{seconds // _DAY}d{seconds % _DAY // _HOUR:02d}h"


def bytes_text(size: int) -> str:
    """Return a size in the unit that reads best.

    >>> bytes_text(640), bytes_text(11_842), bytes_text(129_200_000)
    ('640 B', '11.8 kB', '129.2 MB')
    """
    if size < _KILO:
        return f"{size} B"
    scaled, unit = size / _KILO, "kB"
    for larger in ("MB", "GB", "TB"):
        if scaled < _KILO:
            break
        scaled, unit = scaled / _KILO, larger
    return f"{scaled:.1f} {unit}"


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return the shortest usual form of each ID: eight characters, unless two IDs share them. O(IDs).

    >>> short_ids(["96a085a8-084d-c810-328b-418ef77f6ea5", "2032"])
    {'96a085a8-084d-c810-328b-418ef77f6ea5': '96a085a8', '2032': '2032'}
    """
    short = {}
    ambiguous = list(ids)
    for length in _ID_LENGTHS:
        counts = Counter(alloc[:length] for alloc in ambiguous)
        short.update({alloc: alloc[:length] for alloc in ambiguous if counts[alloc[:length]] == 1})
        ambiguous = [alloc for alloc in ambiguous if counts[alloc[:length]] > 1]
    return short | {alloc: alloc for alloc in ambiguous}
