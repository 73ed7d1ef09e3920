"""The page for a browser that opens the address of a server: what this is, and where to read on.

It is one text without a script, a picture or a request of its own; its policy forbids a browser to load anything.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from taskfold.http.answers import HTML_TYPE, VARY, Answer
from taskfold.http.context import Context
from taskfold.http.request import Request

__all__ = ["home"]

_STYLE: Final = "body{font:1rem/1.5 sans-serif;margin:2rem auto;max-width:40rem;padding:0 1rem}"
PAGE: Final = f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>taskfold</title>
<style>{_STYLE}</style>
<h1>taskfold</h1>
<p>This server answers what agents of Nomad answer about allocations: which there are, what became of their tasks,
and every change as it comes. It answers from a log of task events.</p>
<ul>
<li><a href="/v1/agent/health">Health</a>: whether it does its work</li>
<li><a href="/v1/agent/self?pretty">Agent</a>: its region, and the Nomad whose dialect it speaks</li>
<li><a href="/v1/jobs?pretty&amp;namespace=*">Jobs</a> and
<a href="/v1/allocations?pretty&amp;namespace=*">allocations</a>, as Nomad lists them</li>
<li><a href="/v1/metrics?format=prometheus">Metrics</a>, as Prometheus reads them</li>
<li><a href="/v1/openapi.json">The interface</a>, as an OpenAPI document</li>
</ul>
<p>The page on serving in taskfold's documents (docs/serving.md) says what each endpoint takes and answers. Clients of
Nomad work with this server: <code>NOMAD_ADDR</code> is the address of this page.</p>
</html>
""".encode()

_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest())
_POLICY: Final = (
    b"default-src 'none'; style-src 'sha256-%b'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" % _HASH
)
_ANSWER: Final = Answer(
    200,
    (
        (b"Content-Security-Policy", _POLICY),
        HTML_TYPE,
        (b"Referrer-Policy", b"no-referrer"),
        VARY,
        (b"X-Content-Type-Options", b"nosniff"),
    ),
    PAGE,
)


async def home(_: Context, __: Request) -> Answer:
    """Answer ``GET /``."""
    return _ANSWER
