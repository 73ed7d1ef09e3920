"""Checking a log, and copying what is good of one that is damaged. Nothing of the log itself is ever changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import UNSET, Struct

from taskfold.log.contract import Ledger, StoredLog
from taskfold.log.lines import is_database, open_bytes, readable
from taskfold.log.ndjson_lines import is_header
from taskfold.log.opening import is_new_log, is_postgres, open_log, shown_name
from taskfold.log.scan import Damage, LogCheck, Scanned, scan
from taskfold.model.dialect import Dialect
from taskfold.model.errors import LogError
from taskfold.model.record import Collected, Record

__all__ = ["Damage", "LogCheck", "Repair", "check_log", "is_log", "kept_checkpoint", "repair", "scan"]

_PEEK_BYTES: Final = 64


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


def check_log(name: str | Path) -> LogCheck:
    """Return what is wrong with a log, all of it. O(records); memory as of an open log (`Ledger`).

    A header that is damaged is damage, too: then the check has an empty dialect. Raises SourceError for what is no log,
    or is of a format that is not known here.
    """
    check, scanned = scan(str(name), None, is_thorough=True)
    for _ in _checked(check, scanned):
        pass
    return check


def repair(name: str | Path, into: str | Path, dialect: str | Dialect | None = None) -> Repair:
    """Copy what is good of a log into a new one, with positions of its own. O(records).

    Of an allocation that lacks a record only those before it are copied, since the others would mean something else.
    ``dialect`` is needed where the header cannot be read. Raises SourceError for what is no log, and LogError when the
    new one cannot be written, or exists.
    """
    check, scanned = scan(str(name), dialect)
    if not is_new_log(into):
        raise LogError(f"{shown_name(str(into))}: exists, and nothing is ever overwritten: name another")
    done = Repair(check=check)
    target = open_log(into, check.header.dialect, check.header.region)
    try:
        _copy(_checked(check, scanned), target, done)
    except BaseException:
        target.roll_back()
        raise
    target.close()
    return done


def _copy(records: Iterator[Record], target: StoredLog, done: Repair) -> None:
    versions: dict[str, int] = {}
    is_compacted = done.check.header.compacted is not UNSET
    for record in records:
        known = versions.get(record.alloc, 0)
        # What a compaction left of an allocation tells its last state; after damage it would hide what is lost.
        is_remnant = is_compacted and not known and _is_whole_end(record)
        follows = record.alloc not in done.left_out and (record.version == known + 1 or is_remnant)
        # A log takes a record once: one whose ID was there before is left out, too, and told of as damage.
        is_new = not (isinstance(record.id, str) and target.knows(record.id))
        if not (follows and is_new and target.append(record.alloc, record.version - 1, [record], sync=False)):
            missing, count = done.left_out.get(record.alloc, (known + 1, 0))
            done.left_out[record.alloc] = missing, count + 1
            continue
        versions[record.alloc] = record.version
        done.records += 1


def _is_whole_end(record: Record) -> bool:
    """Tell whether a record says all that is known of its allocation when those before it are removed."""
    return isinstance(record.event, Collected) and record.event.body is not UNSET


def _checked(check: LogCheck, scanned: Iterator[Scanned]) -> Iterator[Record]:
    """Yield the records that are whole; note what is damaged, and where records are missing."""
    ledger = Ledger(check.header)
    for found in scanned:
        if isinstance(found, Damage):
            check.add(found)
            continue
        if not ledger.follows(found):
            version = ledger.versions.get(found.alloc, 0)
            message = (
                f"expected Seq {ledger.seq + 1} and Version {version + 1} of allocation {found.alloc}, "
                f"found Seq {found.seq} and Version {found.version}"
            )
            check.add(Damage(message=message, seq=found.seq))
        if _is_known(ledger, found):
            check.add(Damage(message=f"the ID {found.id!r} is that of a record before", seq=found.seq))
        ledger.note_placed([found])
        check.records += 1
        check.newest = max(check.newest, found.seq)
        yield found


def _is_known(ledger: Ledger, record: Record) -> bool:
    """Tell whether the ID of a record is that of one before it, whatever that recorded."""
    return ledger.digest_of(record.id) is not None if isinstance(record.id, str) else ledger.is_repeat(record)


def is_log(name: str) -> bool:
    """Tell whether a name is that of a log, by how it begins; what is read once, as a pipe is, is not asked."""
    if is_postgres(name):
        return True
    if name == "-" or (Path(name).exists() and not Path(name).is_file()):
        return False
    with readable(name):
        if is_database(name):
            return True
    with open_bytes(name) as stream:
        return is_header(stream.peek(_PEEK_BYTES))  # type: ignore[attr-defined]


def kept_checkpoint(name: str) -> Iterator[bytes]:
    """Yield the parts of the checkpoint that a log keeps; none that is damaged, or that cannot be read."""
    with suppress(LogError):
        if is_postgres(name):
            from taskfold.log.postgres_tables import read_checkpoint

            yield from read_checkpoint(name)
        else:
            from taskfold.log.sqlite_tables import read_checkpoint_of

            if Path(name).is_file() and is_database(name):
                yield from read_checkpoint_of(Path(name))
