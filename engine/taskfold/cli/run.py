"""``taskfold run``: the processes of a job under a supervisor, and a live table of its tasks."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from taskfold.cli import _options as options
from taskfold.cli._collector import without_collecting_present_objects
from taskfold.cli._guard import NO, Unanswerable, say
from taskfold.cli._jobs import runnable_job
from taskfold.cli._serving import TlsOptions, server_beside, tls_options
from taskfold.cli._words import count_text, instant_text, visible
from taskfold.cli.serve import check_extra
from taskfold.live.core import Core
from taskfold.live.engine import Engine
from taskfold.log.files import own_file, own_folder
from taskfold.log.memory import MemoryLog
from taskfold.log.registry import is_new_log, open_log, server_kind
from taskfold.model.dialect import NEWEST_DIALECT, dialect_of
from taskfold.model.effects import Step
from taskfold.model.events import wire_type
from taskfold.nomad.jobs.canonical import canonical_job
from taskfold.nomad.messages import display_message

if TYPE_CHECKING:
    from taskfold.http.serve.server import Server
    from taskfold.run.supervisor import Supervisor

__all__ = ["run"]


@options.command()
@click.argument("job", metavar="JOB.json|-")
@click.option("--log", metavar="LOG", help="Record in LOG (x.db, x.jsonl), and continue from it after a crash.")
@click.option("--serve", "bind", metavar="HOST:PORT", help="Serve Nomad's HTTP API meanwhile.")
@tls_options
@options.dialect_option(f"The dialect of a new log; default: {NEWEST_DIALECT}.")
def run(job: str, log: str | None, bind: str | None, dialect: str | None, tls: TlsOptions) -> int:
    """Run the raw_exec tasks of a job as processes of this machine, until they have ended.

    JOB.json is a job in the JSON of Nomad's API. Ctrl-C stops the tasks as the job says, a second one at once. Their
    output is in LOG.run. See docs/embedding.md.
    """
    if sys.platform != "linux":
        raise Unanswerable("taskfold run needs Linux, whose /proc identifies processes")
    if log is not None and server_kind(log) is not None:
        raise Unanswerable("--log must be a file (x.db, x.jsonl), since the processes run on this machine")
    if bind is not None:
        check_extra()
    tls_of_server = tls.files(is_served=bind is not None)
    begins = log is None or is_new_log(log)
    name = dialect or (NEWEST_DIALECT if begins else None)
    document = runnable_job(job, dialect_of(name or NEWEST_DIALECT)) if begins else None
    with ExitStack() as stack:
        core = Core()
        opened = MemoryLog(name or "") if log is None else open_log(log, name, reader=core)
        engine = stack.enter_context(Engine(opened, core=core))
        document = document or runnable_job(job, engine.dialect)
        server = None
        if bind is not None:
            server = server_beside(engine, bind, None, stack, note=say, tls=tls_of_server)
        directory = Path(tempfile.mkdtemp(prefix="taskfold-run-") if log is None else f"{log}.run")
        _lock(directory, stack)
        engine.catch_up()
        from taskfold.run.inspection import Inspection
        from taskfold.run.supervisor import Supervisor

        supervisor = Supervisor(engine, directory.absolute(), is_bound=log is None)
        if server is not None:
            server.app.context.tasks = Inspection(supervisor)
        supervisor.on_note = lambda text: say(f"note: {text}")
        shown_ids = set(supervisor.live)
        say(f"running job {document['ID']}; the output of its tasks is in {directory}")
        _show(supervisor, shown_ids, stack)
        shown_ids.update(new := supervisor.place(document))
        whole = msgspec.json.decode(supervisor.canonical_job(document))
        stand = (canonical_job(engine.snapshot(alloc).fields["Job"], engine.dialect) for alloc in new)
        if any(msgspec.json.decode(job) != whole for job in stand):
            say(
                "note: the job file differs from the log's job; existing allocations keep the job they were placed with"
            )
        with without_collecting_present_objects():
            asyncio.run(_run(supervisor, server))
        statuses = [snapshot.client_status or "" for snapshot in engine.allocations() if snapshot.id in shown_ids]
    counts = [f"{count_text(statuses.count(each), 'allocation')} {each}" for each in sorted({*statuses})]
    say("; ".join(counts) or "no allocation")
    return NO if "failed" in statuses else 0


def _lock(directory: Path, stack: ExitStack) -> None:
    """Lock the directory against other runs. Raises Unanswerable."""
    import fcntl

    try:
        own_folder(directory)
        file = stack.enter_context(own_file(directory / "lock"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unanswerable(f"{directory}: another taskfold run uses this directory") from None
    except OSError as error:
        raise Unanswerable(f"{directory}: cannot be written: {error.strerror or error}") from None


async def _run(supervisor: Supervisor, server: Server | None) -> None:
    """Run the supervisor, and the server; a signal stops both in good order."""
    loop = asyncio.get_running_loop()
    serving = None if server is None else loop.create_task(server.run())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # under nohup
            loop.add_signal_handler(number, supervisor.stop)
    try:
        await supervisor.run()
    finally:
        if server is not None and serving is not None:
            server.stop()
            await serving


def _show(supervisor: Supervisor, shown_ids: set[str], stack: ExitStack) -> None:
    """Show the tasks in a live table on a terminal, else a line per event."""
    from taskfold.cli._screen import Screen

    screen = Screen()
    if not screen.is_plain:
        from rich.live import Live

        from taskfold.cli._views import live_table

        live = Live(get_renderable=lambda: live_table(supervisor.engine, shown_ids), console=screen.console)
        stack.enter_context(live)
        return

    def tell(step: Step) -> None:
        for task, event in step.events:
            what = f"{visible(task)}  {wire_type(event)}  {visible(display_message(event))}"
            click.echo(f"{instant_text(step.time_ns)}  {step.alloc[:8]}  {what}".rstrip())

    stack.callback(supervisor.engine.on_step(tell))
