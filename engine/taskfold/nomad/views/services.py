"""Views of the services that tasks and groups register, and of their checks.

Which Nomad a field is known of is marked by `since` and `until` of `taskfold.nomad.views.base`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from taskfold.nomad.views.base import WireView, since, until

__all__ = ["CheckRestart", "Service", "ServiceCheck"]


class CheckRestart(WireView, frozen=True, kw_only=True):
    """When a failing check restarts its task."""

    limit: int = 0
    grace_ns: int = 0
    ignore_warnings: bool = False


class ServiceCheck(WireView, frozen=True, kw_only=True):
    """A health check of a service."""

    id: Annotated[str, until("0.5.0")] = msgspec.field(default="", name="Id")
    http: Annotated[str, until("0.5.0")] = ""
    script: Annotated[str, until("0.5.0")] = ""
    name: str = ""
    type: str = ""
    command: str = ""
    args: tuple[str, ...] | None = None
    path: str = ""
    protocol: str = ""
    port_label: str = ""
    expose: Annotated[bool, since("1.1.2")] = False
    address_mode: Annotated[str, since("1.1.2")] = ""
    interval_ns: int = 0
    timeout_ns: int = 0
    initial_status: str = ""
    tls_skip_verify: Annotated[bool, since("1.1.2")] = False
    method: Annotated[str, since("1.1.2")] = ""
    header: Annotated[dict[str, tuple[str, ...] | None] | None, since("1.1.2")] = None
    check_restart: Annotated[CheckRestart | None, since("1.1.2")] = None
    grpc_service: Annotated[str, since("1.1.2")] = ""
    grpc_use_tls: Annotated[bool, since("1.1.2")] = False
    task_name: Annotated[str, since("1.1.2")] = ""
    success_before_passing: Annotated[int, since("1.1.2")] = 0
    failures_before_critical: Annotated[int, since("1.1.2")] = 0
    body: Annotated[str, since("1.1.2")] = ""
    on_update: Annotated[str, since("1.1.2")] = ""


class Service(WireView, frozen=True, kw_only=True):
    """A service that a task or group registers."""

    id: Annotated[str, until("0.5.0")] = msgspec.field(default="", name="Id")
    name: str = ""
    task_name: Annotated[str, since("1.1.2")] = ""
    port_label: str = ""
    address_mode: Annotated[str, since("1.1.2")] = ""
    enable_tag_override: Annotated[bool, since("1.1.2")] = False
    tags: tuple[str, ...] | None = None
    canary_tags: Annotated[tuple[str, ...] | None, since("1.1.2")] = None
    checks: tuple[ServiceCheck, ...] | None = None
    connect: Annotated[dict[str, msgspec.Raw] | None, since("1.1.2")] = None
    """How the service takes part in a service mesh: any JSON."""
    meta: Annotated[dict[str, str] | None, since("1.1.2")] = None
    canary_meta: Annotated[dict[str, str] | None, since("1.1.2")] = None
    namespace: Annotated[str, since("1.1.2")] = ""
    """The namespace of Consul."""
    on_update: Annotated[str, since("1.1.2")] = ""
