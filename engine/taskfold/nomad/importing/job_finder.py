"""The job finder: the version of its job that an allocation has, concluded from the event stream alone.

A scheduler works on a snapshot of the cluster. An allocation that it places, or updates in place, gets the job in that
snapshot, and the ID of the scheduler's evaluation; any other change of the allocation leaves its Job. So:

* the allocation's evaluation limits the index of the snapshot: it is no older than the evaluation's creation, and older
  than the plan (at most AllocModifyIndex) and the evaluation's end. An ended evaluation names a snapshot: that of its
  first attempt, which may have been repeated on a newer one if the plan was refused;
* the job at an index is its newest write up to it. A stopped version places nothing;
* a write that the evaluation refers to, and the stream does not have, means that something is missing;
* a deployment belongs to one version. The allocation must have the newest possible version; if that is the
  deployment's,
  it is the answer, since a snapshot with the deployment has the version. Otherwise an older version was placed while
  canaries of a newer one run (``downgradedJobForPlacement``), or the deployment is an old one;
* if the evaluation is unknown, the job must have a single known version. A stream is assumed to have no hole.

Where more than one version is possible, there is no answer. All fields of the Job are those of that write. Status,
StatusDescription, Stable and ModifyIndex change with later writes of the same version: they are as of the snapshot that
the evaluation names, else as of the oldest possible write. Source: scheduler/generic_sched.go,
nomad/state/state_store.go (UpsertPlanResults), nomad/worker.go of 1.1.2; every recording agrees.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from taskfold.nomad.importing.facts import DeploymentWrite, EvaluationWrite, Fact, JobWrite

__all__ = ["MAX_JOBS", "MOVING", "Jobs", "Subject", "contradicts"]

MAX_JOBS: Final = 1024
"""The most jobs that are remembered: those with the newest facts."""
_MAX_WRITES: Final = 16
_MAX_EVALUATIONS: Final = 64
_MAX_DEPLOYMENTS: Final = 16

MOVING: Final = ("ModifyIndex", "Stable", "Status", "StatusDescription")
"""The fields of a Job that change within a version."""


class Subject(NamedTuple):
    """The key for concluding an allocation's Job."""

    job_key: tuple[str, str]
    """The namespace and the ID of its job."""
    evaluation: str
    deployment: str
    planned_index: int
    """The latest possible index of its plan: its AllocModifyIndex, else its ModifyIndex."""
    is_terminal: bool
    """It has ended, or is to end: then further changes leave its Job."""


class _Evaluation(NamedTuple):
    """An evaluation, as streams have it."""

    created_index: int
    job_index: int = 0
    is_whole: bool = False
    """Its creation was seen, so that all its plans are known."""
    plans: frozenset[int] = frozenset()
    """The indexes of its plans, at most two, since more make no difference."""
    done_index: int = 0
    snapshot_index: int = 0

    def after(self, write: EvaluationWrite) -> _Evaluation:
        """Return the evaluation with one more write; their order makes no difference."""
        plans = self.plans
        if write.is_plan and write.index not in plans:
            plans = frozenset(sorted((*plans, write.index))[:2])
        is_newest_end = write.is_done and write.index >= self.done_index
        return _Evaluation(
            created_index=write.created_index,
            job_index=max(self.job_index, write.job_index),
            is_whole=self.is_whole or write.index == write.created_index,
            plans=plans,
            done_index=write.index if is_newest_end else self.done_index,
            snapshot_index=write.snapshot_index if is_newest_end else self.snapshot_index,
        )


class _JobHistory(Struct):
    """A job, as streams have it, by index and by ID."""

    writes: dict[int, JobWrite] = {}
    newest_index: int = 0
    """The index of the last write seen."""
    evaluations: dict[str, _Evaluation] = {}
    deployments: dict[str, DeploymentWrite] = {}


