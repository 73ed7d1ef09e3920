"""Shell completion of the allocations and tasks of a source."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem, shell_complete

from taskfold.model.errors import TaskfoldError

__all__ = ["Completed", "complete_allocation", "complete_command", "complete_task"]

_VARIABLE: Final = "_TASKFOLD_COMPLETE"
_LONGEST_BYTES: Final = 64 << 20
"""Larger files are not read for the tab key."""


class Completed(click.Command):
    """A command that knows its source while the value of an option is completed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; for a completion, without an option at the end whose value is missing."""
        is_cut = ctx.resilient_parsing and args and args[-1].startswith("-")
        return super().parse_args(ctx, args[:-1] if is_cut else args)


def complete_command(command: click.Command) -> int | None:
    """Answer the completion request of a shell, and return the exit status; None without one.

    ``eval "$(_TASKFOLD_COMPLETE=bash_source taskfold)"`` makes bash ask; zsh and fish have a ``zsh_source`` and a
    ``fish_source``.
    """
    instruction = os.environ.get(_VARIABLE)
    return shell_complete(command, {}, "taskfold", _VARIABLE, instruction) if instruction else None


def complete_allocation(context: click.Context, _: click.Parameter, beginning: str) -> list[CompletionItem]:
    """Return the source's IDs with this prefix. O(log n) in a database, else O(records of the source)."""
    from taskfold.sources.replay import Replay

    with suppress(TaskfoldError, OSError):
        sources = _sources(context)
        if sources:
            return [CompletionItem(alloc) for alloc in sorted(Replay(*sources).matching(beginning))]
    return []


def complete_task(context: click.Context, _: click.Parameter, beginning: str) -> list[CompletionItem]:
    """Return the tasks with this prefix: of the given allocation, else of the source, if it is small."""
    from taskfold.sources.replay import Replay

    with suppress(TaskfoldError, OSError):
        sources, alloc = _sources(context), context.params.get("alloc")
        if sources and (alloc or all(map(_is_small, sources))):
            matches = Replay(*sources).matching(alloc).values() if alloc else (Replay(*sources),)
            names = {record.task for records in matches for record in records}
            return [CompletionItem(name) for name in sorted(names) if name and name.startswith(beginning)]
    return []


def _sources(context: click.Context) -> tuple[str, ...]:
    """Return the sources on the command line if they can be read quickly; else none."""
    names = context.params.get("sources") or context.params.get("source")
    sources: tuple[str, ...] = (names,) if isinstance(names, str) else tuple(names or ())
    return sources if _is_quick(sources) else ()


def _is_quick(sources: Iterable[str]) -> bool:
    from taskfold.log.registry import stored_log

    logs = ((name, stored_log(name)) for name in sources)
    return all((log is not None and log.kind.has_index) or (name != "-" and _is_small(name)) for name, log in logs)


def _is_small(name: str) -> bool:
    from taskfold.log.registry import server_kind

    return server_kind(name) is None and Path(name).stat().st_size <= _LONGEST_BYTES
