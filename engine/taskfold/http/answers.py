"""Answers: status, headers and body as a Nomad agent writes them, and sending them through ASGI.

Header values, their order and the error texts are those that were recorded; an ASGI server may write the names in lower
case, which HTTP allows. A body of up to 2,048 bytes has a Content-Length, a longer one is sent in chunks, as in Go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from taskfold.http.serve.compression import gzip_body
from taskfold.model.dialect import Dialect

__all__ = [
    "HTML_TYPE",
    "INVALID_METHOD",
    "MIRROR",
    "NO_PATH",
    "READ_ONLY",
    "Answer",
    "Header",
    "Receive",
    "Scope",
    "Send",
    "Uint64",
    "error",
    "headers_and_body",
    "json_answer",
    "not_found",
    "pretty",
    "redirect",
    "send_answer",
    "send_stale",
]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]
Uint64: TypeAlias = Annotated[int, msgspec.Meta(ge=0, extra_json_schema={"maximum": 2**64 - 1})]
"""An index, or another number, as Go has it: 64 bits without a sign."""

CONTENT_LENGTH_BYTES: Final = 2_048
"""The largest body with a Content-Length. Source: bufferBeforeChunkingSize of Go's net/http."""

INVALID_METHOD: Final = "Invalid method"
NO_PATH: Final = "No path to region"
MIRROR: Final = "this server mirrors a Nomad, and cannot be written to"
READ_ONLY: Final = "this server reads a log that another process writes: ask the server that writes it"

VARY: Final[Header] = (b"Vary", b"Accept-Encoding")
JSON_TYPE: Final[Header] = (b"Content-Type", b"application/json")
TEXT_TYPE: Final[Header] = (b"Content-Type", b"text/plain; charset=utf-8")
HTML_TYPE: Final[Header] = (b"Content-Type", b"text/html; charset=utf-8")
_HTML: Final = str.maketrans({"&": "&amp;", '"': "&#34;", "'": "&#39;", "<": "&lt;", ">": "&gt;"})


class Answer(Struct, frozen=True, gc=False):
    """A whole answer."""

    status: int
    headers: tuple[Header, ...]
    body: bytes = b""
    late: tuple[Header, ...] = ()
    """Headers that Go writes after the length: the guessed type of a text."""
    gzipped: bytes | None = None
    """The body as gzip, if it is cached."""


def index_headers(index: int) -> tuple[Header, ...]:
    """Return the headers of every read: the only server is the leader, and in contact with itself."""
    return (
        (b"X-Nomad-Index", b"%d" % index),
        (b"X-Nomad-Knownleader", b"true"),
        (b"X-Nomad-Lastcontact", b"0"),
    )


def json_answer(body: bytes, index: int | None = None, *, status: int = 200, extra: Iterable[Header] = ()) -> Answer:
    """Return an answer in JSON; reads give their index."""
    return Answer(status, (JSON_TYPE, VARY, *extra, *(() if index is None else index_headers(index))), body)


def error(status: int, text: str, index: int | None = None, *, extra: Iterable[Header] = ()) -> Answer:
    """Return an error as Nomad writes it: its text alone. A 404 of a read gives the index as well."""
    headers = (VARY, *extra, *(() if index is None else index_headers(index)))
    return Answer(status, headers, text.encode(errors="surrogateescape"), (TEXT_TYPE,))


def not_found(dialect: Dialect) -> Answer:
    """Return the answer for an unknown path."""
    if dialect.has_ui:
        return Answer(404, (VARY,))
    return Answer(404, (TEXT_TYPE, VARY, (b"X-Content-Type-Options", b"nosniff")), b"404 page not found\n")


def redirect(status: int, reason: str, location: str, method: str) -> Answer:
    """Return a redirect as Go's net/http writes it. The location is escaped: it has visible ASCII only."""
    if method not in {"GET", "HEAD"}:
        return Answer(status, ((b"Location", location.encode()), VARY))
    escaped = location.translate(_HTML)
    body = f'<a href="{escaped}">{reason}</a>.\n\n' if method == "GET" else ""
    return Answer(status, (HTML_TYPE, (b"Location", location.encode()), VARY), body.encode())


def pretty(body: bytes) -> bytes:
    """Return a JSON text as ``?pretty`` shows it: four spaces, and a newline at its end."""
    return msgspec.json.format(body, indent=4) + b"\n"


def headers_and_body(
    answer: Answer, *, gzip_as: Dialect | None, http_version: str = "1.1"
) -> tuple[tuple[Header, ...], bytes]:
    """Return the headers and the body of a whole answer, compressed as the dialect ``gzip_as`` does, if given."""
    body, headers, late = answer.body, answer.headers, answer.late
    if gzip_as is not None and body:
        body = answer.gzipped or gzip_body(body)
        # Go guesses the type of a text from its bytes; the old agent did not for a compressed body.
        guessed = late if gzip_as.has_ui else ()
        headers, late = ((b"Content-Encoding", b"gzip"), *guessed, *headers), ()
    if len(body) <= CONTENT_LENGTH_BYTES or http_version == "1.0":
        headers = (*headers, (b"Content-Length", b"%d" % len(body)))
    return (*headers, *late), body


async def send_answer(scope: Scope, send: Send, answer: Answer, *, gzip_as: Dialect | None) -> None:
    """Send a whole answer, compressed as the dialect ``gzip_as`` does, if given. O(body)."""
    headers, body = headers_and_body(answer, gzip_as=gzip_as, http_version=scope.get("http_version", "1.1"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def send_stale(send: Send, contact_seconds: float, message: MutableMapping[str, Any]) -> None:
    """Send a part of an answer that may be out of date: nobody leads, and the last contact was so long ago."""
    if message["type"] == "http.response.start":
        headers = {b"X-Nomad-Knownleader": b"false", b"X-Nomad-Lastcontact": b"%d" % (contact_seconds * 1_000)}
        message = {**message, "headers": [(name, headers.get(name, value)) for name, value in message["headers"]]}
    await send(message)
