"""Job files: a job in the JSON of Nomad's API, alone, under ``Job``, or several in a list."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from taskfold.log.lines import MAX_LINE_BYTES, open_bytes
from taskfold.model.dialect import Dialect
from taskfold.model.errors import DecodeError, SourceError
from taskfold.nomad.groups import group_of_job
from taskfold.nomad.jobs.canonical import canonical_job
from taskfold.nomad.views.decode import view
from taskfold.nomad.views.job import Job

__all__ = ["JOB_TYPES", "JobFile", "read_jobs", "runnable_job"]

JOB_TYPES: Final = ("service", "system", "batch", "sysbatch")


class JobFile(NamedTuple):
    """A job in a file."""

    path: str
    """The JSON path of the job in the file."""
    json: dict[str, Any]
    """The JSON of the job, as it was written."""
    job: Job
    """The job in the canonical form of the dialect's Nomad."""


def read_jobs(name: str, dialect: Dialect) -> list[JobFile]:
    """Return the jobs in a file, ``-`` for standard input. Raises SourceError."""
    content = _content(name)
    try:
        json = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(name, f"is not JSON ({error}); `nomad job run -output FILE` prints a job as JSON") from None
    jobs = [(f"$[{place}]", job) for place, job in enumerate(json)] if isinstance(json, list) else [("$", json)]
    if not jobs:
        raise SourceError(name, "holds no job: the list is empty")
    return [_read_job(name, path, job, dialect) for path, job in jobs]


def runnable_job(name: str, dialect: Dialect) -> dict[str, Any]:
    """Return the job in a file, checked for running it here.

    Raises SourceError, naming all obstacles, and PolicyRefused.
    """
    # Imported here, as signals of Linux are missing on other systems, where jobs can be read.
    from taskfold.run.environment import Placement
    from taskfold.run.raw_exec import problem_of

    jobs = read_jobs(name, dialect)
    if len(jobs) > 1:
        raise SourceError(name, f"holds {len(jobs)} jobs; one is run")
    json, job = jobs[0].json, jobs[0].job
    placements = [
        (Placement(dialect, job.region, job, group, f"{job.id}.{group.name}[0]"), task)
        for group in job.task_groups or ()
        for task in group.tasks or ()
    ]
    problems = [f"task {task.name!r}: {problem}" for place, task in placements if (problem := problem_of(place, task))]
    tasks = [(place.group.name, task) for place, task in placements]
    names = {(job.id, group, task.name) for group, task in tasks}
    if job.periodic or job.parameterized_job:
        problems.append("a periodic or parameterized job is a template of others: nothing of it is run by itself")
    if any(group.count < 0 for group in job.task_groups or ()):
        problems.append("a Count is less than 0")
    if not names or len(names) < len(tasks) or not all(all(each) for each in names):
        problems.append("the job, its groups and its tasks need names, and each its own")
    if problems:
        raise SourceError(name, "; ".join(problems))
    for group in job.task_groups or ():
        group_of_job(job, group, dialect)
    return json


def _content(name: str) -> bytes:
    """Return the unpacked content of a file. Raises SourceError, also for one that is too long for a job."""
    with open_bytes(name) as stream:
        content = stream.read(MAX_LINE_BYTES + 1)
    if len(content) > MAX_LINE_BYTES:
        raise SourceError(name, f"is longer than {MAX_LINE_BYTES >> 20} MiB: this is no job")
    return content


def _read_job(name: str, path: str, json: Any, dialect: Dialect) -> JobFile:
    """Return the job in a JSON value, directly or under Job. Raises SourceError."""
    if isinstance(json, dict) and "Job" in json:
        path, json = f"{path}.Job", json["Job"]
    try:
        job = view(canonical_job(msgspec.json.encode(json), dialect, path=path), Job, path=path)
    except DecodeError as error:
        raise SourceError(name, str(error)) from None
    if not job.task_groups:
        raise SourceError(name, f"{path}: this is no job of Nomad's: it has no TaskGroups")
    if job.type not in JOB_TYPES:
        raise SourceError(name, f"{path}.Type: {job.type!r} is no type of job; there are {', '.join(JOB_TYPES)}")
    return JobFile(path, json, job)
