"""The recorder of a Nomad, from options and environment, for `taskfold follow` and `taskfold serve --follow`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click
import msgspec

from taskfold.cli._guard import Unanswerable, say
from taskfold.model.clock import SystemClock
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.errors import SourceUnavailable
from taskfold.model.go.durations import NS_PER_SECOND
from taskfold.recording.settings import AgentSettings, is_agent

if TYPE_CHECKING:
    from taskfold.http.serve.upstream import Upstream
    from taskfold.live.engine import Engine
    from taskfold.recording.recorder import Recorder

__all__ = [
    "Lines",
    "agent_settings",
    "agents_dialect",
    "check_mirror",
    "pass_through_option",
    "recorder_of",
    "upstream_of",
]


class Lines:
    """Writes what an operator should know to standard error: sentences, or an object of JSON a line."""

    def __init__(self, format: str) -> None:
        self._is_json = format == "json"

    def __call__(self, text: str) -> None:
        """Write a line."""
        if not self._is_json:
            say(text)
            return
        line = {"time_ns": SystemClock().time_ns(), "message": text}
        with suppress(OSError):
            click.echo(msgspec.json.encode(line), err=True)


pass_through_option = click.option(
    "--pass-through",
    type=click.Choice(("reads", "writes")),
    help="Ask the agent for what is not known here, with the client's token: reads, or writes, too.",
)


def upstream_of(settings: AgentSettings, kind: str | None) -> Upstream | None:
    """Return the agent that requests are passed on to; None where none are. Raises SourceError."""
    if kind is None:
        return None
    from taskfold.http.serve.upstream import Upstream

    return Upstream(settings, passes_writes=kind == "writes")


def agent_settings(sources: Sequence[str], token_file: str | None, namespace: str | None) -> AgentSettings:
    """Return the settings of agents, from their addresses, options and NOMAD_…. Raises SourceError and Unanswerable."""
    if others := [source for source in sources if not is_agent(source)]:
        raise Unanswerable(
            f"{others[0]} is no address of an agent; expected http://HOST:PORT, https://HOST:PORT or unix:PATH "
            "(a file is read with `taskfold import`, or with `taskfold serve --follow FILE`)"
        )
    settings = AgentSettings.from_environment(None, *sources)
    changes = {"token_file": token_file or "", "namespace": namespace or settings.namespace}
    return msgspec.structs.replace(settings, **changes)


def agents_dialect(settings: AgentSettings, note: Callable[[str], object], *, is_required: bool = False) -> str:
    """Return the dialect for a new log of what agents say; the newest where they cannot be asked now.

    Raises SourceUnavailable where it is required, so that no log is begun in vain.
    """
    from taskfold.recording.agents import Agents

    async def ask() -> str:
        agents = Agents(settings)
        try:
            return (await agents.dialect()).name
        finally:
            await agents.close()

    try:
        return asyncio.run(ask())
    except SourceUnavailable as problem:
        if is_required:
            raise
        note(f"{problem}; the new log is of dialect {NEWEST_DIALECT}; --dialect names another")
        return NEWEST_DIALECT


def check_mirror(engine: Engine, log: str) -> None:
    """Refuse a log that holds what something else than an import decided. Raises Unanswerable."""
    for alloc in engine.reader.ids()[:1]:
        first = next(engine.reader.records(alloc), None)
        if first is not None and not isinstance(first.id, int):
            raise Unanswerable(
                f"{log}: holds what was decided or recorded here, with indexes of its own: a Nomad is followed into a "
                "log of its own"
            )


def recorder_of(
    engine: Engine,
    settings: AgentSettings,
    *,
    compare_ns: int | None = None,
    silence_ns: int | None = None,
    note: Callable[[str], object],
) -> Recorder:
    """Return the recorder, with its own times where none are named. Raises SourceError."""
    from taskfold.recording.recorder import COMPARE_SECONDS, SILENCE_SECONDS, Recorder

    return Recorder(
        engine,
        settings,
        compare_seconds=COMPARE_SECONDS if compare_ns is None else compare_ns / NS_PER_SECOND,
        silence_seconds=SILENCE_SECONDS if not silence_ns else silence_ns / NS_PER_SECOND,
        on_note=note,
    )
