"""The course of a task: the intervals that it spent in one state each, and its deaths with their reasons.

Both are made of records in the order of a log, in one pass, with a few words of memory for each task. The state is the
fold's own: after every record, the interval that is open has the state that `Fold` has, an illegal event included.

Why a task died
===============

The last event of a dead task seldom tells why it died: a ``Killing`` or a ``Killed`` often follows the cause. So the
reason is the first of `REASONS` that applies, in this order, to the last attempt: to what happened since the task was
started again for the last time. What the process did after somebody had ended it is no reason: a task whose sibling
failed ends with exit code 143, and died of its sibling. And what others did when the process had ended by itself is no
reason either: a leader that ends is killed with its followers, and ended well. ``Not Restarting`` counts all the same.

A task of a lost node has no end of its own: its state stays what it was. Its death is at the record that says that the
allocation is lost, and what its client tells when it comes back is no second death.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from msgspec import Struct

from taskfold.fold.allocation import Allocation, Fold, current_field
from taskfold.fold.lifecycle import DEAD, PENDING, RUNNING
from taskfold.fold.status import SERVER_TERMINAL
from taskfold.fold.task import Task, apply
from taskfold.model import events as ev
from taskfold.model.dialect import Dialect
from taskfold.model.events import wire_type
from taskfold.model.go.timestamps import is_known_time
from taskfold.model.record import Event, Gap, Observed, Placed, Record, Updated

__all__ = ["REASONS", "CourseFold", "Death", "DeathReason", "Interval", "deaths", "intervals"]

DeathReason: TypeAlias = Literal[
    "not-restarting",
    "driver-failure",
    "setup-failure",
    "validation-failure",
    "out-of-memory",
    "exit-code",
    "sibling",
    "leader",
    "main-tasks",
    "stop",
    "kill",
    "lost-node",
    "success",
    "gap",
    "none",
]
"""Why a task died, by a name that stays; `REASONS` has a sentence for each."""

REASONS: Final[dict[DeathReason, str]] = {
    "not-restarting": "its restart policy gave it up",
    "driver-failure": "its driver could not start it",
    "setup-failure": "it could not be set up",
    "validation-failure": "its configuration is not valid",
    "out-of-memory": "the kernel killed it for want of memory",
    "exit-code": "its process failed",
    "sibling": "another task of its group failed",
    "leader": "the leader of its group is dead",
    "main-tasks": "all main tasks of its group are dead",
    "stop": "the servers asked for the end of its allocation",
    "kill": "it was killed",
    "lost-node": "its node was lost",
    "success": "its process ended well",
    "gap": "the events of its end were lost",
    "none": "no event tells",
}
"""Every reason in the order in which it applies, with its sentence."""

_INTENDED: Final = frozenset[DeathReason](("success", "stop", "kill", "leader", "main-tasks"))

_RANKS: Final = {reason: rank for rank, reason in enumerate(get_args(DeathReason))}
_NONE: Final = _RANKS["none"]
_KILL: Final = _RANKS["kill"]
_SUCCESS: Final = _RANKS["success"]
_FIRST_END: Final = _RANKS["sibling"]
"""From here on, up to a kill, somebody ends the task; what is before, but for the first, it does by itself."""

_RANK_OF: Final[dict[type[Any], int]] = {
    ev.NotRestarting: _RANKS["not-restarting"],
    ev.DriverFailure: _RANKS["driver-failure"],
    ev.SetupFailure: _RANKS["setup-failure"],
    ev.FailedValidation: _RANKS["validation-failure"],
    ev.SiblingTaskFailed: _RANKS["sibling"],
    ev.LeaderTaskDead: _RANKS["leader"],
    ev.MainTasksDead: _RANKS["main-tasks"],
    ev.Killing: _KILL,
    ev.Killed: _KILL,
}
"""The reason that an event tells; that of a Terminated depends on how the process ended."""

_NOTABLE: Final = frozenset({*_RANK_OF, ev.Terminated, ev.Started, ev.Restarting, Gap, Placed})
"""The types of events that tell of a course, also where the state stays."""

_LOST: Final = b'"lost"'
_STOPS: Final = frozenset(b'"%b"' % status.encode() for status in SERVER_TERMINAL)


class Interval(Struct, frozen=True, kw_only=True, gc=False):
    """A time that a task spent in one state. The intervals of a task follow one another without a hole.

    Each begins where the one before ended: with the same record, time and index.
    """

    alloc: str
    task: str
    state: str
    """``pending``, ``running`` or ``dead``; empty where a Nomad had not set it yet."""
    since_ns: int | None
    """When it began (unix nanoseconds); None where no record tells a time."""
    until_ns: int | None = None
    """When it ended (unix nanoseconds); None while it is open, or where no record tells a time."""
    since_index: int
    until_index: int | None = None
    """The index at which it ended; None while it is open."""
    since_seq: int = 0
    """The position of the record that began it."""
    until_seq: int | None = None
    began_with: str
    """The wire type of the event that began it, or the type of an internal event, such as ``Finished``."""
    ended_with: str | None = None
    """The same of the event that ended it; None while it is open."""
    delay_ns: int = 0
    """How much of a pending interval is the wait for the delay of the restart policy (nanoseconds).

    Of an open interval, the whole delay that was decided.
    """
    gaps: int = 0
    """How often events were lost in it, or at its beginning: then other states may have been in between."""

    @property
    def is_open(self) -> bool:
        """Whether the task is still in this state."""
        return self.ended_with is None

    @property
    def duration_ns(self) -> int | None:
        """How long it was (nanoseconds); None while it is open, or where a time is unknown."""
        return _between(self.since_ns, self.until_ns)


class Death(Struct, frozen=True, kw_only=True, gc=False):
    """A death of a task: once dead it may be started again, and die again."""

    alloc: str
    task: str
    time_ns: int | None
    """When (unix nanoseconds); None where no record tells a time."""
    index: int
    seq: int = 0
    reason: DeathReason
    event: Event | None = None
    """The event that tells the reason; None where none does."""
    failed: bool = False
    """Whether the task failed, as Nomad has it."""
    exit_code: int | None = None
    """The exit code of the last process since its last restart; None where none ended, or nobody knows it."""
    signal: int = 0
    """The signal that ended it; 0 where none did."""
    oom_killed: bool = False
    ran_ns: int | None = None
    """How long that process ran (nanoseconds); None where none was started, or a time is unknown."""
    restarts: int = 0
    """How often the task had been started again by then: 0 if it died in its first run."""

    @property
    def is_intended(self) -> bool:
        """Whether it had to end: its process ended well, or somebody wanted its end, and it did not fail."""
        return self.reason in _INTENDED and not self.failed


class Course(Struct, gc=False):
    """The memory of a task: its open interval, and facts of its last attempt. Changed in place."""

    task: Task
    """The fold's own."""
    state: str
    """The state of the open interval."""
    since_ns: int
    since_index: int
    since_seq: int
    began_with: str
    gaps: int = 0
    delay_ns: int = 0
    """The delays of this interval that are over."""
    wait_since_ns: int = 0
    wait_ns: int = 0
    """The delay that was decided last."""
    rank: int = _NONE
    """The reason so far why the task would be dead."""
    event: Event | None = None
    exit: ev.Terminated | None = None
    started_ns: int = 0
    """When the process of the last attempt was started; 0 without one."""
    ended_ns: int = 0
    is_over: bool = False
    """The death of the last attempt was told already."""

    def waited_ns(self, now_ns: int | None) -> int:
        """Return how long the interval waited for delays (nanoseconds): up to now, or, with None, as decided."""
        if not self.wait_ns or now_ns is None:
            return self.delay_ns + self.wait_ns
        return self.delay_ns + min(self.wait_ns, max(now_ns - self.wait_since_ns, 0))

    def begin_attempt(self) -> None:
        """Forget the last attempt: the task is started again, or anew, or its events were lost."""
        self.rank, self.event, self.exit = _NONE, None, None
        self.started_ns = self.ended_ns = 0
        self.is_over = False


