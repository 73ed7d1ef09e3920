"""The HTTP interface: Nomad's allocation endpoints and taskfold's own, as an ASGI application and a server (`[http]`).

Public are `App`, the ASGI application, and `running`, which serves one from a thread of its own. Both are imported when
they are first used, as the application needs no server.

``nomad`` has the handlers of Nomad's endpoints, ``own`` those of taskfold's, ``serve`` the server: connections,
processes, other regions, limits. `routes` is the table of the endpoints, `context` what handlers get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfold.model.lazy import lazy_names

if TYPE_CHECKING:
    from taskfold.http.app import App
    from taskfold.http.serve.server import running

__all__ = ["App", "running"]

__getattr__, __dir__ = lazy_names(__name__, {"App": "app", "running": "serve.server"})
