"""Python's garbage collector, in a process that is ours: in a library it is the embedder's."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["passing_over_what_is_there"]


@contextmanager
def passing_over_what_is_there() -> Iterator[None]:
    """Exempt all present objects from garbage collection, which would stop every thread for them, within the block.

    Objects without references are freed as ever; cycles are collected after the block.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
