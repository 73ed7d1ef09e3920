"""Turns: one writer at a time, of the threads of this process, and, where a log is shared, of all processes.

Every write of an engine happens in a turn. Where other processes write the log, too, a turn begins with what they have
appended, so that what is checked and decided is checked and decided on the state of all.
"""

# ruff: noqa: SLF001 - what surrounds a turn is a part of `Turns`, and a function since it runs for every write

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from functools import partial, wraps
from itertools import chain
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from taskfold.live.callbacks import Callbacks, News, add_notes, call_all
from taskfold.live.core import Core
from taskfold.live.models import Models, Question
from taskfold.live.store import Store
from taskfold.log.contract import Append, SharedLog
from taskfold.model.effects import Step
from taskfold.model.errors import CallbackRefused, ListenerError, LogError, TaskfoldError, Unreadable
from taskfold.model.record import Record

__all__ = ["HasTurns", "Turns", "Unasked", "in_turn", "writing"]

_ASK_TIMES: Final = 16
"""How often a model is asked of one write, where others write to its allocation meanwhile."""

S = TypeVar("S", bound="HasTurns")
P = ParamSpec("P")
T = TypeVar("T")


class HasTurns(Protocol):
    """Something whose methods run in turns."""

    @property
    def _turns(self) -> Turns:
        """Whose turn it is."""


