"""The OpenAPI documents: what `ROUTES` and the types say, for programs that make clients and for those that test them.

``python -m tools.openapi --write schemas`` makes one of each dialect, ``--check schemas`` checks them. They are
shipped, and served as they are: the order of their properties is the one that is answered.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

from msgspec import Struct

from taskfold.http.own import openapi
from taskfold.http.routes import ROUTES
from taskfold.http.routing import AnswerBody, Route
from taskfold.model.dialect import DIALECTS, NEWEST_DIALECT, Dialect, dialect_of
from tools.schemas import (
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

__all__ = ["document", "main"]

_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}

_REF: Final = "#/components/schemas/"
_INDEX_HEADERS: Final = {
    "X-Nomad-Index": {"description": "The index that the answer is of.", "schema": _NUMBER},
    "X-Nomad-KnownLeader": {"description": "Always true.", "schema": {"const": "true"}},
    "X-Nomad-LastContact": {"description": "Always 0.", "schema": {"const": "0"}},
}
_NEXT: Final = {"X-Nomad-NextToken": {"description": "There is more: the next page.", "schema": _NUMBER}}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


_REASONS: Final = {
    200: "The answer.",
    400: "A parameter or a body that cannot be understood.",
    403: "The token is missing or wrong.",
    404: "There is no such allocation, evaluation, deployment or job.",
    405: "The endpoint is not asked so.",
    408: "The body did not come in time.",
    409: "Something was refused, or this server mirrors a Nomad; nothing was recorded.",
    410: "Records that are asked for were removed when the log was compacted.",
    413: "The body is too large.",
    414: "The query is too long.",
    415: "The body is compressed.",
    429: "The client has as many requests of this kind as it may have.",
    500: "What is no ID, as Nomad answers it; a region that cannot be asked; or a log that cannot be written.",
    501: "This server takes no jobs, and does not know this: an agent of Nomad does.",
    503: "The server is unhealthy; the body says why.",
}
_PREFIXES: Final = {"LineResults": "Event"}
"""What stands before the names of the definitions below a struct: some events have the name of a part of a job."""

_PLAIN: Final[dict[str, Schema]] = {
    "html": _TEXT,
    "text": _TEXT,
    "string": _TEXT,
    "object": {"type": "object"},
    "null": {"type": "null"},
}
_TYPES: Final = {"html": "text/html", "text": "text/plain"}
"""The types of bodies that are no JSON."""

_COMMON: Final[dict[int, AnswerBody]] = dict.fromkeys((403, 405, 414), "text")
_REGIONAL: Final[dict[int, AnswerBody]] = dict.fromkeys((400, 429, 500), "text")


def document(dialect: str | Dialect = NEWEST_DIALECT, routes: Mapping[str, Route] = ROUTES) -> Schema:
    """Return the OpenAPI document of a server of a dialect with these endpoints. O(types), a second."""
    dialect = dialect_of(dialect)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"taskfold, dialect {dialect.name}",
            "version": "1",
            "description": "The allocations of a log, as Nomad's agents serve theirs, and some endpoints of our own.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": _paths(dialect, routes),
        "components": {
            "schemas": _schemas(dialect, routes),
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Nomad-Token"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{}, {"token": []}, {"bearer": []}],
    }


def _paths(dialect: Dialect, routes: Mapping[str, Route]) -> Schema:
    """Return every endpoint that a dialect has."""
    paths: Schema = {}
    for route in routes.values():
        if route.is_in(dialect):
            paths[route.path] = {method.lower(): _operation(route, method, dialect) for method in route.methods}
    return paths


def _operation(route: Route, method: str, dialect: Dialect) -> Schema:
    """Return what one method of an endpoint takes and answers."""
    parts = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in route.part_names]
    query = [
        {"name": each.name, "in": "query", "schema": each.schema, "description": each.meaning}
        for each in route.parameters
        if each.is_in(dialect) and (method == "GET" or not each.is_of_reads)
    ]
    operation: Schema = {
        "operationId": route.name if len(route.methods) == 1 else f"{route.name}_{method.lower()}",
        "summary": route.summary,
        "tags": ["taskfold" if route.is_own else "nomad"],
        "parameters": [*parts, *query],
        "responses": _responses(route),
    }
    if route.lines:
        lines = {"application/x-ndjson": {"schema": {"$ref": _REF + route.lines}}}
        text = f"JSON lines, each of them a {route.lines}."
        operation["requestBody"] = {"required": True, "content": lines, "description": text}
    elif method != "GET":
        operation["requestBody"] = {"content": _json({"type": "object"})}
    if route.is_open:
        operation["security"] = [{}]
    return operation


def _responses(route: Route) -> Schema:
    """Return the answers of an endpoint, by status."""
    answers = {**_COMMON, **(_REGIONAL if route.is_regional else {}), **route.answers}
    responses: Schema = {}
    for status, body in sorted(answers.items()):
        responses[str(status)] = {"description": _REASONS[status], "content": _content(body)}
        if status == HTTPStatus.OK:
            headers = _INDEX_HEADERS if route.is_regional else {}
            responses[str(status)]["headers"] = headers | (_NEXT if route.is_paged else {})
    return responses


def _content(body: AnswerBody) -> Schema:
    """Return the content of an answer of a row."""
    content: Schema = {}
    for each in _parts(body):
        name = each if isinstance(each, str) else each.__name__
        item = name.removesuffix("[]")
        schema = _PLAIN.get(item, {"$ref": _REF + item})
        if name in _TYPES:
            content[_TYPES[name]] = {"schema": schema}
        else:
            content |= _json(schema if item == name else {"type": "array", "items": schema})
    return content


def _parts(body: AnswerBody) -> tuple[str | type[Struct], ...]:
    return body if isinstance(body, tuple) else (body,)


def _structs(routes: Mapping[str, Route]) -> list[type[Struct]]:
    """Return the structs that the rows name, each once, in their order."""
    parts = (part for route in routes.values() for body in route.answers.values() for part in _parts(body))
    return list(dict.fromkeys(part for part in parts if not isinstance(part, str)))


def _schemas(dialect: Dialect, routes: Mapping[str, Route]) -> Schema:
    """Return the components: what the schemas of the types define."""
    schemas: Schema = {}
    for name, schema, prefix in (
        ("Allocation", allocation_schema(dialect), ""),
        ("Stub", stub_schema(dialect), ""),
        # Some events have the name of a part of a job.
        ("Record", record_schema(), "Event"),
        ("Write", write_schema(), "Event"),
        ("PostedInput", input_schema(), "Input"),
        *(
            (each.__name__, schema_of(each, "", each.__name__), _PREFIXES.get(each.__name__, ""))
            for each in _structs(routes)
        ),
    ):
        root = json.loads(json.dumps(schema).replace("#/$defs/", _REF + prefix))
        for other, definition in root.pop("$defs", {}).items():
            assert schemas.setdefault(prefix + other, definition) == definition, other
        schemas[name] = {key: value for key, value in root.items() if key not in {"$schema", "$id"}}
    return dict(sorted(schemas.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the documents into a folder, or check those that are there; return the exit status."""

    def there(folder: Path) -> set[str]:
        return {path.name for path in folder.glob("openapi*.json")}

    return write_or_check("python -m tools.openapi", documents, there, arguments)


def documents() -> dict[str, bytes]:
    """Return every generated file: its text by name."""
    return {openapi.file_name(dialect): as_text(document(dialect), is_sorted=False) for dialect in DIALECTS}


if __name__ == "__main__":
    sys.exit(main())
