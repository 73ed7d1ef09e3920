"""The table of endpoints, from which the router, the metrics and the OpenAPI document are made.

A new endpoint is a row here, and its handler. Those of Nomad's API come first.
"""

from __future__ import annotations

import re
from typing import Final

from taskfold.http.answers import Answer, error
from taskfold.http.nomad import actions, allocations, deployments, evaluations, files, jobs, stream, usage
from taskfold.http.nomad.evaluation_cache import Evaluation
from taskfold.http.nomad.frames import StreamFrame
from taskfold.http.nomad.options import MAX_WAIT_NS
from taskfold.http.own import agent, health, history, home, metrics, openapi, record, report
from taskfold.http.own.lines import LineErrors
from taskfold.http.routing import AnswerBody, Parameter, Route
from taskfold.model.dialect import Dialect

__all__ = ["ROUTES", "changes_nothing", "is_nomads", "is_unserved"]

NO_RESOURCE: Final = "resource not found"

_GET: Final = ("GET",)
_WRITE: Final = ("PUT", "POST")

_TEXT: Final = {"type": "string"}
_LIST: Final = {"type": "array", "items": _TEXT}
_FLAG: Final = {"type": "boolean"}
_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}

_REGION: Final = Parameter("region", _TEXT, "The region of the request; empty for this server's own.")
_NAMESPACE: Final = Parameter("namespace", _TEXT, "The namespace of a list or a stream; default: `default`; * for all.")
_PREFIX: Final = Parameter(
    "prefix", _TEXT, "Only what has an ID that starts with this; of allocations an even number of hexadecimal digits."
)
_INDEX: Final = Parameter(
    "index", _NUMBER, "Wait for an index greater than this; for the event stream, the index to start with."
)
_WAIT: Final = Parameter(
    "wait",
    _TEXT,
    f"How long to wait, as a Go duration such as 1m30s; {MAX_WAIT_NS // 10**9} seconds at most.",
)
_STALE: Final = Parameter("stale", _TEXT, "Accepted, without effect, as there is one server.")
_CONSISTENT: Final = Parameter("consistent", _TEXT, "Accepted, without effect, as there is one server.")
_PRETTY: Final = Parameter("pretty", _TEXT, "Indent the answer, unless the value is 0.", is_of_reads=True)
_TOPIC: Final = Parameter(
    "topic", _LIST, "Which events: *, Allocation, or Allocation:KEY with an allocation, a job or a deployment."
)
_PER_PAGE: Final = Parameter(
    "per_page",
    _NUMBER,
    f"How many records a page has at most: {history.DEFAULT_PAGE} by default, within the server's limit.",
)

_PATH: Final = Parameter("path", _TEXT, "A path from the directory of the allocation.")
_OFFSET: Final = Parameter("offset", _NUMBER, "Where to begin, in bytes.")
_ORIGIN_OF_OFFSET: Final = Parameter("origin", _TEXT, "What the offset is counted from: start (the default), or end.")
_FOLLOW: Final = Parameter("follow", _FLAG, "Go on with what is written later: the default of a stream, not of logs.")

_REGIONAL: Final = (_REGION, _NAMESPACE, _PREFIX, _INDEX, _WAIT, _STALE, _CONSISTENT)
"""The parameters that every regional endpoint parses, as Nomad does, whether it uses them or not."""
_READ: Final = (*_REGIONAL, _PRETTY)

_ORIGIN: Final = ((b"Vary", b"Origin"),)

_ANY: Final = ".*"
_JOB: Final = ".+"
"""A job's ID may have slashes in it."""
_ONLY_JOB: Final = (
    "(?!.*/(?:evaluate|evaluations|periodic/force|plan|summary|dispatch|versions|revert|deployments?|stable|scale)$).+"
)
"""Unsupported paths below a job are not part of its ID. Source: command/agent/job_endpoint.go JobSpecificRequest."""

_OF_A_BODY: Final[dict[int, AnswerBody]] = {408: "text", 413: "text"}
_OF_LINES: Final[dict[int, AnswerBody]] = {
    **dict.fromkeys((400, 404, 409), (LineErrors, "text")),
    415: "text",
    **_OF_A_BODY,
}


def _has_actions(dialect: Dialect) -> bool:
    return dialect.has_actions


def _no_resource(dialect: Dialect) -> Answer | None:
    """Return Nomad's answer for a path below an allocation; older versions take it as part of the ID."""
    return error(404, NO_RESOURCE) if dialect.has_actions else None


def _no_action(dialect: Dialect) -> Answer:
    """Return Nomad's answer for an unknown client action."""
    return error(404, NO_RESOURCE, extra=_ORIGIN if dialect.has_actions else ())


