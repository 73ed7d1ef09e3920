"""Turns: one writer at a time, of the threads of this process, and, where a log is shared, of all processes.

Every write of an engine happens in a turn. Where other processes write the log, too, a turn begins with what they have
appended, so that what is checked and decided is checked and decided on the state of all.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from taskfold.binding import Binding
from taskfold.clock import Clock, SystemClock
from taskfold.codecs.allocation import Snapshot
from taskfold.deciding import Decider
from taskfold.dialect import DEFAULT_DIALECT, Dialect
from taskfold.effects import Step
from taskfold.errors import LogError, TaskfoldError
from taskfold.events import TaskEvent
from taskfold.log.contract import Append, EventLog, SharedLog
from taskfold.log.memory import MemoryLog
from taskfold.log.read_only import ReadOnlyLog
from taskfold.reading import Reading
from taskfold.record import Finished, Record
from taskfold.store import Store
from taskfold.watch import WAITERS_PER_KEY

__all__ = ["Bound", "Turns", "in_turn", "let_go", "writing"]

S = TypeVar("S", bound="Turns")
P = ParamSpec("P")
T = TypeVar("T")


def in_turn(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Have a method run in the turn of this process, on a state that is what the log holds.

    What an interruption left by half, in this turn or in the one before, is put right (`Turns._settle`).
    """
    return _turned(method, _run)


