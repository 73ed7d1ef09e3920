"""A read-only log in a PostgreSQL database, followed while others write it."""

from __future__ import annotations

from taskfold.log.postgres.log import PostgresLog
from taskfold.log.read_only import ReadOnlyLog

__all__ = ["PostgresReader"]


class PostgresReader(ReadOnlyLog, PostgresLog):
    """A read-only log in a PostgreSQL database, for any user who may read its tables."""

    def __init__(self, url: str) -> None:
        """Open a log. Raises LogError."""
        super().__init__(url)
        with self._translate_errors("read"):
            self._connection.execute("SET default_transaction_read_only = on")

    def _convert(self) -> None:
        """Do nothing: records of an older format are converted as they are read."""

    def close(self) -> None:
        """Release the database."""
        if not self._is_closed:
            self._close()
