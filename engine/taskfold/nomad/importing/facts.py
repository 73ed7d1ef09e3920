"""Facts: jobs, evaluations and deployments in the event stream, from which the Job of an allocation follows.

An allocation's payload never has its Job. A stream with all topics has each write of the job itself, the evaluation
that planned the allocation, and the deployment that it belongs to (`nomad.importing.job_finder`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from taskfold.nomad.fields import DEFAULT_NAMESPACE

__all__ = ["DeploymentWrite", "EvaluationWrite", "Fact", "JobWrite", "Payload", "facts_of_payload"]


class _Fact(Struct, frozen=True, kw_only=True):
    """A write of a job, or of an object that belongs to a job."""

    namespace: str
    job: str
    """The ID of the job."""
    index: int
    """The index of the write: the object's ModifyIndex."""
    name: str = ""
    """The file it was read from."""
    line: int = 0

    @property
    def job_key(self) -> tuple[str, str]:
        """The namespace and the ID of the job."""
        return self.namespace, self.job


class JobWrite(_Fact, frozen=True, kw_only=True):
    """A write of a job: a registration, or a change of its status."""

    version: int
    created_index: int
    registered_index: int
    """The index at which this version was registered: the JobModifyIndex."""
    is_stopped: bool
    """A stopped version, of which nothing is placed."""
    text: bytes
    """The complete job, as JSON."""


class EvaluationWrite(_Fact, frozen=True, kw_only=True):
    """A write of an evaluation."""

    id: str
    created_index: int
    job_index: int
    """The newest write of the job when the evaluation was created; 0 if unknown."""
    snapshot_index: int
    """The index of the cluster's state that the scheduler used, if the evaluation has ended; else 0."""
    is_plan: bool
    """It was written together with its plan."""
    is_done: bool


class DeploymentWrite(_Fact, frozen=True, kw_only=True):
    """A write of a deployment."""

    id: str
    job_version: int
    job_created_index: int


Fact: TypeAlias = JobWrite | EvaluationWrite | DeploymentWrite

_Index: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_OptionalIndex: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Text: TypeAlias = Annotated[str, Meta(min_length=1)]
_ENDED: Final = frozenset(("complete", "failed", "canceled"))
PLANNED: Final = "PlanResult"


class Payload(Struct):
    """The payload of a stream event, with the objects that the importer uses."""

    Allocation: dict[str, Raw] | None = None
    Job: Raw | UnsetType = UNSET
    Evaluation: Raw | UnsetType = UNSET
    Deployment: Raw | UnsetType = UNSET


class _Job(Struct):
    ID: _Text
    Version: _OptionalIndex
    CreateIndex: _Index
    ModifyIndex: _Index
    JobModifyIndex: _Index
    Namespace: str = DEFAULT_NAMESPACE
    Stop: bool = False


class _Evaluation(Struct):
    ID: _Text
    JobID: _Text
    CreateIndex: _Index
    ModifyIndex: _Index
    Namespace: str = DEFAULT_NAMESPACE
    JobModifyIndex: _OptionalIndex = 0
    SnapshotIndex: _OptionalIndex = 0
    Status: str = ""


class _Deployment(Struct):
    ID: _Text
    JobID: _Text
    JobCreateIndex: _Index
    ModifyIndex: _Index
    JobVersion: _OptionalIndex = 0
    Namespace: str = DEFAULT_NAMESPACE


_decode_job: Final = msgspec.json.Decoder(_Job).decode
_decode_evaluation: Final = msgspec.json.Decoder(_Evaluation).decode
_decode_deployment: Final = msgspec.json.Decoder(_Deployment).decode


def facts_of_payload(payload: Payload, kind: str, name: str = "", line: int = 0) -> list[Fact]:
    """Return the facts in a payload of any topic; ``kind`` is the Type of the event. O(length).

    Objects without an index, or of unexpected types, are skipped: nothing can be concluded from them.
    """
    facts: list[Fact] = []
    if payload.Job is not UNSET and (job := _decoded(payload.Job, _decode_job)) is not None:
        facts.append(
            JobWrite(
                namespace=job.Namespace or DEFAULT_NAMESPACE,
                job=job.ID,
                index=job.ModifyIndex,
                name=name,
                line=line,
                version=job.Version,
                created_index=job.CreateIndex,
                registered_index=job.JobModifyIndex,
                is_stopped=job.Stop,
                text=bytes(payload.Job),
            )
        )
    if payload.Evaluation is not UNSET and (evaluation := _decoded(payload.Evaluation, _decode_evaluation)) is not None:
        is_done = evaluation.Status in _ENDED
        facts.append(
            EvaluationWrite(
                namespace=evaluation.Namespace or DEFAULT_NAMESPACE,
                job=evaluation.JobID,
                index=evaluation.ModifyIndex,
                name=name,
                line=line,
                id=evaluation.ID,
                created_index=evaluation.CreateIndex,
                job_index=evaluation.JobModifyIndex,
                # A waiting evaluation still has the value of the evaluation that created it.
                snapshot_index=evaluation.SnapshotIndex if is_done else 0,
                is_plan=kind == PLANNED,
                is_done=is_done,
            )
        )
    if payload.Deployment is not UNSET and (deployment := _decoded(payload.Deployment, _decode_deployment)) is not None:
        facts.append(
            DeploymentWrite(
                namespace=deployment.Namespace or DEFAULT_NAMESPACE,
                job=deployment.JobID,
                index=deployment.ModifyIndex,
                name=name,
                line=line,
                id=deployment.ID,
                job_version=deployment.JobVersion,
                job_created_index=deployment.JobCreateIndex,
            )
        )
    return facts


T = TypeVar("T")


def _decoded(text: Raw, decode: Callable[[Raw], T]) -> T | None:
    """Decode an object of a payload; None if it is not as Nomad sends it."""
    try:
        return decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
