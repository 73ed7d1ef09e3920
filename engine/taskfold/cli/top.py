"""``taskfold top``: a live screen of tasks, in the terminal, that can go back in time."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import Notes, Unanswerable, say
from taskfold.cli._progress import Progress
from taskfold.live.engine import Engine
from taskfold.log.memory import MemoryLog
from taskfold.log.names import shown_name
from taskfold.log.registry import is_log
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.recording.settings import is_agent
from taskfold.sources.replay import Replay

if TYPE_CHECKING:
    from taskfold.cli._top_screen import TopApp

__all__ = ["screen_of", "top"]


@options.command()
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--token-file", metavar="FILE", help="The file of the agent's token; default: NOMAD_TOKEN.")
@click.option("--namespace", metavar="NAME", help="The namespace of the agent that is asked; default: NOMAD_NAMESPACE.")
@options.skip_bad_option
def top(sources: tuple[str, ...], token_file: str | None, namespace: str | None, *, skip_bad: bool) -> int:
    """Show the tasks of SOURCE on a live screen: events, restarts, filters, and the past, write by write.

    SOURCE is a log, which another process may write, or whatever `taskfold replay` reads, or the address of an agent
    (http://…, https://…, unix:PATH); NOMAD_ADDR unless named. The key ? shows all keys.
    """
    _check_terminal()
    with ExitStack() as stack:
        screen_of(sources, token_file, namespace, stack, skip_bad=skip_bad).run()
    return 0


def screen_of(
    sources: tuple[str, ...], token_file: str | None, namespace: str | None, stack: ExitStack, *, skip_bad: bool = False
) -> TopApp:
    """Return the screen over what is named; the stack closes what it opens.

    Raises Unanswerable, LogError, SourceError and DialectError.
    """
    _check_extra()
    from taskfold.cli._top_screen import TopApp

    if "-" in sources:
        raise Unanswerable("-: standard input has the keys of the screen; write it to a file, and name that")
    if not sources or any(map(is_agent, sources)):
        return _screen_of_agents(sources, token_file, namespace, stack)
    if token_file is not None or namespace is not None:
        raise Unanswerable(f"--token-file and --namespace are for agents, and {sources[0]} is none")
    if len(sources) == 1 and is_log(sources[0]):
        return TopApp(stack.enter_context(Engine.open(sources[0], read_only=True)), shown_name(sources[0]))
    reading = Replay(*sources, on_note=Notes(), skip_bad=skip_bad)
    with Progress("reading", reading):
        records = list(reading)
    log = MemoryLog(reading.dialect or NEWEST_DIALECT)
    log.take(log.header, records)
    return TopApp(stack.enter_context(Engine(log)), ", ".join(map(shown_name, sources)))


def _screen_of_agents(
    sources: tuple[str, ...], token_file: str | None, namespace: str | None, stack: ExitStack
) -> TopApp:
    """Return the screen over what agents say, kept in memory. Raises Unanswerable and SourceError."""
    from taskfold.cli._recording import agent_settings, agents_dialect, recorder_of
    from taskfold.cli._top_screen import TopApp

    settings = agent_settings(sources, token_file, namespace)
    engine = stack.enter_context(Engine(dialect=agents_dialect(settings, say, is_required=True)))
    screen = TopApp(engine, ", ".join(settings.names))
    screen.alongside = recorder_of(engine, settings, note=lambda text: screen.notify(text, timeout=3)).run
    return screen


def _check_terminal() -> None:
    """Refuse to draw where nobody looks. Raises Unanswerable."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Unanswerable("a live screen needs a terminal; `taskfold replay` writes a table into a pipe or a file")


def _check_extra() -> None:
    """Check that the screen's library is installed. Raises Unanswerable."""
    if find_spec("textual") is None:
        raise Unanswerable("taskfold top needs the extra tui: pip install 'taskfold[tui]'")
