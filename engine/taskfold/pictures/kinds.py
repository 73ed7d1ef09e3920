"""The kinds of intervals and marks: their words and colours, for every format.

The colours are of the palette of Okabe and Ito, which people tell apart with every common form of colour blindness.
No kind is told by its colour alone: a gap is hatched, a wait and a death are low bars, a failure has a cap.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from taskfold.model.events import (
    DriverFailure,
    FailedArtifactDownload,
    FailedRestoringTask,
    FailedValidation,
    Killed,
    Killing,
    LeaderTaskDead,
    MainTasksDead,
    NotRestarting,
    Restarting,
    RestartSignaled,
    SetupFailure,
    SiblingTaskFailed,
    Signaling,
    TaskHookFailed,
    Terminated,
)
from taskfold.model.record import Event, Gap, Updated

__all__ = ["KINDS", "MARKS", "Kind", "Mark", "mark_of"]


class Kind(Struct, frozen=True):
    """A kind of interval."""

    name: str
    words: str
    state: str
    """The state of the task in such an interval; empty where it is unknown."""
    light: str
    """Its colour on a light ground."""
    dark: str
    """Its colour on a dark ground."""


KINDS: Final = (
    Kind("pending", "pending", "pending", "#c9a400", "#f0e442"),
    Kind("delay", "waits to be started again", "pending", "#e69f00", "#e69f00"),
    Kind("running", "still running", "running", "#56b4e9", "#56b4e9"),
    Kind("done", "ran, and ended well", "running", "#009e73", "#1fb489"),
    Kind("failed", "ran, and failed", "running", "#d55e00", "#f07a28"),
    Kind("killed", "ran, and was killed", "running", "#8f63b8", "#c39be0"),
    Kind("dead", "dead", "dead", "#8a9099", "#7d8590"),
    Kind("dead_failed", "dead, failed", "dead", "#d55e00", "#f07a28"),
    Kind("gap", "events were lost", "", "#5f6670", "#aab2bd"),
)
"""Every kind of interval; the number of a kind is its place here."""


class Mark(Struct, frozen=True):
    """A kind of mark, at the time of a record."""

    name: str
    words: str
    shape: str


MARKS: Final = (
    Mark("event", "another event", "dot"),
    Mark("restart", "restart", "triangle"),
    Mark("signal", "signal", "diamond"),
    Mark("kill", "kill", "square"),
    Mark("failure", "failure", "cross"),
    Mark("oom", "out of memory", "ring"),
    Mark("desired", "desired status", "flag"),
    Mark("gap", "events were lost", "hatch"),
)
"""Every kind of mark; the number of a mark is its place here."""

_NUMBERS: Final = {mark.name: number for number, mark in enumerate(MARKS)}
_BY_TYPE: Final[dict[type, str]] = {
    Restarting: "restart",
    RestartSignaled: "signal",
    Signaling: "signal",
    Killing: "kill",
    Killed: "kill",
    SiblingTaskFailed: "kill",
    LeaderTaskDead: "kill",
    MainTasksDead: "kill",
    NotRestarting: "failure",
    DriverFailure: "failure",
    SetupFailure: "failure",
    FailedValidation: "failure",
    FailedArtifactDownload: "failure",
    FailedRestoringTask: "failure",
    TaskHookFailed: "failure",
    Gap: "gap",
}


def mark_of(event: Event) -> int:
    """Return the number of the mark of an event. O(1)."""
    if isinstance(event, Terminated):
        if event.oom_killed:
            return _NUMBERS["oom"]
        return _NUMBERS["failure" if event.exit_code or event.signal else "event"]
    if isinstance(event, Updated):
        return _NUMBERS["desired" if "DesiredStatus" in event.fields else "event"]
    return _NUMBERS[_BY_TYPE.get(type(event), "event")]
