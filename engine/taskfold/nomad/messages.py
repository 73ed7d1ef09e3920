"""DisplayMessage and Details: the text and the map that Nomad derives from an event's annotations.

Source: nomad/structs/structs.go PopulateEventDisplayMessage and the setters of TaskEvent, since Nomad 0.7.1.
An event that says something else keeps it (`taskfold.model.events.Extras`), and then that is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET

from taskfold.model import events as ev
from taskfold.model.events import TaskEvent
from taskfold.model.go.durations import duration_text
from taskfold.model.go.quoting import go_quoted
from taskfold.model.policy import WITHIN_POLICY

__all__ = ["derived_details", "derived_message", "details", "display_message"]


def _terminated(event: ev.Terminated) -> str:
    parts = [f"Exit Code: {event.exit_code or 0}"]
    if event.signal:
        parts.append(f"Signal: {event.signal}")
    if event.message:
        parts.append(f"Exit Message: {go_quoted(event.message)}")
    return ", ".join(parts)


def _restarting(event: ev.Restarting) -> str:
    text = f"Task restarting in {duration_text(event.start_delay_ns)}"
    reason = event.restart_reason
    return text if reason in {"", WITHIN_POLICY} else f"{reason} - {text}"


def _killing(event: ev.Killing) -> str:
    if event.kill_reason:
        return event.kill_reason
    if event.kill_timeout_ns:
        return f"Sent interrupt. Waiting {duration_text(event.kill_timeout_ns)} before force killing"
    return "Sent interrupt"


def _signaling(event: ev.Signaling) -> str:
    signal, reason = event.task_signal, event.task_signal_reason
    if not signal:
        return reason or "Task being sent a signal"
    text = f"Task being sent signal {signal}"
    return f"{text}: {reason}" if reason else text


def _sibling(event: ev.SiblingTaskFailed) -> str:
    return (
        f"Task's sibling {go_quoted(event.failed_sibling)} failed" if event.failed_sibling else "Task's sibling failed"
    )


def _message(event: Any) -> str:
    """Return the Message of an event, whether its type has one or it was set all the same."""
    if hasattr(event, "message"):
        return str(event.message)
    return str(event.extras.fields.get("Message", "")) if event.extras is not None else ""


CONSTANT_MESSAGES: Final[dict[type[TaskEvent], str]] = {
    ev.Received: "Task received by client",
    ev.Started: "Task started by client",
    ev.DownloadingArtifacts: "Client is downloading artifacts",
    ev.LeaderTaskDead: "Leader Task in Group dead",
    ev.MainTasksDead: "Main tasks in the group died",
    ev.Reconnected: "Client reconnected",
}
"""The messages that do not depend on annotations."""

_MESSAGES: Final[dict[type[TaskEvent], Callable[[Any], str]]] = {
    ev.FailedValidation: lambda event: event.validation_error or "Validation of task failed",
    ev.SetupFailure: lambda event: event.setup_error or "Task setup failed",
    ev.DriverFailure: lambda event: event.driver_error or "Failed to start task",
    ev.FailedArtifactDownload: lambda event: event.download_error or "Failed to download artifacts",
    ev.Killing: _killing,
    ev.Killed: lambda event: event.kill_error or "Task successfully killed",
    ev.Terminated: _terminated,
    ev.Restarting: _restarting,
    ev.NotRestarting: lambda event: event.restart_reason or "Task exceeded restart policy",
    ev.SiblingTaskFailed: _sibling,
    ev.Signaling: _signaling,
    ev.RestartSignaled: lambda event: event.restart_reason or "Task signaled to restart",
    ev.Driver: lambda event: event.driver_message,
}


def derived_message(event: TaskEvent) -> str:
    """Return the DisplayMessage that follows from the annotations.

    >>> derived_message(ev.Terminated(exit_code=137, signal=9))
    'Exit Code: 137, Signal: 9'
    """
    constant = CONSTANT_MESSAGES.get(type(event))
    return _MESSAGES.get(type(event), _message)(event) if constant is None else constant


def display_message(event: TaskEvent) -> str:
    """Return the DisplayMessage of an event: what the wire said, else what follows from the annotations.

    >>> display_message(ev.Restarting(start_delay_ns=1_035_121_070, restart_reason="Restart within policy"))
    'Task restarting in 1.03512107s'
    """
    if event.extras is not None and event.extras.display_message is not UNSET:
        return event.extras.display_message
    return derived_message(event)


# Details: which keys an event type has. "Always" keys are there even for an empty value.
_ALWAYS: Final[dict[type[TaskEvent], dict[str, Callable[[Any], str]]]] = {
    ev.Terminated: {
        "exit_code": lambda event: "unknown" if event.exit_code is None else str(event.exit_code),
        "signal": lambda event: str(event.signal),
        "oom_killed": lambda event: "true" if event.oom_killed else "false",
    },
    ev.Restarting: {
        "restart_reason": lambda event: event.restart_reason,
        "start_delay": lambda event: str(event.start_delay_ns),
    },
    ev.NotRestarting: {"restart_reason": lambda event: event.restart_reason},
}
_WHEN_SET: Final[dict[type[TaskEvent], dict[str, str]]] = {
    ev.TaskSetup: {"message": "message"},
    ev.SetupFailure: {"setup_error": "setup_error"},
    ev.FailedValidation: {"validation_error": "validation_error"},
    ev.DriverFailure: {"driver_error": "driver_error"},
    ev.FailedArtifactDownload: {"download_error": "download_error"},
    ev.Terminated: {"exit_message": "message"},
    ev.RestartSignaled: {"restart_reason": "restart_reason"},
    ev.Signaling: {"task_signal": "task_signal", "task_signal_reason": "task_signal_reason"},
    ev.Killing: {"kill_reason": "kill_reason", "kill_timeout": "kill_timeout_ns"},
    ev.Killed: {"kill_error": "kill_error"},
    ev.SiblingTaskFailed: {"failed_sibling": "failed_sibling"},
    ev.Driver: {"driver_message": "driver_message"},
    ev.DiskResourcesExceeded: {"disk_limit": "disk_limit"},
    ev.AllocUnhealthy: {"message": "message"},
    ev.TaskHookFailed: {"message": "message"},
    ev.PluginBecameHealthy: {"message": "message"},
    ev.PluginBecameUnhealthy: {"message": "message"},
}


def derived_details(event: TaskEvent) -> dict[str, str]:
    """Return the Details that follow from the annotations: texts, by the names of the setters of Nomad.

    >>> derived_details(ev.Restarting(start_delay_ns=5))
    {'restart_reason': '', 'start_delay': '5'}
    """
    details_by_name = {key: text(event) for key, text in _ALWAYS.get(type(event), {}).items()}
    for key, attribute in _WHEN_SET.get(type(event), {}).items():
        value = getattr(event, attribute)
        if value:
            # A kill timeout is told as a duration, a restart's delay as a number: so do Nomad's setters.
            details_by_name[key] = duration_text(value) if key == "kill_timeout" else str(value)
    if event.fails_task:
        details_by_name["fails_task"] = "true"
    return details_by_name


def details(event: TaskEvent) -> dict[str, str] | None:
    """Return the Details of an event: what the wire said (None for ``null``), else what its annotations tell."""
    if event.extras is not None and event.extras.details is not UNSET:
        return event.extras.details
    return derived_details(event)
