"""The contract of a whole store: how its logs are recognised, begun, opened, read, checked and copied by their names.

A kind of store is one object; it holds no log open. What most stores do alike is written here once, on top of
`StoreKind.open_reader`: a store of one's own needs `open` and `open_reader`, and replaces what it can do better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, Protocol

from taskfold.log.contract import EventLog, Reader, StoredLog
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

    Names are paths or URLs. What opens a log raises LogError, what reads one as a source raises SourceError.
    """

    title: ClassVar[str]
    """What people call it."""
    noun: ClassVar[str] = "a log of another store"
    """What a file of it is, in a sentence."""
    endings: ClassVar[tuple[str, ...]] = ()
    """How the names of its files end."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """How its URLs begin, for a store that is no file."""
    magic: ClassVar[bytes] = b""
    """How its files begin."""
    has_index: ClassVar[bool] = False
    """The records of one allocation are found without reading those of others."""
    is_text: ClassVar[bool] = False
    """Its logs are lines, which can be read from a stream, too: packed, or from a pipe."""
    neighbours: ClassVar[tuple[str, ...]] = ()
    """The endings of the files that it keeps beside a log."""

    # --- recognising ---

    def has_name(self, name: str) -> bool:
        """Tell whether a name is that of a log of this kind."""
        return name.startswith(self.schemes) if self.schemes else name.endswith(self.endings)

    def recognises(self, path: Path) -> bool:
        """Tell whether a file is a log of this kind by its content. Raises OSError."""
        if not self.magic:
            return False
        with path.open("rb") as file:
            return file.read(len(self.magic)) == self.magic

    def is_new(self, name: str) -> bool:
        """Tell whether a log would be begun there. Raises LogError when a database cannot be reached."""
        return is_new(name)

    # --- opening ---

    @abstractmethod
    def open(
        self, name: str, dialect: str | Dialect | None = None, region: str = "global", *, reader: Reader | None = None
    ) -> StoredLog:
        """Open a log to write it, or begin one, for which the dialect must be named.

        ``reader`` takes in its records where opening reads them. Raises LogError and DialectError.
        """

    @abstractmethod
    def open_reader(self, name: str, *, reader: Reader | None = None) -> EventLog:
        """Open a log to read it, while others write it: nothing is locked, made or changed. Raises LogError.

        A log that is a `SharedLog` is followed.
        """

    # --- reading ---

    def read(self, name: str, label: str = "") -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of a log, and its records in blocks. O(records). Raises SourceError, of the name shown."""
        log = self._reader(name, label)
        header, blocks = OpenLog(log, label or shown_name(name)).read()

        def closed_at_end() -> Iterator[list[Record]]:
            with closing(log):
                yield from blocks

        return header, closed_at_end()

    def matching(self, name: str, prefix: str, label: str = "") -> tuple[LogHeader, dict[str, list[Record]]]:
        """Return the header of a log, and the records of the allocations whose ID begins with a prefix, by ID.

        A store with an index returns those of the one allocation, and of several, none of which is the prefix itself,
        the IDs alone: O(log n) for each. Raises SourceError.
        """
        with closing(self._reader(name, label)) as log:
            return OpenLog(log, label or shown_name(name)).matching(prefix)

    def newest(self, name: str) -> int | None:
        """Return the position of the newest record; None where the store cannot tell. Raises SourceError."""
        with closing(self._reader(name)) as log:
            return log.seq

    @contextmanager
    def snapshot(self, name: str) -> Iterator[tuple[LogHeader, Iterator[list[Record]]]]:
        """Lend a log as it is at one moment, whoever writes it: its header, and its records in blocks."""
        yield self.read(name)

    def checkpoint_parts(self, name: str) -> Iterator[bytes]:
        """Yield the parts of the checkpoint of a log; nothing without one. Raises LogError for a damaged part."""
        with closing(self._reader(name)) as log:
            yield from OpenLog(log, shown_name(name)).checkpoint_parts()

    def size(self, name: str) -> int | None:
        """Return the bytes of a log's file; None where it is no file."""
        return None if self.schemes else Path(name).stat().st_size

    # --- looking after ---

    def scan(
        self, name: str, dialect: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        """Return what is to be said of a log, and all that it has: its records, and what is damaged.

        ``dialect`` stands for that of a header that cannot be read. Raises SourceError.
        """
        log = self._reader(name)
        check, scanned = OpenLog(log, shown_name(name)).scan(dialect, is_thorough=is_thorough)

        def closed_at_end() -> Iterator[Scanned]:
            with closing(log):
                yield from scanned

        return check, closed_at_end()

    def copy(self, name: str, draft: Path) -> bool:  # noqa: ARG002 - a store that can has use for them
        """Copy a log's file as it is at one moment; tell whether that was done, or its records are to be copied."""
        return False

    def _reader(self, name: str, label: str = "") -> EventLog:
        """Open a log to be read as a source. Raises SourceError."""
        try:
            return self.open_reader(name)
        except LogError as error:
            raise SourceError(label or shown_name(name), _without_name(error, name)) from None


class LogSource(Protocol):
    """A log as a source that is read: named, or open already."""

    name: str
    """How it is shown."""

    def read(self) -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of the log, and its records in blocks. Raises SourceError."""
        ...

    def matching(self, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
        """Return the header, and the records by ID of the allocations whose ID begins with a prefix."""
        ...

    def newest(self) -> int | None:
        """Return the position of the newest record; None where nobody can tell before the end."""
        ...

    def scan(
        self, dialect: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        """Return what is to be said of the log, and all that it has. Raises SourceError."""
        ...

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; nothing without one. Raises LogError for a damaged part."""
        ...


class NamedLog:
    """A log that a name stands for."""

    def __init__(self, kind: StoreKind, name: str, label: str = "") -> None:
        """Name it by its path or URL; what is wrong is reported of the name that is shown."""
        self.kind = kind
        self.name = label or shown_name(name)
        self._location = name

    def read(self) -> tuple[LogHeader, Iterator[list[Record]]]:
        """Return the header of the log, and its records in blocks. Raises SourceError."""
        return self.kind.read(self._location, self.name)

    def matching(self, prefix: str) -> tuple[LogHeader, dict[str, list[Record]]]:
        """Return the header, and the records by ID of the allocations whose ID begins with a prefix."""
        return self.kind.matching(self._location, prefix, self.name)

    def newest(self) -> int | None:
        """Return the position of the newest record; None where nobody can tell before the end."""
        return self.kind.newest(self._location)

    def scan(
        self, dialect: str | Dialect | None = None, *, is_thorough: bool = False
    ) -> tuple[LogCheck, Iterator[Scanned]]:
        """Return what is to be said of the log, and all that it has. Raises SourceError."""
        return self.kind.scan(self._location, dialect, is_thorough=is_thorough)

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Yield the parts of the checkpoint; nothing without one. Raises LogError for a damaged part."""
        return self.kind.checkpoint_parts(self._location)


def _without_name(error: LogError, name: str) -> str:
    """Return what an error says without the name of the log."""
    text = str(error)
    for prefix in (str(Path(name).absolute()), name, shown_name(name)):
        text = text.removeprefix(prefix)
    return text.lstrip(":, ")
