"""The common base of stored logs: every call that writes succeeds whole or is undone, even when it is interrupted."""

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

__all__ = ["BaseLog", "creates_log"]

P = ParamSpec("P")
T = TypeVar("T")


def creates_log(path: Path, dialect: str | Dialect | None) -> bool:
    """Tell whether opening this path creates a log. Raises LogError when it does and no dialect is given."""
    if not is_new(path):
        return False
    if dialect is None:
        raise LogError(f"{path}: there is no log, and a new one needs a dialect")
    return True


class BaseLog(Owned):
    """A stored log: an append is acknowledged at once, or by the next `sync`; until then it can be rolled back.

    A subclass implements the append, the acknowledgement, the removal, the release, and the recovery from an
    interruption.
    """

    name: str
    """The name that messages show."""
    header: LogHeader
    _ledger: Ledger
    _is_new: bool
    """This object created the log."""
    _is_closed = False
    _is_lost = False
    """Records that were appended but not acknowledged have been rolled back."""
    _is_interrupted = False
    """A call was interrupted: the state in memory may differ from the store."""
    _SETTLED: ClassVar[tuple[type[Exception], ...]] = (TaskfoldError,)
    """Exceptions after which the outcome of a write is certain: no recovery is needed."""

    @property
    def seq(self) -> int:
        """The position of the newest record."""
        return self._ledger.seq

    # --- writing ---

    def append(
        self, alloc: str, expected_version: int, records: Sequence[Record], *, sync: bool = True
    ) -> list[Record]:
        """Append records to an allocation at its expected version; return the new ones.

        Raises VersionConflict, and LogError when the store refuses the write: then nothing was appended.
        """
        return self.append_all([Append(alloc, expected_version, records)], sync=sync)

    def append_all(self, appends: Sequence[Append], *, sync: bool = True) -> list[Record]:
        """Append records to several allocations, all or nothing; return the new ones.

        With ``sync=False`` they are acknowledged by the next `sync`, and invisible to other processes until then.
        Raises VersionConflict, and LogError when the store refuses the write: then nothing was appended.
        """
        # The body of `_guarded`, inlined: its two calls cost 5 % of an append that waits for no disk.
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
        """Acknowledge all appends: bring them to disk. Raises LogError when that fails."""
        self._guarded(self._sync)

    def compact(self, before_ns: int | None = None) -> int:
        """Remove the records of collected allocations (collected before a time), except each one's last. O(records).

        Return the number of removed records. Raises LogError: then none was removed, or, when a disk or a connection
        fails at the last moment, all were.
        """
        self.sync()
        removable = removal(self.read_kept, before_ns, self.header)
        if removable is None:
            return 0
        self._remove(removable)
        return removable.records

    def _guarded(self, call: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """Call a function that writes, after any recovery that is due; note an interruption.

        Raises what the function raises.
        """
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
        """Rebuild the state in memory from the store if a call was interrupted; else do nothing. Raises LogError.

        Appends that were not acknowledged are rolled back.
        """

    @abstractmethod
    def read_kept(self, after_seq: int = 0) -> Iterator[Record]:
        """Yield the stored records after a position, in order, skipping compacted ones."""

    @abstractmethod
    def _append_all(self, appends: Sequence[Append], *, sync: bool) -> list[Record]:
        """Append, all or nothing, and return the new records."""

    @abstractmethod
    def _acknowledge(self) -> None:
        """Bring pending appends to disk."""

    @abstractmethod
    def _remove(self, removable: Removal) -> None:
        """Remove records, all or none."""

    # --- ending ---

    def close(self) -> None:
        """Acknowledge all appends, and release the store."""
        try:
            if not self._is_closed:
                self.sync()
        finally:
            self._close()

    @abstractmethod
    def roll_back(self) -> None:
        """Roll back appends that were not acknowledged, and close the log; delete it if this object created it."""

    @abstractmethod
    def _close(self) -> None:
        """Release every resource. Safe to repeat after an interruption."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
