"""taskfold folds typed task events into allocation state, as HashiCorp Nomad does.

`replay` reads what a Nomad said, or a log of taskfold's own, and gives the state at any index or time; `Engine` keeps
the state of live tasks, and decides what follows; `Snapshot` reads and writes the allocation JSON; `events` holds every
task event, `inputs` what can be reported.
"""

from taskfold.decision.group import Group, TaskPlan
from taskfold.decision.restart import simulate
from taskfold.decision.rules import decide
from taskfold.fold.allocation import AllocationState, Fold, client_status
from taskfold.fold.binding import Binding
from taskfold.fold.diagram import diagram
from taskfold.fold.lifecycle import Lifecycle, lifecycle_of
from taskfold.fold.ring import EventRing
from taskfold.fold.task import TaskState, evolve
from taskfold.live.engine import Engine
from taskfold.live.retention import Retention
from taskfold.live.store import View
from taskfold.log import MemoryLog, NdjsonLog
from taskfold.log.contract import Append, EventLog
from taskfold.model import effects, events, inputs
from taskfold.model.clock import Clock, ManualClock, SystemClock
from taskfold.model.dialect import DEFAULT_DIALECT, DIALECTS, Dialect
from taskfold.model.effects import Step
from taskfold.model.errors import (
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
from taskfold.model.events import TaskEvent
from taskfold.model.policy import RestartPolicy
from taskfold.model.record import Finished, Placed, Record, Updated, Write
from taskfold.nomad.importer import Importer
from taskfold.nomad.messages import details, display_message
from taskfold.nomad.observation import Observation, observation_from_json
from taskfold.nomad.snapshot import Snapshot
from taskfold.sources.diff import Difference, diff
from taskfold.sources.history import Entry, history
from taskfold.sources.ingest import Ingested, ingest
from taskfold.sources.replay import At, Replay, parse_at, replay
from taskfold.sources.verify import Divergence, Report, verify

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
