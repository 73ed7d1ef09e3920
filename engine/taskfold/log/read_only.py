"""The base of read-only logs: every method that writes refuses."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NoReturn

from taskfold.log.ownership import Owned
from taskfold.model.errors import ReadOnly

__all__ = ["ReadOnlyLog"]


class ReadOnlyLog(Owned):
    """A log that is only read: it has every method that writes, and each refuses."""

    name: str

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to write. Raises ReadOnly."""
        raise ReadOnly(f"{self.name}: was opened to be read only: open it without read_only=True to write")

    append = append_all = begin_turn = compact = save_checkpoint = take = refuse

    def end_turn(self) -> None:
        """Do nothing: a reader takes no turns."""

    def recover(self) -> None:
        """Do nothing: a reader has nothing to recover."""

    def sync(self) -> None:
        """Do nothing: a reader has nothing to acknowledge."""

    def roll_back(self) -> None:
        """Release the log."""
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release the log."""
