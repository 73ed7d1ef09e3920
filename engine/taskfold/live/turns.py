"""Turns: one writer at a time, of the threads of this process, and, where a log is shared, of all processes.

Every write of an engine happens in a turn. Where other processes write the log, too, a turn begins with what they have
appended, so that what is checked and decided is checked and decided on the state of all.
"""

from __future__ import annotations

import os
import random
import threading
from collections import deque
from collections.abc import Callable, Container, Hashable, Sequence
from contextlib import suppress
from functools import partial, wraps
from itertools import chain
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from taskfold.fold.binding import Binding
from taskfold.live.arguments import Durability, check_durability
from taskfold.live.deciding import Decider, Known
from taskfold.live.folding import Folding
from taskfold.live.reader import Reader
from taskfold.live.reading import Reading
from taskfold.live.store import Store
from taskfold.live.telling import News, Telling, add_notes, call_all
from taskfold.live.waiters import WAITERS_PER_KEY
from taskfold.log.contract import Append, EventLog, SharedLog
from taskfold.log.memory import MemoryLog
from taskfold.log.read_only import ReadOnlyLog
from taskfold.model.clock import Clock, SystemClock
from taskfold.model.dialect import DEFAULT_DIALECT, Dialect
from taskfold.model.effects import Step
from taskfold.model.errors import CallbackRefused, ListenerError, LogError, TaskfoldError, Unreadable
from taskfold.model.events import TaskEvent
from taskfold.model.record import Finished, Record
from taskfold.nomad.snapshot import Snapshot

__all__ = ["NOTHING", "Bound", "Question", "Turns", "Unasked", "in_turn", "let_go", "writing"]

_ASKED_TIMES: Final = 16
"""How often a model is asked of one write, where others write to its allocation meanwhile."""

S = TypeVar("S", bound="Turns")
P = ParamSpec("P")
T = TypeVar("T")


