"""SQLite as a kind of store: the default for a scheduler's state."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from taskfold.log.contract import TakesRecords
from taskfold.log.damage import LogCheck, Scanned
from taskfold.log.files import new_file
from taskfold.log.lines import SQLITE_MAGIC, is_database
from taskfold.log.store_kind import StoreKind
from taskfold.model.dialect import Dialect
from taskfold.model.record import LogHeader, Record

if TYPE_CHECKING:
    from taskfold.log.sqlite.log import SqliteLog
    from taskfold.log.sqlite.reader import SqliteReader

__all__ = ["KIND"]


class _Sqlite(StoreKind):
    title = "SQLite"
    noun = "an SQLite database"
    endings: ClassVar = (".db", ".sqlite", ".sqlite3")
    magic: ClassVar = SQLITE_MAGIC
    has_index = True
    sidecars: ClassVar = ("-wal", "-shm", "-journal")

    def recognises(self, path: Path) -> bool:
        return is_database(path)

    def open(
        self,
        name: str,
        dialect: str | Dialect | None = None,
        region: str = "global",
        *,
        reader: TakesRecords | None = None,
    ) -> SqliteLog:
        from taskfold.log.sqlite.log import SqliteLog

        del reader  # opening reads no records
        return SqliteLog(name, dialect, region)

    def open_reader(self, name: str, *, reader: TakesRecords | None = None) -> SqliteReader:
        from taskfold.log.sqlite.reader import SqliteReader

        del reader
        return SqliteReader(name)

    def read(self, name: str, label: str = "") -> tuple[LogHeader, Iterator[list[Record]]]:
        from taskfold.log.sqlite.tables import read_database

        return read_database(label or name, name)

    def matching(self, name: str, prefix: str, label: str = "") -> tuple[LogHeader, dict[str, list[Record]]]:
        from taskfold.log.sqlite.tables import read_matching

        return read_matching(label or name, name, prefix)

    def newest(self, name: str) -> int | None:
        from taskfold.log.sqlite.tables import newest_in

        return newest_in(name)

    @contextmanager
    def snapshot(self, name: str) -> Iterator[tuple[LogHeader, Iterator[list[Record]]]]:
        """Yield the contents of a copy: a long read of the database would keep its write-ahead log growing."""
        from taskfold.log.sqlite.tables import read_database

        path = Path(name).absolute()
        with tempfile.TemporaryDirectory() as folder:
            self.copy(name, draft := Path(folder) / path.name)
            yield read_database(name, draft)

    def checkpoint_parts(self, name: str) -> Iterator[bytes]:
        from taskfold.log.sqlite.tables import read_checkpoint_of

        return read_checkpoint_of(Path(name))

    def scan(
        self, name: str, dialect: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        from taskfold.log.sqlite.scan import scan

        return scan(name, dialect, is_thorough=is_thorough)

    def copy(self, name: str, draft: Path) -> bool:
        """Copy a database as of now, page by page in one step: one transaction, which blocks no writer."""
        import sqlite3

        from taskfold.log.sqlite.tables import check_snapshot, snapshot

        path = Path(name).absolute()
        with snapshot(path) as view:
            check_snapshot(path, view)
            new_file(draft).close()  # private from the start
            with closing(sqlite3.connect(draft)) as target:
                view.database.backup(target)
        return True


KIND: Final = _Sqlite()
