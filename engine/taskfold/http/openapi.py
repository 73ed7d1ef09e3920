"""The OpenAPI document: what `ROUTES` and the types say, for programs that make clients and for those that test them.

``python -m taskfold.http.openapi --write schemas`` makes ``openapi.json`` of the newest dialect, ``--check`` checks it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from taskfold.http.evaluations import Evaluation
from taskfold.http.events import DEFAULT_PAGE
from taskfold.http.inputs import Results
from taskfold.http.options import MAX_WAIT_NS
from taskfold.http.routes import ROUTES, Route
from taskfold.http.stream import AHEAD, GONE, SLOW, TOPIC
from taskfold.model.dialect import NEWEST_DIALECT, Dialect, dialect_of
from taskfold.nomad.schema import (
    Schema,
    allocation_schema,
    as_text,
    input_schema,
    record_schema,
    schema_of,
    stub_schema,
    write_or_check,
    write_schema,
)
from taskfold.nomad.writes import WRITE_TYPES

__all__ = ["FILE", "PARAMETERS", "document", "main"]

FILE: Final = "openapi.json"

_TEXT: Final[Schema] = {"type": "string"}
_LIST: Final[Schema] = {"type": "array", "items": _TEXT}
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}

_PAGE: Final = f"How many records a page has at most: {DEFAULT_PAGE} unless told, within the server's limit."
_WAIT: Final = f"How long to wait, as a Go duration such as 1m30s; {MAX_WAIT_NS // 10**9} seconds at most."

PARAMETERS: Final[dict[str, tuple[Schema, str]]] = {
    "region": (_TEXT, "The region that is asked; this server's own where it is empty."),
    "namespace": (_TEXT, "The namespace of a list or a stream: default unless named, * for all."),
    "prefix": (_TEXT, "Only allocations whose ID begins so: hexadecimal digits, an even number of them."),
    "index": (_NUMBER, "Wait for what is newer than this; on the event stream, begin with the first write of it."),
    "wait": (_TEXT, _WAIT),
    "stale": (_TEXT, "Taken, and without effect: there is one server."),
    "consistent": (_TEXT, "Taken, and without effect: there is one server."),
    "pretty": (_TEXT, "Indent the answer, unless the value is 0."),
    "resources": ({"type": "boolean"}, "List the allocated resources, too."),
    "task_states": ({"type": "boolean"}, "List the task states; true unless told."),
    "task": (_TEXT, "Only records of this task."),
    "per_page": (_NUMBER, _PAGE),
    "next_token": (_NUMBER, "The version after which the page begins: what X-Nomad-NextToken told."),
    "topic": (
        _LIST,
        "Which events: *, Allocation, or Allocation:KEY with an allocation, a job or a deployment.",
    ),
    "type": (_LIST, "Which parts are told: server, as without it, or client, which this agent is not."),
    "format": (_TEXT, "prometheus for its text format; JSON with anything else."),
    "from": (_TEXT, "Where to begin, instead of an index: now, oldest, or after a position of the log."),
}
"""What each parameter is and means."""

_STUB_CHOICES: Final = frozenset(("resources", "task_states"))
"""Parameters that only some dialects read."""

_OF_ACTIONS: Final = frozenset(("stop", "client_allocation", "evaluation", "evaluation_allocations"))
"""Endpoints that only some dialects have."""

_REF: Final = "#/components/schemas/"
_INDEX_HEADERS: Final = {
    "X-Nomad-Index": {"description": "The index that the answer is of.", "schema": _NUMBER},
    "X-Nomad-KnownLeader": {"description": "Always true.", "schema": {"const": "true"}},
    "X-Nomad-LastContact": {"description": "Always 0.", "schema": {"const": "0"}},
}
_NEXT: Final = {"X-Nomad-NextToken": {"description": "There is more: the next page.", "schema": _NUMBER}}


def _array(name: str) -> Schema:
    return {"type": "array", "items": {"$ref": _REF + name}}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


_BODIES: Final[dict[str, Schema]] = {
    "allocation": _json({"$ref": _REF + "Allocation"}),
    "allocations": _json(_array("Stub")),
    "job_allocations": _json(_array("Stub")),
    "history": _json(_array("Record")),
    "events": _json({"$ref": _REF + "Recorded"}),
    "inputs": _json({"$ref": _REF + "Results"}),
    "stop": _json({"$ref": _REF + "Stopped"}),
    "job": _json({"type": "object"}),
    "evaluation": _json({"$ref": _REF + "Evaluation"}),
    "evaluation_allocations": _json(_array("Stub")),
    "client_allocation": _json({"$ref": _REF + "Acted"}),
    # A line of it; the whole has no end.
    "event_stream": _json({"$ref": _REF + "Frame"}),
    "regions": _json({"type": "array", "items": _TEXT}),
    "health": _json({"$ref": _REF + "Health"}),
    "metrics": {**_json({"$ref": _REF + "Numbers"}), "text/plain": {"schema": _TEXT}},
    "openapi": _json({"type": "object"}),
}
"""What a 200 has, by endpoint; one that is not here never answers so."""

_REASONS: Final = {
    400: "A parameter or a body that cannot be understood.",
    403: "The token is missing or wrong.",
    404: "There is no such allocation, evaluation or job.",
    405: "The endpoint is not asked so.",
    408: "The body did not come in time.",
    409: "Something was refused, or this server mirrors a Nomad; nothing was recorded.",
    410: "Records that are asked for were removed when the log was compacted.",
    413: "The body is too large.",
    414: "The query is too long.",
    415: "The body is compressed.",
    429: "The client has as many requests of this kind as it may have.",
    500: "What is no ID, as Nomad answers it; a region that cannot be asked; or a log that cannot be written.",
    501: "This server takes no jobs.",
}
_LINES: Final = {"events": ("Write", "JSON lines, each a write."), "inputs": ("Said", "JSON lines, each an input.")}
"""Endpoints that take JSON lines: what each line is."""
_COMMON: Final = (403, 405, 414)
_REGIONAL: Final = (400, 429, 500)
_MORE: Final[dict[str, tuple[int, ...]]] = {
    "allocation": (404,),
    "evaluation": (404,),
    "evaluation_allocations": (404,),
    "job": (404,),
    "history": (404, 410),
    "events": (404, 408, 409, 413, 415),
    "inputs": (404, 408, 409, 413, 415),
    "event_stream": (400, 429, 500),
    "stop": (404, 409),
    "client_allocation": (404, 408, 409, 413),
    "jobs": (408, 413, 501),
    "health": (500,),
}
"""Which errors an endpoint has beside those that all have."""


def document(dialect: str | Dialect = NEWEST_DIALECT) -> Schema:
    """Return the OpenAPI document of a server that speaks a dialect. O(types), a second."""
    spoken = dialect_of(dialect)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"taskfold, dialect {spoken.name}",
            "version": "1",
            "description": "The allocations of a log, as Nomad's agents serve theirs, and some endpoints of our own.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": _paths(spoken),
        "components": {
            "schemas": _schemas(spoken),
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Nomad-Token"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{}, {"token": []}, {"bearer": []}],
    }


def _paths(dialect: Dialect) -> Schema:
    """Return every endpoint that a dialect has."""
    paths: Schema = {}
    for route in ROUTES.values():
        if dialect.has_actions or route.name not in _OF_ACTIONS:
            paths[route.path] = {method.lower(): _operation(route, method, dialect) for method in route.methods}
    return paths


def _operation(route: Route, method: str, dialect: Dialect) -> Schema:
    """Return what one method of an endpoint takes and answers."""
    parts = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in re.findall(r"{(\w+)}", route.path)
    ]
    asked = [
        {"name": name, "in": "query", "schema": PARAMETERS[name][0], "description": PARAMETERS[name][1]}
        for name in route.parameters
        if dialect.has_stub_choices or name not in _STUB_CHOICES
    ]
    operation: Schema = {
        "operationId": route.name if len(route.methods) == 1 else f"{route.name}_{method.lower()}",
        "summary": route.summary,
        "parameters": [*parts, *asked],
        "responses": _responses(route),
    }
    if route.name in _LINES:
        name, text = _LINES[route.name]
        lines = {"application/x-ndjson": {"schema": {"$ref": _REF + name}}}
        operation["requestBody"] = {"required": True, "content": lines, "description": text}
    elif method != "GET":
        operation["requestBody"] = {"content": _json({"type": "object"})}
    if route.is_open:
        operation["security"] = [{}]
    return operation


def _responses(route: Route) -> Schema:
    """Return the answers of an endpoint, by status."""
    responses: Schema = {}
    if route.name in _BODIES:
        headers = _INDEX_HEADERS if route.is_regional else {}
        if route.name == "history":
            headers = headers | _NEXT
        responses["200"] = {"description": "The answer.", "headers": headers, "content": _BODIES[route.name]}
    statuses = {*_COMMON, *(_REGIONAL if route.is_regional else ()), *_MORE.get(route.name, ())}
    for status in sorted(statuses):
        responses[str(status)] = {"description": _REASONS[status], "content": _error(route, status)}
    return responses


def _error(route: Route, status: int) -> Schema:
    """Return what an error has: Nomad's are plain texts, ours of events name the lines."""
    if route.name == "health" and status == 500:  # noqa: PLR2004 - the number is the status
        return _BODIES["health"]
    plain = {"text/plain": {"schema": _TEXT}}
    is_of_lines = route.name in _LINES and status in {400, 404, 409}
    return plain | _json({"$ref": _REF + "Refused"}) if is_of_lines else plain


