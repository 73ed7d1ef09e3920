"""Reporting: the embedder says what happened, taskfold decides what follows, records it, and says what is owed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from taskfold.arguments import check_address, check_input, checked_time
from taskfold.effects import Step
from taskfold.errors import LogError, TaskfoldError
from taskfold.group import Group
from taskfold.inputs import Input
from taskfold.log.contract import Append
from taskfold.record import Record
from taskfold.turns import Turns

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
        """
        check_address(alloc, task, id, expected_version)
        check_input(said)
        with self._writing:
            now_ns = checked_time(self.clock.time_ns() if time_ns is None else time_ns)
            step, records = self._decider.decided(alloc, task, said, now_ns, id, expected_version)
            self._commit_step(step, records)
            return step

    def due(self, now_ns: int | None = None) -> list[Step]:
        """Return what is owed by a time (unix nanoseconds; now, unless given): delayed starts, and kills to try again.

        Each is told once; after a restart of the process what nobody reported on is told again. O(log n) for each.
        What cannot be decided (a job that was updated to one that is not valid) has a step whose outcome is impossible,
        and keeps nobody else waiting. Raises LogError when the log cannot be written: then it is still due.
        """
        with self._turn:
            until_ns = checked_time(self.clock.time_ns() if now_ns is None else now_ns)
            steps: list[Step] = []
            try:
                while self._decider.first_due(until_ns) is not None:
                    with self._writing:
                        steps += self._first_due(until_ns)
            except LogError:
                if not steps:
                    raise  # else what they owe must not be lost; the next call tells of the log
            return steps

    def _first_due(self, until_ns: int) -> list[Step]:
        """Decide what is due first; nothing where another process has decided it. Raises LogError."""
        due = self._decider.first_due(until_ns)
        if due is None:
            return []
        alloc, task, said, time_ns = due
        try:
            step, records = self._decider.decided(alloc, task, said, time_ns)
            self._commit_step(step, records)
        except LogError:
            raise
        except TaskfoldError as refusal:
            step = Step(alloc=alloc, time_ns=time_ns, outcome="impossible", notes=((task, str(refusal)),))
            self._tell(step)
        self._decider.timers.discard(alloc, task)
        return [step]

    def next_due(self) -> int | None:
        """Return when `due` has something to tell next (unix nanoseconds); None when nothing is planned. O(1)."""
        with self._turn:
            return self._decider.timers.next_ns

    def restore(self, now_ns: int | None = None) -> list[Step]:
        """Return what is still owed to every allocation that taskfold decides for, after the embedder was away.

        Starts and kills that nobody reported on are owed (again); what is due later comes by `due`. An embedder that
        finds a process reports `Restored`, or how it ended. O(tasks).
        """
        with self._turn:
            return self._decider.restore(checked_time(self.clock.time_ns() if now_ns is None else now_ns))

    def group(self, alloc: str) -> Group:
        """Return what decisions see of an allocation's task group. Raises UnknownAllocation, and as `report` does."""
        with self._turn:
            return self._decider.group(self.store.fold.owned(alloc))

    def _commit_step(self, step: Step, records: list[Record]) -> None:
        """Write what was decided, with the callbacks of bound models around it, and plan what is due."""
        is_recorded = False

        def append() -> None:
            nonlocal is_recorded
            if records:
                self.store.commit([Append(step.alloc, records[0].version - 1, records)])
            is_recorded = True

        run: Callable[[], None] = append
        if self._bindings:
            for task in dict.fromkeys(task for task, _ in step.moves):
                binding = self._bindings.get((step.alloc, task))
                if binding is not None:
                    events = [event for of, event in step.moves if of == task]
                    run = self._bound(binding, step.alloc, task, events, run)
        try:
            run()
        finally:
            # Also when a callback after the append raises: what was recorded is owed.
            if is_recorded:
                self._decider.plan(step)
                self._tell(step)

    def _tell(self, step: Step) -> None:
        """Tell of a step who listens."""
        for listener in tuple(self._listeners):
            listener(step)

    def on_step(self, listener: Callable[[Step], object]) -> Callable[[], None]:
        """Have a function called with every step that is decided, whoever reported; return what ends that.

        It is called by the thread that decided, in the order of the decisions, after the step was recorded, and must be
        quick: others wait for their turn. What it raises reaches who reported. So an embedder sees what was asked for
        through HTTP, too.
        """
        with self._turn:
            self._listeners.append(listener)

        def end() -> None:
            with self._turn:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def steps_async(self) -> AsyncIterator[Step]:
        """Yield every step that is decided from now on, on the running event loop; what is due comes at its time."""
        from taskfold.steps_async import steps_async

        return steps_async(self)