class _Courses(NamedTuple):
    """The courses of the tasks of an allocation."""

    allocation: Allocation
    of_tasks: dict[str, Course]


class CourseFold:
    """A fold that tells the intervals and deaths of all tasks, record by record.

    >>> from taskfold.events import Restarting, Started, Terminated
    >>> course = CourseFold("1.1.2")
    >>> events = [Started(), Terminated(exit_code=1), Restarting(start_delay_ns=5), Started()]
    >>> for n, event in enumerate(events, start=1):
    ...     record = Record(index=n, alloc="a", version=n, task="web", time_ns=n * 10, event=event)
    ...     for each in course.apply(record):
    ...         print(each.state, each.since_ns, each.until_ns, each.delay_ns, each.ended_with)
    running 10 30 0 Restarting
    pending 30 40 5 Started
    >>> [(each.state, each.since_ns) for each in course.open_intervals()]
    [('running', 40)]

    It keeps a `Fold` of its own (`fold`). Memory for the live state, and about 200 bytes a task more.
    """

    def __init__(self, dialect: str | Dialect) -> None:
        self.fold = Fold(dialect, on_illegal="keep")
        self._courses: dict[str, _Courses] = {}

    def apply(self, record: Record) -> tuple[Interval | Death, ...]:
        """Change the state by one record; return the interval that it ended, and the deaths that it tells. O(1).

        The record with which a node is lost tells the deaths of all tasks of an allocation: O(tasks).
        """
        allocation = self.fold.apply(record)
        courses = self._courses.get(record.alloc)
        if courses is None:
            courses = self._courses[record.alloc] = _Courses(allocation, {})
        if not record.task:
            return _of_allocation(courses, record)
        course = courses.of_tasks.get(record.task)
        if course is None:
            task = allocation.tasks[record.task]
            course = courses.of_tasks[record.task] = _first_course(task, record)
            if type(record.event) in _NOTABLE:
                _note(course, record)
            return _deaths(courses, course, record) if task.state == DEAD else ()
        return _of_task(courses, course, record)

    def apply_all(self, records: Iterable[Record], *, with_intervals: bool = True) -> list[Interval | Death]:
        """Change the state by many records; return the intervals that they ended, and the deaths. O(records).

        Without the intervals it costs half as much where most records move a state.
        """
        courses_of, lifecycle = self._courses.get, self.fold.lifecycle
        happenings: list[Interval | Death] = []
        for record in records:
            courses = courses_of(record.alloc)
            course = None if courses is None else courses.of_tasks.get(record.task)
            if courses is None or course is None:
                happenings += self.apply(record)
                continue
            # What `apply` does, without its calls: most records belong to a task that is known, and move nothing.
            task, allocation = course.task, courses.allocation
            apply(task, record, lifecycle, "keep")
            allocation.version = record.version
            allocation.modify_index = record.index
            allocation.modified_ns = record.time_ns
            if task.state != course.state:
                happenings += _of_task(courses, course, record, with_interval=with_intervals)
            elif type(record.event) in _NOTABLE:
                _note(course, record)
        return happenings

    def open_interval(self, alloc: str, task: str) -> Interval | None:
        """Return the interval that a task is in; None for a task without a record. O(1)."""
        courses = self._courses.get(alloc)
        course = None if courses is None else courses.of_tasks.get(task)
        return None if course is None else _interval(alloc, task, course)

    def open_intervals(self) -> Iterator[Interval]:
        """Yield the interval that each task is in, in the order in which the tasks were first seen. O(tasks)."""
        for alloc, courses in self._courses.items():
            for task, course in courses.of_tasks.items():
                yield _interval(alloc, task, course)


