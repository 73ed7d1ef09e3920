"""Binding a model of one's own to a live task: transitions callbacks and conditions around what is recorded.

A binding builds a machine of its own from the lifecycle table (model classes with different methods on one machine
break each other) and runs it when an event is recorded live, never in replay:

1. the lifecycle table is asked first: an illegal event raises IllegalEvent, and no callback runs;
2. conditions, then ``before_<event>`` of the model. A false condition, or an exception, raises `Refused`; nothing
   was appended, nothing changed;
3. the append;
4. ``on_exit_<state>``, ``on_enter_<state>`` and ``after_<event>``. An exception there reaches the caller; the record
   stays, and the model's state is what was folded.

Callbacks get transitions' ``EventData``; its ``kwargs`` hold ``event`` (the typed event) and ``task`` (its name). No
method is added to the model, and none of its attributes is replaced but ``state``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from transitions import EventData, Machine

from taskfold.dialect import Dialect
from taskfold.errors import Refused, TaskfoldError
from taskfold.events import TaskEvent, wire_type
from taskfold.lifecycle import PENDING, STATES, Lifecycle, build_machine, lifecycle_of, trigger_name
from taskfold.record import Finished

__all__ = ["Binding", "Condition"]

Condition: TypeAlias = str | Callable[[EventData], bool]
"""The name of a method of the model, or a function; either gets the EventData."""


class Binding:
    """One model on a machine of its own.

    >>> class Door:
    ...     def on_enter_running(self, data): print("it runs,", data.kwargs["task"])
    ...     def before_restarting(self, data): raise RuntimeError("not today")
    >>> from taskfold import events
    >>> binding = Binding(Door(), "1.1.2", state="pending")
    >>> binding.run("web", events.Started(), append=lambda: "running")
    it runs, web
    >>> binding.run("web", events.Restarting(), append=lambda: "pending")
    Traceback (most recent call last):
    ...
    taskfold.errors.Refused: task 'web': Restarting was refused before it was recorded: RuntimeError: not today
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
        self._append: Callable[[], str] | None = None
        self._appended: str | None = None
        self._failure: Exception | None = None
        for name in (*(conditions or {}), *(unless or {})):
            if name not in self.machine.events:
                known, found = ", ".join(self.machine.events), self._lifecycle.dialect.name
                msg = f"{name!r} is no trigger of dialect {found}; there are {known}"
                raise TaskfoldError(msg)
        self._set_state(state or PENDING)  # a Nomad may not have told it yet
        self._connect(conditions or {}, unless or {})

    def _set_state(self, state: str) -> None:
        try:
            self.machine.set_state(state, self.model)
        except AttributeError as error:
            msg = f"the model {type(self.model).__name__} cannot carry the attribute 'state': {error}"
            raise TaskfoldError(msg) from None

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
                for target, asked in ((True, conditions.get(name, ())), (False, unless.get(name, ()))):
                    for condition in [asked] if isinstance(asked, str) or callable(asked) else asked:
                        transition.conditions.append(transition.condition_cls(self._method(condition), target))
                if before is not None:
                    transition.add_callback("before", before)
                # The last thing before the state moves: from here on, what happened has happened.
                transition.add_callback("before", self._commit)
                if after is not None:
                    transition.add_callback("after", after)

    def _method(self, condition: Condition) -> Condition:
        """Return the method that a name means, so that a wrong name fails when it is bound, not when it is needed."""
        if not isinstance(condition, str):
            return condition
        method = getattr(self.model, condition, None)
        if not callable(method):
            msg = f"the model {type(self.model).__name__} has no method {condition!r}"
            raise TaskfoldError(msg)
        found: Condition = method
        return found

    def _commit(self, _: EventData) -> None:
        assert self._append is not None
        try:
            self._appended = self._append()
        except Exception as error:
            self._failure = error
            raise

    def run(self, task: str, event: TaskEvent | Finished, append: Callable[[], str]) -> None:
        """Record an event, with the model's callbacks around it; ``append`` records it, and returns the task's state.

        An event type that the table does not know has no callbacks: it is recorded.
        Raises IllegalEvent or Refused, or what ``append`` raises, with nothing recorded, and whatever a callback after
        the append raises.
        """
        lifecycle = self._lifecycle
        if type(event) not in lifecycle.rules:
            append()
            return
        if not lifecycle.may(self.model.state, event):
            raise lifecycle.illegal(task, self.model.state, event)
        self._append, self._appended, self._failure = append, None, None
        state = self.model.state
        why = "a condition is not met"
        try:
            trigger = self.machine.events[trigger_name(type(event))]
            trigger.trigger(self.model, event=event, task=task)
        except Exception as error:
            if self._appended is not None or error is self._failure:
                raise
            why = f"{type(error).__name__}: {error}"
            raise Refused(f"task {task!r}: {wire_type(event)} was refused before it was recorded: {why}") from error
        finally:
            self._set_state(state if self._appended is None else self._appended)
            self._append = self._failure = None
        if self._appended is None:
            raise Refused(f"task {task!r}: {wire_type(event)} was refused before it was recorded: {why}")
