"""The names of logs, paths and URLs, and the form of them that messages show."""

from __future__ import annotations

__all__ = ["shown_name"]


def shown_name(name: str) -> str:
    """Return a log's name for messages: a URL loses its password and options.

    >>> shown_name("postgresql://me:secret@db.example/tasks"), shown_name("tasks.db")
    ('postgresql://me@db.example/tasks', 'tasks.db')
    """
    if "://" not in name:
        return name
    from urllib.parse import urlsplit  # slow to import, and needed for URLs alone

    parts = urlsplit(name)
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}@{host}" if user else host
    return parts._replace(netloc=netloc, query="").geturl()
