"""The endpoint of the OpenAPI document: the package has one for each dialect."""

from __future__ import annotations

from functools import cache

import msgspec

from taskfold.http.answers import Answer, json_answer
from taskfold.http.context import Context
from taskfold.http.request import Request
from taskfold.model.dialect import NEWEST_DIALECT
from taskfold.sources.shipped import shipped

__all__ = ["document_text", "file_name", "openapi"]


def file_name(dialect: str) -> str:
    """Return the name of the file of a dialect's document; the newest dialect's is ``openapi.json``."""
    return "openapi.json" if dialect == NEWEST_DIALECT else f"openapi-{dialect}.json"


@cache
def document_text(dialect: str) -> bytes:
    """Return the OpenAPI document of a server of a dialect, as JSON without spaces. O(its length), once a process.

    Raises OSError where the file is missing from the installation.
    """
    return msgspec.json.encode(msgspec.json.decode((shipped("schemas") / file_name(dialect)).read_bytes()))


async def openapi(context: Context, _: Request) -> Answer:
    """Answer ``GET /v1/openapi.json``."""
    return json_answer(document_text(context.dialect.name))
