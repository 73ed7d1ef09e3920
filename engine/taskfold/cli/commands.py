"""The commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from taskfold.cli import options
from taskfold.cli.collect import collect
from taskfold.cli.diff import diff
from taskfold.cli.guard import NO, Face, Notes, Unanswerable, say
from taskfold.cli.options import Wanted
from taskfold.cli.policy import policy
from taskfold.cli.progress import Progress
from taskfold.cli.reading import fold_of, matching_ids, records_of_one
from taskfold.cli.run import run
from taskfold.cli.serve import serve
from taskfold.cli.wording import bytes_text, count_text
from taskfold.fold.allocation import Fold
from taskfold.log.lines import BLOCK_BYTES, is_database, open_bytes
from taskfold.log.opening import is_postgres, shown_name
from taskfold.model.dialect import DEFAULT_DIALECT, NEWEST_DIALECT
from taskfold.model.record import Gap, Record
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.ingest import Ingested, ingest
from taskfold.sources.replay import At, Replay
from taskfold.sources.source import files_of
from taskfold.sources.verify import verify as verify_sources

__all__ = ["taskfold"]

_STATUSES: Final = ("pending", "running", "complete", "failed", "lost", "unknown")
_PRETTY_INDENT: Final = 4


def _version(context: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - so click calls it
    """Print the version, and exit."""
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"taskfold {version('taskfold')}")
        except PackageNotFoundError:
            click.echo("taskfold, not installed: run from its source")
        context.exit()


@click.group(cls=Face, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def taskfold() -> None:
    """Fold Nomad's task events into allocation state, at any index or time.

    A SOURCE is a file, a folder of JSON files, or - for standard input, gzip or not. Its content tells what it is: the
    frames of Nomad's event stream, bodies or lists of allocations, or a taskfold log. A log may also be named by the
    URL of its PostgreSQL database.

    Exit status: 0 fine, 1 the answer is no (nothing matched, a divergence), 2 bad usage or unreadable input.
    """


@taskfold.command()
@options.sources_argument
@options.at_option
@options.alloc_option
@options.task_option
@click.option("--job", metavar="ID", help="Only allocations of this job.")
@click.option("--node", metavar="PREFIX", help="Only allocations on nodes whose ID begins so.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only allocations with this client status.")
@options.since_option
@options.until_option
@options.format_option("table", "json", "jsonl")
@options.dialect_option("Write the JSON of this Nomad; else as the source does.")
def replay(sources: tuple[str, ...], at: At | None, format: str, dialect: str | None, **filters: Any) -> int:
    """Show the state of every allocation, as it was at any index or time.

    The JSON formats print Nomad's own JSON of each allocation, sorted by ID.
    """
    wanted = Wanted(**filters)
    reading = Replay(*sources, at=at, on_note=Notes())
    with Progress("reading", reading):
        folded = fold_of(reading)
        ids = matching_ids(folded, wanted)
    if format == "table" and ids:
        from taskfold.cli.screen import Screen
        from taskfold.cli.views import show_replay

        show_replay(Screen(), folded, ids, reading.at, wanted.task)
    elif format != "table":
        _write_allocations(folded.fold, ids, dialect, is_array=format == "json")
    return 0 if ids else _nothing(len(folded.fold), "allocation")


def _write_allocations(fold: Fold, ids: list[str], dialect: str | None, *, is_array: bool) -> None:
    """Write each allocation's own JSON, and note what the dialect cannot express."""
    target = dialect or fold.dialect.name
    lost: list[str] = []
    bodies: list[bytes] = []
    for alloc in ids:
        snapshot = Snapshot.of(fold[alloc], fold.dialect)
        if target != fold.dialect.name:
            lost += snapshot.losses(target)
        if is_array:
            bodies.append(snapshot.to_json(target))
        else:
            _write(snapshot.to_json(target))
    if is_array:
        _write(msgspec.json.format(b"[%b]" % b",".join(bodies), indent=_PRETTY_INDENT))
    if lost:
        say(f"note: dialect {target} cannot express {count_text(len(lost), 'path')}, such as {lost[0]}: left out")


