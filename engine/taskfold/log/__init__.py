"""Logs: append-only records behind one contract, in memory, as NDJSON files, and in SQLite (`taskfold.log.sqlite`)."""

from taskfold.log.contract import EventLog
from taskfold.log.memory import MemoryLog
from taskfold.log.ndjson import NdjsonLog

__all__ = ["EventLog", "MemoryLog", "NdjsonLog"]
