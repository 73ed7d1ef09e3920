"""``taskfold serve``: the server over a log, from its options."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from taskfold.cli import _options as options
from taskfold.cli._collector import without_collecting_present_objects
from taskfold.cli._guard import Unanswerable, say
from taskfold.cli._recording import (
    agent_settings,
    agents_dialect,
    check_mirror,
    pass_through_option,
    recorder_of,
    upstream_of,
)
from taskfold.cli._serving import TlsOptions, tls_options
from taskfold.cli._words import count_text
from taskfold.cli.collect import compact_option, retainer_of, retention_of, retention_options
from taskfold.live.background import LogListener
from taskfold.live.core import Core
from taskfold.live.engine import Engine
from taskfold.log.memory import MemoryLog
from taskfold.log.names import shown_name
from taskfold.log.registry import is_log, is_new_log, open_log, open_reader
from taskfold.model.dialect import DEFAULT_DIALECT, NEWEST_DIALECT
from taskfold.model.errors import LogError, ServeError, SourceError, Unreadable
from taskfold.model.go.durations import NS_PER_SECOND
from taskfold.recording.settings import AgentSettings, is_agent
from taskfold.sources.follow import STANDARD_INPUT, Follower
from taskfold.sources.replay import Replay

if TYPE_CHECKING:
    from taskfold.http.app import App
    from taskfold.http.serve.server import Server
    from taskfold.http.serve.tls import TlsFiles
    from taskfold.recording.recorder import Recorder

__all__ = ["check_extra", "serve"]

_EXTRA: Final = ("httptools", "httpx", "prometheus_client", "uvicorn")
_DEFAULT_BIND: Final = "127.0.0.1:4646"
"""The port of Nomad's agents, on loopback."""

_MOST_WORKERS: Final = 64

_SILENCE_NS: Final = 120 * NS_PER_SECOND
"""Four of the heartbeats of Nomad's event stream."""


@options.command()
@click.argument("log", required=False)
@click.option(
    "--bind", metavar="HOST:PORT|unix:PATH", default=_DEFAULT_BIND, show_default=True, help="Where to listen."
)
@click.option("--region", metavar="NAME", help="The region that is served; default: the log's.")
@click.option("--region-peer", "peers", metavar="NAME=URL", multiple=True, help="The server of another region.")
@click.option(
    "--region-token-file",
    "peer_tokens",
    metavar="NAME=FILE",
    multiple=True,
    help="A file whose first line is the token of another region's server.",
)
@click.option("--token", metavar="TEXT", help="The token that clients must send; safer in a file or in TASKFOLD_TOKEN.")
@click.option("--token-file", metavar="FILE", help="A file whose first line is the token.")
@tls_options
@click.option(
    "--follow",
    metavar="URL|FILE|-",
    multiple=True,
    help="Record what an agent does (or several of one region); or import a stream as it grows, or standard input.",
)
@pass_through_option
@click.option("--follow-token-file", metavar="FILE", help="A file whose first line is the agents' token.")
@click.option(
    "--follow-silence",
    "silence",
    type=options.DURATION,
    metavar="DURATION",
    help="How long the stream may be silent until health fails: 2m, for Nomad's 30s heartbeat; 0s: for ever.",
)
@options.dialect_option("The dialect of a new log.")
@retention_options
@compact_option
@click.option("--read-only", is_flag=True, help="Read LOG as another process writes it, and write nothing.")
@click.option(
    "--workers",
    type=click.IntRange(1, _MOST_WORKERS),
    metavar="N",
    default=1,
    show_default=True,
    help="The number of processes: one owns LOG, the others follow it.",
)
@click.option("--max-blocked", type=click.IntRange(1), metavar="N", help="The most blocked queries of all clients.")
@click.option(
    "--max-blocked-per-client", type=click.IntRange(1), metavar="N", help="The most blocked queries of one address."
)
@click.option("--max-streams", type=click.IntRange(1), metavar="N", help="The most streams to all clients.")
@click.option("--max-streams-per-client", type=click.IntRange(1), metavar="N", help="The most streams to one address.")
@click.option("--max-connections", type=click.IntRange(1), metavar="N", help="The most connections of all clients.")
@click.option(
    "--max-connections-per-client", type=click.IntRange(1), metavar="N", help="The most connections of one address."
)
def serve(
    log: str | None,
    bind: str,
    token: str | None,
    token_file: str | None,
    follow: tuple[str, ...],
    tls: TlsOptions,
    **more: Any,
) -> int:
    """Serve the allocations of LOG as Nomad's agents do: reads, blocking queries, the event stream.

    LOG is a file (x.db, x.jsonl) or a PostgreSQL database (postgresql://…), which several servers may share. It is
    created if it does not exist; without LOG everything is in memory. See docs/serving.md.
    """
    check_extra()
    from taskfold.http.serve.descriptors import raise_descriptor_limit
    from taskfold.http.serve.secrets import read_token
    from taskfold.http.serve.server import Server, check_exposure, new_loop, parse_bind

    workers = more.pop("workers")
    if workers > 1 and log is None:
        raise Unanswerable("--workers needs a LOG that several processes can read: name a file, or a database")
    if workers > 1 and os.name != "posix":
        raise Unanswerable("--workers: processes of this system cannot share a socket")
    silence = more.pop("silence")
    if silence is not None and silence < 0:
        raise Unanswerable("--follow-silence must not be negative")
    host, port = parse_bind(bind)
    agents, pass_through = _agents(follow, more.pop("follow_token_file")), more.pop("pass_through")
    if pass_through is not None:
        _check_pass_through(agents, workers)
    retention = retention_of(more.pop("dead_for_ns"), more.pop("keep"), more.pop("statuses"))
    secret = read_token(token, token_file, on_note=_note)
    tls_of_server = tls.files()
    check_exposure(host, secret, tls_of_server)
    with ExitStack() as stack:
        is_reader, compact = more.pop("read_only"), more.pop("compact")
        if is_reader and (log is None or follow or retention is not None or compact or more["dialect"] is not None):
            raise Unanswerable("--read-only serves the log of another process: give its LOG, and no option that writes")
        engine = stack.enter_context(
            _reader(str(log)) if is_reader else _engine(log, agents or follow, more["dialect"], more["region"])
        )
        app = _app(engine, secret, tls_of_server, is_mirror=bool(follow), **more)
        raise_descriptor_limit()
        server = Server(app, host=host, port=port, workers=workers, tls=tls_of_server)
        stack.callback(server.close)
        if app.context.connections.total < app.context.limits.connections_per_client:
            _note(f"{app.context.connections.total} connections at most, since it may not open more files (ulimit -n)")
        source = _source(engine, agents, follow, silence)
        app.context.source = source
        if agents is not None:
            app.upstream = upstream_of(agents, pass_through)
        if isinstance(source, Follower):
            stack.callback(source.stop)
        stack.enter_context(LogListener(engine, on_problem=_problem(app)))
        retainer = retainer_of(engine, retention, _problem(app), compact=compact)
        if retainer is not None:
            stack.enter_context(retainer)
        stack.enter_context(without_collecting_present_objects())
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_run(server, log, secret, source))
    say(f"stopped at index {engine.index}")
    return 0


