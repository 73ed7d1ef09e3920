"""Checking a log, and repairing a damaged one by copying its good records. The log itself is never changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import UNSET, Struct

from taskfold.log.contract import Ledger, StoredLog, is_remnant
from taskfold.log.damage import Damage, LogCheck, Scanned
from taskfold.log.registry import LogLike, check_new, log_source, open_log
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError
from taskfold.model.record import Record

__all__ = ["Damage", "LogCheck", "Repair", "check_log", "checkpoint_parts", "repair"]


class Repair(Struct, kw_only=True):
    """The result of a repair: how much was copied, and what was not."""

    check: LogCheck
    records: int = 0
    """The number of records copied."""
    left_out: dict[str, tuple[int, int]] = {}
    """By allocation: the first version that is missing, and the number of intact records after it that were not copied.
    """

    @property
    def is_whole(self) -> bool:
        """Whether every record was copied."""
        return self.check.is_whole and not self.left_out


def check_log(log: LogLike) -> LogCheck:
    """Check a whole log, by name or open, and return all damage. O(records); memory as of an open log (`Ledger`).

    A damaged header counts as damage; the check then has an empty dialect. Raises SourceError for a file that is no
    log, or has an unknown format.
    """
    check, scanned = log_source(log).scan(is_thorough=True)
    for _ in _whole_records(check, scanned):
        pass
    return check


def repair(log: LogLike, into: str | Path, dialect: str | Dialect | None = None) -> Repair:
    """Copy the good records of a log into a new log, with new positions. O(records).

    Of an allocation that lacks a record, only the records before the gap are copied: the later ones would fold to a
    wrong state. ``dialect`` is needed when the header cannot be read. Raises SourceError for a file that is no log, and
    LogError when the new log cannot be written, or exists.
    """
    check, scanned = log_source(log).scan(dialect)
    check_new(into)
    result = Repair(check=check)
    target = open_log(into, check.header.dialect, check.header.region)
    try:
        _copy(_whole_records(check, scanned), target, result)
    except BaseException:
        target.roll_back()
        raise
    target.close()
    return result


def _copy(records: Iterator[Record], target: StoredLog, result: Repair) -> None:
    versions: dict[str, int] = {}
    is_compacted = result.check.header.compacted is not UNSET
    for record in records:
        version = versions.get(record.alloc, 0)
        # The record that a compaction leaves holds the allocation's last state; after damage it would hide the loss.
        is_first = is_compacted and not version and is_remnant(record)
        follows = record.alloc not in result.left_out and (record.version == version + 1 or is_first)
        # A log takes an ID once: a second record with it is left out, and reported as damage.
        is_unseen = not (isinstance(record.id, str) and target.knows(record.id))
        if not (follows and is_unseen and target.append(record.alloc, record.version - 1, [record], sync=False)):
            missing, count = result.left_out.get(record.alloc, (version + 1, 0))
            result.left_out[record.alloc] = missing, count + 1
            continue
        versions[record.alloc] = record.version
        result.records += 1


def _whole_records(check: LogCheck, scanned: Iterator[Scanned]) -> Iterator[Record]:
    """Yield the intact records; add damage and missing records to the check."""
    ledger = Ledger(check.header)
    for item in scanned:
        if isinstance(item, Damage):
            check.add(item)
            continue
        if not ledger.follows(item):
            version = ledger.versions.get(item.alloc, 0)
            message = (
                f"expected Seq {ledger.seq + 1} and Version {version + 1} of allocation {item.alloc}, "
                f"found Seq {item.seq} and Version {item.version}"
            )
            check.add(Damage(message=message, seq=item.seq))
        if _has_used_id(ledger, item):
            check.add(Damage(message=f"the ID {item.id!r} was used by an earlier record", seq=item.seq))
        ledger.note_placed([item])
        check.records += 1
        check.newest = max(check.newest, item.seq)
        yield item


def _has_used_id(ledger: Ledger, record: Record) -> bool:
    """Tell whether an earlier record has this record's ID, even with another event."""
    return ledger.digest_of(record.id) is not None if isinstance(record.id, str) else ledger.is_repeat(record)


def checkpoint_parts(log: LogLike) -> Iterator[bytes]:
    """Yield the parts of a log's checkpoint, up to the first that is damaged or cannot be read."""
    with suppress(LogError):
        yield from log_source(log).checkpoint_parts()
