"""The status of an allocation: what is terminal."""

from __future__ import annotations

from typing import Any


def is_server_terminal(desired: str) -> bool:
    """Tell."""
    return desired in {"stop", "evict"}


def is_client_terminal(client: str) -> bool:
    """Tell."""
    return client in {"complete", "failed", "lost"}


def with_status(states: Any, value: str, time_ns: int) -> list[Any]:
    """Return."""
    return [*states, {"Field": 0, "Value": value, "Time": time_ns}]