ROUTES: Final = {
    route.name: route
    for route in (
        Route(
            "allocation",
            "/v1/allocation/{id}",
            _GET,
            allocations.allocation,
            "Read one allocation.",
            _READ,
            {200: "Allocation", 404: "text"},
            stray=_no_resource,
        ),
        Route(
            "allocations",
            "/v1/allocations",
            _GET,
            allocations.allocations,
            "List allocations.",
            (
                *_READ,
                Parameter("resources", _FLAG, "List the allocated resources, too.", lambda it: it.has_stub_choices),
                Parameter("task_states", _FLAG, "List the task states; default: true.", lambda it: it.has_stub_choices),
            ),
            {200: "Stub[]"},
        ),
        Route(
            "job_allocations",
            "/v1/job/{job}/allocations",
            _GET,
            allocations.job_allocations,
            "List the allocations of a job.",
            (*_READ, Parameter("all", _FLAG, "Those of an earlier job of the same ID, too, which was purged.")),
            {200: "Stub[]"},
            parts={"job": _JOB},
        ),
        Route(
            "job",
            "/v1/job/{job}",
            _GET,
            jobs.job,
            "Read the job of allocations.",
            _READ,
            {200: "object", 404: "text"},
            parts={"job": _ONLY_JOB},
            unserved_methods=(*_WRITE, "DELETE"),
        ),
        Route(
            "job_summary",
            "/v1/job/{job}/summary",
            _GET,
            jobs.job_summary,
            "Count the allocations of a job, by group and status.",
            _READ,
            {200: "object", 404: "text"},
            parts={"job": _JOB},
        ),
        Route(
            "job_versions",
            "/v1/job/{job}/versions",
            _GET,
            jobs.job_versions,
            "Read the versions of a job that its allocations have.",
            _READ,
            {200: "object", 404: "text"},
            parts={"job": _JOB},
            is_in=_has_actions,
        ),
        Route(
            "node_allocations",
            "/v1/node/{id}/allocations",
            _GET,
            jobs.node_allocations,
            "Read the allocations of a node.",
            _READ,
            {200: "object[]"},
        ),
        Route(
            "deployment_allocations",
            "/v1/deployment/allocations/{id}",
            _GET,
            jobs.deployment_allocations,
            "List the allocations of a deployment.",
            _READ,
            {200: "Stub[]"},
            is_in=_has_actions,
        ),
        Route(
            "search",
            "/v1/search",
            _WRITE,
            jobs.search,
            "Find allocations and jobs by the beginning of their IDs.",
            _REGIONAL,
            {200: "object", 400: "text", 501: "text", **_OF_A_BODY},
            is_in=_has_actions,
            only_asks=True,
        ),
        Route(
            "leader",
            "/v1/status/leader",
            _GET,
            jobs.leader,
            "Tell this server's address: it leads itself.",
            answers={200: "string"},
            is_regional=False,
        ),
        Route(
            "evaluation",
            "/v1/evaluation/{id}",
            _GET,
            evaluations.evaluation,
            "Read the evaluation of a stop.",
            _READ,
            {200: Evaluation, 404: "text", 501: "text"},
            parts={"id": _ANY},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "evaluation_allocations",
            "/v1/evaluation/{id}/allocations",
            _GET,
            evaluations.evaluation_allocations,
            "List the allocations that the evaluation of a stop placed: none.",
            _READ,
            {200: "Stub[]", 404: "text"},
            parts={"id": _ANY},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "evaluations",
            "/v1/evaluations",
            _GET,
            evaluations.evaluations,
            "List the evaluations of stops.",
            _READ,
            {200: "Evaluation[]", 501: "text"},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "job_evaluations",
            "/v1/job/{job}/evaluations",
            _GET,
            evaluations.job_evaluations,
            "List the evaluations of stops of a job's allocations.",
            _READ,
            {200: "Evaluation[]", 501: "text"},
            parts={"job": _JOB},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "deployment",
            "/v1/deployment/{id}",
            _GET,
            deployments.deployment,
            "Read a deployment: there is none.",
            _REGIONAL,
            {404: "text", 501: "text"},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "deployments",
            "/v1/deployments",
            _GET,
            deployments.deployments,
            "List the deployments: none.",
            _READ,
            {200: "object[]", 501: "text"},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "job_deployment",
            "/v1/job/{job}/deployment",
            _GET,
            deployments.job_deployment,
            "Read the newest deployment of a job: null.",
            _READ,
            {200: "null", 501: "text"},
            parts={"job": _JOB},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "job_deployments",
            "/v1/job/{job}/deployments",
            _GET,
            deployments.job_deployments,
            "List the deployments of a job: none.",
            _READ,
            {200: "object[]", 501: "text"},
            parts={"job": _JOB},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "history",
            "/v1/allocation/{id}/history",
            _GET,
            history.history,
            "Read every record of an allocation, oldest first.",
            (
                *_READ,
                Parameter("task", _TEXT, "Only records of this task."),
                _PER_PAGE,
                Parameter(
                    "next_token",
                    _NUMBER,
                    "The version after which the page begins: X-Nomad-NextToken of the previous page.",
                ),
            ),
            {200: "Record[]", 404: "text", 410: "text"},
            is_own=True,
            is_paged=True,
        ),
        Route(
            "events",
            "/v1/allocations/events",
            ("POST",),
            record.post_events,
            "Record events: all lines, or none.",
            _REGIONAL,
            {200: record.Recorded, **_OF_LINES},
            lines="Write",
            is_own=True,
            is_owners=True,
        ),
        Route(
            "inputs",
            "/v1/allocations/inputs",
            ("POST",),
            report.post_inputs,
            "Report inputs, and get the decisions: events, effects, timers.",
            _REGIONAL,
            {200: report.LineResults, **_OF_LINES},
            lines="PostedInput",
            is_own=True,
            is_owners=True,
        ),
        Route(
            "event_stream",
            "/v1/event/stream",
            _GET,
            stream.event_stream,
            "Follow every change, from the log.",
            (
                _TOPIC,
                _NAMESPACE,
                _INDEX,
                Parameter("from", _TEXT, "Where to start, instead of an index: now, oldest, or a position of the log."),
                _REGION,
            ),
            # One line; the stream has no end.
            {200: StreamFrame, 400: "text", 429: "text", 500: "text"},
            is_endless=True,
            is_regional=False,  # its index is another parameter, with other errors
        ),
        Route(
            "stop",
            "/v1/allocation/{id}/stop",
            _WRITE,
            actions.stop,
            "Ask to stop an allocation.",
            _REGIONAL,
            {200: actions.Stopped, 404: "text", 409: "text"},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "client_stats",
            "/v1/client/allocation/{id}/stats",
            _GET,
            usage.client_stats,
            "Tell what the tasks of an allocation use, where they run beside this server.",
            _READ,
            {200: "object", 404: "text"},
            asks_agent=True,
        ),
        Route(
            "list_files",
            "/v1/client/fs/ls/{id}",
            _GET,
            files.list_files,
            "List a directory of an allocation that runs beside this server.",
            (*_READ, _PATH),
            {200: "AllocationFile[]", 404: "text"},
        ),
        Route(
            "stat_file",
            "/v1/client/fs/stat/{id}",
            _GET,
            files.stat_file,
            "Tell what is at a path of such an allocation.",
            (*_READ, _PATH),
            {200: files.AllocationFile, 404: "text"},
        ),
        Route(
            "cat_file",
            "/v1/client/fs/cat/{id}",
            _GET,
            files.cat_file,
            "Read a file of such an allocation.",
            (*_REGIONAL, _PATH),
            {200: "text", 404: "text"},
        ),
        Route(
            "read_file",
            "/v1/client/fs/readat/{id}",
            _GET,
            files.read_file,
            "Read a part of a file of such an allocation.",
            (*_REGIONAL, _PATH, _OFFSET, Parameter("limit", _NUMBER, "The most bytes; 0 for all of them.")),
            {200: "text", 404: "text"},
        ),
        Route(
            "stream_file",
            "/v1/client/fs/stream/{id}",
            _GET,
            files.stream_file,
            "Read a file of such an allocation as it grows, in frames.",
            (*_REGIONAL, _PATH, _OFFSET, _ORIGIN_OF_OFFSET, _FOLLOW),
            {200: files.FileFrame, 404: "text"},
            is_endless=True,
        ),
        Route(
            "task_logs",
            "/v1/client/fs/logs/{id}",
            _GET,
            files.task_logs,
            "Read the output of a task of such an allocation, in frames.",
            (
                *_REGIONAL,
                Parameter("task", _TEXT, "The name of the task."),
                Parameter("type", _TEXT, "stdout or stderr."),
                _OFFSET,
                _ORIGIN_OF_OFFSET,
                _FOLLOW,
                Parameter("plain", _FLAG, "Send the output as it is, in place of frames."),
            ),
            {200: (files.FileFrame, "text"), 404: "text"},
            is_endless=True,
        ),
        Route(
            "client_allocation",
            "/v1/client/allocation/{id}/{action}",
            ("GET", *_WRITE),
            actions.client_allocation,
            "Ask to restart or signal the tasks of an allocation.",
            _REGIONAL,
            {200: actions.Acted, 404: "text", 409: "text", **_OF_A_BODY},
            parts={"action": "|".join(actions.CLIENT_ACTIONS)},
            is_in=_has_actions,
            stray=_no_action,
            is_owners=True,
            acts_on_get=True,
            extra=_ORIGIN,
        ),
        Route(
            "jobs",
            "/v1/jobs",
            ("GET", *_WRITE),
            actions.jobs,
            "List the jobs that have allocations; a job that is sent is checked, and not taken.",
            _READ,
            {200: "object[]", 501: "text", **_OF_A_BODY},
            is_owners=True,
        ),
        Route(
            "regions",
            "/v1/regions",
            _GET,
            health.regions,
            "List the reachable regions.",
            answers={200: "text[]"},
            is_regional=False,
        ),
        Route(
            "health",
            "/v1/agent/health",
            _GET,
            health.health,
            "Check the health of the server.",
            (
                Parameter(
                    "type", _LIST, "The parts to check: server (the default), or client, which this agent is not."
                ),
            ),
            {200: health.Health, 500: health.Health, 503: health.Health},
            is_regional=False,
            is_open=True,
            is_owners=True,
        ),
        Route(
            "agent_self",
            "/v1/agent/self",
            _GET,
            agent.agent_self,
            "Tell the region, the version whose dialect is spoken, and numbers.",
            (_PRETTY,),
            {200: agent.AgentSelf},
            is_regional=False,
        ),
        Route(
            "metrics",
            "/v1/metrics",
            _GET,
            metrics.metrics,
            "Tell numbers.",
            (Parameter("format", _TEXT, "prometheus for its text format; JSON with anything else."), _PRETTY),
            {200: (metrics.Numbers, "text")},
            is_regional=False,
            is_owners=True,
        ),
        Route(
            "home",
            "/",
            _GET,
            home.home,
            "Tell a person with a browser what this is.",
            answers={200: "html"},
            is_own=True,
            is_regional=False,
        ),
        Route(
            "openapi",
            "/v1/openapi.json",
            _GET,
            openapi.openapi,
            "Describe this interface.",
            answers={200: "object"},
            is_own=True,
            is_regional=False,
        ),
    )
}
"""Every endpoint, by name."""

