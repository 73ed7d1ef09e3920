"""The agent that a mirror follows, asked for what the mirror does not know."""

from __future__ import annotations

from typing import Any, Final

import httpx

from taskfold.http.answers import Answer, error
from taskfold.http.request import Request
from taskfold.http.routes import changes_nothing, is_nomads
from taskfold.http.serve.regions import Peers
from taskfold.recording.settings import AgentSettings

__all__ = ["Upstream"]

_UNIX: Final = "unix:"
_BAD_GATEWAY: Final = 502
_AGENT: Final = ""


class Upstream(Peers):
    """The agent of a mirror: what the mirror does not know is asked of it, with the token of the client.

    Only reads are passed on, unless writes are allowed. Where the agent is away, the answer is a 502 with a sentence.
    """

    _error_prefix = ""

    def __init__(self, settings: AgentSettings, *, passes_writes: bool = False) -> None:
        """Pass requests on to the first of these agents. Raises SourceError for certificates that cannot be used."""
        self._settings = settings
        self._extensions = settings.extensions
        url = settings.addresses[0]
        super().__init__({_AGENT: "http://localhost" if url.startswith(_UNIX) else url}, settings=settings)
        self.passes_writes = passes_writes

    def passes(self, request: Request) -> bool:
        """Return whether a request is passed on: a path of Nomad's, and a read, or writes are allowed."""
        return is_nomads(request.path) and (self.passes_writes or changes_nothing(request.method, request.path))

    def _new_client(self, timeout: httpx.Timeout, limits: httpx.Limits) -> httpx.AsyncClient:
        address = self._settings.addresses[0]
        path = address.removeprefix(_UNIX)
        if path != address:
            transport = httpx.AsyncHTTPTransport(uds=path, limits=limits)
            return httpx.AsyncClient(base_url="http://localhost", transport=transport, timeout=timeout)
        verify: Any = False if self._tls_context is None else self._tls_context
        return httpx.AsyncClient(base_url=address, verify=verify, limits=limits, timeout=timeout, trust_env=False)

    def _circle(self) -> Answer:
        return error(_BAD_GATEWAY, "this was passed on before: a mirror does not ask a mirror that asks it")

    def _failure(self, region: str, why: str) -> Answer:
        del region
        return error(_BAD_GATEWAY, f"the agent that is followed, {self._settings.names[0]}, cannot be asked: {why}")
