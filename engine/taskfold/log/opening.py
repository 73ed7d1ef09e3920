"""Which store a log's name means: a database's URL, or a file, by its ending."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from taskfold.log.contract import Reader, SharedLog, StoredLog
from taskfold.log.lines import is_database, readable
from taskfold.log.ndjson import NdjsonLog
from taskfold.log.ndjson_lines import is_new
from taskfold.model.errors import LogError, SourceError
from taskfold.model.record import LogHeader, Record

__all__ = [
    "DATABASES",
    "LINES",
    "is_new_log",
    "is_postgres",
    "newest_on_server",
    "open_log",
    "open_reader",
    "read_server",
    "read_server_at_once",
    "shown_name",
]

LINES: Final = (".jsonl", ".ndjson")
DATABASES: Final = (".db", ".sqlite", ".sqlite3")
_SCHEMES: Final = ("postgresql://", "postgres://")


def open_log(
    name: str | Path, dialect: str | None = None, region: str = "global", *, reader: Reader | None = None
) -> StoredLog:
    """Open the log that a name means, or begin one.

    ``reader`` takes in its records where opening reads them, as that of a file of lines does.
    Raises LogError for a name that means no store, and for whatever the store refuses.
    """
    text = str(name)
    if is_postgres(text):
        _check_psycopg(text)
        from taskfold.log.postgres import PostgresLog

        return PostgresLog(text, dialect, region)
    if text.endswith(LINES):
        return NdjsonLog(name, dialect, region, reader=reader)
    if text.endswith(DATABASES):
        from taskfold.log.sqlite import SqliteLog

        return SqliteLog(name, dialect, region)
    raise LogError(
        f"{text}: a log ends in {', '.join(DATABASES)} (SQLite), or {' or '.join(LINES)} (JSON lines), "
        f"or is the URL of a PostgreSQL database ({_SCHEMES[0]}…)"
    )


def open_reader(name: str | Path, *, reader: Reader | None = None) -> SharedLog:
    """Open the log that a name means, to be read only, while others write it.

    ``reader`` takes in its records where opening reads them. Raises LogError.
    """
    text = str(name)
    if is_new_log(name):
        raise LogError(f"{shown_name(text)}: there is no log")
    if is_postgres(text):
        from taskfold.log.postgres_reading import PostgresReader

        return PostgresReader(text)
    from taskfold.log.reading import NdjsonReader, SqliteReader

    with readable(text):
        is_rows = is_database(text)
    return SqliteReader(name) if is_rows else NdjsonReader(name, reader=reader)


def is_new_log(name: str | Path) -> bool:
    """Tell whether a log would be begun. Raises LogError when a database cannot be asked."""
    text = str(name)
    if not is_postgres(text):
        return is_new(name)
    _check_psycopg(text)
    from taskfold.log.postgres_tables import is_begun

    return not is_begun(text)


def is_postgres(name: str) -> bool:
    """Tell whether a log is named by the URL of a PostgreSQL database."""
    return name.startswith(_SCHEMES)


def shown_name(name: str) -> str:
    """Return a log's name as it may be shown: a URL without its password and options.

    >>> shown_name("postgresql://me:secret@db.example/tasks"), shown_name("tasks.db")
    ('postgresql://me@db.example/tasks', 'tasks.db')
    """
    if not is_postgres(name):
        return name
    from urllib.parse import urlsplit  # much to import for those who never name a database

    parts = urlsplit(name)
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}@{host}" if user else host
    return parts._replace(netloc=shown, query="").geturl()


def read_server(url: str) -> tuple[LogHeader, Iterator[list[Record]]]:
    """Return the header of a log in a PostgreSQL database, and its records in blocks. Raises SourceError."""
    _check_source(url)
    from taskfold.log.postgres_tables import read_postgres

    return read_postgres(url)


def read_server_matching(url: str, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
    """Return the header of a log in a PostgreSQL database, and what it has of an ID. Raises SourceError."""
    _check_source(url)
    from taskfold.log.postgres_tables import read_matching

    return read_matching(url, prefix)


def _check_source(url: str) -> None:
    """Say what must be installed where it is not. Raises SourceError."""
    try:
        _check_psycopg(url)
    except LogError as error:
        raise SourceError(shown_name(url), str(error).partition(": ")[2]) from None


@contextmanager
def read_server_at_once(url: str) -> Iterator[tuple[LogHeader, Iterator[list[Record]]]]:
    """Lend a log in a PostgreSQL database as it is at one moment: its header, and its records. Raises LogError."""
    _check_psycopg(url)
    from taskfold.log.postgres_tables import read_at_once

    with read_at_once(url) as found:
        yield found


def newest_on_server(url: str) -> int:
    """Return the position of the newest record of a log in a PostgreSQL database. Raises SourceError."""
    from taskfold.log.postgres_tables import newest_of

    return newest_of(url)


def _check_psycopg(name: str) -> None:
    """Say what must be installed where it is not. Raises LogError."""
    from importlib.util import find_spec

    if find_spec("psycopg") is None:
        raise LogError(f"{shown_name(name)}: PostgreSQL needs psycopg: pip install 'taskfold[postgres]'")
