"""Python's garbage collector, in a process that is ours: in a library it is the embedder's."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["passing_over_what_is_there"]


@contextmanager
def passing_over_what_is_there() -> Iterator[None]:
    """Have the collector pass over all objects that there are now: who serves them would wait while it looks at them.

    What is no longer referred to is freed as ever, but for cycles; those are looked at again at the end.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
