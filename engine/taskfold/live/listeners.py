"""Listeners: functions that subscribe to events of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVarTuple

__all__ = ["Listeners"]

Ts = TypeVarTuple("Ts")


class Listeners(Generic[*Ts]):
    """Functions, in the order in which they were added.

    >>> listeners = Listeners[str]()
    >>> end = listeners.add(print)
    >>> for call in listeners.calls([("hello",)]):
    ...     call()
    hello
    >>> end(), len(listeners)
    (None, 0)
    """

    def __init__(self) -> None:
        # A dictionary, as its single operations cannot be interrupted: adding and removing need no lock.
        self._listeners: dict[object, Callable[[*Ts], object]] = {}

    def __len__(self) -> int:
        """Return the number of listeners."""
        return len(self._listeners)

    def add(self, listener: Callable[[*Ts], object]) -> Callable[[], None]:
        """Add a function; return an unsubscribe function."""
        key = object()
        self._listeners[key] = listener
        return partial(_remove, self._listeners, key)

    def calls(self, arguments: Iterable[tuple[*Ts]]) -> list[Callable[[], object]]:
        """Return the calls of each listener with each of these arguments, in order."""
        if not self._listeners:
            return []
        return [partial(listener, *one) for one in arguments for listener in tuple(self._listeners.values())]


def _remove(listeners: dict[object, Callable[[*Ts], object]], key: object) -> None:
    listeners.pop(key, None)
