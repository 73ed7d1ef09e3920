"""File descriptors: connections must leave some for the readers of the log.

A process without free descriptors cannot read its log, so that clients with idle connections alone would block
the server for others. So a server raises its descriptor limit as far as the system permits, and accepts only as many
connections as leave enough descriptors.
"""

from __future__ import annotations

import contextlib
from typing import Final

__all__ = ["backlog_for", "descriptor_limit", "raise_descriptor_limit", "room_for_connections"]

_RESERVE: Final = 192
"""Descriptors for the log's files and readers, the event loop, and the libraries that are loaded meanwhile."""

_BACKLOG: Final = 2_048
_LEAST: Final = 8
_ENDLESS: Final = 1 << 20
"""The limit used for infinity; some systems refuse a greater one."""


def descriptor_limit() -> int:
    """Return the number of files that this process may open."""
    try:
        import resource
    except ImportError:  # on Windows
        return _ENDLESS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENDLESS if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may let itself.

    Processes that it begins may open as many, which those that use select() do not survive: a supervisor does not.
    """
    try:
        import resource
    except ImportError:  # on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = _ENDLESS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < goal:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))


def backlog_for(limit: int) -> int:
    """Return the backlog of a listener: all of it may be accepted before any connection is counted.

    >>> backlog_for(1_048_576), backlog_for(1_024)
    (2048, 128)
    """
    return min(_BACKLOG, max(limit // 8, _LEAST))


def room_for_connections(limit: int, *, has_peers: bool) -> int:
    """Return the number of connections that leaves enough descriptors. A forwarded one takes two.

    >>> room_for_connections(1_048_576, has_peers=False), room_for_connections(1_024, has_peers=False)
    (1046336, 704)
    >>> room_for_connections(1_024, has_peers=True), room_for_connections(64, has_peers=False)
    (352, 8)
    """
    room = limit - backlog_for(limit) - _RESERVE
    return max(room // 2 if has_peers else room, _LEAST)
