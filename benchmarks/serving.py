"""The server: requests a second, how fast a change reaches who waits for it, and what waiting clients cost.

The rival is the same ASGI server with a bare application: one that answers a constant body, or one that waits for a
future and nothing else. Budgets: 0.7 × the constant body; a wake-up in 1 ms (p50) and 5 ms (p99) beside 1,000 other
waiting clients; 10,000 waiting clients at 30 kB each. `wrk` sends the requests (a package of every system); without it
those rows are left out. For scale: real agents of Nomad 0.5.6 and 1.1.2 answered 9.5 and 12.4 thousand requests a
second on another, faster machine.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

from benchmarks.encode import recorded_body
from benchmarks.harness import REPETITIONS, ROOT, SIZE, Budget, Row, environment, resident_bytes, take_turns
from taskfold import Engine, MemoryLog, observation_from_json
from taskfold import events as ev
from taskfold.http.answers import json_answer
from taskfold.http.app import App
from taskfold.http.limits import Limits
from taskfold.http.server import running

OURS, CONSTANT = "taskfold serve", "the same server, a constant body"
BARE = "the same server, an application that waits for a future"
BODY_BYTES = 10_240


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the server in a process of its own, from this one."""
    seconds, others, held, wakes = (1, 20, 50, 10) if quick else (4, 1_000, 10_000, 400)
    repetitions = 1 if quick else REPETITIONS
    _raise_limit(held + others + 200)
    if shutil.which("wrk"):
        yield from _requests(seconds, repetitions)
    else:
        print("   wrk is not installed: requests a second are not measured (apt install wrk)")
    yield from _wake_ups(others, wakes)
    yield from _held(held, repetitions=1)


def _requests(seconds: int, repetitions: int) -> Iterator[Row]:
    """Measure plain reads of one allocation."""
    for connections in (16, 64):
        runs = {
            OURS: lambda n=connections: _wrk("taskfold", n, seconds),
            CONSTANT: lambda n=connections: _wrk("constant", n, seconds),
        }
        values = take_turns(runs, repetitions, warm_up=False)
        yield Row(
            f"requests of one allocation over {connections} connections that stay",
            "k/s",
            values,
            better="higher",
            budgets=(Budget("≥", 0.7, CONSTANT),),
            note=f"a recorded body of {len(recorded_body()):,} B; the constant one has {BODY_BYTES:,}",
        )


def _wrk(role: str, connections: int, seconds: int) -> float:
    """Return thousands of requests a second."""
    with _child(role, 1) as child:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", child.url]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert "Non-2xx" not in done.stdout
        line = next(line for line in done.stdout.splitlines() if line.startswith("Requests/sec"))
        return float(line.split()[1]) / 1_000


def _wake_ups(others: int, wakes: int) -> Iterator[Row]:
    """Measure from before the write, in the server's process, to the first byte at the client, in this one."""
    told: dict[str, dict[str, list[float]]] = {"p50": {}, "p99": {}}
    for name, role in ((OURS, "taskfold"), (BARE, "bare")):
        with _child(role, others + 1) as child:
            crowd = [child.block(number) for number in range(1, others + 1)]
            child.settle(others)
            taken = sorted(_wake(child, others) for _ in range(wakes))
            cuts = quantiles(taken, n=100)
            told["p50"][name], told["p99"][name] = [cuts[49]], [cuts[98]]
            for opened in crowd:
                opened.close()
    for name, limit in (("p50", 1), ("p99", 5)):
        yield Row(
            f"a blocked query is woken by a write, {name} of {wakes}",
            "ms",
            told[name],
            budgets=(Budget("≤", limit),),
            note=f"{others:,} clients wait for other allocations; the bare application has no write, lock or body",
        )


def _wake(child: Child, others: int) -> float:
    """Return how many milliseconds one wake-up takes."""
    with child.block(0) as opened:
        child.settle(others + 1)
        began = child.ask("write")
        opened.recv(65_536)
        return (time.monotonic_ns() - began) / 1e6


