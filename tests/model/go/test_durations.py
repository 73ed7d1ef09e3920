"""Durations are written and read as Go does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfold.model.go.durations import duration_text, parse_duration_ns

SECOND = 1_000_000_000
DURATIONS = [
    (0, "0s"),
    (1, "1ns"),
    (-1, "-1ns"),
    (999, "999ns"),
    (1_000, "1µs"),
    (1_500, "1.5µs"),
    (1_001, "1.001µs"),
    (207_860_561, "207.860561ms"),
    (250_000_000, "250ms"),
    (999_999_999, "999.999999ms"),
    (SECOND, "1s"),
    (2 * SECOND, "2s"),
    (10 * SECOND, "10s"),
    (15_234_567_891, "15.234567891s"),
    (59_999_999_999, "59.999999999s"),
    (60 * SECOND, "1m0s"),
    (90 * SECOND, "1m30s"),
    (300 * SECOND, "5m0s"),
    (3_600 * SECOND, "1h0m0s"),
    (3_600 * SECOND + 1, "1h0m0.000000001s"),
    (86_400 * SECOND, "24h0m0s"),
    (-90 * SECOND - 500_000_000, "-1m30.5s"),
    (2**63 - 1, "2562047h47m16.854775807s"),
    (-(2**63), "-2562047h47m16.854775808s"),
]


@pytest.mark.parametrize(("duration_ns", "text"), DURATIONS)
def test_a_duration_is_written_and_read_as_go_does(duration_ns: int, text: str) -> None:
    assert duration_text(duration_ns) == text
    assert parse_duration_ns(text) == duration_ns


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**12), 10**12))
def test_every_duration_of_64_bits_comes_back(duration_ns: int) -> None:
    assert parse_duration_ns(duration_text(duration_ns)) == duration_ns


SPELLINGS = [
    ("0", 0),
    ("-0", 0),
    (".5s", SECOND // 2),
    ("1.s", SECOND),
    ("+1s", SECOND),
    ("-1.5h", -5_400 * SECOND),
    ("1us", 1_000),
    ("1µs", 1_000),
    ("1\u03bcs", 1_000),  # the Greek letter, which Go reads as well
    ("1m1m", 120 * SECOND),
    ("0.0000000001s", 0),
    ("1h1ms", 3_600 * SECOND + 1_000_000),
]


@pytest.mark.parametrize(("text", "duration_ns"), SPELLINGS)
def test_other_spellings_of_a_duration_are_read(text: str, duration_ns: int) -> None:
    assert parse_duration_ns(text) == duration_ns


NO_DURATIONS = [
    "",
    "-",
    "+",
    "5",
    "1d",
    " 1s",
    "1s ",
    "1s500",
    "1e3ms",
    ".s",
    "s",
    "--1s",
    "1.5.5s",
    "2562048h",
    "1S",
    "\u0663s",  # another script's digit
]


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_what_go_refuses_as_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 10s"):
        parse_duration_ns(text)
