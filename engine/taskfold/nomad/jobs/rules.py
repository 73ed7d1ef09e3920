"""The rules by which stanzas of a job depend on other parts of it: names, policies and strategies are handed down.

The rules work on stanzas as `taskfold.nomad.jobs.canonical` reads them, in place, and leave to it whatever is the same
in every job. Source: the Canonicalize functions of api/ and nomad/structs/, command/agent/job_endpoint.go, and the
implied constraints of nomad/job_endpoint*.go, of v0.5.6 and v1.1.2.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from taskfold.decision.restart import default_policy
from taskfold.model.dialect import Dialect
from taskfold.model.go.quoting import go_quoted
from taskfold.nomad.jobs.defaults import (
    MIGRATE_DEFAULTS,
    UPDATE_DEFAULTS,
    has_field,
    keeps,
    reschedule_defaults,
    slots,
)
from taskfold.nomad.views.job import TaskGroup, TaskView, Vault
from taskfold.nomad.views.resources import Resources
from taskfold.nomad.views.services import ServiceCheck

__all__ = ["Stanza", "fill_in_job"]

Stanza: TypeAlias = dict[str, Any]
"""The fields of a stanza, by wire name: JSON text, a stanza, or a list or a map of stanzas; nulls are left out."""

_ZEROS: Final = frozenset((b'""', b"0", b"false", b"null"))
_SERVICE: Final = "service"
_SYSTEM: Final = "system"
_SIGNAL: Final = "signal"
_SIGHUP: Final = b'"SIGHUP"'
_VARIABLE: Final = re.compile(r"\$\{([a-zA-Z0-9_.-]+)\}")
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_raw: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.encode


def fill_in_job(job: Stanza, dialect: Dialect, region: str) -> None:
    """Fill in what follows from other parts of a job, and the region of its servers, in place. O(size of the job)."""
    job.setdefault("Region", _encode(region))
    if "ID" in job:
        job.setdefault("Name", job["ID"])
    for group in job.get("TaskGroups", ()):
        _fill_in_group(job, group, dialect)
    if has_field(TaskGroup, "Update", dialect):
        # Servers keep at the job what Nomad knew before 0.6.0; the groups have it all.
        update = _update_of(job) or {}
        is_whole = update.get("MaxParallel", b"0") not in _ZEROS
        job["Update"] = {name: update[name] for name in ("MaxParallel", "Stagger")} if is_whole else {}


def _fill_in_group(job: Stanza, group: Stanza, dialect: Dialect) -> None:
    job_type = _text_of(job, "Type", _SERVICE)
    tasks = group.get("Tasks", [])
    if (scaling := group.get("Scaling")) is not None:
        group.setdefault("Count", scaling.get("Min", b"1"))
        scaling.setdefault("Min", group["Count"])
        _aim(scaling, job, group)
    _complete_policies(group, job_type, dialect)
    _hand_down_strategies(job, group, job_type, dialect)
    if _text_of(job, "ConsulNamespace") and not _text_of(group.get("Consul", {}), "Namespace"):
        group.setdefault("Consul", {})["Namespace"] = job["ConsulNamespace"]
    for service in group.get("Services", ()):
        _fill_in_service(service, job, group, None, dialect)
    for task in tasks:
        _fill_in_task(job, group, task, dialect)
    _require(group, tasks, dialect)
    if keeps(Resources, "DiskMB", dialect):  # what a task asks for goes before what its group does
        disks = [int(task["Resources"].get("DiskMB", b"0")) for task in tasks]
        if any(disks):
            group.setdefault("EphemeralDisk", {})["SizeMB"] = b"%d" % sum(disks)


def _complete_policies(group: Stanza, job_type: str, dialect: Dialect) -> None:
    """Complete the restart policies of a group and its tasks: by the default of the job's type, or the group's."""
    default = default_policy(job_type, dialect)
    own = group.get("RestartPolicy")
    if default is not None and (own is None or dialect.completes_policies):
        own = group["RestartPolicy"] = {**_decode_stanza(_encode(default)), **(own or {})}
    if own is not None and has_field(TaskView, "RestartPolicy", dialect):
        for task in group.get("Tasks", ()):
            task["RestartPolicy"] = {**own, **task.get("RestartPolicy", {})}


def _decode_stanza(text: bytes) -> Stanza:
    """Return a stanza of scalars."""
    return {name: bytes(raw) for name, raw in _decode_raw(text).items()}


def _hand_down_strategies(job: Stanza, group: Stanza, job_type: str, dialect: Dialect) -> None:
    """Hand down what the job says of updates, rescheduling and migration, and complete it."""
    if has_field(TaskGroup, "Update", dialect):
        update = _update_of(job)
        if update is not None and ("Update" in group or any(text not in _ZEROS for text in update.values())):
            group["Update"] = {**update, **group.get("Update", {})}
        if "Update" in group:
            group["Update"] = {**UPDATE_DEFAULTS, **group["Update"]}
    for name, of_job, default, needs_one in (
        ("ReschedulePolicy", "Reschedule", reschedule_defaults(job_type), job_type != _SYSTEM),
        ("Migrate", "Migrate", MIGRATE_DEFAULTS, job_type == _SERVICE),
    ):
        if has_field(TaskGroup, name, dialect) and (needs_one or name in group or of_job in job):
            group[name] = {**default, **job.get(of_job, {}), **group.get(name, {})}


def _update_of(job: Stanza) -> Stanza | None:
    """Return the complete Update of a job; a service always has one."""
    update = job.get("Update")
    if update is None and _text_of(job, "Type", _SERVICE) != _SERVICE:
        return None
    return {**UPDATE_DEFAULTS, **(update or {})}


def _fill_in_task(job: Stanza, group: Stanza, task: Stanza, dialect: Dialect) -> None:
    resources = task.setdefault("Resources", {})
    if "Cores" in resources:
        resources.setdefault("CPU", b"0")
    if all(text in _ZEROS for text in task.get("Lifecycle", {}).values()):
        task.pop("Lifecycle", None)
    for artifact in task.get("Artifacts", ()):
        if _text_of(artifact, "GetterMode") == "file":
            name = posixpath.basename(_text_of(artifact, "GetterSource").rstrip("/"))
            artifact.setdefault("RelativeDest", _encode(posixpath.normpath(f"local/{name}")))
    _fill_in_changes(job, task)
    for service in task.get("Services", ()):
        _fill_in_service(service, job, group, task, dialect)
    for scaling in task.get("ScalingPolicies", ()):
        _aim(scaling, job, group, task)


def _fill_in_changes(job: Stanza, task: Stanza) -> None:
    """Fill in what happens to a task when a template or a secret changes."""
    for template in task.get("Templates", ()):
        if _text_of(template, "ChangeMode") == _SIGNAL:
            template.setdefault("ChangeSignal", _SIGHUP)
    if (
        (vault := task.get("Vault")) is not None
        and not _text_of(vault, "Namespace")
        and _text_of(job, "VaultNamespace")
    ):
        vault["Namespace"] = job["VaultNamespace"]
    for stanza in _with_signals(task):
        if "ChangeSignal" in stanza:
            stanza["ChangeSignal"] = _changed(stanza["ChangeSignal"], str.upper)


def _fill_in_service(service: Stanza, job: Stanza, group: Stanza, task: Stanza | None, dialect: Dialect) -> None:
    """Name a service and its checks, and hand down to the checks what it says for all of them."""
    names = [_text_of(stanza, "Name") for stanza in (job, group, task) if stanza is not None]
    if not _text_of(service, "Name"):
        service["Name"] = _encode("-".join(names))
    of_job, of_group, of_task = (*names, "group")[:3]
    variables = {"JOB": of_job, "TASKGROUP": of_group, "TASK": of_task, "BASE": f"{of_job}-{of_group}-{of_task}"}
    # A name that looks like a reference itself is none: filled in once more, it would grow.
    values = {name: value for name, value in variables.items() if "${" not in value}
    service["Name"] = _changed(
        service["Name"], lambda text: _VARIABLE.sub(lambda match: values.get(match[1], match[0]), text)
    )
    has_updates = has_field(ServiceCheck, "OnUpdate", dialect)
    for check in service.get("Checks", ()):
        if not _text_of(check, "Name"):
            check["Name"] = _encode(f"service: {go_quoted(_text_of(service, 'Name'))} check")
        if has_updates and "OnUpdate" in service:
            check.setdefault("OnUpdate", service["OnUpdate"])
        if "CheckRestart" in service:
            check["CheckRestart"] = {**service["CheckRestart"], **check.get("CheckRestart", {})}


def _aim(scaling: Stanza, job: Stanza, group: Stanza, task: Stanza | None = None) -> None:
    """Say what a scaling policy is of."""
    target = {
        "Namespace": _text_of(job, "Namespace", "default"),
        "Job": _text_of(job, "ID"),
        "Group": _text_of(group, "Name"),
    }
    if task is not None:
        target["Task"] = _text_of(task, "Name")
    if msgspec.json.decode(scaling.get("Target", b"null")) != target:
        scaling["Target"] = _encode(target)


def _require(group: Stanza, tasks: list[Stanza], dialect: Dialect) -> None:
    """Constrain a group to nodes that have what its tasks need: Vault, and the signals that they are sent."""
    needed = []
    if any("Vault" in task for task in tasks):
        operand = b'"semver"' if dialect.has_new_client else b'"version"'
        needed.append({"LTarget": b'"${attr.vault.version}"', "Operand": operand, "RTarget": b'">= 0.6.1"'})
    if signals := {signal for task in tasks for signal in _signals(task, dialect)} - {""}:
        target = _encode(",".join(sorted(signals)))
        needed.append({"LTarget": b'"${attr.os.signals}"', "Operand": b'"set_contains"', "RTarget": target})
    for constraint in needed:
        constraints = group.setdefault("Constraints", [])
        # In 1.1.2 any constraint on the version of Vault is enough.
        is_vague = dialect.has_new_client and constraint["Operand"] == b'"semver"'
        compared = ("LTarget",) if is_vague else ("LTarget", "Operand", "RTarget")
        if not any(
            all(_text_of(each, name) == _text_of(constraint, name) for name in compared) for each in constraints
        ):
            constraints.append(constraint)


def _signals(task: Stanza, dialect: Dialect) -> Iterator[str]:
    """Yield the signals that a task is sent."""
    for stanza in _with_signals(task):
        if _text_of(stanza, "ChangeMode") == _SIGNAL:
            unsaid = slots(Vault, dialect)["ChangeSignal"]  # a template's is filled in by now
            assert unsaid is not None
            yield _text_of(stanza, "ChangeSignal", _decode_text(unsaid.default))
    yield _text_of(task, "KillSignal")


def _with_signals(task: Stanza) -> Iterator[Stanza]:
    """Yield the stanzas of a task that may send it a signal when something changes."""
    yield from task.get("Templates", ())
    if "Vault" in task:
        yield task["Vault"]


def _text_of(stanza: Stanza, name: str, default: str = "") -> str:
    """Return a text of a stanza; without one the default."""
    return _decode_text(stanza[name]) if name in stanza else default


def _changed(text: bytes, change: Callable[[str], str]) -> bytes:
    """Return a JSON text with a change; where it changes nothing, as it was written."""
    before = _decode_text(text)
    after = change(before)
    return text if after == before else _encode(after)
