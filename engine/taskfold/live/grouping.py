"""Grouping: writes of several threads or tasks at the same time, in one append, with one wait for the disk.

Who finds nobody else at work writes alone, as if nobody else could come. Who comes while somebody writes puts what he
wants into a queue. One of those who wait there takes the next turn for all of them: each is drafted on the state that
the ones before will leave, all is written by one append, and each gets what came of his own. So it looks as if they had
come one after the other, each write with its index; and everything is acknowledged when it is on disk, as ever.

Whoever waits looks again after a while, and may take the role of who leads, so that nobody depends on a thread that was
interrupted. What it had not written is drafted anew; what it had written is known by what it was about to write.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, NamedTuple, TypeVar, TypeVarTuple, cast

from msgspec import Struct

from taskfold.live.ahead import Ahead, State
from taskfold.live.callbacks import add_notes
from taskfold.live.listeners import Listeners
from taskfold.live.models import NOTHING, Question
from taskfold.live.turns import Turns, writing
from taskfold.log.contract import Append
from taskfold.model.effects import Step
from taskfold.model.errors import ListenerError, LogError, TaskfoldError, Unreadable
from taskfold.model.record import Record

__all__ = ["Drafted", "Groups", "Outcome", "Request", "result_of", "steps_of"]

_LOOKS_EVERY: Final = 0.05
"""After how long who waits looks again, should it not have been woken (seconds)."""
_IDLE_ROUNDS: Final = 1
"""How often a leader lets other threads run without anybody coming before it goes on."""
_LEADER: Final = "leader"

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Drafted(Struct, Generic[T], frozen=True):
    """What is to be written together, and what its writer gets when it is."""

    result: T
    appends: Sequence[Append]
    steps: Sequence[Step] = ()
    """The decisions, in order: listeners hear of each."""
    question: Question = NOTHING


class Outcome(NamedTuple):
    """What came of a request."""

    drafted: Drafted[Any] | None = None
    error: BaseException | None = None
    is_alone: bool = False
    """It has to be written by itself."""


class Request:
    """What a thread, or a task, wants to have written."""

    __slots__ = ("attempt", "claim", "draft", "is_left", "loop", "notify", "outcome", "problems", "woken")

    def __init__(
        self,
        draft: Callable[[State], Drafted[Any]],
        loop: object = None,
        notify: Callable[[], object] | None = None,
    ) -> None:
        self.draft = draft
        self.loop = loop
        """Where a task waits; None where a thread does."""
        self.notify = notify
        """Wakes the task."""
        self.woken: SimpleQueue[None] = SimpleQueue()
        self.outcome: Outcome | None = None
        self.attempt: Drafted[Any] | None = None
        """What somebody was about to write of it."""
        self.problems: list[Exception] = []
        """What listeners raised when this thread told them."""
        self.is_left = False
        """Nobody waits for the outcome any more."""
        self.claim: list[None] = [None]
        """Taken out by who sees to steps that nobody waits for."""

    def wake(self) -> None:
        """Wake the waiting thread or task."""
        self.woken.put(None)
        if self.notify is not None:
            with suppress(RuntimeError):  # its event loop is closed
                self.notify()


class Groups:
    """Writes what is drafted: alone, or together with what others want who come at the same time."""

    def __init__(self, turns: Turns, *, is_grouping: bool) -> None:
        """Write in turns; ``is_grouping`` where it gains something: by a log that waits for a disk."""
        self._turns = turns
        self.is_grouping = is_grouping
        self.listeners = Listeners[Step]()
        """They hear of every step when the turn is over."""
        self.recorders = Listeners[Step]()
        """Our own, called in the turn: they neither wait nor lock."""
        # Dictionaries, whose single operations nothing interrupts: no lock is left locked where a leader goes.
        self.requests: dict[Request, None] = {}
        """What threads and tasks want to have written, and wait for."""
        self.roles: dict[Hashable, object] = {}
        """Who leads: of the threads, and of the tasks of each loop."""
        self._crowd = 0
        """How many requests were written together the last time."""
        self._turn_owner = threading.Condition(turns.lock)
        """Tells whose the turn is."""

    def write(self, draft: Callable[[State, *Ts], Drafted[T]], *args: *Ts) -> T:
        """Write what a function drafts: by itself where nobody else is at work, else together with what others want."""
        is_lone = not (self._turns.depth or self.requests or self._crowd > 1)
        if is_lone or not self.is_grouping or self._owns_turn():
            return self.write_alone(draft, *args)
        request = Request(lambda state: draft(state, *args))
        return self._write_together(request, partial(self.write_alone, draft, *args))

    @writing
    def write_alone(self, draft: Callable[..., Drafted[T]], *args: Any) -> T:
        """Write what a function drafts, in a turn of its own."""
        turns = self._turns
        drafted = draft(turns.core, *args)
        steps = drafted.steps
        if not steps and drafted.question is NOTHING:
            turns.store.commit(drafted.appends)  # nobody is to be told
            return drafted.result
        self.commit_steps(steps, drafted.appends, drafted.question, result_steps=steps)
        for step in steps:
            turns.owed.pop(id(step), None)
        return drafted.result

    def commit_steps(
        self, steps: Sequence[Step], appends: Sequence[Append], question: Question, result_steps: Sequence[Step] = ()
    ) -> None:
        """Write what was decided, owe it, plan what is due, and tell who listens."""
        pairs = [(step,) for step in steps]
        self._turns.commit(
            appends,
            question,
            at_once=[partial(self._plan, steps), *self.recorders.calls(pairs)],
            afterwards=self.listeners.calls(pairs),
            steps=result_steps,
        )

    def _plan(self, steps: Sequence[Step]) -> None:
        """Owe steps that were recorded, and plan what is due after them."""
        self._turns.owe(steps)
        self._turns.plan(steps)

    def _owns_turn(self) -> bool:
        """Return whether this thread has the turn already: from a signal's handler, it would wait for itself."""
        try:
            self._turn_owner.notify(0)
        except RuntimeError:
            return False
        return True

    # --- who waits ---

    def _write_together(self, request: Request, alone: Callable[[], T]) -> T:
        """Write a request with those of others; by itself where it has to be."""
        requests = self.requests
        try:
            requests[request] = None
            self.wait_for(request)
            assert request.outcome is not None
            if request.outcome.drafted is not None and not request.problems:
                return cast("T", request.outcome.drafted.result)
        except BaseException:
            # Without a call, since only calls are interrupted.
            request.is_left = True
            self.owe_left(request)
            raise
        finally:
            if request in requests:
                del requests[request]
        return result_of(request.outcome, alone, request.problems)

    def wait_for(self, request: Request) -> None:
        """Return when there is an outcome, which this thread may bring about, or nobody waits for it any more."""
        role = self.roles
        while request.outcome is None and not request.is_left:
            try:
                if role.setdefault(_LEADER, request) is request:
                    self._lead(request)
                else:
                    with suppress(Empty):
                        request.woken.get(timeout=_LOOKS_EVERY)
            finally:
                if _LEADER in role and role[_LEADER] is request:
                    del role[_LEADER]

    def owe_left(self, request: Request) -> None:
        """Owe the steps of a request that were recorded, where nobody waits for them any more."""
        if request.is_left and request.outcome is not None and request.outcome.drafted is not None:
            with suppress(IndexError):
                request.claim.pop()
                self._turns.owe(request.outcome.drafted.steps)

    def owe(self, steps: Sequence[Step]) -> None:
        """Owe steps whose writer is gone, from outside of a turn."""
        self._turns.owe(steps)

    # --- who leads ---

    def _lead(self, request: Request) -> None:
        """Take the turn for all who wait, and tell who listens."""
        self._gather()
        waiting = tuple(self.requests)
        try:
            self._write_requests(request)
        except (LogError, Unreadable) as error:  # there was no turn
            for one in waiting:
                if one.outcome is None:
                    one.outcome = Outcome(error=copy.copy(error))
                    one.wake()
        except ListenerError as error:
            request.problems += error.exceptions

    def _gather(self) -> None:
        """Let those come who came together before: they have just been woken, and their next writes are at hand."""
        idle, count = 0, 0
        while count < self._crowd and idle < _IDLE_ROUNDS:
            before = count
            time.sleep(0)  # others run
            count = len(self.requests)
            idle = 0 if count > before else idle + 1

    @writing
    def _write_requests(self, leader: Request) -> None:
        """Draft what all want who wait, one after the other, write it by one append, and wake them."""
        try:
            self._write_all([one for one in tuple(self.requests) if one.outcome is None and not one.is_left])
        finally:
            # Before anybody is told: a listener may wait for a thread that writes.
            if _LEADER in self.roles and self.roles[_LEADER] is leader:
                del self.roles[_LEADER]
            for one in tuple(self.requests):
                if one.outcome is None:
                    one.woken.put(None)  # it leads next
                    break

    def _write_all(self, requests: Sequence[Request]) -> None:
        self._crowd = len(requests)
        ahead = Ahead(self._turns.core)
        outcomes: list[tuple[Request, Outcome]] = []
        appends: list[Append] = []
        for request in requests:
            drafted = request.attempt
            if drafted is not None and drafted.appends and self._turns.has_record(drafted.appends[0].records[0]):
                outcomes.append((request, Outcome(drafted)))  # who led was interrupted when it was recorded
                continue
            outcome = self._drafted(request, ahead)
            outcomes.append((request, outcome))
            if outcome.drafted is not None:
                request.attempt = outcome.drafted
                appends += outcome.drafted.appends
                for record in chain.from_iterable(append.records for append in outcome.drafted.appends):
                    ahead.take(record)
        try:
            self._commit_all(outcomes, appends)
        except ListenerError:
            raise
        except TaskfoldError as error:
            # Nothing changed. What is wrong with the log is wrong for all; else each finds out by itself.
            for request, _ in outcomes:
                is_for_all = isinstance(error, LogError)
                request.outcome = Outcome(error=copy.copy(error)) if is_for_all else Outcome(is_alone=True)
                request.wake()

    def _drafted(self, request: Request, ahead: Ahead) -> Outcome:
        """Draft what somebody wants; what refuses it is for him."""
        try:
            drafted = request.draft(ahead)
        except TaskfoldError as refusal:
            return Outcome(error=refusal)
        except Exception:
            # An alarm of this thread, or a clock that raises: who wants it finds out.
            request.outcome = Outcome(is_alone=True)
            request.wake()
            raise
        # Models may have to be asked, between two turns.
        return Outcome(is_alone=True) if drafted.question is not NOTHING else Outcome(drafted)

    def _commit_all(self, outcomes: Sequence[tuple[Request, Outcome]], appends: Sequence[Append]) -> None:
        """Write, and give each who waits the outcome of his own, all or none of them."""
        at_once: list[Callable[[], object]] = []
        afterwards: list[Callable[[], object]] = []
        for request, outcome in outcomes:
            if outcome.drafted is not None and outcome.drafted.steps:
                steps = outcome.drafted.steps
                pairs = [(step,) for step in steps]
                at_once += partial(self._turns.plan, steps), *self.recorders.calls(pairs)
                afterwards += self.listeners.calls(pairs)
            # Of C, which nothing interrupts: there is an outcome, or there is none.
            at_once += partial(setattr, request, "outcome", outcome), partial(self.owe_left, request)
            at_once.append(request.wake)
        self._turns.commit(appends, NOTHING, at_once=at_once, afterwards=afterwards)


def result_of(outcome: Outcome | None, alone: Callable[[], T], problems: Sequence[Exception] = ()) -> T:
    """Return the result of a request, or write it alone. Raises ListenerError with its thread's problems."""
    assert outcome is not None
    try:
        if outcome.error is not None:
            raise outcome.error
        result = alone() if outcome.drafted is None else cast("T", outcome.drafted.result)
    except TaskfoldError as error:
        add_notes(error, problems)
        raise
    if problems:
        records = [one for one in _each_of(result) if isinstance(one, Record)]
        raise ListenerError(problems, records=records, steps=steps_of(result))
    return result


def _each_of(result: object) -> Sequence[object]:
    return result if isinstance(result, list) else [result]


def steps_of(result: object) -> list[Step]:
    """Return the steps of what a writer gets."""
    return [one for one in _each_of(result) if isinstance(one, Step)]