async def _run(server: Server, log: str | None, token: str | None, source: Follower | Recorder | None) -> None:
    """Serve, in as many processes as the server has sockets, until a signal ends it.

    Raises ServeError, and what ends a recorder.
    """
    app = server.app
    if server.sockets:
        from taskfold.http.serve.channel import Settings
        from taskfold.http.serve.workers import Workers

        assert log is not None
        assert app.peers is not None
        settings = Settings(
            log=log,
            region=app.context.region,
            peers=app.peers.urls,
            peer_tokens=app.peers.tokens,
            token=token,
            limits=app.context.limits,
            is_mirror=app.context.is_mirror,
            tls=server.tls,
        )
        app.context.crew = Workers(app, settings, server.sockets, on_note=say)
    recording: list[asyncio.Task[None]] = []

    def begin() -> None:
        _begin(app, server, log)
        if isinstance(source, Follower):
            source.start()
        elif source is not None:
            recording.append(asyncio.get_running_loop().create_task(source.run()))
            recording[0].add_done_callback(lambda _: server.stop())

    await server.run(handles_signals=True, on_ready=begin)
    for task in recording:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _agents(follow: tuple[str, ...], token_file: str | None) -> AgentSettings | None:
    """Return the settings of the agents that are followed; None where none are. Raises Unanswerable and SourceError."""
    if any(map(is_agent, follow)):
        return agent_settings(follow, token_file, None)
    if len(follow) > 1:
        raise Unanswerable("--follow: one file, or standard input, is followed; several sources must be agents")
    if token_file is not None:
        raise Unanswerable("--follow-token-file is for agents: name one with --follow URL")
    return None


def _check_pass_through(agents: AgentSettings | None, workers: int) -> None:
    """Refuse to pass requests on where nobody is followed, and from several processes. Raises Unanswerable."""
    if agents is None:
        raise Unanswerable("--pass-through asks the agents that are followed: name one with --follow URL")
    if workers > 1:
        raise Unanswerable("--pass-through works in one process: leave --workers out")


def _source(
    engine: Engine, agents: AgentSettings | None, follow: tuple[str, ...], silence_ns: int | None
) -> Follower | Recorder | None:
    """Return what follows a source; None where nothing is followed. Raises SourceError."""
    if not follow:
        return None
    if agents is not None:
        check_mirror(engine, engine.reader.name or "memory")
        return recorder_of(engine, agents, silence_ns=silence_ns, note=_note)
    if silence_ns is None:
        # Other dialects have no heartbeats, so that silence has no meaning.
        silence_ns = _SILENCE_NS if engine.dialect.has_event_stream else 0
    return Follower(engine, follow[0], on_note=_note, on_problem=say, silence_seconds=silence_ns / NS_PER_SECOND)