def _of_task(
    courses: _Courses, course: Course, record: Record, *, with_interval: bool = True
) -> tuple[Interval | Death, ...]:
    """Return the interval and the death that a record of a known task tells; it is in the fold already."""
    moves = course.task.state != course.state
    notable = type(record.event) in _NOTABLE
    if not moves:
        if notable:
            _note(course, record)
        return ()
    interval = (_interval(record.alloc, record.task, course, record),) if with_interval else ()
    _move(course, record)
    if notable:
        _note(course, record)
    return (*interval, *_deaths(courses, course, record)) if course.state == DEAD else interval


def _of_allocation(courses: _Courses, record: Record) -> tuple[Death, ...]:
    """Return the deaths that an update of an allocation tells: those of the tasks of a lost node."""
    event = record.event
    status = event.fields.get("ClientStatus") if isinstance(event, Updated) else None
    if status is None or bytes(status) != _LOST:
        return ()
    lives = [(name, each) for name, each in courses.of_tasks.items() if each.state != DEAD and not each.is_over]
    for _, course in lives:
        course.is_over = True
    return tuple(_death(name, course, record, "lost-node", event) for name, course in lives)


def _deaths(courses: _Courses, course: Course, record: Record) -> tuple[Death, ...]:
    """Return the death of a task that is dead now; none where it was told before."""
    if course.is_over:
        return ()
    course.is_over = True
    reason: DeathReason
    if course.event is not None:
        is_stop = course.rank == _KILL and _is_stopped(courses.allocation)
        reason = "stop" if is_stop else _REASON_OF[course.rank]
    else:
        reason = "gap" if isinstance(record.event, (Gap, Observed, Placed)) else "none"
    return (_death(record.task, course, record, reason, course.event),)


