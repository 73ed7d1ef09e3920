"""taskfold folds typed task events into allocation state, as HashiCorp Nomad does.

`replay` reads what a Nomad said, or a log of taskfold's own, and gives the state at any index or time; `Engine` keeps
the state of live tasks, and decides what follows; `Snapshot` reads and writes the allocation JSON; `events` holds every
task event, `inputs` what can be reported.
"""

from taskfold import effects, events, inputs
from taskfold.allocation import AllocationState, Fold, client_status
from taskfold.binding import Binding
from taskfold.clock import Clock, ManualClock, SystemClock
from taskfold.codecs.allocation import Snapshot
from taskfold.decide import decide
from taskfold.diagram import diagram
from taskfold.dialect import DEFAULT_DIALECT, DIALECTS, Dialect
from taskfold.diff import Difference, diff
from taskfold.effects import Step
from taskfold.engine import Engine
from taskfold.errors import (
    AlreadyPlaced,
    AppendRefused,
    CallbacksBusy,
    ClockWentBack,
    DecodeError,
    DialectError,
    Gone,
    IllegalEvent,
    InputRefused,
    ListenerError,
    LogError,
    PolicyRefused,
    ReadOnly,
    Refused,
    SourceError,
    TaskfoldError,
    UnknownAllocation,
    VersionConflict,
)
from taskfold.events import TaskEvent
from taskfold.group import Group, TaskPlan
from taskfold.history import Entry, history
from taskfold.ingest import Ingested, ingest
from taskfold.lifecycle import Lifecycle, lifecycle_of
from taskfold.log import MemoryLog, NdjsonLog
from taskfold.log.contract import Append, EventLog
from taskfold.messages import details, display_message
from taskfold.nomad.importer import Importer
from taskfold.nomad.observation import Observation, observation_from_json
from taskfold.policy import RestartPolicy
from taskfold.record import Finished, Placed, Record, Updated, Write
from taskfold.replay import At, Replay, parse_at, replay
from taskfold.restart import simulate
from taskfold.retention import Retention
from taskfold.ring import EventRing
from taskfold.store import View
from taskfold.task import TaskState, evolve
from taskfold.verify import Divergence, Report, verify

__all__ = [
    "DEFAULT_DIALECT",
    "DIALECTS",
    "AllocationState",
    "AlreadyPlaced",
    "Append",
    "AppendRefused",
    "At",
    "Binding",
    "CallbacksBusy",
    "Clock",
    "ClockWentBack",
    "DecodeError",
    "Dialect",
    "DialectError",
    "Difference",
    "Divergence",
    "Engine",
    "Entry",
    "EventLog",
    "EventRing",
    "Finished",
    "Fold",
    "Gone",
    "Group",
    "IllegalEvent",
    "Importer",
    "Ingested",
    "InputRefused",
    "Lifecycle",
    "ListenerError",
    "LogError",
    "ManualClock",
    "MemoryLog",
    "NdjsonLog",
    "Observation",
    "Placed",
    "PolicyRefused",
    "ReadOnly",
    "Record",
    "Refused",
    "Replay",
    "Report",
    "RestartPolicy",
    "Retention",
    "Snapshot",
    "SourceError",
    "Step",
    "SystemClock",
    "TaskEvent",
    "TaskPlan",
    "TaskState",
    "TaskfoldError",
    "UnknownAllocation",
    "Updated",
    "VersionConflict",
    "View",
    "Write",
    "client_status",
    "decide",
    "details",
    "diagram",
    "diff",
    "display_message",
    "effects",
    "events",
    "evolve",
    "history",
    "ingest",
    "inputs",
    "lifecycle_of",
    "observation_from_json",
    "parse_at",
    "replay",
    "simulate",
    "verify",
]
