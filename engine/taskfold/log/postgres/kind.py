"""PostgreSQL as a kind of store: for logs that several processes share. It needs psycopg, imported on demand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from taskfold.log.contract import TakesRecords
from taskfold.log.damage import LogCheck, Scanned, records_of_rows
from taskfold.log.names import shown_name
from taskfold.log.store_kind import StoreKind
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, SourceError
from taskfold.model.record import LogHeader, Record

if TYPE_CHECKING:
    from taskfold.log.postgres.log import PostgresLog
    from taskfold.log.postgres.reader import PostgresReader

__all__ = ["KIND"]


class _Postgres(StoreKind):
    title = "PostgreSQL"
    schemes: ClassVar = ("postgresql://", "postgres://")
    has_index = True

    def is_new(self, name: str) -> bool:
        _check_psycopg(name)
        from taskfold.log.postgres.tables import is_begun

        return not is_begun(name)

    def open(
        self,
        name: str,
        dialect: str | Dialect | None = None,
        region: str = "global",
        *,
        reader: TakesRecords | None = None,
    ) -> PostgresLog:
        _check_psycopg(name)
        from taskfold.log.postgres.log import PostgresLog

        del reader  # opening reads no records
        return PostgresLog(name, dialect, region)

    def open_reader(self, name: str, *, reader: TakesRecords | None = None) -> PostgresReader:
        _check_psycopg(name)
        from taskfold.log.postgres.reader import PostgresReader

        del reader
        return PostgresReader(name)

    def read(self, name: str, label: str = "") -> tuple[LogHeader, Iterator[list[Record]]]:
        del label  # the name shown for a URL has no secrets
        _check_source(name)
        from taskfold.log.postgres.tables import read_postgres

        return read_postgres(name)

    def matching(self, name: str, prefix: str, label: str = "") -> tuple[LogHeader, dict[str, list[Record]]]:
        del label  # the name shown for a URL has no secrets
        _check_source(name)
        from taskfold.log.postgres.tables import read_matching

        return read_matching(name, prefix)

    def newest(self, name: str) -> int | None:
        _check_source(name)
        from taskfold.log.postgres.tables import newest_of

        return newest_of(name)

    @contextmanager
    def snapshot(self, name: str) -> Iterator[tuple[LogHeader, Iterator[list[Record]]]]:
        _check_psycopg(name)
        from taskfold.log.postgres.tables import read_at_once

        with read_at_once(name) as view:
            yield view

    def checkpoint_parts(self, name: str) -> Iterator[bytes]:
        _check_psycopg(name)
        from taskfold.log.postgres.tables import read_checkpoint

        return read_checkpoint(name)

    def scan(
        self, name: str, _: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        _check_source(name)
        from taskfold.log.postgres.tables import scan_postgres

        del is_thorough  # the server checks its own files
        header, rows = scan_postgres(name)
        return LogCheck(name=shown_name(name), header=header), records_of_rows(rows, header)


def _check_psycopg(name: str) -> None:
    """Check that psycopg is installed. Raises LogError with the command that installs it."""
    from importlib.util import find_spec

    if find_spec("psycopg") is None:
        raise LogError(f"{shown_name(name)}: PostgreSQL needs psycopg: pip install 'taskfold[postgres]'")


def _check_source(name: str) -> None:
    """Check that psycopg is installed. Raises SourceError with the command that installs it."""
    try:
        _check_psycopg(name)
    except LogError as error:
        raise SourceError(shown_name(name), str(error).partition(": ")[2]) from None


KIND: Final = _Postgres()
