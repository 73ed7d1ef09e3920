"""Listeners: the functions that somebody has called with what happens."""

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
        # A dictionary, whose single operations nothing interrupts: no lock is needed where a listener goes.
        self._listeners: dict[object, Callable[[*Ts], object]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._listeners)

    def add(self, listener: Callable[[*Ts], object]) -> Callable[[], None]:
        """Add a function; return what removes it."""
        key = object()
        self._listeners[key] = listener
        return partial(_remove, self._listeners, key)

    def calls(self, arguments: Iterable[tuple[*Ts]]) -> list[Callable[[], object]]:
        """Return the calls that tell each listener of each of these, one after the other."""
        if not self._listeners:
            return []
        return [partial(listener, *one) for one in arguments for listener in tuple(self._listeners.values())]


def _remove(listeners: dict[object, Callable[[*Ts], object]], key: object) -> None:
    listeners.pop(key, None)