def _schemas(dialect: Dialect) -> Schema:
    """Return the components: what the schemas of the types define, and what is made here."""
    schemas: Schema = dict(_OWN)
    for name, made, prefix in (
        ("Allocation", allocation_schema(dialect), ""),
        ("Stub", stub_schema(dialect), ""),
        # Some events have the name of a part of a job.
        ("Record", record_schema(), "Event"),
        ("Write", write_schema(), "Event"),
        ("Said", input_schema(), "Input"),
        ("Results", schema_of(Results, "results", "What became of inputs"), "Event"),
        ("Evaluation", schema_of(Evaluation, "evaluation", "The evaluation of a stop"), "Stop"),
    ):
        root = json.loads(json.dumps(made).replace("#/$defs/", _REF + prefix))
        for other, definition in root.pop("$defs", {}).items():
            assert schemas.setdefault(prefix + other, definition) == definition, other
        schemas[name] = {key: value for key, value in root.items() if key not in {"$schema", "$id"}}
    return dict(sorted(schemas.items()))


def _object(properties: Mapping[str, Schema], required: Sequence[str] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


_LINE: Final = {"type": "integer", "minimum": 1, "description": "The line of the request, from 1."}
_PART: Final = _object({"message": _TEXT, "ok": {"type": "boolean"}})
_OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
_OWN: Final[dict[str, Schema]] = {
    "Recorded": _object(
        {
            "Index": {**_NUMBER, "description": "The index of the write."},
            "Results": {
                "type": "array",
                "items": _object(
                    {
                        "Line": _LINE,
                        "Alloc": _TEXT,
                        "Version": {**_NUMBER, "description": "The version that the allocation got."},
                        "Seq": {**_NUMBER, "description": "The position in the log."},
                        "Repeat": {"const": True, "description": "Its ID was recorded before."},
                    },
                    ("Line", "Alloc"),
                ),
            },
        }
    ),
    "Stopped": _object({"EvalID": _TEXT, "Index": _NUMBER}),
    "Numbers": _object(
        {
            "Counters": _OBJECTS,
            "Gauges": _OBJECTS,
            "Points": _OBJECTS,
            "Samples": _OBJECTS,
            "Timestamp": _TEXT,
        }
    ),
    "Acted": _object({"Index": _NUMBER}),
    "Refused": _object({"Errors": {"type": "array", "items": _object({"Line": _LINE, "Error": _TEXT})}}),
    "Health": _object({"client": _PART, "server": _PART}, ()),
    "Frame": {
        "type": "object",
        "description": "A line of the stream: a heartbeat is empty, and an error is the last one.",
        "properties": {
            "Index": _NUMBER,
            "Events": {"type": "array", "items": {"$ref": _REF + "Event"}},
            "Error": {"$ref": _REF + "StreamError"},
        },
    },
    "Event": _object(
        {
            "FilterKeys": {"type": "array", "items": _TEXT},
            "Index": _NUMBER,
            "Key": _TEXT,
            "Namespace": _TEXT,
            "Payload": _object({"Allocation": {"$ref": _REF + "Allocation"}}),
            "Topic": {"const": TOPIC},
            "Type": {
                **_TEXT,
                "examples": sorted(WRITE_TYPES),
                "description": "What wrote; a mirror says what it was told.",
            },
        }
    ),
    "StreamError": _object(
        {
            "Reason": {"enum": [GONE, AHEAD, SLOW]},
            "Message": _TEXT,
            "Oldest": _NUMBER,
            "Newest": _NUMBER,
            "Position": {**_NUMBER, "description": "Where to go on, with from=Position."},
        },
        ("Reason", "Message", "Oldest", "Newest"),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document into a folder, or check the one that is there; return the exit status."""

    def there(folder: Path) -> set[str]:
        return {path.name for path in folder.glob(FILE)}

    return write_or_check("python -m taskfold.http.openapi", lambda: {FILE: as_text(document())}, there, arguments)


if __name__ == "__main__":
    sys.exit(main())
