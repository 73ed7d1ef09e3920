"""The kernel: the states of tasks as arrays, changed by many records at once.

It does what `taskfold.fold.task.apply` does with ``on_illegal="keep"``, and is proven to do the same. The state is a
prefix scan (`taskfold.columnar.maps`). Every other field is "the last write of a task stays", a length of a run, or a
scatter into the ring of ten. Corrections (Observed, Gap, and what few other records tell) are Python for each, and
then entries of the same arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from taskfold.columnar.maps import (
    CODES,
    ILLEGAL,
    STATE_NAMES,
    TASK_EVENTS,
    TYPES,
    Booleans,
    Bytes,
    Integers,
    maps_of,
    states_after,
)
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, lifecycle_of
from taskfold.fold.task import ANEW
from taskfold.model.dialect import EVENTS_PER_TASK
from taskfold.model.events import Restarting
from taskfold.model.record import Decided, Event, Finished, Gap, Placed, Updated

__all__ = ["NO_TIME", "Columns", "Ended", "Kernel", "type_of_cause"]

NO_TIME: Final = int(np.iinfo(np.int64).min)
"""The time of what has none, and so no time of a record."""
_PENDING, _RUNNING, _DEAD = (np.uint8(STATE_NAMES.index(state)) for state in (PENDING, RUNNING, DEAD))
_RESTARTING, _FINISHED, _MEMORY = CODES[Restarting], CODES[Finished], CODES[Decided]

_TYPE_BITS: Final = 6
"""A cause of a move is the position of its record, with the code of its type in the lowest bits."""
assert len(TYPES) <= 1 << _TYPE_BITS

_SCALARS: Final[tuple[tuple[str, Any, Any], ...]] = (
    ("exists", np.bool_, False),
    ("state", np.uint8, _PENDING),
    ("failed", np.bool_, False),
    ("hidden", np.bool_, False),
    ("restarts", np.int64, 0),
    ("last_restart", np.int64, NO_TIME),
    ("started_at", np.int64, NO_TIME),
    ("finished_at", np.int64, NO_TIME),
    ("total", np.int64, 0),
    ("irregular", np.int64, 0),
    ("visible", np.int8, 0),
    ("older", np.int64, -1),
    ("memory", np.int64, -1),
    ("since", np.int64, NO_TIME),
    ("cause", np.int64, -1),
)

_ATTRIBUTES: Final = {
    "failed": "failed",
    "restarts": "restarts",
    "hidden": "hidden",
    "older": "older_events",
    "last_restart": "last_restart_ns",
    "started_at": "started_at_ns",
    "finished_at": "finished_at_ns",
}
"""The fields that a correction may set, with the attributes of events."""

Corrections: TypeAlias = Mapping[str, tuple[Integers, Integers]]
"""By field, the rows that set it, and the values."""


def type_of_cause(causes: Integers) -> Integers:
    """Return the codes of the types in causes; the rest of a cause is the position. O(causes)."""
    return causes & ((1 << _TYPE_BITS) - 1)


def seq_of_cause(causes: Integers) -> Integers:
    """Return the positions in causes. O(causes)."""
    return causes >> _TYPE_BITS


class Columns(NamedTuple):
    """Records of tasks in the order of their log, as arrays of one length."""

    key: Integers
    """The task: a number from 0, without holes."""
    type: Bytes
    """The code of the type of event."""
    time: Integers
    """When it was applied (unix nanoseconds)."""
    event_time: Integers
    """When it happened (unix nanoseconds); 0 for an internal event."""
    fails: Booleans
    """Whether the event marks the task as failed."""
    seq: Integers
    """The position of the record."""
    corrections: Sequence[tuple[int, Event]] = ()
    """The rows of Observed, Gap, Placed, Updated, and Finished with fields, with their events."""


class Ended(NamedTuple):
    """Intervals that ended, as arrays of one length: of which task, in which state, from when to when, and why."""

    key: Integers
    state: Bytes
    since: Integers
    until: Integers
    began: Integers
    """The cause of its begin."""
    ended: Integers
    """The cause of its end."""


class Kernel:
    """The states of tasks as arrays; the place of a task is its key. Memory for tasks, not for records: some 300 bytes.

    >>> import numpy as np
    >>> from taskfold.events import Received, Started
    >>> kernel = Kernel("1.1.2")
    >>> one = np.array([0, 0])
    >>> types = np.array([CODES[Received], CODES[Started]], np.uint8)
    >>> kernel.apply(Columns(one, types, np.array([5, 6]), np.array([5, 6]), np.zeros(2, bool), np.array([1, 2])))
    >>> STATE_NAMES[kernel.state[0]], int(kernel.started_at[0]), kernel.shown_seqs(0)
    ('running', 6, [1, 2])
    """

    exists: Booleans
    """Whether a key has a record that was folded."""
    state: Bytes
    failed: Booleans
    hidden: Booleans
    restarts: Integers
    last_restart: Integers
    started_at: Integers
    finished_at: Integers
    total: Integers
    """How many events a task ever had."""
    irregular: Integers
    visible: NDArray[np.int8]
    """How many of the newest ten events are shown."""
    older: Integers
    """The position of the Observed that shows an older copy of the events; -1 if none does."""
    memory: Integers
    """The position of the newest Decided; -1 if there is none."""
    since: Integers
    """When the open interval began (unix nanoseconds)."""
    cause: Integers
    """The cause of its begin; -1 for a key of which nothing is known."""

    def __init__(self, dialect: str) -> None:
        self.finished_at_moves = lifecycle_of(dialect).dialect.finished_at_moves
        self.maps = maps_of(dialect)
        self.size = 0
        """How many keys there are."""
        self.fields: dict[int, dict[str, bytes]] = {}
        """The other fields of a task, if it has any: JSON by name."""
        for name, dtype, _ in _SCALARS:
            setattr(self, name, np.empty(0, dtype))
        self.ring = np.empty((0, EVENTS_PER_TASK), np.int64)
        """The position of the n-th event of a task, at place n modulo 10."""
        self.counts: dict[int, Integers] = {}
        """The number of events of each type that any task had."""
        self.has_older = False
        """Whether any task ever showed an older copy."""

    def __repr__(self) -> str:
        """Return how much it holds."""
        return f"<Kernel: {len(self):,} tasks>"

    def __len__(self) -> int:
        """Return how many tasks there are. O(keys)."""
        return int(np.count_nonzero(self.exists[: self.size]))

    def grow(self, size: int) -> None:
        """Make room for so many tasks; those that are new are pending. O(1) for each, amortised."""
        if size > len(self.state):
            more = max(size, 2 * self.size) - len(self.state)
            for name, dtype, default in _SCALARS:
                setattr(self, name, np.concatenate((getattr(self, name), np.full(more, default, dtype))))
            self.ring = np.concatenate((self.ring, np.full((more, EVENTS_PER_TASK), -1)))
            self.counts = {
                code: np.concatenate((counts, np.zeros(more, np.int64))) for code, counts in self.counts.items()
            }
        self.size = max(self.size, size)

    def apply(self, columns: Columns, *, intervals: bool = False) -> Ended | None:
        """Change the states by the next records. O(records × log records), and no memory that stays but for tasks.

        With ``intervals``, those that ended are returned.
        """
        if not len(columns.key):
            return None
        self.grow(int(columns.key.max()) + 1)
        step = _Step(self, columns)
        step.write_times()
        step.write_others()
        step.remember_events()
        return step.end(intervals=intervals)

    def shown_seqs(self, key: int) -> list[int]:
        """Return the positions of the newest events that a task shows, oldest first. O(1)."""
        total = int(self.total[key])
        return [
            int(self.ring[key, number % EVENTS_PER_TASK]) for number in range(total - int(self.visible[key]), total)
        ]


class _Step:
    """The records of one batch, grouped by task, and what they do to each field."""

    def __init__(self, kernel: Kernel, columns: Columns) -> None:
        self.kernel, self.columns = kernel, columns
        maps = kernel.maps
        # By task, and inside a task in the order of the log. The numbers differ, so that the fast sort is a stable one.
        size = len(columns.key)
        assert size < 1 << 32, "a batch has fewer than 4,294,967,296 records"
        self.order = np.sort((columns.key.astype(np.int64) << 32) | np.arange(size))
        self.key = self.order >> 32
        self.line = self.order & 0xFFFFFFFF
        self.type = columns.type[self.line]
        self.starts = _firsts(self.key)
        self.lasts = _lasts(self.key)
        self.dies = self.type == _FINISHED
        moves = maps.of_type[self.type]
        self.cleared: Integers | None = None
        """The rows after which an empty ring is shown."""
        self.sets = self._corrections(moves) if columns.corrections else {}
        first = kernel.state[self.key[self.starts]]
        self.after = states_after(moves, self.starts, first, maps.compose)
        self.before = np.concatenate((self.after[:1], self.after[:-1]))
        self.before[self.starts] = first
        self.target = maps.targets[self.type * np.uint8(len(STATE_NAMES)) + self.before]
        self.is_event = self.type < TASK_EVENTS

    def _corrections(self, moves: Bytes) -> Corrections:
        """Return what corrections set, by field; change what they do to the state."""
        sets: dict[str, list[tuple[int, int]]] = {}
        cleared, fields = [], self.kernel.fields
        for line, event in self.columns.corrections:
            key = int(self.columns.key[line])
            row = int(np.searchsorted(self.order, (key << 32) | line))
            if isinstance(event, Updated):
                rest = {name: text for name, text in fields.get(key, {}).items() if name not in event.cleared}
                fields[key] = rest | {name: bytes(text) for name, text in event.fields.items()}
                continue
            if isinstance(event, (Placed, Gap)):
                cleared.append(row)
            if isinstance(event, Placed):
                fields.pop(key, None)
                sets.setdefault("memory", []).append((row, -1))
            correction = ANEW if isinstance(event, Placed) else event
            self._correct_move(row, correction, moves)
            for name, value in _values(correction, int(self.columns.seq[line])):
                sets.setdefault(name, []).append((row, value))
        if cleared:
            self.cleared = np.array(sorted(cleared), np.int64)
        arrays = {name: np.array(sorted(each), np.int64).T for name, each in sets.items()}
        return {name: (rows, values) for name, (rows, values) in arrays.items()}

    def _correct_move(self, row: int, correction: Event, moves: Bytes) -> None:
        """Change what a record does to the state to what a correction says."""
        if isinstance(correction, Finished):
            if not correction.dies:
                self.dies[row], moves[row] = False, self.kernel.maps.identity
        elif (state := getattr(correction, "state", UNSET)) is not UNSET:
            moves[row] = STATE_NAMES.index(state)

    def _times(self, rows: Integers) -> Integers:
        """Return when the records of these rows were applied."""
        times: Integers = self.columns.time[self.line[rows]]
        return times

    def _write(self, name: str, rows: Integers, values: NDArray[Any]) -> tuple[Integers, NDArray[Any]]:
        """Write values at rows, beside what corrections set; the last of a task stays. Return all that was written."""
        if name in self.sets:
            rows = np.concatenate((rows, self.sets[name][0]))
            # A correction comes after what its own record does.
            order = np.argsort(rows, kind="stable")
            rows, values = rows[order], np.concatenate((values, self.sets[name][1]))[order]
        if rows.size:
            last = _lasts(self.key[rows])
            getattr(self.kernel, name)[self.key[rows[last]]] = values[last]
        return rows, values

    def _uncorrected(self, name: str, rows: Integers) -> Integers:
        """Write what corrections set of a field; return the rows after the last correction in their task."""
        if name not in self.sets:
            return rows
        self._write(name, rows[:0], rows[:0])
        corrected = self.sets[name][0]
        place = np.searchsorted(self.key[corrected], self.key[rows], "right") - 1
        after: Integers = rows[(place < 0) | (self.key[corrected[place]] != self.key[rows]) | (corrected[place] < rows)]
        return after

    def write_times(self) -> None:
        """Write StartedAt and FinishedAt, which 0.5.x moves with every record that leaves the task dead."""
        kernel = self.kernel
        starting = np.flatnonzero((self.target == _RUNNING) & (self.before != _RUNNING) & self.is_event)
        ending = np.flatnonzero(((self.target == _DEAD) & self.is_event) | self.dies)
        if kernel.finished_at_moves:
            has_started = kernel.started_at[self.key[ending]] != NO_TIME
            rows, values = self._write("started_at", starting, self._times(starting))
            if rows.size:
                place = np.searchsorted(rows, ending, "left") - 1
                is_here = (place >= 0) & (self.key[rows[place]] == self.key[ending])
                has_started = np.where(is_here, values[place] != NO_TIME, has_started)
            ending = ending[has_started]
            self._write("finished_at", ending, self._times(ending))
            return
        self._write("started_at", starting, self._times(starting))
        ending = self._uncorrected("finished_at", ending)
        ending = ending[_firsts(self.key[ending])]
        ending = ending[kernel.finished_at[self.key[ending]] == NO_TIME]
        kernel.finished_at[self.key[ending]] = self._times(ending)

    def write_others(self) -> None:
        """Write the fields that events set or count, and those that only corrections set."""
        kernel, columns = self.kernel, self.columns
        restarting = np.flatnonzero(self.type == _RESTARTING)
        self._write("last_restart", restarting, columns.event_time[self.line[restarting]])
        _add(kernel.restarts, self.key[self._uncorrected("restarts", restarting)])
        failing = np.flatnonzero(columns.fails[self.line] & self.is_event)
        self._write("failed", failing, np.ones(len(failing), np.bool_))
        nothing = np.empty(0, np.int64)
        self._write("hidden", nothing, nothing)
        _add(kernel.irregular, self.key[self.is_event & (self.target == ILLEGAL)])
        deciding = np.flatnonzero(self.type == _MEMORY)
        self._write("memory", deciding, columns.seq[self.line[deciding]])

    def remember_events(self) -> None:
        """Count the events, and put the newest ten of each task into its ring."""
        kernel = self.kernel
        rows = np.flatnonzero(self.is_event)
        key, types = self.key[rows], self.type[rows]
        for code in np.flatnonzero(np.bincount(types, minlength=TASK_EVENTS)):
            counts = kernel.counts.setdefault(int(code), np.zeros(len(kernel.state), np.int64))
            _add(counts, key[types == code])
        begin = _firsts(key)
        size = np.diff(np.append(begin, len(key)))
        tasks = key[begin]
        # Only the newest ten of each task are looked at: where they begin among the rows, and among themselves.
        fresh = np.minimum(size, EVENTS_PER_TASK)
        place = np.arange(fresh.sum())
        offset = np.cumsum(fresh) - fresh
        newest = place + np.repeat(begin + size - fresh - offset, fresh)
        number = place + np.repeat(kernel.total[tasks] + size - fresh - offset, fresh)
        places = np.repeat(tasks * EVENTS_PER_TASK, fresh) + number % EVENTS_PER_TASK
        kernel.ring.reshape(-1)[places] = self.columns.seq[self.line[rows[newest]]]
        kernel.total[tasks] += size
        kernel.visible[tasks] = np.minimum(kernel.visible[tasks] + size, EVENTS_PER_TASK)
        if self.cleared is not None:
            last = self.cleared[_lasts(self.key[self.cleared])]
            ends = np.searchsorted(self.key, self.key[last], "right")
            visible = np.searchsorted(rows, ends) - np.searchsorted(rows, last)
            kernel.visible[self.key[last]] = np.minimum(visible, EVENTS_PER_TASK)
        if "older" in self.sets or kernel.has_older:
            kernel.has_older = True
            self._write("older", rows, np.full(len(rows), -1))

    def end(self, *, intervals: bool) -> Ended | None:
        """Write the states; return the intervals that ended, and remember those that began."""
        kernel = self.kernel
        tasks = self.key[self.lasts]
        kernel.state[tasks], kernel.exists[tasks] = self.after[self.lasts], True
        if not intervals:
            return None
        has_moved = self.after != self.before
        # The first record of a task begins an interval, whatever it does.
        has_moved[self.starts] |= kernel.cause[self.key[self.starts]] < 0
        rows = np.flatnonzero(has_moved)
        key, time = self.key[rows], self._times(rows)
        cause = self.columns.seq[self.line[rows]] << _TYPE_BITS | self.type[rows]
        is_first = _changes(key)
        since = np.where(is_first, kernel.since[key], np.roll(time, 1))
        began = np.where(is_first, kernel.cause[key], np.roll(cause, 1))
        last = _lasts(key)
        kernel.since[key[last]], kernel.cause[key[last]] = time[last], cause[last]
        had = began >= 0
        return Ended(key[had], self.before[rows[had]], since[had], time[had], began[had], cause[had])


def _values(correction: Event, seq: int) -> Iterator[tuple[str, int]]:
    """Yield the fields that a correction sets, with their values in the arrays."""
    for name, attribute in _ATTRIBUTES.items():
        value = getattr(correction, attribute, UNSET)
        if value is UNSET:
            continue
        if name == "older":
            yield name, -1 if value is None else seq
        else:
            yield name, NO_TIME if value is None else int(value)


def _add(counts: Integers, key: Integers) -> None:
    """Count each key once for each of its places; the keys are sorted."""
    begin = _firsts(key)
    counts[key[begin]] += np.diff(np.append(begin, len(key)))


def _changes(key: Integers) -> Booleans:
    """Tell of each key whether it differs from the one before."""
    return np.concatenate((np.ones(min(1, len(key)), np.bool_), key[1:] != key[:-1]))


def _firsts(key: Integers) -> Integers:
    """Return the first place of each key; the keys are sorted."""
    return np.flatnonzero(_changes(key))


def _lasts(key: Integers) -> Integers:
    """Return the last place of each key; the keys are sorted."""
    return np.flatnonzero(np.concatenate((key[1:] != key[:-1], np.ones(min(1, len(key)), np.bool_))))
