"""The proof that columns say what objects say: records of every kind, and a comparison of every field of every task."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa
from msgspec.structs import replace

from support import recordings
from taskfold import events as ev
from taskfold import intervals
from taskfold.columnar import ColumnarFold
from taskfold.columnar.conversion import BatchMaker
from taskfold.fold.allocation import Fold
from taskfold.model.record import (
    FORMAT,
    Collected,
    Coordinated,
    Decided,
    Event,
    Finished,
    Gap,
    LogHeader,
    Observed,
    Placed,
    Record,
    Updated,
)
from taskfold.nomad.importing.importer import Importer
from taskfold.nomad.importing.observation import observation_from_json
from taskfold.sources.replay import At, Replay

STATES = ("", "pending", "running", "dead")
FRAGMENTS = (ev.Received(time_ns=1), ev.Started(time_ns=2), ev.Terminated(time_ns=3))

Cuts = Sequence[int]
"""The lengths of batches, one after the other and from the beginning again."""
WHOLE: Cuts = (1 << 30,)


@functools.cache
def recorded() -> dict[str, list[Record]]:
    """Return everything that was recorded, by dialect: one log in which each source has allocations of its own."""
    logs: dict[str, list[tuple[str, Record]]] = {}
    for scenario in recordings.scenarios():
        importer = Importer(scenario.version)
        bodies = (observation_from_json(answer.body.encode()) for answer in recordings.bodies(scenario))
        lines = logs.setdefault(scenario.version, [])
        lines += ((f"{scenario}/bodies", record) for body in bodies for record in importer.observe(body))
        if (path := scenario.path / "stream.ndjson.gz").exists():
            lines += ((f"{scenario}/stream", record) for record in Replay(path, dialect=scenario.version))
    for name in ("format-1.jsonl", "format-1.sqlite3"):
        replay = Replay(recordings.DATA / name)
        records = list(replay)
        logs.setdefault(replay.dialect or "", []).extend((name, record) for record in records)
    return {
        dialect: [
            replace(record, seq=seq, alloc=f"{name}/{record.alloc}") for seq, (name, record) in enumerate(lines, 1)
        ]
        for dialect, lines in logs.items()
    }


def numbered(lines: Iterable[tuple[str, str, Event, int]]) -> list[Record]:
    """Return records of allocation, task, event and time, with positions and versions."""
    versions: dict[str, int] = {}
    records = []
    for seq, (alloc, task, event, time_ns) in enumerate(lines, 1):
        versions[alloc] = versions.get(alloc, 0) + 1
        records.append(
            Record(
                seq=seq, index=(seq + 1) // 2, alloc=alloc, version=versions[alloc], task=task, time_ns=time_ns,
                event=event,
            )
        )  # fmt: skip
    return records


def any_event(source: random.Random) -> Event:
    """Return an event of any type: task events with and without FailsTask, and every internal one."""
    time = source.randrange(50)
    if source.random() < 0.75:
        cls: Any = source.choice(COMMON if source.random() < 0.6 else ev.EVENT_CLASSES)
        fails = source.choice((None, None, None, True, False))
        if fails is None:
            return cls(time_ns=time)
        if "fails_task" in cls.__struct_fields__:
            return cls(time_ns=time, fails_task=fails)
        return cls(time_ns=time, extras=ev.Extras(fields={"FailsTask": fails}))
    return source.choice(_INTERNAL)(source)


COMMON = (
    ev.Received,
    ev.Started,
    ev.Terminated,
    ev.Restarting,
    ev.Killing,
    ev.NotRestarting,
    ev.WaitingForShutdownDelay,
)


def _time(source: random.Random) -> Any:
    return source.choice((msgspec.UNSET, None, source.randrange(50)))


def _observed(source: random.Random) -> Event:
    older = tuple(source.sample(FRAGMENTS, source.randrange(4)))
    return Observed(
        state=source.choice((msgspec.UNSET, *STATES)),
        failed=source.choice((msgspec.UNSET, True, False)),
        restarts=source.choice((msgspec.UNSET, 0, 5)),
        last_restart_ns=_time(source),
        started_at_ns=_time(source),
        finished_at_ns=_time(source),
        older_events=source.choice((msgspec.UNSET, None, older)),
        hidden=source.choice((msgspec.UNSET, True, False)),
    )


def _gap(source: random.Random) -> Event:
    times = {name: source.choice((None, 7)) for name in ("last_restart_ns", "started_at_ns", "finished_at_ns")}
    state: Any = source.choice(STATES)
    return Gap(state=state, failed=source.random() < 0.5, restarts=source.randrange(4), **times)


def _updated(source: random.Random) -> Event:
    names = source.sample("xyz", source.randrange(3))
    cleared = tuple(source.sample("xyz", source.randrange(2)))
    return Updated(fields={name: msgspec.Raw(b"%d" % source.randrange(9)) for name in names}, cleared=cleared)


_INTERNAL = (
    lambda _: Placed(),
    lambda source: Placed(body=msgspec.Raw(b'{"JobID":"j%d"}' % source.randrange(9))),
    lambda _: Finished(),
    lambda source: Finished(
        dies=source.random() < 0.5,
        started_at_ns=_time(source),
        finished_at_ns=_time(source),
        last_restart_ns=_time(source),
    ),
    _observed,
    _observed,
    _gap,
    _updated,
    lambda source: Decided(window_count=source.randrange(4)),
    lambda source: Coordinated(stage=source.choice(("", "main"))),
    lambda source: Collected(reason=source.choice(("", "old"))),
)


def any_records(source: random.Random, count: int) -> list[Record]:
    """Return records of a few allocations with up to two tasks each, of any types, in any order of time."""
    tasks, allocs = ("", "web", "web", "log"), "abcdefgh"[: 1 + count // 30]
    return numbered(
        (source.choice(allocs), source.choice(tasks), any_event(source), source.randrange(1, 60)) for _ in range(count)
    )


def run_of(source: random.Random, classes: Sequence[type[ev.TaskEvent]], weights: Sequence[int], count: int) -> list:
    """Return so many records of one task, of types with weights."""
    types: Any = source.choices(classes, weights, k=count)
    return numbered(("a", "web", cls(time_ns=time), time) for time, cls in enumerate(types))


def batches_of(records: Sequence[Record], dialect: str, cuts: Cuts = WHOLE) -> list[Any]:
    """Return records as batches of these lengths."""
    maker = BatchMaker(LogHeader(taskfold=FORMAT, dialect=dialect))
    return [maker.batch(part) for part in parts_of(records, cuts)]


def parts_of(records: Sequence[Record], cuts: Cuts) -> Iterator[Sequence[Record]]:
    """Yield records in parts of these lengths."""
    place = number = 0
    while place < len(records):
        size = cuts[number % len(cuts)]
        yield records[place : place + size]
        place, number = place + size, number + 1


def differences(
    records: Sequence[Record], dialect: str, cuts: Cuts = WHOLE, at: At | None = None
) -> list[tuple[str, object, object]]:
    """Return where the columnar fold differs from `Fold`: allocations, tables and intervals."""
    fold, columnar = Fold(dialect, "keep"), ColumnarFold(dialect, at=at)
    counted = list(up_to(records, at or At()))
    fold.apply_all(counted)
    batches = batches_of(records, dialect, cuts)
    ended = [columnar.apply(batch, intervals=True) for batch in batches]
    whole = [pa.Table.from_batches(batches).combine_chunks().to_batches()[0]] if batches else []
    pairs: list[tuple[str, object, object]] = [(alloc, fold[alloc], columnar.fold(alloc, whole)) for alloc in fold]
    pairs.append(("tasks", rows_of(fold, counted), by_task(rows_in(columnar.tasks()))))
    spans = rows_in(pa.concat_tables([*ended, columnar.open_intervals()]).unify_dictionaries())
    pairs.append(("intervals", rows_of_intervals(counted, dialect), sorted(spans, key=place_of)))
    return [(what, expected, actual) for what, expected, actual in pairs if expected != actual]


def up_to(records: Iterable[Record], at: At) -> Iterator[Record]:
    """Yield the records before an end point, as its documentation says it."""
    late = set()
    for record in records:
        if at.seq is not None and record.seq > at.seq:
            return
        if at.index is not None and record.index > at.index:
            continue
        if at.time_ns is not None and record.time_ns > at.time_ns:
            late.add(record.alloc)
        if record.alloc not in late:
            yield record


def by_task(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return rows of the table of tasks by allocation and task."""
    return {(row.pop("alloc"), row.pop("task")): row | {"counts": dict(row["counts"])} for row in rows}