def _write(line: bytes) -> None:
    """Write a line as it is, whatever the encoding of the terminal."""
    sys.stdout.buffer.write(line + b"\n")


def _nothing(total: int, noun: str) -> int:
    """Say that nothing matched."""
    say(f"nothing matched: none of {count_text(total, noun)}" if total else f"nothing matched: no {noun}")
    return NO


@taskfold.command(name="import")
@options.sources_argument
@click.option(
    "--into", metavar="LOG", required=True, help="The log to begin or to go on with: x.db, x.jsonl or postgresql://…"
)
@options.dialect_option("The dialect of the sources; else it is detected.")
def import_(sources: tuple[str, ...], into: str, dialect: str | None) -> int:
    """Import what a Nomad said into a log: whole or not at all, and never twice."""
    size_before = Path(into).stat().st_size if Path(into).is_file() else 0
    with Progress("importing") as progress:

        def show(reading: Replay, _: int) -> None:
            progress.replay = reading

        done = ingest(*sources, into=into, dialect=dialect, on_note=Notes(), on_progress=show)
        size = _imported_text(done, sources, size_before)
    told = f" from {count_text(done.observations, 'observation')} ({count_text(done.repeats, 'repeat')})"
    what = f"{count_text(done.records, 'record')}{told if done.observations else ''}"
    click.echo(f"imported {what} into {shown_name(into)}{size}")
    return 0


def _imported_text(done: Ingested, sources: tuple[str, ...], size_before: int) -> str:
    """Say how large the log is, if it is a file, and what part of its source when it is new."""
    if done.log_bytes is None:
        return ""
    size = f": {bytes_text(done.log_bytes)}"
    if size_before:
        return f"{size}, {bytes_text(done.log_bytes - size_before)} more than before"
    if any(source == "-" or is_postgres(source) for source in sources):
        return size
    source_bytes = sum(_unpacked_bytes(file) for source in sources for file in files_of(source))
    share = f", {done.log_bytes / source_bytes:.0%} of" if source_bytes else " of"
    return f"{size}{share.replace('%', ' %')} the source's {bytes_text(source_bytes)}"


def _unpacked_bytes(file: str) -> int:
    """Return the size of a file without its compression: it is read again, which takes a tenth of an import."""
    if file != "-" and is_database(file):
        return Path(file).stat().st_size
    with open_bytes(file) as stream:
        return sum(len(block) for block in iter(lambda: stream.read(BLOCK_BYTES), b""))


@taskfold.command()
@click.argument("log")
@click.argument("copy")
def backup(log: str, copy: str) -> int:
    """Copy LOG as it is now into COPY, while anybody writes it.

    COPY is a file (x.db, x.jsonl) or a PostgreSQL database, of the same kind as LOG or another; where it exists
    nothing is overwritten. It is checked, and opens alone. (What cp makes of a database that is written lacks what is
    beside it.)
    """
    from taskfold.log.backup import backup as copied

    with Progress("copying"):
        done = copied(log, copy)
    what = f"{count_text(done.records, 'record')}, newest position {done.newest}"
    click.echo(f"copied {shown_name(log)} into {shown_name(copy)}: {what}")
    return 0


