"""Copying a log of lines into SQLite, as `taskfold import x.jsonl --into x.db` does: checked, decoded, placed, stored.

Rivals: raw ``executemany`` of the same rows, which are ready, in blocks of a thousand in one transaction; and the same
import with one append for each record. All is one transaction, and the time is that of the processor, since a disk that
others use says nothing of the rows. Budgets: at least 0.3 times the raw rows, and at least 80,000 records a second.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from unittest import mock

from benchmarks.harness import Budget, Row, Run, take_turns
from benchmarks.histories import write_log
from taskfold import ingest
from taskfold.log.sqlite import tables
from taskfold.log.sqlite.log import SqliteLog
from taskfold.sources import ingest as ingesting

RAW = "sqlite3, raw executemany of the same rows"
SINGLE = "taskfold, one append for each record"
WHY = "the records are read, checked and decoded, encoded and read back; the rival has its rows ready"
INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)"


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure an import of records of many allocations, and of each allocation's records together."""
    count = 2_000 if quick else 100_000
    with tempfile.TemporaryDirectory() as folder:
        yield copied(Path(folder), count, "each allocation's records together", together=True)
        yield copied(Path(folder), count, "in random order", together=False)


def copied(folder: Path, count: int, order: str, *, together: bool) -> Row:
    """Measure the import of one log."""
    source = folder / f"{together}.jsonl"
    write_log(source, count, count // 20, together=together)
    ready = folder / f"{together}.db"
    ingest(source, into=ready)
    database = sqlite3.connect(ready)
    rows = database.execute("SELECT * FROM records ORDER BY seq").fetchall()
    database.close()

    def whole(path: Path) -> None:
        assert ingest(source, into=path).records == count

    def single(path: Path) -> None:
        with mock.patch.object(ingesting, "_RECORDS_TOGETHER", 1):
            whole(path)

    def raw(path: Path) -> None:
        SqliteLog(path, "1.1.2").close()
        database = tables.connected(path)
        database.execute("BEGIN")
        for at in range(0, count, 1_000):
            database.executemany(INSERT, rows[at : at + 1_000])
        database.execute("COMMIT")
        database.close()

    runs = {"taskfold, ingest": whole, RAW: raw, SINGLE: single}
    return Row(
        what=f"a log of {count:,} lines into SQLite, {order}",
        unit="thousand records a second of the processor",
        values=take_turns({who: _fresh(folder, count, work) for who, work in runs.items()}, warm_up=False),
        better="higher",
        budgets=(
            Budget("≥", 0.3, RAW, WHY),
            Budget("≥", 80, why="it is the speed of the processor of the day: see the rival"),
        ),
    )


def _fresh(folder: Path, count: int, work: Callable[[Path], None]) -> Run:
    """Return a run that writes a database of its own, which is gone afterwards."""

    def run() -> float:
        own = Path(tempfile.mkdtemp(dir=folder))
        begin = process_time()
        try:
            work(own / "x.db")
            return count / 1e3 / (process_time() - begin)
        finally:
            shutil.rmtree(own)

    return run