def _held(count: int, repetitions: int) -> Iterator[Row]:
    """Measure what blocked queries cost, all of one allocation, and how long it takes to answer them all."""
    sizes: dict[str, list[float]] = {OURS: [], BARE: []}
    answered: dict[str, list[float]] = {OURS: [], BARE: []}
    for _ in range(repetitions):
        for name, role in ((OURS, "taskfold"), (BARE, "bare")):
            with _child(role, 1) as child:
                before = child.ask("rss")
                waiting = [child.block(0) for _ in range(count)]
                child.settle(count)
                sizes[name].append((child.ask("rss") - before) / count / 1e3)
                began = child.ask("write")
                for opened in waiting:
                    opened.recv(65_536)
                answered[name].append((time.monotonic_ns() - began) / 1e6)
                for opened in waiting:
                    opened.close()
    note = "growth of the server's process"
    yield Row(f"{count:,} blocked queries: each", "kB", sizes, budgets=(Budget("≤", 30),), words=SIZE, note=note)
    yield Row(f"{count:,} blocked queries of one allocation: all answered after a write of it", "ms", answered)


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
        target = f"/v1/allocation/{alloc_id(number)}?index={self.ask('index')}"
        opened.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return opened

    def settle(self, count: int) -> None:
        """Wait until so many queries are blocked."""
        while self.ask("blocked") < count:
            time.sleep(0.002)


@contextmanager
def _child(role: str, allocations: int) -> Iterator[Child]:
    command = [sys.executable, "-m", "benchmarks.serving", "--child", role, str(allocations)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Child(process)
    finally:
        process.kill()
        process.wait()


def _raise_limit(files: int) -> None:
    """Have room for so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, hard), hard))


def alloc_id(number: int) -> str:
    """Return the ID of an allocation."""
    return f"{number:08x}-e0d6-9486-5e05-397ed2b184af"


# --- the servers' side ---


class Bare:
    """The application of the rivals."""

    def __init__(self, *, waits: bool) -> None:
        self.limits = _limits()
        self.waits = waits
        self.waiting: dict[str, list[asyncio.Future[None]]] = {}
        self.body = b"x" * BODY_BYTES
        self.headers = [*json_answer(b"", 1).headers, (b"Content-Length", b"%d" % BODY_BYTES)]

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        """Answer, now or when the future is done."""
        if self.waits:
            future = asyncio.get_running_loop().create_future()
            self.waiting.setdefault(scope["path"], []).append(future)
            await future
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})

    def close(self) -> None:
        """Do nothing, as the rival of what answers them."""

    async def end(self) -> None:
        """Do nothing."""


def _limits() -> Limits:
    return Limits(blocked=20_000, blocked_per_client=20_000, header_timeout=60)


def _engine(allocations: int) -> Engine:
    """Return an engine with the recorded allocation so many times."""
    engine = Engine(MemoryLog("1.1.2"))
    body = json.loads(recorded_body())
    for number in range(allocations):
        engine.observe(observation_from_json(json.dumps(body | {"ID": alloc_id(number)}).encode()))
    return engine


def _serve(role: str, allocations: int) -> None:
    """Serve, and do what standard input says."""
    _raise_limit(20_000)
    engine = _engine(allocations)
    app: Any = App(engine, limits=_limits()) if role == "taskfold" else Bare(waits=role == "bare")
    task = next(iter(engine.snapshot(alloc_id(0)).tasks))
    with running(app) as server:
        print(json.dumps([server.port, f"/v1/allocation/{alloc_id(0)}"]), flush=True)
        for command in sys.stdin:
            match command.strip():
                case "write":
                    began = time.monotonic_ns()
                    _write(app, engine, task)
                    print(began, flush=True)
                case "index":
                    print(engine.index, flush=True)
                case "rss":
                    print(resident_bytes(), flush=True)
                case "blocked":
                    print(app.blocked.count if role == "taskfold" else _waiting(app), flush=True)


def _write(app: Any, engine: Engine, task: str) -> None:
    """Change the first allocation; the bare application wakes those who wait for it."""
    if isinstance(app, Bare):
        futures = app.waiting.pop(f"/v1/allocation/{alloc_id(0)}")
        futures[0].get_loop().call_soon_threadsafe(_release, futures)
    else:
        engine.record(alloc_id(0), task, ev.AllocUnhealthy())


def _release(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def _waiting(app: Bare) -> int:
    return sum(map(len, list(app.waiting.values())))


if __name__ == "__main__":
    _serve(sys.argv[2], int(sys.argv[3]))