@taskfold.command()
@options.source_argument
@options.alloc_option
@options.task_option
@options.at_option
@options.since_option
@options.until_option
@options.format_option("table", "jsonl")
@click.option("--check", is_flag=True, help="Say whether the log is whole, and all that is damaged, where.")
@click.option("--repair", "into", metavar="NEW", help="Copy what is good into a new log, and say what is not.")
@options.dialect_option("With --repair: the dialect of a log whose header is damaged.")
def log(
    source: str, at: At | None, format: str, *, check: bool, into: str | None, dialect: str | None, **filters: Any
) -> int:
    """Show the records of a log, or those that a source would be imported as; or look after it.

    jsonl prints one record a line, as a log writes it.
    """
    if check or into is not None:
        return _look_after(source, into, dialect, format, asked=[at, *filters.values()], is_check=check)
    if dialect is not None:
        raise Unanswerable("--dialect goes with --repair")
    wanted = Wanted(**filters)
    reading = Replay(source, at=at, on_note=Notes())
    counts = _Counts()
    # Records are written as they are read: a bar would run through them on a terminal.
    with Progress("reading", reading, shown=not sys.stdout.isatty() or wanted.alloc is not None):
        found: Iterator[Record] = iter(reading if wanted.alloc is None else records_of_one(reading, wanted.alloc))
        found = counts.count(r for r in found if wanted.task in {None, r.task} and wanted.has_time(r.time_ns))
        if format == "jsonl":
            for record in found:
                _write(msgspec.json.encode(record))
        else:
            from taskfold.cli.screen import Screen
            from taskfold.cli.views import counts_text, show_log

            screen = Screen()
            show_log(screen, found)
            if counts.records:
                screen.caption(counts_text(counts.texts(), gaps=counts.gaps))
    return 0 if counts.records else _nothing(0, "record")


def _look_after(
    source: str, into: str | None, dialect: str | None, format: str, *, asked: list[Any], is_check: bool
) -> int:
    """Check a log, or copy what is good of it."""
    from taskfold.cli.check import run_check, run_repair

    if any(value is not None for value in asked) or (is_check and into is not None):
        raise Unanswerable("--check and --repair are about the whole log: leave the other options out")
    if into is not None:
        return run_repair(source, into, dialect)
    if dialect is not None:
        raise Unanswerable("--dialect goes with --repair")
    return run_check(source, format)


class _Counts:
    """Counts records that pass by."""

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
        """Say how many there were."""
        return [count_text(self.records, "record"), count_text(len(self.allocations), "allocation")]


@taskfold.command()
@options.source_argument
@options.alloc_argument
@options.task_argument
def history(source: str, alloc: str, task: str | None) -> int:
    """Show every event ever of an allocation, or of one of its tasks, and what each changed.

    ALLOC is the ID of an allocation, or enough of its beginning.
    """
    from taskfold.cli.changes import Changes
    from taskfold.cli.screen import Screen
    from taskfold.cli.views import show_history

    reading = Replay(source, on_note=Notes())
    with Progress("reading", reading):
        records = records_of_one(reading, alloc)
    if not records:
        say(f"nothing matched: no allocation begins with {alloc!r}")
        return NO
    names = sorted({record.task for record in records if record.task})
    if task is not None and task not in names:
        say(f"nothing matched: allocation {records[0].alloc} has no task {task!r}; it has {', '.join(names) or 'none'}")
        return NO
    screen = Screen()
    fold = Fold(reading.dialect or NEWEST_DIALECT, on_illegal="keep")
    show_history(screen, records, Changes(fold, screen.arrow, task), task)
    return 0


@taskfold.command()
@options.sources_argument
@options.format_option("table", "json")
def verify(sources: tuple[str, ...], format: str) -> int:
    """Check that the records fold to what was observed, at every index; or that a log is what it should be."""
    from taskfold.cli.report import report_to_json, show_report
    from taskfold.cli.screen import Screen

    with Progress("verifying"):
        report = verify_sources(*sources, on_note=Notes())
    if format == "json":
        _write(report_to_json(report))
    else:
        show_report(Screen(), report)
    return 0 if report.agrees else NO


@taskfold.command()
@options.dialect_option(f"Whose lifecycle; {DEFAULT_DIALECT} unless named.")
@options.format_option("mermaid", "dot", "table")
def diagram(dialect: str | None, format: str) -> int:
    """Draw the lifecycle of a task: which event leads from which state to which."""
    from taskfold.fold.diagram import diagram as drawn

    click.echo(drawn(dialect or DEFAULT_DIALECT, format), nl=False)
    return 0


taskfold.add_command(diff)
taskfold.add_command(collect)
taskfold.add_command(serve)
taskfold.add_command(policy)
taskfold.add_command(run)
