"""The causes of a task's end: the records that led to it, in sentences, in their order.

A chain begins with what the task did by itself: its last attempts, each with the end of its process and the verdict of
its restart policy. Where others ended it, their own chain is part of it: a sibling that failed, a leader, the servers'
wish for the end, the loss of the node. At its end stands what followed for the other tasks of the group.

Where the job tells the restart policy, the verdicts are made again by the rules that decide (`decide_restart`), so that
a sentence can say how many restarts of the interval were used; where the verdict is not the recorded one, it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from taskfold.decision.group import Group, TaskPlan
from taskfold.decision.restart import TaskEnd, Tracker, Verdict, decide_restart
from taskfold.fold.allocation import AllocationState
from taskfold.fold.course import CourseFold, Death, Interval
from taskfold.fold.lifecycle import DEAD
from taskfold.fold.task import TaskState
from taskfold.model import events as ev
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import DecodeError, PolicyRefused, UnknownTask
from taskfold.model.events import TaskEvent, wire_type
from taskfold.model.go.durations import duration_text
from taskfold.model.policy import UNRECOVERABLE, RestartPolicy
from taskfold.model.record import Finished, Gap, Observed, Record, Updated
from taskfold.model.words import count_text, visible
from taskfold.nomad.groups import group_of
from taskfold.nomad.messages import display_message
from taskfold.nomad.record_texts import death_text, message_text, scalar_text

__all__ = ["Cause", "Explanation", "explanation_of"]

_MOST_ATTEMPTS: Final = 5
"""The newest attempts that are told one by one."""
_MS: Final = 1_000_000


class Cause(Struct, frozen=True, kw_only=True):
    """One link of the chain: a record in a sentence."""

    seq: int
    index: int
    version: int
    time_ns: int
    task: str
    """The task; empty for the allocation itself."""
    text: str


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a task is in its state: the conclusion, and the chain that led to it."""

    alloc: str
    task: str
    state: str
    failed: bool
    reason: str | None
    """Why it died, by its name; None where it is not dead."""
    conclusion: str
    causes: tuple[Cause, ...]
    notes: tuple[str, ...]
    """Limits of the explanation: events that were lost, a policy that is not known."""


def explanation_of(records: Sequence[Record], dialect: str | Dialect, task: str) -> Explanation:
    """Return why a task of an allocation is in its state, from all records of the allocation. O(records).

    >>> from taskfold.model.record import Placed
    >>> events = [ev.Received(), ev.Started(), ev.Terminated(exit_code=2), ev.NotRestarting(restart_reason="no more")]
    >>> records = [Record(index=1, alloc="a", version=1, event=Placed())] + [
    ...     Record(index=n, alloc="a", version=n, task="web", time_ns=n * 10**9, event=event)
    ...     for n, event in enumerate(events, start=2)
    ... ]
    >>> explanation = explanation_of(records, "1.1.2", "web")
    >>> for cause in explanation.causes:
    ...     print(cause.index, cause.text)
    3 its process was started
    4 its process ended after 1s, with exit code 2
    5 its restart policy gave it up: no more
    >>> explanation.conclusion
    'web is dead, failed: its restart policy gave it up: no more'

    Raises UnknownTask for a task that has no record.
    """
    return _Chain(records, dialect_of(dialect)).explanation(task)


