"""The page: one HTML file with its style, its script and its data, which loads nothing and lets nothing be loaded."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, Final

import msgspec

__all__ = ["json_in_html", "page_of", "policy_of"]

_ASSETS: Final = Path(__file__).parent / "assets"
_ESCAPES: Final = {
    ord("<"): "\\u003c",
    ord(">"): "\\u003e",
    ord("&"): "\\u0026",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def json_in_html(value: Any) -> str:
    r"""Return a value as JSON that may stand in a script element: no text of it can end the element.

    >>> json_in_html({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    return msgspec.json.encode(value).decode().translate(_ESCAPES)


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return the source expression of a policy that allows exactly this text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def policy_of(script: str, style: str) -> str:
    """Return the Content-Security-Policy under which this script and this style run, and nothing else does."""
    return (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def page_of(data: dict[str, Any]) -> str:
    """Return the page of a timeline's data. O(data)."""
    script, style = _asset("timeline.js"), _asset("timeline.css")
    parts = {
        "policy": escape(policy_of(script, style), quote=True),
        "title": escape(str(data["title"]) or "tasks"),
        "style": style,
        "script": script,
        "data": json_in_html(data),
    }
    pieces = _asset("timeline.html").split("@@")
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))
