"""The record: one line of a log, and the internal events that the wire never shows.

A record says which allocation (and which of its tasks) an event belongs to, in which order, since which index, and
when it was applied. Records are append-only; `taskfold.fold.allocation.Fold` turns them into state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from msgspec import UNSET, Raw, Struct, UnsetType, field

from taskfold.model.events import AnyTaskEvent, TaskEvent, wire_name

__all__ = [
    "FORMAT",
    "INTERNAL_EVENTS",
    "Addressed",
    "Collected",
    "Compacted",
    "Coordinated",
    "Decided",
    "Event",
    "Finished",
    "Gap",
    "InternalEvent",
    "LogHeader",
    "Observed",
    "Placed",
    "Record",
    "Updated",
    "WritableEvent",
    "Write",
]

FORMAT: Final = 3
"""The version of the record format, written in the header of every log."""


State: TypeAlias = Literal["", "pending", "running", "dead"]
"""The state of a task as the wire may tell it: empty where a Nomad has not set it yet."""


class InternalEvent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename=wire_name,
    tag_field="Type",
    gc=False,  # events and records never take part in a cycle
):
    """An event of the log that is no task event: it fills no place in the ring of a task."""


class Placed(InternalEvent, frozen=True, kw_only=True, tag="Placed"):
    """The allocation as first seen, without task states; for a task: it was created anew, with an empty history."""

    body: Raw | UnsetType = UNSET
    """The allocation's other top-level fields: a JSON object in Nomad's names."""


class Updated(InternalEvent, frozen=True, kw_only=True, tag="Updated"):
    """Top-level fields of the allocation that changed (DesiredStatus and ModifyTime among them).

    For a task: fields of its state that no event explains, such as TaskHandle.
    """

    fields: dict[str, Raw] = {}
    """The fields that are now different, as JSON, by Nomad's name."""
    cleared: tuple[str, ...] = ()
    """The fields that are no longer there; ClientStatus and ClientDescription follow from the tasks again."""
    write_type: str = ""
    """The observed Nomad's name of the write, if it does not follow from the change."""
    job_source: Literal["", "stream"] = ""
    """``stream`` where the Job was found out from what an event stream told of jobs; else it was told itself."""


class Finished(InternalEvent, frozen=True, kw_only=True, tag="Finished"):
    """A task became dead with no task event, or one of its times moved with none."""

    dies: bool = True
    """False when only the times moved: the state stays."""
    started_at_ns: int | UnsetType | None = UNSET
    finished_at_ns: int | UnsetType | None = UNSET
    last_restart_ns: int | UnsetType | None = UNSET


class Observed(InternalEvent, frozen=True, kw_only=True, tag="Observed"):
    """A correction: exactly the fields of a task that the records before cannot explain."""

    state: State | UnsetType = UNSET
    failed: bool | UnsetType = UNSET
    restarts: int | UnsetType = UNSET
    last_restart_ns: int | UnsetType | None = UNSET
    started_at_ns: int | UnsetType | None = UNSET
    finished_at_ns: int | UnsetType | None = UNSET
    older_events: tuple[AnyTaskEvent, ...] | UnsetType | None = field(name="Shown", default=UNSET)
    """The events that were shown instead of the newest ones (an older copy); None shows the newest again."""
    hidden: bool | UnsetType = UNSET
    """The task was missing from the task states; False when it is there again."""


class Gap(InternalEvent, frozen=True, kw_only=True, tag="Gap"):
    """Events of a task were lost before this point; the fold is anchored anew."""

    restarts_before: int = 0
    restarts_after: int = 0
    """Restarts as told on both sides of the gap (0 where the dialect does not tell)."""
    state: State = "pending"
    """The state from which the events that are visible explain what is seen now."""
    failed: bool = False
    restarts: int = 0
    last_restart_ns: int | None = None
    started_at_ns: int | None = None
    finished_at_ns: int | None = None


class Collected(InternalEvent, frozen=True, kw_only=True, tag="Collected"):
    """The allocation was collected: nobody asks for it any more; this is its last record."""

    reason: str
    """Why; empty where nobody told."""
    body: Raw | UnsetType = UNSET
    """Its last state, as lists show it, without task states: all that remains after a compaction."""
    task_states: Raw | UnsetType = UNSET
    """The last state of its tasks, as the dialect of the log shows it."""