_REASON_OF: Final = get_args(DeathReason)


def _is_stopped(allocation: Allocation) -> bool:
    """Tell whether the servers want an allocation to end."""
    return current_field(allocation.placed_body, allocation.updates, "DesiredStatus") in _STOPS


def _first_course(task: Task, record: Record) -> Course:
    """Return the course of a task that a record tells of for the first time."""
    course = Course(task, task.state, record.time_ns, record.index, record.seq, wire_type(record.event))
    if task.state == RUNNING:
        course.started_ns = record.time_ns
    return course


def _move(course: Course, record: Record) -> None:
    """Begin the next interval with a record."""
    if course.state == RUNNING and not course.ended_ns:
        course.ended_ns = record.time_ns
    if course.state == DEAD:
        course.begin_attempt()
    course.state = course.task.state
    course.since_ns, course.since_index, course.since_seq = record.time_ns, record.index, record.seq
    course.began_with = wire_type(record.event)
    course.gaps = course.delay_ns = course.wait_ns = 0
    if course.state == RUNNING:
        course.started_ns, course.ended_ns = record.time_ns, 0


def _note(course: Course, record: Record) -> None:
    """Remember what an event tells of the attempt, and of the interval."""
    event = record.event
    if isinstance(event, ev.Terminated):
        course.exit = event
        course.ended_ns = record.time_ns
        _weigh(course, _rank_of_exit(event), event)
    elif isinstance(event, ev.Restarting):
        if course.state == PENDING:  # else it was refused
            course.begin_attempt()
            course.delay_ns = course.waited_ns(record.time_ns)
            course.wait_since_ns, course.wait_ns = record.time_ns, event.start_delay_ns
    elif isinstance(event, ev.Started):
        if course.state == RUNNING:
            course.exit = None
            if not _is_ended_by_others(course.rank):
                course.rank, course.event = _NONE, None
    elif isinstance(event, Gap):
        course.begin_attempt()
        course.gaps += 1
        if course.state == RUNNING:
            course.started_ns = event.started_at_ns or 0
    elif isinstance(event, Placed):
        course.begin_attempt()
    else:
        _weigh(course, _RANK_OF[type(event)], event)


def _rank_of_exit(exit: ev.Terminated) -> int:
    """Return the reason that the end of a process is."""
    if exit.oom_killed:
        return _RANKS["out-of-memory"]
    is_success = exit.exit_code == 0 and not exit.signal and not exit.message
    return _SUCCESS if is_success else _RANKS["exit-code"]


def _is_ended_by_others(rank: int) -> bool:
    return _FIRST_END <= rank <= _KILL


def _weigh(course: Course, rank: int, event: Event) -> None:
    """Take an event for the reason of the death to come, if it goes before the one so far."""
    is_by_others, was_by_others = _is_ended_by_others(rank), _is_ended_by_others(course.rank)
    # What a task does when others have ended it is no reason, nor is what they do when its process has ended by itself.
    is_late = not is_by_others if was_by_others else is_by_others and course.exit is not None
    if rank < course.rank and (not rank or not is_late):
        course.rank, course.event = rank, event


