"""The table of the endpoints: it is the router, and the metrics and the OpenAPI document are made from it.

A new endpoint is a row here, and its handler. Those of Nomad's API come first.
"""

from __future__ import annotations

import re
from typing import Final

from taskfold.http.answers import Answer, error
from taskfold.http.nomad import actions, allocations, evaluations, jobs, stream
from taskfold.http.nomad.evaluation_cache import Evaluation
from taskfold.http.nomad.options import MAX_WAIT_NS
from taskfold.http.own import health, history, metrics, openapi, record, report
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

_REGION: Final = Parameter("region", _TEXT, "The region that is asked; this server's own where it is empty.")
_NAMESPACE: Final = Parameter(
    "namespace", _TEXT, "The namespace of a list or a stream: default unless named, * for all."
)
_PREFIX: Final = Parameter(
    "prefix", _TEXT, "Only what has an ID that begins so; of allocations hexadecimal digits, an even number of them."
)
_INDEX: Final = Parameter(
    "index", _NUMBER, "Wait for what is newer than this; on the event stream, begin with the first write of it."
)
_WAIT: Final = Parameter(
    "wait",
    _TEXT,
    f"How long to wait, as a Go duration such as 1m30s; {MAX_WAIT_NS // 10**9} seconds at most.",
)
_STALE: Final = Parameter("stale", _TEXT, "Taken, and without effect: there is one server.")
_CONSISTENT: Final = Parameter("consistent", _TEXT, "Taken, and without effect: there is one server.")
_PRETTY: Final = Parameter("pretty", _TEXT, "Indent the answer, unless the value is 0.", is_of_reads=True)
_TOPIC: Final = Parameter(
    "topic", _LIST, "Which events: *, Allocation, or Allocation:KEY with an allocation, a job or a deployment."
)
_PER_PAGE: Final = Parameter(
    "per_page",
    _NUMBER,
    f"How many records a page has at most: {history.DEFAULT_PAGE} unless told, within the server's limit.",
)

_REGIONAL: Final = (_REGION, _NAMESPACE, _PREFIX, _INDEX, _WAIT, _STALE, _CONSISTENT)
"""What every regional endpoint looks at, as Nomad does, whether it means anything there or not."""
_READ: Final = (*_REGIONAL, _PRETTY)

_ORIGIN: Final = ((b"Vary", b"Origin"),)

_ANY: Final = ".*"
_JOB: Final = ".+"
"""A job's ID may have slashes in it."""
_ONLY_JOB: Final = (
    "(?!.*/(?:evaluate|evaluations|periodic/force|plan|summary|dispatch|versions|revert|deployments?|stable|scale)$).+"
)
"""What Nomad has below a job, and is not served, is none. Source: command/agent/job_endpoint.go JobSpecificRequest."""

_OF_A_BODY: Final[dict[int, AnswerBody]] = {408: "text", 413: "text"}
_OF_LINES: Final[dict[int, AnswerBody]] = {
    **dict.fromkeys((400, 404, 409), (LineErrors, "text")),
    415: "text",
    **_OF_A_BODY,
}


def _has_actions(dialect: Dialect) -> bool:
    return dialect.has_actions


def _no_resource(dialect: Dialect) -> Answer | None:
    """Return the answer of Nomad below an allocation; older ones take all of that for its ID."""
    return error(404, NO_RESOURCE) if dialect.has_actions else None


def _no_action(dialect: Dialect) -> Answer:
    """Return the answer of Nomad to what is no action of a client."""
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
                Parameter(
                    "task_states", _FLAG, "List the task states; true unless told.", lambda it: it.has_stub_choices
                ),
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
            allocations.job,
            "Read the job of allocations.",
            _READ,
            {200: "object", 404: "text"},
            parts={"job": _ONLY_JOB},
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
            {200: Evaluation, 404: "text"},
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
                    "next_token", _NUMBER, "The version after which the page begins: what X-Nomad-NextToken told."
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
            "Record what happened: all lines, or none.",
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
            "Say what happened, and be told what follows: events, effects, timers.",
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
                Parameter(
                    "from", _TEXT, "Where to begin, instead of an index: now, oldest, or after a position of the log."
                ),
                _REGION,
            ),
            # A line of it; the whole has no end.
            {200: "Frame", 400: "text", 429: "text", 500: "text"},
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
            {200: "Stopped", 404: "text", 409: "text"},
            is_in=_has_actions,
            is_owners=True,
        ),
        Route(
            "client_stats",
            "/v1/client/allocation/{id}/stats",
            _GET,
            jobs.client_stats,
            "Tell what the tasks of an allocation use: nothing is measured here.",
            (_PRETTY,),
            {200: "object"},
            is_regional=False,
        ),
        Route(
            "client_allocation",
            "/v1/client/allocation/{id}/{action}",
            ("GET", *_WRITE),
            actions.client_allocation,
            "Ask to restart or signal the tasks of an allocation.",
            _REGIONAL,
            {200: "Acted", 404: "text", 409: "text", **_OF_A_BODY},
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
            "List the regions that can be asked.",
            answers={200: "text[]"},
            is_regional=False,
        ),
        Route(
            "health",
            "/v1/agent/health",
            _GET,
            health.health,
            "Tell whether the server does its work.",
            (
                Parameter(
                    "type", _LIST, "Which parts are told: server, as without it, or client, which this agent is not."
                ),
            ),
            {200: "Health", 500: "Health"},
            is_regional=False,
            is_open=True,
            is_owners=True,
        ),
        Route(
            "metrics",
            "/v1/metrics",
            _GET,
            metrics.metrics,
            "Tell numbers.",
            (Parameter("format", _TEXT, "prometheus for its text format; JSON with anything else."), _PRETTY),
            {200: ("Numbers", "text")},
            is_regional=False,
            is_owners=True,
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

_SERVED_BELOW: Final = "allocation|allocations|client|event|metrics|regions"
"""Whose paths have an endpoint here, or the answer that Nomad has for what is none."""

_UNSERVED: Final = re.compile(
    r"/v1/(?:acl|agent|deployment|deployments|evaluation|evaluations|job|jobs|namespace|namespaces|node|nodes|operator|"
    r"plugin|plugins|quota|quotas|quota-usages|recommendation|recommendations|scaling|search|sentinel|status|system|"
    r"validate|var|vars|volume|volumes)(?:/|$)"
)
_SERVED: Final = re.compile(rf"/v1/(?:{_SERVED_BELOW})(?:/|$)")
_READS: Final = re.compile(r"/v1/(?:search(?:/fuzzy)?|jobs/parse|validate/job|job/.+/plan)$")


def is_nomads(path: str) -> bool:
    """Return whether a path is of Nomad's API. O(length).

    >>> is_nomads("/v1/nodes"), is_nomads("/v1/allocations"), is_nomads("/v1/nodesque"), is_nomads("/ui/")
    (True, True, False, False)
    """
    return _UNSERVED.match(path) is not None or _SERVED.match(path) is not None


def is_unserved(path: str) -> bool:
    """Return whether a path is of a part of Nomad's API that has no endpoint here, where none was found. O(length)."""
    return _UNSERVED.match(path) is not None


def changes_nothing(path: str) -> bool:
    """Return whether what is sent to a path is a question: a search, or a job that is only looked at. O(length).

    >>> changes_nothing("/v1/search"), changes_nothing("/v1/job/site/plan"), changes_nothing("/v1/jobs")
    (True, True, False)
    """
    return _READS.match(path) is not None
