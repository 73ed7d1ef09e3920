"""A log in a PostgreSQL database that is only read, and followed as others write it."""

from __future__ import annotations

from taskfold.log.postgres.log import PostgresLog
from taskfold.log.read_only import ReadOnlyLog

__all__ = ["PostgresReader"]


class PostgresReader(ReadOnlyLog, PostgresLog):
    """A log in a PostgreSQL database that is only read: who may read its tables may open it."""

    def __init__(self, url: str) -> None:
        """Open a log. Raises LogError."""
        super().__init__(url)
        with self._translate_errors("read"):
            self._connection.execute("SET default_transaction_read_only = on")

    def _convert(self) -> None:
        """Do nothing: records of an older format are read as they are."""

    def close(self) -> None:
        """Let go of the database."""
        if not self._is_closed:
            self._close()
