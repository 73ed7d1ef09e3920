"""The lifecycle as maps over states: made from the rules of a dialect, and composed by a look-up.

An event that is illegal leaves the state as it is, so that every event is a total map over four states: pending,
running, dead, and the empty one that an `Observed` or a `Gap` may set. The maps of a dialect, with the constants that
corrections add, close under composition to 7 (1.1.2) or 10 (0.5.0, 0.5.6) of the 256 that there are. So a map is a
code below 16, the composition of two is a look-up in 256 bytes, and the states after many events are a prefix scan.

A map that is applied twice is not always the map: `Killing` and then `Restarting` moves a running task to pending in
0.5.6, and to dead the second time. So the windows of a scan may touch, and may never overlap.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taskfold.fold.lifecycle import STATES, lifecycle_of
from taskfold.model.events import EVENT_CLASSES, TaskEvent
from taskfold.model.record import INTERNAL_EVENTS, InternalEvent

__all__ = ["CODES", "ILLEGAL", "NO_RULE", "STATE_NAMES", "TASK_EVENTS", "TYPES", "Maps", "maps_of", "states_after"]

Booleans: TypeAlias = NDArray[np.bool_]
Bytes: TypeAlias = NDArray[np.uint8]
Integers: TypeAlias = NDArray[np.int64]

STATE_NAMES: Final = ("", *STATES)
"""The states; the code of one is its place. The empty one is what a Nomad has not set yet."""
ILLEGAL: Final = 4
"""The target of an event that the lifecycle refuses."""
NO_RULE: Final = 5
"""The target of an event that is not in the dialect's table."""

TYPES: Final[tuple[type[TaskEvent | InternalEvent], ...]] = (*EVENT_CLASSES, *INTERNAL_EVENTS)
"""The types of events; the code of one is its place. Task events come first."""
TASK_EVENTS: Final = len(EVENT_CLASSES)
"""The limit of the codes of task events."""
CODES: Final[dict[type, int]] = {cls: code for code, cls in enumerate(TYPES)}

_STATES: Final = range(len(STATE_NAMES))
_IDENTITY: Final = tuple(_STATES)
_MOST: Final = 16
"""The most maps that fit the look-up."""


class Maps(NamedTuple):
    """The maps of a dialect; those below 4 are the constants, so that the code of a state is its constant map."""

    of_type: Bytes
    """The map of each type of event."""
    compose: Bytes
    """The map that two have together, at 16 times the first plus the second."""
    targets: Bytes
    """The state that follows, at 4 times the type plus the state before; or `ILLEGAL`, or `NO_RULE`."""
    identity: int
    """The map that keeps every state."""
    size: int
    """How many maps there are."""


@cache
def maps_of(dialect: str) -> Maps:
    """Return the maps of a dialect: those of its rules, the constants, the identity, and their compositions.

    >>> maps_of("1.1.2").size, maps_of("0.5.6").size
    (7, 10)

    Raises DialectError for a name of none.
    """
    targets = np.full((len(TYPES), len(STATE_NAMES)), NO_RULE, np.uint8)
    moves = [_IDENTITY] * len(TYPES)
    for cls, rule in lifecycle_of(dialect).rules.items():
        following = [rule.targets[state] for state in STATE_NAMES]
        codes = [ILLEGAL if state is None else STATE_NAMES.index(state) for state in following]
        targets[CODES[cls]] = codes
        moves[CODES[cls]] = tuple(
            before if code == ILLEGAL else code for before, code in zip(_STATES, codes, strict=True)
        )
    maps = _closure([(state,) * len(STATE_NAMES) for state in _STATES], [_IDENTITY, *moves])
    assert len(maps) <= _MOST, f"the maps of {dialect} do not fit the look-up"
    compose = np.zeros((_MOST, _MOST), np.uint8)
    for first, before in enumerate(maps):
        for second, after in enumerate(maps):
            compose[first, second] = maps.index(_together(before, after))
    of_type = np.array([maps.index(move) for move in moves], np.uint8)
    return Maps(of_type, compose.ravel(), targets.ravel(), maps.index(_IDENTITY), len(maps))


def _closure(constants: list[tuple[int, ...]], moves: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the constants, the moves, and everything that they have together."""
    maps = constants + sorted(set(moves) - set(constants))
    for before in maps:  # it grows meanwhile
        for after in moves:
            if (both := _together(before, after)) not in maps:
                maps.append(both)
    return maps


def _together(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    """Return the map that is one map, and then another."""
    return tuple(after[state] for state in before)


def states_after(maps: Bytes, starts: Integers, states: Bytes, compose: Bytes) -> Bytes:
    """Return the state after each row: a segmented prefix scan by doubling. O(rows × log of the longest run).

    The rows are grouped by task; ``starts`` are the first rows of the groups, ``states`` the states before them. Only
    rows without a constant yet take part in a step, so that most dialects' events need one or two.
    """
    total = maps.copy()
    total[starts] = compose[(states << 4) | maps[starts]]
    rows, step = np.flatnonzero(total >= len(STATE_NAMES)), 1
    while rows.size:
        total[rows] = compose[(total[rows - step] << 4) | total[rows]]
        rows, step = rows[total[rows] >= len(STATE_NAMES)], step * 2
    return total
