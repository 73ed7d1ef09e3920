"""``taskfold log``: the records of a log, its check, and its repair."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from taskfold.cli import _options as options
from taskfold.cli._formats import write_rows
from taskfold.cli._guard import NO, Notes, Unanswerable, no_match, say, write_line
from taskfold.cli._progress import Progress
from taskfold.cli._reading import Selection, fold_of, matching_ids, records_of_one
from taskfold.cli._record_rows import RECORD_COLUMNS, has_type, record_row
from taskfold.cli._screen import Screen
from taskfold.cli._views import counts_text, show_log
from taskfold.cli._words import count_text, visible
from taskfold.log.check import LogCheck, check_log, repair
from taskfold.log.names import shown_name
from taskfold.log.ndjson.listing import listing_line
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import SourceError
from taskfold.model.record import Gap, Record
from taskfold.sources.replay import At, Replay

__all__ = ["log"]


@options.command()
@options.sources_argument
@options.alloc_option
@options.task_option
@options.job_option
@options.node_option
@options.status_option
@options.type_option
@options.at_option
@options.since_option
@options.until_option
@options.format_option("table", "csv", "jsonl", "parquet")
@options.skip_bad_option
@click.option("--check", is_flag=True, help="Check the whole log, and list all damage with its place.")
@click.option("--repair", "into", metavar="NEW", help="Copy the good records to a new log, and list the rest.")
@options.dialect_option("With --repair: the dialect of a log whose header is damaged.")
def log(
    sources: tuple[str, ...],
    at: At | None,
    types: frozenset[str] | None,
    format: Any,
    *,
    check: bool,
    into: str | None,
    dialect: str | None,
    skip_bad: bool,
    **filters: Any,
) -> int:
    """Show the records of a log, or those of an import of any source; check or repair a log.

    jsonl prints one record a line, as a log writes it, after a line that tells the dialect: it is a source again.
    --job, --node and --status choose allocations as they are at the end, and read the sources twice.
    """
    if check or into is not None:
        if len(sources) > 1:
            raise Unanswerable("--check and --repair look after one log: name one")
        others = [at, types, skip_bad or None, *filters.values()]
        return _look_after(sources[0], into, dialect, format, others=others, is_check=check)
    if dialect is not None:
        raise Unanswerable("--dialect goes with --repair")
    selection = Selection(**filters)
    ids = _allocations(sources, at, selection, skip_bad=skip_bad)
    reading = Replay(*sources, at=at, on_note=Notes(), skip_bad=skip_bad)
    counts = _Counts()

    def matching(records: Iterable[Record]) -> Iterator[Record]:
        return counts.count(
            record
            for record in records
            if selection.task in {None, record.task}
            and (ids is None or record.alloc in ids)
            and selection.has_time(record.time_ns)
            and has_type(record, types)
        )

    # Records are written as they are read: a bar would run through them on a terminal.
    with Progress("reading", reading, is_visible=not sys.stdout.isatty() or selection.alloc is not None):
        records = matching(reading if selection.alloc is None else records_of_one(reading, selection.alloc))
        if format == "jsonl":
            for place, record in enumerate(records):
                if not place:
                    write_line(listing_line(reading.dialect or NEWEST_DIALECT))
                write_line(msgspec.json.encode(record))
        elif format != "table":
            write_rows(RECORD_COLUMNS, (tuple(record_row(record)) for record in records), format)
        else:
            screen = Screen()
            show_log(screen, records)
            if counts.records:
                screen.caption(counts_text(counts.texts(), gaps=counts.gaps))
    return 0 if counts.records else no_match(0, "record")


def _allocations(sources: tuple[str, ...], at: At | None, selection: Selection, *, skip_bad: bool) -> set[str] | None:
    """Return the allocations that match at the end of the sources; None where none of their fields is asked for."""
    if selection.job is selection.node is selection.status is None:
        return None
    if "-" in sources:
        raise Unanswerable("--job, --node and --status read the sources twice: name a file in place of -")
    reading = Replay(*sources, at=at, skip_bad=skip_bad)
    fields = Selection(job=selection.job, node=selection.node, status=selection.status)
    with Progress("folding", reading):
        return set(matching_ids(fold_of(reading).fold, fields))


def _look_after(
    source: str, into: str | None, dialect: str | None, format: str, *, others: list[Any], is_check: bool
) -> int:
    """Check a log, or copy its good part."""
    if any(value is not None for value in others) or (is_check and into is not None):
        raise Unanswerable("--check and --repair apply to the whole log: leave the other options out")
    if into is not None:
        return _repair(source, into, dialect)
    if dialect is not None:
        raise Unanswerable("--dialect goes with --repair")
    return _check(source, format)


class _Counts:
    """The counts of records that pass through."""

    def __init__(self) -> None:
        self.records = 0
        self.gaps = 0
        self.allocations: set[str] = set()

    def count(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield the records, counted."""
        for record in records:
            self.records += 1
            self.gaps += isinstance(record.event, Gap)
            self.allocations.add(record.alloc)
            yield record

    def texts(self) -> list[str]:
        """Return the counts as texts."""
        return [count_text(self.records, "record"), count_text(len(self.allocations), "allocation")]


def _check(source: str, format: str) -> int:
    """Report the damage of a log."""
    with Progress("checking"):
        check = check_log(source)
    if format == "jsonl":
        for damage in check.damages:
            write_line(msgspec.json.encode(damage))
        _note_the_rest(check)
    else:
        _show(check)
    return 0 if check.is_whole else NO


def _repair(source: str, into: str, dialect: str | None) -> int:
    """Copy the good part of a log, and report the damage."""
    try:
        with Progress("copying"):
            repaired = repair(source, into, dialect)
    except SourceError as error:
        if dialect is not None or not Path(source).is_file():
            raise
        raise Unanswerable(f"{error}; if it is a log with a damaged header, give its dialect with --dialect") from None
    _show(repaired.check)
    for alloc, (missing, count) in repaired.left_out.items():
        more = f", and {count_text(count, 'record')} after it left out" if count else ""
        say(f"allocation {visible(alloc)}: version {missing} is missing{more}")
    click.echo(f"copied {count_text(repaired.records, 'record')} into {shown_name(into)}")
    return 0 if repaired.is_whole else NO


def _show(check: LogCheck) -> None:
    for damage in check.damages:
        places = (("line", damage.line), ("byte", damage.offset), ("Seq", damage.seq))
        where = ", ".join(f"{name} {place}" for name, place in places if place is not None)
        say(f"{where}{': ' if where else ''}{visible(damage.message)}")
    _note_the_rest(check)
    counts = f"{count_text(check.records, 'whole record')}, newest position {check.newest}"
    state = "whole" if check.is_whole else f"damaged in {count_text(check.damages_total, 'place')}"
    of_header = (
        f"format {check.header.taskfold}, dialect {check.header.dialect}" if check.header.dialect else "no header"
    )
    click.echo(f"{check.name}: {state}; {counts}; {of_header}")


def _note_the_rest(check: LogCheck) -> None:
    """Report damage beyond the list, and bytes that were never acknowledged."""
    if check.damages_total > len(check.damages):
        say(f"and {count_text(check.damages_total - len(check.damages), 'other place')}")
    if check.unacknowledged_bytes:
        say(f"note: {count_text(check.unacknowledged_bytes, 'byte')} at the end were never acknowledged")
