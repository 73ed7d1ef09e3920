"""Counts of events per type, packed into one integer.

A task keeps a count for each event type for ever (the ring shows ten events only), and a million tasks live at once.
A dictionary would cost 180 bytes and more for each, and would have to be copied for every snapshot. One integer with
a 32-bit digit per type, the common types in the low digits, costs 32 to 64 bytes, adds in one step, and is immutable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from taskfold.model.events import (
    EVENT_CLASSES,
    Driver,
    Killed,
    Killing,
    NotRestarting,
    Received,
    Restarting,
    Started,
    TaskEvent,
    TaskSetup,
    Terminated,
)

__all__ = ["UNITS", "counts_by_type", "packed"]

_BITS: Final = 32
_MASK: Final = (1 << _BITS) - 1
_COMMON: Final[tuple[type[TaskEvent], ...]] = (
    Received,
    TaskSetup,
    Started,
    Terminated,
    Restarting,
    Driver,
    Killing,
    Killed,
    NotRestarting,
)
_PLACES: Final = {cls: _BITS * place for place, cls in enumerate(dict.fromkeys((*_COMMON, *EVENT_CLASSES)))}

UNITS: Final[dict[type[TaskEvent], int]] = {cls: 1 << place for cls, place in _PLACES.items()}
"""The amount to add to the packed counts for one event of a type."""
_UNITS_BY_NAME: Final = {str(cls.__struct_config__.tag): unit for cls, unit in UNITS.items()}


def packed(counts: Mapping[str, int]) -> int:
    """Return the packed counts of these, by wire type: what `counts_by_type` took apart. Raises KeyError.

    >>> from taskfold.events import Started, Terminated
    >>> packed({"Started": 2, "Terminated": 1}) == UNITS[Started] * 2 + UNITS[Terminated]
    True
    """
    return sum(_UNITS_BY_NAME[name] * count for name, count in counts.items())


def counts_by_type(packed_counts: int) -> dict[str, int]:
    """Return the counts that are not zero, by wire type; types that nobody knows count as ``Unknown``.

    >>> from taskfold.events import Started, Terminated
    >>> counts_by_type(UNITS[Started] * 2 + UNITS[Terminated])
    {'Started': 2, 'Terminated': 1}
    """
    return {
        str(cls.__struct_config__.tag): count
        for cls in EVENT_CLASSES
        if (count := packed_counts >> _PLACES[cls] & _MASK)
    }