class _Attempt:
    """One attempt of a task to run: its records, up to the verdict."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.verdict: Record | None = None

    def end(self) -> TaskEnd | None:
        """Return how it ended, as the restart policy sees it; None where nothing tells, or others ended it."""
        events = [record.event for record in self.records]
        verdict = None if self.verdict is None else self.verdict.event
        exits = [event for event in events if isinstance(event, ev.Terminated)]
        if any(isinstance(event, ev.RestartSignaled) for event in events):
            return None if not isinstance(verdict, ev.Restarting) else TaskEnd(restart="asked")
        if exits:
            return TaskEnd(exit_code=exits[-1].exit_code, signal=exits[-1].signal, error=exits[-1].message)
        if any(isinstance(event, _FAILED_STARTS) for event in events):
            is_hopeless = isinstance(verdict, ev.NotRestarting) and verdict.restart_reason == UNRECOVERABLE
            return TaskEnd(start_failed=True, recoverable=not is_hopeless)
        return None


_FAILED_STARTS: Final = (
    ev.DriverFailure,
    ev.FailedArtifactDownload,
    ev.TaskHookFailed,
    ev.FailedValidation,
    ev.SetupFailure,
)


class _LeastDelay:
    """A source of randomness: a verdict is the same with any delay."""

    def randrange(self, _stop: int, /) -> int:
        """Return the least."""
        return 0


class _Chain:
    """The chain of an allocation's records."""

    def __init__(self, records: Sequence[Record], dialect: Dialect) -> None:
        self._dialect = dialect
        self._records = records
        course = CourseFold(dialect)
        self._deaths: dict[str, Death] = {}
        self._intervals: dict[str, list[Interval]] = {}
        for happening in course.apply_all(records):
            if isinstance(happening, Death):
                self._deaths[happening.task] = happening
            else:
                self._intervals.setdefault(happening.task, []).append(happening)
        self._state: AllocationState = course.fold[records[0].alloc]
        self._notes: list[str] = []
        self._causes: dict[int, Cause] = {}
        """By version."""
        self._visited: set[str] = set()

    def explanation(self, task: str) -> Explanation:
        """Return why a task is in its state. Raises UnknownTask."""
        if task not in self._state.tasks:
            names = ", ".join(sorted(self._state.tasks)) or "none"
            raise UnknownTask(f"allocation {self._state.id} has no task {task!r}; it has {names}")
        state = self._state.tasks[task]
        death = self._last_death(task, state)
        self._follow(task)
        if death is not None:
            self._add_consequences(task, death)
        return Explanation(
            alloc=self._state.id,
            task=task,
            state=state.state,
            failed=state.failed,
            reason=None if death is None else death.reason,
            conclusion=_conclusion(task, state, death),
            causes=tuple(sorted(self._causes.values(), key=lambda each: (each.index, each.time_ns, each.version))),
            notes=tuple(dict.fromkeys(self._notes)),
        )

    def _last_death(self, task: str, state: TaskState) -> Death | None:
        """Return the death of a task that is dead, or whose node is lost."""
        death = self._deaths.get(task)
        if death is None or state.state == DEAD:
            return death
        return death if death.reason == "lost-node" else None

    def _follow(self, task: str) -> None:
        """Add the chain of a task, and the chains of those that ended it."""
        if task in self._visited or task not in self._state.tasks:
            return
        self._visited.add(task)
        self._add_attempts(task)
        death = self._last_death(task, self._state.tasks[task])
        if death is None:
            return
        if isinstance(death.event, ev.SiblingTaskFailed):
            self._follow(death.event.failed_sibling)
        elif death.reason == "leader":
            for name in self._ends_before(death, lambda plan: plan.leader):
                self._follow(name)
        elif death.reason == "main-tasks":
            for name in self._ends_before(death, lambda plan: plan.stage == "main"):
                self._follow(name)
        elif death.reason in {"stop", "lost-node"}:
            self._add_wishes(death)

    def _ends_before(self, death: Death, matches: Callable[[TaskPlan], bool]) -> list[str]:
        """Return the tasks that match and died up to this death; all that did where the job does not tell."""
        group = self._group()
        return [
            name
            for name, other in self._deaths.items()
            if name != death.task
            and other.index <= death.index
            and (group is None or name not in group.tasks or matches(group.tasks[name]))
        ]

    # --- what a task did ---

    def _add_attempts(self, task: str) -> None:
        """Add the last attempts of a task, with the verdicts of its restart policy."""
        attempts = self._attempts(task)
        plan = self._plan(task)
        tracker: Tracker | None = Tracker(self._first_ns(task))
        for number, attempt in enumerate(attempts, start=1):
            if any(isinstance(record.event, Gap) for record in attempt.records):
                tracker = None
            more, tracker = self._verdict_text(attempt, plan, tracker)
            if number <= len(attempts) - _MOST_ATTEMPTS:
                continue
            self._add_attempt(attempt, more)
        if len(attempts) > _MOST_ATTEMPTS:
            earlier = count_text(len(attempts) - _MOST_ATTEMPTS, "earlier attempt")
            self._notes.append(f"{visible(task)}: {earlier} of it left out: `taskfold history` has all")

    def _attempts(self, task: str) -> list[_Attempt]:
        attempts = [_Attempt()]
        for record in self._records:
            if record.task != task or type(record.event) not in _TEXTS:
                continue
            attempt = attempts[-1]
            if isinstance(record.event, (ev.Restarting, ev.NotRestarting)):
                attempt.verdict = record
                attempts.append(_Attempt())
            else:
                attempt.records.append(record)
        # After a verdict that ended it, late notes tell nothing; an attempt without a record tells nothing either.
        if len(attempts) > 1 and (not attempts[-1].records or self._is_over(attempts[-2], attempts[-1])):
            attempts.pop()
        return attempts

    @staticmethod
    def _is_over(before: _Attempt, last: _Attempt) -> bool:
        is_final = before.verdict is not None and isinstance(before.verdict.event, ev.NotRestarting)
        return is_final and not any(isinstance(record.event, (ev.Started, Gap)) for record in last.records)

    def _first_ns(self, task: str) -> int:
        return next((record.time_ns for record in self._records if record.task == task), 0)

    def _add_attempt(self, attempt: _Attempt, more: str) -> None:
        started_ns = 0
        for record in attempt.records:
            if isinstance(record.event, ev.Started):
                started_ns = record.time_ns
            ran_ns = record.time_ns - started_ns if started_ns and isinstance(record.event, ev.Terminated) else None
            self._add(record, _text_of(record, ran_ns))
            if isinstance(record.event, Gap):
                self._notes.append(f"{visible(record.task)}: events were lost before index {record.index}")
        if attempt.verdict is not None:
            self._add(attempt.verdict, _text_of(attempt.verdict) + more)

    def _verdict_text(
        self, attempt: _Attempt, plan: TaskPlan | None, tracker: Tracker | None
    ) -> tuple[str, Tracker | None]:
        """Return the policy's share in the end of an attempt, and the tracker afterwards; None where it is unknown."""
        record, end = attempt.verdict, attempt.end()
        if record is None or plan is None or tracker is None or end is None:
            return "", tracker
        verdict = decide_restart(
            plan.policy,
            tracker,
            end,
            after_success=plan.after_success,
            now_ns=record.time_ns,
            rng=_LeastDelay(),
            dialect=self._dialect,
        )
        if verdict.decision != wire_type(record.event):
            self._notes.append(
                f"{visible(record.task)}: by the policy that the job tells ({_policy_text(plan.policy)}), "
                f"index {record.index} would have been {verdict.decision}"
            )
            return "", None
        return _share_text(plan.policy, verdict, end), verdict.tracker

    def _plan(self, task: str) -> TaskPlan | None:
        """Return the plan of a task; None where no job tells it."""
        group = self._group()
        plan = None if group is None else group.tasks.get(task)
        if plan is None and self._has_verdict(task):
            self._notes.append(f"{visible(task)}: the source tells no job with its restart policy")
        return plan

    def _has_verdict(self, task: str) -> bool:
        return any(r.task == task and isinstance(r.event, (ev.Restarting, ev.NotRestarting)) for r in self._records)

    def _group(self) -> Group | None:
        try:
            return group_of(self._state.placed_body, self._state.updates, self._dialect)
        except (DecodeError, PolicyRefused):
            return None

    # --- what others did ---

    def _add_wishes(self, death: Death) -> None:
        """Add the updates by which the servers asked for the end of the allocation, or its node was lost."""
        for record in self._records:
            event = record.event
            if record.task or not isinstance(event, Updated) or record.version > self._version_of(death):
                continue
            desired, status = event.fields.get("DesiredStatus"), event.fields.get("ClientStatus")
            more = event.fields.get("DesiredDescription")
            description = f": {scalar_text(bytes(more))}" if more is not None and bytes(more) != b'""' else ""
            if death.reason == "lost-node" and status is not None:
                self._add(record, f"its node was lost: the allocation is {scalar_text(bytes(status))}{description}")
            elif desired is not None:
                wish = scalar_text(bytes(desired))
                self._add(record, f"the servers asked for the end of the allocation ({wish}){description}")

    def _version_of(self, death: Death) -> int:
        matches = (r.version for r in self._records if r.index == death.index and r.seq == death.seq)
        return max(matches, default=self._state.version)

    def _add_consequences(self, task: str, death: Death) -> None:
        """Add what the death of a task was for the others."""
        for record in self._records:
            event = record.event
            if record.task == task or record.version in self._causes:
                continue
            is_sibling = isinstance(event, ev.SiblingTaskFailed) and event.failed_sibling == task
            is_follower = isinstance(event, (ev.LeaderTaskDead, ev.MainTasksDead)) and record.index >= death.index
            if is_sibling or (is_follower and self._is_head(task, event)):
                self._add(record, f"{_text_of(record)}, and was ended")

    def _is_head(self, task: str, event: Any) -> bool:
        group = self._group()
        plan = None if group is None else group.tasks.get(task)
        if plan is None:
            return False
        return plan.leader if isinstance(event, ev.LeaderTaskDead) else plan.stage == "main"

    def _add(self, record: Record, text: str) -> None:
        self._causes[record.version] = Cause(
            seq=record.seq,
            index=record.index,
            version=record.version,
            time_ns=record.time_ns,
            task=record.task,
            text=text,
        )


