"""Views of what an allocation may use: asked-for resources (all versions) and allocated ones (since Nomad 0.9.0).

Which Nomad a field is known of is marked by `taskfold.nomad.views.base.since`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from taskfold.nomad.views.base import WireView, since

__all__ = [
    "Affinity",
    "AllocatedCpuResources",
    "AllocatedDeviceResource",
    "AllocatedMemoryResources",
    "AllocatedPortMapping",
    "AllocatedResources",
    "AllocatedSharedResources",
    "AllocatedTaskResources",
    "Constraint",
    "DnsConfig",
    "LifecycleView",
    "NetworkResource",
    "Port",
    "RequestedDevice",
    "Resources",
]


class Port(WireView, frozen=True, kw_only=True):
    """A port of a network, by label."""

    label: str = ""
    value: int = 0
    to: Annotated[int, since("1.1.2")] = 0
    """The port inside the network namespace that `value` is mapped to."""
    host_network: Annotated[str, since("1.1.2")] = ""


class DnsConfig(WireView, frozen=True, kw_only=True):
    """The name servers of a network namespace."""

    servers: tuple[str, ...] | None = None
    searches: tuple[str, ...] | None = None
    options: tuple[str, ...] | None = None


class NetworkResource(WireView, frozen=True, kw_only=True):
    """A network that was asked for, or given: with addresses and ports filled in."""

    mode: Annotated[str, since("1.1.2")] = ""
    device: str = ""
    cidr: str = msgspec.field(default="", name="CIDR")
    ip: str = ""
    hostname: Annotated[str, since("1.2.0")] = ""
    mbits: int = msgspec.field(default=0, name="MBits")
    dns: Annotated[DnsConfig | None, since("1.1.2")] = None
    reserved_ports: tuple[Port, ...] | None = None
    dynamic_ports: tuple[Port, ...] | None = None


class Constraint(WireView, frozen=True, kw_only=True):
    """A condition that a node must meet: `l_target`, `operand`, `r_target`, in this order."""

    l_target: str = ""
    r_target: str = ""
    operand: str = ""


class Affinity(WireView, frozen=True, kw_only=True):
    """A condition that a node had better meet; weight from -100 to 100."""

    l_target: str = ""
    r_target: str = ""
    operand: str = ""
    weight: int = 0


class RequestedDevice(WireView, frozen=True, kw_only=True):
    """A kind of device that a task asks for, by `type`, `vendor/type` or `vendor/type/name`."""

    name: str = ""
    count: int = 0
    constraints: tuple[Constraint, ...] | None = None
    affinities: tuple[Affinity, ...] | None = None


class Resources(WireView, frozen=True, kw_only=True):
    """The requests of a task, or the sum of a group's."""

    cpu_mhz: int = 0
    cores: Annotated[int, since("1.1.2")] = 0
    memory_mb: int = 0
    memory_max_mb: Annotated[int, since("1.1.2")] = 0
    disk_mb: int = 0
    iops: int = 0
    networks: tuple[NetworkResource, ...] | None = None
    devices: Annotated[tuple[RequestedDevice, ...] | None, since("1.1.2")] = None


class AllocatedCpuResources(WireView, frozen=True, kw_only=True):
    """The processor time given to a task: shares in MHz, and the cores that are its own."""

    cpu_shares: int = msgspec.field(default=0, name="CpuShares")
    reserved_cores: Annotated[tuple[int, ...] | None, since("1.1.2")] = None


class AllocatedMemoryResources(WireView, frozen=True, kw_only=True):
    """The memory given to a task; `memory_max_mb` is 0 without a higher limit (since Nomad 1.1)."""

    memory_mb: int = 0
    memory_max_mb: Annotated[int, since("1.1.2")] = 0


class AllocatedDeviceResource(WireView, frozen=True, kw_only=True):
    """The devices of one kind given to a task."""

    vendor: str = ""
    type: str = ""
    name: str = ""
    device_ids: tuple[str, ...] | None = None


class AllocatedTaskResources(WireView, frozen=True, kw_only=True):
    """The resources given to one task."""

    cpu: AllocatedCpuResources | None = msgspec.field(default=None, name="Cpu")
    memory: AllocatedMemoryResources | None = None
    networks: tuple[NetworkResource, ...] | None = None
    devices: tuple[AllocatedDeviceResource, ...] | None = None


class AllocatedPortMapping(WireView, frozen=True, kw_only=True):
    """A port given to the whole group."""

    label: str = ""
    value: int = 0
    to: int = 0
    host_ip: str = ""


class AllocatedSharedResources(WireView, frozen=True, kw_only=True):
    """The resources given to the tasks of the group together."""

    networks: tuple[NetworkResource, ...] | None = None
    disk_mb: int = 0
    ports: tuple[AllocatedPortMapping, ...] | None = None


class LifecycleView(WireView, frozen=True, kw_only=True):
    """When a task runs: hook `prestart`, `poststart` or `poststop` (since Nomad 0.11.0)."""

    hook: str = ""
    sidecar: bool = False


class AllocatedResources(WireView, frozen=True, kw_only=True):
    """The resources given to the allocation (since Nomad 0.9.0); a main task's lifecycle is null."""

    tasks: dict[str, AllocatedTaskResources | None] | None = None
    task_lifecycles: dict[str, LifecycleView | None] | None = None
    shared: AllocatedSharedResources | None = None
