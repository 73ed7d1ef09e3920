"""The recorder: seeding from an agent that answers at once, its memory, and how soon a mirror tells of a change.

The agent is a small server in Python that has every answer ready; it takes a processor, too. The rival of seeding is
httpx, which reads the same bodies four at a time and decodes them with json.loads; that of memory is the same engine
after it was told the same bodies; that of a change is a blocked query of the agent itself. Budgets: 100,000 allocations
in three minutes, 1.2 × the memory, 20 ms.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.encode import distinct, recorded_body
from benchmarks.harness import REPETITIONS, ROOT, SIZE, Budget, Row, environment, in_child, label, resident_bytes, tell

SEEDED = "taskfold, Recorder into SQLite"
READ = label("httpx", "the same bodies, four at a time, json.loads")
TOLD = "taskfold, an engine that was told the same bodies"
MIRROR, AGENT = "taskfold follow --serve", "the agent itself"
THREE_MINUTES = 100_000 / 180
INDEX = 1_000
NAMES = ("ID", "JobID", "Namespace", "NodeID", "ClientStatus", "DesiredStatus", "CreateIndex", "ModifyIndex")


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure seeding, memory and changes."""
    count, changes, repetitions = (200, 10, 1) if quick else (20_000, 300, REPETITIONS)
    runs: dict[str, list[dict[str, float]]] = {"record": [], "read": [], "observe": []}
    with running(count) as url:
        for _ in range(repetitions):
            for kind, told in runs.items():
                told.append(in_child("recording", kind, url, count))
    rates = {SEEDED: [run["rate"] for run in runs["record"]], READ: [run["rate"] for run in runs["read"]]}
    yield Row(
        f"{count:,} allocations of 9 kB read from an agent that answers at once",
        "/s",
        rates,
        better="higher",
        budgets=(Budget("≥", THREE_MINUTES),),
        note="the agent is in Python, beside it",
    )
    sizes = {SEEDED: [run["bytes"] for run in runs["record"]], TOLD: [run["bytes"] for run in runs["observe"]]}
    yield Row("memory of an allocation after that", "B", sizes, words=SIZE, budgets=(Budget("≤", 1.2, TOLD),))
    delays = _changes(changes)
    yield Row(
        f"a change of an agent, until who waits for it has it; median of {changes:,}",
        "ms",
        delays,
        budgets=(Budget("≤", 20),),
        note="asked over HTTP, by a blocked query",
    )


# --- the agent ---


