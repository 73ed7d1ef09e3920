"""Writing and reading the JSON of one allocation: a recorded answer of Nomad 1.1.2 with ten events.

Rivals: json and msgspec on the same data as plain dicts. Cold means that the texts around an event's time, which are
remembered, were forgotten before each call. Budgets are of those who read one allocation at a time: after each write at
most 12 µs; many of them, each once, 35.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from time import perf_counter
from typing import Any

import msgspec

from benchmarks.harness import Budget, Row, Run, label, microseconds_each, take_turns
from benchmarks.histories import Population
from benchmarks.streams import RECORDINGS
from taskfold import Engine, Importer, MemoryLog, Snapshot, events, observation_from_json
from taskfold.fold.allocation import AllocationState
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.nomad import events as codec
from taskfold.nomad.snapshot import AllocationTexts

DUMPS = "json.dumps"
ENCODE, DECODE = label("msgspec", "json.encode of a dict"), label("msgspec", "json.decode to a dict")
ALL_ANEW = "the same, all of it written anew"
TEXTS_BYTES = 16 << 20
FLAT = "what is left is flat: the state is frozen, times are written, texts are joined"


def recorded_body() -> bytes:
    """Return a recorded answer about an allocation whose one task has ten events."""
    lines = gzip.decompress((RECORDINGS / "service_ring_mock" / "alloc.jsonl.gz").read_bytes()).split(b"\n")
    answers = [json.loads(line) for line in lines if line]
    return next(a["body"].encode() for a in answers if a["status"] == 200 and a["body"].count('"StartDelay"') == 10)


def folded(body: bytes) -> Any:
    """Return the state that the importer folds from a body."""
    importer = Importer(NEWEST_DIALECT)
    observation = observation_from_json(body)
    importer.observe(observation)
    return importer.fold[observation.alloc]


def distinct(body: bytes, size: int) -> list[bytes]:
    """Return bodies of other allocations, whose events have times and delays of their own."""
    bodies = []
    for number in range(size):
        value = json.loads(body)
        value["ID"] = value["ID"][:-8] + f"{number:08x}"
        for task in value["TaskStates"].values():
            for event in task["Events"]:
                event["Time"] += number * 1_000_000_007
                if event["Type"] == "Restarting":
                    event["StartDelay"] += number
                    event["Details"]["start_delay"] = str(event["StartDelay"])
                    event["DisplayMessage"] = ""
        bodies.append(json.dumps(value, separators=(",", ":")).encode())
    return bodies


def forget() -> None:
    """Forget every remembered text of an event."""
    codec.event_writers.cache_clear()
    codec.event_from_json.cache_clear()


def warm(calls: int, call: Callable[[], object]) -> Run:
    """Return a run of the same call again and again."""

    def work() -> None:
        for _ in range(calls):
            call()

    return microseconds_each(calls, work)


def cold(calls: int, call: Callable[[], object]) -> Run:
    """Return a run of calls, before each of which the texts are forgotten."""

    def run() -> float:
        elapsed = 0.0
        for _ in range(calls):
            forget()
            start = perf_counter()
            call()
            elapsed += perf_counter() - start
        return elapsed / calls * 1e6

    return run


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure one allocation, warm and cold, and a thousand different ones."""
    calls, others = (50, 10) if quick else (2_000, 1_000)
    body = recorded_body()
    snapshot, state, plain = Snapshot.from_json(body), folded(body), json.loads(body)
    # Parsed: the order of Details is Go's own, and random.
    assert json.loads(snapshot.to_json()) == json.loads(Snapshot.of(state, NEWEST_DIALECT).to_json()) == plain
    note = f"{len(body):,} B"
    writers = {
        DUMPS: warm(calls, lambda: json.dumps(plain, separators=(",", ":"))),
        ENCODE: warm(calls, lambda: msgspec.json.encode(plain)),
    }

    def of_state() -> bytes:
        return Snapshot.of(state, NEWEST_DIALECT).to_json()

    for name, call in (("Snapshot.to_json()", snapshot.to_json), ("Snapshot.of(state).to_json()", of_state)):
        for heat, run in (("warm", warm), ("cold", cold)):
            values = take_turns({f"taskfold, {name}": run(calls, call), **writers})
            yield Row(f"writing one allocation, {name}, {heat}", "µs", values, note=note)
    yield writing_distinct(distinct(body, others))
    yield reading_after_writes(body, calls, writers)
    yield reading_each_once(1_000 if quick else 100_000)
    for heat, run in (("warm", warm), ("cold", cold)):
        values = take_turns(
            {
                "taskfold, Snapshot.from_json(body)": run(calls, lambda: Snapshot.from_json(body)),
                "json.loads": warm(calls, lambda: json.loads(body)),
                DECODE: warm(calls, lambda: msgspec.json.decode(body)),
            }
        )
        yield Row(f"reading one allocation, {heat}", "µs", values, note=note)


