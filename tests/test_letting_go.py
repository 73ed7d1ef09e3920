"""What the process keeps of allocations that are collected: nothing that grows with their number, but what must be known.

A scheduler places, reports, collects and compacts at a constant number of live tasks. Everything that can be reached
from the engine is counted; it may not become more from one half of the run to the other.
"""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict, deque
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import pytest
from sortedcontainers import SortedList

from recordings import group
from supervising import PROCESSES
from taskfold import Engine, ManualClock, inputs
from taskfold.changes import ChangeReader
from taskfold.log import MemoryLog
from taskfold.store import Store
from taskfold.supervisor import Supervisor

SECOND = 1_000_000_000
ROUNDS = 60
TOO_MANY = 20
"""By how many entries a container may differ between two moments of a steady state."""

FOR_EVER = {
    # The versions of what was collected, since its ID is never given again; where to look for its last record.
    "x.jsonl": {"Ledger.versions", "Blocks._spans"},
    # The log itself is in memory, too.
    "": {"Ledger.versions", "MemoryLog._records", "MemoryLog._by_allocation", "MemoryLog._by_allocation[]"},
    # A cache of what is in the database, which has a limit of its own.
    "x.db": {"_Lookups.versions", "_Lookups.ids"},
}
"""What grows with the number of all allocations that ever were, by the log's file, and why it must."""

_NOT_ENTERED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_CONTAINERS = (dict, list, set, deque, OrderedDict)


def held(root):
    """Return how many entries the containers have that can be reached from an object, by the attribute that has them."""
    counts: Counter[str] = Counter()
    seen = {id(root)}
    waiting = [(root, type(root).__name__)]
    while waiting:
        found, name = waiting.pop()
        if isinstance(found, _CONTAINERS):
            counts[name] += len(found)
            inner = found.values() if isinstance(found, dict) else found
            parts = [(part, f"{name}[]") for part in list(inner)]
        else:
            parts = [(part, f"{type(found).__name__}.{of}") for of, part in attributes(found)]
        for part, of in parts:
            if id(part) not in seen and gc.is_tracked(part) and not isinstance(part, _NOT_ENTERED):
                seen.add(id(part))
                waiting.append((part, of))
    return counts


def attributes(found):
    """Yield the attributes of an object, whatever holds them."""
    yield from getattr(found, "__dict__", {}).items()
    for cls in type(found).__mro__:
        slots = getattr(cls, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(found, name):
                yield name, getattr(found, name)
