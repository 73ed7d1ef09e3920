"""``taskfold verify``: whether the records fold to what was observed, as a report in text or JSON."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from taskfold.cli import _options as options
from taskfold.cli._guard import NO, Notes, write_line
from taskfold.cli._progress import Progress
from taskfold.cli._screen import Cell, Column, Screen, Table
from taskfold.cli._words import count_text, one_line
from taskfold.sources.verify import Divergence, Report
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
@options.format_option("table", "json")
def verify(sources: tuple[str, ...], format: str) -> int:
    """Check that the records fold to what was observed, at every index; or that a log is what it should be."""
    with Progress("verifying"):
        report = verify_sources(*sources, on_note=Notes())
    if format == "json":
        write_line(_to_json(report))
    else:
        _show_report(Screen(), report)
    return 0 if report.agrees else NO


def _show_report(screen: Screen, report: Report) -> None:
    """Write the counts, each divergence, and the verdict in words."""
    lines = _lines(report)
    width = max(len(name) for name, _, _ in lines)
    for name, value, remark in lines:
        screen.line(f"{name:<{width}}  {value}{'  ' if remark else ''}{remark}")
    if report.divergences:
        screen.line("")
        Table(screen, _COLUMNS, wraps=True).show(map(_row, report.divergences))
        more = report.divergences_total - len(report.divergences)
        if more:
            screen.caption(f"and {more:,} more")
    screen.line("")
    screen.line(_verdict(report), style="green" if report.agrees else "bold red")


def _lines(report: Report) -> list[tuple[str, int | str, str]]:
    """Return each count with its name and a remark."""
    lines: list[tuple[str, int | str, str]] = [
        ("dialect", report.dialect or "-", ""),
        ("allocations", report.allocations, ""),
        ("tasks", report.tasks, ""),
    ]
    if report.observations:
        lines += [
            ("observations", report.observations, ""),
            ("  compared", report.compared, "with the fold, every key"),
            ("  repeats", report.repeats, "told nothing new"),
            ("  conflicts", report.conflicts, "say something else than another one of their index"),
        ]
    lines.append(("records", report.records.total(), ""))
    lines += [(f"  {name}", number, "") for name, number in sorted(report.records.items(), key=_common_first)]
    return [
        *lines,
        ("gaps", report.gaps, "places where events were lost"),
        ("corrections (Observed)", report.observed, "that the lifecycle table cannot explain"),
        ("irregular events", report.irregular, "that the lifecycle table refuses"),
        ("divergences", report.divergences_total, ""),
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


def _verdict(report: Report) -> str:
    if not report.agrees:
        return f"It does not agree: {count_text(report.divergences_total, 'divergence')} found."
    if report.observations:
        return "It agrees: at every index the records fold to exactly what was observed."
    return "It agrees: every position, version and index of the log follows the one before."


def _to_json(report: Report) -> bytes:
    """Return the report as a JSON object."""
    document = {
        "dialect": report.dialect,
        "agrees": report.agrees,
        "allocations": report.allocations,
        "tasks": report.tasks,
        "observations": report.observations,
        "compared": report.compared,
        "repeats": report.repeats,
        "conflicts": report.conflicts,
        "records": dict(sorted(report.records.items())),
        "gaps": report.gaps,
        "observed": report.observed,
        "irregular": report.irregular,
        "divergences_total": report.divergences_total,
        "divergences": report.divergences,
    }
    return msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=4)
