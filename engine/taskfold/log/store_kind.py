"""The contract of a store: how its logs are recognised, created, opened, read, checked and copied by name.

A kind of store is one object without state: it holds no log open. The defaults here build on `StoreKind.open_reader`:
another store needs `open` and `open_reader`, and overrides what it can do better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, Protocol

from taskfold.log.contract import EventLog, StoredLog, TakesRecords
from taskfold.log.damage import LogCheck, Scanned
from taskfold.log.files import is_new
from taskfold.log.log_source import OpenLog
from taskfold.log.names import shown_name
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, SourceError
from taskfold.model.record import LogHeader, Record

__all__ = ["LogSource", "NamedLog", "StoreKind"]


class StoreKind(ABC):
    """A kind of store, such as SQLite.

    Names are paths or URLs. Methods that open a log raise LogError; methods that read one as a source raise
    SourceError.
    """

    title: ClassVar[str]
    """Its name for people."""
    noun: ClassVar[str] = "a log of another store"
    """A noun phrase for its files, for sentences."""
    endings: ClassVar[tuple[str, ...]] = ()
    """The endings of its files' names."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """The beginnings of its URLs, for a store that is no file."""
    magic: ClassVar[bytes] = b""
    """The first bytes of its files."""
    has_index: ClassVar[bool] = False
    """It finds the records of one allocation without reading others."""
    is_text: ClassVar[bool] = False
    """Its logs are lines of text, and can be read from a pipe or a gzip file, too."""
    sidecars: ClassVar[tuple[str, ...]] = ()
    """The endings of the sidecar files that it keeps beside a log, such as ``-wal``."""

    # --- recognising ---

    def has_name(self, name: str) -> bool:
        """Tell whether a name is that of a log of this kind."""
        return name.startswith(self.schemes) if self.schemes else name.endswith(self.endings)

    def recognises(self, path: Path) -> bool:
        """Tell whether a file's content is a log of this kind. Raises OSError."""
        if not self.magic:
            return False
        with path.open("rb") as file:
            return file.read(len(self.magic)) == self.magic

    def is_new(self, name: str) -> bool:
        """Tell whether opening this name creates a log. Raises LogError when a database cannot be reached."""
        return is_new(name)

    # --- opening ---

    @abstractmethod
    def open(
        self,
        name: str,
        dialect: str | Dialect | None = None,
        region: str = "global",
        *,
        reader: TakesRecords | None = None,
    ) -> StoredLog:
        """Open a log for writing, or create it, for which the dialect must be given.

        If opening reads the whole log, its records are passed to ``reader``. Raises LogError and DialectError.
        """

    @abstractmethod
    def open_reader(self, name: str, *, reader: TakesRecords | None = None) -> EventLog:
        """Open a log read-only, while others write it; nothing is locked, created or changed. Raises LogError.

        A log that is a `SharedLog` can be followed.
        """

    # --- reading ---

    def read(self, name: str, label: str = "") -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of a log, and its records in blocks. O(records). Raises SourceError with the label."""
        log = self._reader(name, label)
        header, blocks = OpenLog(log, label or shown_name(name)).read()

        def closed_at_end() -> Iterator[list[Record]]:
            with closing(log):
                yield from blocks

        return header, closed_at_end()

    def matching(self, name: str, prefix: str, label: str = "") -> tuple[LogHeader, dict[str, list[Record]]]:
        """Return the header of a log, and by ID the records of the allocations whose ID starts with a prefix.

        A store with an index returns the records of a single match; of several matches, unless one is the prefix
        itself, only the IDs: O(log n) for each. Raises SourceError.
        """
        with closing(self._reader(name, label)) as log:
            return OpenLog(log, label or shown_name(name)).matching(prefix)

    def newest(self, name: str) -> int | None:
        """Return the position of the newest record; None if the store cannot tell. Raises SourceError."""
        with closing(self._reader(name)) as log:
            return log.seq

    @contextmanager
    def snapshot(self, name: str) -> Iterator[tuple[LogHeader, Iterator[list[Record]]]]:
        """Yield a log's header, and its records in blocks, as of one moment, while others write."""
        yield self.read(name)

    def checkpoint_parts(self, name: str) -> Iterator[bytes]:
        """Yield the parts of the checkpoint of a log; none if there is none. Raises LogError for a damaged part."""
        with closing(self._reader(name)) as log:
            yield from OpenLog(log, shown_name(name)).checkpoint_parts()

    def size(self, name: str) -> int | None:
        """Return the size of a log's file in bytes; None if it is no file."""
        return None if self.schemes else Path(name).stat().st_size

    # --- looking after ---

    def scan(
        self, name: str, dialect: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        """Return a check to be filled, and everything in a log: records and damage.

        ``dialect`` replaces that of a header that cannot be read. Raises SourceError.
        """
        log = self._reader(name)
        check, scanned = OpenLog(log, shown_name(name)).scan(dialect, is_thorough=is_thorough)

        def closed_at_end() -> Iterator[Scanned]:
            with closing(log):
                yield from scanned

        return check, closed_at_end()

    def copy(self, name: str, draft: Path) -> bool:  # noqa: ARG002 - for overriding stores
        """Copy a log's file as of one moment, if the store can; tell whether it did. Else the records are copied."""
        return False

    def _reader(self, name: str, label: str = "") -> EventLog:
        """Open a log to be read as a source. Raises SourceError."""
        try:
            return self.open_reader(name)
        except LogError as error:
            raise SourceError(label or shown_name(name), _without_name(error, name)) from None


class LogSource(Protocol):
    """A log as a source for reading: named, or open."""

    name: str
    """The name that messages show."""

    def read(self) -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of the log, and its records in blocks. Raises SourceError."""
        ...

    def matching(self, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
        """Return the header, and the records by ID of the allocations whose ID starts with a prefix."""
        ...

    def newest(self) -> int | None:
        """Return the position of the newest record; None if it is unknown before the end."""
        ...

    def scan(
        self, dialect: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        """Return a check to be filled, and everything in the log: records and damage. Raises SourceError."""
        ...

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; none if there is none. Raises LogError for a damaged part."""
        ...


class NamedLog:
    """A log with a name."""

    def __init__(self, kind: StoreKind, name: str, label: str = "") -> None:
        """Take a kind, a path or URL, and the name that messages show, if it is another."""
        self.kind = kind
        self.name = label or shown_name(name)
        self._location = name

    def read(self) -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of the log, and its records in blocks. Raises SourceError."""
        return self.kind.read(self._location, self.name)

    def matching(self, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
        """Return the header, and the records by ID of the allocations whose ID starts with a prefix."""
        return self.kind.matching(self._location, prefix, self.name)

    def newest(self) -> int | None:
        """Return the position of the newest record; None if it is unknown before the end."""
        return self.kind.newest(self._location)

    def scan(
        self, dialect: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        """Return a check to be filled, and everything in the log: records and damage. Raises SourceError."""
        return self.kind.scan(self._location, dialect, is_thorough=is_thorough)

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; none if there is none. Raises LogError for a damaged part."""
        return self.kind.checkpoint_parts(self._location)


def _without_name(error: LogError, name: str) -> str:
    """Return an error's text without the name of the log."""
    text = str(error)
    for prefix in (str(Path(name).absolute()), name, shown_name(name)):
        text = text.removeprefix(prefix)
    return text.lstrip(":, ")