def _interval(alloc: str, task: str, course: Course, end: Record | None = None) -> Interval:
    """Return the interval of a task, as a record ends it, or open."""
    since_ns, until_ns = _time(course.since_ns), None if end is None else _time(end.time_ns)
    delay_ns = course.waited_ns(None if end is None else end.time_ns)
    if end is not None:
        delay_ns = min(delay_ns, _between(since_ns, until_ns) or 0)
    return Interval(
        alloc=alloc,
        task=task,
        state=course.state,
        since_ns=since_ns,
        until_ns=until_ns,
        since_index=course.since_index,
        until_index=None if end is None else end.index,
        since_seq=course.since_seq,
        until_seq=None if end is None else end.seq,
        began_with=course.began_with,
        ended_with=None if end is None else wire_type(end.event),
        delay_ns=delay_ns,
        gaps=course.gaps,
    )


def _death(name: str, course: Course, record: Record, reason: DeathReason, event: Event | None) -> Death:
    last_exit = course.exit
    ended_ns = course.ended_ns or record.time_ns
    return Death(
        alloc=record.alloc,
        task=name,
        time_ns=_time(record.time_ns),
        index=record.index,
        seq=record.seq,
        reason=reason,
        event=event,
        failed=course.task.failed,
        exit_code=None if last_exit is None else last_exit.exit_code,
        signal=0 if last_exit is None else last_exit.signal,
        oom_killed=last_exit is not None and last_exit.oom_killed,
        ran_ns=_between(_time(course.started_ns), _time(ended_ns)),
        restarts=course.task.restarts,
    )


def _time(time_ns: int) -> int | None:
    """Return a time, or None where it is none."""
    return time_ns if is_known_time(time_ns) else None


def _between(since_ns: int | None, until_ns: int | None) -> int | None:
    """Return the distance of two times; never less than nothing, as the clocks of events may differ."""
    return None if since_ns is None or until_ns is None else max(until_ns - since_ns, 0)


def intervals(records: Iterable[Record], dialect: str | Dialect) -> Iterator[Interval]:
    """Yield the intervals of all tasks as they end, and at the end of the records those that are open. O(records).

    Records are in the order of their log; memory for the live state only. Raises DialectError.

    >>> from taskfold.events import Killing, Received, Started, Terminated
    >>> from taskfold.model.record import Finished
    >>> events = [Received(), Started(), Killing(), Terminated(exit_code=143), Finished()]
    >>> records = [
    ...     Record(index=n, alloc="a", version=n, task="web", time_ns=n, event=event)
    ...     for n, event in enumerate(events, start=1)
    ... ]
    >>> [(each.state, each.since_ns, each.until_ns, each.ended_with) for each in intervals(records, "1.1.2")]
    [('pending', 1, 2, 'Started'), ('running', 2, 5, 'Finished'), ('dead', 5, None, None)]
    """
    course = CourseFold(dialect)
    for record in records:
        for each in course.apply(record):
            if isinstance(each, Interval):
                yield each
    yield from course.open_intervals()


def deaths(records: Iterable[Record], dialect: str | Dialect) -> Iterator[Death]:
    """Yield the deaths of all tasks, in the order of the records. O(records).

    Records are in the order of their log; memory for the live state only. Raises DialectError.

    >>> from taskfold.events import NotRestarting, Started, Terminated
    >>> events = [Started(), Terminated(exit_code=2), NotRestarting(fails_task=True)]
    >>> records = [
    ...     Record(index=n, alloc="a", version=n, task="web", time_ns=n * 10**9, event=event)
    ...     for n, event in enumerate(events, start=1)
    ... ]
    >>> [(death.reason, death.exit_code, death.ran_ns, death.failed) for death in deaths(records, "1.1.2")]
    [('not-restarting', 2, 1000000000, True)]
    """
    course = CourseFold(dialect)
    for record in records:
        for each in course.apply(record):
            if isinstance(each, Death):
                yield each
