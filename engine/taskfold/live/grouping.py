"""Grouping: concurrent writes of threads and tasks share one append, and one wait for the disk.

A thread that finds no other at work writes alone, at no extra cost. A thread that comes during a write puts its request
into a queue. One of the waiting threads becomes the leader and takes the next turn for all: each request is drafted on
the state that the requests before it will leave, one append writes them all, and each gets its own outcome. The result
is the same as if they had come one after the other, each with its own index; everything is acknowledged when it is on
disk, as ever.

A waiting thread checks at intervals, and may become the leader, so that no thread depends on an interrupted one.
Requests that the interrupted leader had not written are drafted again; written ones are recognised by their drafts.
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

from taskfold.live.callbacks import add_notes
from taskfold.live.listeners import Listeners
from taskfold.live.models import NOTHING, ModelQuestion
from taskfold.live.overlay import Overlay, StateLike
from taskfold.live.turns import Turns, writing
from taskfold.log.contract import Append
from taskfold.model.effects import Step
from taskfold.model.errors import ListenerError, LogError, TaskfoldError, Unreadable
from taskfold.model.record import Record

__all__ = ["Drafted", "Groups", "WriteOutcome", "WriteRequest", "result_of", "steps_of"]

_LOOKS_EVERY: Final = 0.05
"""The interval at which a waiting thread checks without being woken (seconds)."""
_IDLE_ROUNDS: Final = 1
"""How often a leader yields to other threads without a new request before it continues."""
_LEADER: Final = "leader"

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Drafted(Struct, Generic[T], frozen=True):
    """The appends of one request, and the result that its caller gets once they are written."""

    result: T
    appends: Sequence[Append]
    steps: Sequence[Step] = ()
    """The decisions, in order, for the listeners."""
    question: ModelQuestion = NOTHING


class WriteOutcome(NamedTuple):
    """The outcome of a request."""

    drafted: Drafted[Any] | None = None
    error: BaseException | None = None
    is_alone: bool = False
    """It must be written in a turn of its own."""


class WriteRequest:
    """A write that a thread or a task waits for."""

    __slots__ = ("attempt", "claim", "draft", "is_abandoned", "loop", "notify", "outcome", "problems", "woken")

    def __init__(
        self,
        draft: Callable[[StateLike], Drafted[Any]],
        loop: object = None,
        notify: Callable[[], object] | None = None,
    ) -> None:
        self.draft = draft
        self.loop = loop
        """The event loop of a waiting task; None for a thread."""
        self.notify = notify
        """Wakes the task."""
        self.woken: SimpleQueue[None] = SimpleQueue()
        self.outcome: WriteOutcome | None = None
        self.attempt: Drafted[Any] | None = None
        """The draft that a leader was about to write."""
        self.problems: list[Exception] = []
        """Exceptions of the listeners that this thread called."""
        self.is_abandoned = False
        """No thread waits for the outcome any more."""
        self.claim: list[None] = [None]
        """Emptied by the thread that takes charge of abandoned steps."""

    def wake(self) -> None:
        """Wake the waiting thread or task."""
        self.woken.put(None)
        if self.notify is not None:
            with suppress(RuntimeError):  # the event loop is closed
                self.notify()


class Groups:
    """Writes drafts: alone, or together with concurrent ones."""

    def __init__(self, turns: Turns, *, is_grouping: bool) -> None:
        """Write in turns; ``is_grouping`` if it pays, with a log that waits for a disk."""
        self._turns = turns
        self.is_grouping = is_grouping
        self.listeners = Listeners[Step]()
        """Called with every step, after the turn."""
        self.recorders = Listeners[Step]()
        """Internal listeners, called within the turn: they neither wait nor lock."""
        # Dictionaries, as their single operations cannot be interrupted: an interrupted leader leaves no lock behind.
        self.requests: dict[WriteRequest, None] = {}
        """The requests that threads and tasks wait for."""
        self.roles: dict[Hashable, object] = {}
        """The leaders: of the threads, and of the tasks of each event loop."""
        self._crowd = 0
        """The size of the last group."""
        self._turn_owner = threading.Condition(turns.lock)
        """Knows which thread has the turn."""

    def write(self, draft: Callable[[StateLike, *Ts], Drafted[T]], *args: *Ts) -> T:
        """Write the draft of a function: alone if no other thread is at work, otherwise in a group."""
        is_lone = not (self._turns.depth or self.requests or self._crowd > 1)
        if is_lone or not self.is_grouping or self._owns_turn():
            return self.write_alone(draft, *args)
        request = WriteRequest(lambda state: draft(state, *args))
        return self._write_together(request, partial(self.write_alone, draft, *args))

    @writing
    def write_alone(self, draft: Callable[..., Drafted[T]], *args: Any) -> T:
        """Write the draft of a function, in a turn of its own."""
        turns = self._turns
        drafted = draft(turns.core, *args)
        steps = drafted.steps
        if not steps and drafted.question is NOTHING:
            turns.store.commit(drafted.appends)  # there is nothing to call
            return drafted.result
        self.commit_steps(steps, drafted.appends, drafted.question, result_steps=steps)
        for step in steps:
            turns.owed.pop(id(step), None)
        return drafted.result

    def commit_steps(
        self,
        steps: Sequence[Step],
        appends: Sequence[Append],
        question: ModelQuestion,
        result_steps: Sequence[Step] = (),
    ) -> None:
        """Write decisions, owe their steps, plan their timers, and call the listeners."""
        pairs = [(step,) for step in steps]
        self._turns.commit(
            appends,
            question,
            at_once=[partial(self._plan, steps), *self.recorders.calls(pairs)],
            afterwards=self.listeners.calls(pairs),
            steps=result_steps,
        )

    def _plan(self, steps: Sequence[Step]) -> None:
        """Owe recorded steps, and plan their timers."""
        self._turns.owe(steps)
        self._turns.plan(steps)

    def _owns_turn(self) -> bool:
        """Return whether this thread has the turn: a signal handler that waited then would wait for its own thread."""
        try:
            self._turn_owner.notify(0)
        except RuntimeError:
            return False
        return True

    # --- waiting threads ---

    def _write_together(self, request: WriteRequest, alone: Callable[[], T]) -> T:
        """Write a request in a group, or alone if it must be."""
        requests = self.requests
        try:
            requests[request] = None
            self.wait_for(request)
            assert request.outcome is not None
            if request.outcome.drafted is not None and not request.problems:
                return cast("T", request.outcome.drafted.result)
        except BaseException:
            # No function call here, as only calls can be interrupted.
            request.is_abandoned = True
            self.owe_abandoned(request)
            raise
        finally:
            if request in requests:
                del requests[request]
        return result_of(request.outcome, alone, request.problems)

    def wait_for(self, request: WriteRequest) -> None:
        """Wait until a request has an outcome, or is abandoned; this thread may become the leader."""
        role = self.roles
        while request.outcome is None and not request.is_abandoned:
            try:
                if role.setdefault(_LEADER, request) is request:
                    self._lead(request)
                else:
                    with suppress(Empty):
                        request.woken.get(timeout=_LOOKS_EVERY)
            finally:
                if _LEADER in role and role[_LEADER] is request:
                    del role[_LEADER]

    def owe_abandoned(self, request: WriteRequest) -> None:
        """Owe the recorded steps of an abandoned request."""
        if request.is_abandoned and request.outcome is not None and request.outcome.drafted is not None:
            with suppress(IndexError):
                request.claim.pop()
                self._turns.owe(request.outcome.drafted.steps)

    def owe(self, steps: Sequence[Step]) -> None:
        """Owe steps whose caller is gone, outside a turn."""
        self._turns.owe(steps)

    # --- the leader ---

    def _lead(self, request: WriteRequest) -> None:
        """Take a turn for all waiting requests, and call the listeners."""
        self._gather()
        waiting = tuple(self.requests)
        try:
            self._write_requests(request)
        except (LogError, Unreadable) as error:  # the turn did not begin
            for one in waiting:
                if one.outcome is None:
                    one.outcome = WriteOutcome(error=copy.copy(error))
                    one.wake()
        except ListenerError as error:
            request.problems += error.exceptions

    def _gather(self) -> None:
        """Wait for the members of the last group: they were just woken, and will soon write again."""
        idle, count = 0, 0
        while count < self._crowd and idle < _IDLE_ROUNDS:
            before = count
            time.sleep(0)  # yields to other threads
            count = len(self.requests)
            idle = 0 if count > before else idle + 1

    @writing
    def _write_requests(self, leader: WriteRequest) -> None:
        """Draft all waiting requests, in order, write them by one append, and wake their threads."""
        try:
            self._write_all([one for one in tuple(self.requests) if one.outcome is None and not one.is_abandoned])
        finally:
            # Before the callbacks: a listener may wait for a thread that writes.
            if _LEADER in self.roles and self.roles[_LEADER] is leader:
                del self.roles[_LEADER]
            for one in tuple(self.requests):
                if one.outcome is None:
                    one.woken.put(None)  # it leads next
                    break

    def _write_all(self, requests: Sequence[WriteRequest]) -> None:
        self._crowd = len(requests)
        overlay = Overlay(self._turns.core)
        outcomes: list[tuple[WriteRequest, WriteOutcome]] = []
        appends: list[Append] = []
        for request in requests:
            drafted = request.attempt
            if drafted is not None and drafted.appends and self._turns.has_record(drafted.appends[0].records[0]):
                outcomes.append((request, WriteOutcome(drafted)))  # a leader was interrupted after the recording
                continue
            outcome = self._drafted(request, overlay)
            outcomes.append((request, outcome))
            if outcome.drafted is not None:
                request.attempt = outcome.drafted
                appends += outcome.drafted.appends
                for record in chain.from_iterable(append.records for append in outcome.drafted.appends):
                    overlay.take(record)
        try:
            self._commit_all(outcomes, appends)
        except ListenerError:
            raise
        except TaskfoldError as error:
            # Nothing changed. An error of the log is the outcome of all; after any other, each is written alone.
            for request, _ in outcomes:
                is_for_all = isinstance(error, LogError)
                request.outcome = WriteOutcome(error=copy.copy(error)) if is_for_all else WriteOutcome(is_alone=True)
                request.wake()

    def _drafted(self, request: WriteRequest, overlay: Overlay) -> WriteOutcome:
        """Draft a request; a refusal is its outcome."""
        try:
            drafted = request.draft(overlay)
        except TaskfoldError as refusal:
            return WriteOutcome(error=refusal)
        except Exception:
            # An alarm in this thread, or a failing clock: the request's own thread will raise it.
            request.outcome = WriteOutcome(is_alone=True)
            request.wake()
            raise
        # Models must approve it, between two turns.
        return WriteOutcome(is_alone=True) if drafted.question is not NOTHING else WriteOutcome(drafted)

    def _commit_all(self, outcomes: Sequence[tuple[WriteRequest, WriteOutcome]], appends: Sequence[Append]) -> None:
        """Write, and give each request its outcome, all or none."""
        at_once: list[Callable[[], object]] = []
        afterwards: list[Callable[[], object]] = []
        for request, outcome in outcomes:
            if outcome.drafted is not None and outcome.drafted.steps:
                steps = outcome.drafted.steps
                pairs = [(step,) for step in steps]
                at_once += partial(self._turns.plan, steps), *self.recorders.calls(pairs)
                afterwards += self.listeners.calls(pairs)
            # Calls of C functions, which cannot be interrupted: an outcome is set completely or not at all.
            at_once += partial(setattr, request, "outcome", outcome), partial(self.owe_abandoned, request)
            at_once.append(request.wake)
        self._turns.commit(appends, NOTHING, at_once=at_once, afterwards=afterwards)


def result_of(outcome: WriteOutcome | None, alone: Callable[[], T], problems: Sequence[Exception] = ()) -> T:
    """Return the result of a request, or write it alone. Raises ListenerError with its listeners' problems."""
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
    """Return the steps in a result."""
    return [one for one in _each_of(result) if isinstance(one, Step)]
