"""Callbacks: the order in which the callbacks of models and listeners run, and the thread that runs them.

Callbacks run after the write is recorded and its turn is over. Nothing is locked then, so that a callback may wait for
any thread that reads or writes. One thread at a time has the role of running callbacks, in the order of the records:
usually the thread that wrote. A thread that writes meanwhile, from a callback or elsewhere, leaves its callbacks to the
thread with the role, which runs them before it returns. So a thread that a callback waits for can finish, and no two
callbacks run at the same time.

A thread whose write a model may refuse asks the model while it holds the same role, so that the model neither moves nor
is asked by another thread before the answer is recorded.
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

__all__ = ["Callbacks", "Notification", "add_notes", "call_all"]

T = TypeVar("T")

PENDING: Final = 1_024
"""How many pending callbacks may be left to the thread with the role; beyond it, a writer waits and runs them itself.
"""
WAIT_SECONDS: Final = 10.0
"""The longest wait for the role."""
_LOOKS_EVERY: Final = 0.05
"""The interval at which a waiting thread checks the role without being woken (seconds)."""
_ROLE: Final = "role"


class Notification:
    """The pending calls of one write, the thread that wrote it, and the exceptions of the calls."""

    __slots__ = ("calls", "problems", "records", "steps", "thread")

    def __init__(
        self, calls: Sequence[Callable[[], object]], *, records: Sequence[Record] = (), steps: Sequence[Step] = ()
    ) -> None:
        """Take the calls, in order, the records of the write, and the steps that its caller gets."""
        self.calls = deque(calls)
        self.problems: list[Exception] = []
        self.records = records
        self.steps = steps
        self.thread = threading.get_ident()


class _Holder:
    """One acquisition of the role by a thread."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Callbacks:
    """The pending callbacks, and the role of the thread that runs them.

    >>> callbacks, batch = Callbacks(), []
    >>> def first():
    ...     callbacks.pending.append(Notification([lambda: print("second")]))
    ...     callbacks.deliver(batch)  # within a callback: the outer call runs it
    ...     print("first")
    >>> callbacks.pending.append(Notification([first]))
    >>> callbacks.deliver(batch)
    first
    second
    >>> len(batch)
    2
    """

    def __init__(self) -> None:
        self.pending: deque[Notification] = deque()
        """The oldest first. A writer adds to them in its turn, and calls `deliver` after it."""
        # A dictionary, as its single operations cannot be interrupted: an interrupted holder leaves no lock behind.
        self._role: dict[str, _Holder] = {}
        self._waiting: dict[SimpleQueue[None], None] = {}

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the role: it asks a model, or runs a callback."""
        holder = self._role.get(_ROLE)
        return holder is not None and holder.thread == threading.get_ident()

    @property
    def is_interrupted(self) -> bool:
        """Whether the oldest pending callbacks are of this thread: it runs them now, or was interrupted before."""
        with suppress(IndexError):  # another thread has run them meanwhile
            return self.pending[0].thread == threading.get_ident()
        return False

    def deliver(self, batch: list[Notification]) -> None:
        """Run all pending callbacks, and add them to ``batch``; if another thread has the role, leave them to it.

        An exception outside Exception, such as KeyboardInterrupt, is raised after all calls. A thread that waits for
        the role gets it once this thread has run its own callbacks.
        """
        interruption: BaseException | None = None
        role = self._role
        while self.pending:
            holder = _Holder()
            try:
                if not self._has(holder):
                    break
                interruption = self._deliver(batch) or interruption
            finally:
                # No function call here, as only calls can be interrupted.
                if _ROLE in role and role[_ROLE] is holder:
                    del role[_ROLE]
            # Checked after releasing the role: a thread that stops waiting before this point left its callbacks to this
            # one.
            if self._waiting:
                self._wake()
                break
        if interruption is not None:
            raise interruption

    def hold(self, call: Callable[[], T], batch: list[Notification]) -> T:
        """Acquire the role, run all pending callbacks, call a function, and run the callbacks it caused.

        Raises CallbacksBusy when another thread keeps the role for `WAIT_SECONDS`; else as `deliver` does.
        """
        role, holder = self._role, _Holder()
        try:
            self._take(holder)
            interruption = self._deliver(batch, is_whole=True)
            result = call()
            interruption = self._deliver(batch) or interruption
        finally:
            if _ROLE in role and role[_ROLE] is holder:
                del role[_ROLE]
        if self._waiting:
            self._wake()
        if interruption is not None:
            raise interruption
        return result

    def _has(self, holder: _Holder) -> bool:
        """Acquire the role if it is free; wait for it only if too much is pending. Tell whether this thread has it."""
        if self._role.setdefault(_ROLE, holder) is holder:
            return True
        if len(self.pending) > PENDING and not self.is_mine:
            with suppress(CallbacksBusy):  # then the thread with the role runs them
                self._take(holder)
                return True
        return False

    def _deliver(self, batch: list[Notification], *, is_whole: bool = False) -> BaseException | None:
        """Run the pending callbacks, whatever they raise; return an interruption. Requires the role."""
        interruption: BaseException | None = None
        thread = threading.get_ident()
        while self.pending:
            notification = self.pending[0]
            while notification.calls:
                try:
                    notification.problems += call_all(notification.calls)
                except BaseException as error:  # noqa: BLE001 - it is raised after all calls
                    interruption = interruption or error
            batch.append(notification)
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
        # A last try: the holder may have released the role without waking this thread.
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
    """Add the exceptions of listeners to an error, as notes."""
    for problem in problems:
        error.add_note(f"and a listener raised {type(problem).__name__}: {problem}")


def call_all(calls: deque[Callable[[], object]]) -> list[Exception]:
    """Call all functions, whatever they raise; return their exceptions.

    An exception outside Exception, such as KeyboardInterrupt, is raised after all calls.
    """
    problems: list[Exception] = []
    interruption: BaseException | None = None
    while calls:
        try:
            calls[0]()
        except Exception as problem:  # noqa: BLE001 - a listener may raise any exception
            problems.append(problem)
        except BaseException as error:  # noqa: BLE001 - raised again below
            interruption = interruption or error
        del calls[0]
    if interruption is not None:
        add_notes(interruption, problems)
        raise interruption
    return problems
