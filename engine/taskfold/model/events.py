"""The typed task events: one frozen struct per event type, with only the annotations that apply to it.

Attribute names are Python's, with units last (``start_delay_ns``); on the wire each carries Nomad's name
(``StartDelay``). `EVENT_TYPES` is the registry: wire string, struct, since which Nomad, meaning. It is made of the
classes that `event_type` marks, and all that names every type is made of it: the tagged union, the exports, decoders,
counts, schemas. So a new type is its class here, its rows in the tables of `taskfold.fold.lifecycle`, and its message.

What Nomad derives from the annotations (DisplayMessage, Details) is derived here too, in `taskfold.nomad.messages`,
and is stored in an event only where the wire said something else; see `Extras`.
Source of types, annotations and versions: nomad/structs/structs.go, v0.5.6 to 2.0.6-dev, and the documented API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, Union, cast

from msgspec import UNSET, Struct, UnsetType, field


def wire_name(attribute: str) -> str:
    """Return Nomad's name of an attribute: capitals for words, and no unit.

    >>> wire_name("start_delay_ns"), wire_name("exit_code")
    ('StartDelay', 'ExitCode')
    """
    return "".join(word.capitalize() for word in attribute.removesuffix("_ns").split("_"))


class Extras(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name, forbid_unknown_fields=True):
    """The parts of an event on the wire beyond its type and annotations."""

    display_message: str | UnsetType = UNSET
    """DisplayMessage, where it is not the text that follows from the annotations."""
    details: dict[str, str] | UnsetType | None = UNSET
    """Details, where they are not what follows from the annotations."""
    fields: dict[str, Any] = {}
    """Fields set although they do not belong to the type, and fields nobody knows, by wire name."""


E = TypeVar("E", bound="TaskEvent")


class TaskEvent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename=wire_name,
    tag_field="Type",
    gc=False,  # an event never takes part in a cycle; 16 bytes less for each
):
    """Something that happened to a task."""

    time_ns: int = 0
    """When it happened (unix nanoseconds, by the clock of the event's origin); 0 lets the recorder fill it in."""
    extras: Extras | None = field(name="Kept", default=None)
    """Its parts on the wire beyond its type and annotations; None if there are none."""

    @property
    def fails_task(self) -> bool:
        """Whether the task is marked failed when this event is appended (since Nomad 0.5.0).

        The types that Nomad sets it for have it as a field; for another one it is kept as the wire said it.
        """
        return self.extras is not None and self.extras.fields.get("FailsTask") is True


class EventType(Struct, frozen=True):
    """A row of the registry."""

    cls: type[AnyTaskEvent]
    since: str
    """The first stable Nomad that has the type."""
    documented: bool = False
    """The documented API (Nomad 0.5.0) lists it."""
    aliases: tuple[str, ...] = ()
    """Other spellings that are read."""

    @property
    def wire(self) -> str:
        """The type's string on the wire."""
        return str(self.cls.__struct_config__.tag)

    @property
    def meaning(self) -> str:
        """Its message, in one sentence."""
        return (self.cls.__doc__ or "").split("\n", 1)[0]

    @property
    def annotations(self) -> tuple[str, ...]:
        """The wire names of its annotations, without Time and FailsTask, which every event has."""
        # Every event has the first three in some way, and only Details carries the last.
        common = {*TaskEvent.__struct_encode_fields__, "FailsTask", "OomKilled"}
        return tuple(name for name in self.cls.__struct_encode_fields__ if name not in common)


_ROWS: Final[list[EventType]] = []


def event_type(*, since: str, documented: bool = False, aliases: tuple[str, ...] = ()) -> Callable[[type[E]], type[E]]:
    """Return the decorator that makes a class a row of the registry: nothing else has to name it."""

    def register(cls: type[E]) -> type[E]:
        _ROWS.append(EventType(cast("type[AnyTaskEvent]", cls), since, documented, aliases))
        return cls

    return register


@event_type(since="0.3.0", documented=True)
class Received(TaskEvent, frozen=True, kw_only=True, tag="Received"):
    """The client has received the task."""


@event_type(since="0.2.0", documented=True)
class Started(TaskEvent, frozen=True, kw_only=True, tag="Started"):
    """The task was started, for the first time or again."""


@event_type(since="0.2.0", documented=True)
class Terminated(TaskEvent, frozen=True, kw_only=True, tag="Terminated"):
    """The process of the task ended."""

    exit_code: int | None = 0
    """The exit code; None says that it is unknown, which the wire shows as 0 and the Details as ``unknown``."""
    signal: int = 0
    message: str = ""
    oom_killed: bool = False
    """The kernel killed it for want of memory; only Details carries it (since Nomad 0.9.0)."""


@event_type(since="0.3.1", documented=True)
class Restarting(TaskEvent, frozen=True, kw_only=True, tag="Restarting"):
    """The task ended or could not start, and will be started again after a delay."""

    start_delay_ns: int = 0
    restart_reason: str = ""


@event_type(since="0.3.2", documented=True, aliases=("Restarts Exceeded",))
class NotRestarting(TaskEvent, frozen=True, kw_only=True, tag="Not Restarting"):
    """The task failed and will not be started again."""

    fails_task: bool = True  # a field in place of the property
    restart_reason: str = ""


@event_type(since="0.4.1", documented=True)
class Killing(TaskEvent, frozen=True, kw_only=True, tag="Killing"):
    """The task has been asked to end, and will be killed after the timeout."""

    fails_task: bool = False  # a field in place of the property
    kill_timeout_ns: int = 0
    kill_reason: str = ""


@event_type(since="0.2.0", documented=True)
class Killed(TaskEvent, frozen=True, kw_only=True, tag="Killed"):
    """The task was killed, for any reason: a user, a failed sibling, a dead leader, a restart."""

    kill_error: str = ""


@event_type(since="0.5.0", documented=True)
class SetupFailure(TaskEvent, frozen=True, kw_only=True, tag="Setup Failure"):
    """The task could not be started because setting it up failed."""

    fails_task: bool = False  # a field in place of the property
    setup_error: str = ""


@event_type(since="0.2.0", documented=True)
class DriverFailure(TaskEvent, frozen=True, kw_only=True, tag="Driver Failure"):
    """The driver could not start the task."""

    driver_error: str = ""


@event_type(since="0.3.2", documented=True)
class FailedValidation(TaskEvent, frozen=True, kw_only=True, tag="Failed Validation"):
    """The task is not valid and was not run."""

    fails_task: bool = False  # a field in place of the property
    validation_error: str = ""


@event_type(since="0.3.1", documented=True)
class DownloadingArtifacts(TaskEvent, frozen=True, kw_only=True, tag="Downloading Artifacts"):
    """The client downloads the artifacts that the task names."""


@event_type(since="0.3.1", documented=True)
class FailedArtifactDownload(TaskEvent, frozen=True, kw_only=True, tag="Failed Artifact Download"):
    """An artifact that the task names could not be downloaded."""

    download_error: str = ""


@event_type(since="0.5.0", documented=True)
class RestartSignaled(TaskEvent, frozen=True, kw_only=True, tag="Restart Signaled"):
    """Somebody asked for the task to be restarted."""

    restart_reason: str = ""


@event_type(since="0.5.0", documented=True)
class Signaling(TaskEvent, frozen=True, kw_only=True, tag="Signaling"):
    """The task is being sent a signal."""

    task_signal: str = ""
    """The operating system's text, such as ``hangup``."""
    task_signal_reason: str = ""


@event_type(since="0.5.0", documented=True, aliases=("Sibling task failed",))
class SiblingTaskFailed(TaskEvent, frozen=True, kw_only=True, tag="Sibling Task Failed"):
    """Another task of the group failed."""

    failed_sibling: str = ""


@event_type(since="0.5.5")
class TaskSetup(TaskEvent, frozen=True, kw_only=True, tag="Task Setup"):
    """The client prepares the task; the message says what it is doing."""

    message: str = ""


@event_type(since="0.5.5")
class LeaderTaskDead(TaskEvent, frozen=True, kw_only=True, tag="Leader Task Dead"):
    """The leader of the group is dead."""


@event_type(since="0.5.2")
class Driver(TaskEvent, frozen=True, kw_only=True, tag="Driver"):
    """A message of the driver."""

    driver_message: str = ""


@event_type(since="0.5.0")
class DiskResourcesExceeded(TaskEvent, frozen=True, kw_only=True, tag="Disk Resources Exceeded"):
    """The task used more disk than it may; defined by Nomad, emitted by no version."""

    disk_limit: int = 0


@event_type(since="0.5.5")
class BuildingTaskDirectory(TaskEvent, frozen=True, kw_only=True, tag="Building Task Directory"):
    """The directory of the task is being built; defined by Nomad, used as the message of Task Setup only."""


@event_type(since="0.6.1")
class Generic(TaskEvent, frozen=True, kw_only=True, tag="Generic"):
    """A message of a named source (Nomad 0.6.1 to 0.7.0; later the source is the type)."""

    generic_source: str = ""
    message: str = ""


@event_type(since="0.7.1")
class Template(TaskEvent, frozen=True, kw_only=True, tag="Template"):
    """A template waits for something that is missing."""


@event_type(since="0.7.1")
class AllocUnhealthy(TaskEvent, frozen=True, kw_only=True, tag="Alloc Unhealthy"):
    """The allocation did not become healthy in time for its deployment."""

    message: str = ""


@event_type(since="0.9.0")
class TaskHookFailed(TaskEvent, frozen=True, kw_only=True, tag="Task hook failed"):
    """A hook of the client failed for this task."""

    message: str = ""


@event_type(since="0.9.2")
class FailedRestoringTask(TaskEvent, frozen=True, kw_only=True, tag="Failed Restoring Task"):
    """After a restart of the client the task could not be re-attached."""


@event_type(since="0.11.0")
class PluginBecameHealthy(TaskEvent, frozen=True, kw_only=True, tag="Plugin became healthy"):
    """The plugin that this task runs became healthy."""

    message: str = ""


@event_type(since="0.11.0")
class PluginBecameUnhealthy(TaskEvent, frozen=True, kw_only=True, tag="Plugin became unhealthy"):
    """The plugin that this task runs became unhealthy."""

    message: str = ""


@event_type(since="0.12.0")
class MainTasksDead(TaskEvent, frozen=True, kw_only=True, tag="Main Tasks Dead"):
    """All main tasks of the group are dead, so that its sidecars end."""


@event_type(since="1.3.0")
class Reconnected(TaskEvent, frozen=True, kw_only=True, tag="Reconnected"):
    """The client reached its servers again."""


@event_type(since="1.3.4")
class TaskHookMessage(TaskEvent, frozen=True, kw_only=True, tag="Task hook message"):
    """A hook of the client has something to say of this task."""


@event_type(since="1.5.0")
class WaitingForShutdownDelay(TaskEvent, frozen=True, kw_only=True, tag="Waiting for shutdown delay"):
    """The kill waits for the shutdown delay of the task."""


@event_type(since="1.5.1")
class SkippingShutdownDelay(TaskEvent, frozen=True, kw_only=True, tag="Skipping shutdown delay"):
    """The kill was told not to wait for the shutdown delay of the task."""


@event_type(since="1.8.0")
class Pausing(TaskEvent, frozen=True, kw_only=True, tag="Pausing"):
    """The schedule of the task pauses it (Nomad Enterprise)."""


@event_type(since="1.8.0")
class Running(TaskEvent, frozen=True, kw_only=True, tag="Running"):
    """The schedule of the task lets it run (Nomad Enterprise)."""


class UnknownEvent(TaskEvent, frozen=True, kw_only=True, tag="Unknown"):
    """An event of a type nobody knows: kept with all its fields, and it never moves the state."""

    fails_task: bool = False  # a field in place of the property
    wire_type: str = ""
    message: str = ""


EVENT_TYPES: Final[tuple[EventType, ...]] = tuple(sorted(_ROWS, key=lambda row: not row.documented))
"""Every task event type of every Nomad, the documented ones first."""

EVENT_CLASSES: Final[tuple[type[AnyTaskEvent], ...]] = (*(row.cls for row in EVENT_TYPES), UnknownEvent)
"""The classes of all events: those of the registry, and the one for what it has not."""

BY_WIRE_TYPE: Final[dict[str, type[AnyTaskEvent]]] = {
    spelling: row.cls for row in EVENT_TYPES for spelling in (row.wire, *row.aliases)
}
"""Every spelling that is read, and the struct it becomes."""

if TYPE_CHECKING:
    from taskfold.model import _unions

    AnyTaskEvent: TypeAlias = _unions.AnyTaskEvent
else:
    AnyTaskEvent = Union[EVENT_CLASSES]  # noqa: UP007 - of a tuple
"""Every task event as a closed union: decoders are made of it, and type checkers see whether a match has every type."""


def wire_type(event: Struct) -> str:
    """Return the type's string on the wire, in its newest spelling: of an event, an internal event, or an input.

    >>> wire_type(SiblingTaskFailed()), wire_type(UnknownEvent(wire_type="Something New"))
    ('Sibling Task Failed', 'Something New')
    """
    return event.wire_type if isinstance(event, UnknownEvent) else str(type(event).__struct_config__.tag)


_OTHERS: Final = (
    "BY_WIRE_TYPE",
    "EVENT_CLASSES",
    "EVENT_TYPES",
    "EventType",
    "Extras",
    "TaskEvent",
    "AnyTaskEvent",
    "event_type",
    "wire_name",
    "wire_type",
)

if not TYPE_CHECKING:  # who checks types takes every public name
    __all__ = sorted({*_OTHERS, *(cls.__name__ for cls in EVENT_CLASSES)})  # noqa: PLE0605 - made of the registry
