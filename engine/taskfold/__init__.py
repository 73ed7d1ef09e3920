"""taskfold folds typed task events into allocation state, as HashiCorp Nomad does.

`replay` reads what a Nomad said, or a log of taskfold's own, and gives the state at any index or time; `Engine` keeps
the state of live tasks, and decides what follows; `Snapshot` reads and writes the allocation JSON; `events` holds every
task event, `inputs` what can be reported.

A name is resolved when it is first used, so that ``import taskfold`` imports next to nothing. Public are the names
here and in `columnar`, `effects`, `errors`, `events`, `inputs`, `http`, `log`, `nomad` and `testing`; other modules are
internal.
"""

from __future__ import annotations

from importlib import import_module

_NAMES = {
    "columnar.exporting": "ExportSummary export",
    "columnar.tables": "DataTable DataTables tables",
    "decision.group": "Group TaskPlan",
    "decision.restart": "simulate",
    "decision.rules": "decide",
    "fold.allocation": "AllocationState Fold client_status",
    "fold.binding": "Binding",
    "fold.course": "Death Interval deaths intervals",
    "fold.diagram": "diagram",
    "fold.lifecycle": "Lifecycle lifecycle_of",
    "fold.ring": "EventRing",
    "fold.task": "TaskState evolve",
    "live.core": "Core",
    "live.engine": "Engine",
    "live.retention": "Retention",
    "live.store": "Listing",
    "log": "MemoryLog NdjsonLog",
    "log.contract": "Append EventLog",
    "model.clock": "Clock ManualClock SystemClock",
    "model.dialect": "DEFAULT_DIALECT DIALECTS Dialect",
    "model.effects": "Step",
    "model.errors": (
        "AlreadyPlaced AppendRefused CallbackRefused CallbacksBusy ClockWentBack DecodeError DialectError Gone "
        "IllegalEvent InputRefused ListenerError LogError NotFound PolicyRefused ReadOnly Refused SourceError "
        "SourceUnavailable TaskfoldError Unavailable UnknownAllocation UnknownTask Unreadable UnreadableLog "
        "VersionConflict"
    ),
    "model.events": "TaskEvent",
    "model.policy": "RestartPolicy",
    "model.record": "Finished Placed Record Updated Write",
    "nomad.importing.importer": "Importer",
    "nomad.messages": "details display_message",
    "nomad.importing.observation": "Observation observation_from_json",
    "nomad.snapshot": "Snapshot",
    "pictures.timeline": "Timeline",
    "recording.recorder": "Recorder RecorderStatus",
    "recording.settings": "AgentSettings",
    "sources.diff": "Difference diff",
    "sources.history": "HistoryEntry history",
    "sources.ingest": "Ingestion ingest",
    "sources.replay": "At Replay parse_at replay",
    "sources.timeline": "timeline",
    "sources.verify": "Divergence Verification verify",
}
"""The public names, by module."""
_MODULES = ("columnar", "effects", "errors", "events", "http", "inputs", "log", "nomad", "testing")
"""Modules that are public as a whole; ``columnar``, ``http`` and ``testing`` need their extras."""
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*sorted(_HOME), "effects", "errors", "events", "inputs"]  # noqa: PLE0604 - made from the table


def __getattr__(name: str) -> object:
    """Import what a name stands for, and keep it, so that its next use finds it at once."""
    if name in _HOME:
        value = getattr(import_module(f"taskfold.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"taskfold.{name}")
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module 'taskfold' has no attribute {name!r}", name=name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES, "__version__"})


def _version() -> str:
    """Return the installed version, or ``unknown`` for a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("taskfold")
    except PackageNotFoundError:
        return "unknown"
