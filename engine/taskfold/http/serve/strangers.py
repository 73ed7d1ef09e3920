"""The guard against web pages: none may use a server that trusts its own machine.

A server without a token accepts requests from this machine alone, and a browser on this machine may send them
on behalf of any open page. The browser marks such requests, and no page can change the marks:

* ``Host``. A page whose name was made to point at this machine (DNS rebinding) asks with its own name, and may read the
  answers. So a server without a token answers to names of loopback and to its own address only.
* ``Sec-Fetch-Site``, and ``Origin`` or ``Referer`` of browsers that do not send it. What writes is refused where they
  name another site. No program but a browser sends them.
* ``Content-Type``. A page may send text and forms to anybody, and JSON only to servers that have agreed, which this one
  never does. Our own endpoints want JSON; Nomad's take any type, since its clients name none, or a form's.
* The method. An image of a page is a GET. Where Nomad's agents act on one, so does this server, but for no browser.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from taskfold.http.answers import Answer, Header, Scope, error
from taskfold.http.request import Request
from taskfold.model.go.quoting import go_quoted

__all__ = ["foreign_site", "is_loopback", "is_of_browser", "refused_host", "refused_type", "refused_write"]

_LOOPBACK_NAME: Final = "localhost"
_OWN_SITES: Final = frozenset((b"same-origin", b"none"))
"""Values of Sec-Fetch-Site for a page of this server, and for no page."""

_MARKS: Final = frozenset((b"origin", b"referer", b"accept-language", b"upgrade-insecure-requests"))
"""Headers that browsers send, and programs do not, beside all that begin with ``sec-``."""

_JSON_TYPES: Final = frozenset(
    b"application/" + name for name in (b"json", b"x-ndjson", b"ndjson", b"jsonl", b"json-lines", b"x-jsonlines")
)
_MAX_SHOWN: Final = 100
"""The longest part of a header that an error repeats."""


def is_loopback(host: str) -> bool:
    """Return whether a host, without its port and brackets, can only be this machine.

    >>> is_loopback("127.9.9.9"), is_loopback("LOCALHOST"), is_loopback("localhost.example.org")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == _LOOPBACK_NAME


def refused_host(scope: Scope, names: Collection[str]) -> Answer | None:
    """Return the 403 for a request to a name that is none of this server's; else None.

    ``names`` are allowed beside those of loopback and the address of the connection. A Unix socket has
    no names: the system controls access to it, and no browser has any.
    """
    server = scope.get("server")
    if server is not None and server[1] is None:
        return None
    local = "" if server is None else str(server[0])
    for name, value in scope["headers"]:
        if name == b"host" and not _is_own(value, local) and _host_of(value) not in names:
            problem = f"{_show(value)} is no name of this server: without a token it answers to localhost, to addresses"
            return error(403, f"{problem} of loopback, and to the one that it is bound to")
    return None


@lru_cache(maxsize=256)  # they are the same few
def _is_own(authority: bytes, local: str) -> bool:
    """Return whether a Host names loopback, or the address of the connection."""
    host = _host_of(authority)
    if is_loopback(host):
        return True
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(local)
    except ValueError:
        return False


def _host_of(authority: bytes) -> str:
    """Return the host of a Host header in lower case, without its port and brackets."""
    text = authority.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def refused_write(request: Request, *, is_get: bool, extra: tuple[Header, ...] = ()) -> Answer | None:
    """Return the 403 for a write by another site's page, or, for a GET, by any browser; else None."""
    site = foreign_site(request)
    if site:
        return error(403, f"{site}: a page of another site cannot write here", extra=extra)
    if is_get and is_of_browser(request):
        return error(403, "a GET that acts is not taken from a browser: use PUT", extra=extra)
    return None


def foreign_site(request: Request) -> str:
    """Return the header that shows a request by a page of another site; empty if there is none."""
    if site := request.header(b"sec-fetch-site"):
        return "" if site in _OWN_SITES else f"Sec-Fetch-Site is {_show(site)}"
    own = request.header(b"host").lower()
    for name in ("Origin", "Referer"):
        if page := request.header(name.lower().encode()):
            _, slashes, rest = page.partition(b"//")
            is_own = bool(slashes and own) and rest.partition(b"/")[0].lower() == own
            return "" if is_own else f"{name} is {_show(page)}"
    return ""


def is_of_browser(request: Request) -> bool:
    """Return whether a request has a header that only browsers send."""
    for name, value in request.scope["headers"]:
        if name in _MARKS or name.startswith(b"sec-") or (name == b"user-agent" and value.startswith(b"Mozilla/")):
            return True
    return False


def refused_type(request: Request) -> Answer | None:
    """Return the 415 for a body of another type than JSON; programs may omit the type."""
    value = request.header(b"content-type")
    kind = value.partition(b";")[0].strip().lower()
    if kind in _JSON_TYPES or kind.endswith(b"+json") or not (kind or is_of_browser(request)):
        return None
    reason = f"not {_show(value)}" if value else "and from a browser it must be named"
    return error(415, f"expected Content-Type application/json or application/x-ndjson, {reason}")


def _show(value: bytes) -> str:
    return go_quoted(value[:_MAX_SHOWN].decode(errors="replace"))
