"""The server of the HTTP API beside another work: that of `taskfold run` and of `taskfold follow`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskfold.http.serve.server import Server
    from taskfold.live.engine import Engine

__all__ = ["server_beside"]


def server_beside(
    engine: Engine,
    bind: str,
    token_file: str | None,
    stack: ExitStack,
    *,
    note: Callable[[str], None],
    is_mirror: bool = False,
) -> Server:
    """Return the server of an engine at an address; the stack closes it. Raises ServeError."""
    from taskfold.http.app import App
    from taskfold.http.serve.descriptors import raise_descriptor_limit
    from taskfold.http.serve.secrets import read_token
    from taskfold.http.serve.server import Server, check_exposure, parse_bind

    host, port = parse_bind(bind)
    token = read_token(None, token_file, on_note=note)
    check_exposure(host, token)
    raise_descriptor_limit()
    server = Server(App(engine, token=token, is_mirror=is_mirror), host=host, port=port)
    stack.callback(server.close)
    note(f"serving at {server.url}")
    return server
