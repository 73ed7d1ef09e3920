"""Jobs, nodes, evaluations and deployments, as far as they follow from the allocations that are known.

An allocation has the job that it was placed with: the versions of a job are those that its allocations have, and its
status and summary follow from theirs. Nomad has more of each: where an agent is followed, it may be asked
(`taskfold.http.serve.upstream`). Source of the rules: nomad/state/state_store.go getJobStatus, updateSummaryWithAlloc.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw, Struct

from taskfold.fold.allocation import AllocationState, current_fields
from taskfold.fold.lifecycle import PENDING
from taskfold.fold.status import is_client_terminal
from taskfold.http.answers import Answer, error, json_answer, pretty
from taskfold.http.context import Context
from taskfold.http.nomad.blocking import ask
from taskfold.http.nomad.options import Options
from taskfold.http.query import is_pretty
from taskfold.http.request import Request, decode_json
from taskfold.live.directory import Filter
from taskfold.live.store import Listing
from taskfold.nomad.fields import DEFAULT_NAMESPACE
from taskfold.nomad.snapshot import Snapshot

__all__ = [
    "JobOrder",
    "deployment_allocations",
    "is_named",
    "job",
    "job_order",
    "job_summary",
    "job_versions",
    "jobs",
    "leader",
    "namespace_of",
    "node_allocations",
    "search",
    "stubs_naming",
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

_decode_job: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class JobOrder(NamedTuple):
    """The numbers that order the texts of a job; zeros if they cannot be read.

    A job that was purged and registered again is another one: it has another CreateIndex, and begins at version 0.
    """

    create_index: int = 0
    version: int = 0
    job_modify_index: int = 0
    modify_index: int = 0


class _Numbers(Struct):
    CreateIndex: int = 0
    Version: int = 0
    JobModifyIndex: int = 0
    ModifyIndex: int = 0


_decode_numbers: Final = msgspec.json.Decoder(_Numbers, strict=False).decode


@lru_cache(maxsize=1_024)
def job_order(job: bytes) -> JobOrder:
    """Return the place of a job's text among its texts. O(length), or O(1) if it was asked for of late."""
    try:
        return JobOrder(*msgspec.structs.astuple(_decode_numbers(job)))
    except msgspec.ValidationError:
        return JobOrder()  # null, or a value of another type


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
        self.texts: dict[bytes, JobOrder] = {}
        """The texts of the job that allocations have."""
        self.counts: dict[str, dict[str, int]] = {}
        """By task group, how many allocations there are of each status."""
        self.modify_index = 0
        """Of the newest write of its allocations."""
        self.is_alive = False
        """One of its allocations has not ended."""

    def add(self, state: AllocationState, member: _Member, job: bytes) -> None:
        """Add an allocation, and the text of its job."""
        status = member.ClientStatus or state.client_status or PENDING
        counts = self.counts.setdefault(member.TaskGroup or "", dict.fromkeys(_COUNTS, 0))
        if status in _COUNT_OF:
            counts[_COUNT_OF[status]] += 1
        self.is_alive |= not is_client_terminal(status)
        self.modify_index = max(self.modify_index, state.modify_index)
        if job != b"null":
            self.texts[job] = job_order(job)

    @property
    def newest(self) -> bytes | None:
        """The newest text of the job; None if no allocation has one."""
        return max(self.texts, key=self.texts.__getitem__, default=None)

    def current(self) -> bytes | None:
        """Return its newest text with the status of today: that of the text is of when an allocation was placed."""
        if self.newest is None:
            return None
        job = _decode_job(self.newest)
        return _encode(job | {"Status": self.status(job)})

    def versions(self) -> list[bytes]:
        """Return the newest text of each version, newest first; those of a job that was purged are left out."""
        newest: dict[int, bytes] = {}
        current = max((order.create_index for order in self.texts.values()), default=0)
        for text, order in sorted(self.texts.items(), key=itemgetter(1)):
            if order.create_index == current:
                newest[order.version] = text
        return [newest[version] for version in sorted(newest, reverse=True)]

    def status(self, job: Mapping[str, Raw]) -> str:
        """Return the status that follows: a job runs while an allocation does, and a system job until it is stopped."""
        is_kept = _text(job, "Type") == b'"system"' and _text(job, "Stop") != b"true"
        return "running" if self.is_alive or is_kept else "dead"

    def summary(self) -> dict[str, Any]:
        """Return the summary: how many allocations of each group are of which status."""
        return {
            "Children": {"Dead": 0, "Pending": 0, "Running": 0},
            "CreateIndex": job_order(self.newest or b"null").create_index,
            "JobID": self.id,
            "ModifyIndex": self.modify_index,
            "Namespace": self.namespace,
            "Summary": self.counts,
        }

    def stub(self) -> dict[str, Any]:
        """Return its entry in a list of jobs: what its newest text has of it, and what follows from allocations."""
        job = _decode_job(self.newest or b"{}")
        fields: dict[str, Any] = {name: job[name] for name in _STUB if name in job}
        return fields | {
            "ID": self.id,
            "JobSummary": self.summary(),
            "Namespace": self.namespace,
            "ParameterizedJob": _text(job, "ParameterizedJob") != b"null",
            "Periodic": _text(job, "Periodic") != b"null",
            "Status": self.status(job),
        }


