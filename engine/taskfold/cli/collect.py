"""``taskfold collect``: drop ended allocations from the state, and compact the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import NO, Unanswerable
from taskfold.cli._progress import Progress
from taskfold.cli._words import count_text
from taskfold.fold.status import CLIENT_TERMINAL
from taskfold.live.background import Retainer
from taskfold.live.engine import Engine
from taskfold.live.retention import Retention
from taskfold.log.names import shown_name
from taskfold.log.registry import is_new_log

__all__ = ["collect", "compact_option", "retainer_of", "retention_of", "retention_options"]

_COMPACT_SECONDS: Final = 3_600.0


def retention_options(command: options.Command) -> options.Command:
    """Add the options of a retention."""
    status = click.option(
        "--collect-status",
        "statuses",
        type=click.Choice(sorted(CLIENT_TERMINAL)),
        multiple=True,
        help="Collect only allocations with this status; by default, all ended ones.",
    )
    keep = click.option(
        "--collect-beyond",
        "keep",
        type=click.IntRange(0),
        metavar="N",
        help="Keep the newest N ended allocations; collect the others.",
    )
    age = click.option(
        "--collect-after",
        "dead_for_ns",
        type=options.DURATION,
        help="Collect allocations that ended longer ago, such as 24h.",
    )
    return age(keep(status(command)))


def retention_of(dead_for_ns: int | None, keep: int | None, statuses: tuple[str, ...]) -> Retention | None:
    """Return the retention that the options make; None without any. Raises Unanswerable."""
    if dead_for_ns is None and keep is None:
        if statuses:
            raise Unanswerable("--collect-status needs --collect-after or --collect-beyond")
        return None
    if dead_for_ns is not None and dead_for_ns < 0:
        raise Unanswerable("--collect-after must not be negative")
    return Retention(dead_for_ns=dead_for_ns, keep=keep, statuses=statuses or Retention.__struct_defaults__[2])


compact_option = click.option(
    "--compact", is_flag=True, help="Every hour, remove the records of collected allocations, except each one's last."
)


def retainer_of(
    engine: Engine, retention: Retention | None, on_problem: Callable[[str], None], *, compact: bool
) -> Retainer | None:
    """Return what collects and compacts beside other work; None where nothing is to be done."""
    if retention is None and not compact:
        return None
    return Retainer(
        engine,
        retention,
        compact_every_seconds=_COMPACT_SECONDS if compact else None,
        on_problem=on_problem,
    )


@options.command()
@click.argument("log")
@retention_options
@click.option("--compact", is_flag=True, help="Remove the records of collected allocations, except each one's last.")
@click.option("--dry-run", is_flag=True, help="Only show what would be collected.")
def collect(
    log: str, dead_for_ns: int | None, keep: int | None, statuses: tuple[str, ...], *, compact: bool, dry_run: bool
) -> int:
    """Collect the ended allocations of LOG: write their last record, and drop them from the state.

    Their history stays in the log until it is compacted; afterwards, reading a removed record is an error.
    """
    retention = retention_of(dead_for_ns, keep, statuses)
    if retention is None and not compact:
        raise Unanswerable("nothing to do: add --collect-after, --collect-beyond or --compact")
    if is_new_log(log):
        raise Unanswerable(f"{shown_name(log)}: there is no such log")
    with Progress("collecting"), Engine.open(log) as engine:
        if retention is not None:
            ended = engine.collectable(retention)
            if dry_run:
                for one in ended:
                    click.echo(f"{one.alloc}  {one.reason}")
            else:
                engine.retain(retention)
            verb = "would be collected" if dry_run else "collected"
            others = len(engine.reader) - (len(ended) if dry_run else 0)
            click.echo(f"{count_text(len(ended), 'allocation')} {verb}, {count_text(others, 'other')} kept")
        if compact and not dry_run:
            click.echo(f"{count_text(engine.compact(), 'record')} removed from {shown_name(log)}")
    return 0 if retention is None or ended or compact else NO
