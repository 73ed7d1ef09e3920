"""Verifying a log: whether it is as it was written, its order, its versions, and the checkpoint that it keeps."""

from __future__ import annotations

from typing import Any

from taskfold.fold.allocation import Fold
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.log.check import Damage, is_log, kept_checkpoint, scan
from taskfold.log.checkpoint import from_parts
from taskfold.log.contract import Ledger, check_dialect
from taskfold.log.opening import shown_name
from taskfold.model.errors import SourceError
from taskfold.model.record import LogHeader, Record
from taskfold.sources.verify import Divergence, Report, count_states, states_of, type_name

__all__ = ["LogVerifier", "is_log", "verify_log"]


def verify_log(name: str, dialect: str | None, report: Report) -> None:
    """Check a log: whether it is as it was written, its order, and the checkpoint that it keeps."""
    found, scanned = scan(name)
    if dialect is not None:
        check_dialect(found.header, dialect)
    report.dialect = found.header.dialect
    fold = Fold(found.header.dialect, on_illegal="keep")
    check = LogVerifier(name, found.header, fold, report)
    checkpoint = from_parts(kept_checkpoint(name), fold.dialect)
    for each in scanned:
        if isinstance(each, Damage):
            if each.is_unreadable:
                raise SourceError(name, each.message, line=each.line)
            check.damage(each)
            continue
        check.record(each)
        if checkpoint is not None and each.seq == checkpoint.seq:
            check.checkpoint(checkpoint.fold)
    count_states(fold, report)


class LogVerifier:
    """The checks of a log: its order, its versions, its indexes."""

    def __init__(self, name: str, header: LogHeader | None, fold: Fold, report: Report) -> None:
        self.name = shown_name(name)
        self.header = header
        self.fold = fold
        self.report = report
        self.ledger = Ledger(header)
        self.indexes: dict[str, int] = {}
        self.count = 0

    def record(self, record: Record) -> None:
        """Check that a record follows the ones before it, and fold it."""
        self.report.records[type_name(record)] += 1
        self.count += 1
        if self.count == 1:
            self._header(record)
        index = self.indexes.get(record.alloc, 0)
        if not self.ledger.follows(record):
            self._expect(record, "$.Seq", self.ledger.seq + 1, record.seq, "positions count 1, 2, 3 … without a hole")
            version = self.ledger.versions.get(record.alloc, 0) + 1
            self._expect(record, "$.Version", version, record.version, "versions count 1, 2, 3 … inside an allocation")
        if record.index < index:
            self._expect(record, "$.Index", f"at least {index}", record.index, "the index of an allocation never falls")
        self.indexes[record.alloc] = max(index, record.index)
        self.ledger.seq, self.ledger.versions[record.alloc] = record.seq, record.version
        self.fold.apply(record)

    def damage(self, damage: Damage) -> None:
        """Report what is not as it was written."""
        places = (("line", damage.line), ("Seq", damage.seq))
        where = next((f", {name} {place}" for name, place in places if place is not None), "")
        self._add(f"{self.name}{where}", "$", "what was written", "something else", damage.message)

    def checkpoint(self, kept: Fold) -> None:
        """Check that the checkpoint that was made at this position is the state there."""
        live = {alloc: found.freeze() for alloc, found in self.fold.allocations.items() if not found.collected}
        held = {alloc: found.freeze() for alloc, found in kept.allocations.items()}
        for alloc in sorted({*live, *held}):
            if live.get(alloc) != held.get(alloc):
                why = "the checkpoint says something else than the records before it: it is to be made anew"
                position = f"{self.name}, checkpoint at {self.ledger.seq}"
                self._add(position, "$", "what the records fold to", "what the checkpoint holds", why, alloc=alloc)

    def _header(self, record: Record) -> None:
        """Check that the log was written with the table that it is read with."""
        if self.header is not None and self.header.lifecycle:
            known = lifecycle_of(self.header.dialect).fingerprint
            why = "the log was written with another lifecycle table: its states may be folded differently now"
            self._expect(record, "header.lifecycle", known, self.header.lifecycle, why)

    def _expect(self, record: Record, path: str, expected: Any, found: Any, why: str) -> None:
        if expected != found:
            position = f"{self.name}, record {self.count}"
            self._add(position, path, expected, found, why, alloc=record.alloc, record=record)

    def _add(
        self,
        position: str,
        path: str,
        expected: Any,
        found: Any,
        why: str,
        *,
        alloc: str = "",
        record: Record | None = None,
    ) -> None:
        self.report.add(
            Divergence(
                position=position,
                index=0 if record is None else record.index,
                alloc=alloc,
                path=path,
                expected=expected,
                found=found,
                recorded=() if record is None else (record,),
                state_before=states_of(self.fold, alloc),
                why=why,
            )
        )
