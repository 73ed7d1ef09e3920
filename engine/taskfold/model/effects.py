"""The effects: what an embedder owes after a decision, and the step that says so."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from taskfold.model.events import AnyTaskEvent, TaskEvent, wire_name
from taskfold.model.record import Event, Finished

__all__ = [
    "AnyEffect",
    "Effect",
    "KillTask",
    "Outcome",
    "ReleaseResources",
    "SignalTask",
    "StartTask",
    "Step",
    "StepWrite",
    "Timer",
]

Outcome: TypeAlias = Literal["decided", "late", "repeated", "impossible"]
"""The outcome of an input.

``decided``: it was taken. ``late``: it comes after what it speaks of is over (an exit of a task that is dead).
``repeated``: it was taken before. ``impossible``: it does not fit the state (a restart of a task that does not run).
Only the first changes anything; the step's notes say why. A late start still gives an effect: the process must go.
"""


class Effect(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name, tag_field="Type", gc=False):
    """Something that the embedder must now do; effects are listed in the order in which they are owed."""


class StartTask(Effect, frozen=True, kw_only=True, tag="StartTask"):
    """Start the task, and report ProcessStarted or what went wrong."""

    task: str
    at_ns: int
    """Since when this is owed (unix nanoseconds): the time of the decision, or the time that a timer had."""


class KillTask(Effect, frozen=True, kw_only=True, tag="KillTask"):
    """End the task's process, or give up the start that is under way, and report Exited, or KillFailed."""

    task: str
    signal: str = ""
    """The signal to send first, as the job names it; empty means what the driver sends unless told."""
    timeout_ns: int
    """How long the process may take to end by itself."""
    hard_at_ns: int
    """When to kill it hard, if it is still there (unix nanoseconds)."""
    attempt: int = 1
    """The number of this attempt, of five."""


class SignalTask(Effect, frozen=True, kw_only=True, tag="SignalTask"):
    """Send the task's process a signal."""

    task: str
    signal: str = ""


class ReleaseResources(Effect, frozen=True, kw_only=True, tag="Collect"):
    """All tasks are dead: the allocation's resources (directories, ports) may be released."""


AnyEffect: TypeAlias = StartTask | KillTask | SignalTask | ReleaseResources
"""Every effect as a closed union: type checkers see whether a match has every type."""


class Timer(Struct, frozen=True, kw_only=True, rename=wire_name, gc=False):
    """A time at which the task is to be reported as due; a new timer of a task replaces the one it had."""

    task: str
    kind: Literal["start", "kill"]
    due_ns: int
    """Unix nanoseconds."""


class StepWrite(Struct, frozen=True, gc=False):
    """An event that is to be appended, and the task that it happens to (empty for the allocation)."""

    task: str
    event: Event


class Step(Struct, frozen=True, kw_only=True):
    """The result of a decision: events to append, effects to carry out, and timers."""

    alloc: str
    time_ns: int
    writes: tuple[StepWrite, ...] = ()
    """All that is appended, as one write: task events, and the internal events that decisions remember by."""
    effects: tuple[AnyEffect, ...] = ()
    timers: tuple[Timer, ...] = ()
    outcome: Outcome = "decided"
    notes: tuple[tuple[str, str], ...] = ()
    """Notes on actions not taken: a task (or an empty text for the allocation) and a reason."""

    @property
    def events(self) -> tuple[tuple[str, AnyTaskEvent], ...]:
        """The task events, each with its task, in the order in which they are appended."""
        return tuple((one.task, one.event) for one in self.writes if isinstance(one.event, TaskEvent))

    @property
    def moves(self) -> tuple[tuple[str, AnyTaskEvent | Finished], ...]:
        """The events that the lifecycle table knows, each with its task: the task events, and the ends without one."""
        return tuple((one.task, one.event) for one in self.writes if isinstance(one.event, (TaskEvent, Finished)))