# --- sentences ---


def _conclusion(task: str, state: TaskState, death: Death | None) -> str:
    name = visible(task)
    if death is None:
        text = f"{name} is {state.state or 'not begun'}"
        if state.restarts:
            text += f", and was started again {count_text(state.restarts, 'time')}"
        return text
    if state.state != DEAD:
        return f"{name} is shown as {state.state}, but is gone: {death_text(death)}"
    return f"{name} is dead{', failed' if state.failed else ''}: {death_text(death)}"


def _policy_text(policy: RestartPolicy) -> str:
    """Return a policy in words."""
    if not policy.attempts:
        return "no restarts"
    then = "fail" if policy.mode == "fail" else "wait for the next interval"
    return f"{count_text(policy.attempts, 'restart')} in {duration_text(policy.interval_ns)}, then {then}"


def _share_text(policy: RestartPolicy, verdict: Verdict, end: TaskEnd) -> str:
    """Return how much of its policy a task has used up."""
    if end.restart or not policy.attempts:
        return ""
    if verdict.decision == "Restarting" and verdict.tracker.count <= policy.attempts:
        used = f"{verdict.tracker.count} of {count_text(policy.attempts, 'restart')}"
        return f" ({used} in {duration_text(policy.interval_ns)})"
    if verdict.tracker.count > policy.attempts:
        return f" (its policy: {_policy_text(policy)}; this end was number {verdict.tracker.count})"
    return f" (its policy: {_policy_text(policy)})"


