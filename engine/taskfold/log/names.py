"""The names of logs: paths and URLs, and how they may be shown."""

from __future__ import annotations

__all__ = ["shown_name"]


def shown_name(name: str) -> str:
    """Return a log's name as it may be shown: a URL without its password and options.

    >>> shown_name("postgresql://me:secret@db.example/tasks"), shown_name("tasks.db")
    ('postgresql://me@db.example/tasks', 'tasks.db')
    """
    if "://" not in name:
        return name
    from urllib.parse import urlsplit  # much to import for those who never name a database

    parts = urlsplit(name)
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}@{host}" if user else host
    return parts._replace(netloc=netloc, query="").geturl()