class Agent:
    """Answers lists, bodies, blocked queries and the stream, from texts that are ready."""

    def __init__(self, count: int) -> None:
        self.bodies: dict[str, dict[str, Any]] = {}
        for number, text in enumerate(distinct(recorded_body(), count)):
            body = json.loads(text) | {"ModifyIndex": number + 1}
            self.bodies[body["ID"]] = body
        self.index = INDEX + count
        self._texts = {alloc: json.dumps(body).encode() for alloc, body in self.bodies.items()}
        stubs = [{name: body.get(name) for name in NAMES} for body in self.bodies.values()]
        self._list = json.dumps(stubs).encode()
        self._changed = asyncio.Event()
        self._streams: set[asyncio.StreamWriter] = set()

    async def change(self, alloc: str) -> int:
        """Change an allocation; return the index of that."""
        self.index += 1
        body = self.bodies[alloc]
        body["ModifyIndex"], body["ModifyTime"] = self.index, body["ModifyTime"] + 1
        self._texts[alloc] = json.dumps(body).encode()
        payload = {name: value for name, value in body.items() if name != "Job"}
        event = {
            "Topic": "Allocation",
            "Type": "AllocationUpdated",
            "Key": alloc,
            "Namespace": "default",
            "FilterKeys": [body["JobID"], ""],
            "Index": self.index,
            "Payload": {"Allocation": payload},
        }
        line = json.dumps({"Index": self.index, "Events": [event]}).encode() + b"\n"
        for writer in self._streams:
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        self._changed.set()
        self._changed = asyncio.Event()
        return self.index

    async def serve(self) -> str:
        """Begin to listen; return the address."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                path, _, query = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode().partition("?")
                if path.endswith("/stream"):
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
                    self._streams.add(writer)
                    await reader.read()
                    return
                body = await self._answer(path, query)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Nomad-Index: {self.index}\r\n\r\n"
                writer.write(head.encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._streams.discard(writer)
            writer.close()

    async def _answer(self, path: str, query: str) -> bytes:
        parts = path.split("/")
        if parts[2:] == ["allocations"]:
            return b"[]" if "prefix=" in query else self._list
        if parts[2] == "allocation":
            after = int(query.partition("index=")[2].partition("&")[0] or 0)
            while self.bodies[parts[3]]["ModifyIndex"] <= after:
                await self._changed.wait()
            return self._texts[parts[3]]
        return b'{"config":{"Version":"1.1.2"}}'


@contextmanager
def running(count: int) -> Iterator[str]:
    """Run an agent in a process of its own; give its address."""
    command = [sys.executable, "-m", "benchmarks.recording", "--child", "agent", "-", str(count)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def _serve(_: str, count: int) -> None:
    print(await Agent(count).serve(), flush=True)
    await asyncio.Event().wait()


# --- seeding ---


async def _record(url: str, count: int) -> None:
    from taskfold import AgentSettings, Engine, Recorder

    with TemporaryDirectory() as folder, Engine.open(Path(folder, "cluster.db"), dialect="1.1.2") as engine:
        recorder = Recorder(engine, AgentSettings(addresses=(url,)))
        before, start = resident_bytes(), perf_counter()
        await recorder.synchronise()
        taken = perf_counter() - start
        assert len(engine.reader) == count
        _tell(count, taken, before)


async def _read(url: str, count: int) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=url) as client:
        before, start = resident_bytes(), perf_counter()
        ids = iter([stub["ID"] for stub in json.loads((await client.get("/v1/allocations")).content)])

        async def read() -> None:
            for alloc in ids:
                json.loads((await client.get(f"/v1/allocation/{alloc}")).content)

        await asyncio.gather(*(read() for _ in range(4)))
        _tell(count, perf_counter() - start, before)


async def _observe(_: str, count: int) -> None:
    from taskfold import Engine, observation_from_json

    texts = [json.dumps(body).encode() for body in Agent(count).bodies.values()]
    with TemporaryDirectory() as folder, Engine.open(Path(folder, "cluster.db"), dialect="1.1.2") as engine:
        before, start = resident_bytes(), perf_counter()
        while texts:
            engine.observe(observation_from_json(texts.pop(), "body"))
        _tell(count, perf_counter() - start, before)


def _tell(count: int, taken: float, before: int) -> None:
    tell({"rate": count / taken, "bytes": (resident_bytes() - before) / count})


# --- a change ---


def _changes(count: int) -> dict[str, list[float]]:
    """Return how long it takes until a blocked query is answered: of a mirror, and of the agent."""
    from statistics import median

    delays = asyncio.run(_delays(count))
    return {name: [median(told)] for name, told in delays.items()}


async def _delays(count: int) -> dict[str, list[float]]:
    import httpx

    agent = Agent(100)
    url = await agent.serve()
    delays: dict[str, list[float]] = {MIRROR: [], AGENT: []}
    with TemporaryDirectory() as folder:
        log = Path(folder, "cluster.db")
        command = [sys.executable, "-m", "taskfold", "follow", url, "--into", log, "--serve", "127.0.0.1:0"]
        process = await asyncio.create_subprocess_exec(*command, env=environment(), stderr=subprocess.PIPE)
        assert process.stderr is not None
        try:
            mirror = ""
            async for line in process.stderr:
                if b"serving at" in line:
                    mirror = line.split()[-1].decode()
                if b"recorded up to" in line:
                    break
            alloc = next(iter(agent.bodies))
            async with httpx.AsyncClient(timeout=60) as client:
                for _ in range(count):
                    for name, base in ((MIRROR, mirror), (AGENT, url)):
                        index = agent.bodies[alloc]["ModifyIndex"]
                        target = f"{base}/v1/allocation/{alloc}?index={index}&wait=30s"
                        waiting = asyncio.create_task(client.get(target))
                        await asyncio.sleep(0.02)
                        start = perf_counter()
                        await agent.change(alloc)
                        assert (await waiting).json()["ModifyIndex"] == agent.index
                        delays[name].append((perf_counter() - start) * 1e3)
        finally:
            process.kill()
            await process.wait()
    return delays


if __name__ == "__main__":
    KINDS: dict[str, Callable[[str, int], Any]] = {
        "agent": _serve,
        "record": _record,
        "read": _read,
        "observe": _observe,
    }
    asyncio.run(KINDS[sys.argv[2]](sys.argv[3], int(sys.argv[4])))
