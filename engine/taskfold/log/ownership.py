"""Ownership: an engine and its log belong to the process that made them, and there is one of each.

A fork gets a copy of every object, and shares the files, locks and connections behind them; of the threads it gets only
the one that forked, so that a lock of another stays locked for ever. Whatever holds a part of a log is therefore of no
use in a fork: there every use of it raises LogError, at no cost to the process that owns it, and closing it does
nothing. For the same reasons none of it can be copied or pickled.
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
    """What belongs to the process that made it: it is not copied, not pickled, and of no use in a fork."""

    instead: ClassVar[str] = "open it again where it is needed"
    """What to do where a copy is wanted."""

    is_foreign: ClassVar[bool] = False
    """This is a fork of the process that it belongs to."""

    def _own(self, what: str, remedy: str = _OPEN_AGAIN) -> None:
        """Remember whose it is: what was opened by this process, and what another one is to do."""
        self._whose = f"{what} was opened by process {os.getpid()}, of which this one is a fork: {remedy}"
        _owned[id(self)] = self

    def _own_with(self, log: object) -> None:
        """Remember whose it is: that of a log, which has a name unless it is in memory."""
        name = getattr(log, "name", "")
        self._own(name or f"this {type(self).__name__}", _OPEN_AGAIN if name else "begin one here")

    def _prepare_fork(self) -> None:
        """Make ready for a fork, in the process that owns this; most have nothing to do."""

    def _disown(self) -> None:
        """Let go, in a fork, of what the system would else keep for its owner; touch nothing that both share."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be copied or pickled."""
        name = type(self).__name__
        raise TypeError(f"{name!r} cannot be copied or pickled, since it holds what is there once: {self.instead}")


@cache
def _foreign(kind: type[Owned]) -> type[Owned]:
    """Return what a kind of thing is in a fork: its every use raises LogError, and its end does nothing."""

    def get(self: Owned, name: str) -> Any:
        if name in _ENDS:
            return _do_nothing
        if name.startswith("__") or name == "is_foreign":
            return object.__getattribute__(self, name)
        raise LogError(object.__getattribute__(self, "_whose"))

    body = {"__slots__": (), "__module__": kind.__module__, "__getattribute__": get, "is_foreign": True}
    return type(kind.__name__, (kind,), body)


def _do_nothing(*_: object) -> None:
    """Do nothing: what is to be closed belongs to another process."""


def _prepare_forks() -> None:
    for thing in list(_owned.values()):
        thing._prepare_fork()  # noqa: SLF001 - the two are one


def _disown_all() -> None:
    """Let go of all that another process owns, in a fork of it, where no other thread runs."""
    for thing in list(_owned.values()):
        with suppress(Exception):  # what fails is of no use here, either
            thing._disown()  # noqa: SLF001 - the two are one
        thing.__class__ = _foreign(type(thing))  # type: ignore[arg-type]  # a class can be hashed
    _owned.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_prepare_forks, after_in_child=_disown_all)
