"""``taskfold follow``: record what a Nomad does, for as long as it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import click

from taskfold.cli import _options as options
from taskfold.cli._collector import without_collecting_present_objects
from taskfold.cli._guard import Unanswerable
from taskfold.cli._recording import (
    Lines,
    agent_settings,
    agents_dialect,
    check_mirror,
    pass_through_option,
    recorder_of,
    upstream_of,
)
from taskfold.cli._serving import TlsOptions, server_beside, tls_options
from taskfold.cli._words import count_text
from taskfold.cli.collect import compact_option, retainer_of, retention_of, retention_options
from taskfold.cli.serve import check_extra
from taskfold.live.engine import Engine
from taskfold.log.names import shown_name
from taskfold.log.registry import is_new_log

if TYPE_CHECKING:
    from taskfold.http.serve.server import Server
    from taskfold.recording.recorder import Recorder

__all__ = ["follow"]

_STATUS_SECONDS: Final = 1.0


@options.command()
@click.argument("sources", metavar="[AGENT]...", nargs=-1)
@click.option("--into", "log", metavar="LOG", required=True, help="Record into LOG (x.db, x.jsonl, postgresql://…).")
@click.option("--once", is_flag=True, help="Read what the agents have now, and end.")
@click.option("--serve", "bind", metavar="HOST:PORT|unix:PATH", help="Serve Nomad's HTTP API meanwhile.")
@tls_options
@click.option("--serve-token-file", metavar="FILE", help="A file whose first line is what clients must send.")
@pass_through_option
@click.option("--token-file", metavar="FILE", help="A file whose first line is the agents' token; it may change.")
@click.option("--namespace", metavar="NAME", help="Record one namespace; all of them unless named.")
@click.option(
    "--compare-every",
    "compare_ns",
    type=options.DURATION,
    default="10m",
    show_default=True,
    help="How often the list is compared with what was recorded.",
)
@click.option(
    "--silence",
    "silence_ns",
    type=options.DURATION,
    default="60s",
    show_default=True,
    help="A stream that says nothing for so long is dead; Nomad says something every 30s.",
)
@options.dialect_option("The dialect of a new log; what the agents speak unless named.")
@retention_options
@compact_option
@click.option("--log-format", "log_format", type=click.Choice(("text", "json")), default="text", show_default=True)
def follow(  # noqa: PLR0913 - an option each
    sources: tuple[str, ...],
    log: str,
    *,
    once: bool,
    bind: str | None,
    serve_token_file: str | None,
    pass_through: str | None,
    token_file: str | None,
    namespace: str | None,
    compare_ns: int,
    silence_ns: int,
    dialect: str | None,
    dead_for_ns: int | None,
    keep: int | None,
    statuses: tuple[str, ...],
    compact: bool,
    log_format: str,
    tls: TlsOptions,
) -> int:
    """Record the events of a running Nomad in LOG, until stopped.

    After a kill at any moment, the next start continues from LOG. AGENT is the address of an agent (http://…,
    https://…, unix:PATH), or several of one region; NOMAD_ADDR unless named. Token and certificates are those of
    NOMAD_TOKEN, NOMAD_CACERT and so on. See docs/recording.md.
    """
    check_extra()
    if compare_ns <= 0 or silence_ns <= 0:
        raise Unanswerable("--compare-every and --silence take a duration above zero, such as 10m")
    if once and bind is not None:
        raise Unanswerable("--once reads what there is, and ends: nothing is served")
    if pass_through is not None and bind is None:
        raise Unanswerable("--pass-through is for what is served: name an address with --serve")
    from taskfold.http.serve.server import new_loop

    tls_of_server = tls.files(is_served=bind is not None)
    retention = retention_of(dead_for_ns, keep, statuses)
    note = Lines(log_format)
    settings = agent_settings(sources, token_file, namespace)
    with ExitStack() as stack:
        begins = is_new_log(log)
        name = dialect or (agents_dialect(settings, note, is_required=once) if begins else None)
        engine = stack.enter_context(Engine.open(log, dialect=name))
        check_mirror(engine, shown_name(log))
        recorder = recorder_of(engine, settings, compare_ns=compare_ns, silence_ns=silence_ns, note=note)
        server = None
        if bind is not None:
            server = server_beside(engine, bind, serve_token_file, stack, note=note, is_mirror=True, tls=tls_of_server)
            server.app.context.source = recorder
            server.app.upstream = upstream_of(settings, pass_through)
        retainer = retainer_of(engine, retention, note, compact=compact)
        if retainer is not None and not once:
            stack.enter_context(retainer)
        note(f"following {', '.join(settings.names)} into {shown_name(log)}, from index {engine.index}")
        stack.enter_context(without_collecting_present_objects())
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(recorder.synchronise() if once else _run(recorder, server))
        if retainer is not None and once:
            retainer.retain()
        status = recorder.status
        what = f"{count_text(len(engine.reader), 'allocation')} at index {engine.index}"
        gaps = f", {count_text(status.gaps, 'gap')}" if status.gaps else ""
        note(f"{what}, {count_text(status.records, 'new record')}{gaps}")
    return 0


async def _run(recorder: Recorder, server: Server | None) -> None:
    """Record, and serve, until a signal ends both in good order. Raises what ends the recorder."""
    loop = asyncio.get_running_loop()
    recording = loop.create_task(recorder.run())
    serving = None if server is None else loop.create_task(server.run())
    showing = loop.create_task(_show(recorder)) if _is_terminal() else None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, recording.cancel)
    try:
        await asyncio.wait(
            {recording} if serving is None else {recording, serving}, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        for task in (recording, showing):
            if task is not None:
                task.cancel()
        if server is not None and serving is not None:
            server.stop()
            await serving
        with suppress(asyncio.CancelledError):
            await recording


async def _show(recorder: Recorder) -> None:
    """Show on the terminal how far the recorder is, in one line that is written anew."""
    try:
        while True:
            await asyncio.sleep(_STATUS_SECONDS)
            status = recorder.status
            state = "connected" if status.is_connected else "away"
            counts = f"index {status.index}, {status.records} records, {status.gaps} gaps, {status.behind} behind"
            sys.stderr.write(f"\r\x1b[K{status.agent}: {state}, {counts}")
            sys.stderr.flush()
    finally:
        sys.stderr.write("\r\x1b[K")


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
