"""Logs: append-only records behind one contract, in memory, as NDJSON files, in SQLite and in PostgreSQL.

Names are resolved at their first use, so that a program imports only the stores that it uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfold.model.lazy import lazy_names

if TYPE_CHECKING:
    from taskfold.log.check import LogCheck, Repair, check_log, repair
    from taskfold.log.contract import Append, EventLog, StoredLog
    from taskfold.log.memory import MemoryLog
    from taskfold.log.ndjson.log import NdjsonLog
    from taskfold.log.registry import open_log, open_reader, register
    from taskfold.log.sqlite.log import SqliteLog
    from taskfold.log.store_kind import StoreKind

__all__ = [
    "Append",
    "EventLog",
    "LogCheck",
    "MemoryLog",
    "NdjsonLog",
    "Repair",
    "SqliteLog",
    "StoreKind",
    "StoredLog",
    "check_log",
    "open_log",
    "open_reader",
    "register",
    "repair",
]

_HOMES = {
    "check": ("LogCheck", "Repair", "check_log", "repair"),
    "contract": ("Append", "EventLog", "StoredLog"),
    "memory": ("MemoryLog",),
    "ndjson.log": ("NdjsonLog",),
    "registry": ("open_log", "open_reader", "register"),
    "sqlite.log": ("SqliteLog",),
    "store_kind": ("StoreKind",),
}

__getattr__, __dir__ = lazy_names(__name__, {name: module for module, names in _HOMES.items() for name in names})
