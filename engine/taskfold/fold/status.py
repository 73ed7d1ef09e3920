"""The meaning of an allocation's status: terminal or not, successful or not, disconnected or not.

Sources: nomad/structs/structs.go and alloc.go (TerminalStatus, Successful, NeedsToReconnect, LastUnknown,
LastEventTime, LastStartOfTask).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from taskfold.fold.lifecycle import DEAD
from taskfold.fold.task import TaskState
from taskfold.model.dialect import Dialect
from taskfold.model.events import Terminated, wire_name
from taskfold.model.go.timestamps import parse_time_ns, time_text

__all__ = [
    "DISCONNECTED",
    "UNKNOWN",
    "AllocState",
    "is_client_terminal",
    "is_server_terminal",
    "is_successful",
    "is_terminal",
    "last_event_time_ns",
    "last_start_ns",
    "last_unknown_ns",
    "needs_to_reconnect",
    "with_status",
]

SERVER_TERMINAL: Final = frozenset({"stop", "evict"})
CLIENT_TERMINAL: Final = frozenset({"complete", "failed", "lost"})
UNKNOWN: Final = "unknown"
DISCONNECTED: Final = "alloc is unknown since its node is disconnected"
"""The ClientDescription of an allocation that is unknown. Source: scheduler/generic_sched.go, since Nomad 1.3.0."""
CLIENT_STATUS_FIELD: Final = 0
"""The number that an entry of AllocStates has which is of the client status; there is no other yet."""


def is_server_terminal(desired_status: str) -> bool:
    """Tell whether the servers want the allocation to end."""
    return desired_status in SERVER_TERMINAL


def is_client_terminal(client_status: str) -> bool:
    """Tell whether the allocation has ended, as its client or, for a lost node, the servers see it."""
    return client_status in CLIENT_TERMINAL


def is_terminal(desired_status: str, client_status: str) -> bool:
    """Tell whether the allocation has ended, or is to end; an unknown one may come back.

    >>> is_terminal("stop", "running"), is_terminal("run", "lost"), is_terminal("run", "unknown")
    (True, True, False)
    """
    return is_server_terminal(desired_status) or is_client_terminal(client_status)


def is_successful(task: TaskState, dialect: Dialect) -> bool:
    """Tell whether a task ended well: the old client looks at the last event, the new one at Failed.

    So a task that was killed is successful to the new client alone. An exit code that nobody knows is no success.
    """
    if task.state != DEAD:
        return False
    if dialect.has_new_client:
        return not task.failed
    last = task.events[-1] if task.events else None
    return isinstance(last, Terminated) and last.exit_code == 0


class AllocState(Struct, frozen=True, kw_only=True, rename=wire_name):
    """An entry of AllocStates: a status that the servers gave an allocation, and when (since Nomad 0.11.2)."""

    field: int = CLIENT_STATUS_FIELD
    time: str = ""
    """RFC 3339."""
    value: str = ""


def with_status(states: Sequence[AllocState], value: str, time_ns: int) -> list[AllocState]:
    """Return the entries, and one more for a status given at this time (unix nanoseconds)."""
    return [*states, AllocState(value=value, time=time_text(time_ns))]


def _of_client_status(states: Iterable[AllocState]) -> list[AllocState]:
    """Return the entries that are of the client status."""
    return [state for state in states if state.field == CLIENT_STATUS_FIELD]


def needs_to_reconnect(states: Sequence[AllocState]) -> bool:
    """Tell whether the newest status that is not empty is unknown: the client has not been heard of since. O(n)."""
    values = [state.value for state in _of_client_status(states) if state.value]
    return bool(values) and values[-1] == UNKNOWN


def last_unknown_ns(states: Sequence[AllocState]) -> int | None:
    """Return when the newest run of unknown statuses began (unix nanoseconds); None without any. O(n).

    Any other status ends a run, an empty one, too. Raises ValueError when the time of that entry is no instant.
    """
    began: str | None = None
    was_unknown = False
    for state in _of_client_status(states):
        is_unknown = state.value == UNKNOWN
        if is_unknown and not was_unknown:
            began = state.time
        was_unknown = is_unknown
    return None if began is None else parse_time_ns(began)


def last_event_time_ns(tasks: Iterable[TaskState], modified_ns: int) -> int:
    """Return when the newest task finished (unix nanoseconds), or when the allocation was modified, where none has."""
    return max((task.finished_at_ns for task in tasks if task.finished_at_ns is not None), default=modified_ns)


def last_start_ns(task: TaskState | None) -> int | None:
    """Return when a task was last started, or told to be again (unix nanoseconds); None where it never was."""
    if task is None:
        return None
    return task.last_restart_ns if task.restarts and task.last_restart_ns is not None else task.started_at_ns
