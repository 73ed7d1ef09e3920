"""Reporting: the embedder says what happened, taskfold decides what follows, records it, and says what is owed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from taskfold.arguments import check_address, check_input, check_said, checked_time
from taskfold.effects import Step
from taskfold.errors import ListenerError, LogError, TaskfoldError
from taskfold.group import Group
from taskfold.inputs import Input
from taskfold.log.contract import Append
from taskfold.record import Record
from taskfold.turns import Bound, Turns, in_turn, let_go, writing

__all__ = ["Reporting"]


class Reporting(Turns):
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
        outcome of an input that does not fit is in the step, too, and changes nothing; see `taskfold.decide`.
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
        return self.report_all(alloc, ((task, said),), time_ns=time_ns, id=id, expected_version=expected_version)

    @writing
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
        check_said(said)
        for task, one in said:
            check_address(alloc, task, id, expected_version)
            check_input(one)
        now_ns = checked_time(self.clock.time_ns() if time_ns is None else time_ns)
        step, records = self._decider.decided(alloc, said, now_ns, id, expected_version)
        records, problems = self._commit_step(step, records)
        self._owed.pop(_place(step), None)
        if problems:
            raise ListenerError(problems, records=records, steps=[step])
        return step

    @in_turn
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
            while self._decider.first_due(until_ns) is not None:
                problems += self._first_due(until_ns)
        except LogError:
            if not self._owed:
                raise  # else what they owe must not be lost; the next call tells of the log
        if problems:
            raise ListenerError(problems)
        steps, self._owed = self._owed, {}
        return list(steps.values())

    @writing
    def _first_due(self, until_ns: int) -> list[Exception]:
        """Decide what is due first; nothing where another process has decided it. Raises LogError.

        Return what listeners raised; the step is owed.
        """
        due = self._decider.first_due(until_ns)
        if due is None:
            return []
        alloc, task, said, time_ns = due
        try:
            step, records = self._decider.decided(alloc, ((task, said),), time_ns)
            _, problems = self._commit_step(step, records)
        except LogError:
            raise
        except TaskfoldError as refusal:
            step = Step(alloc=alloc, time_ns=time_ns, outcome="impossible", notes=((task, str(refusal)),))
            _, problems = self._commit_step(step, [])
        self._decider.timers.discard(alloc, task)
        return problems

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

    def _commit_step(self, step: Step, records: list[Record]) -> tuple[list[Record], list[Exception]]:
        """Write what was decided, with the callbacks of bound models around it, plan what is due, and tell of it.

        Return the records as they stand in the log, and what listeners raised. The step is owed until it is returned.
        """
        moves = step.moves if self._bindings else ()
        bound = [
            Bound(binding, step.alloc, task, [event for of, event in moves if of == task])
            for task in dict.fromkeys(task for task, _ in moves)
            if (binding := self._bindings.get((step.alloc, task)))
        ]
        return self._commit(
            [Append(step.alloc, records[0].version - 1, records)] if records else (),
            bound,
            (partial(self._plan, step), *(partial(listener, step) for listener in tuple(self._listeners.values()))),
        )

    def _plan(self, step: Step) -> None:
        """Plan what is due after a step that was recorded, and owe it."""
        self._owed[_place(step)] = step
        if step.alloc in self.store.fold:
            self._decider.plan(step)

    def on_step(self, listener: Callable[[Step], object]) -> Callable[[], None]:
        """Have a function called with every step that is decided, whoever reported; return what ends that.

        It is called by the thread that decided, in the order of the decisions, after the step was recorded, and must be
        quick: others wait for their turn. **It must never wait for another thread that writes through the engine.**
        What it raises keeps nobody else from hearing, and reaches who reported as a `ListenerError`. So an embedder
        sees what was asked for through HTTP, too.
        """
        key = object()
        self._listeners[key] = listener
        return partial(let_go, self._listeners, key)

    def steps_async(self) -> AsyncIterator[Step]:
        """Yield every step that is decided from this call on, on an event loop; what is due comes at its time."""
        from taskfold.steps_async import steps_async

        return steps_async(self)


def _place(step: Step) -> int:
    """Return what a step is kept by: two that are equal are two."""
    return id(step)
