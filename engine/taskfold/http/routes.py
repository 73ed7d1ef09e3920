"""Which endpoint a path names. The table is what the OpenAPI document is made from, too."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from taskfold.http import actions, allocations, evaluations, events, inputs, own, stream
from taskfold.http.answers import Answer, Header, error, redirect
from taskfold.model.dialect import Dialect

__all__ = ["ALLOCATION", "ROUTES", "Found", "Route", "cleaned", "match"]

NO_RESOURCE: Final = "resource not found"

Handler: TypeAlias = Callable[..., Awaitable[Answer | None]]


class Route(NamedTuple):
    """One endpoint."""

    name: str
    path: str
    """The path, with its parts in braces."""
    methods: tuple[str, ...]
    handler: Handler
    """Gets the app, the request, the options (if it is regional), and the parts of the path."""
    summary: str
    parameters: tuple[str, ...] = ()
    """The parameters that it reads; `taskfold.http.openapi` says what each means."""
    is_regional: bool = True
    """It takes the parameters of every read, and may be asked of another region."""
    is_open: bool = False
    """It needs no token."""
    acts_on_get: bool = False
    """It writes also when it is asked with GET, as Nomad's agents do."""
    is_owners: bool = False
    """Where several processes serve a log, the one that owns it answers: what writes, and what only that one knows."""
    wants_json: bool = False
    """It is ours, and takes no body that is called anything else."""
    extra: tuple[Header, ...] = ()
    """What its errors have among their headers."""

    def writes(self, method: str) -> bool:
        """Tell whether a method asks it to change something."""
        return method != "GET" or self.acts_on_get


_GET: Final = ("GET",)
_WRITE: Final = ("PUT", "POST")
_ASKED: Final = ("region", "namespace", "prefix", "index", "wait", "stale", "consistent")
"""What every regional endpoint looks at, as Nomad does, whether it means anything there or not."""
_READ: Final = (*_ASKED, "pretty")

ROUTES: Final = {
    route.name: route
    for route in (
        Route("allocation", "/v1/allocation/{id}", _GET, allocations.allocation, "Read one allocation.", _READ),
        Route(
            "allocations",
            "/v1/allocations",
            _GET,
            allocations.allocations,
            "List allocations.",
            (*_READ, "resources", "task_states"),
        ),
        Route(
            "job_allocations",
            "/v1/job/{job}/allocations",
            _GET,
            allocations.job_allocations,
            "List the allocations of a job.",
            _READ,
        ),
        Route("job", "/v1/job/{job}", _GET, allocations.job, "Read the job of allocations.", _READ),
        Route(
            "evaluation",
            "/v1/evaluation/{id}",
            _GET,
            evaluations.evaluation,
            "Read the evaluation of a stop.",
            _READ,
            is_owners=True,
        ),
        Route(
            "evaluation_allocations",
            "/v1/evaluation/{id}/allocations",
            _GET,
            evaluations.evaluation_allocations,
            "List the allocations that the evaluation of a stop placed: none.",
            _READ,
            is_owners=True,
        ),
        Route(
            "history",
            "/v1/allocation/{id}/history",
            _GET,
            events.history,
            "Read every record of an allocation, oldest first.",
            (*_READ, "task", "per_page", "next_token"),
        ),
        Route(
            "events",
            "/v1/allocations/events",
            ("POST",),
            events.post_events,
            "Record what happened: all lines, or none.",
            _ASKED,
            is_owners=True,
            wants_json=True,
        ),
        Route(
            "inputs",
            "/v1/allocations/inputs",
            ("POST",),
            inputs.post_inputs,
            "Say what happened, and be told what follows: events, effects, timers.",
            _ASKED,
            is_owners=True,
            wants_json=True,
        ),
        Route(
            "event_stream",
            "/v1/event/stream",
            _GET,
            stream.event_stream,
            "Follow every change, from the log.",
            ("topic", "namespace", "index", "from", "region"),
            is_regional=False,  # its index is another parameter, with other errors
        ),
        Route(
            "stop",
            "/v1/allocation/{id}/stop",
            _WRITE,
            actions.stop,
            "Ask to stop an allocation.",
            _ASKED,
            is_owners=True,
        ),
        Route(
            "client_allocation",
            "/v1/client/allocation/{id}/{action}",
            ("GET", *_WRITE),
            actions.client_allocation,
            "Ask to restart or signal the tasks of an allocation.",
            _ASKED,
            is_owners=True,
            acts_on_get=True,
            extra=((b"Vary", b"Origin"),),
        ),
        Route("jobs", "/v1/jobs", ("GET", *_WRITE), actions.jobs, "Ask to register a job.", _ASKED, is_owners=True),
        Route("regions", "/v1/regions", _GET, own.regions, "List the regions that can be asked.", is_regional=False),
        Route(
            "health",
            "/v1/agent/health",
            _GET,
            own.health,
            "Tell whether the server does its work.",
            ("type",),
            is_regional=False,
            is_open=True,
            is_owners=True,
        ),
        Route(
            "metrics",
            "/v1/metrics",
            _GET,
            own.metrics,
            "Tell numbers.",
            ("format", "pretty"),
            is_regional=False,
            is_owners=True,
        ),
        Route("openapi", "/v1/openapi.json", _GET, own.openapi, "Describe this interface.", is_regional=False),
    )
}
"""Every endpoint, by name."""

