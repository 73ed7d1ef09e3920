"""Jobs, nodes, evaluations and deployments, as far as they follow from the allocations that are known.

An allocation has the job that it was placed with: the versions of a job are those that its allocations have, and its
status and summary follow from theirs. Nomad has more of each: where an agent is followed, it may be asked
(`taskfold.http.serve.upstream`). Source of the rules: nomad/state/state_store.go getJobStatus, updateSummaryWithAlloc.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from taskfold.fold.allocation import AllocationState, current_fields
from taskfold.fold.status import is_client_terminal
from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.options import Options
from taskfold.http.query import is_pretty
from taskfold.http.request import Request, decode_json
from taskfold.nomad.fields import DEFAULT_NAMESPACE
from taskfold.nomad.snapshot import Snapshot

__all__ = [
    "client_stats",
    "deployment_allocations",
    "evaluations_allocations",
    "job_summary",
    "job_versions",
    "jobs",
    "leader",
    "node_allocations",
    "search",
]

_NOT_FOUND: Final = "job not found"
_ALL: Final = "*"
_COUNTS: Final = ("Complete", "Failed", "Lost", "Queued", "Running", "Starting")
_COUNT_OF: Final = {
    "complete": "Complete",
    "failed": "Failed",
    "lost": "Lost",
    "running": "Running",
    "pending": "Starting",
}
_STUB: Final = (
    "CreateIndex",
    "Datacenters",
    "ID",
    "JobModifyIndex",
    "ModifyIndex",
    "Multiregion",
    "Name",
    "Namespace",
    "ParentID",
    "Priority",
    "StatusDescription",
    "Stop",
    "SubmitTime",
    "Type",
)
"""The fields that the stub of a job has as they are."""

_MATCHES_AT_ONCE: Final = 20
"""How many matches of a kind a search tells. Source: nomad/search_endpoint.go truncateLimit."""

_NO_USAGE: Final = {
    "CpuStats": {
        "Measured": None,
        "Percent": 0.0,
        "SystemMode": 0.0,
        "ThrottledPeriods": 0,
        "ThrottledTime": 0,
        "TotalTicks": 0.0,
        "UserMode": 0.0,
    },
    "DeviceStats": [],
    "MemoryStats": {
        "Cache": 0,
        "KernelMaxUsage": 0,
        "KernelUsage": 0,
        "MaxUsage": 0,
        "Measured": None,
        "RSS": 0,
        "Swap": 0,
        "Usage": 0,
    },
}
_decode_job: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class _Member(Struct):
    """The fields of an allocation that tell of its job."""

    JobID: str | None = None
    Namespace: str | None = None
    TaskGroup: str | None = None
    EvalID: str | None = None
    DeploymentID: str | None = None
    NodeID: str | None = None
    ClientStatus: str | None = None


class KnownJob:
    """A job, as its allocations tell of it."""

    def __init__(self, namespace: str, id: str) -> None:
        self.namespace = namespace
        self.id = id
        self.versions: dict[int, tuple[int, dict[str, Raw]]] = {}
        """By version, the ModifyIndex of the newest text, and that."""
        self.counts: dict[str, dict[str, int]] = {}
        """By task group, how many allocations there are of each status."""
        self.modify_index = 0
        """Of the newest write of its allocations."""
        self.is_alive = False
        """One of its allocations has not ended."""

    def add(self, state: AllocationState, member: _Member, job: dict[str, Raw] | None) -> None:
        """Take in what an allocation tells."""
        status = member.ClientStatus or state.client_status or "pending"
        counts = self.counts.setdefault(member.TaskGroup or "", dict.fromkeys(_COUNTS, 0))
        if status in _COUNT_OF:
            counts[_COUNT_OF[status]] += 1
        self.is_alive |= not is_client_terminal(status)
        self.modify_index = max(self.modify_index, state.modify_index)
        if job is not None:
            version, index = _number(job, "Version"), _number(job, "ModifyIndex")
            if version not in self.versions or self.versions[version][0] < index:
                self.versions[version] = index, job

    @property
    def newest(self) -> dict[str, Raw]:
        """The newest version, by field; empty where no allocation has it."""
        return self.versions[max(self.versions)][1] if self.versions else {}

    @property
    def status(self) -> str:
        """The status that follows: a job lives while an allocation does, and a system job until it is stopped."""
        job = self.newest
        is_kept = _text(job, "Type") == b'"system"' and _text(job, "Stop") != b"true"
        return "running" if self.is_alive or is_kept else "dead"

    def summary(self) -> dict[str, Any]:
        """Return the summary: how many allocations of each group are of which status."""
        return {
            "Children": {"Dead": 0, "Pending": 0, "Running": 0},
            "CreateIndex": _number(self.newest, "CreateIndex"),
            "JobID": self.id,
            "ModifyIndex": self.modify_index,
            "Namespace": self.namespace,
            "Summary": self.counts,
        }

    def stub(self) -> dict[str, Any]:
        """Return its entry in a list of jobs."""
        job = self.newest
        fields: dict[str, Any] = {name: job.get(name, Raw(b"null")) for name in _STUB}
        return fields | {
            "ID": self.id,
            "JobSummary": self.summary(),
            "Namespace": self.namespace,
            "ParameterizedJob": _text(job, "ParameterizedJob") != b"null",
            "Periodic": _text(job, "Periodic") != b"null",
            "Status": self.status,
        }


def known_jobs(states: Iterable[AllocationState]) -> dict[tuple[str, str], KnownJob]:
    """Return the jobs of allocations, by ID and namespace. O(length of their fields)."""
    by_id: dict[tuple[str, str], KnownJob] = {}
    texts: dict[bytes, dict[str, Raw] | None] = {}
    for state in states:
        fields = current_fields(state.placed_body, state.updates)
        member = _member_of(fields)
        key = member.JobID or "", member.Namespace or DEFAULT_NAMESPACE
        text = fields.get("Job", b"null")
        if text not in texts:
            texts[text] = None if text == b"null" else _decode_job(text)
        by_id.setdefault(key, KnownJob(key[1], key[0])).add(state, member, texts[text])
    return dict(sorted(by_id.items()))


def _member_of(fields: Mapping[str, bytes]) -> _Member:
    texts = {name: Raw(fields[name]) for name in _Member.__struct_fields__ if name in fields}
    try:
        return msgspec.json.decode(_encode(texts), type=_Member)
    except msgspec.ValidationError:
        return _Member()


def _text(job: Mapping[str, Raw], name: str) -> bytes:
    return bytes(job.get(name, b"null"))


def _number(job: Mapping[str, Raw], name: str) -> int:
    text = _text(job, name)
    return int(text) if text.isdigit() and len(text) <= len("18446744073709551615") else 0


# --- the endpoints ---


async def jobs(context: Context, request: Request, options: Options) -> Answer:
    """Answer ``GET /v1/jobs``: those that have allocations here."""

    def stubs(by_id: dict[tuple[str, str], KnownJob]) -> list[dict[str, Any]]:
        return [job.stub() for job in by_id.values() if job.id.startswith(options.prefix)]

    return await _answer(context, request, options, stubs)


async def job_summary(context: Context, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>/summary``."""
    return await _answer(context, request, options, lambda by_id: _one(by_id, job, KnownJob.summary), job=job)


