"""The top-level fields of an allocation as JSON text by name: which there are, reading them, and writing them.

What a dialect sends is one table, `ALLOCATION_FIELDS`. Writing is exact: keys in alphabetical order, every key (0.5.x)
or none that is empty (1.1.2), zero values as that Nomad writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from taskfold.fold.allocation import (
    CLIENT_DESCRIPTIONS,
    Allocation,
    AllocationState,
    client_status,
    current_fields,
)
from taskfold.fold.lifecycle import PENDING
from taskfold.model.dialect import Dialect
from taskfold.model.errors import DecodeError

__all__ = [
    "ALLOCATION_FIELDS",
    "DEFAULT_NAMESPACE",
    "FROM_LOG",
    "FROM_RECORDS",
    "FROM_TASKS",
    "STUB_ONLY",
    "AllocationField",
    "allocation_fields",
    "body_to_json",
    "compact",
    "derived_fields",
    "escape_as_go",
    "fields_from_json",
    "fields_to_json",
    "is_empty",
    "is_untold",
    "job_in_stub",
    "object_to_json",
    "same_json",
    "shown_fields",
    "zero_fields",
]

DEFAULT_NAMESPACE: Final = "default"
"""The namespace of an allocation or a query without one (since Nomad 0.7.0)."""


class AllocationField(NamedTuple):
    """A top-level field of an allocation."""

    zero: bytes
    """Go's zero value as JSON."""
    since: str
    in_stub: str = ""
    """Since which Nomad the stubs of a list have it; empty when they do not."""
    in_body: bool = True


_NO_TRANSITION: Final = b'{"ForceReschedule":null,"Migrate":null,"Reschedule":null}'

ALLOCATION_FIELDS: Final[dict[str, AllocationField]] = {
    "AllocModifyIndex": AllocationField(b"0", "0.3.0"),
    "AllocStates": AllocationField(b"null", "0.11.2"),
    "AllocatedResources": AllocationField(b"null", "0.9.0"),
    "ClientDescription": AllocationField(b'""', "0.1.0", "0.1.0"),
    "ClientStatus": AllocationField(b'""', "0.1.0", "0.1.0"),
    "CreateIndex": AllocationField(b"0", "0.1.0", "0.1.0"),
    "CreateTime": AllocationField(b"0", "0.3.0", "0.3.0"),
    "DeploymentID": AllocationField(b'""', "0.6.0"),
    "DeploymentStatus": AllocationField(b"null", "0.6.0", "0.6.0"),
    "DesiredDescription": AllocationField(b'""', "0.1.0", "0.1.0"),
    "DesiredStatus": AllocationField(b'""', "0.1.0", "0.1.0"),
    "DesiredTransition": AllocationField(_NO_TRANSITION, "0.8.0", "0.8.4"),
    "EvalID": AllocationField(b'""', "0.1.0", "0.1.0"),
    "FollowupEvalID": AllocationField(b'""', "0.8.0", "0.8.0"),
    "ID": AllocationField(b'""', "0.1.0", "0.1.0"),
    "Job": AllocationField(b"null", "0.1.0"),
    "JobID": AllocationField(b'""', "0.1.0", "0.1.0"),
    "JobType": AllocationField(b'""', "0.9.0", "0.9.0", in_body=False),
    "JobVersion": AllocationField(b"0", "0.6.0", "0.6.0", in_body=False),
    "Metrics": AllocationField(b"null", "0.1.0"),
    "ModifyIndex": AllocationField(b"0", "0.1.0", "0.1.0"),
    "ModifyTime": AllocationField(b"0", "0.7.1", "0.7.1"),
    "Name": AllocationField(b'""', "0.1.0", "0.1.0"),
    "Namespace": AllocationField(b'""', "0.7.0", "0.9.0"),
    "NetworkStatus": AllocationField(b"null", "1.0.0"),
    "NextAllocation": AllocationField(b'""', "0.8.0"),
    "NodeID": AllocationField(b'""', "0.1.0", "0.1.0"),
    "NodeName": AllocationField(b'""', "0.9.2", "0.9.2"),
    "PreemptedAllocations": AllocationField(b"null", "0.9.0", "0.9.2"),
    "PreemptedByAllocation": AllocationField(b'""', "0.9.0", "0.9.2"),
    "PreviousAllocation": AllocationField(b'""', "0.5.0"),
    "RescheduleTracker": AllocationField(b"null", "0.8.0", "0.8.4"),
    "Resources": AllocationField(b"null", "0.1.0"),
    "SharedResources": AllocationField(b"null", "0.5.0"),
    "TaskGroup": AllocationField(b'""', "0.1.0", "0.1.0"),
    "TaskResources": AllocationField(b"null", "0.1.0"),
    "TaskStates": AllocationField(b"null", "0.2.0", "0.2.0"),
}
"""Every top-level field of the dialects, in the order of the wire. Source: structs.go Allocation and AllocListStub."""