_EXACT: Final = {route.path: route for route in ROUTES.values() if "{" not in route.path}
ALLOCATION: Final = "/v1/allocation/"
_JOB: Final = "/v1/job/"
_CLIENT: Final = "/v1/client/allocation/"
_UNCLEAN: Final = re.compile(r"//|/\.\.?(/|$)")
_EVALUATION: Final = "/v1/evaluation/"
_ALLOCATIONS: Final = "/allocations"
_OF_JOB: Final = re.compile(
    "/(?:evaluate|evaluations|periodic/force|plan|summary|dispatch|versions|revert|deployments?|stable|scale)$"
)
"""What Nomad has below a job, and is not served. Source: command/agent/job_endpoint.go JobSpecificRequest."""
_UNESCAPED: Final = "/$&+,:;=@"
"""What Go leaves as it is in a path, beside letters, digits and ``-_.~``. Source: net/url shouldEscape."""

_UNESCAPED_QUERY: Final = "".join(map(chr, range(0x21, 0x7F)))
"""Go leaves a query as it came, but for what is no ASCII. Source: net/http hexEscapeNonASCII."""

Found: TypeAlias = tuple[Route, tuple[str, ...]]


def match(path: str, dialect: Dialect) -> Found | Answer | None:
    """Return the endpoint that a path names and the parts of the path, or what Nomad answers without one.

    >>> from taskfold.model.dialect import DIALECTS
    >>> found = match("/v1/job/example/allocations", DIALECTS["1.1.2"])
    >>> found[0].name, found[1]
    ('job_allocations', ('example',))
    """
    if path.startswith(ALLOCATION):
        return _of_allocation(path[len(ALLOCATION) :], dialect)
    route = _EXACT.get(path)
    if route is not None:
        return route, ()
    if path.startswith(_CLIENT):
        return _of_client(path[len(_CLIENT) :], dialect)
    if path.startswith(_JOB):
        return _of_job(path[len(_JOB) :])
    if path.startswith(_EVALUATION) and dialect.has_actions:
        rest = path[len(_EVALUATION) :]
        has_more = rest.endswith(_ALLOCATIONS)
        return ROUTES["evaluation_allocations" if has_more else "evaluation"], (rest.removesuffix(_ALLOCATIONS),)
    return None


def _of_job(rest: str) -> Found | None:
    """Return the endpoint of a job, whose ID may have slashes in it."""
    if rest.endswith(_ALLOCATIONS) and len(rest) > len(_ALLOCATIONS):
        return ROUTES["job_allocations"], (rest[: -len(_ALLOCATIONS)],)
    return None if not rest or _OF_JOB.search(rest) else (ROUTES["job"], (rest,))


def _of_allocation(rest: str, dialect: Dialect) -> Found | Answer:
    """Return the endpoint below one allocation."""
    alloc, slash, name = rest.partition("/")
    if slash and name == "history":
        return ROUTES["history"], (alloc,)
    if not slash or not dialect.has_actions:
        return ROUTES["allocation"], (rest,)
    if name == "stop":
        return ROUTES["stop"], (alloc,)
    return error(404, NO_RESOURCE)


def _of_client(rest: str, dialect: Dialect) -> Found | Answer:
    """Return the endpoint of an allocation on its client."""
    alloc, _, name = rest.partition("/")
    if not dialect.has_actions or name not in actions.CLIENT_ACTIONS:
        return error(404, NO_RESOURCE, extra=ROUTES["client_allocation"].extra if dialect.has_actions else ())
    return ROUTES["client_allocation"], (alloc, name)


def cleaned(path: str, raw_path: bytes, query: bytes, method: str) -> Answer | None:
    """Return the redirect that Go's router answers with when a path is not clean, or lacks its last slash.

    It is made of the path without its escapes, which Go puts back: no byte of a request gets into a header as it is.
    """
    if path == ALLOCATION[:-1]:
        clean = ALLOCATION.encode()
    elif ("//" in path or "/." in path) and _UNCLEAN.search(path):
        # A path that begins with two slashes would name another server.
        clean = b"/" + posixpath.normpath(unquote_to_bytes(raw_path)).lstrip(b"/")
        clean += b"/" if path.endswith("/") and clean != b"/" else b""
    else:
        return None
    location = quote(clean, _UNESCAPED) + ("?" + quote(query, _UNESCAPED_QUERY) if query else "")
    return redirect(301, "Moved Permanently", location, method)
