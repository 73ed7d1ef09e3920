"""The maps of a dialect do what its lifecycle says, alone and together."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from taskfold import events as ev
from taskfold.columnar.maps import CODES, ILLEGAL, NO_RULE, STATE_NAMES, TYPES, maps_of, states_after
from taskfold.errors import DialectError
from taskfold.fold.lifecycle import TABLES, lifecycle_of


def state_after(dialect: str, state: int, *types: type) -> int:
    """Return the state after some events, by composing their maps; a state is its constant map."""
    maps = maps_of(dialect)
    total = state
    for cls in types:
        total = int(maps.compose[total << 4 | maps.of_type[CODES[cls]]])
    return total


@pytest.mark.parametrize("dialect", TABLES)
def test_a_map_does_what_the_lifecycle_says_in_each_state(dialect: str) -> None:
    rules = lifecycle_of(dialect).rules
    for cls, (code, state) in product(TYPES, enumerate(STATE_NAMES)):
        target = rules[cls].targets[state] if cls in rules else state
        after = STATE_NAMES[state_after(dialect, code, cls)]
        assert after == (state if target is None else target), (cls, state)
        told = maps_of(dialect).targets[4 * CODES[cls] + code]
        assert told == (NO_RULE if cls not in rules else ILLEGAL if target is None else STATE_NAMES.index(target))


@pytest.mark.parametrize("dialect", TABLES)
def test_composing_two_maps_is_one_after_the_other(dialect: str) -> None:
    maps = maps_of(dialect)
    for first, second, state in product(range(maps.size), range(maps.size), range(4)):
        both = maps.compose[first << 4 | second]
        step = maps.compose[maps.compose[state << 4 | first] << 4 | second]
        assert maps.compose[state << 4 | both] == step


@pytest.mark.parametrize(("dialect", "size"), [("0.5.0", 10), ("0.5.6", 10), ("1.1.2", 7)])
def test_the_maps_of_a_dialect_are_few(dialect: str, size: int) -> None:
    assert maps_of(dialect).size == size


def test_a_map_of_0_5_6_is_another_one_when_it_is_applied_twice() -> None:
    maps = maps_of("0.5.6")
    both = maps.compose[maps.of_type[CODES[ev.Killing]] << 4 | maps.of_type[CODES[ev.Restarting]]]
    running = STATE_NAMES.index("running")
    assert STATE_NAMES[maps.compose[running << 4 | both]] == "pending"
    assert STATE_NAMES[maps.compose[running << 4 | maps.compose[both << 4 | both]]] == "dead"


@pytest.mark.parametrize("dialect", TABLES)
def test_a_scan_is_what_one_event_after_the_other_does(dialect: str) -> None:
    random = np.random.default_rng(1)
    maps = maps_of(dialect)
    for size in (1, 2, 3, 17, 200):
        moves = random.integers(0, maps.size, size).astype(np.uint8)
        starts = np.flatnonzero(np.append(True, random.random(size - 1) < 0.1))
        states = random.integers(0, 4, len(starts)).astype(np.uint8)
        state, expected = np.uint8(0), []
        for row, move in enumerate(moves):
            if row in starts:
                state = states[np.searchsorted(starts, row)]
            state = maps.compose[state << 4 | move]
            expected.append(state)
        assert states_after(moves, starts, states, maps.compose).tolist() == expected


def test_a_dialect_that_is_none_is_refused() -> None:
    with pytest.raises(DialectError, match=r"1\.0"):
        maps_of("1.0")
