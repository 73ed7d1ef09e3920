"""Texts that many objects have: each is one object, as long as somebody asks for it now and then."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

__all__ = ["shared"]

_SHARED_AT_MOST: Final = 8_192
"""How many texts are remembered: a cluster has fewer names of tasks, nodes and jobs at a time, or nearly so."""


@lru_cache(maxsize=_SHARED_AT_MOST)
def shared(text: str) -> str:
    """Return the object that stands for this text. O(1).

    `sys.intern` would do, but Python 3.12 never frees what was interned: names that come and go would pile up.

    >>> shared("".join(["re", "dis"])) is shared("".join(["red", "is"]))
    True
    """
    return text
