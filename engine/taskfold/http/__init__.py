"""The HTTP face: Nomad's allocation endpoints, and some of our own, as an ASGI application and a server (`[http]`).

Public are `App`, the ASGI application, and `running`, which serves one from a thread of its own. Both are imported when
they are first used: the application needs none of what the server does.

``nomad`` has the handlers of Nomad's endpoints, ``own`` those of taskfold's, ``serve`` what carries them: connections,
processes, other regions, limits. `routes` is the table of the endpoints, `context` what handlers get.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from taskfold.http.app import App
    from taskfold.http.serve.server import running

__all__ = ["App", "running"]

_HOMES: Final = {"App": "taskfold.http.app", "running": "taskfold.http.serve.server"}


def __getattr__(name: str) -> Any:
    """Return a public name, imported when it is first used. Raises AttributeError."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
