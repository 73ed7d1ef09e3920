"""Views of what servers and clients say about an allocation beside its task states.

Which Nomad a field is known of is marked by `taskfold.nomad.views.base.since`.
"""

from __future__ import annotations

from typing import Annotated, Final

from taskfold.nomad.views.base import Instant, WireView, since
from taskfold.nomad.views.resources import DnsConfig, Resources

__all__ = [
    "CLIENT_STATUSES",
    "DESIRED_STATUSES",
    "TASK_STATES",
    "AllocStateView",
    "DeploymentStatus",
    "DesiredTransition",
    "Metrics",
    "NetworkStatus",
    "RescheduleEvent",
    "RescheduleTracker",
    "ScoreMetaData",
    "TaskHandle",
]

TASK_STATES: Final = {
    "pending": "it waits to be started, for the first time or again",
    "running": "its process runs, or has ended just now",
    "dead": "it ended and will not be started again",
}
"""The states of a task, and what each means. Source: structs.go TaskStatePending and its neighbours."""

CLIENT_STATUSES: Final = {
    "pending": "no task has started, or one waits to be started again",
    "running": "a task runs",
    "complete": "every task is dead, and none failed",
    "failed": "a task is dead and failed",
    "lost": "the node is down, says a server (since Nomad 0.4.1)",
    "unknown": "the node is disconnected, says a server (since Nomad 1.3.0)",
}
"""The values of ClientStatus, and what each means. Source: structs.go AllocClientStatusPending and its neighbours."""

DESIRED_STATUSES: Final = {
    "run": "it should run",
    "stop": "it should stop",
    "evict": "it should stop to make room for another one",
}
"""The values of DesiredStatus, and what each means. Source: structs.go AllocDesiredStatusRun and its neighbours."""


class ScoreMetaData(WireView, frozen=True, kw_only=True):
    """How one node scored (since Nomad 0.9.0): scorer to score, and the normalised sum."""

    node_id: str = ""
    scores: dict[str, float] | None = None
    norm_score: float = 0.0


class Metrics(WireView, frozen=True, kw_only=True):
    """How the scheduler chose the node."""

    nodes_evaluated: int = 0
    nodes_filtered: int = 0
    nodes_in_pool: Annotated[int, since("1.6.0")] = 0
    node_pool: Annotated[str, since("1.10.4")] = ""
    nodes_available: dict[str, int] | None = None
    """Data centre to number of nodes that are ready."""
    class_filtered: dict[str, int] | None = None
    constraint_filtered: dict[str, int] | None = None
    nodes_exhausted: int = 0
    class_exhausted: dict[str, int] | None = None
    dimension_exhausted: dict[str, int] | None = None
    quota_exhausted: Annotated[tuple[str, ...] | None, since("0.7.0")] = None
    resources_exhausted: Annotated[dict[str, Resources | None] | None, since("1.1.0")] = None
    """Task to the resources it could not get."""
    scores: dict[str, float] | None = None
    """`<node id>.<scorer>` to score; null since Nomad 0.9.0, which has `score_meta_data`."""
    score_meta_data: Annotated[tuple[ScoreMetaData, ...] | None, since("0.9.0")] = None
    allocation_time_ns: int = 0
    """How long the scheduler took."""
    coalesced_failures: int = 0


class DeploymentStatus(WireView, frozen=True, kw_only=True):
    """How the allocation does in its deployment (since Nomad 0.6.0); `healthy` is None until it is known."""

    healthy: bool | None = None
    timestamp: Annotated[Instant | None, since("1.1.2")] = None
    """When the client set `healthy`."""
    canary: Annotated[bool, since("1.1.2")] = False
    modify_index: int = 0


class DesiredTransition(WireView, frozen=True, kw_only=True):
    """The action that the servers want for the allocation (since Nomad 0.8.0); None: no action."""

    migrate: bool | None = None
    reschedule: bool | None = None
    force_reschedule: Annotated[bool | None, since("1.1.2")] = None
    no_shutdown_delay: Annotated[bool | None, since("1.2.4")] = None
    migrate_disable_placement: Annotated[bool | None, since("1.11.0")] = None


class RescheduleEvent(WireView, frozen=True, kw_only=True):
    """One earlier attempt: when it was replaced (unix ns), which it was, and the delay that was kept."""

    reschedule_time_ns: int = 0
    prev_alloc_id: str = ""
    prev_node_id: str = ""
    delay_ns: int = 0


class RescheduleTracker(WireView, frozen=True, kw_only=True):
    """The earlier attempts, oldest first (since Nomad 0.8.0)."""

    events: tuple[RescheduleEvent, ...] | None = None
    last_reschedule: Annotated[str, since("1.8.1")] = ""
    """`ok`, `no placement`, or empty."""


class NetworkStatus(WireView, frozen=True, kw_only=True):
    """The network namespace as the client made it (since Nomad 1.0.0)."""

    interface_name: str = ""
    address: str = ""
    address_ipv6: Annotated[str, since("1.9.0")] = ""
    dns: DnsConfig | None = None


class AllocStateView(WireView, frozen=True, kw_only=True):
    """A change of ClientStatus that the servers made for a lost or disconnected node (since Nomad 0.11.2)."""

    field: int = 0
    """The changed field: 0 is ClientStatus."""
    value: str = ""
    time: Instant | None = None


class TaskHandle(WireView, frozen=True, kw_only=True):
    """How to find a task again that runs outside the node (in a TaskState since Nomad 1.1.0)."""

    version: int = 0
    driver_state: str | None = None
    """The driver's own bytes, in base64."""
