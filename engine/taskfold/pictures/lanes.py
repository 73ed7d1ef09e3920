"""Lanes: what became of each task, as intervals without a hole, from the records of its allocation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct, field

from taskfold.fold.allocation import Allocation, AllocationState, apply_record
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, Lifecycle
from taskfold.fold.task import Task
from taskfold.model.events import Killed, Killing, Restarting, RestartSignaled, TaskEvent, Terminated
from taskfold.model.record import Event, Gap, Record
from taskfold.nomad.snapshot import Snapshot
from taskfold.pictures.kinds import KINDS

__all__ = ["Interval", "Lane", "LanesOfOne", "lanes_of"]

_NUMBERS: Final = {kind.name: number for number, kind in enumerate(KINDS)}
_PENDING, _DELAY, _GAP = _NUMBERS["pending"], _NUMBERS["delay"], _NUMBERS["gap"]
_RUNNING, _DONE, _FAILED, _KILLED = (_NUMBERS[name] for name in ("running", "done", "failed", "killed"))


class Interval(Struct, frozen=True, gc=False):
    """A stretch of the life of a task."""

    start_ns: int
    end_ns: int
    """Unix nanoseconds; of the last interval, the end of what was read."""
    kind: int
    """Its place in `KINDS`."""


class Lane(Struct):
    """The life of one task."""

    task: str
    intervals: list[Interval] = field(default_factory=list)
    """In order, without a hole between them."""
    records: list[Record] = field(default_factory=list)
    state: str = ""
    failed: bool = False
    restarts: int = 0


class LanesOfOne(Struct):
    """An allocation, and the lanes of its tasks."""

    id: str
    lanes: list[Lane]
    records: list[Record]
    """The records of the allocation itself."""
    state: AllocationState
    """The state after its last record."""
    job: str = ""
    group: str = ""
    node: str = ""
    node_name: str = ""
    namespace: str = ""
    name: str = ""
    client_status: str = ""
    desired_status: str = ""

    @property
    def start_ns(self) -> int:
        """The time of its first record (unix nanoseconds)."""
        return min(each[0].time_ns for each in (self.records, *(lane.records for lane in self.lanes)) if each)


class _Life:
    """The lane of a task, while its records are read."""

    def __init__(self, name: str, placed_ns: int) -> None:
        self.lane = Lane(name)
        self._start_ns = placed_ns
        """Of the current interval; 0 before the first."""
        self._now_ns = placed_ns
        self._kind = _PENDING
        self._end: Terminated | None = None
        """The end of the current run, once it was told."""
        self._is_killed = False

    def add(self, record: Record, before: str | None, task: Task) -> None:
        """Add a record of the task, applied already: its state before it (None: no state yet), and the task after."""
        event: Any = record.event
        if self.lane.records:
            self._now_ns = max(self._now_ns, record.time_ns)
        else:
            self._now_ns = record.time_ns
            self._start_ns = min(self._start_ns or record.time_ns, record.time_ns)
        is_after_gap = self._kind == _GAP
        self.lane.records.append(record)
        if isinstance(event, Gap):
            self._close(self._kind if before != RUNNING else _RUNNING)
            self._kind = _GAP
            return
        if isinstance(event, Terminated):
            self._end = event
        if isinstance(event, (Killing, Killed, RestartSignaled)) and self._end is None:
            # A run that had ended before was not killed: a leader is told so when it is dead.
            self._is_killed = True
        kind = self._kind_after(event, task)
        if is_after_gap:
            self._close(_GAP)
        elif kind != self._kind or (isinstance(event, TaskEvent) and before != task.state):
            self._close(self._ended_kind() if before == RUNNING else self._kind)
        self._kind = kind

    def _kind_after(self, event: Event, task: Task) -> int:
        """Return the kind of the interval that the task is in after an event."""
        if task.state == PENDING:
            return _DELAY if isinstance(event, Restarting) else _PENDING
        if task.state == RUNNING:
            return _RUNNING
        if task.state == DEAD:
            return _NUMBERS["dead_failed" if task.failed else "dead"]
        return _GAP

    def _ended_kind(self) -> int:
        """Return how the current run ended."""
        if self._is_killed and not (self._end is not None and self._end.oom_killed):
            return _KILLED
        if self._end is None:
            return _DONE
        is_bad = self._end.exit_code or self._end.signal or self._end.oom_killed
        return _FAILED if is_bad else _DONE

    def _close(self, kind: int) -> None:
        """End the current interval now, as one of this kind."""
        if self._now_ns > self._start_ns:
            intervals = self.lane.intervals
            if intervals and intervals[-1].kind == kind and kind not in {_DONE, _FAILED, _KILLED}:
                intervals[-1] = Interval(intervals[-1].start_ns, self._now_ns, kind)
            else:
                intervals.append(Interval(self._start_ns, self._now_ns, kind))
        self._start_ns = self._now_ns
        self._end, self._is_killed = None, False

    def finish(self, task: Task, end_ns: int) -> Lane:
        """End the last interval, and return the lane."""
        self._now_ns = max(self._now_ns, end_ns)
        self._close(self._kind)
        self.lane.state, self.lane.failed, self.lane.restarts = task.state, task.failed, task.restarts
        return self.lane


def lanes_of(alloc: str, records: Sequence[Record], lifecycle: Lifecycle, end_ns: int) -> LanesOfOne:
    """Return the lanes of an allocation from its records, up to the end of what was read. O(records).

    Times are those of the records; one that goes back is drawn at the newest before it.
    """
    allocation = Allocation(alloc)
    lives: dict[str, _Life] = {}
    own: list[Record] = []
    placed_ns = 0
    for record in records:
        task = allocation.tasks.get(record.task)
        before = None if task is None else task.state
        apply_record(allocation, record, lifecycle, "keep")
        if not record.task:
            own.append(record)
            placed_ns = placed_ns or record.time_ns
            continue
        life = lives.get(record.task)
        if life is None:
            life = lives[record.task] = _Life(record.task, placed_ns)
        life.add(record, before, allocation.tasks[record.task])
    lanes = [life.finish(allocation.tasks[name], end_ns) for name, life in lives.items()]
    return _with_fields(alloc, lanes, own, allocation.freeze(), lifecycle)


def _with_fields(
    alloc: str, lanes: Iterable[Lane], own: list[Record], state: AllocationState, lifecycle: Lifecycle
) -> LanesOfOne:
    snapshot = Snapshot.of(state, lifecycle.dialect)
    return LanesOfOne(
        id=alloc,
        lanes=sorted(lanes, key=lambda lane: lane.task),
        records=own,
        state=state,
        job=snapshot.job_id or "",
        group=snapshot.task_group or "",
        node=snapshot.node_id or "",
        node_name=snapshot.node_name or "",
        namespace=snapshot.namespace or "",
        name=snapshot.name or "",
        client_status=snapshot.client_status or "",
        desired_status=snapshot.desired_status or "",
    )
