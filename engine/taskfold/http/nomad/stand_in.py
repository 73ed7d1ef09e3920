"""What stands for an allocation that cannot be written: one that is broken takes no list and no stream away."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Final

import msgspec

__all__ = ["stand_in"]

logger = logging.getLogger("taskfold.http")


_WHY: Final = "taskfold cannot show this allocation; the log of the server has the details"


def stand_in(alloc: str, problem: Exception) -> bytes:
    """Return an allocation as JSON that has its ID, and says that there is no more; the log is told why, once."""
    name = _writable(alloc)
    _tell(name, _writable(repr(problem)))
    return msgspec.json.encode({"ClientDescription": _WHY, "ID": name})


def _writable(text: str) -> str:
    """Return a text that can be written: a lone surrogate is escaped."""
    return text.encode(errors="backslashreplace").decode()


@lru_cache(maxsize=1_024)
def _tell(name: str, why: str) -> None:
    logger.error("allocation %s cannot be shown: %s", name, why)