async def job_versions(context: Context, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>/versions``: those that its allocations have, newest first."""
    index = context.engine.index

    def versions(one: KnownJob) -> dict[str, Any]:
        texts = [one.versions[version][1] for version in sorted(one.versions, reverse=True)]
        return {"Diffs": None, "Index": index, "KnownLeader": True, "LastContact": 0, "Versions": texts}

    return await _answer(context, request, options, lambda by_id: _one(by_id, job, versions), job=job)


def _one(
    by_id: dict[tuple[str, str], KnownJob], job: str, show: Callable[[KnownJob], dict[str, Any]]
) -> dict[str, Any] | None:
    """Return what is shown of a job; None where it has no allocation here."""
    return next((show(one) for one in by_id.values() if one.id == job), None)


async def _answer(
    context: Context,
    request: Request,
    options: Options,
    show: Callable[[dict[tuple[str, str], KnownJob]], Any],
    *,
    job: str | None = None,
) -> Answer:
    """Answer with what is shown of the jobs that are known; with a 404 where that is None."""
    namespace = options.namespace if context.dialect.has_namespaces and options.namespace != _ALL else None
    listing = context.engine.reader.listing(job=job, namespace=namespace)
    value = await asyncio.to_thread(lambda: show(known_jobs(listing.states())))
    if value is None:
        return error(404, _NOT_FOUND, listing.index)
    body = _encode(value)
    return json_answer(pretty(body) if is_pretty(request.query) else body, listing.index)


async def node_allocations(context: Context, request: Request, _: Options, node: str) -> Answer:
    """Answer ``GET /v1/node/<id>/allocations``: whole allocations, as Nomad does."""
    listing = context.engine.reader.listing(node=node)

    def bodies() -> bytes:
        texts = (Snapshot.of(state, context.dialect).to_json() for state in listing.states())
        return b"[" + b",".join(texts) + b"]"

    body = await asyncio.to_thread(bodies)
    return json_answer(pretty(body) if is_pretty(request.query) else body, listing.index)


async def evaluations_allocations(context: Context, request: Request, evaluation: str) -> Answer:
    """Answer with the stubs of the allocations that an evaluation placed, or stopped, last."""
    return await _naming(context, request, "EvalID", evaluation)


async def deployment_allocations(context: Context, request: Request, _: Options, deployment: str) -> Answer:
    """Answer ``GET /v1/deployment/allocations/<id>``."""
    return await _naming(context, request, "DeploymentID", deployment)


async def _naming(context: Context, request: Request, field: str, value: str) -> Answer:
    """Answer with the stubs of the allocations that name something in a field. O(allocations)."""
    listing = context.engine.reader.listing()
    text = msgspec.json.encode(value)

    def stubs() -> bytes:
        texts = (
            Snapshot.of(state, context.dialect).to_stub_json()
            for state in listing.states()
            if current_fields(state.placed_body, state.updates).get(field) == text
        )
        return b"[" + b",".join(texts) + b"]"

    body = await asyncio.to_thread(stubs)
    return json_answer(pretty(body) if is_pretty(request.query) else body, listing.index)


class _Search(Struct):
    Prefix: str = ""
    Context: str = "all"
    Namespace: str = ""


async def search(context: Context, request: Request, options: Options) -> Answer:
    """Answer ``PUT /v1/search``: the allocations and jobs whose ID begins so, twenty of each at most."""
    body = await request.body(context.limits.action_bytes, context.limits.body_timeout)
    try:
        order = msgspec.convert(decode_json(msgspec.json.decode, body), _Search)
    except (msgspec.ValidationError, ValueError) as problem:
        return error(400, str(problem))
    namespace = order.Namespace or options.namespace
    reader = context.engine.reader
    kinds: dict[str, Callable[[], list[str]]] = {
        "allocs": lambda: reader.ids(namespace=None if namespace == _ALL else namespace, prefix=order.Prefix),
        "jobs": lambda: [job for job in reader.jobs() if job.startswith(order.Prefix)],
    }
    if order.Context not in {"all", *kinds}:
        return error(501, "taskfold searches allocs and jobs: ask an agent of Nomad for the rest")
    chosen_kinds = kinds if order.Context == "all" else {order.Context: kinds[order.Context]}
    matches = {kind: list_of() for kind, list_of in chosen_kinds.items()}
    answer = {
        "Index": reader.index,
        "KnownLeader": True,
        "LastContact": 0,
        "Matches": {kind: ids[:_MATCHES_AT_ONCE] or None for kind, ids in matches.items()},
        "Truncations": {kind: len(ids) > _MATCHES_AT_ONCE for kind, ids in matches.items()},
    }
    return json_answer(_encode(answer), reader.index)


async def leader(_: Context, request: Request) -> Answer:
    """Answer ``GET /v1/status/leader`` with this server's own address: it leads itself."""
    host, port = request.scope.get("server") or ("", None)
    return json_answer(_encode(host if port is None else f"{host}:{port}"))


async def client_stats(context: Context, request: Request, alloc: str) -> Answer:
    """Answer ``GET /v1/client/allocation/<id>/stats`` as a client does of what has ended: nothing is measured here."""
    del context, alloc
    body = _encode({"ResourceUsage": _NO_USAGE, "Tasks": {}, "Timestamp": 0})
    return json_answer(pretty(body) if is_pretty(request.query) else body)