def _span_text(span_ns: int) -> str:
    """Return a duration, to the millisecond where it is longer than one."""
    return duration_text(span_ns if span_ns < _MS else span_ns // _MS * _MS)


def _text_of(record: Record, ran_ns: int | None = None) -> str:
    """Return the sentence of a record."""
    event = record.event
    if isinstance(event, ev.Terminated):
        return _exit_text(event, ran_ns)
    return visible(_TEXTS[type(event)](event))


def _exit_text(event: ev.Terminated, ran_ns: int | None) -> str:
    parts = [f"its process ended after {_span_text(max(ran_ns, 0))}" if ran_ns is not None else "its process ended"]
    parts.append("with an unknown exit code" if event.exit_code is None else f"with exit code {event.exit_code}")
    if event.signal:
        parts.append(f"by signal {event.signal}")
    if event.oom_killed:
        parts.append("killed by the kernel for want of memory")
    return ", ".join(parts) + (f": {visible(event.message)}" if event.message else "")


def _restarting_text(event: ev.Restarting) -> str:
    wish = "" if event.restart_reason else ", as somebody had asked"
    return f"it was to be started again in {_span_text(event.start_delay_ns)}{wish}"


def _with_message(sentence: str) -> Callable[[TaskEvent], str]:
    return lambda event: f"{sentence}: {display_message(event)}"


def _killing_text(event: ev.Killing) -> str:
    return f"it was told to end: {display_message(event)}"


_TEXTS: Final[dict[type[Any], Callable[[Any], str]]] = {
    ev.Started: lambda _: "its process was started",
    ev.Terminated: lambda event: _exit_text(event, None),
    ev.Restarting: _restarting_text,
    ev.NotRestarting: _with_message("its restart policy gave it up"),
    ev.DriverFailure: _with_message("its driver could not start it"),
    ev.FailedArtifactDownload: _with_message("an artifact could not be downloaded"),
    ev.TaskHookFailed: _with_message("a hook of the client failed"),
    ev.FailedValidation: _with_message("its configuration is not valid"),
    ev.SetupFailure: _with_message("it could not be set up"),
    ev.FailedRestoringTask: _with_message("its process was gone when its client began again"),
    ev.RestartSignaled: _with_message("a restart was asked for"),
    ev.SiblingTaskFailed: lambda event: (
        f"its sibling {event.failed_sibling} had failed" if event.failed_sibling else "a sibling had failed"
    ),
    ev.LeaderTaskDead: lambda _: "the leader of its group was dead",
    ev.MainTasksDead: lambda _: "all main tasks of its group were dead",
    ev.Killing: _killing_text,
    ev.Killed: lambda event: f"it was killed: {event.kill_error}" if event.kill_error else "it was killed",
    Finished: lambda event: "it was dead" if event.dies else "its times moved",
    Observed: lambda event: message_text(Record(index=0, alloc="", version=0, event=event)),
    Gap: lambda event: message_text(Record(index=0, alloc="", version=0, event=event)),
}
"""The sentence of each type of event that is part of a chain."""
