"""Upcasting: records of older formats are converted to the current one, one format at a time, before they are decoded.

A step says which event types its format changed, and how; it works on fields as JSON text, so that numbers keep their
spelling. The chain is checked when this module is imported: a format without a step to the next is a defect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw

from taskfold.model.record import FORMAT, Record

__all__ = ["UPCASTS", "Upcast", "check_chain", "record_decoder", "upcaster"]

Fields: TypeAlias = dict[str, Raw]
"""The fields of an event on the wire, as JSON text."""


class Upcast(NamedTuple):
    """The change from one format to the next."""

    source: int
    """The older format."""
    events: Mapping[str, Callable[[Fields], Fields]]
    """By wire type, the conversion of an event's fields; other types are unchanged."""


def _with_reason(fields: Fields) -> Fields:
    """Format 2: a Collected event has a reason, which format 1 lacked."""
    return {**fields, "Reason": Raw(b'""')}


UPCASTS: Final = (
    Upcast(1, {"Collected": _with_reason}),
    # Format 3: the header has a UUID, and databases have a head; no event changed.
    Upcast(2, {}),
)


def check_chain(upcasts: Sequence[Upcast], newest: int) -> None:
    """Check that a step leads from each format to the next, up to the newest. Raises ValueError.

    >>> check_chain([Upcast(1, {}), Upcast(3, {})], newest=4)
    Traceback (most recent call last):
    ...
    ValueError: upcasts lead on from the formats 1, 3, and should from 1, 2, 3
    """
    sources, needed = [upcast.source for upcast in upcasts], list(range(1, newest))
    if sources != needed:
        both = " and should from ".join(", ".join(map(str, formats)) + "," for formats in (sources, needed))
        raise ValueError(f"upcasts lead on from the formats {both.removesuffix(',')}")


check_chain(UPCASTS, FORMAT)


def upcaster(source: int, upcasts: Sequence[Upcast] = UPCASTS) -> Callable[[bytes], bytes] | None:
    """Return a converter of JSON records (one a line) from an older format to the current; None for the current.

    A text without a changed event type is returned as it is. The converter raises msgspec.DecodeError for invalid JSON.
    """
    steps = [upcast for upcast in upcasts if upcast.source >= source]
    if not steps:
        return None
    if not any(step.events for step in steps):
        return lambda text: text
    # The bare name, since a log that another program has reformatted may have spaces around it.
    names = "|".join(sorted({re.escape(name) for step in steps for name in step.events}))
    concerned = re.compile(rb'"(?:%b)"' % names.encode()).search
    decode = msgspec.json.Decoder(Fields).decode

    def bring(text: bytes) -> bytes:
        if not concerned(text):
            return text
        if b"\n" in text:
            return b"\n".join(map(bring, text.split(b"\n")))
        record = decode(text)
        event = decode(record["Event"])
        for step in steps:
            change = step.events.get(msgspec.json.decode(event["Type"], type=str))
            event = event if change is None else change(event)
        record["Event"] = Raw(msgspec.json.encode(event))
        return msgspec.json.encode(record)

    return bring


def record_decoder(source: int) -> Callable[[bytes], Record]:
    """Return a decoder for the text of records of a format. It raises msgspec.DecodeError for an invalid one."""
    decode = msgspec.json.Decoder(Record).decode
    bring = upcaster(source)

    def decoded(text: bytes) -> Record:
        try:
            if not text.isascii():
                text.decode()  # the decoder does not look into raw JSON text
            return decode(text if bring is None else bring(text))
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None
        except KeyError as error:
            raise msgspec.DecodeError(f"Object missing required field `{error.args[0]}`") from None

    return decoded