def in_turn(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Have a method run in the turn of this process, on a state that is what the log holds.

    What an interruption left by half, in this turn or in the one before, is put right (`Turns._settle`). When the turn
    is over, and nothing is locked, whoever is to hear of what was recorded is told.
    """
    return _turned(method, _run)


def writing(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Have a method run in a writer's turn: where other processes write the log, too, they cannot append meanwhile.

    What they have appended is taken in first, so that what is checked and decided is so on the state of all. Where it
    writes what a model may refuse, it ends before that; the model is asked when nothing is locked, and then the method
    runs once more.
    """
    return _turned(method, _run_shared)


def _turned(
    method: Callable[Concatenate[S, P], T], run_shared: Callable[[Turns, SharedLog, Callable[[], T]], T]
) -> Callable[Concatenate[S, P], T]:
    @wraps(method)
    def run(engine: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        told: list[News] | None = None
        outer = 1
        try:
            with engine._turn:  # noqa: SLF001 - a method of the engine, as it were; a lock of C, which nothing leaves locked
                outer = engine._depth  # noqa: SLF001
                engine._depth = outer + 1  # noqa: SLF001
                try:
                    if engine._is_unsettled and not outer:  # noqa: SLF001
                        engine._settle()  # noqa: SLF001
                    if engine.store.shared is not None:
                        result = run_shared(engine, engine.store.shared, lambda: method(engine, *args, **kwargs))
                    else:
                        result = method(engine, *args, **kwargs)
                except BaseException as error:
                    engine._note(error, is_outermost=not outer)  # noqa: SLF001
                    raise
                finally:
                    engine._depth = outer  # noqa: SLF001
                    if not outer and (engine._has_news or engine._telling.untold):  # noqa: SLF001
                        told = engine._own_news()  # noqa: SLF001
            if told is not None:
                engine._tell(told)  # noqa: SLF001
        except BaseException as error:
            if outer or (told is None and isinstance(error, TaskfoldError)):
                raise
            return engine._go_on(error, told, partial(run, engine, *args, **kwargs))  # noqa: SLF001
        return result

    return run


def _run(_: Turns, __: SharedLog, call: Callable[[], T]) -> T:
    return call()


def _run_shared(engine: Turns, log: SharedLog, call: Callable[[], T]) -> T:
    newest = log.begin_turn()
    try:
        if newest != engine.store.seq:
            engine._take_in()  # noqa: SLF001 - a method of the engine, as it were
        return call()
    finally:
        log.end_turn()


class Turns(Reading):
    """What the writing sides of an engine share: its state, and whose turn it is."""

    def __init__(
        self,
        log: EventLog | None = None,
        *,
        dialect: str | Dialect = DEFAULT_DIALECT,
        clock: Clock | None = None,
        waiters_per_key: int = WAITERS_PER_KEY,
        seed: int | None = None,
        folding: Folding | None = None,
        durability: Durability = "batch",
    ) -> None:
        """Go on from a log, or begin in memory. O(records of the log).

        What several threads or tasks write at the same time is written together, with one wait for the disk, unless
        ``durability`` is ``each``; every write is acknowledged when it is on disk, either way.

        ``folding`` has the state already, where it took in the log's records when that was opened.
        The index goes on from the log's. A clock that is a `model.clock.Timer` governs how long waits last, too.
        A seed makes the jitter of restart delays the same in every run; without one it is random.
        """
        check_durability(durability)
        if isinstance(log, (str, os.PathLike)):
            raise LogError(f"expected a log, found the path {os.fspath(log)!r}: Engine.open(path) opens the log there")
        log = MemoryLog(dialect) if log is None else log
        self.store = Store(log, waiters_per_key=waiters_per_key, folding=folding)
        """The state behind the engine: its own, not for faces."""
        self.reader = Reader(self.store)
        """Reads the state for faces, and waits for it."""
        self.dialect = self.store.dialect
        self.clock: Clock = SystemClock() if clock is None else clock
        self._turn = self.store.turn
        self._depth = 0
        """How many turns are inside one another."""
        self._is_unsettled = False
        """A turn was interrupted: what is kept beside the state may not fit it, or the state not the log."""
        self._afterwards: list[deque[Callable[[], object]]] = []
        """What is to be called still in the turn, of each write that was recorded."""
        self._telling = Telling()
        """What is to be called when the turn is over."""
        self._has_news = False
        """There is some since the turn began."""
        self._questions: dict[int, Question] = {}
        """What a thread has asked models, and is about to write."""
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._owed: dict[int, Step] = {}
        """Steps that were recorded, and not returned to anybody yet."""
        # Dictionaries, whose single operations nothing interrupts: no lock is needed where a listener goes.
        self._listeners: dict[object, Callable[[Step], object]] = {}
        self._recorders: dict[object, Callable[[Step], object]] = {}
        """Our own, who are told in the turn: they neither wait nor lock."""
        self._on_collect: dict[object, Callable[[Snapshot, str], object]] = {}
        self._decider = Decider(self.store, random.Random(seed))  # noqa: S311 - jitter is no secret
        self._is_grouping = durability == "batch" and hasattr(self.store.log, "sync")
        """What is written at the same time is written together: by a log that waits for a disk."""
        # Dictionaries, whose single operations nothing interrupts: no lock is left locked where a leader goes.
        self._requests: dict[Any, None] = {}
        """What threads and tasks want to have written, and wait for (`taskfold.live.grouping`)."""
        self._crowd = 0
        """How many of them were written together the last time."""
        self._group_roles: dict[Hashable, object] = {}
        self._turn_owner = threading.Condition(self._turn)
        """Tells whose the turn is."""
        self._own_with(self.store.log)

    @property
    def is_read_only(self) -> bool:
        """Whether the log was opened to be read only: then every method that writes raises ReadOnly."""
        return isinstance(self.store.log, ReadOnlyLog)

    def _check_writable(self) -> None:
        """Refuse what only who writes may ask for. Raises ReadOnly."""
        if isinstance(self.store.log, ReadOnlyLog):
            self.store.log.refuse()

    def _note(self, error: BaseException, *, is_outermost: bool) -> None:
        """Note what ends a turn; where it may have been interrupted, put right what is by half, if that can be now."""
        if self.store.is_unsettled or not isinstance(error, (TaskfoldError, Unasked)):
            self._is_unsettled = True
        if is_outermost and self.store.shared is not None:
            self.store.shared.end_turn()  # where that was interrupted
        if is_outermost and self._is_unsettled:
            with suppress(LogError, Unreadable):  # then the next turn tries again, and tells of it
                self._settle(error)

    def _settle(self, error: BaseException | None = None) -> None:
        """Have the state be what the log holds, and what is kept beside it, too; who was to be told still is told.

        O(tasks), and as `Store.settle`. Raises LogError when the log cannot be read.
        """
        self.store.settle()
        for alloc in {alloc for alloc, _ in self._bindings if alloc not in self.store.fold}:
            self._forget(alloc)
        self._decider.begin()
        while self._afterwards:
            problems = call_all(self._afterwards[-1])
            if error is not None:
                add_notes(error, problems)
            self._afterwards.pop()
        self._publish_moves({alloc for alloc, _ in self._bindings})
        self._is_unsettled = False

    @in_turn
    def catch_up(self) -> int:
        """Take in what other processes have appended to the log; return how many records that were. O(records).

        An engine does so whenever it writes; `taskfold.live.shared.LogListener` has it do so as soon as they have.
        Raises LogError.
        """
        before = self.store.seq
        if self.store.shared is not None:
            self._take_in()
        return self.store.seq - before

    def _take_in(self) -> None:
        """Take in what others have appended: their states, for models that are bound to them, too, and timers."""
        touched = self.store.catch_up()
        for alloc in touched:
            if alloc in self.store.fold:
                self._decider.replan(alloc)
            else:
                self._forget(alloc)
        self._publish_moves(touched)

    def _publish_moves(self, allocs: Container[str], records: Sequence[Record] = ()) -> None:
        """Have the models of allocations follow what is recorded, without callbacks, after what they are to hear."""
        moves = [
            partial(binding.move, self._state(alloc, task))
            for (alloc, task), binding in self._bindings.items()
            if alloc in allocs
        ]
        if moves:
            self._telling.untold.append(News(moves, records=records))
            self._has_news = True

    def _bound(self, binding: Binding, alloc: str, task: str, events: Sequence[TaskEvent | Finished]) -> Bound:
        """Return a model with what it is to hear, and where its task stands."""
        return Bound(binding, alloc, task, events, self._state(alloc, task), self.store.fold.owned(alloc).version)

    def _state(self, alloc: str, task: str) -> str:
        """Return the state of a task, as it is recorded."""
        allocation = self.store.fold.allocations.get(alloc)
        found = None if allocation is None else allocation.tasks.get(task)
        return "" if found is None else found.state

    def _forget(self, alloc: str) -> None:
        """Let go of what is kept for an allocation that was collected."""
        self._decider.forget(alloc)
        for key in [key for key in self._bindings if key[0] == alloc]:
            del self._bindings[key]

    def _check(self) -> None:
        """Assert every invariant: among them that nothing is kept for an allocation that is gone."""
        self.store._check()  # noqa: SLF001 - the check of a part is a part of the check
        self._decider._check()  # noqa: SLF001
        assert {alloc for alloc, _ in self._bindings} <= self.store.fold.allocations.keys()

    def _commit(
        self,
        appends: Sequence[Append],
        question: Question,
        *,
        at_once: Sequence[Callable[[], object]] = (),
        afterwards: Sequence[Callable[[], object]] = (),
        steps: Sequence[Step] = (),
    ) -> list[Record]:
        """Write, and have told who is to hear of it: some in this turn, bound models and others when it is over.

        Return the records that were new. Raises what refuses the write, and Unasked where models have to be asked
        before: then nothing changed.
        """
        bound = question.bound
        if bound and any(one.binding.may_refuse(one.events) for one in bound):
            asked = self._asked()
            if asked is None or asked.bound != bound:
                raise Unasked(question)
        calls = deque(at_once)
        news = None
        if bound or afterwards:
            news = News([*chain.from_iterable(map(_entered, bound)), *afterwards], steps=steps)
            calls.append(partial(self._telling.untold.append, news))  # of C: nothing interrupts it
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
        """Return what is to hold the news that this thread tells; None where none are its own. In the turn."""
        has_news, self._has_news = self._has_news or self._telling.is_interrupted, False
        return [] if has_news else None

    def _asked(self) -> Question | None:
        """Return what this thread has asked models, and is about to write."""
        return self._questions.get(threading.get_ident()) if self._questions else None

    def _go_on(self, error: BaseException, told: list[News] | None, repeat: Callable[[], T]) -> T:
        """Ask models that have to be asked first, and repeat the call; else tell who is to be told, and raise."""
        try:
            if isinstance(error, Unasked) and self._asked() is None:
                return self._answer(error.args[0], repeat)
            if told is None and self._telling.is_interrupted:
                told = []
            if told is not None:
                self._tell_beside(error, told)
        except BaseException as raised:
            self._look_after(raised)
            raise
        if told is not None:
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
        if self._telling.is_mine:  # from a callback
            return self._agreed(question, repeat)
        told: list[News] = []
        try:
            result = self._telling.hold(partial(self._agreed, question, repeat), told)
            self._tell(told)
        except BaseException as error:
            self._tell_beside(error, told)
            raise
        return result

    def _agreed(self, question: Question, repeat: Callable[[], T]) -> T:
        """Ask, and repeat the call; again where others have written to the allocations meanwhile.

        Raises CallbackRefused.
        """
        questions, thread = self._questions, threading.get_ident()
        for _ in range(_ASKED_TIMES):
            for one in question.bound:
                one.binding.ask(one.task, one.events, state=one.state)
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
            f"task {one.task!r}: allocation {one.alloc} was written to each of the {_ASKED_TIMES} times that its model "
            "was asked: conditions and before_ callbacks must neither write to it nor wait for who does"
        )

    def _tell(self, told: list[News]) -> None:
        """Tell who is to hear of what was recorded. Raises ListenerError with what is this thread's own of it."""
        self._telling.tell(told)
        problems = [problem for news in told for problem in news.problems]
        if problems:
            own = [news for news in told if news.thread == threading.get_ident()]
            told.clear()
            raise ListenerError(
                problems,
                records=[record for news in own for record in news.records],
                steps=[step for news in own for step in news.steps],
            )

    def _tell_beside(self, error: BaseException, told: list[News]) -> None:
        """Tell who is to hear of what was recorded, though an error is on its way, which takes what is raised.

        Where it interrupts who wrote, the steps that are lost with it are owed.
        """
        try:
            self._telling.tell(told)
        finally:
            if not isinstance(error, TaskfoldError):
                own = (news for news in told if news.thread == threading.get_ident())
                self._owed.update({id(step): step for news in own for step in news.steps})
            add_notes(error, [problem for news in told for problem in news.problems])

    def _is_recorded(self, appends: Sequence[Append], after_seq: int) -> bool:
        """Tell whether a write that was interrupted is in the log, and in the state."""
        if self.store.is_unsettled or self.store.seq == after_seq:
            return False
        return self._has(appends[0].records[0])

    def _has(self, record: Record) -> bool:
        """Tell whether a record that was to be written is in the log; not, where nobody knows yet."""
        found = None
        with suppress(LogError, Unreadable):
            found = next(iter(self.store.log.read(record.alloc, record.version - 1)), None)
        return found is not None and (found.index, found.event) == (record.index, record.event)


class Bound(NamedTuple):
    """A model that is bound to a task, and the events that are to be recorded of it."""

    binding: Binding
    alloc: str
    task: str
    events: Sequence[TaskEvent | Finished]
    state: str
    """The task's, before them."""
    version: int
    """The allocation's, before them."""


class Question(NamedTuple):
    """What models are asked before a write, and what has to stay as it is until they have agreed."""

    bound: Sequence[Bound] = ()
    time_ns: int = 0
    """The time of the write."""
    decided: Sequence[Known] = ()
    """What was decided, where it was: for each input, in their order."""


NOTHING: Final = Question()


class Unasked(Exception):
    """A write has to wait until models were asked the question that is its argument: they may refuse it."""


def _entered(bound: Bound) -> list[Callable[[], object]]:
    """Return what a model is to hear of its events, one after the other, from the state before them."""
    binding = bound.binding
    return [partial(binding.move, bound.state), *(partial(binding.enter, bound.task, event) for event in bound.events)]


def let_go(listeners: dict[object, T], key: object) -> None:
    """End the listening of one; without it, do nothing."""
    listeners.pop(key, None)
