"""``taskfold import``: a Nomad's answers and streams, into a log."""

from __future__ import annotations

from pathlib import Path

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import Notes
from taskfold.cli._progress import Progress
from taskfold.cli._words import bytes_text, count_text
from taskfold.log.lines import BLOCK_BYTES, open_bytes
from taskfold.log.names import shown_name
from taskfold.log.registry import server_kind, stored_log
from taskfold.sources.ingest import Ingestion, ingest
from taskfold.sources.replay import Replay
from taskfold.sources.source import files_of

__all__ = ["import_"]


@options.command(name="import")
@options.sources_argument
@click.option(
    "--into", metavar="LOG", required=True, help="The log to create or to continue: x.db, x.jsonl or postgresql://…"
)
@options.dialect_option("The dialect of the sources; default: detected. A log of another dialect is migrated to it.")
def import_(sources: tuple[str, ...], into: str, dialect: str | None) -> int:
    """Import a Nomad's answers and streams into a log: all or nothing, and never twice."""
    size_before = Path(into).stat().st_size if Path(into).is_file() else 0
    with Progress("importing") as progress:

        def show(reading: Replay, _: int) -> None:
            progress.replay = reading

        result = ingest(*sources, into=into, dialect=dialect, on_note=Notes(), on_progress=show)
        size = _imported_text(result, sources, size_before)
    origin = f" from {count_text(result.observations, 'observation')} ({count_text(result.repeats, 'repeat')})"
    what = f"{count_text(result.records, 'record')}{origin if result.observations else ''}"
    click.echo(f"imported {what} into {shown_name(into)}{size}")
    return 0


def _imported_text(result: Ingestion, sources: tuple[str, ...], size_before: int) -> str:
    """Return the size of the log, if it is a file, and, if it is new, its fraction of the source."""
    if result.log_bytes is None:
        return ""
    size = f": {bytes_text(result.log_bytes)}"
    if size_before:
        return f"{size}, {bytes_text(result.log_bytes - size_before)} more than before"
    if any(source == "-" or server_kind(source) for source in sources):
        return size
    source_bytes = sum(_unpacked_bytes(file) for source in sources for file in files_of(source))
    share = f", {result.log_bytes / source_bytes:.0%} of" if source_bytes else " of"
    return f"{size}{share.replace('%', ' %')} the source's {bytes_text(source_bytes)}"


def _unpacked_bytes(file: str) -> int:
    """Return the unpacked size of a file; reading it again takes a tenth of an import's time."""
    if stored_log(file) is not None:
        return Path(file).stat().st_size
    with open_bytes(file) as stream:
        return sum(len(block) for block in iter(lambda: stream.read(BLOCK_BYTES), b""))
