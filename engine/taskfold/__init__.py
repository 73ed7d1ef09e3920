"""taskfold folds typed task events into allocation state, as HashiCorp Nomad does.

`replay` reads what a Nomad said, or a log of taskfold's own, and gives the state at any index or time; `Engine` keeps
the state of live tasks; `Snapshot` reads and writes the allocation JSON; `events` holds every task event.
"""

from taskfold import events
from taskfold.allocation import AllocationState, Fold, client_status
from taskfold.binding import Binding
from taskfold.clock import Clock, ManualClock, SystemClock
from taskfold.codecs.allocation import Snapshot
from taskfold.diagram import diagram
from taskfold.dialect import DEFAULT_DIALECT, DIALECTS, Dialect
from taskfold.engine import Engine
from taskfold.errors import (
    AppendRefused,
    DecodeError,
    DialectError,
    IllegalEvent,
    LogError,
    Refused,
    SourceError,
    TaskfoldError,
    UnknownAllocation,
    VersionConflict,
)
from taskfold.events import TaskEvent
from taskfold.ingest import Ingested, ingest
from taskfold.lifecycle import Lifecycle, lifecycle_of
from taskfold.log import MemoryLog, NdjsonLog
from taskfold.log.contract import Append, EventLog
from taskfold.messages import details, display_message
from taskfold.nomad.importer import Importer
from taskfold.nomad.observation import Observation, observation_from_json
from taskfold.record import Finished, Placed, Record, Updated, Write
from taskfold.replay import At, Replay, parse_at, replay
from taskfold.ring import EventRing
from taskfold.store import View
from taskfold.task import TaskState, evolve
from taskfold.verify import Divergence, Report, verify

__all__ = [
    "DEFAULT_DIALECT",
    "DIALECTS",
    "AllocationState",
    "Append",
    "AppendRefused",
    "At",
    "Binding",
    "Clock",
    "DecodeError",
    "Dialect",
    "DialectError",
    "Divergence",
    "Engine",
    "EventLog",
    "EventRing",
    "Finished",
    "Fold",
    "IllegalEvent",
    "Importer",
    "Ingested",
    "Lifecycle",
    "LogError",
    "ManualClock",
    "MemoryLog",
    "NdjsonLog",
    "Observation",
    "Placed",
    "Record",
    "Refused",
    "Replay",
    "Report",
    "Snapshot",
    "SourceError",
    "SystemClock",
    "TaskEvent",
    "TaskState",
    "TaskfoldError",
    "UnknownAllocation",
    "Updated",
    "VersionConflict",
    "View",
    "Write",
    "client_status",
    "details",
    "diagram",
    "display_message",
    "events",
    "evolve",
    "ingest",
    "lifecycle_of",
    "observation_from_json",
    "parse_at",
    "replay",
    "verify",
]
