"""The server of the HTTP API beside another work: that of `taskfold run` and of `taskfold follow`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from taskfold.model.errors import ServeError

if TYPE_CHECKING:
    from taskfold.http.serve.server import Server
    from taskfold.http.serve.tls import TlsFiles
    from taskfold.live.engine import Engine

__all__ = ["TlsOptions", "server_beside", "tls_options"]


class TlsOptions(NamedTuple):
    """The files that the options for https name."""

    cert: str | None
    key: str | None
    client_ca: str | None

    def files(self, *, is_served: bool = True) -> TlsFiles | None:
        """Return the files; None where none are named. Raises ServeError, also where nothing ``is_served``."""
        from taskfold.http.serve.tls import tls_files

        if any(self) and not is_served:
            raise ServeError("--tls-cert is for what is served: name an address with --serve")
        return tls_files(*self)


def tls_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options for https to a command, which gets them as ``tls``."""

    @click.option("--tls-cert", metavar="FILE", help="Speak https, with this certificate (PEM, with its chain).")
    @click.option("--tls-key", metavar="FILE", help="The key of --tls-cert.")
    @click.option("--tls-client-ca", metavar="FILE", help="Clients must have a certificate of this authority.")
    @functools.wraps(command)
    def with_options(
        tls_cert: str | None, tls_key: str | None, tls_client_ca: str | None, *arguments: Any, **more: Any
    ) -> int:
        return command(*arguments, tls=TlsOptions(tls_cert, tls_key, tls_client_ca), **more)

    return with_options


def server_beside(
    engine: Engine,
    bind: str,
    token_file: str | None,
    stack: ExitStack,
    *,
    note: Callable[[str], None],
    is_mirror: bool = False,
    tls: TlsFiles | None = None,
) -> Server:
    """Return the server of an engine at an address; the stack closes it. Raises ServeError."""
    from taskfold.http.app import App
    from taskfold.http.serve.descriptors import raise_descriptor_limit
    from taskfold.http.serve.secrets import read_token
    from taskfold.http.serve.server import Server, check_exposure, parse_bind
    from taskfold.http.serve.tls import hosts_of

    host, port = parse_bind(bind)
    token = read_token(None, token_file, on_note=note)
    check_exposure(host, token, tls)
    raise_descriptor_limit()
    app = App(engine, token=token, is_mirror=is_mirror, hosts=hosts_of(tls))
    server = Server(app, host=host, port=port, tls=tls)
    stack.callback(server.close)
    note(f"serving at {server.url}")
    return server
