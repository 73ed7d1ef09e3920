"""``taskfold import``: a Nomad's answers and streams, into a log."""

from __future__ import annotations

from pathlib import Path

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import Notes
from taskfold.cli._progress import Progress
from taskfold.cli._words import bytes_text, count_text
from taskfold.log.names import shown_name
from taskfold.sources.ingest import Ingestion, ingest
from taskfold.sources.replay import Replay

__all__ = ["import_"]


@options.command(name="import")
@options.sources_argument
@click.option(
    "--into", metavar="LOG", required=True, help="The log to create or to continue: x.db, x.jsonl or postgresql://…"
)
@options.skip_bad_option
@options.dialect_option("The dialect of the sources; default: detected. A log of another dialect is migrated to it.")
def import_(sources: tuple[str, ...], into: str, dialect: str | None, *, skip_bad: bool) -> int:
    """Import a Nomad's answers and streams into a log: all or nothing, and never twice."""
    size_before = Path(into).stat().st_size if Path(into).is_file() else 0
    with Progress("importing") as progress:

        def show(reading: Replay, _: int) -> None:
            progress.replay = reading

        result = ingest(*sources, into=into, dialect=dialect, on_note=Notes(), on_progress=show, skip_bad=skip_bad)
    origin = f" from {count_text(result.observations, 'observation')} ({count_text(result.repeats, 'repeat')})"
    what = f"{count_text(result.records, 'record')}{origin if result.observations else ''}"
    click.echo(f"imported {what} into {shown_name(into)}{_size_text(result, sources, size_before)}")
    return 0


def _size_text(result: Ingestion, sources: tuple[str, ...], size_before: int) -> str:
    """Return the size of the log, if it is a file, and, if it is new, its fraction of the source."""
    if result.log_bytes is None:
        return ""
    size = f": {bytes_text(result.log_bytes)}"
    if size_before:
        return f"{size}, {bytes_text(result.log_bytes - size_before)} more than before"
    source_bytes = result.source_bytes or sum(map(_file_bytes, sources))
    share = f", {result.log_bytes / source_bytes:.0%} of" if source_bytes else ""
    return f"{size}{share.replace('%', ' %')} the source's {bytes_text(source_bytes)}" if share else size


def _file_bytes(source: str) -> int:
    """Return the size of a file; 0 for any other source."""
    return Path(source).stat().st_size if Path(source).is_file() else 0
