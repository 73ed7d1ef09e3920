"""The Job of an answer where none is known: the least that a client of Nomad can work with, of what the rest tells.

Nomad's command line reads parts of the Job of every allocation, and ends with a nil pointer where it is null (source:
command/alloc_status.go, alloc_restart.go, alloc_logs.go and api/allocations.go of v1.1.2, command/logs.go of v0.5.6).
What is made here is answered, and never recorded, streamed or exported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

from taskfold.model.dialect import Dialect
from taskfold.model.errors import DecodeError
from taskfold.nomad.jobs.canonical import canonical_job, is_registered
from taskfold.nomad.views.resources import LifecycleView

__all__ = ["NOT_TOLD", "answered_job", "least_job"]

NOT_TOLD: Final = "taskfold was not told this job: what is here beside names is what a job has that says nothing else"
"""The StatusDescription of such a job, by which a client tells it; it has no JobModifyIndex, either."""

_NULL: Final = b"null"
_PLACE: Final = re.compile(r"\[[0-9]+\]")
T = TypeVar("T")


class _Allocated(msgspec.Struct):
    """The tasks of a group in AllocatedResources."""

    Tasks: dict[str, Raw] | None = None
    TaskLifecycles: dict[str, LifecycleView | None] | None = None


def answered_job(fields: Mapping[str, bytes], tasks: Iterable[str], dialect: Dialect, region: str) -> bytes:
    """Return the Job that is answered for an allocation with these fields and tasks. O(length).

    It is the one that is known. One that no server has taken is made whole, since older logs have it as it was written.
    """
    job = fields.get("Job", _NULL)
    if job == _NULL:
        return least_job(fields, tasks, dialect, region)
    if is_registered(job):
        return job
    try:
        return canonical_job(job, dialect, region=region)
    except DecodeError:  # an older log may hold an invalid job, which is shown as it is
        return job


def least_job(fields: Mapping[str, bytes], tasks: Iterable[str], dialect: Dialect, region: str) -> bytes:
    """Return the least canonical job of an allocation with these fields and tasks. O(tasks).

    >>> from taskfold.model.dialect import DIALECTS
    >>> text = least_job({"JobID": b'"web"', "TaskGroup": b'"api"'}, ["server"], DIALECTS["1.1.2"], "global")
    >>> job = msgspec.json.decode(text)
    >>> job["ID"], job["TaskGroups"][0]["Name"], job["TaskGroups"][0]["Tasks"][0]["Name"], job["JobModifyIndex"]
    ('web', 'api', 'server', 0)
    """
    allocated = _decoded_field(fields, "AllocatedResources", _Allocated) or _Allocated()
    lifecycles = allocated.TaskLifecycles or {}
    names = {
        *tasks,
        *(allocated.Tasks or {}),
        *lifecycles,
        *(_decoded_field(fields, "TaskResources", dict[str, Raw]) or {}),
    }
    job_id, group = _decoded_field(fields, "JobID", str) or "", _decoded_field(fields, "TaskGroup", str) or ""
    job = {
        "ID": job_id,
        "Name": _job_name(_decoded_field(fields, "Name", str) or "", group) or job_id,
        "Namespace": _decoded_field(fields, "Namespace", str),
        "Type": _decoded_field(fields, "JobType", str) or None,
        "Version": _decoded_field(fields, "JobVersion", int),
        "StatusDescription": NOT_TOLD,
        "TaskGroups": [
            {"Name": group, "Tasks": [{"Name": name, "Lifecycle": lifecycles.get(name)} for name in sorted(names)]}
        ],
    }
    return canonical_job(msgspec.json.encode(job), dialect, region=region)


def _decoded_field(fields: Mapping[str, bytes], name: str, kind: type[T]) -> T | None:
    """Return a field; None where it is not told, or is no such thing."""
    try:
        return msgspec.json.decode(fields.get(name, _NULL), type=kind | None)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _job_name(allocation: str, group: str) -> str:
    """Return the name of a job, by that of an allocation; empty where it does not tell.

    >>> _job_name("web.api[0]", "api"), _job_name("mine", "api")
    ('web', '')
    """
    name, separator, place = allocation.rpartition(f".{group}")
    return name if separator and _PLACE.fullmatch(place) else ""
