"""``taskfold simulate``: a simulated cluster, as load for a demo or a benchmark, or to look for defects."""

from __future__ import annotations

from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import NO, Unanswerable
from taskfold.cli._screen import Screen
from taskfold.cli._words import count_text
from taskfold.log.contract import StoredLog
from taskfold.log.names import shown_name
from taskfold.log.registry import open_log
from taskfold.model.dialect import DEFAULT_DIALECT
from taskfold.model.go.durations import duration_text

if TYPE_CHECKING:
    from taskfold.testing import Summary

__all__ = ["simulate"]


@options.command()
@click.option("--allocations", type=click.IntRange(min=1), default=100, show_default=True, help="How many at a time.")
@click.option("--seed", type=int, default=0, show_default=True, help="What happens: the same seed, the same records.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="How long, in the time of the cluster.",
)
@options.dialect_option(f"The dialect of the cluster: {DEFAULT_DIALECT} unless told.")
@click.option("--into", metavar="LOG", help="A new log for the records: x.db, x.jsonl or postgresql://…")
@click.option("--only", type=options.NUMBERS, help="Only the allocations in these places of the cluster.")
@click.option("--operations", type=options.NUMBERS, help="Only these of the operations from outside, or none.")
def simulate(
    allocations: int,
    seed: int,
    hours: float,
    dialect: str | None,
    into: str | None,
    only: tuple[int, ...] | None,
    operations: tuple[int, ...] | None,
) -> int:
    """Simulate a cluster that has every trouble there is, and check its engine after every step.

    Nodes are lost or cut off, agents and the scheduler are restarted, reports get lost or come late or twice, processes
    fail, operators stop and restart. All of it follows from the seed. Where an invariant is broken, the command that
    shows it again is printed, and the least of the seed that breaks it.
    """
    from taskfold.testing import Simulation, counterexample_of

    dialect = dialect or DEFAULT_DIALECT
    with ExitStack() as stack:
        log = None if into is None else _new_log(into, dialect, stack)
        try:
            simulation = Simulation(
                allocations=allocations,
                seed=seed,
                hours=hours,
                dialect=dialect,
                log=log,
                only=only,
                operations=operations,
            )
        except ValueError as error:
            raise Unanswerable(str(error)) from None
        began = perf_counter()
        summary = simulation.run()
        seconds = perf_counter() - began
    screen = Screen()
    for line in _lines(summary, seconds, into):
        screen.line(line)
    if not summary.violations:
        return 0
    screen.line("")
    for line in counterexample_of(simulation, summary.violations[0]).lines():
        screen.line(line)
    return NO


def _new_log(name: str, dialect: str, stack: ExitStack) -> StoredLog:
    """Return a log without a record. Raises Unanswerable, and LogError of the store."""
    log = stack.enter_context(open_log(name, dialect))
    if log.seq:
        raise Unanswerable(f"{shown_name(name)}: holds {count_text(log.seq, 'record')} already: name a new log")
    return log


def _lines(summary: Summary, seconds: float, into: str | None) -> list[str]:
    """Return what happened, a count a line."""
    place = "" if into is None else f", into {shown_name(into)}"
    rate = f"{summary.records / seconds:,.0f} a second{place}"
    lived = duration_text(summary.simulated_ns // 10**9 * 10**9)
    crashes = count_text(summary.crashes, "time")
    counts = [
        (
            "allocations",
            summary.allocations,
            f"in {lived} of the cluster's time",
        ),
        ("reports", summary.reports, f"{summary.lost:,} lost on the way, {summary.repeated:,} repeated"),
        ("records", summary.records, rate),
        ("restarts", summary.restarts, ""),
        ("deaths", summary.deaths, f"{summary.failures:,} of tasks that failed"),
        (
            "operations",
            summary.operations,
            f"and the scheduler went on from its log {crashes}",
        ),
        ("violations", len(summary.violations), ""),
    ]
    width = max(len(f"{count:,}") for _, count, _ in counts)
    return [f"{name:<12} {count:>{width},}  {remark}".rstrip() for name, count, remark in counts]
