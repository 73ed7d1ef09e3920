"""``taskfold verify``: a comparison of the records' fold with the observations, as text or JSON."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from taskfold.cli import _options as options
from taskfold.cli._guard import NO, Notes, write_line
from taskfold.cli._progress import Progress
from taskfold.cli._screen import Cell, Column, Screen, Table
from taskfold.cli._words import count_text, one_line
from taskfold.sources.verify import Divergence, Verification
from taskfold.sources.verify import verify as verify_sources

__all__ = ["verify"]

_COLUMNS: Final = (
    Column("AT", least=16),
    Column("INDEX", right=True),
    Column("ALLOC", least=8),
    Column("PATH", least=12),
    Column("EXPECTED", least=12),
    Column("FOUND"),
)


@options.command()
@options.sources_argument
@options.skip_bad_option
@options.format_option("table", "json")
def verify(sources: tuple[str, ...], format: str, *, skip_bad: bool) -> int:
    """Check that the records of a source fold to what was observed, at every index; or that a log is intact."""
    with Progress("verifying"):
        verification = verify_sources(*sources, on_note=Notes(), skip_bad=skip_bad)
    if format == "json":
        write_line(_to_json(verification))
    else:
        _show(Screen(), verification)
    return 0 if verification.agrees else NO


def _show(screen: Screen, verification: Verification) -> None:
    """Write the counts, each divergence, and the verdict in words."""
    lines = _lines(verification)
    width = max(len(name) for name, _, _ in lines)
    for name, value, remark in lines:
        screen.line(f"{name:<{width}}  {value}{'  ' if remark else ''}{remark}")
    if verification.divergences:
        screen.line("")
        Table(screen, _COLUMNS, wraps=True).show(map(_row, verification.divergences))
        more = verification.divergences_total - len(verification.divergences)
        if more:
            screen.caption(f"and {more:,} more")
    screen.line("")
    screen.line(_verdict(verification), style="green" if verification.agrees else "bold red")


def _lines(verification: Verification) -> list[tuple[str, int | str, str]]:
    """Return each count with its name and a remark."""
    lines: list[tuple[str, int | str, str]] = [
        ("dialect", verification.dialect or "-", ""),
        ("allocations", verification.allocations, ""),
        ("tasks", verification.tasks, ""),
    ]
    if verification.observations:
        lines += [
            ("observations", verification.observations, ""),
            ("  compared", verification.compared, "with the fold, every key"),
            ("  repeats", verification.repeats, "told nothing new"),
            ("  conflicts", verification.conflicts, "contradict another observation of their index"),
        ]
    lines.append(("records", verification.records.total(), ""))
    lines += [(f"  {name}", number, "") for name, number in sorted(verification.records.items(), key=_common_first)]
    return [
        *lines,
        ("gaps", verification.gaps, "places where events were lost"),
        ("corrections (Observed)", verification.observed, "that the lifecycle table cannot explain"),
        ("irregular events", verification.irregular, "that the lifecycle table refuses"),
        ("divergences", verification.divergences_total, ""),
    ]


def _common_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _row(divergence: Divergence) -> list[Cell]:
    wanted_text, actual = _value_text(divergence.expected_value), _value_text(divergence.actual_value)
    return [
        one_line(divergence.position),
        str(divergence.index),
        one_line(divergence.alloc),
        one_line(divergence.path),
        wanted_text,
        actual,
    ]


def _value_text(value: Any) -> str:
    if value is None or value is msgspec.UNSET:
        return "nothing"
    return one_line(value.decode(errors="replace") if isinstance(value, bytes) else str(value))


def _verdict(verification: Verification) -> str:
    if not verification.agrees:
        return f"It does not agree: {count_text(verification.divergences_total, 'divergence')} found."
    if verification.observations:
        return "It agrees: at every index the records fold to exactly what was observed."
    return "It agrees: every position, version and index of the log follows the one before."


def _to_json(verification: Verification) -> bytes:
    """Return the report as a JSON object."""
    document = {
        "dialect": verification.dialect,
        "agrees": verification.agrees,
        "allocations": verification.allocations,
        "tasks": verification.tasks,
        "observations": verification.observations,
        "compared": verification.compared,
        "repeats": verification.repeats,
        "conflicts": verification.conflicts,
        "records": dict(sorted(verification.records.items())),
        "gaps": verification.gaps,
        "observed": verification.observed,
        "irregular": verification.irregular,
        "divergences_total": verification.divergences_total,
        "divergences": verification.divergences,
    }
    return msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=4)
