"""Drafting: writes and reports of callers are checked against a state, and prepared for an append."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskfold.decision.restart import Random
from taskfold.live.arguments import check_address, check_input, check_pairs, checked_time, not_a_report
from taskfold.live.core import Prior
from taskfold.live.draft import Draft
from taskfold.live.grouping import Drafted
from taskfold.live.models import NOTHING
from taskfold.live.overlay import Overlay, StateLike
from taskfold.live.turns import Turns
from taskfold.log.contract import Append
from taskfold.model.clock import Clock
from taskfold.model.effects import Step
from taskfold.model.errors import AppendRefused, InputRefused, TaskfoldError
from taskfold.model.inputs import Input, PostedInput
from taskfold.model.record import Record, Write

__all__ = ["Drafter", "append_of"]


class Drafter:
    """Drafts writes and reports on the state of a core or an overlay; changes nothing."""

    def __init__(self, turns: Turns, clock: Clock, rng: Random) -> None:
        self._turns = turns
        self._core = turns.core
        self._models = turns.models
        self.clock = clock
        self.rng = rng

    def write(self, state: StateLike, write: Write) -> Drafted[Record | None]:
        """Draft one write. Raises its refusal."""
        draft = Draft(state, self._time_ns() if self._turns.questions else self.clock.time_ns())
        draft.add(write)
        for _, refusal in draft.refusals:
            raise refusal
        appends = draft.appends()
        models = self._models
        question = models.question_of_records(draft.new_records, draft.time_ns) if models.bindings else NOTHING
        return Drafted(appends[0].records[0] if appends else None, appends, (), question)

    def append(self, state: StateLike, writes: Sequence[Write]) -> Drafted[list[Record | None]]:
        """Draft writes that are recorded all or none. Raises AppendRefused."""
        draft = Draft(state, self._time_ns())
        for write in writes:
            draft.add(write)
        if draft.refusals:
            raise AppendRefused(draft.refusals)
        question = self._models.question_of_records(draft.new_records, draft.time_ns) if self._models else NOTHING
        return Drafted(draft.records(), draft.appends(), (), question)

    def _time_ns(self) -> int:
        """Return the time of a write that models have approved; else the clock's."""
        question = self._turns.question()
        return self.clock.time_ns() if question is None else question.time_ns

    def report(
        self,
        state: StateLike,
        alloc: str,
        pairs: Sequence[tuple[str, Input]],
        time_ns: int | None,
        id: str | None,
        expected_version: int | None,
    ) -> Drafted[Step]:
        """Decide inputs that were learnt together, and draft the step. Raises the refusal."""
        check_pairs(pairs)
        for task, one in pairs:
            check_address(alloc, task, id, expected_version)
            check_input(one)
        now_ns = checked_time(self.clock.time_ns() if time_ns is None else time_ns)
        prior = self.prior(0) if self._turns.questions else None
        step, records = self._core.decide(alloc, pairs, now_ns, self.rng, id, expected_version, prior=prior, on=state)
        question = self._models.question_of_steps([step]) if self._models else NOTHING
        return Drafted(step, [append_of(records)] if records else (), (step,), question)

    def batch(self, state: StateLike, reports: Sequence[Any]) -> Drafted[list[Step]]:
        """Decide reports in order, and draft their steps. Raises AppendRefused."""
        overlay = Overlay(state)
        steps: list[Step] = []
        appends: list[Append] = []
        priors: list[Prior] = []
        refusals: list[tuple[int, TaskfoldError]] = []
        for place, report in enumerate(reports):
            try:
                step, records = self._decide_report(overlay, place, report)
            except TaskfoldError as refusal:
                refusals.append((place, refusal))
                continue
            steps.append(step)
            if records:
                appends.append(append_of(records))
                for record in records:
                    overlay.take(record)
            priors.append(Prior(step, records[0].version - 1 if records else -1))
        if refusals:
            raise AppendRefused(refusals)
        question = self._models.question_of_steps(steps, priors) if self._models else NOTHING
        return Drafted(steps, appends, steps, question)

    def _decide_report(self, overlay: Overlay, place: int, report: Any) -> tuple[Step, list[Record]]:
        """Decide one of several reports. Raises its refusal."""
        if not isinstance(report, PostedInput):
            raise InputRefused(not_a_report(report))
        check_address(report.alloc, report.task, report.id, report.expected_version)
        check_input(report.input)
        return self._core.decide(
            report.alloc,
            ((report.task, report.input),),
            checked_time(self.clock.time_ns() if report.time_ns is None else report.time_ns),
            self.rng,
            report.id,
            report.expected_version,
            prior=self.prior(place) if self._turns.questions else None,
            on=overlay,
        )

    def prior(self, place: int) -> Prior | None:
        """Return the step that models have approved; it is valid while its allocation is unchanged."""
        question = self._turns.question()
        return None if question is None or not question.priors else question.priors[place]


def append_of(records: list[Record]) -> Append:
    """Return the append of one allocation's records."""
    return Append(records[0].alloc, records[0].version - 1, records)