def _note(text: str) -> None:
    say(f"note: {text}")


def check_extra() -> None:
    """Check that the extra is installed. Raises Unanswerable with the command that installs it."""
    from importlib.util import find_spec

    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise Unanswerable(f"serving needs {', '.join(missing)}: pip install 'taskfold[http]'")


def _reader(log: str) -> Engine:
    """Return a read-only engine over a log. Raises LogError."""
    core = Core()
    return Engine(open_reader(log, reader=core), core=core)


def _engine(
    log: str | None, follow: AgentSettings | tuple[str, ...], dialect: str | None, region: str | None
) -> Engine:
    """Return the engine over a log, or over memory. Raises LogError, DialectError and SourceError."""
    begins = log is None or is_new_log(log)
    detected = None
    if isinstance(follow, AgentSettings):
        detected = dialect or (agents_dialect(follow, _note) if begins else None)
    elif begins and follow:
        detected = _detected_dialect(follow[0], is_asked=dialect is None)
    name = dialect or detected or (DEFAULT_DIALECT if begins else None)
    own = {} if region is None else {"region": region}
    if log is None:
        return Engine(MemoryLog(name or DEFAULT_DIALECT, **own))
    core = Core()
    try:
        return Engine(open_log(log, name, **own, reader=core), core=core)
    except LogError as error:
        if begins or not _is_source(log):
            raise
        raise LogError(f"{error}; `taskfold import {log} --into FILE.jsonl` makes a log of it") from None


def _is_source(path: str) -> bool:
    """Tell whether a file is a source, or a log in a form that cannot be written to."""
    try:
        if Path(path).is_file() and is_log(path):
            return False
        return next(iter(Replay(path)), None) is not None
    except (Unreadable, LogError, OSError):
        return False


def _detected_dialect(follow: str, *, is_asked: bool) -> str | None:
    """Return the dialect of the beginning of a file; the newest if it shows none yet.

    Raises SourceError if there is no such file: no log is created for it.
    """
    # A pipe can be read only once, by its follower.
    if follow != STANDARD_INPUT and (Path(follow).is_file() or not Path(follow).exists()):
        reading = Replay(follow)
        try:
            # An idle cluster sends heartbeats only.
            if next(reading.statements(), None) is not None:
                return reading.dialect
        except SourceError:
            if not Path(follow).exists():
                raise
    if not is_asked:
        return None
    _note(f"the new log gets dialect {NEWEST_DIALECT}; --dialect chooses another")
    return NEWEST_DIALECT


def _app(engine: Engine, token: str | None, tls: TlsFiles | None, *, is_mirror: bool, **arguments: Any) -> App:
    """Return the application with these options. Raises ServeError."""
    from taskfold.http.app import App
    from taskfold.http.serve.limits import Limits
    from taskfold.http.serve.regions import Peers, parse_peer, parse_token_file
    from taskfold.http.serve.secrets import read_token
    from taskfold.http.serve.tls import hosts_of

    own = arguments["region"] or engine.reader.region
    urls: dict[str, str] = {}
    for name, url in map(parse_peer, arguments["peers"]):
        if name == own or name in urls:
            raise ServeError(f"region {name} is given twice: it is served here, or has another peer")
        urls[name] = url
    tokens: dict[str, str] = {}
    for name, file in map(parse_token_file, arguments["peer_tokens"]):
        if name not in urls or name in tokens:
            problem = "is named twice" if name in tokens else "has no --region-peer"
            raise ServeError(f"--region-token-file: region {name} {problem}")
        tokens[name] = read_token(None, file, on_note=_note) or ""
    peers = Peers(urls, tokens)
    for note in peers.notes(has_token=token is not None):
        _note(note)
    limits = {
        field: arguments[option]
        for field, option in (
            ("blocked", "max_blocked"),
            ("blocked_per_client", "max_blocked_per_client"),
            ("streams", "max_streams"),
            ("streams_per_client", "max_streams_per_client"),
            ("connections", "max_connections"),
            ("connections_per_client", "max_connections_per_client"),
        )
        if arguments[option] is not None
    }
    return App(
        engine,
        region=own,
        peers=peers,
        token=token,
        hosts=hosts_of(tls),
        limits=Limits(**limits),
        is_mirror=is_mirror,
    )


def _problem(app: App) -> Any:
    """Return a function that reports a problem to the operator, and in health."""

    def tell(problem: str) -> None:
        app.context.problem = problem
        say(problem or "note: the log can be read again")

    return tell


def _begin(app: App, server: Server, log: str | None) -> None:
    """Say where it listens and what it serves."""
    engine = app.engine
    what = f"{count_text(len(engine.reader), 'allocation')} of {shown_name(log or 'memory')}"
    at = f"with {len(server.sockets) + 1} workers, at" if server.sockets else "at"
    region = app.context.region
    say(f"serving {what} at index {engine.index}, region {region}, dialect {engine.dialect.name}, {at} {server.url}")
