"""The table of the endpoints: it is the router, and the metrics and the OpenAPI document are made from it.

A new endpoint is a row here, and its handler. Those of Nomad's API come first.
"""

from __future__ import annotations

from typing import Final

from taskfold.http.answers import Answer, error
from taskfold.http.nomad import actions, allocations, evaluations, stream
from taskfold.http.nomad.evaluation_cache import Evaluation
from taskfold.http.nomad.options import MAX_WAIT_NS
from taskfold.http.own import health, history, metrics, openapi, record, report
from taskfold.http.own.lines import LineErrors
from taskfold.http.routing import AnswerBody, Parameter, Route
from taskfold.model.dialect import Dialect

__all__ = ["ROUTES"]

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
    "prefix", _TEXT, "Only allocations whose ID begins so: hexadecimal digits, an even number of them."
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
_PRETTY: Final = Parameter("pretty", _TEXT, "Indent the answer, unless the value is 0.")
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
            _READ,
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
            "Ask to register a job.",
            _REGIONAL,
            {501: "text", **_OF_A_BODY},
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
