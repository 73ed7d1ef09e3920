"""Records as rows of Arrow columns, and back: the same records, byte for byte."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import UNSET

from taskfold.columnar.kernel import NO_TIME
from taskfold.columnar.keys import KEY_BITS
from taskfold.columnar.maps import TASK_EVENTS, TYPES
from taskfold.columnar.schemas import RECORDS, TEXT, TIME
from taskfold.log.entries import INT64
from taskfold.model.errors import DecodeError
from taskfold.model.events import TaskEvent
from taskfold.model.record import Event, LogHeader, Record

__all__ = ["HEADER", "TYPE_NAMES", "BatchMaker", "decode_event", "header_of", "records_of", "with_header"]

HEADER: Final = b"taskfold"
"""The metadata of a schema with the header of the log: its JSON."""

TYPE_NAMES: Final = tuple(str(cls.__struct_config__.tag) for cls in TYPES)
"""The names of the types of events, by code."""

decode_event: Final[Callable[[str], Event]] = msgspec.json.Decoder(Event).decode
_encode: Final = msgspec.json.Encoder().encode


class _Plan(NamedTuple):
    """How the events of a class are told by columns."""

    code: int
    defaults: Event | None
    """The event without any field; None where one is required."""
    columns: tuple[tuple[str, str, Any], ...]
    """Column, attribute and default of the fields that a column tells."""
    others: tuple[tuple[str, Any], ...]
    """Attribute and default of those that none tells: where one differs, the JSON is needed."""


_NUMBERS: Final = ("exit_code", "signal", "start_delay_ns", "kill_timeout_ns")
_COLUMNS: Final = (*_NUMBERS, "oom_killed", "reason", "message")
"""The columns of annotations."""
_ALWAYS: Final = {"time_ns", "fails_task"}
"""Attributes that columns of every event tell."""
_MESSAGES: Final = ("message", "driver_message")


def _column_of(attribute: str) -> str:
    """Return the column that tells an annotation; empty for one that only the JSON tells.

    >>> _column_of("restart_reason"), _column_of("setup_error"), _column_of("exit_code"), _column_of("disk_limit")
    ('reason', 'message', 'exit_code', '')
    """
    if attribute.endswith("_reason"):
        return "reason"
    if attribute in _MESSAGES or attribute.endswith("_error"):
        return "message"
    return attribute if attribute in _COLUMNS else ""


@cache
def _plans() -> dict[type, _Plan]:
    """Return how each class is told, made from its fields."""
    plans = {}
    for code, cls in enumerate(TYPES):
        fields = msgspec.structs.fields(cls)
        defaults = None if any(field.required for field in fields) else cls()
        columns, others = [], []
        for field in fields:
            default = None if defaults is None else getattr(defaults, field.name)
            if (column := _column_of(field.name)) and issubclass(cls, TaskEvent):
                columns.append((column, field.name, default))
            elif field.name not in _ALWAYS:
                others.append((field.name, default))
        assert len({column for column, _, _ in columns}) == len(columns), f"two fields of {cls} in one column"
        plans[cls] = _Plan(code, defaults, tuple(columns), tuple(others))  # type: ignore[arg-type]
    return plans


class BatchMaker:
    """A maker of record batches from decoded records: it remembers the keys of allocations and tasks.

    >>> from taskfold.events import Started
    >>> record = Record(seq=1, index=7, alloc="a", version=1, task="web", time_ns=5, event=Started(time_ns=4))
    >>> batch = BatchMaker(LogHeader(taskfold=3, dialect="1.1.2")).batch([record])
    >>> batch.num_rows, batch.column("type")[0].as_py(), list(records_of(batch)) == [record]
    (1, 'Started', True)
    """

    def __init__(self, header: LogHeader) -> None:
        self.schema = with_header(RECORDS, header)
        self._pairs = _Pairs()
        self._files: list[int] = []
        """The number of this maker, and another one whenever the pairs of one are used up."""

    def batch(self, records: Sequence[Record]) -> Any:
        """Return records as one batch. O(records). Raises DecodeError for a number that no column can hold."""
        columns: dict[str, list[Any]] = {name: [None] * len(records) for name in (*_COLUMNS, "event", "ordinal", "id")}
        for row, record in enumerate(records):
            if record.id is not UNSET:
                columns["id" if isinstance(record.id, str) else "ordinal"][row] = record.id
        # Class by class, so that what a class has is looked up once.
        rows_of: dict[type, list[int]] = defaultdict(list)
        for row, record in enumerate(records):
            rows_of[type(record.event)].append(row)
        codes = np.empty(len(records), np.int32)
        fails = np.zeros(len(records), np.bool_)
        try:
            times = np.array([record.time_ns for record in records], np.int64)
            event_times = np.zeros(len(records), np.int64)
            for cls, rows in rows_of.items():
                plan, events = _plans()[cls], [records[row].event for row in rows]
                codes[rows] = plan.code
                if issubclass(cls, TaskEvent):
                    event_times[rows] = [event.time_ns for event in events]  # type: ignore[union-attr]
                    fails[rows] = [event.fails_task for event in events]  # type: ignore[union-attr]
                for row in _tell(columns, rows, events, plan):
                    columns["event"][row] = _encode(records[row].event).decode()
            batch = self._of_columns(records, columns, codes, fails, times, event_times)
        except (OverflowError, pa.ArrowInvalid) as error:
            raise _unholdable(records, str(error)) from None
        if (times == NO_TIME).any() or (event_times == NO_TIME).any():
            raise _unholdable(records, "a time is beyond 64 bits with a sign")
        return batch

    def _of_columns(
        self,
        records: Sequence[Record],
        columns: dict[str, list[Any]],
        codes: Any,
        fails: Any,
        times: Any,
        event_times: Any,
    ) -> Any:
        tasks = [record.task or None for record in records]
        arrays = {
            "seq": pa.array([record.seq for record in records], pa.int64()),
            "modify_index": pa.array([record.index for record in records], pa.int64()),
            "alloc": pa.array([record.alloc for record in records], pa.string()).dictionary_encode(),
            "version": pa.array([record.version for record in records], pa.int64()),
            "task": pa.array(tasks, pa.string()).dictionary_encode(),
            "task_key": self._key_column(records),
            "time": times_of(times, 0),
            "type": pa.DictionaryArray.from_arrays(pa.array(codes), list(TYPE_NAMES)),
            "event_time": times_of(event_times, 0),
            "fails_task": pa.array(fails),
        }
        for name, values in columns.items():
            kind = RECORDS.field(name).type
            array = pa.array(values, pa.string() if kind == TEXT else kind)
            arrays[name] = array.dictionary_encode() if kind == TEXT else array
        return pa.RecordBatch.from_arrays([arrays[name] for name in RECORDS.names], schema=self.schema)

    def _key_column(self, records: Sequence[Record]) -> Any:
        """Return the numbers of pairs of allocation and task, with the number of the file above."""
        pairs = self._pairs
        numbers = np.array([pairs[record.alloc, record.task] for record in records], np.int64)
        while len(pairs) >> KEY_BITS >= len(self._files):
            self._files.append(secrets.randbits(63 - KEY_BITS))
        files = np.array(self._files, np.int64)[numbers >> KEY_BITS]
        return pa.array(files << KEY_BITS | (numbers & ((1 << KEY_BITS) - 1)))


class _Pairs(dict[tuple[str, str], int]):
    """A number for each pair of allocation and task, in the order in which they come."""

    def __missing__(self, pair: tuple[str, str]) -> int:
        self[pair] = number = len(self)
        return number


def _tell(columns: dict[str, list[Any]], rows: Sequence[int], events: Sequence[Event], plan: _Plan) -> set[int]:
    """Put the annotations of events of a class into columns; return the rows that need their JSON, too."""
    if plan.code >= TASK_EVENTS:
        return {row for row, event in zip(rows, events, strict=True) if event != plan.defaults}
    needy: set[int] = set()
    for name, default in plan.others:
        needy.update(row for row, event in zip(rows, events, strict=True) if getattr(event, name) != default)
    for column, name, default in plan.columns:
        values = columns[column]
        # The exit code 0 is a fact, and so is that a process was not killed for want of memory.
        is_always = column in {"exit_code", "oom_killed"}
        for row, event in zip(rows, events, strict=True):
            value = getattr(event, name)
            if is_always or value != default:
                values[row] = value
        if column in _NUMBERS:
            large = [row for row in rows if (value := values[row]) is not None and not -INT64 <= value < INT64]
            needy.update(large)
            for row in large:
                values[row] = None
    return needy


def _unholdable(records: Sequence[Record], problem: str) -> DecodeError:
    """Return the error for records of which one has a number that no column can hold."""
    for record in records:
        for time_ns in (record.time_ns, getattr(record.event, "time_ns", 0)):
            if not NO_TIME < time_ns < INT64:
                sentence = f"record {record.seq}: {time_ns} is no time in 64 bits with a sign: no column can hold it"
                return DecodeError(sentence)
    return DecodeError(f"a record between {records[0].seq} and {records[-1].seq}: {problem}")


def times_of(times_ns: Any, *nothing: int) -> Any:
    """Return times (unix nanoseconds) as a column, with null for those that mean nothing. O(rows)."""
    return pa.array(times_ns, pa.int64(), mask=np.isin(times_ns, nothing)).cast(TIME)


def with_header(schema: Any, header: LogHeader) -> Any:
    """Return a schema with the header of a log in its metadata."""
    return schema.with_metadata({**(schema.metadata or {}), HEADER: _encode(header)})


def header_of(schema: Any) -> LogHeader | None:
    """Return the header in the metadata of a schema; None if there is none. Raises DecodeError for a damaged one."""
    text = (schema.metadata or {}).get(HEADER)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=LogHeader)
    except msgspec.DecodeError as error:
        raise DecodeError(f"the metadata {HEADER.decode()!r} is no header of a log: {error}") from None


def records_of(batch: Any) -> Iterator[Record]:
    """Yield the records of a batch. O(rows). Raises DecodeError for rows that no export makes."""
    classes = dict(zip(TYPE_NAMES, TYPES, strict=True))
    plans = _plans()
    for name in ("time", "event_time"):
        place = batch.schema.get_field_index(name)
        batch = batch.set_column(place, name, batch.column(name).cast(pa.int64()))
    for row in batch.to_pylist():
        cls = classes.get(row["type"])
        if cls is None:
            raise DecodeError(f"record {row['seq']}: {row['type']!r} is no type of an event")
        key = row["id"] if row["id"] is not None else row["ordinal"]
        yield Record(
            seq=row["seq"],
            index=row["modify_index"],
            alloc=row["alloc"],
            version=row["version"],
            task=row["task"] or "",
            time_ns=row["time"] or 0,
            id=UNSET if key is None else key,
            event=_event_of(row, cls, plans[cls]),
        )


def _event_of(row: dict[str, Any], cls: type[Any], plan: _Plan) -> Event:
    if row["event"] is not None:
        try:
            return decode_event(row["event"])
        except msgspec.DecodeError as error:
            raise DecodeError(f"record {row['seq']}: the JSON of its event: {error}") from None
    if plan.code >= TASK_EVENTS:
        event: Event = cls()
        return event
    fields = {name: row[column] for column, name, _ in plan.columns if row[column] is not None}
    if "exit_code" in cls.__struct_fields__ and row["exit_code"] is None:
        fields["exit_code"] = None
    if "fails_task" in cls.__struct_fields__:
        fields["fails_task"] = row["fails_task"]
    task_event: Event = cls(time_ns=row["event_time"] or 0, **fields)
    return task_event