# --- what else is Nomad's ---

_PARTS: Final = frozenset(
    (
        "acl",
        "agent",
        "allocation",
        "allocations",
        "client",
        "deployment",
        "deployments",
        "evaluation",
        "evaluations",
        "event",
        "job",
        "jobs",
        "metrics",
        "namespace",
        "namespaces",
        "node",
        "nodes",
        "operator",
        "plugin",
        "plugins",
        "quota",
        "quota-usages",
        "quotas",
        "recommendation",
        "recommendations",
        "regions",
        "scaling",
        "search",
        "sentinel",
        "status",
        "system",
        "validate",
        "var",
        "vars",
        "volume",
        "volumes",
    )
)
"""The parts of Nomad's API: what comes after ``/v1/``."""

_WITH_STRAYS: Final = frozenset(("allocation", "allocations", "client", "event", "metrics", "regions"))
"""Those that are served here as a whole: other paths below them have Nomad's own answer."""

_ACTS_ON_GET: Final = re.compile(r"/v1/client/(?:gc|allocation/.+/(?:exec|gc|restart|signal))/?$")
_READS: Final = re.compile(r"/v1/(?:search(?:/fuzzy)?|jobs/parse|validate/job|job/.+/plan)$")


def _part_of(path: str) -> str:
    """Return the part of Nomad's API that a path is of; an empty text for none."""
    part = path.removeprefix("/v1/").partition("/")[0]
    return part if path.startswith("/v1/") and part in _PARTS else ""


def is_nomads(path: str) -> bool:
    """Return whether a path is of Nomad's API. O(length).

    >>> is_nomads("/v1/nodes"), is_nomads("/v1/allocations"), is_nomads("/v1/nodesque"), is_nomads("/ui/")
    (True, True, False, False)
    """
    return _part_of(path) != ""


def is_unserved(path: str) -> bool:
    """Return whether a path that has no endpoint here is of a part of Nomad's API that is not served. O(length)."""
    part = _part_of(path)
    return part != "" and part not in _WITH_STRAYS


def changes_nothing(method: str, path: str) -> bool:
    """Return whether a request to Nomad only asks: it reads, searches, or has a job looked at. O(length).

    Some of Nomad's endpoints act on a GET, too. Source: command/agent/alloc_endpoint.go and client_endpoint.go.

    >>> changes_nothing("GET", "/v1/nodes"), changes_nothing("PUT", "/v1/search"), changes_nothing("PUT", "/v1/jobs")
    (True, True, False)
    >>> changes_nothing("GET", "/v1/client/gc"), changes_nothing("GET", "/v1/client/allocation/2032/restart")
    (False, False)
    """
    return (_ACTS_ON_GET.match(path) is None) if method in {"GET", "HEAD"} else _READS.match(path) is not None
