"""The server: requests a second, how fast a change reaches who waits for it, and what waiting clients cost.

Requests are answered by `taskfold serve` over a log. Its rival, and its budget of 0.7 ×, is uvicorn with the same
settings and without our guard of connections, answering a constant body; the same with the guard, and granian where it
is installed, are shown beside it. What waits has as its rival an application that waits for a future and nothing else.
Two processes on one log are to answer 1.7 × as much as one, on two processors of their own. Here clients need one, too,
so that what is compared is how much is answered in a second of a processor: ≥ 0.85 × as much as by one process.
Budgets: a wake-up in 1 ms (p50) and 5 ms (p99) beside 1,000 other waiting clients; 10,000 of them at 30 kB each.
`wrk` sends the requests (a package of every system); without it those rows are left out. For scale: real agents of
Nomad 0.5.6 and 1.1.2 answered 9.5 and 12.4 thousand requests a second on another, faster machine.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import httpx
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import taskfold.http.serve.server
from benchmarks.encode import recorded_body
from benchmarks.harness import REPETITIONS, ROOT, SIZE, Budget, Row, environment, label, resident_bytes, take_turns
from taskfold import Engine, EventLog, MemoryLog, NdjsonLog, observation_from_json
from taskfold import events as ev
from taskfold.http.answers import json_answer
from taskfold.http.app import App
from taskfold.http.serve.descriptors import room_for_connections
from taskfold.http.serve.limits import Limits, Slots, Unsent
from taskfold.log.sqlite.log import SqliteLog

WORKERS = "taskfold serve --workers 2"
OURS, EMBEDDED = "taskfold serve", "taskfold, embedded"
CONSTANT = label("uvicorn", "the same settings, a constant body")
GUARDED = "the same with our guard of connections"
BARE = "the same server, an application that waits for a future"
ON_ONE_MACHINE = "what sends them takes a processor, too"
BODY_BYTES = 10_240
MANY = 133
"""How many allocations the larger job has."""

WRITE_SECONDS = 0.002
"""How often an allocation is written beside the requests of lists."""

DIALECT = "1.1.2"
SPARE_FILES = 200


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the server in a process of its own, from this one."""
    seconds, turns, allocations = (1, 1, 20) if quick else (1, 15, 1_000)
    others, held_count, wakes, repetitions = (20, 50, 10, 1) if quick else (1_000, 10_000, 400, REPETITIONS)
    files = _raise_limit(20_000)
    # The server takes at most half of the connections that its files leave room for from one client.
    room = min(files - SPARE_FILES, room_for_connections(files, has_peers=False) // 2)
    if room < held_count:
        print(f"   this machine allows {files:,} open files to a process: fewer queries are held")
        held_count = room
    if shutil.which("wrk"):
        yield from _requests(seconds, turns, allocations)
        yield from _workers(seconds, turns, allocations)
        yield from _lists(seconds, max(turns // 3, 1), allocations)
        yield from _lists_beside_writes(seconds, max(turns // 3, 1), allocations)
    else:
        print("   wrk is not installed: requests a second are not measured (apt install wrk)")
    yield from _wake_ups(others, wakes, repetitions)
    yield from _held_polls(held_count, repetitions=1 if quick else 3)


def _requests(seconds: int, turns: int, allocations: int) -> Iterator[Row]:
    """Measure plain reads of one allocation; all servers are up, and those whose turn it is not are idle.

    Turns are short and many: on a machine that others use, the speed of one second says little of the next.
    """
    with TemporaryDirectory() as folder, ExitStack() as stack:
        log = Path(folder) / "log.jsonl"
        with _engine(NdjsonLog(log, DIALECT), allocations):
            pass
        urls = {
            OURS: stack.enter_context(_command_line(log)).url,
            CONSTANT: stack.enter_context(_child("plain", BODY_BYTES)).url,
            GUARDED: stack.enter_context(_child("constant", BODY_BYTES)).url,
        }
        if importlib.util.find_spec("granian"):
            urls[label("granian", "a constant body")] = stack.enter_context(_granian())
        for connections in (16, 64):
            runs = {name: partial(_wrk, url, connections, seconds) for name, url in urls.items()}
            yield Row(
                f"requests of one allocation over {connections} connections that stay",
                "k/s",
                take_turns(runs, turns),
                better="higher",
                budgets=(Budget("≥", 0.7, CONSTANT),),
                note=f"a recorded body of {len(recorded_body()):,} B, one of {allocations:,} allocations of a log; "
                f"the constant one has {BODY_BYTES:,}",
            )


def _workers(seconds: int, turns: int, allocations: int) -> Iterator[Row]:
    """Measure one process and two on one log: what they answer, and how much of it in a second of a processor."""
    if not Path("/proc/self/stat").exists():
        print("   this system does not tell the time of other processes as Linux does: workers are not measured")
        return
    with TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {}
        for name, count in ((WORKERS, 2), (OURS, 1)):
            log = Path(folder) / f"{count}.db"
            with _engine(SqliteLog(log, DIALECT), allocations):
                pass
            servers[name] = stack.enter_context(_command_line(log, "--workers", str(count)))
        rates: dict[str, list[float]] = {name: [] for name in servers}

        def ask(name: str) -> float:
            """Return thousands of requests for each second of a processor, and note those for each second."""
            server = servers[name]
            before = server.seconds()
            rates[name].append(_wrk(server.url, 64, seconds))
            return rates[name][-1] * seconds / (server.seconds() - before)

        spent = take_turns({name: partial(ask, name) for name in servers}, turns)
        yield Row(
            "requests of one allocation for each second of a processor, over 64 connections",
            "k/s",
            spent,
            better="higher",
            budgets=(Budget("≥", 0.85, OURS),),
            note=f"one of {allocations:,} allocations of a log in SQLite; the time of all its processes",
        )
        yield Row("the same for each second of a clock", "k/s", rates, better="higher", note=ON_ONE_MACHINE)


def _lists(seconds: int, turns: int, allocations: int) -> Iterator[Row]:
    """Measure the lists that clients poll: of a job with one allocation, of a prefix, and of a job with many."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        log = Path(folder) / "log.jsonl"
        with _engine(NdjsonLog(log, DIALECT), allocations):
            pass
        server = stack.enter_context(_command_line(log)).url.removesuffix(path_of(0))
        many = min(MANY, allocations - 1)
        for what, target in (
            ("a job's list of one stub", "/v1/job/one/allocations"),
            ("a list by the prefix of one", f"/v1/allocations?prefix={alloc_id(0)[:8]}"),
            (f"a job's list of {many} stubs", "/v1/job/many/allocations"),
        ):
            size = len(httpx.get(server + target).content)
            with _child("plain", size) as constant_body:
                urls = {OURS: server + target, CONSTANT: constant_body.url}
                runs = {name: partial(_wrk, url, 16, seconds) for name, url in urls.items()}
                note = f"of {allocations:,} allocations of a log; {size:,} B, as the constant body"
                yield Row(f"requests of {what}", "k/s", take_turns(runs, turns), better="higher", note=note)


def _lists_beside_writes(seconds: int, turns: int, allocations: int) -> Iterator[Row]:
    """Measure the same lists while an allocation that is in none of them is written again and again."""
    with _child("taskfold", allocations) as child, ExitStack() as stack:
        child.ask("begin")
        server = child.url.removesuffix(path_of(0))
        many = min(MANY, allocations - 2)
        for what, target in (("one stub", "/v1/job/one/allocations"), (f"{many} stubs", "/v1/job/many/allocations")):
            constant_body = stack.enter_context(_child("plain", len(httpx.get(server + target).content)))
            urls = {EMBEDDED: server + target, CONSTANT: constant_body.url}
            runs = {name: partial(_wrk, url, 16, seconds) for name, url in urls.items()}
            yield Row(
                f"requests of a job's list of {what}, beside writes",
                "k/s",
                take_turns(runs, turns),
                better="higher",
                note=f"another job's allocation is written each {1_000 * WRITE_SECONDS:g} ms by a thread of the server",
            )


def _wrk(url: str, connections: int, seconds: int) -> float:
    """Return thousands of requests a second."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in output, output
    assert "Socket errors" not in output, output
    line = next(line for line in output.splitlines() if line.startswith("Requests/sec"))
    return float(line.split()[1]) / 1_000


def _wake_ups(others: int, wakes: int, repetitions: int) -> Iterator[Row]:
    """Measure from before the write, in the server's process, to the first byte at the client, in this one.

    The clock is one for all processes of a machine (CLOCK_MONOTONIC).
    """
    latencies: dict[str, dict[str, list[float]]] = {part: {EMBEDDED: [], BARE: []} for part in ("p50", "p99")}
    for _ in range(repetitions):
        for name, role in ((EMBEDDED, "taskfold"), (BARE, "bare")):
            with _child(role, others + 1) as child, ExitStack() as crowd:
                for number in range(1, others + 1):
                    crowd.enter_context(child.block(number))
                child.settle(others)
                cuts = quantiles([_wake(child, others) for _ in range(wakes)], n=100, method="inclusive")
                latencies["p50"][name].append(cuts[49])
                latencies["p99"][name].append(cuts[98])
    for part, limit in (("p50", 1), ("p99", 5)):
        yield Row(
            f"a blocked query is woken by a write, {part} of {wakes}",
            "ms",
            latencies[part],
            budgets=(Budget("≤", limit),),
            note=f"{others:,} clients wait for other allocations; the bare application has no write, lock or body",
        )


def _wake(child: Child, others: int) -> float:
    """Return how many milliseconds one wake-up takes."""
    with child.block(0) as opened:
        child.settle(others + 1)
        began = child.ask("write")
        return (_answered_at(opened) - began) / 1e6


def _held_polls(count: int, repetitions: int) -> Iterator[Row]:
    """Measure what blocked queries cost, all of one allocation, and how long it takes to answer them all."""
    sizes: dict[str, list[float]] = {EMBEDDED: [], BARE: []}
    latencies: dict[str, list[float]] = {EMBEDDED: [], BARE: []}
    for _ in range(repetitions):
        for name, role in ((EMBEDDED, "taskfold"), (BARE, "bare")):
            with _child(role, 1) as child, ExitStack() as stack:
                before = child.ask("rss")
                waiting = [stack.enter_context(child.block(0)) for _ in range(count)]
                child.settle(count)
                sizes[name].append((child.ask("rss") - before) / count / 1e3)
                began = child.ask("write")
                latencies[name].append((max(map(_answered_at, waiting)) - began) / 1e6)
    note = "growth of the server's process"
    yield Row(f"{count:,} blocked queries: each", "kB", sizes, budgets=(Budget("≤", 30),), words=SIZE, note=note)
    yield Row(f"{count:,} blocked queries of one allocation: all answered after a write of it", "ms", latencies)


def _answered_at(opened: socket.socket) -> int:
    """Return when (monotonic, nanoseconds) the first bytes of an answer were here; one that is no 200 is a defect."""
    first = opened.recv(65_536)
    at = time.monotonic_ns()
    assert first.startswith(b"HTTP/1.1 200 "), first[:200]
    return at


class Child:
    """A server in a process of its own, and what it is told through its standard input."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.port, self.path = json.loads(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}{self.path}"

    def ask(self, command: str) -> int:
        """Give a command, and return the number that it answers with."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def block(self, number: int) -> socket.socket:
        """Send a query that waits for the next write of an allocation, and return its connection."""
        opened = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        target = f"{path_of(number)}?index={self.ask('index')}"
        opened.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return opened

    def settle(self, count: int) -> None:
        """Wait until so many queries are blocked; a minute at most."""
        until = time.monotonic() + 60
        while (blocked := self.ask("blocked")) < count:
            assert time.monotonic() < until, f"{blocked} queries are blocked, not {count}"
            time.sleep(0.002)


@contextmanager
def _child(role: str, allocations: int) -> Iterator[Child]:
    command = [sys.executable, "-m", "benchmarks.serving", "--child", role, str(allocations)]
    with _started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Child(process)


class Served:
    """``taskfold serve`` as processes of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        """Where the first allocation is."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        others = children.read_text().split() if children.exists() else []
        self._processes = [str(process.pid), *others]

    def seconds(self) -> float:
        """Return how long its processes have used a processor."""
        ticks = 0
        for process in self._processes:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _command_line(log: Path, *options: str) -> Iterator[Served]:
    """Run ``taskfold serve`` over a log."""
    command = [sys.executable, "-m", "taskfold", "serve", str(log), "--bind", "127.0.0.1:0", *options]
    with _started(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http://" in line, line
        yield Served(process, line.split()[-1] + path_of(0))


@contextmanager
def _granian() -> Iterator[str]:
    """Run granian with the constant body; yield where that is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "granian", "--interface", "asginl", "--port", str(port), "--no-log"]
    with _started([*command, "benchmarks.serving:constant"]):
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < until, "granian does not begin to listen"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}{path_of(0)}"


@contextmanager
def _started(command: list[str], **pipes: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process while the block runs; one that has workers of its own is let end them."""
    with subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, **pipes) as process:  # type: ignore[call-overload]  # pipes are integers
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _raise_limit(files: int) -> int:
    """Have room for so many open files, or for as many as the machine allows; return how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def path_of(number: int) -> str:
    """Return the path of an allocation."""
    return f"/v1/allocation/{alloc_id(number)}"


def alloc_id(number: int) -> str:
    """Return the ID of an allocation."""
    return f"{number:08x}-e0d6-9486-5e05-397ed2b184af"


# --- the servers' side ---


class Bare:
    """The application of the rivals."""

    def __init__(self, *, waits: bool, body_bytes: int = BODY_BYTES) -> None:
        limits = _limits()
        # What a server looks at of an application.
        self.context = SimpleNamespace(
            limits=limits,
            connections=Slots("connections", total=limits.connections, per_client=limits.connections_per_client),
            unsent=Unsent(limits.unsent_bytes),
            crew=None,
        )
        self.peers = None
        self.waits = waits
        self.waiting: dict[str, list[asyncio.Future[None]]] = {}
        self.body = b"x" * body_bytes
        self.headers = [*json_answer(b"", 1).headers, (b"Content-Length", b"%d" % body_bytes)]

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        """Answer, now or when the future is done."""
        if self.waits:
            future = asyncio.get_running_loop().create_future()
            self.waiting.setdefault(scope["path"], []).append(future)
            await future
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})

    def may_answer_at_once(self, _target: bytes) -> bool:
        """Tell that every request is a task."""
        return False

    def close(self) -> None:
        """Do nothing, as the rival of what answers them."""

    async def end(self) -> None:
        """Do nothing."""


def _limits() -> Limits:
    return Limits(blocked=20_000, blocked_per_client=20_000, connections_per_client=20_000, header_timeout=60)


constant = Bare(waits=False)


def _engine(log: EventLog, allocations: int) -> Engine:
    """Return an engine with the recorded allocation so many times: the first is alone in its job."""
    engine = Engine(log)
    body = json.loads(recorded_body())
    ids = ({"ID": alloc_id(number), "JobID": _job_of(number)} for number in range(allocations))
    bodies = (json.dumps(body | own).encode() for own in ids)
    engine.observe(*map(observation_from_json, bodies))
    return engine


def _job_of(number: int) -> str:
    return "one" if number == 0 else "many" if number <= MANY else "example"


def _serve(role: str, size: int) -> None:
    """Serve so many allocations, or a body of so many bytes, and do what standard input says."""
    _raise_limit(20_000)
    is_constant = role in {"plain", "constant"}
    engine = _engine(MemoryLog(DIALECT), 1 if is_constant else size)
    bare = Bare(waits=not is_constant, body_bytes=size if is_constant else BODY_BYTES)
    app: Any = App(engine, limits=_limits()) if role == "taskfold" else bare
    task = next(iter(engine.snapshot(alloc_id(0)).tasks))
    if role == "plain":
        # Put in its place, so that every other setting of uvicorn is the server's own.
        taskfold.http.serve.server.guarded = lambda *_, **__: HttpToolsProtocol
    with taskfold.http.serve.server.running(app) as server:
        print(json.dumps([server.port, path_of(0)]), flush=True)
        for command in sys.stdin:
            match command.strip():
                case "write":
                    began = time.monotonic_ns()
                    _write(app, engine, task)
                    print(began, flush=True)
                case "begin":
                    arguments = engine, alloc_id(size - 1), task
                    threading.Thread(target=_write_on, args=arguments, daemon=True).start()
                    print(0, flush=True)
                case "index":
                    print(engine.index, flush=True)
                case "rss":
                    print(resident_bytes(), flush=True)
                case "blocked":
                    print(app.context.blocked.count if role == "taskfold" else _waiting(app), flush=True)


def _write(app: Any, engine: Engine, task: str) -> None:
    """Change the first allocation; the bare application wakes those who wait for it."""
    if isinstance(app, Bare):
        futures = app.waiting.pop(path_of(0))
        futures[0].get_loop().call_soon_threadsafe(_release, futures)
    else:
        engine.record(alloc_id(0), task, ev.AllocUnhealthy())


def _write_on(engine: Engine, alloc: str, task: str) -> None:
    """Write an allocation again and again."""
    while True:
        engine.record(alloc, task, ev.AllocUnhealthy())
        time.sleep(WRITE_SECONDS)


def _release(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def _waiting(app: Bare) -> int:
    return sum(map(len, list(app.waiting.values())))


if __name__ == "__main__":
    _serve(sys.argv[2], int(sys.argv[3]))
