"""What the logs that are stored do alike: one call after the other, whole or taken back, whatever interrupts it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, ParamSpec, Self, TypeVar

from taskfold.log.contract import Append, Ledger, Removal, removal
from taskfold.log.files import is_new
from taskfold.log.ownership import Owned
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError, TaskfoldError
from taskfold.model.record import LogHeader, Record

__all__ = ["BaseLog", "begins"]

P = ParamSpec("P")
T = TypeVar("T")


def begins(path: Path, dialect: str | Dialect | None) -> bool:
    """Tell whether a log is to be begun at a path. Raises LogError where its dialect is not named."""
    if not is_new(path):
        return False
    if dialect is None:
        raise LogError(f"{path}: there is no log, and a new one needs a dialect")
    return True


class BaseLog(Owned):
    """A stored log: what was appended is acknowledged at once, or by the next `sync`, and taken back until then.

    A store says how it appends, acknowledges, removes and lets go, and how it recovers from an interruption.
    """

    name: str
    """Its name, as it may be shown."""
    header: LogHeader
    _ledger: Ledger
    _is_new: bool
    """It was begun here."""
    _is_closed = False
    _is_lost = False
    """What was appended and not acknowledged is not there any more."""
    _is_interrupted = False
    """A call ended before its end: what is known of the store may not fit it."""
    _SETTLED: ClassVar[tuple[type[Exception], ...]] = (TaskfoldError,)
    """What a call raises that leaves no doubt of what became of its write."""

    @property
    def seq(self) -> int:
        """The position of the newest record."""
        return self._ledger.seq

    # --- writing ---

    def append(
        self, alloc: str, expected_version: int, records: Sequence[Record], *, sync: bool = True
    ) -> list[Record]:
        """Append records to an allocation that is at this version; return those that were new.

        Raises VersionConflict, and LogError when the store refuses the write: then nothing was appended.
        """
        return self.append_all([Append(alloc, expected_version, records)], sync=sync)

    def append_all(self, appends: Sequence[Append], *, sync: bool = True) -> list[Record]:
        """Append records to several allocations, all or nothing; return those that were new.

        With ``sync=False`` they are acknowledged by the next `sync`, and until then nobody else sees them.
        Raises VersionConflict, and LogError when the store refuses the write: then nothing was appended.
        """
        # As `_guarded` does, without its calls: of an append that waits for no disk they would be a twentieth.
        if self._is_interrupted:
            self.recover()
        try:
            return self._append_all(appends, sync=sync)
        except self._SETTLED:
            raise
        except BaseException:
            self._note_interruption()
            raise

    def sync(self) -> None:
        """Acknowledge what was appended: have it on disk. Raises LogError when that cannot be."""
        self._guarded(self._sync)

    def compact(self, before_ns: int | None = None) -> int:
        """Remove the records of allocations that were collected (before a time), all but the last of each. O(n).

        Return how many records that were. Raises LogError: then nothing was removed, or, where a disk or a connection
        fails at the last moment, all of it.
        """
        self.sync()
        removable = removal(self.read_kept, before_ns, self.header)
        if removable is None:
            return 0
        self._remove(removable)
        return removable.records

    def _guarded(self, call: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """Call what writes, after a recovery where one is due; note an interruption. Raises what it raises."""
        if self._is_interrupted:
            self.recover()
        try:
            return call(*args, **more)
        except self._SETTLED:
            raise
        except BaseException:
            self._note_interruption()
            raise

    def _note_interruption(self) -> None:
        self._is_interrupted = True

    def _sync(self) -> None:
        if self._is_lost:
            self._is_lost = False
            raise LogError(f"{self.name}: what was not acknowledged yet was taken back when a later call failed")
        self._acknowledge()

    @abstractmethod
    def recover(self) -> None:
        """Be what is stored, where a call was interrupted; else do nothing. Raises LogError.

        What was not acknowledged yet is taken back.
        """

    @abstractmethod
    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the records after a position that are there, in order, whatever was removed between them."""

    @abstractmethod
    def _append_all(self, appends: Sequence[Append], *, sync: bool) -> list[Record]:
        """Append, all or nothing, and return the records that were new."""

    @abstractmethod
    def _acknowledge(self) -> None:
        """Have on disk what is pending, if anything."""

    @abstractmethod
    def _remove(self, removable: Removal) -> None:
        """Remove records, all or none."""

    # --- ending ---

    def close(self) -> None:
        """Acknowledge what was appended, and let go of the store."""
        try:
            if not self._is_closed:
                self.sync()
        finally:
            self._close()

    @abstractmethod
    def roll_back(self) -> None:
        """Take back what was appended and not acknowledged, and close the log; one that was begun here is removed."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of everything; once more where that was interrupted."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