def reading_after_writes(body: bytes, reads: int, writers: Mapping[str, Run]) -> Row:
    """Measure one allocation that is read after each of its events."""
    first = observation_from_json(body)
    engine = Engine(MemoryLog(NEWEST_DIALECT))
    engine.observe(first)
    [task] = engine.snapshot(first.alloc).tasks
    life = task_life()

    def run(read: Callable[[], object]) -> Run:
        def once() -> float:
            elapsed = 0.0
            for _ in range(reads):
                engine.record(first.alloc, task, next(life))
                start = perf_counter()
                read()
                elapsed += perf_counter() - start
            return elapsed / reads * 1e6

        return once

    store = engine.store
    values = take_turns(
        {
            "taskfold, Engine.snapshot(id).to_json()": run(lambda: engine.snapshot(first.alloc).to_json()),
            ALL_ANEW: run(lambda: Snapshot.of(store.read(first.alloc), NEWEST_DIALECT).to_json()),
            **writers,
        }
    )
    return Row("reading one allocation after each of its events", "µs", values, budgets=(Budget("≤", 12, why=FLAT),))


def task_life() -> Iterator[events.TaskEvent]:
    """Yield what a task tells that is started again and again; its delays differ."""
    for number in count():
        yield events.Started(time_ns=number)
        yield events.Terminated(time_ns=number, exit_code=1)
        delay_ns = 15_000_000_000 + number * 1_234_567 % 3_750_000_000
        yield events.Restarting(time_ns=number, start_delay_ns=delay_ns, restart_reason="Restart within policy")


def reading_each_once(allocations: int) -> Row:
    """Measure many allocations with full rings that are read one after the other, as a point each."""
    fold = Population(allocations).filled()

    def read(snapshot_of: Callable[[AllocationState], Snapshot]) -> Run:
        def work() -> None:
            for alloc in fold:
                snapshot_of(fold[alloc]).to_json()

        return microseconds_each(allocations, work)

    texts = AllocationTexts(fold.dialect, TEXTS_BYTES)
    values = take_turns(
        {
            "taskfold, as Engine.snapshot(id).to_json()": read(texts.snapshot),
            ALL_ANEW: read(lambda state: Snapshot.of(state, fold.dialect)),
        }
    )
    return Row(f"reading {allocations:,} allocations, each once", "µs", values, budgets=(Budget("≤", 35),))


def writing_distinct(bodies: list[bytes]) -> Row:
    """Measure allocations whose events differ in more than the time, each written once from cold."""
    snapshots, plain = [Snapshot.from_json(body) for body in bodies], [json.loads(body) for body in bodies]

    def taskfold() -> None:
        for snapshot in snapshots:
            snapshot.to_json()

    def dumps() -> None:
        for value in plain:
            json.dumps(value, separators=(",", ":"))

    def encode() -> None:
        for value in plain:
            msgspec.json.encode(value)

    timed = microseconds_each(len(bodies), taskfold)

    def from_cold() -> float:
        forget()
        return timed()

    values = take_turns(
        {
            "taskfold, Snapshot.to_json()": from_cold,
            DUMPS: microseconds_each(len(bodies), dumps),
            ENCODE: microseconds_each(len(bodies), encode),
        }
    )
    what = f"writing {len(bodies):,} different allocations, each once"
    return Row(what, "µs", values, note="no two share a delay; cold at the first")