FROM_RECORDS: Final = ("ModifyIndex", "TaskStates")
"""Fields that follow from the records of a log."""

FROM_TASKS: Final = ("ClientDescription", "ClientStatus")
"""Fields that follow from the tasks of a new allocation; an update may tell them otherwise (`lost`, say)."""

FROM_LOG: Final = ("AllocModifyIndex", "CreateIndex", "ID", *FROM_RECORDS)
"""Fields that a log gives, and that nobody can update."""


@cache
def allocation_fields(dialect: Dialect, *, stub: bool = False) -> tuple[str, ...]:
    """Return the top-level fields that a dialect's allocations (or its stubs in a list) have, in the order of the wire.

    >>> from taskfold.model.dialect import DIALECTS
    >>> len(allocation_fields(DIALECTS["0.5.6"])), len(allocation_fields(DIALECTS["0.5.6"], stub=True))
    (21, 14)
    """

    def has(field: AllocationField) -> bool:
        since = field.in_stub if stub else field.since
        return (field.in_body or stub) and since != "" and dialect.has(since)

    return tuple(name for name, field in ALLOCATION_FIELDS.items() if has(field))


STUB_ONLY: Final = frozenset(name for name, field in ALLOCATION_FIELDS.items() if not field.in_body)
"""Fields that only stubs have: parts of the Job under names of their own."""


@cache
def zero_fields(dialect: Dialect, *, stub: bool = False) -> Mapping[str, bytes]:
    """Return the zero value of each field that a dialect's allocations (or its stubs in a list) have, as JSON text."""
    return {name: ALLOCATION_FIELDS[name].zero for name in allocation_fields(dialect, stub=stub)}


def is_empty(name: str, text: bytes) -> bool:
    """Return whether this JSON text is an empty value of the field, which 1.1.2 leaves out.

    >>> is_empty("NodeName", b'""'), is_empty("NodeName", b'"a"'), is_empty("PreemptedAllocations", b"[]")
    (True, False, True)
    """
    field = ALLOCATION_FIELDS.get(name)
    return text in _EMPTY or (field is not None and text == field.zero)


_EMPTY: Final = frozenset((b'""', b"0", b"null", b"false", b"[]", b"{}"))
_EMPTY_LENGTH: Final = max(map(len, _EMPTY)) + 1


def is_untold(name: str, text: bytes, dialect: Dialect) -> bool:
    """Return whether this JSON text means the same as an absent field in a dialect."""
    if dialect.omits_empty:
        return is_empty(name, text)
    field = ALLOCATION_FIELDS.get(name)
    return field is not None and text == field.zero


def same_json(one: bytes, other: bytes) -> bool:
    """Return whether two JSON texts have the same value; the order of keys does not matter, since Go's maps have none.

    Texts that cannot be read (a number that no float can hold, say) are the same when they are equal. A number that a
    float cannot hold is the same as the float that is next to it: many a program makes one of it.

    >>> same_json(b"1795422535575760873", b"1795422535575760900"), same_json(b"12", b"13")
    (True, False)
    """
    if one == other:
        return True
    if one.isdigit() and other.isdigit():
        return len(one) > _EXACT_DIGITS and float(one) == float(other)
    if one[:1] == b'"' == other[:1] and one.find(b"\\") < 0 and other.find(b"\\") < 0:
        return False  # texts that are written as they are
    try:
        return bool(msgspec.json.decode(one) == msgspec.json.decode(other))
    except (msgspec.DecodeError, RecursionError):
        return False


_EXACT_DIGITS: Final = 15
"""Every number of so many digits is a float of its own."""


def compact(text: bytes | str | Raw) -> bytes:
    """Return a JSON text without the white space between its parts, which Nomad does not write. O(length).

    A text without line breaks and tabs, and without a space behind its first keys, is returned as it is.
    Raises msgspec.DecodeError where the text is no JSON; what is returned as it is was not looked at further.
    """
    raw = text.encode() if isinstance(text, str) else bytes(text)
    # None of these occurs inside a JSON string; a writer that puts spaces between parts does so from the first key on.
    # `find` is several times as fast as `in`, which tries a number first.
    if raw.find(b"\n") < 0 and raw.find(b"\t") < 0 and raw.find(b"\r") < 0 and raw.find(b'": ', 0, _HEAD) < 0:
        return raw
    return msgspec.json.format(raw, indent=-1)


_HEAD: Final = 256
"""How much of a text is looked at for spaces between its parts."""


_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode


def fields_from_json(text: bytes | str | Raw) -> dict[str, bytes]:
    """Return the top-level fields of an allocation's JSON: the text of each, by name. O(length).

    Raises DecodeError when the text is not a JSON object, and, naming the field, where it is no UTF-8.
    """
    try:
        whole = compact(text)
        fields = {name: bytes(raw) for name, raw in _decode_object(whole).items()}
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        msg = f"not the JSON of an allocation: {error}"
        raise DecodeError(msg) from None
    if not whole.isascii():
        for name, value in fields.items():
            _check_utf8(name, value)
    return fields


