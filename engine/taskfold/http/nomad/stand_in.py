"""The stand-in for an allocation that cannot be written: a broken one breaks no list and no stream."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Final

import msgspec

__all__ = ["stand_in"]

logger = logging.getLogger("taskfold.http")


_WHY: Final = "taskfold cannot show this allocation; the log of the server has the details"


def stand_in(alloc: str, problem: Exception) -> bytes:
    """Return the stand-in of an allocation as JSON: its ID and a description. The reason is logged, once."""
    name = _writable(alloc)
    _tell(name, _writable(repr(problem)))
    return msgspec.json.encode({"ClientDescription": _WHY, "ID": name})


def _writable(text: str) -> str:
    """Return a text with its lone surrogates escaped, so that it can be encoded."""
    return text.encode(errors="backslashreplace").decode()


@lru_cache(maxsize=1_024)
def _tell(name: str, why: str) -> None:
    logger.error("allocation %s cannot be shown: %s", name, why)
