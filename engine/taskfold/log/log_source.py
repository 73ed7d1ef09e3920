"""An open log as a source: read, searched and checked through the log contract alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from taskfold.log.checkpoint import CheckpointLog
from taskfold.log.contract import EventLog, kept_records
from taskfold.log.damage import Damage, LogCheck, Scanned
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, SourceError
from taskfold.model.record import LogHeader, Record

__all__ = ["OpenLog"]

_RECORDS_PER_BLOCK: Final = 1_000


class OpenLog:
    """An open `EventLog` as a source. It stays open.

    >>> from taskfold.log.memory import MemoryLog
    >>> source = OpenLog(MemoryLog("1.1.2"))
    >>> source.name, source.newest()
    ('the log in memory', 0)
    """

    def __init__(self, log: EventLog, name: str = "") -> None:
        """Wrap a log; ``name`` is the name that errors show."""
        self.log = log
        self.name = name or getattr(log, "name", "") or "the log in memory"

    def read(self) -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of the log, and its records in blocks. O(records). Raises SourceError."""
        return self.log.header, self._blocks()

    def _blocks(self) -> Iterator[list[Record]]:
        records = kept_records(self.log)
        try:
            while block := list(islice(records, _RECORDS_PER_BLOCK)):
                yield block
        except LogError as error:
            raise SourceError(self.name, self._without_name(error)) from None

    def matching(self, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
        """Return the header, and the records by ID of the allocations whose ID starts with a prefix. O(records)."""
        matches: dict[str, list[Record]] = {}
        header, blocks = self.read()
        for block in blocks:
            for record in block:
                if record.alloc.startswith(prefix):
                    matches.setdefault(record.alloc, []).append(record)
        return header, matches

    def newest(self) -> int | None:
        """Return the position of the newest record."""
        return self.log.seq

    def scan(self, _: str | Dialect | None = None, *, is_thorough: bool = False) -> tuple[LogCheck, Iterator[Scanned]]:
        """Return a check to be filled, and the log's records up to the first that cannot be read. O(records)."""
        del is_thorough  # an open log can only be read
        return LogCheck(name=self.name, header=self.log.header), self._scanned()

    def _scanned(self) -> Iterator[Scanned]:
        try:
            yield from kept_records(self.log)
        except LogError as error:
            yield Damage(message=f"{self._without_name(error)}; nothing after it was read", is_unreadable=True)

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; none if there is none. Raises LogError for a damaged part."""
        return self.log.checkpoint_parts() if isinstance(self.log, CheckpointLog) else iter(())

    def _without_name(self, error: LogError) -> str:
        return str(error).removeprefix(self.name).lstrip(":, ")
