"""Lanes: what became of each task, as bars without a hole, from the records of its allocation.

The states are those of `taskfold.fold.course`. A bar says more: how a run ended, which part of a pending interval is
the wait for a restart, and where events were lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct, field

from taskfold.fold.allocation import AllocationState
from taskfold.fold.course import REASONS, CourseFold, Death, Interval
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING, Lifecycle
from taskfold.fold.task import Task
from taskfold.model.events import Killed, Killing, Restarting, RestartSignaled, Terminated
from taskfold.model.record import Event, Gap, Record
from taskfold.nomad.snapshot import Snapshot
from taskfold.pictures.kinds import KINDS

__all__ = ["Bar", "Lane", "LanesOfOne", "lanes_of"]

_NUMBERS: Final = {kind.name: number for number, kind in enumerate(KINDS)}
_PENDING, _DELAY, _GAP = _NUMBERS["pending"], _NUMBERS["delay"], _NUMBERS["gap"]
_RUNNING, _WELL, _FAILED, _KILLED = (_NUMBERS[name] for name in ("running", "done", "failed", "killed"))


class Bar(Struct, frozen=True, gc=False):
    """A stretch of the life of a task, as it is drawn: an interval of its course, or a part of one."""

    start_ns: int
    end_ns: int
    """Unix nanoseconds; of the last interval, the end of the records."""
    kind: int
    """Its place in `KINDS`."""


class Lane(Struct):
    """The life of one task."""

    task: str
    bars: list[Bar] = field(default_factory=list)
    """In order, without a hole between them."""
    records: list[Record] = field(default_factory=list)
    state: str = ""
    failed: bool = False
    restarts: int = 0
    death: Death | None = None
    """Its last death, which has a reason; None while it lives."""

    @property
    def reason(self) -> str:
        """Why it died, as a sentence; empty while it lives."""
        return "" if self.death is None else REASONS[self.death.reason]


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
        """Of the current bar; 0 before the first."""
        self._now_ns = placed_ns
        self._kind = _PENDING
        self._end: Terminated | None = None
        """The end of the current run, once it was told."""
        self._is_killed = False

    def add(self, record: Record, task: Task, *, moves: bool) -> None:
        """Add a record of the task, with the task after it; it `moves` the task to another state, or leaves it."""
        event: Any = record.event
        if self.lane.records:
            self._now_ns = max(self._now_ns, record.time_ns)
        else:
            self._now_ns = record.time_ns
            self._start_ns = min(self._start_ns or record.time_ns, record.time_ns)
        self.lane.records.append(record)
        if isinstance(event, Gap):
            self._close(self._kind)
            self._kind = _GAP
            return
        if isinstance(event, Terminated):
            self._end = event
        if isinstance(event, (Killing, Killed, RestartSignaled)) and self._end is None:
            # A run that had ended before was not killed: a leader is told so when it is dead.
            self._is_killed = True
        kind = self._kind_after(event, task)
        if moves or kind != self._kind:
            self._close(self._ended_kind() if self._kind == _RUNNING else self._kind)
        self._kind = kind

    def _kind_after(self, event: Event, task: Task) -> int:
        """Return the kind of the bar that the task is in after an event."""
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
            return _WELL
        is_bad = self._end.exit_code or self._end.signal or self._end.oom_killed
        return _FAILED if is_bad else _WELL

    def _close(self, kind: int, *, is_last: bool = False) -> None:
        """End the current bar now, as one of this kind; the last one is there even without a length."""
        bars = self.lane.bars
        if self._now_ns > self._start_ns or (is_last and (not bars or bars[-1].kind != kind)):
            if bars and bars[-1].kind == kind and kind not in {_WELL, _FAILED, _KILLED}:
                bars[-1] = Bar(bars[-1].start_ns, self._now_ns, kind)
            else:
                bars.append(Bar(self._start_ns, self._now_ns, kind))
        self._start_ns = self._now_ns
        self._end, self._is_killed = None, False

    def finish(self, task: Task, end_ns: int) -> Lane:
        """End the last bar, and return the lane."""
        self._now_ns = max(self._now_ns, end_ns)
        self._close(self._kind, is_last=True)
        self.lane.state, self.lane.failed, self.lane.restarts = task.state, task.failed, task.restarts
        if task.state != DEAD and self.lane.death is not None and self.lane.death.reason != "lost-node":
            self.lane.death = None
        return self.lane


def lanes_of(alloc: str, records: Sequence[Record], lifecycle: Lifecycle, end_ns: int) -> LanesOfOne:
    """Return the lanes of an allocation from its records, up to the end of the records. O(records).

    Times are those of the records; one that goes back is drawn at the newest before it.
    """
    course = CourseFold(lifecycle.dialect)
    lives: dict[str, _Life] = {}
    own: list[Record] = []
    placed_ns = 0
    for record in records:
        changes = course.apply(record)
        if record.task:
            life = lives.get(record.task)
            if life is None:
                life = lives[record.task] = _Life(record.task, placed_ns)
            task = course.fold.owned(alloc).tasks[record.task]
            life.add(record, task, moves=any(isinstance(change, Interval) for change in changes))
        else:
            own.append(record)
            placed_ns = placed_ns or record.time_ns
        for change in changes:
            if isinstance(change, Death):
                lives[change.task].lane.death = change
    allocation = course.fold.owned(alloc)
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
