"""Instants are written and read as Go does, with all nanoseconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfold.model.go.timestamps import ZERO_TIME, parse_time_ns, time_text

INSTANTS = [
    (0, "1970-01-01T00:00:00Z"),
    (1, "1970-01-01T00:00:00.000000001Z"),
    (-1, "1969-12-31T23:59:59.999999999Z"),
    (1_447_806_038_427_841_000, "2015-11-18T00:20:38.427841Z"),
    (1_795_422_850_519_993_802, "2026-11-23T08:34:10.519993802Z"),
    (1_795_422_850_500_000_000, "2026-11-23T08:34:10.5Z"),
    (253_402_300_799_999_999_999, "9999-12-31T23:59:59.999999999Z"),
]


@pytest.mark.parametrize(("time_ns", "text"), INSTANTS)
def test_an_instant_is_written_and_read_with_all_nanoseconds(time_ns: int, text: str) -> None:
    assert time_text(time_ns) == text
    assert parse_time_ns(text) == time_ns


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_instant_of_64_bits_comes_back(time_ns: int) -> None:
    assert parse_time_ns(time_text(time_ns)) == time_ns


def test_other_spellings_of_an_instant_are_read_and_the_zero_time_is_none() -> None:
    assert parse_time_ns(ZERO_TIME) is None
    for text in ("2015-11-18T01:20:38.5+01:00", "2015-11-17T19:50:38.5-04:30", "2015-11-18t00:20:38.500z"):
        assert parse_time_ns(text) == 1_447_806_038_500_000_000


NO_INSTANTS = [
    "",
    "now",
    "2015-11-18",
    "2015-11-18T00:20Z",
    "2015-13-18T00:20:38Z",
    "2015-11-18T25:20:38Z",
    "0000-01-01T00:00:00Z",
    "\u0662026-11-23T08:34:10Z",
    "2026-11-23T08:34:10+99:99",
    "9999-12-31T23:59:59-01:00",
]


@pytest.mark.parametrize("text", NO_INSTANTS)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time_ns(text)
