"""The base of all views: the spelling of attributes on the wire, and the Nomad versions of a field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

import msgspec

__all__ = ["Instant", "WireView", "one_of", "since", "until"]

Instant: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""A point in time as RFC 3339 text, up to nanoseconds: more than Python's datetime can hold."""

_UNITS: Final = ("_ns", "_mhz")
"""Units of our own at the end of an attribute's name, which Nomad's name lacks. `_mb` stays: Nomad writes it too."""

_CAPITALS: Final = {
    "cpu": "CPU",
    "csi": "CSI",
    "dns": "DNS",
    "fs": "FS",
    "grpc": "GRPC",
    "id": "ID",
    "ids": "IDs",
    "iops": "IOPS",
    "ip": "IP",
    "ipv6": "IPv6",
    "mb": "MB",
    "tls": "TLS",
}
"""Words that Nomad capitalises in its own way."""


def wire_name(attribute: str) -> str:
    """Return Nomad's name of an attribute.

    >>> wire_name("kill_timeout_ns"), wire_name("max_file_size_mb"), wire_name("job_id")
    ('KillTimeout', 'MaxFileSizeMB', 'JobID')
    """
    for unit in _UNITS:
        attribute = attribute.removesuffix(unit)
    return "".join(_CAPITALS.get(word, word.capitalize()) for word in attribute.split("_"))


class WireView(msgspec.Struct, frozen=True, rename=wire_name):
    """The base of every view: read-only, unknown keys are ignored, and each field has a default.

    A number, text or flag that is absent reads as zero; what Nomad may send as null (pointers, lists, maps) reads as
    None when it is null or absent. Lists read as tuples.
    """


def since(version: str) -> msgspec.Meta:
    """Say of which Nomad, the oldest one, a field is known: the JSON Schema of an older dialect leaves it out.

    Where that is the Nomad of a recording (0.5.6, 1.1.2), the field was first seen there: it may have come with any
    version after the recorded one before. Any other version is the one that it came with. A field without a mark is in
    0.5.0, or as old as the object that it is in.

    >>> since("0.7.0").extra_json_schema
    {'x-since': '0.7.0'}
    """
    return msgspec.Meta(extra_json_schema={"x-since": version})


def until(version: str) -> msgspec.Meta:
    """Say of which Nomad, the newest one, a field is known: the JSON Schema of a newer dialect leaves it out.

    Where that is 0.5.0, only the documented sample has it.
    """
    return msgspec.Meta(extra_json_schema={"x-until": version})


def one_of(meanings: Mapping[str, str]) -> msgspec.Meta:
    """Say which texts a field may have, and what each means; the JSON Schema refuses others, reading does not.

    Empty is fine as well: some write it while nothing is known.
    """
    described = "\n".join(f"{text}: {meaning}" for text, meaning in meanings.items())
    return msgspec.Meta(description=described, extra_json_schema={"enum": ["", *meanings]})
