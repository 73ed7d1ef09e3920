"""From an allocation's job to the group that decisions are made for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from taskfold.decision.group import DEFAULT_KILL_TIMEOUT_NS, Group, TaskPlan
from taskfold.decision.restart import Hook, default_policy, restarts_after_success
from taskfold.fold.allocation import current_field
from taskfold.model.dialect import Dialect, dialect_of
from taskfold.model.errors import DecodeError, PolicyRefused
from taskfold.model.policy import RestartPolicy
from taskfold.nomad.jobs.canonical import is_registered
from taskfold.nomad.views.job import Job, TaskGroup, TaskView

__all__ = ["group_of", "group_of_job", "ignored_parts", "job_policy", "named_group", "own_policy"]

_JOBS_KEPT: Final = 1_024
"""How many jobs are remembered as groups: the allocations of one share it."""

_HOOKS: Final[dict[str, Hook]] = {"prestart": "prestart", "poststart": "poststart", "poststop": "poststop"}


_decode_name: Final = msgspec.json.Decoder(str | None).decode
# Not strict, since the documented API writes durations as floats.
_decode_job: Final = msgspec.json.Decoder(Job | None, strict=False).decode


def group_of(body: bytes, updates: Mapping[str, bytes | None] | None, dialect: Dialect) -> Group:
    """Return the group of an allocation with these fields. O(length of its JSON), and of its job when that is new.

    Raises DecodeError when its job cannot be read, and PolicyRefused, naming all that is wrong with its policies.
    """
    newest, name_text = (current_field(body, updates, name) or b"null" for name in ("Job", "TaskGroup"))
    try:
        name = _decode_name(name_text)
    except msgspec.DecodeError as error:
        raise DecodeError(f"$.TaskGroup: {error}") from None
    first = current_field(body, None, "Job") or b"null"
    return _group(newest, first if dialect.keeps_restart_policy else newest, name or "", dialect.name)


@lru_cache(maxsize=_JOBS_KEPT)
def _group(job: bytes, policies: bytes, name: str, dialect: str) -> Group:
    """Return a group of a job, with the restart policies of another version of it."""
    current, before = _read(job), _read(policies)
    resolved_dialect = dialect_of(dialect)
    if current is None or not current.task_groups:
        return Group(dialect=resolved_dialect, is_open=True)
    group = named_group(current, name)
    if group is None:
        names = ", ".join(repr(other.name) for other in current.task_groups)
        raise DecodeError(f"$.TaskGroup: the job has no group {name!r}; it has {names}")
    first_group = None if before is None or before is current else named_group(before, name)
    return group_of_job(current, group, resolved_dialect, policies_of=first_group)


def _read(text: bytes) -> Job | None:
    try:
        job: Job | None = _decode_job(text)
    except msgspec.DecodeError as error:
        raise DecodeError(f"$.Job: {error}") from None
    return job


def named_group(job: Job, name: str) -> TaskGroup | None:
    """Return the group of this name; without a name, the only one there is."""
    groups = job.task_groups or ()
    if not name and len(groups) == 1:
        return groups[0]
    return next((group for group in groups if group.name == name), None)


def group_of_job(job: Job, group: TaskGroup, dialect: str | Dialect, *, policies_of: TaskGroup | None = None) -> Group:
    """Return a group of a job as decisions read it. Raises PolicyRefused, naming everything that is wrong."""
    resolved_dialect = dialect_of(dialect)
    before = {task.name: (task, policies_of) for task in (policies_of.tasks if policies_of else None) or ()}
    plans, missing = [], []
    for task in group.tasks or ():
        its_task, its_group = before.get(task.name, (task, group))
        policy = job_policy(job, its_group or group, its_task, resolved_dialect)
        if policy is None:
            missing.append(f"task {task.name!r}: a job of type {job.type!r} has no default, and names none")
        plans.append(_plan(job, task, policy or RestartPolicy(), resolved_dialect))
    if missing:
        raise PolicyRefused(missing)
    update = group.update or job.update
    healthy_ns = update.min_healthy_time_ns if update else 0
    return Group.of(
        plans, resolved_dialect, job.type or "service", **({"min_healthy_time_ns": healthy_ns} if healthy_ns else {})
    )


def own_policy(task: TaskView, dialect: str | Dialect) -> RestartPolicy | None:
    """Return the restart policy that a task has of its own (since Nomad 0.11.0); None without one."""
    return task.restart_policy if dialect_of(dialect).has_new_client else None


def job_policy(job: Job, group: TaskGroup, task: TaskView, dialect: str | Dialect) -> RestartPolicy | None:
    """Return the restart policy of a task: its own, its group's, or the default of the job's type; None without any.

    A policy without a mode (the documented API shows one) has the mode of the default.
    """
    default = default_policy(job.type or "service", dialect)
    policy = own_policy(task, dialect) or group.restart_policy or default
    if policy is not None and not policy.mode and default is not None:
        return msgspec.structs.replace(policy, mode=default.mode)
    return policy


def ignored_parts(job: bytes, dialect: Dialect) -> list[str]:
    """Return what a dialect's Nomad would ignore of a job, and a user would not: one sentence each. O(length).

    The newest dialect stands for all later Nomads, and ignores nothing. A job that a server has taken already stays
    what it is, and one that cannot be read has no such part.
    Source: nomad/structs/structs.go Task and Job, by version.
    """
    if dialect.has_new_client or is_registered(job):
        return []
    try:
        view = _decode_job(job)
    except msgspec.DecodeError:
        return []
    if view is None:
        return []
    problems = ["$.Job.Type: 'sysbatch' is a type of job since Nomad 1.2.0"] if view.type == "sysbatch" else []
    for group in view.task_groups or ():
        for task in group.tasks or ():
            where = f"$.Job: task {task.name!r} of group {group.name!r} has a"
            if task.lifecycle and task.lifecycle.hook:
                problems.append(f"{where} Lifecycle, which exists since Nomad 0.11.0")
            if task.restart_policy:
                problems.append(f"{where} RestartPolicy of its own, which exists since Nomad 0.11.0")
            if task.shutdown_delay_ns:
                problems.append(f"{where} ShutdownDelay, which exists since Nomad 0.6.0")
    return problems


def _plan(job: Job, task: TaskView, policy: RestartPolicy, dialect: Dialect) -> TaskPlan:
    hook = _HOOKS.get(task.lifecycle.hook, "") if task.lifecycle and dialect.has_new_client else ""
    sidecar = bool(hook and task.lifecycle and task.lifecycle.sidecar)
    return TaskPlan(
        name=task.name,
        policy=policy,
        after_success=restarts_after_success(job.type or "service", hook, sidecar=sidecar, dialect=dialect),
        hook=hook,
        sidecar=sidecar,
        leader=task.leader,
        kill_timeout_ns=task.kill_timeout_ns or DEFAULT_KILL_TIMEOUT_NS,
        kill_signal=task.kill_signal,
        shutdown_delay_ns=task.shutdown_delay_ns if dialect.has_new_client else 0,
    )
