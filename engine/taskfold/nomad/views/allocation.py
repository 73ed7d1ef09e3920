"""The view of a whole allocation: the body of ``/v1/allocation/<id>``, or an entry of the list of ``/v1/allocations``.

Which Nomad has which field is told by `ALLOCATION_FIELDS`, `EVENT_FIELDS` and `Dialect`, not here: these structs say
what type each has, and what it means. Tests hold the names equal.
"""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Any, Final, get_args, get_type_hints

import msgspec

from taskfold.model.dialect import EVENTS_PER_TASK
from taskfold.nomad.views.base import Instant, WireView, one_of
from taskfold.nomad.views.job import Job
from taskfold.nomad.views.resources import AllocatedResources, Resources
from taskfold.nomad.views.status import (
    CLIENT_STATUSES,
    DESIRED_STATUSES,
    TASK_STATES,
    AllocStateView,
    DeploymentStatus,
    DesiredTransition,
    Metrics,
    NetworkStatus,
    RescheduleTracker,
    TaskHandle,
)

__all__ = ["AllocationView", "TaskEventView", "TaskStateView", "part_types"]


class TaskEventView(WireView, frozen=True, kw_only=True):
    """Something that happened to a task: all fields of the wire, those that its type does not use at zero."""

    details: dict[str, str] | None = None
    """The annotations once more, as texts."""
    disk_limit: int = 0
    """No Nomad sets it."""
    display_message: str = ""
    """The message for people."""
    download_error: str = ""
    driver_error: str = ""
    driver_message: str = ""
    exit_code: int = 0
    failed_sibling: str = ""
    """The task that failed."""
    fails_task: bool = False
    """Whether the event marks its task as failed."""
    generic_source: str = ""
    """The sender of a Generic event."""
    kill_error: str = ""
    kill_reason: str = ""
    kill_timeout_ns: int = 0
    """Nanoseconds between asking the task to end and killing it."""
    message: str = ""
    restart_reason: str = ""
    setup_error: str = ""
    signal: int = 0
    """The number of the signal that ended the task; 0 without one."""
    start_delay_ns: int = 0
    """Nanoseconds until the task is started again."""
    task_signal: str = ""
    """The signal that the task is sent, as the operating system's text, such as hangup."""
    task_signal_reason: str = ""
    time_ns: int = 0
    """When the event was made (unix nanoseconds)."""
    type: str = ""
    """The type of the event."""
    validation_error: str = ""
    vault_error: str = ""
    """No Nomad sets it."""


class TaskStateView(WireView, frozen=True, kw_only=True):
    """The state of a task, and the newest events that led to it."""

    events: (
        Annotated[tuple[TaskEventView, ...], msgspec.Meta(extra_json_schema={"maxItems": EVENTS_PER_TASK})] | None
    ) = None
    """The newest events, oldest first."""
    failed: bool = False
    """Whether any event ever marked the task as failed; it stays true after a restart."""
    finished_at: Instant | None = None
    """When the task became dead."""
    last_restart: Instant | None = None
    """The time of the newest Restarting event."""
    restarts: int = 0
    """How often the task was restarted."""
    started_at: Instant | None = None
    """When the task last became running."""
    state: Annotated[str, one_of(TASK_STATES)] = ""
    task_handle: TaskHandle | None = None


class AllocationView(WireView, frozen=True, kw_only=True):
    """A task group placed on a node: why, with what, and how its tasks fare.

    >>> from taskfold.nomad.views.decode import view
    >>> text = b'{"ID": "2032", "TaskStates": {"redis": {"State": "running", "Events": [{"Time": 5}]}}}'
    >>> view(text, AllocationView).task_states["redis"].events[0].time_ns
    5
    """

    alloc_modify_index: int = 0
    """The index of the last write that a server made; reports of the client do not move it."""
    alloc_states: tuple[AllocStateView, ...] | None = None
    allocated_resources: AllocatedResources | None = None
    """In a list only where the request asked for resources."""
    client_description: str = ""
    client_status: Annotated[str, one_of(CLIENT_STATUSES)] = ""
    create_index: int = 0
    """The index at which it was placed."""
    create_time_ns: int = 0
    """When it was placed (unix nanoseconds)."""
    deployment_id: str = ""
    deployment_status: DeploymentStatus | None = None
    desired_description: str = ""
    desired_status: Annotated[str, one_of(DESIRED_STATUSES)] = ""
    desired_transition: DesiredTransition | None = None
    eval_id: str = ""
    """The evaluation that placed it."""
    followup_eval_id: str = ""
    """The evaluation that will replace it."""
    id: str = ""
    job: Job | None = None
    job_id: str = ""
    job_type: str = ""
    """Only in a list."""
    job_version: int = 0
    """Only in a list."""
    metrics: Metrics | None = None
    modify_index: int = 0
    """The index of the last write; a blocking query waits on it."""
    modify_time_ns: int = 0
    """When it was last written (unix nanoseconds)."""
    name: str = ""
    """Job, group and number: example.cache[0]."""
    namespace: str = ""
    network_status: NetworkStatus | None = None
    next_allocation: str = ""
    """The allocation that replaced this one."""
    node_id: str = ""
    node_name: str = ""
    preempted_allocations: tuple[str, ...] | None = None
    """The allocations that had to make room for this one."""
    preempted_by_allocation: str = ""
    previous_allocation: str = ""
    """The allocation that this one replaces."""
    reschedule_tracker: RescheduleTracker | None = None
    resources: Resources | None = None
    """The sum of its tasks' requests."""
    shared_resources: Resources | None = None
    """The requests shared by its tasks."""
    task_group: str = ""
    task_resources: dict[str, Resources | None] | None = None
    """The requests of each task."""
    task_states: dict[str, TaskStateView] | None = None
    """By task; null, or missing, until the client reports for the first time."""


def part_types() -> dict[str, type[Any]]:
    """Return the type of every top-level field that may be null, TaskStates aside, by Nomad's name."""
    hints = get_type_hints(AllocationView)
    names = dict(zip(AllocationView.__struct_fields__, AllocationView.__struct_encode_fields__, strict=True))
    members = {names[attribute]: get_args(hints[attribute]) for attribute in names}
    return {name: kinds[0] for name, kinds in members.items() if NoneType in kinds and name != _DECODED}


_DECODED: Final = "TaskStates"
"""The fields that `Snapshot` reads itself."""
