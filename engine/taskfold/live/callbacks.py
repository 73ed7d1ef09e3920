"""Callbacks: which thread runs those of models and functions that listen, and in which order.

Callbacks run when the write is recorded and the turn is over. Nothing is locked then, so that a callback may
wait for any thread that reads or writes. One thread at a time tells, in the order of the records: the one that wrote.
Whoever writes meanwhile, from a callback or in another thread, waits for nobody: who tells tells of that, too, before
it returns. So a thread that a callback waits for comes to its end, and no callback runs beside another.

Whoever is about to write what a model may refuse asks it under the same role, so that nobody moves the model while it
is asked, and nobody else is asked before the answer is recorded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from taskfold.model.effects import Step
from taskfold.model.errors import CallbacksBusy
from taskfold.model.record import Record

__all__ = ["Callbacks", "News", "add_notes", "call_all"]

T = TypeVar("T")

PENDING: Final = 1_024
"""How much may be left to who tells; who writes more waits, and tells in its place."""
WAIT_SECONDS: Final = 10.0
"""How long anybody waits for the role."""
_LOOKS_EVERY: Final = 0.05
"""After how long who waits looks again, should it not have been woken (seconds)."""
_ROLE: Final = "role"


class News:
    """The pending calls of one write, the thread that wrote it, and what the calls raised."""

    __slots__ = ("calls", "problems", "records", "steps", "thread")

    def __init__(
        self, calls: Sequence[Callable[[], object]], *, records: Sequence[Record] = (), steps: Sequence[Step] = ()
    ) -> None:
        """Note what is to be called, in order, what was written, and the steps that who wrote it is to get."""
        self.calls = deque(calls)
        self.problems: list[Exception] = []
        self.records = records
        self.steps = steps
        self.thread = threading.get_ident()


class _Holder:
    """A thread that has the role, once."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Callbacks:
    """The pending news, and the thread that has the role to tell it.

    >>> callbacks, batch = Callbacks(), []
    >>> def first():
    ...     callbacks.pending.append(News([lambda: print("second")]))
    ...     callbacks.tell(batch)  # from a callback: who tells does so
    ...     print("first")
    >>> callbacks.pending.append(News([first]))
    >>> callbacks.tell(batch)
    first
    second
    >>> len(batch)
    2
    """

    def __init__(self) -> None:
        self.pending: deque[News] = deque()
        """The oldest first. Whoever adds to them has the turn, and calls `tell` when it is over."""
        # A dictionary, whose single operations nothing interrupts: no lock is left locked where a holder goes.
        self._role: dict[str, _Holder] = {}
        self._waiting: dict[SimpleQueue[None], None] = {}

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the role: it asks a model, or is in a callback."""
        holder = self._role.get(_ROLE)
        return holder is not None and holder.thread == threading.get_ident()

    @property
    def is_interrupted(self) -> bool:
        """Whether this thread has to tell what it wrote: it was interrupted when it was about to, or it does so now."""
        with suppress(IndexError):  # somebody has told it meanwhile
            return self.pending[0].thread == threading.get_ident()
        return False

    def tell(self, batch: list[News]) -> None:
        """Tell all pending news, and add it to ``batch``; where somebody has the role, leave it to them.

        What is no Exception, such as KeyboardInterrupt, is raised when everybody was told. Somebody who waits for the
        role gets it when this thread has told of its own.
        """
        interruption: BaseException | None = None
        role = self._role
        while self.pending:
            holder = _Holder()
            try:
                if not self._has(holder):
                    break
                interruption = self._tell(batch) or interruption
            finally:
                # Without a call, since only calls are interrupted.
                if _ROLE in role and role[_ROLE] is holder:
                    del role[_ROLE]
            # Looked at when the role is free: who has ceased to wait by then has left the rest to this thread.
            if self._waiting:
                self._wake()
                break
        if interruption is not None:
            raise interruption

    def hold(self, call: Callable[[], T], batch: list[News]) -> T:
        """Take the role, tell all pending news, call, and tell the news of the call.

        Raises CallbacksBusy when another thread has had the role for `WAIT_SECONDS`; else as `tell` does.
        """
        role, holder = self._role, _Holder()
        try:
            self._take(holder)
            interruption = self._tell(batch, is_whole=True)
            result = call()
            interruption = self._tell(batch) or interruption
        finally:
            if _ROLE in role and role[_ROLE] is holder:
                del role[_ROLE]
        if self._waiting:
            self._wake()
        if interruption is not None:
            raise interruption
        return result

    def _has(self, holder: _Holder) -> bool:
        """Take the role where it is free or, where too much is pending, wait; return whether this thread has it."""
        if self._role.setdefault(_ROLE, holder) is holder:
            return True
        if len(self.pending) > PENDING and not self.is_mine:
            with suppress(CallbacksBusy):  # then it is left to who tells
                self._take(holder)
                return True
        return False

    def _tell(self, batch: list[News], *, is_whole: bool = False) -> BaseException | None:
        """Tell with the role, whatever is raised; return what interrupted it."""
        interruption: BaseException | None = None
        thread = threading.get_ident()
        while self.pending:
            news = self.pending[0]
            while news.calls:
                try:
                    news.problems += call_all(news.calls)
                except BaseException as error:  # noqa: BLE001 - it is raised when everybody was told
                    interruption = interruption or error
            batch.append(news)
            del self.pending[0]
            if self._waiting and not is_whole and all(one.thread != thread for one in tuple(self.pending)):
                break
        return interruption

    def _take(self, holder: _Holder) -> None:
        """Wait for the role. Raises CallbacksBusy."""
        woken: SimpleQueue[None] = SimpleQueue()
        until = time.monotonic() + WAIT_SECONDS
        try:
            self._waiting[woken] = None
            while self._role.setdefault(_ROLE, holder) is not holder and time.monotonic() < until:
                with suppress(Empty):
                    woken.get(timeout=_LOOKS_EVERY)
        finally:
            self._waiting.pop(woken, None)
        # Once more, since who had it may have left it to this thread.
        if self._role.setdefault(_ROLE, holder) is not holder:
            raise CallbacksBusy(
                f"another thread has run callbacks for {WAIT_SECONDS:g} seconds: one of them takes too long, or waits "
                "for this thread, which has to wait for it; a callback must not wait for a thread that writes what a "
                "model may refuse (by a condition, or before_<event>)"
            )

    def _wake(self) -> None:
        for woken in tuple(self._waiting):
            woken.put(None)


def add_notes(error: BaseException, problems: Sequence[Exception]) -> None:
    """Add what listeners raised to an error, as notes."""
    for problem in problems:
        error.add_note(f"and a listener raised {type(problem).__name__}: {problem}")


def call_all(calls: deque[Callable[[], object]]) -> list[Exception]:
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
        add_notes(interruption, problems)
        raise interruption
    return problems
