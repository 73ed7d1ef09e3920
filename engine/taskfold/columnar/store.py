"""Exported records as a store: a Parquet file of records is read by every command that reads a log.

It is registered by an entry point, as stores from outside are; pyarrow is imported when such a file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from taskfold.log.contract import EventLog, StoredLog, TakesRecords
from taskfold.log.damage import Damage, LogCheck, Scanned
from taskfold.log.names import shown_name
from taskfold.log.store_kind import StoreKind
from taskfold.model.dialect import Dialect
from taskfold.model.errors import DecodeError, LogError, SourceError
from taskfold.model.record import LogHeader, Record

__all__ = ["KIND", "ParquetKind"]


class ParquetKind(StoreKind):
    """Parquet files of records, as an export writes them: read, and never written."""

    title = "Parquet"
    noun = "a Parquet file"
    magic = b"PAR1"

    def has_name(self, name: str) -> bool:  # noqa: ARG002 - no name makes a log of this kind
        """Tell that no name creates a log of this kind."""
        return False

    def open(
        self,
        name: str,
        dialect: str | Dialect | None = None,  # noqa: ARG002 - the signature of every store
        region: str = "global",  # noqa: ARG002 - the same
        *,
        reader: TakesRecords | None = None,  # noqa: ARG002 - the same
    ) -> StoredLog:
        """Refuse to write. Raises LogError."""
        _refuse(name)

    def open_reader(self, name: str, *, reader: TakesRecords | None = None) -> EventLog:  # noqa: ARG002 - the same
        """Refuse to follow. Raises LogError."""
        _refuse(name)

    def read(self, name: str, label: str = "") -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of the records, and the records in blocks. O(records). Raises SourceError."""
        label = label or shown_name(name)
        try:
            from taskfold.columnar.reading import header_of_file, read
        except ImportError:
            raise SourceError(label, "is a Parquet file: pip install 'taskfold[columnar]' to read it") from None
        return header_of_file(Path(name), label), _blocks(read(name), label)

    def matching(self, name: str, prefix: str, label: str = "") -> tuple[LogHeader, dict[str, list[Record]]]:
        """Return the header, and by ID the records of the allocations whose ID starts with a prefix. O(records)."""
        header, blocks = self.read(name, label)
        matches: dict[str, list[Record]] = {}
        for block in blocks:
            for record in block:
                if record.alloc.startswith(prefix):
                    matches.setdefault(record.alloc, []).append(record)
        return header, matches

    def newest(self, name: str) -> int | None:  # noqa: ARG002 - the signature of every store
        """Tell that the newest position is not known before the end."""
        return None

    def checkpoint_parts(self, name: str) -> Iterator[bytes]:  # noqa: ARG002 - the signature of every store
        """Return no part: there is no checkpoint."""
        return iter(())

    def scan(
        self,
        name: str,
        dialect: str | Dialect | None = None,  # noqa: ARG002 - the header has it
        *,
        is_thorough: bool = False,  # noqa: ARG002 - Parquet checks its pages itself
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        """Return a check to be filled, and the records up to the first damage. Raises SourceError."""
        header, blocks = self.read(name)
        return LogCheck(name=shown_name(name), header=header), _scanned(blocks)


def _blocks(batches: Iterator[object], label: str) -> Iterator[list[Record]]:
    from taskfold.columnar.conversion import records_of

    try:
        for batch in batches:
            yield list(records_of(batch))
    except DecodeError as error:
        raise SourceError(label, str(error)) from None


def _scanned(blocks: Iterator[list[Record]]) -> Iterator[Scanned]:
    try:
        for block in blocks:
            yield from block
    except SourceError as error:
        yield Damage(message=f"{error}; nothing after it was read", is_unreadable=True)


def _refuse(name: str) -> NoReturn:
    raise LogError(f"{shown_name(name)}: is a Parquet file, and no log: import it into one (x.db, x.jsonl)")


KIND = ParquetKind()
"""The kind of the registry."""
