"""The defaults of absent fields of a job, by dialect and stanza: a table.

Which stanzas and fields there are is told by the views (`taskfold.nomad.views.job`), with the Nomad that each field
is known since; what an absent field becomes is told here, unless it is Go's zero value. Source: api/jobs.go,
api/tasks.go, api/resources.go, api/services.go, command/agent/job_endpoint.go and nomad/structs of v0.5.0, v0.5.6 and
v1.1.2; every recorded job.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct
from msgspec import inspect as types

from taskfold.model.dialect import Dialect
from taskfold.nomad.views.job import (
    Artifact,
    CsiPluginConfig,
    EphemeralDisk,
    Job,
    LogConfig,
    MigrateStrategy,
    Multiregion,
    MultiregionRegion,
    ParameterizedJob,
    Periodic,
    ReschedulePolicy,
    ScalingPolicy,
    Spread,
    TaskGroup,
    TaskView,
    TemplateView,
    Vault,
    VolumeMount,
)
from taskfold.nomad.views.resources import Affinity, NetworkResource, Port, RequestedDevice, Resources
from taskfold.nomad.views.services import CheckRestart, Service, ServiceCheck

__all__ = [
    "MIGRATE_DEFAULTS",
    "UPDATE_DEFAULTS",
    "Slot",
    "SlotKind",
    "has_field",
    "keeps",
    "reschedule_defaults",
    "slots",
]

_AGENTS_FILL_IN: Final = "0.5.5"
"""Since when agents make a job whole before they hand it to the servers; before, the command line did most of it."""


class _Default(NamedTuple):
    """The default of an absent field."""

    text: str
    since: str = "0.1.0"
    also: str = ""
    """A value that counts as absent."""


_EMPTY: Final = '""'
_STANZA: Final = "{}"

_DEFAULTS: Final[dict[tuple[type[Struct], str], tuple[_Default, ...]]] = {
    (Job, "Priority"): (_Default("50"),),
    (Job, "Type"): (_Default('"service"'),),
    (Job, "Namespace"): (_Default('"default"', also=_EMPTY),),
    (Job, "Status"): (_Default('"pending"', also=_EMPTY),),
    (Job, "Update"): (_Default(_STANZA),),
    (Periodic, "Enabled"): (_Default("true"),),
    (Periodic, "SpecType"): (_Default('"cron"'),),
    (Periodic, "TimeZone"): (_Default('"UTC"', also=_EMPTY),),
    (ParameterizedJob, "Payload"): (_Default('"optional"', also=_EMPTY),),
    (Multiregion, "Regions"): (_Default("[]"),),
    (Multiregion, "Strategy"): (_Default(_STANZA),),
    (MultiregionRegion, "Count"): (_Default("1"),),
    (MultiregionRegion, "Datacenters"): (_Default("[]"),),
    (MultiregionRegion, "Meta"): (_Default("{}"),),
    (TaskGroup, "Count"): (_Default("1"),),
    (TaskGroup, "Consul"): (_Default(_STANZA),),
    (TaskGroup, "EphemeralDisk"): (_Default(_STANZA),),
    (EphemeralDisk, "SizeMB"): (_Default("300"),),
    (ScalingPolicy, "Enabled"): (_Default("true"),),
    (ScalingPolicy, "Max"): (_Default("-1"),),
    (ScalingPolicy, "Type"): (_Default('"horizontal"', also=_EMPTY),),
    (Spread, "Weight"): (_Default("50"),),
    (Affinity, "Weight"): (_Default("50"),),
    (TaskView, "Resources"): (_Default(_STANZA),),
    (TaskView, "KillTimeout"): (_Default("5000000000", also="0"),),
    (TaskView, "LogConfig"): (_Default(_STANZA),),
    (LogConfig, "MaxFiles"): (_Default("10"),),
    (LogConfig, "MaxFileSizeMB"): (_Default("10"),),
    (Resources, "CPU"): (_Default("100"),),
    (Resources, "MemoryMB"): (_Default("10"), _Default("300", since="0.8.0")),
    (RequestedDevice, "Count"): (_Default("1"),),
    (NetworkResource, "MBits"): (_Default("10"), _Default("0", since="0.12.0")),
    (Port, "HostNetwork"): (_Default('"default"', also=_EMPTY),),
    (Artifact, "GetterMode"): (_Default('"any"'),),
    (Artifact, "RelativeDest"): (_Default('"local/"'),),
    (TemplateView, "ChangeMode"): (_Default('"restart"'),),
    (TemplateView, "Splay"): (_Default("5000000000"),),
    (TemplateView, "Perms"): (_Default('"0644"'),),
    (TemplateView, "LeftDelim"): (_Default('"{{"'),),
    (TemplateView, "RightDelim"): (_Default('"}}"'),),
    (Vault, "Env"): (_Default("true"),),
    (Vault, "ChangeMode"): (_Default('"restart"'),),
    (Vault, "ChangeSignal"): (_Default(_EMPTY), _Default('"SIGHUP"', since=_AGENTS_FILL_IN)),
    (VolumeMount, "PropagationMode"): (_Default('"private"'),),
    (CsiPluginConfig, "MountDir"): (_Default('"/csi"', also=_EMPTY),),
    (Service, "AddressMode"): (_Default('"auto"', also=_EMPTY),),
    (Service, "OnUpdate"): (_Default('"require_healthy"', also=_EMPTY),),
    (Service, "Namespace"): (_Default('"default"', also=_EMPTY),),
    (ServiceCheck, "OnUpdate"): (_Default('"require_healthy"', also=_EMPTY),),
    (CheckRestart, "Grace"): (_Default("1000000000"),),
    # What the agents of 0.5 make anew from what they read is a list, be it empty.
    (TaskView, "Artifacts"): (_Default("null"), _Default("[]", since=_AGENTS_FILL_IN), _Default("null", since="0.9.0")),
    (TaskView, "Services"): (_Default("null"), _Default("[]", since=_AGENTS_FILL_IN), _Default("null", since="0.9.0")),
    (TaskView, "Templates"): (_Default("null"), _Default("[]", since=_AGENTS_FILL_IN), _Default("null", since="0.9.0")),
}
"""The defaults, in the order of the Nomads that changed them; every one not named here is Go's zero value."""

