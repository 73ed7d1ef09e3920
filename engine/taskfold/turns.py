"""Turns: one writer at a time, of the threads of this process, and, where a log is shared, of all processes.

Every write of an engine happens in a turn. Where other processes write the log, too, a turn begins with what they have
appended, so that what is checked and decided is checked and decided on the state of all.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from taskfold.binding import Binding
from taskfold.clock import Clock, SystemClock
from taskfold.codecs.allocation import Snapshot
from taskfold.deciding import Decider
from taskfold.dialect import DEFAULT_DIALECT, Dialect
from taskfold.effects import Step
from taskfold.events import TaskEvent
from taskfold.log.contract import EventLog, SharedLog
from taskfold.log.memory import MemoryLog
from taskfold.reading import Reading
from taskfold.record import Finished
from taskfold.store import Store
from taskfold.watch import WAITERS_PER_KEY

__all__ = ["Turns"]


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
        self._turn = threading.RLock()
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._listeners: list[Callable[[Step], object]] = []
        self._on_collect: list[Callable[[Snapshot, str], object]] = []
        self._decider = Decider(self.store, random.Random(seed))  # noqa: S311 - jitter is no secret
        self._writing: AbstractContextManager[object] = (
            self._turn if self.store.shared is None else _SharedTurn(self, self.store.shared)
        )
        """The turn of a writer; where the log is shared, others cannot append meanwhile, and the state is as theirs."""

    def catch_up(self) -> int:
        """Take in what other processes have appended to the log; return how many records that were. O(records).

        An engine does so whenever it writes; `taskfold.shared.LogListener` has it do so as soon as they have.
        Raises LogError.
        """
        with self._turn:
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

    def _bound(
        self,
        binding: Binding,
        alloc: str,
        task: str,
        events: Sequence[TaskEvent | Finished],
        inner: Callable[[], None],
    ) -> Callable[[], None]:
        """Return what runs ``inner`` between the callbacks that come before the append and those after it."""

        def append() -> str:
            inner()
            return self.store.fold.owned(alloc).tasks[task].state

        return lambda: binding.run(task, events, append)


class _SharedTurn:
    """The turn of one writer of a log that other processes write, too."""

    def __init__(self, engine: Turns, log: SharedLog) -> None:
        self._engine = engine
        self._log = log

    def __enter__(self) -> None:
        """Take the turn of this process, then that of all, and take in what the others have appended."""
        engine = self._engine
        engine._turn.acquire()  # noqa: SLF001 - the two are one
        try:
            newest = self._log.begin_turn()
            try:
                if newest != engine.store.seq:
                    engine._take_in()  # noqa: SLF001
            except BaseException:
                self._log.end_turn()
                raise
        except BaseException:
            engine._turn.release()  # noqa: SLF001
            raise

    def __exit__(self, *_: object) -> None:
        """End both."""
        try:
            self._log.end_turn()
        finally:
            self._engine._turn.release()  # noqa: SLF001
