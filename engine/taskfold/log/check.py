"""Checking a log, and copying what is good of one that is damaged. Nothing of the log itself is ever changed."""

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
    """What was copied of a log, and what was not."""

    check: LogCheck
    records: int = 0
    """How many records were copied."""
    left_out: dict[str, tuple[int, int]] = {}
    """The allocations that lack records: the first version that is not there, and how many whole ones came after it."""

    @property
    def is_whole(self) -> bool:
        """Whether everything was copied."""
        return self.check.is_whole and not self.left_out


def check_log(log: LogLike) -> LogCheck:
    """Return what is wrong with a log, named or open, all of it. O(records); memory as of an open log (`Ledger`).

    A header that is damaged is damage, too: then the check has an empty dialect. Raises SourceError for what is no log,
    or is of a format that is not known here.
    """
    check, scanned = log_source(log).scan(is_thorough=True)
    for _ in _whole_records(check, scanned):
        pass
    return check


def repair(log: LogLike, into: str | Path, dialect: str | Dialect | None = None) -> Repair:
    """Copy what is good of a log into a new one, with positions of its own. O(records).

    Of an allocation that lacks a record only those before it are copied, since the others would mean something else.
    ``dialect`` is needed where the header cannot be read. Raises SourceError for what is no log, and LogError when the
    new one cannot be written, or exists.
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
        # What a compaction left of an allocation has its last state; after damage it would hide what is lost.
        is_first = is_compacted and not version and is_remnant(record)
        follows = record.alloc not in result.left_out and (record.version == version + 1 or is_first)
        # A log takes a record once: a second one of the same ID is left out, and reported as damage.
        is_unseen = not (isinstance(record.id, str) and target.knows(record.id))
        if not (follows and is_unseen and target.append(record.alloc, record.version - 1, [record], sync=False)):
            missing, count = result.left_out.get(record.alloc, (version + 1, 0))
            result.left_out[record.alloc] = missing, count + 1
            continue
        versions[record.alloc] = record.version
        result.records += 1


def _whole_records(check: LogCheck, scanned: Iterator[Scanned]) -> Iterator[Record]:
    """Yield the records that are whole; add to the check what is damaged, and where records are missing."""
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
            check.add(Damage(message=f"the ID {item.id!r} is that of a record before", seq=item.seq))
        ledger.note_placed([item])
        check.records += 1
        check.newest = max(check.newest, item.seq)
        yield item


def _has_used_id(ledger: Ledger, record: Record) -> bool:
    """Tell whether the ID of a record is that of one before it, whatever that recorded."""
    return ledger.digest_of(record.id) is not None if isinstance(record.id, str) else ledger.is_repeat(record)


def checkpoint_parts(log: LogLike) -> Iterator[bytes]:
    """Yield the parts of the checkpoint of a log; none from where they are damaged, or cannot be read."""
    with suppress(LogError):
        yield from log_source(log).checkpoint_parts()
