"""``taskfold backup``: a complete copy of a log, as of one moment."""

from __future__ import annotations

import click

from taskfold.cli import _options as options
from taskfold.cli._progress import Progress
from taskfold.cli._words import count_text
from taskfold.log.backup import backup as copy_log
from taskfold.log.names import shown_name

__all__ = ["backup"]


@options.command()
@click.argument("log")
@click.argument("copy")
def backup(log: str, copy: str) -> int:
    """Copy LOG to COPY, as of now, while others write it.

    COPY is a file (x.db, x.jsonl) or a PostgreSQL database, of the same kind as LOG or another; it must not exist
    yet. The copy is checked, and is a complete log. (A copy of a database that cp makes during writes is incomplete,
    since it lacks the sidecar files.)
    """
    with Progress("copying"):
        backed_up = copy_log(log, copy)
    what = f"{count_text(backed_up.records, 'record')}, newest position {backed_up.newest}"
    click.echo(f"copied {shown_name(log)} into {shown_name(copy)}: {what}")
    return 0
