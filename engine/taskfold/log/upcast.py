"""Upcasting: records of older formats are brought to the present one, a format at a time, before anybody reads them.

A step says what a format changed in which types of events, on the fields as JSON text, so that numbers stay what they
were written as. The chain is checked when this module is imported: a format that nothing leads on from is a defect.
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
    """What a format changed."""

    source: int
    """The format before; this leads to the next."""
    events: Mapping[str, Callable[[Fields], Fields]]
    """What becomes of the fields of an event, by its wire type; the other types stay as they are."""


def _with_reason(fields: Fields) -> Fields:
    """Format 2: what was collected says why, which format 1 did not tell."""
    return {**fields, "Reason": Raw(b'""')}


UPCASTS: Final = (
    Upcast(1, {"Collected": _with_reason}),
    # Format 3: the header has a UUID, and databases have a head; no event changed.
    Upcast(2, {}),
)


def check_chain(upcasts: Sequence[Upcast], newest: int) -> None:
    """Check that one step leads on from each format to the newest one. Raises ValueError.

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
    """Return what brings the text of records of an older format to the present, one a line; None for the present.

    A text without an event that changed is returned as it is. Raises msgspec.DecodeError for one that is no object.
    """
    steps = [upcast for upcast in upcasts if upcast.source >= source]
    if not steps:
        return None
    if not any(step.events for step in steps):
        return lambda text: text
    # The name alone, since there may be spaces around it in a log that something else has formatted anew.
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
    """Return what decodes the text of a record of a format. Raises msgspec.DecodeError for one that is none."""
    decode = msgspec.json.Decoder(Record).decode
    bring = upcaster(source)

    def decoded(text: bytes) -> Record:
        try:
            if not text.isascii():
                text.decode()  # what stays JSON text is not looked into by the decoder
            return decode(text if bring is None else bring(text))
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None
        except KeyError as error:
            raise msgspec.DecodeError(f"Object missing required field `{error.args[0]}`") from None

    return decoded