def rows_in(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table, times as unix nanoseconds: Python has no other type for them."""
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.int64()))
    return table.to_pylist()


def rows_of(fold: Fold, records: Sequence[Record]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the table of tasks as a fold has it."""
    shown: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if record.task:
            seqs = shown.setdefault((record.alloc, record.task), [])
            if isinstance(record.event, (Gap, Placed)):
                seqs.clear()
            elif isinstance(record.event, ev.TaskEvent):
                seqs.append(record.seq)
    rows = {}
    for alloc in fold:
        for task, state in fold[alloc].tasks.items():
            rows[alloc, task] = {
                "state": state.state,
                "failed": state.failed,
                "restarts": state.restarts,
                "last_restart": state.last_restart_ns,
                "started_at": state.started_at_ns,
                "finished_at": state.finished_at_ns,
                "events_total": state.events_total,
                "irregular": state.irregular,
                "counts": state.counts,
                "shown": shown[alloc, task][-10:],
                "hidden": state.hidden,
            }
    return rows


def rows_of_intervals(records: Sequence[Record], dialect: str) -> list[dict[str, Any]]:
    """Return the table of intervals as `taskfold.intervals` has it, which goes record by record."""
    # An event of a type that nobody knows has the wire's word there, and Unknown in columns.
    types: dict[int | None, str | None] = {
        record.seq: str(type(record.event).__struct_config__.tag) for record in records
    }
    rows = [
        {
            "alloc": each.alloc,
            "task": each.task,
            "state": each.state,
            "since": each.since_ns,
            "until": each.until_ns,
            "duration_ns": each.duration_ns,
            "began_with": types[each.since_seq],
            "ended_with": types.get(each.until_seq),
            "began_seq": each.since_seq,
            "ended_seq": each.until_seq,
        }
        for each in intervals(records, dialect)
    ]
    return sorted(rows, key=place_of)


def place_of(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["alloc"], row["task"], row["began_seq"]
