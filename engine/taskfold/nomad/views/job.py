"""Views of the job that an allocation belongs to, as it was at placement or at its last in-place update.

Which Nomad a field is known of is marked by `taskfold.nomad.views.base.since`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from taskfold.model.policy import RestartPolicy
from taskfold.nomad.views.base import WireView, since
from taskfold.nomad.views.resources import Affinity, Constraint, LifecycleView, NetworkResource, Resources
from taskfold.nomad.views.services import Service

__all__ = [
    "Artifact",
    "CsiMountOptions",
    "CsiPluginConfig",
    "DispatchPayload",
    "EphemeralDisk",
    "GroupConsul",
    "Job",
    "LogConfig",
    "MigrateStrategy",
    "Multiregion",
    "MultiregionRegion",
    "MultiregionStrategy",
    "ParameterizedJob",
    "Periodic",
    "ReschedulePolicy",
    "RestartPolicy",
    "ScalingPolicy",
    "Spread",
    "SpreadTarget",
    "TaskGroup",
    "TaskView",
    "TemplateView",
    "UpdateStrategy",
    "Vault",
    "VolumeMount",
    "VolumeRequest",
]


class UpdateStrategy(WireView, frozen=True, kw_only=True):
    """How the allocations of a job or group are replaced by those of its next version."""

    stagger_ns: int = 0
    max_parallel: int = 0
    health_check: Annotated[str, since("1.1.2")] = ""
    min_healthy_time_ns: Annotated[int, since("1.1.2")] = 0
    healthy_deadline_ns: Annotated[int, since("1.1.2")] = 0
    progress_deadline_ns: Annotated[int, since("1.1.2")] = 0
    auto_revert: Annotated[bool, since("1.1.2")] = False
    auto_promote: Annotated[bool, since("1.1.2")] = False
    canary: Annotated[int, since("1.1.2")] = 0


class MigrateStrategy(WireView, frozen=True, kw_only=True):
    """How the allocations of a group leave a node that is drained."""

    max_parallel: int = 0
    health_check: str = ""
    min_healthy_time_ns: int = 0
    healthy_deadline_ns: int = 0


class ReschedulePolicy(WireView, frozen=True, kw_only=True):
    """How often a failed allocation is replaced on some node (since Nomad 0.8.0)."""

    attempts: int = 0
    interval_ns: int = 0
    delay_ns: int = 0
    delay_function: str = ""
    """`constant`, `exponential` or `fibonacci`."""
    max_delay_ns: int = 0
    unlimited: bool = False


class EphemeralDisk(WireView, frozen=True, kw_only=True):
    """The disk that the tasks of a group share (since Nomad 0.5.0)."""

    sticky: bool = False
    size_mb: int = 0
    migrate: bool = False


class SpreadTarget(WireView, frozen=True, kw_only=True):
    """The share of allocations wished for where the attribute has this value."""

    value: str = ""
    percent: int = 0


class Spread(WireView, frozen=True, kw_only=True):
    """An attribute of nodes over which allocations are spread."""

    attribute: str = ""
    weight: int = 0
    spread_target: tuple[SpreadTarget, ...] | None = None


class LogConfig(WireView, frozen=True, kw_only=True):
    """How a task's output is kept."""

    max_files: int = 0
    max_file_size_mb: int = 0


class Artifact(WireView, frozen=True, kw_only=True):
    """The artifacts that are downloaded before a task starts."""

    getter_source: str = ""
    getter_options: dict[str, str] | None = None
    getter_headers: Annotated[dict[str, str] | None, since("1.1.2")] = None
    getter_mode: Annotated[str, since("1.1.2")] = ""
    relative_dest: str = ""


class TemplateView(WireView, frozen=True, kw_only=True):
    """A file that is rendered before a task starts, and again when its data changes (since Nomad 0.5.0)."""

    source_path: str = ""
    dest_path: str = ""
    embedded_tmpl: str = ""
    change_mode: str = ""
    """`noop`, `restart` or `signal`."""
    change_signal: str = ""
    splay_ns: int = 0
    perms: Annotated[str, since("0.5.6")] = ""
    left_delim: Annotated[str, since("0.5.6")] = ""
    right_delim: Annotated[str, since("0.5.6")] = ""
    envvars: Annotated[bool, since("1.1.2")] = False
    vault_grace_ns: Annotated[int, since("1.1.2")] = 0