class Decided(InternalEvent, frozen=True, kw_only=True, tag="Decided"):
    """The memory that decisions have of a task beyond its events; it replaces the memory before.

    Only `taskfold.decide` reads it; an embedder that decides by itself never writes one.
    """

    window_start_ns: int | None = None
    """When the window of the restart policy began (unix nanoseconds); None before the first decision."""
    window_count: int = 0
    """The attempts that were counted in it."""
    start_at_ns: int | None = None
    """When a pending task is, or was, to be started; None while it has to wait for others."""
    download_failed: bool = False
    """It is to be started again since a download failed; the old client tells the end of such a wait twice."""
    awaits_server: bool = False
    """It could not be restored, and is started again when its client has reached its servers."""
    restart: Literal["", "asked", "failed"] = ""
    """The process is being ended to be started again: as somebody asked, or since something failed, which counts."""
    killed: bool = False
    """The task was told to end for good."""
    kill_attempts: int = 0
    """How often its process was killed, or tried to."""
    kill_at_ns: int | None = None
    """When it is to be killed, or again; None when that is under way."""
    was_reattached: bool = False
    """Its process was found again when its end was decided already: no Killed tells of it (new client)."""


class Coordinated(InternalEvent, frozen=True, kw_only=True, tag="Coordinated"):
    """The memory that decisions have of an allocation as a whole; it replaces the memory before."""

    stage: str = ""
    """How far the lifecycle of its tasks is: which of them may start."""
    stop_waits: bool = False
    """A stop has killed the leader, and waits for its end before it kills the others."""
    group_kill: bool = False
    """The death of a task has doomed the others; nothing dooms them twice."""
    group_waits: bool = False
    """The kill, too, waits for the leader's end."""


AnyInternalEvent: TypeAlias = Placed | Updated | Finished | Observed | Gap | Collected | Decided | Coordinated
INTERNAL_EVENTS: Final[tuple[type[InternalEvent], ...]] = get_args(AnyInternalEvent)

Event: TypeAlias = AnyTaskEvent | AnyInternalEvent


class Record(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename=wire_name, gc=False
):
    """A line of the log."""

    seq: int = 0
    """The position in the log: 1, 2, 3 … without a hole; 0 before the log has given one."""
    index: int
    """The write it belongs to: Nomad's ModifyIndex when imported; the records of one write share it."""
    alloc: str
    version: int
    """1, 2, 3 … inside the allocation."""
    task: str = ""
    """The task, or empty for the allocation itself."""
    time_ns: int = 0
    """When it was applied (unix nanoseconds)."""
    id: int | str | UnsetType = field(name="ID", default=UNSET)
    """The key of repeats: a text of the embedder's, or, when imported, the ordinal inside the index."""
    event: Event


if TYPE_CHECKING:  # a caller may write any event, without knowing its type
    WritableEvent: TypeAlias = TaskEvent | Placed | Updated | Finished
else:
    WritableEvent = AnyTaskEvent | Placed | Updated | Finished
"""The events that an embedder, or a scheduler through HTTP, may write. Other internal events are the importer's."""


class Addressed(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename=wire_name):
    """The fields that every write and report has."""

    alloc: str
    task: str = ""
    """The task, or empty for the allocation itself."""
    time_ns: int | None = None
    """When it happened (unix nanoseconds); the engine's clock unless given."""
    id: str | None = field(name="ID", default=None)
    """The key of repeats: a write with a recorded ID is left out."""
    expected_version: int | None = None
    """The version that the allocation must have; what comes before it in the same append counts."""


class Write(Addressed, frozen=True, kw_only=True):
    """A record that somebody asks for; the engine gives it its place, index, version and time."""

    event: WritableEvent


class Compacted(Struct, frozen=True, forbid_unknown_fields=True):
    """Up to where records were removed from a log: the greatest position, index and time of any of them."""

    seq: int
    index: int
    time_ns: int


class LogHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of an NDJSON log."""

    taskfold: int
    """The record format version."""
    dialect: str
    region: str = "global"
    lifecycle: str = ""
    """The hash of the lifecycle table that the log was written with."""
    uuid: str = ""
    """The identity of the log: drawn when it is begun, and kept for ever; none in the formats 1 and 2."""
    compacted: Compacted | UnsetType = UNSET
    """The mark of a compaction; unset if there was none."""
