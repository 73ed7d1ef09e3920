"""The columnar fold: record batches in, tables of tasks and intervals out.

It streams in the order of the log and carries a state for each task: nothing is shuffled, nothing but a batch is
sorted, and memory is needed for tasks alone, so that one allocation with ten million records is like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET

from taskfold.columnar.conversion import TYPE_NAMES, decode_event, header_of, records_of, times_of
from taskfold.columnar.kernel import NO_TIME, Columns, Ended, Kernel, seq_of_cause, type_of_cause
from taskfold.columnar.keys import Keys, dictionary_of
from taskfold.columnar.maps import CODES, STATE_NAMES, TYPES, Booleans, Bytes, Integers
from taskfold.columnar.schemas import INTERVALS, TASKS
from taskfold.fold.allocation import Allocation, AllocationState, apply_record
from taskfold.fold.counts import packed
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.fold.task import TaskState
from taskfold.model.dialect import EVENTS_PER_TASK, Dialect, dialect_of
from taskfold.model.errors import DialectError, Gone, SourceError, UnknownAllocation
from taskfold.model.events import UnknownEvent
from taskfold.model.go.timestamps import ZERO_TIME_NS, time_text
from taskfold.model.record import Decided, Event, Finished, Gap, LogHeader, Observed, Placed, Updated
from taskfold.sources.replay import At, parse_at

__all__ = ["FOLDED_COLUMNS", "ColumnarFold"]

_UNKNOWN: Final = CODES[UnknownEvent]
_CODE_OF: Final = {name: code for code, name in enumerate(TYPE_NAMES)}
_CORRECTING: Final = tuple(CODES[cls] for cls in (Observed, Gap, Placed, Updated, Finished))
_NEEDED: Final = (
    "seq",
    "modify_index",
    "alloc",
    "version",
    "task",
    "time",
    "type",
    "event_time",
    "fails_task",
    "event",
)
"""The columns without which nothing can be folded."""
FOLDED_COLUMNS: Final = (*_NEEDED, "task_key")
"""The columns that a fold reads; with the last one it need not look at every text."""


class ColumnarFold:
    """The states of all tasks that record batches tell of; it is `Fold` with ``on_illegal="keep"``, batch by batch.

    The records of an allocation come in their order; those of different ones in any. Memory: tasks, about 350 bytes for
    each, not records.

    >>> import taskfold as tf
    >>> from taskfold.columnar import ColumnarFold, read
    >>> log = tf.MemoryLog("1.1.2")
    >>> engine = tf.Engine(log)
    >>> engine.place({"ID": "a"})
    >>> _ = engine.record("a", "web", tf.events.Started())
    >>> fold = ColumnarFold("1.1.2")
    >>> for batch in read(log):
    ...     fold.apply(batch)
    >>> fold.tasks().select(["alloc", "task", "state"]).to_pylist()
    [{'alloc': 'a', 'task': 'web', 'state': 'running'}]
    """

    def __init__(self, dialect: str | Dialect, *, at: At | int | str | None = None) -> None:
        """Begin with no task. ``at`` is the end point, as `taskfold.replay` has it. Raises DialectError, ValueError."""
        self.dialect = dialect_of(dialect)
        self.at = At() if at is None else at if isinstance(at, At) else parse_at(str(at))
        self._kernel = Kernel(self.dialect.name)
        self._keys = Keys()
        self._is_late = np.zeros(0, np.bool_)
        """The allocations of which a record is later than the end point."""
        self._versions = np.zeros((3, 0), np.int64)
        """Version, index and time of the newest record of each allocation."""

    def __repr__(self) -> str:
        """Return how much it holds, and of which dialect."""
        at = "" if self.at == At() else f", up to {self.at}"
        return f"<ColumnarFold, dialect {self.dialect.name}: {len(self):,} tasks{at}>"

    def __len__(self) -> int:
        """Return how many tasks are known. O(tasks)."""
        return len(self._kernel)

    def apply(self, batch: Any, *, intervals: bool = False) -> Any:
        """Fold the next records, a `pyarrow.RecordBatch`. O(records × log records).

        With ``intervals``, return those that ended, as a table; the open ones are in `open_intervals`. It is wanted for
        every batch or for none. Raises DialectError for a batch of another dialect, Gone for an end point before the
        compacted records' end, SourceError for columns that are missing.
        """
        self._check(batch)
        if not batch.num_rows:
            return self._table_of([]) if intervals else None
        key = self._keys.of(batch)
        if self.at != At():
            mask = self._mask(batch, key)
            if not mask.all():
                key, batch = key[mask], batch.filter(pa.array(mask))
        types = _types_of(batch.column("type"))
        is_own = key < 0
        self._note_versions(batch, key, is_own)
        rows = np.flatnonzero(~is_own)
        if len(rows) < len(key):
            key, types, batch = key[rows], types[rows], _without(batch, rows)
        ended = self._kernel.apply(
            Columns(
                key,
                types,
                _integers(batch.column("time")),
                _integers(batch.column("event_time")),
                batch.column("fails_task").to_numpy(zero_copy_only=False),
                _integers(batch.column("seq")),
                list(_corrections(batch, types)),
            ),
            intervals=intervals,
        )
        return self._table_of([] if ended is None else [ended]) if intervals else None

    def _check(self, batch: Any) -> None:
        """Check that a batch can be folded here. Raises DialectError, Gone, SourceError."""
        if missing := [name for name in _NEEDED if name not in batch.schema.names]:
            raise SourceError("the batch", f"has no column {', '.join(missing)}; `taskfold.columnar.read` makes them")
        header = header_of(batch.schema)
        if header is None:
            return
        if header.dialect != self.dialect.name:
            raise DialectError(f"the batch is of dialect {header.dialect}, not {self.dialect.name}")
        check_at(self.at, header)

    def _mask(self, batch: Any, key: Integers) -> Booleans:
        """Tell of each row whether it comes before the end point."""
        mask = np.ones(batch.num_rows, np.bool_)
        if self.at.seq is not None:
            mask &= _integers(batch.column("seq")) <= self.at.seq
        if self.at.index is not None:
            mask &= _integers(batch.column("modify_index")) <= self.at.index
        if self.at.time_ns is not None:
            late = mask & (_integers(batch.column("time")) > self.at.time_ns)
            mask &= self._before_late(self._alloc_codes(key), np.flatnonzero(late))
        return mask

    def _before_late(self, alloc: Integers, late: Integers) -> Booleans:
        """Tell of each row whether no late one of its allocation came before, be it of a task or of its own."""
        if (count := self._keys.alloc_count) > len(self._is_late):
            more = np.zeros(max(count, 2 * len(self._is_late)) - len(self._is_late), np.bool_)
            self._is_late = np.concatenate((self._is_late, more))
        first = np.where(self._is_late, -1, len(alloc))
        np.minimum.at(first, alloc[late], late)
        self._is_late = first < len(alloc)
        before: Booleans = np.arange(len(alloc)) < first[alloc]
        return before

    def _alloc_codes(self, key: Integers) -> Integers:
        is_own = key < 0
        pairs = self._keys.pairs
        if not len(pairs):
            return -1 - key
        return np.where(is_own, -1 - key, pairs[np.where(is_own, 0, key), 0])

    def _note_versions(self, batch: Any, key: Integers, is_own: Booleans) -> None:
        """Remember version, index and time of the newest record of each allocation."""
        count = self._keys.alloc_count
        if count > self._versions.shape[1]:
            more = np.zeros((3, max(count, 2 * self._versions.shape[1]) - self._versions.shape[1]), np.int64)
            self._versions = np.concatenate((self._versions, more), axis=1)
        # Of every task, and of every allocation's own records, the last row; and of these the last of an allocation.
        last = np.full(self._kernel_size() + count, -1)
        np.maximum.at(last, np.where(is_own, self._kernel_size() - 1 - key, key), np.arange(len(key)))
        rows = last[last >= 0]
        alloc = self._alloc_codes(key[rows])
        newest = np.full(count, -1)
        np.maximum.at(newest, alloc, rows)
        changed = np.flatnonzero(newest >= 0)
        rows = pa.array(newest[changed])
        for place, name in enumerate(("version", "modify_index", "time")):
            self._versions[place, changed] = _integers(batch.column(name).take(rows))

    def _kernel_size(self) -> int:
        return len(self._keys)

    # --- tables ---------------------------------------------------------------------------------------------------

    def tasks(self) -> Any:
        """Return the state of every task, as a `pyarrow.Table` of the schema `schemas.TASKS`. O(tasks)."""
        kernel = self._kernel
        key = np.flatnonzero(kernel.exists[: kernel.size])
        pairs = self._keys.pairs[key]
        visible = kernel.visible[key].astype(np.int64)
        ends = np.cumsum(visible)
        tasks = np.repeat(key, visible)
        number = np.arange(len(tasks)) - np.repeat(ends - kernel.total[key], visible)
        ring = pa.ListArray.from_arrays(
            pa.array(np.concatenate(([0], ends)), pa.int32()), pa.array(kernel.ring[tasks, number % EVENTS_PER_TASK])
        )
        return pa.Table.from_arrays(
            [
                _texts(pairs[:, 0], self._keys.allocs),
                _texts(pairs[:, 1], self._keys.tasks),
                _texts(kernel.state[key], STATE_NAMES),
                pa.array(kernel.failed[key]),
                pa.array(kernel.restarts[key]),
                *(
                    times_of(times[key], NO_TIME)
                    for times in (kernel.last_restart, kernel.started_at, kernel.finished_at)
                ),
                pa.array(kernel.total[key]),
                pa.array(kernel.irregular[key]),
                self._counts(key),
                ring,
                pa.array(kernel.hidden[key]),
            ],
            schema=TASKS,
        )

    def _counts(self, key: Integers) -> Any:
        counts = self._kernel.counts
        codes = sorted(counts)
        table = np.stack([counts[code][key] for code in codes], 1) if codes else np.zeros((len(key), 0), np.int64)
        is_there = table > 0
        offsets = pa.array(np.concatenate(([0], np.cumsum(is_there.sum(1)))), pa.int32())
        names = pa.array([TYPE_NAMES[code] for code in codes], pa.string()).take(pa.array(np.nonzero(is_there)[1]))
        return pa.MapArray.from_arrays(offsets, names, pa.array(table[is_there]))

    def open_intervals(self) -> Any:
        """Return the interval of each task that has not ended, if all batches were applied with intervals. O(tasks)."""
        kernel, size = self._kernel, self._kernel.size
        key = np.flatnonzero(kernel.cause[:size] >= 0)
        return self._table_of(
            [
                Ended(
                    key,
                    kernel.state[key],
                    kernel.since[key],
                    np.full(len(key), NO_TIME),
                    kernel.cause[key],
                    np.full(len(key), -1),
                )
            ]
        )

    def _table_of(self, ended: list[Ended]) -> Any:
        """Return intervals as a table of the schema `INTERVALS`."""
        if not ended:
            return INTERVALS.empty_table()
        (each,) = ended
        pairs = self._keys.pairs[each.key]
        is_open = each.ended < 0
        types = pa.array(TYPE_NAMES)
        causes = [
            pa.DictionaryArray.from_arrays(pa.array(type_of_cause(cause).astype(np.int32), mask=mask), types)
            for cause, mask in ((each.began, None), (each.ended, is_open))
        ]
        return pa.Table.from_arrays(
            [
                _texts(pairs[:, 0], self._keys.allocs),
                _texts(pairs[:, 1], self._keys.tasks),
                _texts(each.state, STATE_NAMES),
                times_of(each.since, *UNKNOWN_TIMES),
                times_of(each.until, NO_TIME, *UNKNOWN_TIMES),
                pa.array(np.maximum(each.until - each.since, 0), mask=is_open | _is_unknown(each.since, each.until)),
                *causes,
                pa.array(seq_of_cause(each.began)),
                pa.array(seq_of_cause(each.ended), mask=is_open),
            ],
            schema=INTERVALS,
        )

    # --- one allocation -------------------------------------------------------------------------------------------

    def fold(self, alloc: str, batches: Iterable[Any]) -> AllocationState:
        """Return the whole state of an allocation: the numbers from here, its events and its own fields from batches.

        The batches are those that were applied, or any part of them with all records of the allocation; they are
        searched for it. O(rows). Raises UnknownAllocation, and SourceError where a record is missing.
        """
        code = self._keys.alloc_code(alloc)
        if code is None or code >= self._versions.shape[1] or not self._versions[0, code]:
            raise UnknownAllocation(f"no allocation {alloc!r} is known")
        version, index, time = (int(number) for number in self._versions[:, code])
        kernel = self._kernel
        keys = {
            name: key for name, key in self._keys.of_alloc(code).items() if key < kernel.size and kernel.exists[key]
        }
        needed = {seq for key in keys.values() for seq in self._references(key)}
        events: dict[int, Event] = {}
        owned = Allocation(alloc)
        for batch in batches:
            is_wanted = pc.equal(batch.column("alloc").cast(pa.string()), alloc)
            is_wanted = pc.and_(is_wanted, pc.less_equal(batch.column("version"), version))
            for record in records_of(batch.filter(is_wanted)):
                if record.seq in needed:
                    events[record.seq] = record.event
                if not record.task:
                    apply_record(owned, record, lifecycle_of(self.dialect), "keep")
        if lost := needed - events.keys():
            raise SourceError("the batches", f"have no record {min(lost)} of allocation {alloc}, which was folded")
        return AllocationState(
            id=alloc,
            version=version,
            modify_index=index,
            placed_body=owned.placed_body,
            updates={} if owned.updates is None else owned.updates,
            tasks={name: self._state(key, events) for name, key in keys.items()},
            modified_ns=time,
            memory=owned.memory,
            collected=owned.collected,
        )

    def _references(self, key: int) -> list[int]:
        """Return the positions of the records that a task needs."""
        kernel = self._kernel
        return [*kernel.shown_seqs(key), *(int(seq) for seq in (kernel.older[key], kernel.memory[key]) if seq >= 0)]

    def _state(self, key: int, events: dict[int, Event]) -> TaskState:
        kernel = self._kernel
        newest: Any = tuple(events[seq] for seq in kernel.shown_seqs(key))
        older: Any = events.get(int(kernel.older[key]))
        memory = events.get(int(kernel.memory[key]))
        counts = {TYPE_NAMES[code]: int(counts[key]) for code, counts in kernel.counts.items() if counts[key]}
        return TaskState(
            state=STATE_NAMES[kernel.state[key]],
            failed=bool(kernel.failed[key]),
            restarts=int(kernel.restarts[key]),
            last_restart_ns=_time(kernel.last_restart[key]),
            started_at_ns=_time(kernel.started_at[key]),
            finished_at_ns=_time(kernel.finished_at[key]),
            events=newest if older is None else older.older_events,
            newest_events=None if older is None else newest,
            events_total=int(kernel.total[key]),
            irregular=int(kernel.irregular[key]),
            packed_counts=packed(counts),
            memory=memory if isinstance(memory, Decided) else None,
            hidden=bool(kernel.hidden[key]),
            fields=kernel.fields.get(key, {}),
        )


UNKNOWN_TIMES: Final = (0, ZERO_TIME_NS)
"""The times that tell none, of records: nothing, and Go's zero time."""


