"""Listings: records as lines without seals, as `taskfold log --format jsonl` prints them, to be read back as a source.

The first line tells the format and the dialect. A listing may have been filtered, so that positions and versions may
have holes; it is no log, since nothing shows whether it is whole, and no log is opened from it.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from taskfold.log.contract import check_format
from taskfold.model.dialect import dialect_of
from taskfold.model.errors import DialectError, LogError, SourceError
from taskfold.model.record import FORMAT, LogHeader

__all__ = ["is_listing", "listing_header", "listing_line"]


class ListingLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="of", tag="records"):
    """The first line of a listing."""

    taskfold: int
    """The version of the record format."""
    dialect: str


def listing_line(dialect: str) -> bytes:
    r"""Return the first line of a listing of records of a dialect, without its newline.

    >>> listing_line("1.1.2")
    b'{"taskfold":3,"dialect":"1.1.2","of":"records"}'
    """
    return msgspec.json.encode({"taskfold": FORMAT, "dialect": dialect, "of": "records"})


def is_listing(line: bytes) -> bool:
    """Tell whether a line that begins as the header of a log is the first one of a listing."""
    return b'"of":"records"' in line.replace(b" ", b"")


def listing_header(line: bytes, name: str) -> LogHeader:
    """Return the header of the log that a listing was made of, as far as it tells. Raises SourceError."""
    try:
        listing = msgspec.json.decode(line, type=ListingLine)
        check_format(listing.taskfold)
        dialect_of(listing.dialect)
    except (msgspec.DecodeError, UnicodeDecodeError, LogError, DialectError) as error:
        raise SourceError(name, f"not the first line of a listing of records: {error}", line=1) from None
    return LogHeader(taskfold=listing.taskfold, dialect=listing.dialect)
