"""A Nomad recorded over HTTP: how long it takes until all is there, in how much memory, and a change after that.

A general client reads the same bodies and throws them away; a blocked query asks the mirror, and the agent itself.
Budgets: 100,000 allocations in three minutes, 1.2 × the memory, 20 ms. Where others use the processors, too, the
rate tells of them as well; the processor time of an allocation does not.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

from benchmarks.encode import recorded_body
from benchmarks.harness import ROOT, SIZE, Budget, Row, environment, in_child, label, resident_bytes, tell

SEEDED = "taskfold, Recorder into SQLite"
READ = label("httpx", "the same bodies, four at a time, json.loads")
ENGINE_ROW = "taskfold, an engine that was told the same bodies"
MIRROR, AGENT = "taskfold follow --serve", "the agent itself"
THREE_MINUTES = 100_000 / 180
INDEX = 1_000
WHY_SLOW = "it shares the processors with what else runs: the next row has its own time of them"
WHY_LATE = "it shares the processors with what else runs, and a change goes through one process more than at the agent"
NAMES = ("ID", "JobID", "Namespace", "NodeID", "ClientStatus", "DesiredStatus", "CreateIndex", "ModifyIndex")


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure seeding, memory and changes."""
    count, sample, changes = (200, 200, 10) if quick else (100_000, 10_000, 300)
    with running(count) as url:
        record = in_child("recording", "record", url, count)
    with running(sample) as url:
        read = in_child("recording", "read", url, sample)
    observe = in_child("recording", "observe", "-", count)
    yield Row(
        f"{count:,} allocations of 9 kB read from an agent that answers at once",
        "/s",
        {SEEDED: [record["rate"]], READ: [read["rate"]]},
        better="higher",
        budgets=(Budget("≥", THREE_MINUTES, why=WHY_SLOW),),
        note=f"the agent is in Python, beside it; {_load()}",
    )
    yield Row(
        "processor time of an allocation that is read so",
        "ms",
        {SEEDED: [record["ms"]], READ: [read["ms"]]},
        budgets=(Budget("≤", 1e3 / THREE_MINUTES),),
        note="three minutes are 1.8 ms for each",
    )
    sizes = {SEEDED: [record["bytes"]], ENGINE_ROW: [observe["bytes"]]}
    yield Row("memory of an allocation after that", "B", sizes, words=SIZE, budgets=(Budget("≤", 1.2, ENGINE_ROW),))
    delays = _changes(changes)
    yield Row(
        f"a change of an agent, until who waits for it has it; median of {changes:,}",
        "ms",
        delays,
        budgets=(Budget("≤", 20, why=WHY_LATE),),
        note="asked over HTTP, by a blocked query",
    )


# --- the agent ---


class Agent:
    """Answers lists, bodies, blocked queries and the stream, from texts that are ready."""

    def __init__(self, count: int) -> None:
        self.index = INDEX + count
        self.indexes: dict[str, int] = {}
        """The newest index of each allocation."""
        self.changed: dict[str, dict[str, Any]] = {}
        """The bodies of those that changed since the beginning."""
        self._body = json.loads(recorded_body())
        alloc = self._body["ID"]
        # Texts and numbers by turns; a number is a place in `_values`, of the ID, the index, and the events' times.
        body = json.loads(recorded_body()) | {"ID": "@0@", "ModifyIndex": "@1@"}
        self._times: list[int] = []
        for task in body["TaskStates"].values():
            for event in task["Events"]:
                self._times.append(event["Time"])
                event["Time"] = f"@{len(self._times) + 1}@"
        text = re.sub(r'"@([1-9]\d*)@"', r"@\1@", json.dumps(body, separators=(",", ":")))
        parts = text.split("@")
        self._texts, self._places = [part.encode() for part in parts[::2]], [int(part) for part in parts[1::2]]
        for number in range(count):
            self.indexes[f"{alloc[:-8]}{number:08x}"] = number + 1
        stub = {name: self._body.get(name) for name in NAMES}
        stubs = (stub | {"ID": alloc, "ModifyIndex": index} for alloc, index in self.indexes.items())
        self._list = b"[%b]" % b",".join(json.dumps(stub).encode() for stub in stubs)
        self._event = asyncio.Event()
        self._streams: set[asyncio.StreamWriter] = set()

    def text(self, alloc: str) -> bytes:
        """Return the body of an allocation."""
        if alloc in self.changed:
            return json.dumps(self.changed[alloc]).encode()
        number = int(alloc[-8:], 16)
        values = [alloc.encode(), b"%d" % self.indexes[alloc]]
        values += [b"%d" % (time + number * 1_000_000_007) for time in self._times]
        parts = [part for text, place in zip(self._texts, self._places, strict=False) for part in (text, values[place])]
        return b"".join([*parts, self._texts[-1]])

    async def change(self, alloc: str) -> int:
        """Change an allocation; return the index of that."""
        self.index += 1
        body = self.changed[alloc] = json.loads(self.text(alloc))
        body["ModifyIndex"], body["ModifyTime"] = self.index, body["ModifyTime"] + 1
        self.indexes[alloc] = self.index
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
        self._event.set()
        self._event = asyncio.Event()
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
            while self.indexes[parts[3]] <= after:
                await self._event.wait()
            return self.text(parts[3])
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
        before, start = resident_bytes(), (perf_counter(), process_time())
        await recorder.synchronise()
        assert len(engine.reader) == count
        _tell(count, start, before)


async def _read(url: str, count: int) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=url) as client:
        before, start = resident_bytes(), (perf_counter(), process_time())
        ids = iter([stub["ID"] for stub in json.loads((await client.get("/v1/allocations")).content)])

        async def read() -> None:
            for alloc in ids:
                json.loads((await client.get(f"/v1/allocation/{alloc}")).content)

        await asyncio.gather(*(read() for _ in range(4)))
        _tell(count, start, before)


async def _observe(_: str, count: int) -> None:
    from taskfold import Engine, observation_from_json

    agent = Agent(count)
    with TemporaryDirectory() as folder, Engine.open(Path(folder, "cluster.db"), dialect="1.1.2") as engine:
        before, start = resident_bytes(), (perf_counter(), process_time())
        for alloc in agent.indexes:
            engine.observe(observation_from_json(agent.text(alloc), "body"))
        _tell(count, start, before)


def _tell(count: int, start: tuple[float, float], before: int) -> None:
    seconds, busy = perf_counter() - start[0], process_time() - start[1]
    bytes_each = (resident_bytes() - before) / count
    tell({"rate": count / seconds, "ms": busy / count * 1e3, "bytes": bytes_each})


def _load() -> str:
    """Return how much else the machine had to do, in words."""
    load = os.getloadavg()[0]
    return f"{load:.0f} processes on {os.cpu_count()} processors meanwhile"


# --- a change ---


def _changes(count: int) -> dict[str, list[float]]:
    """Return how long it takes until a blocked query is answered: of a mirror, and of the agent."""
    from statistics import median

    delays = asyncio.run(_delays(count))
    return {name: [median(values)] for name, values in delays.items()}


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
            alloc = next(iter(agent.indexes))
            async with httpx.AsyncClient(timeout=60) as client:
                for _ in range(count):
                    for name, base in ((MIRROR, mirror), (AGENT, url)):
                        index = agent.indexes[alloc]
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
