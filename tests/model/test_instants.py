"""Instants as people write them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.command_line import refused, run
from taskfold import Engine, ManualClock, parse_at
from taskfold.events import Received
from taskfold.model.go.durations import duration_text
from taskfold.model.go.timestamps import parse_time_ns, time_text
from taskfold.model.instants import parse_instant_ns

NOW = "2026-11-24T12:34:56.5Z"
NOW_NS = parse_time_ns(NOW)
HOUR_NS = 3_600 * 10**9


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-23T08:34:10.519993802Z", "2026-11-23T08:34:10.519993802Z"),
        ("2026-11-23T08:34:10+02:00", "2026-11-23T06:34:10Z"),
        ("2026-11-23 08:34:10", "2026-11-23T08:34:10Z"),
        ("2026-11-23 08:29", "2026-11-23T08:29:00Z"),
        ("2026-11-23T08:29", "2026-11-23T08:29:00Z"),
        ("2026-11-23", "2026-11-23T00:00:00Z"),
        ("today", "2026-11-24T00:00:00Z"),
        ("yesterday", "2026-11-23T00:00:00Z"),
        ("now", NOW),
        ("24h", "2026-11-23T12:34:56.5Z"),
        ("90m ago", "2026-11-24T11:04:56.5Z"),
        ("7d", "2026-11-17T12:34:56.5Z"),
        ("1d12h", "2026-11-23T00:34:56.5Z"),
        (" yesterday ", "2026-11-23T00:00:00Z"),
        ("1795422850519993802", "2026-11-23T08:34:10.519993802Z"),
    ],
)
def test_an_instant_is_read_as_people_write_it(text: str, instant: str) -> None:
    assert time_text(parse_instant_ns(text, NOW_NS)) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "ago",
        "d",
        "24",
        "24x",
        "-24h",
        "--5h",
        "2026-13-01",
        "2026-11-23 8:29",
        "23.11.2026",
        "1d-2h",
        "1795422850",
        "²d",
    ],
)
def test_what_names_no_instant_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time such as 2026-11-23T08:34:10Z, 2026-11-23, yesterday, or 24h"):
        parse_instant_ns(text, NOW_NS)


@given(st.integers(0, 2**62))
def test_a_duration_of_go_is_so_long_ago(duration_ns: int) -> None:
    assert parse_instant_ns(duration_text(duration_ns), NOW_NS) == NOW_NS - duration_ns


@given(st.text(max_size=20))
def test_any_text_is_an_instant_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_instant_ns(text, NOW_NS), int)


def test_nanoseconds_that_were_pasted_are_a_time_and_every_other_number_an_index() -> None:
    assert parse_at("1795422850519993802").time_ns == 1_795_422_850_519_993_802
    assert parse_at("999999999999999999").index == 10**18 - 1
    assert parse_at("@1795422850519993802").seq == 1_795_422_850_519_993_802
    assert parse_at("24h", NOW_NS).time_ns == NOW_NS - 24 * HOUR_NS


def test_the_command_line_reads_times_as_people_write_them(tmp_path) -> None:
    log = tmp_path / "log.jsonl"
    clock = ManualClock(parse_time_ns("2026-11-23T08:00:00Z"))
    with Engine.open(log, dialect="1.1.2", clock=clock) as engine:
        engine.place({"ID": "a"})
        clock.advance(HOUR_NS)
        engine.record("a", "web", Received())

    assert "Task received" not in run("replay", log, "--at", "2026-11-23 08:30").stdout
    assert "Task received" in run("replay", log, "--at", "2026-11-23 09:00").stdout
    assert "Received" not in run("log", log, "--until", "2026-11-23").stdout
    assert "Received" in run("log", log, "--since", "2026-11-23").stdout
    refused(
        run("log", log, "--since", "last week"), "'last week' is not a time such as 2026-11-23T08:34:10Z, 2026-11-23"
    )
