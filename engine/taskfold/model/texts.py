"""Texts that many objects have: each is one object, as long as somebody asks for it now and then."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

__all__ = ["MESSAGES", "remember_message", "shared"]

_SHARED_AT_MOST: Final = 8_192
"""How many texts are remembered: a cluster has fewer names of tasks, nodes and jobs at a time, or nearly so."""

_MESSAGES_AT_MOST: Final = 1_024
_MESSAGE_LENGTH: Final = 256
"""How many messages are remembered, and how long they are at most: a long one is told once."""

MESSAGES: Final[dict[str, str]] = {}
"""The cache of events' messages, which repeat often: apart from the names, since many come only once."""


@lru_cache(maxsize=_SHARED_AT_MOST)
def shared(text: str) -> str:
    """Return the object that stands for this text. O(1).

    `sys.intern` would do, but Python 3.12 never frees what was interned: names that come and go would pile up.

    >>> shared("".join(["re", "dis"])) is shared("".join(["red", "is"]))
    True
    """
    return text


def remember_message(text: str) -> None:
    """Have a text stand among the `MESSAGES`, unless it is long. O(1), amortized.

    >>> remember_message("Exit Code: 1")
    >>> MESSAGES["Exit Code: 1"]
    'Exit Code: 1'
    """
    if len(text) <= _MESSAGE_LENGTH:
        if len(MESSAGES) >= _MESSAGES_AT_MOST:
            MESSAGES.clear()
        MESSAGES[text] = text
