"""The router: the row type of the endpoint table, and the look-up of an endpoint by path.

The parts of a row's path are in braces, and the path is compiled: router, metrics and the OpenAPI
document share one row. `taskfold.http.routes` has the rows.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from msgspec import Struct

from taskfold.http.answers import Answer, Header, redirect
from taskfold.model.dialect import Dialect

__all__ = ["AnswerBody", "Match", "Parameter", "Route", "Router"]

AnswerBody: TypeAlias = str | type[Struct] | tuple[str | type[Struct], ...]
"""A struct, or the name of a schema that depends on the dialect: ``Allocation``, ``Stub[]``, ``text``; or several."""

Handler: TypeAlias = Callable[..., Awaitable[Answer | None]]

_SEGMENT: Final = "[^/]*+"
"""The default pattern of a path part; possessive, since only a slash ends it."""

_PART: Final = re.compile(r"{(\w+)}")
_UNCLEAN: Final = re.compile(r"//|/\.\.?(/|$)")
_UNESCAPED: Final = "/$&+,:;=@"
"""Characters that Go does not escape in a path, beside letters, digits and ``-_.~``. Source: net/url shouldEscape."""

_UNESCAPED_QUERY: Final = "".join(map(chr, range(0x21, 0x7F)))
"""Go escapes only non-ASCII characters in a query. Source: net/http hexEscapeNonASCII."""


def _always(_: Dialect) -> bool:
    return True


class Parameter(Struct, frozen=True):
    """A parameter of the query."""

    name: str
    schema: dict[str, Any]
    meaning: str
    is_in: Callable[[Dialect], bool] = _always
    """Whether a dialect has it."""
    is_of_reads: bool = False
    """Only a GET looks at it."""


class Route(Struct, frozen=True):
    """One endpoint: everything about it except the code of its handler."""

    name: str
    path: str
    """The path, with its parts in braces."""
    methods: tuple[str, ...]
    handler: Handler
    """Gets the context, the request, the options (of a regional endpoint), and the parts of the path."""
    summary: str
    parameters: tuple[Parameter, ...] = ()
    """The parameters that it reads."""
    answers: dict[int, AnswerBody] = {}
    """The types of the body by status, beside the errors of every endpoint."""
    is_endless: bool = False
    """Its answer ends only when the client disconnects, or the server stops."""
    is_paged: bool = False
    """A 200 has the header X-Nomad-NextToken if there are more pages."""
    lines: str = ""
    """It takes JSON lines: the schema of each."""
    parts: dict[str, str] = {}
    """Regular expressions of path parts with another pattern than any text without a slash."""
    is_own: bool = False
    """It is taskfold's, and not Nomad's."""
    is_in: Callable[[Dialect], bool] = _always
    """Whether a dialect has it."""
    stray: Callable[[Dialect], Answer | None] | None = None
    """Makes the answer for paths below it without an endpoint; None takes them as part of its last parameter."""
    is_regional: bool = True
    """It has the parameters of every read, and can be forwarded to another region."""
    is_open: bool = False
    """It needs no token."""
    only_asks: bool = False
    """A request with a body is a question, and changes nothing."""
    unserved_methods: tuple[str, ...] = ()
    """Methods that Nomad has there, and that are not served: they are a 501, and no 405."""
    asks_agent: bool = False
    """A mirror has the agent answer it that it follows, if it may ask: what the mirror itself knows is less."""
    acts_on_get: bool = False
    """A GET also writes, as with Nomad's agents."""
    is_owners: bool = False
    """If several processes serve a log, only its owner answers: writes, and reads of the owner's own state."""
    extra: tuple[Header, ...] = ()
    """Additional headers of its errors."""

    @property
    def prefix(self) -> str:
        """The path before its first part.

        >>> Route("job", "/v1/job/{job}", ("GET",), handler=None, summary="").prefix
        '/v1/job/'
        """
        return self.path.partition("{")[0]

    @property
    def part_names(self) -> list[str]:
        """The names of the parts of the path, in order."""
        return _PART.findall(self.path)

    def writes(self, method: str) -> bool:
        """Return whether a method writes."""
        return (method != "GET" or self.acts_on_get) and not self.only_asks


Match: TypeAlias = tuple[Route, tuple[str, ...]]


class Router:
    """The endpoints of one dialect, by their paths."""

    def __init__(self, routes: Iterable[Route], dialect: Dialect) -> None:
        """Compile the paths. O(routes)."""
        rows = [route for route in routes if "{" in route.path]
        own = [route for route in rows if route.is_in(dialect)]
        self._exact = {route.path: (route, ()) for route in routes if "{" not in route.path and route.is_in(dialect)}
        self._bare = {route.prefix[:-1] for route in own}
        """Beginnings of paths without their last slash, to which Go's router adds it."""
        patterns: list[str] = []
        self._targets: dict[int, tuple[Route | Answer, slice]] = {}
        """The meaning of each group of the pattern, by its number, and the groups that are path parts."""
        count = 0
        # The longer the fixed text of a path is, the fewer paths fit: `/v1/job/{job}` fits all below it.
        for route in sorted(own, key=lambda row: -len(_PART.sub("", row.path))):
            parts = slice(count + 1, count + 1 + len(route.part_names))
            self._targets[count + 1] = route, parts
            count = parts.stop
            patterns.append(_pattern(route))
        for route in rows:
            if route.stray is not None:
                self._targets[count + 1] = route.stray(dialect) or route, slice(count + 1, count + 2)
                count += 2
                patterns.append(f"({re.escape(route.prefix)}(.*))")
        self._pattern = re.compile("|".join(patterns), re.DOTALL)

    def match(self, path: str) -> Match | Answer | None:
        """Return the endpoint that a path names and the parts of the path, or what Nomad answers without one.

        Takes about a microsecond, however many endpoints there are without parts.
        """
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        fit = self._pattern.fullmatch(path)
        if fit is None or fit.lastindex is None:
            return None
        target, parts = self._targets[fit.lastindex]
        return target if isinstance(target, Answer) else (target, fit.groups()[parts])

    def redirect(self, path: str, raw_path: bytes, query: bytes, method: str) -> Answer | None:
        """Return the redirect that Go's router answers with when a path is not clean, or lacks its last slash.

        It is made of the path without its escapes, which Go puts back: no byte of a request gets into a header as it
        is.
        """
        if path in self._bare:
            clean = f"{path}/".encode()
        elif ("//" in path or "/." in path) and _UNCLEAN.search(path):
            # A path that begins with two slashes would name another server.
            clean = b"/" + posixpath.normpath(unquote_to_bytes(raw_path)).lstrip(b"/")
            clean += b"/" if path.endswith("/") and clean != b"/" else b""
        else:
            return None
        location = quote(clean, _UNESCAPED) + ("?" + quote(query, _UNESCAPED_QUERY) if query else "")
        return redirect(301, "Moved Permanently", location, method)


def _pattern(route: Route) -> str:
    """Return the expression of a path: a group for the whole, and one for each part."""
    pieces = _PART.split(route.path)
    fixed, names = pieces[::2], pieces[1::2]
    parts = [f"({route.parts.get(name, _SEGMENT)})" for name in names] + [""]
    return "(" + "".join(re.escape(text) + part for text, part in zip(fixed, parts, strict=True)) + ")"
