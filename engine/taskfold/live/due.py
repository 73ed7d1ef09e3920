"""Deadlines: delayed starts and repeated kills, decided at their time, and owed until a caller has their steps."""

from __future__ import annotations

from taskfold.live.core import DueInput, impossible
from taskfold.live.drafting import Drafter, append_of
from taskfold.live.grouping import Groups
from taskfold.live.models import NOTHING
from taskfold.live.turns import Turns, in_turn, writing
from taskfold.model.effects import Step
from taskfold.model.errors import ListenerError, LogError, TaskfoldError, Unavailable, VersionConflict
from taskfold.model.record import Record

__all__ = ["Deadlines"]


class Deadlines:
    """Decides inputs of timers, one task after the other, each in its own turn."""

    def __init__(self, turns: Turns, groups: Groups, drafter: Drafter) -> None:
        self._turns = turns
        self._groups = groups
        self._drafter = drafter

    def due(self, until_ns: int) -> list[Step]:
        """Return the steps owed by a time, each once. Raises as `taskfold.Engine.due` does."""
        problems: list[Exception] = []
        try:
            while (due := self._first(until_ns)) is not None:
                try:
                    self._decide(due)
                except ListenerError as error:
                    problems += error.exceptions
        except (LogError, VersionConflict):
            if not self._turns.owed:
                raise  # otherwise the steps decided so far would be lost; the next call raises the log's error
        if problems:
            raise ListenerError(problems)
        return self._turns.take_owed()

    @in_turn
    def next_ns(self) -> int | None:
        """Return the time at which `due` has its next step; None if there is none. O(steps owed)."""
        owed_ns = [step.time_ns for step in self._turns.owed.values()]
        return min(owed_ns) if owed_ns else self._turns.core.timers.next_ns

    @in_turn
    def _first(self, until_ns: int) -> DueInput | None:
        """Return the first input that is due."""
        return self._turns.core.first_due(until_ns)

    def _decide(self, due: DueInput) -> None:
        """Decide an input; its step is then owed. Raises ListenerError; LogError and CallbacksBusy leave it due."""
        try:
            self._write(due)
        except (Unavailable, VersionConflict, ListenerError):
            raise
        except TaskfoldError as refusal:
            self._give_up(due, refusal)

    @writing
    def _write(self, due: DueInput) -> None:
        """Decide an input, unless another thread has decided it."""
        if not self._is_first(due):
            return
        prior = self._drafter.prior(0) if self._turns.questions else None
        step, records = self._turns.core.decide(
            due.alloc, ((due.task, due.input),), due.time_ns, self._drafter.rng, prior=prior
        )
        self._commit(due, step, records)

    @writing
    def _give_up(self, due: DueInput, refusal: TaskfoldError) -> None:
        """Give the step of an input that cannot be decided."""
        if self._is_first(due):
            self._commit(due, impossible(due, refusal), [])

    def _is_first(self, due: DueInput) -> bool:
        """Return whether an input is still the first one due."""
        first = self._turns.core.first_due(due.time_ns)
        return first is not None and first[:3] == due[:3]

    def _commit(self, due: DueInput, step: Step, records: list[Record]) -> None:
        """Write a decision; its step is owed until `due` returns it."""
        models = self._turns.models
        question = models.question_of_steps([step]) if models else NOTHING
        self._groups.commit_steps([step], [append_of(records)] if records else (), question)
        self._turns.core.timers.discard(due.alloc, due.task)
