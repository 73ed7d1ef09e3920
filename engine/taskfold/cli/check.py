"""``taskfold log --check`` and ``--repair``: whether a log is whole, and a copy of what is good of it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from taskfold.cli.guard import NO, Unanswerable, say
from taskfold.cli.progress import Progress
from taskfold.cli.wording import count_text, visible
from taskfold.log.check import LogCheck, check_log, repair
from taskfold.log.opening import shown_name
from taskfold.model.errors import SourceError

__all__ = ["run_check", "run_repair"]


def run_check(source: str, format: str) -> int:
    """Say what is wrong with a log."""
    with Progress("checking"):
        found = check_log(source)
    if format == "jsonl":
        for damage in found.damages:
            sys.stdout.buffer.write(msgspec.json.encode(damage) + b"\n")
        _note_the_rest(found)
    else:
        _show(found)
    return 0 if found.is_whole else NO


def run_repair(source: str, into: str, dialect: str | None) -> int:
    """Copy what is good of a log, and say what is not."""
    try:
        with Progress("copying"):
            done = repair(source, into, dialect)
    except SourceError as error:
        if dialect is not None or not Path(source).is_file():
            raise
        raise Unanswerable(
            f"{error}; if it is a log whose header is damaged, --dialect names what it would say"
        ) from None
    _show(done.check)
    for alloc, (missing, count) in done.left_out.items():
        more = f", and {count_text(count, 'record')} after it left out" if count else ""
        say(f"allocation {visible(alloc)}: version {missing} is missing{more}")
    click.echo(f"copied {count_text(done.records, 'record')} into {shown_name(into)}")
    return 0 if done.is_whole else NO


def _show(found: LogCheck) -> None:
    for damage in found.damages:
        places = (("line", damage.line), ("byte", damage.offset), ("Seq", damage.seq))
        where = ", ".join(f"{name} {place}" for name, place in places if place is not None)
        say(f"{where}{': ' if where else ''}{visible(damage.message)}")
    _note_the_rest(found)
    told = f"{count_text(found.records, 'whole record')}, newest position {found.newest}"
    state = "whole" if found.is_whole else f"damaged in {count_text(found.damages_total, 'place')}"
    of_header = (
        f"format {found.header.taskfold}, dialect {found.header.dialect}" if found.header.dialect else "no header"
    )
    click.echo(f"{found.name}: {state}; {told}; {of_header}")


def _note_the_rest(found: LogCheck) -> None:
    """Say what the list of damages does not."""
    if found.damages_total > len(found.damages):
        say(f"and {count_text(found.damages_total - len(found.damages), 'other place')}")
    if found.unacknowledged_bytes:
        say(f"note: {count_text(found.unacknowledged_bytes, 'byte')} at the end were never acknowledged")