def _check_utf8(name: str, text: bytes) -> None:
    """Check what stays JSON text, which the decoder does not look into. Raises DecodeError."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"$.{name}: {error}") from None


def fields_to_json(fields: Mapping[str, bytes], names: tuple[str, ...] | None = None) -> bytes:
    """Return the JSON object of these fields (of those that are named), with what Go escapes escaped. O(length)."""
    return escape_as_go(object_to_json(fields, tuple(fields) if names is None else names))


def escape_as_go(out: bytes) -> bytes:
    """Return a JSON text with what Go escapes escaped. O(length)."""
    # Go escapes U+2028 and U+2029, msgspec does not. One byte is searched first: that is 30 times faster than three.
    if b"\xe2" in out:
        out = out.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return out


def object_to_json(texts: Mapping[str, bytes], names: tuple[str, ...]) -> bytes:
    """Return the JSON object of these keys, in alphabetical order, with the text of each. O(length).

    >>> object_to_json({"State": b'"dead"', "Failed": b"true", "Events": b"null"}, ("State", "Failed"))
    b'{"Failed":true,"State":"dead"}'
    """
    template, pick = _layout(names)
    return template % pick(texts)


@lru_cache(maxsize=256)
def _layout(names: tuple[str, ...]) -> tuple[bytes, Callable[[Mapping[str, bytes]], object]]:
    """Return the template of an object with these keys, and what gets their texts: few objects differ in their keys."""
    ordered = sorted(names)
    keys = [msgspec.json.encode(name).replace(b"%", b"%%") for name in ordered]
    template = b"{" + b",".join([key + b":%b" for key in keys]) + b"}"
    return template, itemgetter(*ordered) if ordered else lambda _: ()


def shown_fields(state: Allocation | AllocationState, dialect: Dialect) -> dict[str, bytes]:
    """Return the top-level fields as they are now, with those that follow from the tasks that are shown. O(fields)."""
    if isinstance(state, Allocation):
        tasks: dict[str, Any] = {name: task for name, task in state.tasks.items() if not task.seldom.hidden}
    else:
        tasks = {name: task for name, task in state.tasks.items() if not task.hidden}
    return derived_fields(tasks, dialect) | current_fields(state.placed_body, state.updates)


def derived_fields(tasks: Mapping[str, Any], dialect: Dialect) -> dict[str, bytes]:
    """Return the top-level fields that follow from the tasks (`Task`, `TaskState` or `WireTask`), as JSON text."""
    status = client_status(tasks.values()) or PENDING
    return _DERIVED[status, dialect.describes_status and bool(tasks)].copy()


_DERIVED: Final = {
    (status, is_described): {
        "ClientStatus": b'"%b"' % status.encode(),
        "ClientDescription": b'"%b"' % (description if is_described else "").encode(),
    }
    for status, description in CLIENT_DESCRIPTIONS.items()
    for is_described in (False, True)
}


class _JobInStub(msgspec.Struct, frozen=True):
    """The parts of the Job that a stub has."""

    Type: Raw = Raw(ALLOCATION_FIELDS["JobType"].zero)
    Version: Raw = Raw(ALLOCATION_FIELDS["JobVersion"].zero)


_decode_job: Final = msgspec.json.Decoder(_JobInStub).decode


def job_in_stub(fields: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the fields of a stub that are parts of the Job; none without a Job. O(length of the job)."""
    job = fields.get("Job", b"null")
    if not job.startswith(b"{"):
        return {}
    parts = _decode_job(job)
    return {"JobVersion": bytes(parts.Version), "JobType": bytes(parts.Type)}


def body_to_json(fields: dict[str, bytes], dialect: Dialect, *, is_foreign: bool, has_job: bool = True) -> bytes:
    """Return the body of these fields in a dialect: what nobody knows, and what that dialect has. O(length).

    ``is_foreign`` says that they were told in another dialect, so that some of them may not belong here. Without
    ``has_job`` the Job is left out. The dictionary is changed.
    """
    zeros = zero_fields(dialect)
    if is_foreign or not fields.keys().isdisjoint(STUB_ONLY):
        for name in (fields.keys() & ALLOCATION_FIELDS.keys()) - zeros.keys():
            del fields[name]
    if dialect.omits_empty:
        if fields.get("DesiredTransition") == _NO_TRANSITION:
            del fields["DesiredTransition"]
        names = [name for name, text in fields.items() if len(text) >= _EMPTY_LENGTH or text not in _EMPTY]
    else:
        fields = {**zeros, **fields}
        names = list(fields)
    if not has_job and "Job" in names:
        names.remove("Job")
    return fields_to_json(fields, tuple(names))
