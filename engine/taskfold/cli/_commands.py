"""The command ``taskfold``, and the table of its subcommands, each of which is imported when it is called."""

from __future__ import annotations

from importlib import import_module
from keyword import iskeyword
from typing import Final

import click

from taskfold.cli._guard import Face

__all__ = ["COMMANDS", "taskfold"]

COMMANDS: Final = {
    "backup": "Copy LOG to COPY, as of now, while others write it.",
    "collect": "Collect the ended allocations of LOG: write their last record, and drop them from the state.",
    "demo": "Show taskfold at work on a recorded event stream of a real Nomad, and run a job.",
    "diagram": "Draw the lifecycle of a task: its states, and the events that lead from one to another.",
    "diff": "Show the differences between two points of a log, or of any other source.",
    "follow": "Record the events of a running Nomad in LOG, until stopped.",
    "history": "Show every event of an allocation, or of one of its tasks, with the changes it made.",
    "import": "Import a Nomad's answers and streams into a log: all or nothing, and never twice.",
    "log": "Show the records of a log, or those of an import of any source; check or repair a log.",
    "policy": "Show what a restart policy does with a task that fails again and again.",
    "replay": "Show the state of every allocation, as it was at any index or time.",
    "report": "Show what tasks went through: restarts, times in each state, availability, and why they died.",
    "run": "Run the raw_exec tasks of a job as processes of this machine, until they have ended.",
    "serve": "Serve the allocations of LOG as Nomad's agents do: reads, blocking queries, the event stream.",
    "simulate": "Simulate a cluster that has every trouble there is, and check its engine after every step.",
    "export": "Write the tables of the sources: records, tasks, intervals, allocations, deaths.",
    "timeline": "Draw the lives of tasks side by side, as one HTML file that needs no network, as SVG, or as a trace.",
    "top": "Show the tasks of SOURCE on a live screen: events, restarts, filters, and the past, write by write.",
    "verify": "Check that the records of a source fold to what was observed, at every index; or that a log is intact.",
    "why": "Show why a task is dead, or was started again: what led to it, in sentences, in order.",
}
"""The subcommands, each with the first sentence of its help, so that the list of them needs none of them."""


class Commands(Face):
    """The subcommands of the table: the file of each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, sorted."""
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand, or None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(f"taskfold.cli.{name}"), name)
        return command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each name with its sentence."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(context: click.Context, _: click.Parameter, is_set: bool) -> None:  # noqa: FBT001 - so click calls it
    """Print the version, and exit."""
    if is_set:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"taskfold {version('taskfold')}")
        except PackageNotFoundError:
            click.echo("taskfold, not installed: run from its source")
        context.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def taskfold() -> None:
    """Fold Nomad's task events into allocation state, at any index or time.

    A SOURCE is a file, a folder, an archive, or - for standard input, compressed or not. Its content shows its kind:
    the frames of Nomad's event stream, bodies or lists of allocations, or a taskfold log. A log may also be named by
    the URL of its PostgreSQL database.

    Exit status: 0 fine, 1 the answer is no (nothing matched, a divergence), 2 bad usage or unreadable input.
    """