_NOT_KEPT: Final[dict[tuple[type[Struct], str], str]] = {
    (Job, "ConsulNamespace"): "0.1.0",
    (Job, "ConsulToken"): "0.1.0",
    (Job, "VaultToken"): "0.1.0",
    (NetworkResource, "Device"): _AGENTS_FILL_IN,
    (Resources, "DiskMB"): _AGENTS_FILL_IN,
}
"""Fields of a job that Nomad resets to zero (secrets among them), and since which version."""

_OF_THE_API: Final[dict[tuple[type[Struct], str], tuple[type[Struct], str]]] = {
    (Job, "Migrate"): (MigrateStrategy, "0.8.0"),
    (Job, "Reschedule"): (ReschedulePolicy, "0.8.0"),
    (Service, "CheckRestart"): (CheckRestart, "0.7.0"),
}
"""Stanzas that may be written once for all groups or checks, which have them from then on; and since which Nomad."""

_NOT_STORED: Final = frozenset(((NetworkResource, "Public"), (ScalingPolicy, "Namespace")))
"""Fields that `nomad job run -output` writes, and no Nomad stores."""

UPDATE_DEFAULTS: Final[Mapping[str, bytes]] = {
    "AutoPromote": b"false",
    "AutoRevert": b"false",
    "Canary": b"0",
    "HealthCheck": b'"checks"',
    "HealthyDeadline": b"300000000000",
    "MaxParallel": b"1",
    "MinHealthyTime": b"10000000000",
    "ProgressDeadline": b"600000000000",
    "Stagger": b"30000000000",
}
"""How a group is updated that has an Update, or is of a service (since 0.9.0)."""

MIGRATE_DEFAULTS: Final[Mapping[str, bytes]] = {
    name: UPDATE_DEFAULTS[name] for name in ("HealthCheck", "HealthyDeadline", "MaxParallel", "MinHealthyTime")
}

_RESCHEDULE_DEFAULTS: Final[Mapping[str, Mapping[str, bytes]]] = {
    "service": {
        "Delay": b"30000000000",
        "DelayFunction": b'"exponential"',
        "MaxDelay": b"3600000000000",
        "Unlimited": b"true",
    },
    "batch": {
        "Attempts": b"1",
        "Delay": b"5000000000",
        "DelayFunction": b'"constant"',
        "Interval": b"86400000000000",
    },
}
"""How allocations are rescheduled (since 0.8.0); all that is not named is zero."""


def reschedule_defaults(job_type: str) -> Mapping[str, bytes]:
    """Return the default fields of a ReschedulePolicy, by the type of the job."""
    return _RESCHEDULE_DEFAULTS.get(job_type, {})


SlotKind: TypeAlias = Literal[
    "text", "number", "duration", "flag", "list", "map", "floats", "stanza", "stanzas", "named_stanzas"
]
"""The kinds of fields: `floats` is a map whose numbers are floats, the last three have stanzas."""