class Jobs:
    """The jobs of streams, as far as they are still needed. Memory is bounded."""

    def __init__(self) -> None:
        self.stream_index = 0
        """The newest index seen in a stream."""
        self.facts_total = 0
        """The number of facts added."""
        self._histories: dict[tuple[str, str], _JobHistory] = {}

    @property
    def has_no_facts(self) -> bool:
        """Return whether there are no facts."""
        return not self._histories

    def add(self, fact: Fact) -> bool:
        """Add a fact; tell whether it is new. O(1)."""
        self.facts_total += 1
        job_key = fact.namespace, fact.job
        history = self._histories.pop(job_key, None) or _JobHistory()
        self._histories[job_key] = history  # now the one with the newest fact
        if len(self._histories) > MAX_JOBS:
            del self._histories[next(iter(self._histories))]
        self.stream_index = max(self.stream_index, fact.index)
        if isinstance(fact, JobWrite):
            # One write may change a job in several steps, in order: the last is its result. Otherwise the stream is
            # being read again.
            if fact.index in history.writes and fact.index != history.newest_index:
                return False
            history.newest_index = fact.index
            history.writes[fact.index] = fact
            if len(history.writes) > _MAX_WRITES:
                del history.writes[min(history.writes)]
            return True
        if isinstance(fact, EvaluationWrite):
            before = history.evaluations.pop(fact.id, None)
            after = history.evaluations[fact.id] = (before or _Evaluation(fact.created_index)).after(fact)
            _limit(history.evaluations, _MAX_EVALUATIONS)
            return after != before
        last = history.deployments.pop(fact.id, None)
        history.deployments[fact.id] = fact
        _limit(history.deployments, _MAX_DEPLOYMENTS)
        return last is None or last.job_version != fact.job_version

    def job_of(self, subject: Subject) -> JobWrite | None:
        """Return the write of an allocation's job; None if it cannot be concluded. O(writes)."""
        history = self._histories.get(subject.job_key)
        possible = [] if history is None else self._possible(subject, history)
        if history is None or not possible:
            return None
        newest = possible[-1]
        deployment = history.deployments.get(subject.deployment)
        if deployment is not None:
            if (deployment.job_created_index, deployment.job_version) != (newest.created_index, newest.version):
                return None
            return next(write for write in possible if _is_same_version(write, newest))
        if subject.deployment and newest.version:
            return None  # it may be the deployment of an older version
        return possible[0] if all(_is_same_version(write, newest) for write in possible) else None

    def _possible(self, subject: Subject, history: _JobHistory) -> list[JobWrite]:
        """Return the possible writes of an allocation's Job, in order; none if one of them may be unknown."""
        evaluation = history.evaluations.get(subject.evaluation)
        done_index = 0 if evaluation is None else evaluation.done_index
        if not done_index and self.stream_index < subject.planned_index:
            return []  # another version may still appear
        writes = [history.writes[index] for index in sorted(history.writes) if index < subject.planned_index]
        first, last = _span(evaluation, subject)
        is_moved = 0 < done_index < subject.planned_index and not subject.is_terminal
        if is_moved and any(_is_possible(write) and write.registered_index > last for write in writes):
            return []  # a later plan may have given it a newer version
        return _within(writes, first, last, evaluation)


def _is_same_version(one: JobWrite, other: JobWrite) -> bool:
    """Return whether two writes are of the same version of a job."""
    return (one.created_index, one.registered_index) == (other.created_index, other.registered_index)


def _span(evaluation: _Evaluation | None, subject: Subject) -> tuple[int, int]:
    """Return the first and last possible index of the snapshot that an allocation was planned on."""
    last = subject.planned_index - 1
    if evaluation is None:
        return 0, last
    if not evaluation.done_index:
        return evaluation.created_index, last
    plans = sorted(evaluation.plans) if evaluation.is_whole else []
    last = min(last, evaluation.done_index - 1, *(plan - 1 for plan in plans if len(plans) == 1))
    # The named snapshot is that of the first attempt, or of the last run of an evaluation that had to wait.
    is_of_all = bool(plans) and evaluation.created_index <= evaluation.snapshot_index < plans[0]
    return (evaluation.snapshot_index if is_of_all else evaluation.created_index), last


def _within(writes: list[JobWrite], first: int, last: int, evaluation: _Evaluation | None) -> list[JobWrite]:
    """Return the writes that the snapshot may have, in order; none if one of them is unknown."""
    before = [write for write in writes if write.index <= first]
    within = [write for write in writes if first < write.index <= last]
    if evaluation is None:
        # From the beginning, as earlier writes may be unknown otherwise.
        is_whole = bool(within) and within[0].index == within[0].created_index
        return [write for write in within if _is_possible(write)] if is_whole else []
    if not before or before[-1].index < evaluation.job_index:
        return []
    return [write for write in (before[-1], *within) if _is_possible(write)]


def _is_possible(write: JobWrite) -> bool:
    return not write.is_stopped


def _limit(entries: dict[str, Any], count: int) -> None:
    """Drop the oldest entry beyond a limit."""
    if len(entries) > count:
        del entries[next(iter(entries))]


def contradicts(job: bytes, write: JobWrite) -> bool:
    """Return whether a Job differs from a write of it, apart from fields that change within a version."""
    return bool(_fixed(job) != _fixed(write.text))


def _fixed(job: bytes) -> Any:
    """Return the fields of a Job that are constant within a version; None for an invalid Job."""
    try:
        fields = msgspec.json.decode(job, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
    return _without_empty({name: value for name, value in fields.items() if name not in MOVING})


def _without_empty(value: Any) -> Any:
    """Return a part of a Job without null, zero and empty values: the CLI writes fields that the API leaves out."""
    if isinstance(value, dict):
        return {name: rest for name, part in value.items() if (rest := _without_empty(part))}
    return [_without_empty(part) for part in value] if isinstance(value, list) else value