def in_turn(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in the turn of this process, on a state that is what the log holds.

    What an interruption left by half, in this turn or in the one before, is put right (`Turns.settle`). When the turn
    is over, and nothing is locked, the pending callbacks run.
    """
    return _turned(method, _run)


def writing(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Run a method in a writer's turn: where other processes write the log, too, they cannot append meanwhile.

    What they have appended is taken in first, so that what is checked and decided is so on the state of all. Where it
    writes what a model may refuse, it ends before that; the model is asked when nothing is locked, and then the method
    runs once more.
    """
    return _turned(method, _run_shared)


def _turned(
    method: Callable[Concatenate[S, P], T], run_shared: Callable[[Turns, SharedLog, Callable[[], T]], T]
) -> Callable[Concatenate[S, P], T]:
    @wraps(method)
    def run(owner: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        turns = owner._turns
        batch: list[News] | None = None
        outer = 1
        try:
            with turns.lock:  # a lock of C, which nothing leaves locked
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
                    if not outer and (turns._has_news or turns.callbacks.pending):
                        batch = turns._own_news()
            if batch is not None:
                turns._tell(batch)
        except BaseException as error:
            if outer or (batch is None and isinstance(error, TaskfoldError)):
                raise
            return turns._go_on(error, batch, partial(run, owner, *args, **kwargs))
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
    """One writer at a time over a store: what it writes, who is asked before, and who is told afterwards."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.core: Core = store.core
        self.models = Models(store.core)
        self.callbacks = Callbacks()
        """What is to be called when the turn is over."""
        self.lock = store.turn
        self.depth = 0
        """How many turns are inside one another."""
        self.questions: dict[int, Question] = {}
        """What a thread has asked models, and is about to write."""
        self.owed: dict[int, Step] = {}
        """Steps that were recorded, and not returned to anybody yet."""
        self._is_unsettled = False
        """A turn was interrupted: what is kept beside the state may not fit it, or the state not the log."""
        self._afterwards: list[deque[Callable[[], object]]] = []
        """What is to be called still in the turn, of each write that was recorded."""
        self._has_news = False
        """There is some since the turn began."""

    @property
    def _turns(self) -> Turns:
        """Itself."""
        return self

    def _note(self, error: BaseException, *, is_outermost: bool) -> None:
        """Note what ends a turn; where it may have been interrupted, put right what is by half, if that can be now."""
        if self.store.is_unsettled or not isinstance(error, (TaskfoldError, Unasked)):
            self._is_unsettled = True
        if is_outermost and self.store.shared is not None:
            self.store.shared.end_turn()  # where that was interrupted
        if is_outermost and self._is_unsettled:
            with suppress(LogError, Unreadable):  # then the next turn tries again, and tells of it
                self.settle(error)

    def settle(self, error: BaseException | None = None) -> None:
        """Make the state, and what is kept beside it, what the log holds; pending callbacks still run.

        O(tasks), and as `Store.settle`. Raises LogError when the log cannot be read.
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
        """Take in what other processes have appended to the log; return how many records that were. O(records).

        Raises LogError.
        """
        before = self.store.seq
        if self.store.shared is not None:
            self.take_in()
        return self.store.seq - before

    def take_in(self) -> None:
        """Take in what others have appended: their states, for models that are bound to them, too, and timers."""
        changed = self.store.catch_up()
        for alloc in changed:
            if alloc in self.core:
                self.core.replan(alloc)
            else:
                self.forget(alloc)
        self.publish_moves(changed)

    def publish_moves(self, allocs: Container[str], records: Sequence[Record] = ()) -> None:
        """Move the models of allocations to what is recorded, without callbacks, after what they are to hear."""
        moves = self.models.moves(allocs)
        if moves:
            self.callbacks.pending.append(News(moves, records=records))
            self._has_news = True

    def forget(self, alloc: str) -> None:
        """Let go of what is kept for an allocation that was collected."""
        self.core.forget(alloc)
        self.models.forget(alloc)

    def plan(self, steps: Sequence[Step]) -> None:
        """Set the timers of steps that were recorded."""
        for step in steps:
            if step.alloc in self.core:
                self.core.plan(step)

    def owe(self, steps: Sequence[Step]) -> None:
        """Owe steps, also from outside of a turn: `take_owed` may take meanwhile what is owed."""
        owed = None
        while owed is not self.owed:
            owed = self.owed
            owed.update({id(step): step for step in steps})  # all or none, whatever interrupts it

    @in_turn
    def take_owed(self) -> list[Step]:
        """Return the steps that are owed, which are not any more."""
        steps, self.owed = self.owed, {}
        return list(steps.values())

    def _check(self) -> None:
        """Assert every invariant: among them that nothing is kept for an allocation that is gone."""
        self.store._check()
        self.core._check()
        assert self.models.allocs() <= self.core.fold.allocations.keys()

    def commit(
        self,
        appends: Sequence[Append],
        question: Question,
        *,
        at_once: Sequence[Callable[[], object]] = (),
        afterwards: Sequence[Callable[[], object]] = (),
        steps: Sequence[Step] = (),
    ) -> list[Record]:
        """Write, and call who is to hear of it: some in this turn, bound models and others when it is over.

        Return the records that were new. Raises what refuses the write, and Unasked where models have to be asked
        before: then nothing changed.
        """
        bound = question.bound
        if bound and any(one.binding.may_refuse(one.events) for one in bound):
            agreement = self.question()
            if agreement is None or agreement.bound != bound:
                raise Unasked(question)
        calls = deque(at_once)
        news = None
        if bound or afterwards:
            news = News([*chain.from_iterable(one.calls() for one in bound), *afterwards], steps=steps)
            calls.append(partial(self.callbacks.pending.append, news))  # of C: nothing interrupts it
            self._has_news = True
        seq = self.store.seq
        try:
            records = self.store.commit(appends) if appends else []
        except BaseException as error:
            if isinstance(error, TaskfoldError) or not self._is_recorded(appends, seq):
                raise
            self._afterwards += (calls,)  # they are called when the turn ends
            raise
        if news is not None:
            news.records = records
        self._afterwards += (calls,)
        problems = call_all(calls)
        self._afterwards.remove(calls)
        if problems:
            raise ListenerError(problems, records=records, steps=steps)
        return records

    # --- when the turn is over ---

    def _own_news(self) -> list[News] | None:
        """Return an empty list for the news that this thread tells; None where none are its own. In the turn."""
        has_news, self._has_news = self._has_news or self.callbacks.is_interrupted, False
        return [] if has_news else None

    def question(self) -> Question | None:
        """Return the question that this thread asked models, and is about to write."""
        return self.questions.get(threading.get_ident()) if self.questions else None

    def _go_on(self, error: BaseException, batch: list[News] | None, repeat: Callable[[], T]) -> T:
        """Ask models that have to be asked first, and repeat the call; else tell who is to be told, and raise."""
        try:
            if isinstance(error, Unasked) and self.question() is None:
                return self._answer(error.args[0], repeat)
            if batch is None and self.callbacks.is_interrupted:
                batch = []
            if batch is not None:
                self._tell_beside(error, batch)
        except BaseException as raised:
            self._look_after(raised)
            raise
        if batch is not None:
            self._look_after(error)
        raise error

    def _look_after(self, error: BaseException) -> None:
        """Have models be in the state that is recorded, where one was interrupted when it was asked, or told."""
        if not isinstance(error, (TaskfoldError, Unasked)):
            self._is_unsettled = True
            with suppress(LogError, Unreadable, ListenerError):
                self._look()

    @in_turn
    def _look(self) -> None:
        """Put right what was interrupted, as every turn does."""

    def _answer(self, question: Question, repeat: Callable[[], T]) -> T:
        """Ask models what they may refuse, and repeat the call that found that out.

        Raises CallbackRefused and ListenerError.

        While they are asked, and what they agreed to is written, no other thread tells them anything, or asks.
        """
        if self.callbacks.is_mine:  # from a callback
            return self._agreed(question, repeat)
        batch: list[News] = []
        try:
            result = self.callbacks.hold(partial(self._agreed, question, repeat), batch)
            self._tell(batch)
        except BaseException as error:
            self._tell_beside(error, batch)
            raise
        return result

    def _agreed(self, question: Question, repeat: Callable[[], T]) -> T:
        """Ask, and repeat the call; again where others have written to the allocations meanwhile.

        Raises CallbackRefused.
        """
        questions, thread = self.questions, threading.get_ident()
        for _ in range(_ASK_TIMES):
            for one in question.bound:
                one.ask()
            try:
                questions[thread] = question
                return repeat()
            except Unasked as unasked:
                question = unasked.args[0]
            finally:
                # Without a call, since only calls are interrupted.
                if thread in questions:
                    del questions[thread]
        one = question.bound[0]
        raise CallbackRefused(
            f"task {one.task!r}: allocation {one.alloc} was written to each of the {_ASK_TIMES} times that its model "
            "was asked: conditions and before_ callbacks must neither write to it nor wait for who does"
        )

    def _tell(self, batch: list[News]) -> None:
        """Tell who is to hear of what was recorded. Raises ListenerError with what is this thread's own of it."""
        self.callbacks.tell(batch)
        problems = [problem for news in batch for problem in news.problems]
        if problems:
            own = [news for news in batch if news.thread == threading.get_ident()]
            batch.clear()
            raise ListenerError(
                problems,
                records=[record for news in own for record in news.records],
                steps=[step for news in own for step in news.steps],
            )

    def _tell_beside(self, error: BaseException, batch: list[News]) -> None:
        """Tell who is to hear of what was recorded, though an error is on its way, which takes what is raised.

        Where it interrupts who wrote, the steps that are lost with it are owed.
        """
        try:
            self.callbacks.tell(batch)
        finally:
            if not isinstance(error, TaskfoldError):
                own = (news for news in batch if news.thread == threading.get_ident())
                self.owed.update({id(step): step for news in own for step in news.steps})
            add_notes(error, [problem for news in batch for problem in news.problems])

    def _is_recorded(self, appends: Sequence[Append], after_seq: int) -> bool:
        """Tell whether a write that was interrupted is in the log, and in the state."""
        if self.store.is_unsettled or self.store.seq == after_seq:
            return False
        return self.has_record(appends[0].records[0])

    def has_record(self, record: Record) -> bool:
        """Tell whether a record that was to be written is in the log; not, where nobody knows yet."""
        newest = None
        with suppress(LogError, Unreadable):
            newest = next(iter(self.store.log.read(record.alloc, record.version - 1)), None)
        return newest is not None and (newest.index, newest.event) == (record.index, record.event)


class Unasked(Exception):
    """A write has to wait until models were asked the question that is its argument: they may refuse it."""