def writing(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Have a method run in a writer's turn: where other processes write the log, too, they cannot append meanwhile.

    What they have appended is taken in first, so that what is checked and decided is so on the state of all.
    """
    return _turned(method, _run_shared)


def _turned(
    method: Callable[Concatenate[S, P], T], run_shared: Callable[[Turns, SharedLog, Callable[[], T]], T]
) -> Callable[Concatenate[S, P], T]:
    @wraps(method)
    def run(engine: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with engine._turn:  # noqa: SLF001 - a method of the engine, as it were; a lock of C, which nothing leaves locked
            outer = engine._depth  # noqa: SLF001
            engine._depth = outer + 1  # noqa: SLF001
            try:
                if engine._is_unsettled and not outer:  # noqa: SLF001
                    engine._settle()  # noqa: SLF001
                if engine.store.shared is not None:
                    return run_shared(engine, engine.store.shared, lambda: method(engine, *args, **kwargs))
                return method(engine, *args, **kwargs)
            except BaseException as error:
                engine._note(error, is_outermost=not outer)  # noqa: SLF001
                raise
            finally:
                engine._depth = outer  # noqa: SLF001

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
    ) -> None:
        """Go on from a log, or begin in memory. O(records of the log).

        The index goes on from the log's. A clock that is a `taskfold.clock.Timer` governs how long waits last, too.
        A seed makes the jitter of restart delays the same in every run; without one it is random.
        """
        self.store = Store(MemoryLog(dialect) if log is None else log, waiters_per_key=waiters_per_key)
        """The state behind the engine, for faces that read much."""
        self.dialect = self.store.dialect
        self.clock: Clock = SystemClock() if clock is None else clock
        self._turn = self.store.turn
        self._depth = 0
        """How many turns are inside one another."""
        self._is_unsettled = False
        """A turn was interrupted: what is kept beside the state may not fit it, or the state not the log."""
        self._afterwards: list[deque[Callable[[], object]]] = []
        """What is to be called still, of each write that was recorded."""
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._owed: dict[int, Step] = {}
        """Steps that were recorded, and not returned to anybody yet."""
        # Dictionaries, whose single operations nothing interrupts: no lock is needed where a listener goes.
        self._listeners: dict[object, Callable[[Step], object]] = {}
        self._on_collect: dict[object, Callable[[Snapshot, str], object]] = {}
        self._decider = Decider(self.store, random.Random(seed))  # noqa: S311 - jitter is no secret
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
        if self.store.is_unsettled or not isinstance(error, TaskfoldError):
            self._is_unsettled = True
        if is_outermost and self.store.shared is not None:
            self.store.shared.end_turn()  # where that was interrupted
        if is_outermost and self._is_unsettled:
            with suppress(LogError):  # then the next turn tries again, and tells of it
                self._settle(error)

    def _settle(self, error: BaseException | None = None) -> None:
        """Have the state be what the log holds, and what is kept beside it, too; tell who was to be told still.

        O(tasks), and as `Store.settle`. Raises LogError when the log cannot be read. What a listener raises is noted
        with the error that interrupted it.
        """
        self.store.settle()
        known = self.store.fold
        for alloc in {alloc for alloc, _ in self._bindings if alloc not in known}:
            self._forget(alloc)
        for (alloc, task), binding in self._bindings.items():
            found = known.owned(alloc).tasks.get(task)
            binding.move("" if found is None else found.state)
        self._decider.begin()
        while self._afterwards:
            problems = _called(self._afterwards[-1])
            if error is not None:
                _add_notes(error, problems)
            self._afterwards.pop()
        self._is_unsettled = False

    @in_turn
    def catch_up(self) -> int:
        """Take in what other processes have appended to the log; return how many records that were. O(records).

        An engine does so whenever it writes; `taskfold.shared.LogListener` has it do so as soon as they have.
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
        for (alloc, name), binding in self._bindings.items():
            if alloc in touched:
                task = self.store.fold.owned(alloc).tasks.get(name)
                binding.move("" if task is None else task.state)

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
        bound: Sequence[Bound] = (),
        afterwards: Sequence[Callable[[], object]] = (),
    ) -> tuple[list[Record], list[Exception]]:
        """Write, with the callbacks of bound models around it, and call those who are to hear of it.

        Return the records that were new, and what was raised after they were recorded: everybody was called, whatever
        that is. Raises what refuses the write: then nothing changed.
        """
        for one in bound:
            one.binding.ask(one.task, one.events)
        calls = deque([*(call for one in bound for call in self._entered(one)), *afterwards])
        seq = self.store.seq
        try:
            records = self.store.commit(appends) if appends else []
        except BaseException as error:
            if isinstance(error, TaskfoldError) or not self._is_recorded(appends, seq):
                raise
            self._afterwards += (calls,)  # they are called when the turn ends
            raise
        self._afterwards += (calls,)
        problems = _called(calls)
        self._afterwards.remove(calls)
        return records, problems

    def _is_recorded(self, appends: Sequence[Append], after_seq: int) -> bool:
        """Tell whether a write that was interrupted is in the log, and in the state."""
        if self.store.is_unsettled or self.store.seq == after_seq:
            return False
        first, found = appends[0].records[0], None
        with suppress(LogError):  # then nobody knows yet
            found = next(iter(self.store.log.read(first.alloc, first.version - 1)), None)
        return found is not None and (found.index, found.event) == (first.index, first.event)

    def _entered(self, bound: Bound) -> list[Callable[[], object]]:
        """Return what a model is to hear of its events, one after the other, and what sets its state to the folded."""

        def move() -> None:
            allocation = self.store.fold.allocations.get(bound.alloc)
            task = None if allocation is None else allocation.tasks.get(bound.task)
            if task is not None:
                bound.binding.move(task.state)

        return [*(partial(bound.binding.enter, bound.task, event) for event in bound.events), move]


class Bound(NamedTuple):
    """A model that is bound to a task, and the events that are recorded of it."""

    binding: Binding
    alloc: str
    task: str
    events: Sequence[TaskEvent | Finished]


def let_go(listeners: dict[object, T], key: object) -> None:
    """End the listening of one; without it, do nothing."""
    listeners.pop(key, None)


def _add_notes(error: BaseException, problems: Sequence[Exception]) -> None:
    """Have an error tell what listeners raised beside it."""
    for problem in problems:
        error.add_note(f"and a listener raised {type(problem).__name__}: {problem}")


def _called(calls: deque[Callable[[], object]]) -> list[Exception]:
    """Call all of these, whatever one of them raises, and return that.

    What is no Exception, such as KeyboardInterrupt, is raised when all were called.
    """
    problems: list[Exception] = []
    interruption: BaseException | None = None
    while calls:
        try:
            calls[0]()
        except Exception as problem:  # noqa: BLE001 - a listener may raise what it likes
            problems.append(problem)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            interruption = interruption or error
        del calls[0]
    if interruption is not None:
        _add_notes(interruption, problems)
        raise interruption
    return problems
