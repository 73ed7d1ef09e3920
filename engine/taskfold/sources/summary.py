"""Summaries of what tasks went through in a time: restarts, times in each state, availability, and why they died.

All of it comes from one pass over the records of a source, in their order (`taskfold.fold.course`); memory for the
live state, and a few words for each task.

Availability is the part of the time in which a task ran, of the time in which it was to run: while it was pending or
running, and while it was dead after an end that nobody intended. A task of a lost node counts as dead from the loss on,
though its state stays what it was.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from taskfold.fold.allocation import Fold, newest_time_ns
from taskfold.fold.course import CourseFold, Death, Interval
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING
from taskfold.fold.task import Task
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.model.events import Restarting, Terminated
from taskfold.model.record import Record
from taskfold.nomad.record_texts import death_text
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.replay import At, Replay

__all__ = ["Flapping", "GroupKey", "GroupSummary", "Summaries", "TaskSummary", "grouped", "summaries_of"]

GroupKey: TypeAlias = Literal["job", "node", "group"]
"""The choices of what tasks are summed up by."""


class Flapping(NamedTuple):
    """A threshold of restarts: so many within a span of time (nanoseconds) make a task a flapping one."""

    restarts: int
    within_ns: int


class TaskSummary(Struct, frozen=True, kw_only=True):
    """The course of one task in the time of the summary, in numbers."""

    alloc: str
    task: str
    job: str | None
    group: str | None
    namespace: str | None
    node: str | None
    status: str | None
    """The client status of its allocation."""
    state: str
    failed: bool
    restarts: int
    """How often it was started again in the time; since a time, only what an event tells of."""
    deaths: int
    """How often it died in the time."""
    pending_ns: int
    running_ns: int
    dead_ns: int
    """How long it was in each state within the time (nanoseconds)."""
    availability: float | None
    """The part of the time in which it ran, from 0 to 1; None where it was not to run at all."""
    reason: str | None
    """Why it died last; None where it did not die in the time."""
    message: str | None
    """The reason in words."""
    exit_code: int | None
    """The exit code of its newest process that ended; None without one, or where it is unknown."""
    signal: int | None
    """The signal that ended that process; None where none did."""
    last_seen_ns: int | None
    """The newest time that the task tells (unix nanoseconds)."""
    gaps: int
    """How often its events were lost."""
    down_ns: int = 0
    """How long it was dead after an end that nobody intended (nanoseconds)."""


class GroupSummary(Struct, frozen=True, kw_only=True):
    """The courses of the tasks of a job, a node or a task group together."""

    name: str
    """The job, the node, or the job and its group."""
    allocations: int
    tasks: int
    restarts: int
    deaths: int
    failed: int
    """How many of its tasks failed."""
    pending_ns: int
    running_ns: int
    dead_ns: int
    availability: float | None
    reasons: str
    """Why its tasks died last, the most frequent reason first, with the number of tasks."""
    last_seen_ns: int | None
    gaps: int


class _Tally(Struct, gc=False):
    """The counts of a task so far."""

    restarts: int = 0
    pending_ns: int = 0
    running_ns: int = 0
    dead_ns: int = 0
    down_ns: int = 0
    other_ns: int = 0
    gaps: int = 0
    deaths: int = 0
    death: Death | None = None
    """Its last death."""
    exit: Terminated | None = None
    lost_ns: int | None = None
    """Since when its node is lost; None where it is not."""
    recent_ns: deque[int] | None = None
    """The newest times at which it was started again, no more than the threshold has."""
    flaps: bool = False


class Summaries:
    """Summaries of all tasks of a source that is being read.

    The time of the summary begins at ``since_ns`` and ends at ``until_ns`` (unix nanoseconds); without them it is that
    of the source, from its first record to the newest time in it.
    """

    def __init__(
        self,
        dialect: str,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
        flapping: Flapping | None = None,
    ) -> None:
        self.course = CourseFold(dialect)
        self._since_ns = since_ns
        self._until_ns = until_ns
        self._flapping = flapping
        self._tallies: dict[str, dict[str, _Tally]] = {}

    @property
    def fold(self) -> Fold:
        """The state after the records so far."""
        return self.course.fold

    @property
    def end_ns(self) -> int:
        """The end of the time of the summary (unix nanoseconds). O(tasks)."""
        return self.fold.newest_time_ns() if self._until_ns is None else self._until_ns

    def apply_all(self, records: list[Record]) -> None:
        """Take many records, in the order of their log. O(records)."""
        for happening in self.course.apply_all(records):
            tally = self._tally(happening.alloc, happening.task)
            if isinstance(happening, Interval):
                self._add(tally, happening, happening.until_ns)
            else:
                self._die(tally, happening)
        for record in records:
            event = record.event
            if type(event) is Restarting:
                self._restart(self._tally(record.alloc, record.task), record.time_ns)
            elif type(event) is Terminated:
                self._tally(record.alloc, record.task).exit = event

    def of_tasks(self, matches: Callable[[str, str], bool] = lambda _alloc, _task: True) -> Iterator[TaskSummary]:
        """Yield a summary of each task that matches, and that lived or had a record in the time. O(tasks).

        Nothing may be read after that: the intervals that are open end with the time of the summary. Raises
        DecodeError for an allocation whose fields cannot be read.
        """
        end_ns = self.end_ns
        for alloc in sorted(self.fold):
            tasks = self.fold.owned(alloc).tasks
            names = [name for name in sorted(tasks) if not tasks[name].seldom.hidden and matches(alloc, name)]
            names = [name for name in names if self._is_in_time(alloc, name, tasks[name])]
            if not names:
                continue
            snapshot = Snapshot.of(self.fold[alloc], self.fold.dialect)
            for name in names:
                yield self._of_task(snapshot, alloc, name, end_ns)

    def _tally(self, alloc: str, task: str) -> _Tally:
        tallies = self._tallies.get(alloc)
        if tallies is None:
            tallies = self._tallies[alloc] = {}
        tally = tallies.get(task)
        if tally is None:
            tally = tallies[task] = _Tally()
        return tally

    def _add(self, tally: _Tally, interval: Interval, until_ns: int | None) -> None:
        """Add the part of an interval that is within the time."""
        tally.gaps += interval.gaps
        since_ns = interval.since_ns
        if since_ns is not None and until_ns is not None:
            lost_ns = until_ns if tally.lost_ns is None else max(tally.lost_ns, since_ns)
            self._add_time(tally, interval.state, since_ns, min(lost_ns, until_ns))
            self._add_time(tally, DEAD, lost_ns, until_ns)
        tally.lost_ns = None

    def _add_time(self, tally: _Tally, state: str, since_ns: int, until_ns: int) -> None:
        since_ns = max(since_ns, self._since_ns or 0)
        until_ns = until_ns if self._until_ns is None else min(until_ns, self._until_ns)
        span_ns = until_ns - since_ns
        if span_ns <= 0:
            return
        if state == RUNNING:
            tally.running_ns += span_ns
        elif state == PENDING:
            tally.pending_ns += span_ns
        elif state == DEAD:
            tally.dead_ns += span_ns
            if tally.death is None or not tally.death.is_intended:
                tally.down_ns += span_ns

    def _die(self, tally: _Tally, death: Death) -> None:
        tally.death = death
        if death.reason == "lost-node":
            tally.lost_ns = death.time_ns
        if self._is_since(death.time_ns):
            tally.deaths += 1

    def _restart(self, tally: _Tally, time_ns: int) -> None:
        """Count a restart, if it is within the time, and see whether the task flaps by it."""
        if not self._is_since(time_ns):
            return
        tally.restarts += 1
        if self._flapping is None or tally.flaps:
            return
        if tally.recent_ns is None:
            tally.recent_ns = deque(maxlen=self._flapping.restarts)
        tally.recent_ns.append(time_ns)
        is_full = len(tally.recent_ns) == self._flapping.restarts
        tally.flaps = is_full and time_ns - tally.recent_ns[0] <= self._flapping.within_ns

    def _is_since(self, time_ns: int | None) -> bool:
        """Tell whether a time is not before the time of the summary; an unknown one may be in it."""
        return self._since_ns is None or time_ns is None or time_ns >= self._since_ns

    def _is_in_time(self, alloc: str, name: str, task: Task) -> bool:
        """Tell whether a task lived, or had a record, in the time; where only flapping ones count, whether it flaps."""
        tally = self._tally(alloc, name)
        if self._flapping is not None and not tally.flaps:
            return False
        lives = task.state != DEAD and tally.lost_ns is None
        return lives or self._is_since(newest_time_ns([task]) or None)

    def _of_task(self, snapshot: Snapshot, alloc: str, name: str, end_ns: int) -> TaskSummary:
        tally, state = self._tally(alloc, name), self.fold.owned(alloc).tasks[name]
        interval = self.course.open_interval(alloc, name)
        assert interval is not None
        is_dead = state.state == DEAD or tally.lost_ns is not None
        self._add(tally, interval, end_ns)
        death = tally.death if tally.death is not None and (is_dead or self._is_since(tally.death.time_ns)) else None
        return TaskSummary(
            alloc=alloc,
            task=name,
            job=snapshot.job_id,
            group=snapshot.task_group,
            namespace=snapshot.namespace,
            node=snapshot.node_id,
            status=snapshot.client_status,
            state=state.state,
            failed=state.failed,
            # Without a time, those that were lost in a gap count, too.
            restarts=state.restarts if self._since_ns is None else tally.restarts,
            deaths=tally.deaths,
            pending_ns=tally.pending_ns,
            running_ns=tally.running_ns,
            dead_ns=tally.dead_ns,
            availability=_availability(tally.running_ns, tally.pending_ns, tally.down_ns),
            reason=None if death is None else death.reason,
            message=None if death is None else death_text(death),
            exit_code=None if tally.exit is None else tally.exit.exit_code,
            signal=None if tally.exit is None else tally.exit.signal or None,
            last_seen_ns=newest_time_ns([state]) or None,
            gaps=tally.gaps,
            down_ns=tally.down_ns,
        )


def _availability(running_ns: int, pending_ns: int, down_ns: int) -> float | None:
    total_ns = running_ns + pending_ns + down_ns
    return running_ns / total_ns if total_ns else None


_NAMES: Final[dict[GroupKey, Callable[[TaskSummary], str]]] = {
    "job": lambda summary: summary.job or "",
    "node": lambda summary: summary.node or "",
    "group": lambda summary: f"{summary.job or ''} / {summary.group or ''}",
}


def grouped(summaries: Iterable[TaskSummary], key: GroupKey) -> Iterator[GroupSummary]:
    """Yield the sums of summaries by a job, a node or a group, sorted by its name. O(summaries)."""
    groups: dict[str, list[TaskSummary]] = {}
    for summary in summaries:
        groups.setdefault(_NAMES[key](summary), []).append(summary)
    for name in sorted(groups):
        yield _sum(name, groups[name])


def _sum(name: str, members: list[TaskSummary]) -> GroupSummary:
    reasons = Counter(each.reason for each in members if each.reason is not None)
    pending_ns, running_ns = sum(each.pending_ns for each in members), sum(each.running_ns for each in members)
    return GroupSummary(
        name=name,
        allocations=len({each.alloc for each in members}),
        tasks=len(members),
        restarts=sum(each.restarts for each in members),
        deaths=sum(each.deaths for each in members),
        failed=sum(each.failed for each in members),
        pending_ns=pending_ns,
        running_ns=running_ns,
        dead_ns=sum(each.dead_ns for each in members),
        availability=_availability(running_ns, pending_ns, sum(each.down_ns for each in members)),
        reasons=", ".join(f"{reason} {count}" for reason, count in reasons.most_common()),
        last_seen_ns=max((each.last_seen_ns or 0 for each in members), default=0) or None,
        gaps=sum(each.gaps for each in members),
    )


def summaries_of(
    replay: Replay, *, since_ns: int | None = None, until_ns: int | None = None, flapping: Flapping | None = None
) -> Summaries:
    """Read a source, up to the point of its replay, and return the summaries of its tasks. O(records).

    Raises what `Replay.__iter__` raises.
    """
    blocks = (records for _, records in replay.steps()) if replay.at == At() else ([record] for record in replay)
    summaries: Summaries | None = None
    for records in blocks:
        if summaries is None:
            summaries = Summaries(
                replay.dialect or NEWEST_DIALECT, since_ns=since_ns, until_ns=until_ns, flapping=flapping
            )
        summaries.apply_all(records)
    return summaries or Summaries(replay.dialect or NEWEST_DIALECT)
