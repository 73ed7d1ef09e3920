"""Python's garbage collector, tuned for the command line; in a library, that is the embedder's choice."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collecting_present_objects"]


@contextmanager
def without_collecting_present_objects() -> Iterator[None]:
    """Exempt all present objects from garbage collection within the block: a full collection stops every thread.

    Objects without references are freed as ever; cycles are collected after the block.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
