"""Ownership: an engine and its log belong to the process that made them, and cannot be copied.

A fork copies every object, and shares the files, locks and connections behind them; it has only the thread that forked,
so that a lock held by another thread stays locked for ever. In a fork, therefore, every use of an object that holds
part of a log raises LogError, without harm to the owner, and closing it does nothing. For the same reasons none of them
can be copied or pickled.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar, Final, NoReturn

from taskfold.model.errors import LogError

__all__ = ["Owned"]

_OPEN_AGAIN: Final = "open it again here, with read_only=True to read"
_ENDS: Final = ("close", "stop")

_owned: Final[weakref.WeakValueDictionary[int, Owned]] = weakref.WeakValueDictionary()


class Owned:
    """An object that belongs to the process that made it: it cannot be copied or pickled, and is unusable in a fork."""

    instead: ClassVar[str] = "open it again where it is needed"
    """The advice in the error for a copy."""

    is_foreign: ClassVar[bool] = False
    """This process is a fork of the owner."""

    def _own(self, what: str, remedy: str = _OPEN_AGAIN) -> None:
        """Register the object with this process; ``remedy`` is what the error in a fork advises."""
        self._fork_message = f"{what} was opened by process {os.getpid()}, of which this one is a fork: {remedy}"
        _owned[id(self)] = self

    def _own_with(self, log: object) -> None:
        """Register an object that uses a log, under the log's name; a log in memory has none."""
        name = getattr(log, "name", "")
        self._own(name or f"this {type(self).__name__}", _OPEN_AGAIN if name else "begin one here")

    def _prepare_fork(self) -> None:
        """Prepare for a fork, in the owner. By default do nothing."""

    def _disown(self) -> None:
        """Release, in a fork, what the system would keep open for the owner; touch nothing shared."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be copied or pickled. Raises TypeError."""
        name = type(self).__name__
        raise TypeError(f"{name!r} cannot be copied or pickled, since it holds files, locks or threads: {self.instead}")


@cache
def _foreign(kind: type[Owned]) -> type[Owned]:
    """Make the class of an object in a fork: every use raises LogError, and closing does nothing."""

    def get(self: Owned, name: str) -> Any:
        if name in _ENDS:
            return _do_nothing
        if name.startswith("__") or name == "is_foreign":
            return object.__getattribute__(self, name)
        raise LogError(object.__getattribute__(self, "_fork_message"))

    body = {"__slots__": (), "__module__": kind.__module__, "__getattribute__": get, "is_foreign": True}
    return type(kind.__name__, (kind,), body)


def _do_nothing(*_: object) -> None:
    """Do nothing: the object belongs to another process."""


def _prepare_forks() -> None:
    for thing in list(_owned.values()):
        thing._prepare_fork()  # noqa: SLF001 - a private method of the same module


def _disown_all() -> None:
    """Disown all objects of the parent process, in a fork, before any other thread runs."""
    for thing in list(_owned.values()):
        with suppress(Exception):  # an object that fails here is unusable anyway
            thing._disown()  # noqa: SLF001 - a private method of the same module
        thing.__class__ = _foreign(type(thing))  # type: ignore[arg-type]  # a class can be hashed
    _owned.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_prepare_forks, after_in_child=_disown_all)
