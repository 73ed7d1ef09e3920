"""Binding a model of one's own to a live task: transitions callbacks and conditions around what is recorded.

A binding builds a machine of its own from the lifecycle table (model classes with different methods on one machine
break each other) and runs it when an event is recorded live, never in replay:

1. the lifecycle table is asked first: an illegal event raises IllegalEvent, and no callback runs;
2. conditions, then ``before_<event>`` of the model. A false condition, or an exception, raises `Refused`; nothing
   was appended, nothing changed;
3. the append;
4. ``on_exit_<state>``, ``on_enter_<state>`` and ``after_<event>``. An exception there keeps nobody else from
   hearing; the record stays, the model's state is what was folded, and the caller gets a `ListenerError`.

Nothing is locked while a callback runs. It may read and write, and wait for other threads that do. Callbacks after the
append run one at a time, in the order of the records, also of different allocations. The thread that wrote runs them;
a write meanwhile, by a callback or by another thread, is recorded at once, and its callbacks come next, in the
thread that runs them already. So that other thread goes on before they have run, and what they raise reaches the first.
A model's ``state`` is that after the event which it hears of, though newer ones may be recorded.

Conditions and ``before_<event>`` come before the lock is taken. Where the allocation was written to meanwhile, they run
again, 16 times at most; then `Refused` says so. No other model is asked, and no callback runs, between the question and
the append. Only there may threads wait for one another: **a callback must not wait for a thread that writes an event
that a model may refuse.** After ten seconds that thread gets `CallbacksBusy`, and nothing of its write is recorded.

Callbacks get transitions' ``EventData``; its ``kwargs`` hold ``event`` (the typed event) and ``task`` (its name). No
method is added to the model, and none of its attributes is replaced but ``state``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from taskfold.fold.lifecycle import PENDING, STATES, Lifecycle, build_machine, lifecycle_of, trigger_name
from taskfold.model.dialect import Dialect
from taskfold.model.errors import CallbackRefused, Refused
from taskfold.model.events import TaskEvent, wire_type
from taskfold.model.record import Finished

if TYPE_CHECKING:
    from transitions import EventData, Machine

__all__ = ["Binding", "Condition"]

Condition: TypeAlias = "str | Callable[[EventData], bool]"
"""The name of a method of the model, or a function; either gets the EventData."""


class Binding:
    """One model on a machine of its own.

    >>> class Door:
    ...     def on_enter_running(self, data): print("it runs,", data.kwargs["task"])
    ...     def before_restarting(self, data): raise RuntimeError("not today")
    >>> from taskfold import events
    >>> binding = Binding(Door(), "1.1.2", state="pending")
    >>> binding.ask("web", [events.Started()])
    >>> binding.enter("web", events.Started())
    it runs, web
    >>> binding.ask("web", [events.Restarting()])
    Traceback (most recent call last):
    ...
    taskfold.errors.CallbackRefused: task 'web': Restarting was refused before it was recorded: RuntimeError: not today
    >>> binding.model.state
    'running'
    """

    def __init__(
        self,
        model: Any,
        dialect: str | Dialect,
        *,
        state: str,
        conditions: Mapping[str, Condition | Sequence[Condition]] | None = None,
        unless: Mapping[str, Condition | Sequence[Condition]] | None = None,
    ) -> None:
        """Bind a model to a task that is in this state.

        ``conditions`` and ``unless`` name, by trigger (such as ``restarting``), what must be true, or false.
        Raises TaskfoldError for a trigger that does not exist, and when the model cannot carry a ``state``.
        """
        self.model = model
        self._lifecycle: Lifecycle = lifecycle_of(dialect)
        self.machine: Machine = build_machine(dialect)
        self._is_appended = False
        """The approval is over: callbacks that run before the append are left out."""
        self._refusing = {
            name
            for name in self.machine.events
            if name in {*(conditions or {}), *(unless or {})} or getattr(model, f"before_{name}", None) is not None
        }
        """The triggers that the model has conditions or a ``before_`` for."""
        for name in (*(conditions or {}), *(unless or {})):
            if name not in self.machine.events:
                triggers, dialect_name = ", ".join(self.machine.events), self._lifecycle.dialect.name
                msg = f"{name!r} is no trigger of dialect {dialect_name}; there are {triggers}"
                raise Refused(msg)
        self._set_state(state or PENDING)  # a Nomad may not have told it yet
        self._connect(conditions or {}, unless or {})

    def _set_state(self, state: str) -> None:
        try:
            self.machine.set_state(state, self.model)
        except AttributeError as error:
            msg = f"the model {type(self.model).__name__} cannot carry the attribute 'state': {error}"
            raise Refused(msg) from None

    def _connect(
        self,
        conditions: Mapping[str, Condition | Sequence[Condition]],
        unless: Mapping[str, Condition | Sequence[Condition]],
    ) -> None:
        """Connect what the model has to its machine. transitions would find on_enter and on_exit only."""
        for state in STATES:
            for when in ("enter", "exit"):
                callback = getattr(self.model, f"on_{when}_{state}", None)
                if callback is not None:
                    self.machine.get_state(state).add_callback(when, callback)
        for name, trigger in self.machine.events.items():
            before, after = getattr(self.model, f"before_{name}", None), getattr(self.model, f"after_{name}", None)
            for transition in (t for transitions in trigger.transitions.values() for t in transitions):
                for target, guards in ((True, conditions.get(name, ())), (False, unless.get(name, ()))):
                    for condition in [guards] if isinstance(guards, str) or callable(guards) else guards:
                        early = self._before_append(self._method(condition), target)
                        transition.conditions.append(transition.condition_cls(early, target))
                if before is not None:
                    transition.add_callback("before", self._before(before))
                # The last thing before the state moves: from here on, what happened has happened.
                transition.add_callback("before", self._pause)
                if after is not None:
                    transition.add_callback("after", after)

    def _method(self, condition: Condition) -> Callable[[EventData], bool]:
        """Return the method that a name means, so that a wrong name fails when it is bound, not when it is needed."""
        if not isinstance(condition, str):
            return condition
        method = getattr(self.model, condition, None)
        if not callable(method):
            msg = f"the model {type(self.model).__name__} has no method {condition!r}"
            raise Refused(msg)
        checked_method: Callable[[EventData], bool] = method
        return checked_method

    def _before(self, callback: Callable[[EventData], bool | None]) -> Callable[[EventData], bool | None]:
        """Return a callback that runs before the append only."""
        return lambda data: None if self._is_appended else callback(data)

    def _before_append(self, condition: Callable[[EventData], bool], target: bool) -> Callable[[EventData], bool]:  # noqa: FBT001 - as transitions has it
        """Return a condition that is asked before the append only."""
        return lambda data: target if self._is_appended else condition(data)

    def _pause(self, _: EventData) -> None:
        """Stop before the state moves: what else may refuse comes first, and then the append."""
        if not self._is_appended:
            raise _Paused

    def move(self, state: str) -> None:
        """Set the model's state to the one that is recorded, without callbacks."""
        self._set_state(state or PENDING)

    def may_refuse(self, events: Sequence[TaskEvent | Finished]) -> bool:
        """Tell whether the model has to be asked before these are recorded."""
        rules = self._lifecycle.rules
        return any(type(event) in rules and trigger_name(type(event)) in self._refusing for event in events)

    def ask(self, task: str, events: Sequence[TaskEvent | Finished], *, state: str | None = None) -> None:
        """Run all that may refuse events, before they are recorded: conditions and ``before_`` of each in turn.

        The first finds the model in the state that is told, or in its own, each other one in the state that the event
        before will leave; in the end it is in the one it was in. An event type that the table does not know is not
        asked for. Raises IllegalEvent and CallbackRefused.
        """
        before, outer = self.model.state, self._is_appended
        try:
            self._is_appended = False
            if state is not None:
                self.move(state)
            for event in events:
                if type(event) in self._lifecycle.rules:
                    self._ask(task, event)
        finally:
            self._set_state(before)
            self._is_appended = outer

    def _ask(self, task: str, event: TaskEvent | Finished) -> None:
        """Run all that may refuse an event, and move to the state that it leads to.

        Raises IllegalEvent and CallbackRefused.
        """
        target = self._lifecycle.target(self.model.state, event)
        if target is None:
            raise self._lifecycle.illegal(task, self.model.state, event)
        try:
            self._trigger(task, event)
        except _Paused:
            self._set_state(target)
            return
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise CallbackRefused(
                f"task {task!r}: {wire_type(event)} was refused before it was recorded: {why}"
            ) from error
        raise CallbackRefused(
            f"task {task!r}: {wire_type(event)} was refused before it was recorded: a condition is not met"
        )

    def enter(self, task: str, event: TaskEvent | Finished) -> None:
        """Leave and enter the states of an event that was recorded, and run its ``after_``; raises what they raise.

        An event type that the table does not know has no callbacks.
        """
        if type(event) not in self._lifecycle.rules:
            return
        state, outer = self.model.state, self._is_appended
        try:
            self._is_appended = True
            self._trigger(task, event)
        finally:
            self._is_appended = outer
            self._set_state(self._lifecycle.target(state, event) or state)

    def _trigger(self, task: str, event: TaskEvent | Finished) -> None:
        self.machine.events[trigger_name(type(event))].trigger(self.model, event=event, task=task)


class _Paused(Exception):
    """A trigger got as far as the append."""