def known_jobs(states: Iterable[AllocationState]) -> dict[tuple[str, str], KnownJob]:
    """Return the jobs of allocations, by ID and namespace. O(length of their fields)."""
    by_id: dict[tuple[str, str], KnownJob] = {}
    for state in states:
        fields = current_fields(state.placed_body, state.updates)
        member = _member_of(fields)
        key = member.JobID or "", member.Namespace or DEFAULT_NAMESPACE
        if key not in by_id:
            by_id[key] = KnownJob(key[1], key[0])
        by_id[key].add(state, member, fields.get("Job", b"null"))
    return dict(sorted(by_id.items()))


def _member_of(fields: Mapping[str, bytes]) -> _Member:
    texts = {name: Raw(fields[name]) for name in _Member.__struct_fields__ if name in fields}
    try:
        return msgspec.json.decode(_encode(texts), type=_Member)
    except msgspec.ValidationError:
        return _Member()


def _text(job: Mapping[str, Raw], name: str) -> bytes:
    return bytes(job.get(name, b"null"))


# --- the endpoints ---

KnownJobs: TypeAlias = dict[tuple[str, str], KnownJob]


async def jobs(context: Context, request: Request, options: Options) -> Answer:
    """Answer ``GET /v1/jobs``: those that have allocations here."""

    def stubs(by_id: KnownJobs, _: int) -> bytes:
        return _encode([job.stub() for job in by_id.values() if job.id.startswith(options.prefix)])

    return await _answer(context, request, options, stubs)