class Vault(WireView, frozen=True, kw_only=True):
    """The secrets that a task may read (since Nomad 0.5.0)."""

    policies: tuple[str, ...] | None = None
    namespace: Annotated[str, since("1.1.2")] = ""
    env: bool = False
    change_mode: str = ""
    change_signal: str = ""


class DispatchPayload(WireView, frozen=True, kw_only=True):
    """The file that receives the payload of a dispatched job."""

    file: str = ""


class ScalingPolicy(WireView, frozen=True, kw_only=True):
    """The bounds in which an autoscaler may move a group's count or a task's resources."""

    id: str = ""
    type: str = ""
    target: dict[str, str] | None = None
    policy: dict[str, msgspec.Raw] | None = None
    """Whatever the autoscaler understands: any JSON."""
    min: int = 0
    max: int = 0
    enabled: bool = False
    create_index: int = 0
    modify_index: int = 0


class VolumeMount(WireView, frozen=True, kw_only=True):
    """The mount of a group's volume in a task."""

    volume: str = ""
    destination: str = ""
    read_only: bool = False
    propagation_mode: str = ""


class CsiMountOptions(WireView, frozen=True, kw_only=True):
    """How a CSI volume is mounted."""

    fs_type: str = ""
    mount_flags: tuple[str, ...] | None = None


class VolumeRequest(WireView, frozen=True, kw_only=True):
    """A volume that a group asks for."""

    name: str = ""
    type: str = ""
    source: str = ""
    read_only: bool = False
    access_mode: str = ""
    attachment_mode: str = ""
    mount_options: CsiMountOptions | None = None
    per_alloc: bool = False


class CsiPluginConfig(WireView, frozen=True, kw_only=True):
    """The CSI plugin that a task offers."""

    id: str = ""
    type: str = ""
    mount_dir: str = ""


class TaskView(WireView, frozen=True, kw_only=True):
    """One process of a group, as the job wishes it."""

    name: str = ""
    driver: str = ""
    user: str = ""
    kind: Annotated[str, since("1.1.2")] = ""
    config: dict[str, msgspec.Raw] | None = None
    """The driver's own settings, any JSON: Nomad writes their numbers as floats (`3.0`, `1E+30`)."""
    env: dict[str, str] | None = None
    services: tuple[Service, ...] | None = None
    vault: Vault | None = None
    templates: tuple[TemplateView, ...] | None = None
    constraints: tuple[Constraint, ...] | None = None
    affinities: Annotated[tuple[Affinity, ...] | None, since("1.1.2")] = None
    resources: Resources | None = None
    restart_policy: Annotated[RestartPolicy | None, since("0.11.0")] = None
    """The task's own, which goes before the group's."""
    dispatch_payload: Annotated[DispatchPayload | None, since("0.5.6")] = None
    lifecycle: Annotated[LifecycleView | None, since("0.11.0")] = None
    meta: dict[str, str] | None = None
    kill_timeout_ns: int = 0
    log_config: LogConfig | None = None
    artifacts: tuple[Artifact, ...] | None = None
    leader: Annotated[bool, since("0.5.5")] = False
    shutdown_delay_ns: Annotated[int, since("1.1.2")] = 0
    volume_mounts: Annotated[tuple[VolumeMount, ...] | None, since("1.1.2")] = None
    scaling_policies: Annotated[tuple[ScalingPolicy, ...] | None, since("1.1.2")] = None
    kill_signal: Annotated[str, since("1.1.2")] = ""
    csi_plugin_config: Annotated[CsiPluginConfig | None, since("1.1.2")] = None


class GroupConsul(WireView, frozen=True, kw_only=True):
    """The namespace of Consul that a group uses."""

    namespace: str = ""


