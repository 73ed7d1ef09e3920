"""The frames of ``/v1/event/stream``. Their JSON and their schema are made from these structs."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from taskfold.http.answers import Uint64
from taskfold.nomad.importing.writes import WRITE_TYPES

__all__ = ["HEARTBEAT", "TOPIC", "Reason", "StreamError", "StreamEvent", "StreamFrame", "StreamPayload", "frame_text"]

TOPIC: Final = "Allocation"

Reason: TypeAlias = Literal["gone", "ahead", "slow", "unreadable"]
"""The errors that end a stream; `taskfold.http.nomad.stream` describes each."""

_Text: TypeAlias = Annotated[Raw, msgspec.Meta(extra_json_schema={"type": "string"})]
"""A text that is JSON already."""
_Allocation: TypeAlias = Annotated[Raw, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/Allocation"})]
"""An allocation that is JSON already; its schema depends on the dialect."""


class StreamPayload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The allocation after the write."""

    Allocation: _Allocation


class StreamEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A write of an allocation."""

    FilterKeys: tuple[_Text, ...]
    """Its job and its deployment."""
    Index: Uint64
    Key: _Text
    Namespace: _Text
    Payload: StreamPayload
    Topic: Literal["Allocation"]
    Type: Annotated[str, msgspec.Meta(extra_json_schema={"examples": sorted(WRITE_TYPES)})]
    """The type of the write; in a mirror, that of the source."""


class StreamError(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The error that ends a stream."""

    Reason: Reason
    Message: str
    Oldest: Uint64
    """The first index from which on the log has every record."""
    Newest: Uint64
    Position: Uint64 | UnsetType = UNSET
    """The position to continue from, with from=Position."""


class StreamFrame(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line of the stream: a heartbeat is empty, and an error is the last one."""

    Events: tuple[StreamEvent, ...] = ()
    Index: Uint64 | UnsetType = UNSET
    Error: StreamError | UnsetType = UNSET


_encode: Final = msgspec.json.Encoder().encode_lines


def frame_text(frame: StreamFrame) -> bytes:
    r"""Return the line of a frame. O(its length).

    >>> frame_text(StreamFrame())
    b'{}\n'
    """
    return _encode((frame,))


HEARTBEAT: Final = frame_text(StreamFrame())
