"""Turns: one writer at a time, among the threads of this process and, if the log is shared, among all processes.

Every write of an engine happens in a turn. If other processes write the log, too, a turn begins by folding their
appends, so that checks and decisions use the newest state.
"""

# ruff: noqa: SLF001 - the decorators of this module are a part of `Turns`; they are functions for speed

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from functools import partial, wraps
from itertools import chain
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from taskfold.live.callbacks import Callbacks, Notification, add_notes, call_all
from taskfold.live.core import Core
from taskfold.live.models import ModelQuestion, Models
from taskfold.live.store import Store
from taskfold.log.contract import Append, SharedLog
from taskfold.model.effects import Step
from taskfold.model.errors import CallbackRefused, ListenerError, LogError, TaskfoldError, Unreadable
from taskfold.model.record import Record

__all__ = ["NeedsApproval", "TurnOwner", "Turns", "in_turn", "writing"]

_ASK_TIMES: Final = 16
"""How often models are asked to approve a write when other threads change its allocations meanwhile."""

S = TypeVar("S", bound="TurnOwner")
P = ParamSpec("P")
T = TypeVar("T")


class TurnOwner(Protocol):
    """An object whose methods run in turns."""

    @property
    def _turns(self) -> Turns:
        """The turns of its engine."""


def in_turn(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in the turn of this process, on a state that matches the log.

    An interruption in this turn or the one before is recovered from (`Turns.settle`). After the turn, when nothing is
    locked, the pending callbacks run.
    """
    return _turned(method, _run)


def writing(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in a writer's turn, during which other processes cannot append either.

    Their appends are folded first, so that checks and decisions use the newest state. If a model may refuse the write,
    the turn ends without writing; the model is asked when nothing is locked, and then the method runs again.
    """
    return _turned(method, _run_shared)


def _turned(
    method: Callable[Concatenate[S, P], T], run_shared: Callable[[Turns, SharedLog, Callable[[], T]], T]
) -> Callable[Concatenate[S, P], T]:
    @wraps(method)
    def run(owner: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        turns = owner._turns
        batch: list[Notification] | None = None
        outer = 1
        try:
            with turns.lock:  # a lock implemented in C, which no interruption leaves locked
                outer = turns.depth
                turns.depth = outer + 1
                try:
                    if turns._is_unsettled and not outer:
                        turns.settle()
                    if turns.store.shared is not None:
                        result = run_shared(turns, turns.store.shared, lambda: method(owner, *args, **kwargs))
                    else:
                        result = method(owner, *args, **kwargs)
                except BaseException as error:
                    turns._note(error, is_outermost=not outer)
                    raise
                finally:
                    turns.depth = outer
                    if not outer and (turns._has_notifications or turns.callbacks.pending):
                        batch = turns._own_notifications()
            if batch is not None:
                turns._deliver(batch)
        except BaseException as error:
            if outer or (batch is None and isinstance(error, TaskfoldError)):
                raise
            return turns._handle_error(error, batch, partial(run, owner, *args, **kwargs))
        return result

    return run


def _run(_: Turns, __: SharedLog, call: Callable[[], T]) -> T:
    return call()


def _run_shared(turns: Turns, log: SharedLog, call: Callable[[], T]) -> T:
    newest = log.begin_turn()
    try:
        if newest != turns.store.seq:
            turns.take_in()
        return call()
    finally:
        log.end_turn()


class Turns:
    """One writer at a time over a store, with the models asked before each write, and the callbacks run after it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.core: Core = store.core
        self.models = Models(store.core)
        self.callbacks = Callbacks()
        """The callbacks to run after the turn."""
        self.lock = store.turn
        self.depth = 0
        """The nesting depth of turns."""
        self.questions: dict[int, ModelQuestion] = {}
        """By thread, the question that models have approved for its pending write."""
        self.owed: dict[int, Step] = {}
        """Steps that were recorded, and not yet returned to a caller."""
        self._is_unsettled = False
        """A turn was interrupted: the data beside the state may not match it, or the state the log."""
        self._afterwards: list[deque[Callable[[], object]]] = []
        """For each recorded write, calls still to be made in this turn."""
        self._has_notifications = False
        """The turn has produced callbacks."""

    @property
    def _turns(self) -> Turns:
        """This object."""
        return self

    def _note(self, error: BaseException, *, is_outermost: bool) -> None:
        """Note the exception that ends a turn; if it may be an interruption, recover at once if possible."""
        if self.store.is_unsettled or not isinstance(error, (TaskfoldError, NeedsApproval)):
            self._is_unsettled = True
        if is_outermost and self.store.shared is not None:
            self.store.shared.end_turn()  # in case its own call was interrupted
        if is_outermost and self._is_unsettled:
            with suppress(LogError, Unreadable):  # the next turn tries again, and reports it
                self.settle(error)

    def settle(self, error: BaseException | None = None) -> None:
        """Bring the state, and the data beside it, in line with the log; pending callbacks still run.

        O(tasks), plus the cost of `Store.settle`. Raises LogError when the log cannot be read.
        """
        self.store.settle()
        for alloc in self.models.allocs():
            if alloc not in self.core:
                self.models.forget(alloc)
        self.core.plan_all()
        while self._afterwards:
            problems = call_all(self._afterwards[-1])
            if error is not None:
                add_notes(error, problems)
            self._afterwards.pop()
        self.publish_moves(self.models.allocs())
        self._is_unsettled = False

    @in_turn
    def catch_up(self) -> int:
        """Read and fold the records that other processes have appended; return their number. O(records).

        Raises LogError.
        """
        before = self.store.seq
        if self.store.shared is not None:
            self.take_in()
        return self.store.seq - before

    def take_in(self) -> None:
        """Fold the appends of other processes, move the bound models, and drop the timers of changed allocations."""
        changed = self.store.catch_up()
        for alloc in changed:
            if alloc in self.core:
                self.core.replan(alloc)
            else:
                self.forget(alloc)
        self.publish_moves(changed)

    def publish_moves(self, allocs: Container[str], records: Sequence[Record] = ()) -> None:
        """Queue the moves of models to their recorded states, without callbacks, after the pending callbacks."""
        moves = self.models.moves(allocs)
        if moves:
            self.callbacks.pending.append(Notification(moves, records=records))
            self._has_notifications = True

    def forget(self, alloc: str) -> None:
        """Drop the data of a collected allocation."""
        self.core.forget(alloc)
        self.models.forget(alloc)

    def plan(self, steps: Sequence[Step]) -> None:
        """Set the timers of recorded steps."""
        for step in steps:
            if step.alloc in self.core:
                self.core.plan(step)

    def owe(self, steps: Sequence[Step]) -> None:
        """Owe steps, also outside a turn, while `take_owed` may run in another thread."""
        owed = None
        while owed is not self.owed:
            owed = self.owed
            owed.update({id(step): step for step in steps})  # all or none, even if interrupted

    @in_turn
    def take_owed(self) -> list[Step]:
        """Return the owed steps, and owe them no longer."""
        steps, self.owed = self.owed, {}
        return list(steps.values())

    def _check(self) -> None:
        """Assert every invariant, among them that no data is held for removed allocations."""
        self.store._check()
        self.core._check()
        assert self.models.allocs() <= self.core.fold.allocations.keys()

    def commit(
        self,
        appends: Sequence[Append],
        question: ModelQuestion,
        *,
        at_once: Sequence[Callable[[], object]] = (),
        afterwards: Sequence[Callable[[], object]] = (),
        steps: Sequence[Step] = (),
    ) -> list[Record]:
        """Write, and queue the callbacks: ``at_once`` within the turn, those of models and ``afterwards`` after it.

        Return the new records. Raises the refusal of the write, and NeedsApproval when models must approve it first:
        then nothing changed.
        """
        bound = question.bound
        if bound and any(one.binding.may_refuse(one.events) for one in bound):
            agreement = self.question()
            if agreement is None or agreement.bound != bound:
                raise NeedsApproval(question)
        calls = deque(at_once)
        notification = None
        if bound or afterwards:
            notification = Notification([*chain.from_iterable(one.calls() for one in bound), *afterwards], steps=steps)
            calls.append(partial(self.callbacks.pending.append, notification))  # a C function: never interrupted
            self._has_notifications = True
        seq = self.store.seq
        try:
            records = self.store.commit(appends) if appends else []
        except BaseException as error:
            if isinstance(error, TaskfoldError) or not self._is_recorded(appends, seq):
                raise
            self._afterwards += (calls,)  # called when the turn ends
            raise
        if notification is not None:
            notification.records = records
        self._afterwards += (calls,)
        problems = call_all(calls)
        self._afterwards.remove(calls)
        if problems:
            raise ListenerError(problems, records=records, steps=steps)
        return records

    # --- after the turn ---

    def _own_notifications(self) -> list[Notification] | None:
        """Return an empty list to collect this thread's callbacks in; None if it has none to run. In the turn."""
        has_news, self._has_notifications = self._has_notifications or self.callbacks.is_interrupted, False
        return [] if has_news else None

    def question(self) -> ModelQuestion | None:
        """Return the question that models have approved for this thread's pending write."""
        return self.questions.get(threading.get_ident()) if self.questions else None

    def _handle_error(self, error: BaseException, batch: list[Notification] | None, repeat: Callable[[], T]) -> T:
        """Ask the models that must approve first, and repeat the call; else run the callbacks, and raise the error."""
        try:
            if isinstance(error, NeedsApproval) and self.question() is None:
                return self._ask_models(error.args[0], repeat)
            if batch is None and self.callbacks.is_interrupted:
                batch = []
            if batch is not None:
                self._deliver_with_error(error, batch)
        except BaseException as raised:
            self._recover_models(raised)
            raise
        if batch is not None:
            self._recover_models(error)
        raise error

    def _recover_models(self, error: BaseException) -> None:
        """Recover the models' states after an interruption of a question or a callback."""
        if not isinstance(error, (TaskfoldError, NeedsApproval)):
            self._is_unsettled = True
            with suppress(LogError, Unreadable, ListenerError):
                self._recover_turn()

    @in_turn
    def _recover_turn(self) -> None:
        """Recover from an interruption, as every turn does."""

    def _ask_models(self, question: ModelQuestion, repeat: Callable[[], T]) -> T:
        """Ask the models of a question for approval, and repeat the call that raised it.

        Raises CallbackRefused and ListenerError.

        Until the approved write is recorded, no other thread asks the models, or runs their callbacks.
        """
        if self.callbacks.is_mine:  # within a callback
            return self._write_approved(question, repeat)
        batch: list[Notification] = []
        try:
            result = self.callbacks.hold(partial(self._write_approved, question, repeat), batch)
            self._deliver(batch)
        except BaseException as error:
            self._deliver_with_error(error, batch)
            raise
        return result

    def _write_approved(self, question: ModelQuestion, repeat: Callable[[], T]) -> T:
        """Ask the models, and repeat the call; ask again if other threads changed the allocations meanwhile.

        Raises CallbackRefused.
        """
        questions, thread = self.questions, threading.get_ident()
        for _ in range(_ASK_TIMES):
            for one in question.bound:
                one.ask()
            try:
                questions[thread] = question
                return repeat()
            except NeedsApproval as needed:
                question = needed.args[0]
            finally:
                # No function call here, as only calls can be interrupted.
                if thread in questions:
                    del questions[thread]
        one = question.bound[0]
        raise CallbackRefused(
            f"task {one.task!r}: allocation {one.alloc} was written to each of the {_ASK_TIMES} times that its model "
            "was asked: conditions and before_ callbacks must neither write to it nor wait for a thread that does"
        )

    def _deliver(self, batch: list[Notification]) -> None:
        """Run the callbacks. Raises ListenerError with the exceptions, and this thread's records and steps."""
        self.callbacks.deliver(batch)
        problems = [problem for notification in batch for problem in notification.problems]
        if problems:
            own = [notification for notification in batch if notification.thread == threading.get_ident()]
            batch.clear()
            raise ListenerError(
                problems,
                records=[record for notification in own for record in notification.records],
                steps=[step for notification in own for step in notification.steps],
            )

    def _deliver_with_error(self, error: BaseException, batch: list[Notification]) -> None:
        """Run the callbacks while an error is being raised, which gets their exceptions as notes.

        If the error interrupts the caller, its recorded steps are owed.
        """
        try:
            self.callbacks.deliver(batch)
        finally:
            if not isinstance(error, TaskfoldError):
                own = (notification for notification in batch if notification.thread == threading.get_ident())
                self.owed.update({id(step): step for notification in own for step in notification.steps})
            add_notes(error, [problem for notification in batch for problem in notification.problems])

    def _is_recorded(self, appends: Sequence[Append], after_seq: int) -> bool:
        """Tell whether an interrupted write is in the log, and in the state."""
        if self.store.is_unsettled or self.store.seq == after_seq:
            return False
        return self.has_record(appends[0].records[0])

    def has_record(self, record: Record) -> bool:
        """Tell whether a record is in the log; False if the log cannot be read."""
        newest = None
        with suppress(LogError, Unreadable):
            newest = next(iter(self.store.log.read(record.alloc, record.version - 1)), None)
        return newest is not None and (newest.index, newest.event) == (record.index, record.event)


class NeedsApproval(Exception):
    """A write must be approved by models first; its argument is the question."""