class TaskGroup(WireView, frozen=True, kw_only=True):
    """The tasks that are placed together."""

    name: str = ""
    count: int = 0
    update: Annotated[UpdateStrategy | None, since("1.1.2")] = None
    migrate: Annotated[MigrateStrategy | None, since("1.1.2")] = None
    constraints: tuple[Constraint, ...] | None = None
    scaling: Annotated[ScalingPolicy | None, since("1.1.2")] = None
    restart_policy: RestartPolicy | None = None
    tasks: tuple[TaskView, ...] | None = None
    ephemeral_disk: EphemeralDisk | None = None
    meta: dict[str, str] | None = None
    reschedule_policy: Annotated[ReschedulePolicy | None, since("0.8.0")] = None
    affinities: Annotated[tuple[Affinity, ...] | None, since("1.1.2")] = None
    spreads: Annotated[tuple[Spread, ...] | None, since("1.1.2")] = None
    networks: Annotated[tuple[NetworkResource, ...] | None, since("1.1.2")] = None
    consul: Annotated[GroupConsul | None, since("1.1.2")] = None
    services: Annotated[tuple[Service, ...] | None, since("1.1.2")] = None
    volumes: Annotated[dict[str, VolumeRequest | None] | None, since("1.1.2")] = None
    shutdown_delay_ns: Annotated[int | None, since("1.1.2")] = None
    stop_after_client_disconnect_ns: Annotated[int | None, since("1.1.2")] = None


class Periodic(WireView, frozen=True, kw_only=True):
    """When a job is launched again and again."""

    enabled: bool = False
    spec: str = ""
    spec_type: str = ""
    prohibit_overlap: bool = False
    time_zone: Annotated[str, since("0.5.6")] = ""


class ParameterizedJob(WireView, frozen=True, kw_only=True):
    """The required and permitted parameters of a dispatch."""

    payload: str = ""
    meta_required: tuple[str, ...] | None = None
    meta_optional: tuple[str, ...] | None = None


class MultiregionStrategy(WireView, frozen=True, kw_only=True):
    """In what order regions are deployed."""

    max_parallel: int = 0
    on_failure: str = ""


class MultiregionRegion(WireView, frozen=True, kw_only=True):
    """One region of a job, with what differs there."""

    name: str = ""
    count: int = 0
    datacenters: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None


class Multiregion(WireView, frozen=True, kw_only=True):
    """The regions that one job is deployed to."""

    strategy: MultiregionStrategy | None = None
    regions: tuple[MultiregionRegion, ...] | None = None


class Job(WireView, frozen=True, kw_only=True):
    """The job; its Status is mostly `pending` for ever, since it is a copy from the time of placement."""

    stop: Annotated[bool, since("1.1.2")] = False
    region: str = ""
    namespace: Annotated[str, since("0.7.0")] = ""
    id: str = ""
    parent_id: str = ""
    name: str = ""
    type: str = ""
    """`service`, `batch`, `system`."""
    priority: int = 0
    all_at_once: bool = False
    datacenters: tuple[str, ...] | None = None
    constraints: tuple[Constraint, ...] | None = None
    affinities: Annotated[tuple[Affinity, ...] | None, since("1.1.2")] = None
    spreads: Annotated[tuple[Spread, ...] | None, since("1.1.2")] = None
    task_groups: tuple[TaskGroup, ...] | None = None
    update: UpdateStrategy | None = None
    multiregion: Annotated[Multiregion | None, since("1.1.2")] = None
    periodic: Periodic | None = None
    parameterized_job: Annotated[ParameterizedJob | None, since("0.5.6")] = None
    dispatched: Annotated[bool, since("1.1.2")] = False
    payload: Annotated[str | None, since("0.5.6")] = None
    """The payload of a dispatched job, in base64."""
    meta: dict[str, str] | None = None
    consul_token: Annotated[str, since("1.1.2")] = ""
    consul_namespace: Annotated[str, since("1.1.2")] = ""
    vault_token: str = ""
    vault_namespace: Annotated[str, since("1.1.2")] = ""
    nomad_token_id: Annotated[str, since("1.1.2")] = ""
    status: str = ""
    status_description: str = ""
    stable: Annotated[bool, since("1.1.2")] = False
    version: Annotated[int, since("1.1.2")] = 0
    submit_time_ns: Annotated[int, since("1.1.2")] = 0
    """When it was submitted (unix ns)."""
    create_index: int = 0
    modify_index: int = 0
    job_modify_index: int = 0