def _is_unknown(*times: Integers) -> Booleans:
    """Tell of each row whether one of its times is none."""
    is_unknown: Booleans = np.logical_or.reduce([np.isin(each, UNKNOWN_TIMES) for each in times])
    return is_unknown


def check_at(at: At, header: LogHeader) -> None:
    """Check that a log has all records that make the state at an end point. Raises Gone."""
    if header.compacted is UNSET:
        return
    compacted = header.compacted
    points = ((at.seq, compacted.seq), (at.index, compacted.index), (at.time_ns, compacted.time_ns))
    if any(point is not None and point < limit for point, limit in points):
        raise Gone(
            f"records were removed when the log was compacted: there is no state before position {compacted.seq}, "
            f"index {compacted.index} and time {time_text(compacted.time_ns)}",
            oldest=compacted.seq,
        )


def _types_of(column: Any) -> Bytes:
    """Return the codes of types; a name that is none means an unknown type."""
    codes, names = dictionary_of(column)
    return np.array([_CODE_OF.get(name, _UNKNOWN) for name in names] or [0], np.uint8)[codes]


def _corrections(batch: Any, types: Bytes) -> Iterable[tuple[int, Event]]:
    """Yield the rows whose events set fields, with these events."""
    rows = np.flatnonzero(np.isin(types, _CORRECTING))
    texts = batch.column("event").take(pa.array(rows)).to_pylist() if rows.size else []
    for row, text in zip(rows.tolist(), texts, strict=True):
        if text is not None:
            yield row, decode_event(text)
        elif (cls := TYPES[types[row]]) is not Finished:
            event: Any = cls()
            yield row, event


def _without(batch: Any, rows: Integers) -> Any:
    """Return these rows of what the kernel reads."""
    columns = [batch.column(name) for name in ("time", "event_time", "fails_task", "seq", "event")]
    rest = pa.RecordBatch.from_arrays(columns, ["time", "event_time", "fails_task", "seq", "event"])
    return rest.take(pa.array(rows))


def _integers(column: Any) -> Integers:
    """Return a column as whole numbers, 0 for null. O(rows)."""
    column = column.cast(pa.int64())
    numbers: Integers = pc.fill_null(column, 0).to_numpy() if column.null_count else column.to_numpy()
    return numbers


def _time(time_ns: Any) -> int | None:
    return None if time_ns == NO_TIME else int(time_ns)


def _texts(codes: Any, texts: Iterable[str]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(texts, pa.string()))
