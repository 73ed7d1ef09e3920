"""``taskfold diagram``: the lifecycle of a task, drawn."""

from __future__ import annotations

import click

from taskfold.cli import _options as options
from taskfold.fold.diagram import diagram as draw
from taskfold.model.dialect import DEFAULT_DIALECT

__all__ = ["diagram"]


@options.command()
@options.dialect_option(f"The dialect of the lifecycle; default: {DEFAULT_DIALECT}.")
@options.format_option("mermaid", "dot", "table")
def diagram(dialect: str | None, format: str) -> int:
    """Draw the lifecycle of a task: its states, and the events that lead from one to another."""
    click.echo(draw(dialect or DEFAULT_DIALECT, format), nl=False)
    return 0
