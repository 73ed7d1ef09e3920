"""Reporting: the embedder says what happened, taskfold decides what follows, records it, and says what is owed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from taskfold.decision.group import Group
from taskfold.live.ahead import Ahead, State
from taskfold.live.arguments import (
    check_address,
    check_input,
    check_listener,
    check_said,
    checked_reports,
    checked_time,
    not_a_report,
)
from taskfold.live.deciding import Due, Known
from taskfold.live.grouping import Drafted, Grouping, told_of
from taskfold.live.turns import NOTHING, Question, in_turn, let_go, writing
from taskfold.log.contract import Append
from taskfold.model.effects import Step
from taskfold.model.errors import (
    AppendRefused,
    InputRefused,
    ListenerError,
    LogError,
    TaskfoldError,
    Unavailable,
    VersionConflict,
)
from taskfold.model.events import TaskEvent
from taskfold.model.inputs import Input, Said
from taskfold.model.record import Finished, Record

__all__ = ["Reporting"]


class Reporting(Grouping):
    """The deciding side of an engine."""

    def report(
        self,
        alloc: str,
        task: str,
        said: Input,
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report what happened to a task, or what somebody wants (an empty task: of the allocation); taskfold decides.

        What is decided is recorded as one write before this returns; then the step's effects are owed, in order. The
        outcome of an input that does not fit is in the step, too, and changes nothing; see `taskfold.decision.rules`.
        O(1), or O(tasks of the allocation) where others are concerned.

        >>> from taskfold import Engine, events, inputs
        >>> engine = Engine(dialect="1.1.2", seed=1)
        >>> engine.place({"ID": "203266e5", "JobID": "example"})
        >>> for said in (inputs.Placed(), inputs.Started(), inputs.Exited(exit_code=1)):
        ...     step = engine.report("203266e5", "redis", said)
        >>> [event.restart_reason for _, event in step.events if isinstance(event, events.Restarting)]
        ['Restart within policy']

        Raises UnknownAllocation, InputRefused, PolicyRefused, DecodeError (of the allocation's job), ClockWentBack,
        VersionConflict, Refused (by a bound model), and LogError when the log cannot be written: then nothing changed.
        Raises ListenerError, which has the step, when it was recorded, and then a listener raised. Where the call is
        interrupted (KeyboardInterrupt) after it was recorded, the next `due` returns the step.
        """
        return self._write(Reporting._drafted_report, alloc, ((task, said),), time_ns, id, expected_version)

    def report_all(
        self,
        alloc: str,
        said: Sequence[tuple[str, Input]],
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report what was learnt together of an allocation, each with its task; taskfold decides on all of it as one.

        So a task that ended is not said to be ended because of another one: it had ended. One write, all or nothing;
        the outcome is ``decided`` if that of any input is. Raises as `report` does.

        >>> from taskfold import Engine, inputs
        >>> engine = Engine(dialect="1.1.2", seed=1)
        >>> engine.place({"ID": "203266e5", "JobID": "example"})
        >>> tasks = "redis", "stats"
        >>> for said in (inputs.Placed(), inputs.Started(), inputs.KillRequested(), inputs.Exited()):
        ...     step = engine.report_all("203266e5", [(task, said) for task in tasks])
        >>> step.effects, engine.snapshot("203266e5").client_status
        ((Collect(),), 'complete')
        """
        return self._write(Reporting._drafted_report, alloc, said, time_ns, id, expected_version)

    def _drafted_report(
        self,
        state: State,
        alloc: str,
        said: Sequence[tuple[str, Input]],
        time_ns: int | None,
        id: str | None,
        expected_version: int | None,
    ) -> Drafted[Step]:
        """Decide on what was learnt together, and draft it. Raises what refuses it."""
        check_said(said)
        for task, one in said:
            check_address(alloc, task, id, expected_version)
            check_input(one)
        now_ns = checked_time(self.clock.time_ns() if time_ns is None else time_ns)
        known = self._known(0) if self._questions else None
        step, records = self._decider.decided(alloc, said, now_ns, id, expected_version, known=known, on=state)
        appends = [Append(alloc, records[0].version - 1, records)] if records else ()
        question = self._question([step]) if self._bindings else NOTHING
        return Drafted(step, appends, (step,), question)

    def report_batch(self, reports: Iterable[Said]) -> list[Step]:
        """Report several inputs, of any allocations, as one append; return the step of each, in their order.

        Each is decided, and recorded, as if it had come by itself after the ones before, as a write with its own index;
        all of them are on disk after one wait, or none is. What was learnt together of one allocation is reported by
        `report_all`, which decides on it as one. O(reports).

        >>> from taskfold import Engine, inputs
        >>> engine = Engine(dialect="1.1.2", seed=1)
        >>> allocs, said = ("203266e5", "69e8e345"), (inputs.Placed(), inputs.Started())
        >>> for alloc in allocs:
        ...     engine.place({"ID": alloc, "JobID": "example"})
        >>> reports = [inputs.Said(alloc=alloc, task="redis", input=one) for one in said for alloc in allocs]
        >>> steps = engine.report_batch(reports)
        >>> [step.alloc for step in steps], engine.index
        (['203266e5', '69e8e345', '203266e5', '69e8e345'], 6)

        Raises AppendRefused, which names every report that is refused, and by what `report` would raise; LogError when
        the log cannot be written: then nothing changed. Raises ListenerError, which has the steps, when all was
        recorded, and then a listener raised. Where the call is interrupted after that, the next `due` returns them.
        """
        return self._write(Reporting._drafted_batch, checked_reports(reports))

    def _drafted_batch(self, state: State, reports: Sequence[Any]) -> Drafted[list[Step]]:
        """Decide on reports one after the other, and draft all that follows. Raises AppendRefused."""
        ahead = Ahead(state)
        steps: list[Step] = []
        appends: list[Append] = []
        decided: list[Known] = []
        refusals: list[tuple[int, TaskfoldError]] = []
        for place, report in enumerate(reports):
            try:
                step, records = self._decided_report(ahead, place, report)
            except TaskfoldError as refusal:
                refusals.append((place, refusal))
                continue
            steps.append(step)
            if records:
                appends.append(_append_of(records))
                for record in records:
                    ahead.take(record)
            decided.append(Known(step, records[0].version - 1 if records else -1))
        if refusals:
            raise AppendRefused(refusals)
        question = self._question(steps, decided) if self._bindings else NOTHING
        return Drafted(steps, appends, steps, question)

    def _decided_report(self, ahead: Ahead, place: int, report: Any) -> tuple[Step, list[Record]]:
        """Decide on one of several reports. Raises what refuses it."""
        if not isinstance(report, Said):
            raise InputRefused(not_a_report(report))
        check_address(report.alloc, report.task, report.id, report.expected_version)
        check_input(report.input)
        known = self._known(place) if self._questions else None
        return self._decider.decided(
            report.alloc,
            ((report.task, report.input),),
            checked_time(self.clock.time_ns() if report.time_ns is None else report.time_ns),
            report.id,
            report.expected_version,
            known=known,
            on=ahead,
        )

    async def report_async(
        self,
        alloc: str,
        task: str,
        said: Input,
        *,
        time_ns: int | None = None,
        id: str | None = None,
        expected_version: int | None = None,
    ) -> Step:
        """Report as `report` does, from an event loop, which goes on meanwhile.

        What tasks and threads report at the same time waits for the disk together. Where the task is cancelled after
        its report was taken up, the next `due` returns the step. What a listener raises is told to the exception
        handler of the event loop; else it raises as `report` does.
        """
        from taskfold.live.grouping_async import write_async

        report = Reporting._drafted_report
        return await write_async(self, report, alloc, ((task, said),), time_ns, id, expected_version)

    def due(self, now_ns: int | None = None) -> list[Step]:
        """Return what is owed by a time (unix nanoseconds; now, unless given): delayed starts, and kills to try again.

        Each is told once; after a restart of the process what nobody reported on is told again. O(log n) for each.
        What cannot be decided (a job that was updated to one that is not valid) has a step whose outcome is impossible,
        and keeps nobody else waiting. Raises LogError when the log cannot be written: then it is still due.
        Raises ListenerError when everything due was decided, and listeners raised. Where it raises, or is interrupted,
        what was decided is returned by the next call.
        """
        self._check_writable()
        until_ns = checked_time(self.clock.time_ns() if now_ns is None else now_ns)
        problems: list[Exception] = []
        try:
            while (due := self._next(until_ns)) is not None:
                try:
                    self._decide_due(due)
                except ListenerError as error:
                    problems += error.exceptions
        except (LogError, VersionConflict):
            if not self._owed:
                raise  # else what they owe must not be lost; the next call tells of the log
        if problems:
            raise ListenerError(problems)
        return self._taken()

    @in_turn
    def _next(self, until_ns: int) -> Due | None:
        """Return what is due first."""
        return self._decider.first_due(until_ns)

    @in_turn
    def _taken(self) -> list[Step]:
        """Return the steps that are owed, which are not any more."""
        steps, self._owed = self._owed, {}
        return list(steps.values())

    def _decide_due(self, due: Due) -> None:
        """Decide what is due; the step is owed. Raises ListenerError; LogError, CallbacksBusy: then it is due still."""
        try:
            self._write_due(due)
        except (Unavailable, VersionConflict, ListenerError):
            raise
        except TaskfoldError as refusal:
            self._give_up_due(due, refusal)

    @writing
    def _write_due(self, due: Due) -> None:
        """Decide what is due; nothing where somebody else has decided it."""
        if not self._is_first(due):
            return
        alloc, task, said, time_ns = due
        known = self._known(0) if self._questions else None
        step, records = self._decider.decided(alloc, ((task, said),), time_ns, known=known)
        self._commit_step(step, records)
        self._decider.timers.discard(alloc, task)

    @writing
    def _give_up_due(self, due: Due, refusal: TaskfoldError) -> None:
        """Tell of what is due and cannot be decided."""
        if not self._is_first(due):
            return
        alloc, task, _, time_ns = due
        step = Step(alloc=alloc, time_ns=time_ns, outcome="impossible", notes=((task, str(refusal)),))
        self._commit_step(step, [])
        self._decider.timers.discard(alloc, task)

    def _is_first(self, due: Due) -> bool:
        """Tell whether what was due first still is."""
        first = self._decider.first_due(due.time_ns)
        return first is not None and (first.alloc, first.task, first.said) == (due.alloc, due.task, due.said)

    @in_turn
    def next_due(self) -> int | None:
        """Return when `due` has something to tell next (unix nanoseconds); None when nothing is planned. O(1)."""
        owed_ns = [step.time_ns for step in self._owed.values()]
        return min(owed_ns) if owed_ns else self._decider.timers.next_ns

    @in_turn
    def restore(self, now_ns: int | None = None) -> list[Step]:
        """Return what is still owed to every allocation that taskfold decides for, after the embedder was away.

        Starts and kills that nobody reported on are owed (again); what is due later comes by `due`. An embedder that
        finds a process reports `Restored`, or how it ended. O(tasks).
        """
        self._check_writable()
        return self._decider.restore(checked_time(self.clock.time_ns() if now_ns is None else now_ns))

    @in_turn
    def group(self, alloc: str) -> Group:
        """Return what decisions see of an allocation's task group. Raises UnknownAllocation, and as `report` does."""
        return self._decider.group(self.store.fold.owned(alloc))

    def _commit_step(self, step: Step, records: list[Record]) -> None:
        """Write what was decided, plan what is due, and have it told. The step is owed until `due` returns it."""
        self._commit(
            [_append_of(records)] if records else (),
            self._question([step]) if self._bindings else NOTHING,
            at_once=[partial(self._plan, [step]), *told_of([step], self._recorders)],
            afterwards=told_of([step], self._listeners),
        )

    def _question(self, steps: Sequence[Step], decided: Sequence[Known] = ()) -> Question:
        """Return what models are asked before steps are recorded, and told afterwards."""
        events: dict[tuple[str, str], list[TaskEvent | Finished]] = {}
        for step in steps:
            for task, event in step.moves:
                if (step.alloc, task) in self._bindings:
                    events.setdefault((step.alloc, task), []).append(event)
        bound = [self._bound(self._bindings[key], *key, heard) for key, heard in events.items()]
        if not bound:
            return NOTHING
        return Question(bound, steps[0].time_ns, decided or [Known(steps[0], bound[0].version)])

    def _known(self, place: int) -> Known | None:
        """Return what was decided on an input when models were asked, which hold while its allocation is as it was."""
        asked = self._asked()
        return None if asked is None or not asked.decided else asked.decided[place]

    def on_step(self, listener: Callable[[Step], object]) -> Callable[[], None]:
        """Have a function called with every step that is decided, whoever reported; return what ends that.

        It is called in the order of the decisions, after the step was recorded, when nothing is locked: it may wait for
        any thread, and report, too. The thread that reported calls it; where that happens while another thread is
        telling, or in a listener, who is telling does so afterwards. So a listener never runs twice at the same time.
        What it raises keeps nobody else from hearing, and reaches who is telling as a `ListenerError`. So an embedder
        sees what was asked for through HTTP, too.
        """
        check_listener(listener)
        key = object()
        self._listeners[key] = listener
        return partial(let_go, self._listeners, key)

    def _record_steps(self, recorder: Callable[[Step], object]) -> Callable[[], None]:
        """Have a function that neither waits nor locks called with every step, in its turn; return what ends that."""
        key = object()
        self._recorders[key] = recorder
        return partial(let_go, self._recorders, key)

    def steps_async(self) -> AsyncIterator[Step]:
        """Yield every step that is decided from this call on, on an event loop; what is due comes at its time."""
        from taskfold.live.steps_async import steps_async

        return steps_async(self)


def _append_of(records: list[Record]) -> Append:
    """Return what is appended of an allocation."""
    return Append(records[0].alloc, records[0].version - 1, records)
