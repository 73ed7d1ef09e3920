"""``taskfold export``: records, tasks, intervals, allocations and deaths as files for data tools."""

from __future__ import annotations

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import Notes, Unanswerable, say
from taskfold.cli._words import count_text

__all__ = ["export"]

_FORMATS = ("parquet", "arrow", "csv", "sqlite", "duckdb")


@options.command()
@options.sources_argument
@click.option("--to", metavar="DIR|FILE", required=True, help="A new folder, or a file ending in .sqlite or .duckdb.")
@click.option("--format", "format", type=click.Choice(_FORMATS), help="Default: as the ending says; a folder: parquet.")
@click.option("--slots", type=click.IntRange(min=1), default=1, help="How many files the records are divided into.")
@options.dialect_option("The dialect of the sources; default: detected.")
def export(sources: tuple[str, ...], to: str, format: str | None, slots: int, dialect: str | None) -> int:
    """Write the tables of the sources: records, tasks, intervals, allocations, deaths.

    A folder gets a file for each; Parquet is the smallest, and what comes back as the same records: `taskfold import
    DIR/records.parquet --into LOG`. A database has all tables, and views such as restarts_by_job and last_deaths.
    --slots divides the records by their allocation, so that several processes can fold them.
    """
    try:
        from taskfold.columnar.exporting import export as write_tables
    except ImportError:
        raise Unanswerable("exporting needs numpy and pyarrow: pip install 'taskfold[columnar]'") from None
    try:
        summary = write_tables(*sources, to=to, format=format, slots=slots, dialect=dialect, on_note=Notes())  # type: ignore[arg-type]
    except ValueError as error:
        raise Unanswerable(str(error)) from None
    if not summary.rows["records"]:
        say("note: the sources have no records")
    rows = ", ".join(count_text(count, name.removesuffix("s")) for name, count in summary.rows.items())
    click.echo(f"exported {rows} into {to}")
    return 0
