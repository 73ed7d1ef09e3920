"""``taskfold demo``: a recorded event stream of a real Nomad, and a job, from the package."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import Unanswerable
from taskfold.sources.shipped import EXAMPLE_JOB, EXAMPLE_STREAM, shipped

__all__ = ["demo"]

_ALLOCATION: Final = "e368643b"
"""The allocation whose history has the two gaps."""


@options.command()
@click.option("--write", "folder", metavar="FOLDER", help="Only copy the stream and the job to FOLDER.")
@click.pass_context
def demo(context: click.Context, folder: str | None) -> int:
    """Show taskfold at work on a recorded event stream of a real Nomad, and run a job.

    A timeline of the stream is written to a new temporary folder, for a browser to open. The job runs real processes,
    one of which fails at first. --write copies the files, for experiments of your own.
    """
    if folder is not None:
        _write(Path(folder))
        return 0
    stream, job = str(_examples() / EXAMPLE_STREAM), str(_examples() / EXAMPLE_JOB)
    lines = [("replay", stream), ("history", stream, _ALLOCATION, "main"), ("verify", stream)]
    # Not in the working directory, where nobody asked for it.
    page = Path(tempfile.mkdtemp(prefix="taskfold-demo-")) / "life.html"
    lines.append(("timeline", stream, "-o", str(page)))
    if sys.platform == "linux":
        lines.append(("run", job))
    for line in lines:
        click.echo(f"$ taskfold {' '.join(line)}")
        with _group(context).make_context("taskfold", list(line)) as inner:
            _group(context).invoke(inner)
        # Keeps the order of standard error and standard output.
        sys.stdout.flush()
        click.echo()
    return 0


def _group(context: click.Context) -> click.Command:
    return context.find_root().command


def _examples() -> Path:
    """Return the folder of the files, relative if it is below the working directory."""
    folder = shipped("examples")
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _write(folder: Path) -> None:
    """Copy the files to a folder. Raises Unanswerable if one of them exists."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (EXAMPLE_STREAM, EXAMPLE_JOB):
        if (folder / name).exists():
            raise Unanswerable(f"{folder / name}: exists already, and is not overwritten")
        shutil.copyfile(_examples() / name, folder / name)
        click.echo(f"wrote {folder / name}")