_NAMED_KINDS: Final[dict[tuple[type[Struct], str], SlotKind]] = {(TaskView, "Config"): "floats"}


class Slot(NamedTuple):
    """A field of a stanza in a dialect."""

    name: str
    kind: SlotKind
    of: type[Struct] | None
    """The type of a stanza in it."""
    default: bytes
    also: bytes
    """A value that counts as absent; empty where none does."""
    is_kept: bool = True
    """Nomad stores the given value; else its default."""
    is_stored: bool = True
    """The stored job has the field at all."""


@cache
def slots(stanza: type[Struct], dialect: Dialect) -> Mapping[str, Slot | None]:
    """Return the fields of a stanza in the order of the wire; None for those that only other Nomads have.

    >>> from taskfold.model.dialect import DIALECTS
    >>> slots(TaskGroup, DIALECTS["0.5.6"])["Count"].default, slots(TaskGroup, DIALECTS["0.5.6"])["Update"]
    (b'1', None)
    """
    slots_by_name: dict[str, Slot | None] = {}
    info = types.type_info(stanza)
    assert isinstance(info, types.StructType)
    for field in sorted(info.fields, key=lambda each: each.encode_name):
        name, (shape, since, until) = field.encode_name, _marks(field.type)
        if not dialect.has(since) or until:
            slots_by_name[name] = None
            continue
        kind, of, zero = _kind(shape)
        default = _Default(zero)
        for each in _DEFAULTS.get((stanza, name), ()):
            if dialect.has(each.since):
                default = each
        not_kept = _NOT_KEPT.get((stanza, name))
        slots_by_name[name] = Slot(
            name=name,
            kind=_NAMED_KINDS.get((stanza, name)) or ("duration" if field.name.endswith("_ns") else kind),
            of=of,
            default=default.text.encode(),
            also=default.also.encode(),
            is_kept=not_kept is None or not dialect.has(not_kept),
        )
    slots_by_name.update((name, None) for where, name in _NOT_STORED if where is stanza)
    for (where, name), (of, since) in _OF_THE_API.items():
        if where is stanza:
            is_known = dialect.has(since)
            slots_by_name[name] = Slot(name, "stanza", of, b"null", b"", is_stored=False) if is_known else None
    return slots_by_name


def has_field(stanza: type[Struct], name: str, dialect: Dialect) -> bool:
    """Return whether the stanzas of a dialect have this field."""
    return slots(stanza, dialect)[name] is not None


def keeps(stanza: type[Struct], name: str, dialect: Dialect) -> bool:
    """Return whether a dialect's Nomad stores this field."""
    slot = slots(stanza, dialect)[name]
    return slot is not None and slot.is_kept


def _marks(shape: types.Type) -> tuple[types.Type, str, str]:
    """Return a type without its marks, since which Nomad there is such a field, and which was the last to have it."""
    since, until = "0.1.0", ""
    while isinstance(shape, types.Metadata):
        marks = shape.extra_json_schema or {}
        since, until = marks.get("x-since", since), marks.get("x-until", until)
        shape = shape.type
    return shape, since, until


_SCALARS: Final[tuple[tuple[type[types.Type], SlotKind, str], ...]] = (
    (types.IntType, "number", "0"),
    (types.BoolType, "flag", "false"),
    (types.StrType, "text", '""'),
)


def _kind(shape: types.Type) -> tuple[SlotKind, type[Struct] | None, str]:
    """Return the kind of a view's type, the stanza that it holds, and Go's zero value of it."""
    if isinstance(shape, types.UnionType):  # with None: what Go has a pointer, a list or a map for
        inner, _, _ = _marks(next(each for each in shape.types if not isinstance(each, types.NoneType)))
        return (*_kind(inner)[:2], "null")
    for scalar, kind, zero in _SCALARS:
        if isinstance(shape, scalar):
            return kind, None, zero
    if isinstance(shape, types.StructType):
        return "stanza", shape.cls, "null"
    if isinstance(shape, types.VarTupleType):
        of = _stanza(shape.item_type)
        return ("stanzas" if of else "list"), of, "null"
    assert isinstance(shape, types.DictType)
    of = _stanza(shape.value_type)
    return ("named_stanzas" if of else "map"), of, "null"


def _stanza(shape: types.Type) -> type[Struct] | None:
    """Return the stanza that is what a list or a map holds."""
    inner, _, _ = _marks(shape)
    if isinstance(inner, types.UnionType):
        inner = next(each for each in inner.types if not isinstance(each, types.NoneType))
    return inner.cls if isinstance(inner, types.StructType) else None
