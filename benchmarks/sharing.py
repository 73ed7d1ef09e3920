"""Appending to a log in PostgreSQL, on a server of the benchmark's own: in batches, and one by one.

Rival: psycopg's binary COPY of the same rows, ready, into the same table, one transaction a batch; and a raw one-row
insert and commit. Budget: at least half the rows a second of COPY.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from benchmarks.harness import ROOT, Budget, Row, label, microseconds_each, seconds, take_turns
from benchmarks.storing import BATCH, records
from taskfold.log.entries import entry_of
from taskfold.log.postgres.log import PostgresLog
from taskfold.log.postgres.tables import COPIED_TYPES, COPY, connect, row_of

sys.path.append(str(ROOT / "tests"))  # where the server of the tests is started and stopped
from support.postgres import Server, server

COPIED = label("psycopg", "COPY of the same rows, which are ready")
COMMIT = label("psycopg", "raw one-row insert and commit")
INSERT = "INSERT INTO taskfold_records VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure batches, then single appends."""
    scale = 50 if quick else 1
    with server() as running:
        yield batches(running, 50_000 // scale)
        yield single(running, 400 // scale)


def fresh(running: Server, run: Callable[[str], float]) -> Callable[[], float]:
    """Return a run in a schema of its own."""
    return lambda: run(running.new_schema())


def batches(running: Server, count: int) -> Row:
    """Measure appends of a thousand records each, acknowledged when they are committed."""
    appends = records(count)
    rows = [row_of(entry_of(record)) for append in appends for record in append.records]
    rows = [(seq, *row[1:]) for seq, row in enumerate(rows, start=1)]
    step = BATCH // 10

    def ours(url: str) -> float:
        with PostgresLog(url, "1.1.2") as log:
            write = lambda: [log.append_all(appends[at : at + step]) for at in range(0, len(appends), step)]  # noqa: E731
            return count / 1e3 / seconds(write)

    def theirs(url: str) -> float:
        PostgresLog(url, "1.1.2").close()
        with connect(url) as connection:

            def write() -> None:
                for at in range(0, count, BATCH):
                    with connection.transaction(), connection.cursor() as cursor, cursor.copy(COPY) as copy:
                        copy.set_types(COPIED_TYPES)
                        for row in rows[at : at + BATCH]:
                            copy.write_row(row)

            return count / 1e3 / seconds(write)

    values = take_turns({"taskfold, PostgresLog": fresh(running, ours), COPIED: fresh(running, theirs)})
    return Row(
        "PostgreSQL, durable append in batches of 1,000",
        "k/s",
        values,
        better="higher",
        budgets=(Budget("≥", 0.5, COPIED),),
        note="taskfold encodes, sums up, takes its turn, checks versions and IDs, and notifies",
    )


def single(running: Server, count: int) -> Row:
    """Measure one record after the other, each acknowledged when it is committed."""
    batch = records(count * 10)[:count]
    rows = [row_of(entry_of(append.records[0])) for append in batch]
    rows = [(seq, *row[1:]) for seq, row in enumerate(rows, start=1)]

    def ours(url: str) -> float:
        with PostgresLog(url, "1.1.2") as log:
            return microseconds_each(count, lambda: [log.append(one.alloc, 0, one.records[:1]) for one in batch])()

    def theirs(url: str) -> float:
        PostgresLog(url, "1.1.2").close()
        with connect(url) as connection:
            return microseconds_each(count, lambda: [connection.execute(INSERT, row) for row in rows])()

    values = take_turns({"taskfold, PostgresLog": fresh(running, ours), COMMIT: fresh(running, theirs)})
    return Row("PostgreSQL, one acknowledged append", "µs", values)
