"""Storing records durably in SQLite: in batches, one by one, and reading them back; and opening what was stored.

Rivals do the least that could be done with the same rows, table and settings (write-ahead log, synchronous=FULL): raw
``executemany`` of rows that are ready, raw one-row commits of such, and a bare SELECT with msgspec decoding each row.
Beside them the library ``eventsourcing`` with its own SQLite recorder, which keeps what a record says as JSON as well.
Reports of many threads share a commit; a rival has each commit by itself. Budgets: at least 0.6 times the raw batches,
at most 1.3 times a raw commit, 8,000 reports a second of 64 threads, at least half the bare reading. An engine
that opens a file of lines may cost 1.5 times what folding it does, since it learns its versions and IDs meanwhile.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import msgspec
from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import DatetimeAsISO, JSONTranscoder, Mapper, UUIDAsHex
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from benchmarks.harness import Budget, Row, Run, label, microseconds_each, seconds, take_turns
from benchmarks.histories import write_log
from taskfold.events import Received, Started, Terminated
from taskfold.inputs import Exited, PlacementReceived
from taskfold.inputs import ProcessStarted as StartInput
from taskfold.live.arguments import Durability
from taskfold.live.engine import Engine
from taskfold.log.checkpoint import from_parts
from taskfold.log.contract import Append
from taskfold.log.sqlite.log import SqliteLog
from taskfold.model.dialect import dialect_of
from taskfold.model.record import Record
from taskfold.sources.replay import replay

BATCH = 1_000
LIBRARY = label("eventsourcing", "its SQLite recorder and mapper")
RAW = "sqlite3, raw executemany of the same rows"
COMMIT = "sqlite3, raw one-row commit of the same"
BEYOND = "taskfold, Engine.open beyond reading the checkpoint"
READING = "taskfold, reading the checkpoint"
WHOLE = "taskfold, Engine.open without a checkpoint"
FOLDED = "taskfold, replay(path).fold()"
BARE = "sqlite3, bare SELECT and msgspec decode"
CHECKS = "each row has a checksum that is compared, and positions and versions are looked at for holes"
READ_BACK = "every record is encoded, decoded and compared before it is acknowledged; the rival has its rows ready"
GROUPED = "64 reports take one wait for the disk and 64 decisions; a disk that takes longer needs more reporters"
REPORTERS = 64
_POLICY = {"Attempts": 1_000_000, "Interval": 10**15, "Delay": 1, "Mode": "fail"}
JOB = {"TaskGroups": [{"Name": "group", "RestartPolicy": _POLICY, "Tasks": [{"Name": "web"}]}]}
WHEN = datetime(2026, 11, 24, tzinfo=UTC)
_EVENTS = (Received(time_ns=1), Started(time_ns=2), Terminated(time_ns=3, exit_code=1))


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure writing, then reading what was written."""
    scale = 50 if quick else 1
    with tempfile.TemporaryDirectory() as folder:
        yield batches(Path(folder), 50_000 // scale)
        yield single(Path(folder), 400 // scale)
        yield simultaneous(Path(folder), 100 // min(scale, 20))
        yield reading(Path(folder), 50_000 // scale)
        yield recovery(Path(folder), 1_000_000 // scale)
        for together, order in ((False, "in random order"), (True, "an allocation's records together")):
            yield opening(Path(folder), 1_000_000 // scale, order, together=together)


def records(count: int) -> list[Append]:
    """Return so many records, ten to an allocation."""
    return [
        Append(
            f"{number:08x}",
            0,
            [
                Record(index=number + 1, alloc=f"{number:08x}", version=v, task="web", time_ns=v, event=_EVENTS[v % 3])
                for v in range(1, 11)
            ],
        )
        for number in range(count // 10)
    ]


INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)"


def raw(path: Path) -> sqlite3.Connection:
    """Return a database with the same table and the same settings."""
    SqliteLog(path, "1.1.2").close()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    return database


def fresh(folder: Path, run: Callable[[Path], float]) -> Run:
    """Return a run in a folder of its own, which is gone afterwards."""

    def in_folder() -> float:
        own = Path(tempfile.mkdtemp(dir=folder))
        try:
            return run(own)
        finally:
            shutil.rmtree(own)

    return in_folder


def rows(appends: list[Append]) -> list[tuple[object, ...]]:
    """Return the rows as they are written."""
    encode = msgspec.json.Encoder().encode
    table: list[tuple[object, ...]] = []
    for append in appends:
        for record in append.records:
            body = encode(msgspec.structs.replace(record, seq=len(table) + 1))
            table.append((len(table) + 1, record.alloc, record.version, record.index, None, zlib.crc32(body), body))
    return table


@dataclass(frozen=True)
class Happened(DomainEvent):
    """What a record says, as an event of the rival."""

    task: str
    type: str
    time_ns: int
    exit_code: int

    @classmethod
    def of(cls, record: Record) -> Happened:
        event = record.event
        return cls(
            originator_id=uuid5(NAMESPACE_OID, record.alloc),
            originator_version=record.version,
            timestamp=WHEN,
            task=record.task,
            type=type(event).__name__,
            time_ns=record.time_ns,
            exit_code=getattr(event, "exit_code", None) or 0,
        )


def eventsourcing_in(path: Path) -> tuple[SQLiteApplicationRecorder, Mapper]:
    """Return what the rival writes and reads with, over a new database."""
    recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(path)))
    recorder.create_table()
    transcoder = JSONTranscoder()
    for transcoding in (UUIDAsHex(), DatetimeAsISO()):
        transcoder.register(transcoding)
    return recorder, Mapper(transcoder)


def batches(folder: Path, count: int) -> Row:
    """Measure appends of a thousand records each, acknowledged when they are on disk."""
    appends = records(count)
    ready = rows(appends)
    step = BATCH // 10

    def ours(own: Path) -> float:
        with SqliteLog(own / "x.db", "1.1.2") as log:
            return (
                count
                / 1e3
                / seconds(lambda: [log.append_all(appends[at : at + step]) for at in range(0, len(appends), step)])
            )

    def theirs(own: Path) -> float:
        database = raw(own / "x.db")

        def write() -> None:
            for at in range(0, count, BATCH):
                database.execute("BEGIN")
                database.executemany(INSERT, ready[at : at + BATCH])
                database.execute("COMMIT")

        rate = count / 1e3 / seconds(write)
        database.close()
        return rate

    def library(own: Path) -> float:
        recorder, mapper = eventsourcing_in(own / "x.db")
        happened = [Happened.of(record) for append in appends for record in append.records]

        def write() -> None:
            for at in range(0, count, BATCH):
                recorder.insert_events([mapper.to_stored_event(event) for event in happened[at : at + BATCH]])

        rate = count / 1e3 / seconds(write)
        recorder.datastore.close()
        return rate

    values = take_turns(
        {
            "taskfold, SqliteLog": fresh(folder, ours),
            RAW: fresh(folder, theirs),
            LIBRARY: fresh(folder, library),
        }
    )
    return Row(
        "durable append in batches of 1,000",
        "k/s",
        values,
        better="higher",
        budgets=(Budget("≥", 0.6, RAW, READ_BACK),),
        note="taskfold encodes, sums up, and checks versions and IDs; the rival has the rows ready",
    )


def single(folder: Path, count: int) -> Row:
    """Measure one record after the other, each acknowledged when it is on disk."""
    batch = records(count * 10)[:count]
    ready = [row for row in rows(batch) if row[2] == 1]

    def ours(own: Path) -> float:
        with SqliteLog(own / "x.db", "1.1.2") as log:
            return microseconds_each(count, lambda: [log.append(one.alloc, 0, one.records[:1]) for one in batch])()

    def theirs(own: Path) -> float:
        database = raw(own / "x.db")

        def write() -> None:
            for row in ready:
                database.execute(INSERT, row)

        each_us = microseconds_each(count, write)()
        database.close()
        return each_us

    values = take_turns({"taskfold, SqliteLog": fresh(folder, ours), COMMIT: fresh(folder, theirs)})
    return Row("one acknowledged append", "µs", values, budgets=(Budget("≤", 1.3, COMMIT, READ_BACK),))


def reporting(engine: Engine, reports: int) -> Callable[[], None]:
    """Return work: threads that each report so often of a task of their own, which starts and exits in turn."""
    allocs = [f"{number:08x}" for number in range(REPORTERS)]
    for alloc in allocs:
        engine.place({"ID": alloc, "JobID": "example", "TaskGroup": "group", "Job": JOB})
        engine.report(alloc, "", PlacementReceived())

    def report(alloc: str) -> None:
        for number in range(reports):
            step = engine.report(alloc, "web", Exited(exit_code=1) if number % 2 else StartInput())
            assert step.writes

    threads = [threading.Thread(target=report, args=(alloc,)) for alloc in allocs]

    def work() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return work


def simultaneous(folder: Path, each: int) -> Row:
    """Measure reports of many threads, each acknowledged when it is on disk."""
    batch = records(REPORTERS * each * 10)[: REPORTERS * each]
    ready = [row for row in rows(batch) if row[2] == 1]

    def ours(own: Path, durability: Durability, reports: int) -> float:
        with Engine.open(own / "x.db", dialect="1.1.2", seed=1, durability=durability) as engine:
            return REPORTERS * reports / 1e3 / seconds(reporting(engine, reports))

    def theirs(own: Path) -> float:
        database = raw(own / "x.db")

        def write() -> None:
            for row in ready:
                database.execute(INSERT, row)

        rate = len(ready) / 1e3 / seconds(write)
        database.close()
        return rate

    values = take_turns(
        {
            "taskfold, Engine.report": fresh(folder, lambda own: ours(own, "batch", each)),
            "taskfold, with durability each": fresh(folder, lambda own: ours(own, "each", max(each // 10, 2))),
            COMMIT: fresh(folder, theirs),
        }
    )
    return Row(
        f"durable reports of {REPORTERS} threads at the same time",
        "k/s",
        values,
        better="higher",
        budgets=(Budget("≥", 8, why=GROUPED),),
        note="who comes while somebody writes is written with all others who came, by one commit",
    )


def reading(folder: Path, count: int) -> Row:
    """Measure reading typed records back."""
    path = folder / "read.db"
    with SqliteLog(path, "1.1.2") as log:
        log.append_all(records(count))
        decode = msgspec.json.Decoder(Record).decode

        def bare() -> int:
            database = sqlite3.connect(path)
            rows = database.execute("SELECT body FROM records ORDER BY seq")
            count_read = sum(1 for (body,) in rows if decode(body))
            database.close()
            return count_read

        recorder, mapper = eventsourcing_in(folder / "library.db")
        events = [mapper.to_stored_event(Happened.of(each)) for append in records(count) for each in append.records]
        recorder.insert_events(events)

        def library() -> int:
            count_read, last = 0, 0
            while page := recorder.select_notifications(start=last or None, limit=BATCH, inclusive_of_start=False):
                count_read += sum(1 for each in page if mapper.to_domain_event(each))
                last = page[-1].id
            return count_read

        assert library() == bare() == count
        values = take_turns(
            {
                "taskfold, SqliteLog.read_all": lambda: count / 1e3 / seconds(lambda: sum(1 for _ in log.read_all())),
                BARE: lambda: count / 1e3 / seconds(bare),
                LIBRARY: lambda: count / 1e3 / seconds(library),
            }
        )
        recorder.datastore.close()
    return Row("reading typed records", "k/s", values, better="higher", budgets=(Budget("≥", 0.5, BARE, why=CHECKS),))


def recovery(folder: Path, count: int) -> Row:
    """Measure opening an engine over many records, with a checkpoint that lacks the newest of them."""
    path = folder / "recovery.db"
    with SqliteLog(path, "1.1.2") as log:
        appends = records(count)
        for at in range(0, len(appends), BATCH):
            log.append_all(appends[at : at + BATCH])
    with Engine.open(path) as engine:
        engine.checkpoint()
        for one in appends[:100]:
            engine.record(one.alloc, "web", Terminated(time_ns=4, exit_code=1))
    dialect = dialect_of("1.1.2")

    def reading() -> float:
        with SqliteLog(path) as log:
            return seconds(lambda: from_parts(log.checkpoint_parts(), dialect))

    def opened() -> float:
        engines: list[Engine] = []
        elapsed = seconds(lambda: engines.append(Engine.open(path)))
        assert engines[0].store.seq == count + 100
        engines[0].close()
        return elapsed

    def whole() -> float:
        copy = folder / "whole.db"
        shutil.copyfile(path, copy)
        with SqliteLog(copy) as log:
            log.save_checkpoint([])
        elapsed = seconds(lambda: Engine.open(copy).store.log.close())  # noqa: PLW0108 - opening is what is measured
        copy.unlink()
        return elapsed

    # On a busy machine, and at a hundredth of the size, the part may take longer than the whole.
    beyond = lambda: max(opened() - reading(), 1e-6)  # noqa: E731 - as the others have it
    values = take_turns({BEYOND: beyond, READING: reading, WHOLE: whole}, 3)
    return Row(
        f"recovering {count:,} records of {count // 10:,} allocations",
        "s",
        values,
        budgets=(Budget("≤", 1),),
        note="an engine whose checkpoint lacks the newest 100 records; timers and directory included",
    )


def opening(folder: Path, count: int, order: str, *, together: bool) -> Row:
    """Measure opening an engine over a file of lines, which is decoded once, beside folding the same file."""
    path = folder / "opening.jsonl"
    write_log(path, count, count // 20, together=together)

    def opened() -> float:
        engines: list[Engine] = []
        each_us = microseconds_each(count, lambda: engines.append(Engine.open(path)))()
        assert engines[0].store.seq == count
        engines[0].close()
        return each_us

    values = take_turns(
        {"taskfold, Engine.open": opened, FOLDED: microseconds_each(count, lambda: replay(path).fold())}
    )
    return Row(
        f"opening {count:,} records in a file of lines, {order}", "µs", values, budgets=(Budget("≤", 1.5, FOLDED),)
    )