async def job(context: Context, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>``: the newest version of it that an allocation has, with its status of today."""

    def current(by_id: KnownJobs, _: int) -> bytes | None:
        return _of_job(by_id, job, lambda one: one.current())

    return await _answer(context, request, options, current, job)


async def job_summary(context: Context, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>/summary``."""

    def summary(by_id: KnownJobs, _: int) -> bytes | None:
        return _of_job(by_id, job, lambda one: _encode(one.summary()))

    return await _answer(context, request, options, summary, job)


async def job_versions(context: Context, request: Request, options: Options, job: str) -> Answer:
    """Answer ``GET /v1/job/<id>/versions``: those that its allocations have, newest first."""

    def versions(by_id: KnownJobs, index: int) -> bytes | None:
        return _of_job(by_id, job, lambda one: _encode(_versions(one, index)))

    return await _answer(context, request, options, versions, job)


def _versions(job: KnownJob, index: int) -> dict[str, Any]:
    texts = list(map(Raw, job.versions()))
    return {"Diffs": None, "Index": index, "KnownLeader": True, "LastContact": 0, "Versions": texts}


def _of_job(by_id: KnownJobs, job: str, show: Callable[[KnownJob], bytes | None]) -> bytes | None:
    """Return what is shown of a job; None where it has no allocation here."""
    return next((show(one) for one in by_id.values() if one.id == job), None)


async def _answer(
    context: Context,
    request: Request,
    options: Options,
    show: Callable[[KnownJobs, int], bytes | None],
    job: str | None = None,
) -> Answer:
    """Answer with what is shown of the known jobs at an index; with a 404 where that is None."""
    query = Filter(job=job, namespace=namespace_of(context, options))
    is_indented = is_pretty(request.query)
    listing = await _listing(context, request, options, query)
    body = await asyncio.to_thread(lambda: show(known_jobs(listing.states()), listing.index))
    if body is None:
        return error(404, _NOT_FOUND, listing.index)
    return json_answer(pretty(body) if is_indented else body, listing.index)


async def node_allocations(context: Context, request: Request, options: Options, node: str) -> Answer:
    """Answer ``GET /v1/node/<id>/allocations``: whole allocations, as Nomad does."""
    listing = await _listing(context, request, options, Filter(node=node))
    texts = (Snapshot.of(state, context.dialect).to_json() for state in listing.states())
    return _json(request, await asyncio.to_thread(lambda: _json_list(texts)), listing.index)


async def deployment_allocations(context: Context, request: Request, options: Options, deployment: str) -> Answer:
    """Answer ``GET /v1/deployment/allocations/<id>``."""
    listing = await _listing(context, request, options, Filter())
    stubs = await asyncio.to_thread(stubs_naming, context, listing, "DeploymentID", deployment)
    return _json(request, _json_list(stubs), listing.index)


def stubs_naming(context: Context, listing: Listing, field: str, value: str) -> list[bytes]:
    """Return the stubs of the allocations that name something in a field. O(allocations)."""
    text = msgspec.json.encode(value)
    return [
        Snapshot.of(state, context.dialect).to_stub_json()
        for state in listing.states()
        if current_fields(state.placed_body, state.updates).get(field) == text
    ]


async def is_named(
    context: Context,
    field: str,
    prefix: str = "",
    *,
    job: str | None = None,
    namespace: str | None = None,
    own: Collection[str] = (),
) -> bool:
    """Return whether an allocation names in a field what is not known, with an ID that begins so. O(allocations).

    Always true of a mirror: its Nomad may have what no allocation names.
    """
    if context.is_mirror:
        return True
    listing = context.engine.reader.listing(job=job, namespace=namespace)
    return await asyncio.to_thread(
        lambda: any(name.startswith(prefix) and name not in own for name in _names_in(listing, field))
    )


def _names_in(listing: Listing, field: str) -> set[str]:
    """Return the IDs in a field of allocations; an empty one names nothing."""
    texts = {current_fields(state.placed_body, state.updates).get(field, b"null") for state in listing.states()}
    return {name for name in map(msgspec.json.decode, texts) if isinstance(name, str) and name}


async def _listing(context: Context, request: Request, options: Options, query: Filter) -> Listing:
    """Return the allocations that match, at once, or when something newer than the index was written."""
    reader = context.engine.reader
    if options.index:
        await ask(context, request, options, reader.list_question(query, options.index))
    return reader.listing(job=query.job, node=query.node, namespace=query.namespace)


def namespace_of(context: Context, options: Options) -> str | None:
    """Return the namespace of a list; None for all of them."""
    return options.namespace if context.dialect.has_namespaces and options.namespace != _ALL else None


def _json_list(texts: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(texts) + b"]"


def _json(request: Request, body: bytes, index: int) -> Answer:
    """Return an answer in JSON, indented where that is asked for."""
    return json_answer(pretty(body) if is_pretty(request.query) else body, index)


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
    name = order.Namespace or options.namespace
    namespace = None if name == _ALL else name
    reader = context.engine.reader
    kinds: dict[str, Callable[[], list[str]]] = {
        "allocs": lambda: reader.ids(namespace, prefix=order.Prefix),
        "jobs": lambda: [job for job in reader.jobs(namespace) if job.startswith(order.Prefix)],
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
