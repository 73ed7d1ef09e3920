"""A fold beside the model: `LifecycleMachine` gives both the same records, and compares the states of tasks.

A fold may be written in any language: a record goes to it as a line of a log, and the state of a task comes back as
JSON. The model is a `taskfold.Fold`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from taskfold.fold.allocation import Fold
from taskfold.fold.lifecycle import PENDING
from taskfold.model.dialect import DEFAULT_DIALECT, dialect_of
from taskfold.model.errors import IllegalEvent
from taskfold.model.events import AnyTaskEvent, wire_type
from taskfold.model.go.timestamps import ZERO_TIME
from taskfold.model.record import Finished, Record
from taskfold.nomad.snapshot import Snapshot
from taskfold.testing._drawing import CHOICES, Move, draw_of, event_of, illegal_moves, moves, pick
from taskfold.testing.deviations import Deviation, FieldDeviation, json_deviations
from taskfold.testing.histories import history_of

__all__ = ["FoldAdapter", "LifecycleMachine"]

_TASKS: Final = ("web", "db")
_SECOND: Final = 1_000_000_000
_ZEROS: Final[tuple[Any, ...]] = (None, False, 0, "", [], {}, ZERO_TIME)
"""The values that a key may have, or be left out for."""


class FoldAdapter(Protocol):
    """The adapter of a fold that `LifecycleMachine` drives."""

    def apply(self, record: str) -> str:
        """Take the next record of an allocation; return how its task stands after it, as JSON.

        The record is a line of a log, as `the schema of records <schemas/record.json>` has it, without a position. The
        answer is what ``TaskStates`` of the dialect has for the task, where whatever is zero may be left out; ``null``
        for a record that names no task, and for an event that is refused: then nothing has changed.
        """


class Happening(NamedTuple):
    """An event that happens to a task."""

    task: str
    event: AnyTaskEvent | Finished

    def __repr__(self) -> str:
        """Return the task, the type of the event, and what it says."""
        extras = {key: value for key, value in msgspec.to_builtins(self.event).items() if key not in {"Type", "Time"}}
        return f"<{self.task}: {wire_type(self.event)}{f' {extras}' if extras else ''}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002, FBT001 - as Hypothesis and IPython call it
        """Print it as `repr` has it."""
        printer.text(repr(self))


_NUMBERS: Final = st.integers(0, CHOICES - 1)
_LEGAL: Final = st.runner().flatmap(lambda machine: _NUMBERS.map(machine.legal_happening))
_ILLEGAL: Final = st.runner().flatmap(lambda machine: _NUMBERS.map(machine.illegal_happening))


def _tries_illegal(machine: LifecycleMachine) -> bool:
    # No lambda: older releases of Hypothesis read its source each time.
    return machine.tries_illegal


class LifecycleMachine(RuleBasedStateMachine):
    """Gives a fold and the model the same records. Inherit, say how a fold is made, and let pytest run it.

    .. code-block:: python

        class MyMachine(LifecycleMachine):
            dialect = "1.1.2"

            def make_fold(self):
                return MyAdapter()

        TestMyFold = MyMachine.TestCase

    After each record it compares the whole state of the task: every key that the dialect has, the newest ten events
    among them. A `Deviation` says which keys differ, and after which events; Hypothesis makes them few. Each run has an
    allocation of its own, so that one fold may serve them all.
    """

    dialect: ClassVar[str] = DEFAULT_DIALECT
    """The Nomad whose lifecycle the fold has."""
    tries_illegal: ClassVar[bool] = True
    """Whether events are tried, too, that the lifecycle refuses."""
    ignored_keys: ClassVar[frozenset[str]] = frozenset({"Details", "DisplayMessage"})
    """The keys that are not compared: by default the texts that follow from the others."""
    _runs: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        LifecycleMachine._runs += 1
        self._alloc = f"{LifecycleMachine._runs:08x}-e0d6-9486-5e05-397ed2b184af"
        self._model = Fold(self.dialect)
        self._steps: list[str] = []
        self._version = 0
        self._time_ns = 0
        self._fold = self.make_fold()

    def make_fold(self) -> FoldAdapter:
        """Return the adapter of a fold; it may be the same for all runs."""
        raise NotImplementedError("say how the fold is made: def make_fold(self): return MyAdapter()")

    # --- what happens ---

    @initialize()
    def place(self) -> None:
        """Place the allocation."""
        [first] = history_of([], self.dialect, alloc=self._alloc, tasks=_TASKS).records
        self._time_ns = first.time_ns
        self._give(first)
        self._model.apply(first)
        self._version = 1

    @rule(happening=_LEGAL)
    def happen(self, happening: Happening) -> None:
        """Let an event happen that the lifecycle allows."""
        record = self._record_of(happening)
        self._steps.append(repr(happening))
        text = self._give(record)
        self._model.apply(record)
        self._version += 1
        tasks = json.loads(Snapshot.of(self._model[self._alloc], self.dialect).to_json())["TaskStates"]
        self._compare(happening.task, tasks[happening.task], text)

    @precondition(_tries_illegal)
    @rule(happening=_ILLEGAL)
    def refuse(self, happening: Happening) -> None:
        """Let an event come that the lifecycle refuses."""
        record = self._record_of(happening)
        self._steps.append(f"{happening!r}, which is illegal")
        text = self._give(record)
        try:
            self._model.apply(record)
        except IllegalEvent:
            self._compare(happening.task, None, text)
        else:
            raise AssertionError(f"{happening!r} is legal")

    # --- side by side ---

    def _state_of(self, task: str) -> str:
        state = self._model[self._alloc].tasks.get(task)
        return PENDING if state is None else state.state

    def legal_happening(self, number: int) -> Happening:
        """Return what a number stands for, as in a history."""
        return self._happening(number, moves)

    def illegal_happening(self, number: int) -> Happening:
        """Return what a number stands for, of all that the lifecycle refuses now."""
        return self._happening(number, illegal_moves)

    def _happening(self, number: int, moves_in: Callable[[str, str], Sequence[Move]]) -> Happening:
        draw = draw_of(number)
        task = pick(_TASKS, draw.task)
        move = pick(moves_in(self.dialect, self._state_of(task)), draw.move)
        return Happening(task, event_of(move, draw.variant, dialect_of(self.dialect), self._time_ns + _SECOND))

    def _record_of(self, happening: Happening) -> Record:
        """Return the next record, a second after the one before."""
        self._time_ns += _SECOND
        version = self._version + 1
        return Record(
            index=version,
            alloc=self._alloc,
            version=version,
            task=happening.task,
            time_ns=self._time_ns,
            event=happening.event,
        )

    def _give(self, record: Record) -> str:
        return self._fold.apply(msgspec.json.encode(record).decode())

    def _compare(self, task: str, model: Any, text: str) -> None:
        """Compare the parsed state of a task. Raises Deviation."""
        try:
            actual = json.loads(text)
        except ValueError:
            deviations = [FieldDeviation(task, "answer", "JSON", text)]
        else:
            if (model is None) == (actual is None):
                deviations = json_deviations(task, self._plain(model), self._plain(actual))
            else:
                deviations = [
                    FieldDeviation(task, "event", *("refused" if each is None else "taken" for each in (model, actual)))
                ]
        if deviations:
            raise Deviation("fold", self.dialect, deviations, self._steps)

    def _plain(self, value: Any) -> Any:
        """Return a value without keys that are zero, or not compared."""
        if isinstance(value, dict):
            items = ((key, self._plain(each)) for key, each in value.items() if key not in self.ignored_keys)
            return {key: each for key, each in items if not _is_zero(each)}
        return [self._plain(each) for each in value] if isinstance(value, list) else value


def _verdict(answer: object) -> str:
    return "refused" if answer is None else "taken"


def _is_zero(value: Any) -> bool:
    return any(value == zero for zero in _ZEROS)
