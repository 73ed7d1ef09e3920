"""Verify: whether the records fold to what was observed, at every index; and whether a log is what it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from taskfold.allocation import Fold
from taskfold.checkpoint import from_parts
from taskfold.dialect import NEWEST_DIALECT
from taskfold.errors import SourceError
from taskfold.lifecycle import lifecycle_of
from taskfold.log.check import Damage, is_log, kept_checkpoint, scan
from taskfold.log.contract import Ledger, check_dialect
from taskfold.log.opening import shown_name
from taskfold.nomad.compare import divergences
from taskfold.nomad.observation import Observation
from taskfold.record import LogHeader, Record
from taskfold.replay import Replay

__all__ = ["Divergence", "Report", "verify"]

MAX_DIVERGENCES: Final = 1_000
"""How many divergences a report keeps; it counts all of them."""


class Divergence(Struct, frozen=True, kw_only=True):
    """A place where the records do not say what was observed, or where a log is not what it should be."""

    position: str
    """File and line."""
    index: int
    alloc: str
    path: str
    """The JSON path inside the allocation; for a log, the field of the record."""
    expected: Any
    """What was observed, or what must stand there."""
    found: Any
    """What the records fold to, or what stands there."""
    recorded: tuple[Record, ...] = ()
    """The records that explain this observation."""
    state_before: dict[str, str] = {}
    """The states of the allocation's tasks before those."""
    why: str = ""


class Report(Struct, kw_only=True):
    """What `verify` found."""

    dialect: str = ""
    allocations: int = 0
    tasks: int = 0
    observations: int = 0
    repeats: int = 0
    """Observations that were not newer than the ones before."""
    conflicts: int = 0
    """Repeats of an index that say something else than before."""
    compared: int = 0
    """Observations that were compared with the fold, every key of them."""
    records: Counter[str] = field(default_factory=Counter)
    """Records by the type of their event."""
    irregular: int = 0
    """Events that the lifecycle table refuses, and that were kept."""
    divergences: list[Divergence] = []
    divergences_total: int = 0

    @property
    def gaps(self) -> int:
        """How often events were lost."""
        return self.records["Gap"]

    @property
    def observed(self) -> int:
        """How many corrections were needed: what the lifecycle table cannot explain."""
        return self.records["Observed"]

    @property
    def agrees(self) -> bool:
        """Whether there is no divergence."""
        return self.divergences_total == 0

    def add(self, divergence: Divergence) -> None:
        """Count a divergence, and keep it while there is room."""
        self.divergences_total += 1
        if len(self.divergences) < MAX_DIVERGENCES:
            self.divergences.append(divergence)


def verify(*sources: str | Path, dialect: str | None = None, on_note: Callable[[str], None] = lambda _: None) -> Report:
    """Return what is wrong with a source, if anything.

    What a Nomad said is imported, each record is written and read as a log would, and folded; then the fold is compared
    with what was observed, at every index and key by key. In a log, order and structure are checked.
    O(length); memory for the live state only. Raises SourceError for what cannot be read at all.
    """
    report = Report()
    if len(sources) == 1 and is_log(str(sources[0])):
        _verify_log(str(sources[0]), dialect, report)
        return report
    replay = Replay(*sources, dialect=dialect, on_note=on_note)
    fold: Fold | None = None
    check: _LogCheck | None = None
    for observation, records in replay.steps():
        fold = fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep")
        if observation is None:  # a log on standard input
            check = check or _LogCheck(replay.sources[0], replay.header, fold, report)
            for record in records:
                check.record(record)
            continue
        before = _states(fold, observation.alloc)
        for record in records:
            report.records[_type_name(record)] += 1
            fold.apply(_as_read_back(record))
        if records:
            _compare(fold, observation, records, before, report)
    report.dialect = replay.dialect or ""
    _count(fold, report)
    if replay.importer is not None:
        report.observations = replay.importer.observations
        report.repeats = replay.importer.repeats
        report.conflicts = replay.importer.conflicts_total
    return report


def _verify_log(name: str, dialect: str | None, report: Report) -> None:
    """Check a log: whether it is as it was written, its order, and the checkpoint that it keeps."""
    found, scanned = scan(name)
    if dialect is not None:
        check_dialect(found.header, dialect)
    report.dialect = found.header.dialect
    fold = Fold(found.header.dialect, on_illegal="keep")
    check = _LogCheck(name, found.header, fold, report)
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
    _count(fold, report)


def _states(fold: Fold, alloc: str) -> dict[str, str]:
    found = fold.allocations.get(alloc)
    return {} if found is None else {name: task.state for name, task in found.tasks.items()}


def _as_read_back(record: Record) -> Record:
    """Return the record as a log would give it back."""
    return msgspec.json.decode(msgspec.json.encode(record), type=Record)


def _type_name(record: Record) -> str:
    return str(type(record.event).__struct_config__.tag)


def _compare(
    fold: Fold, observation: Observation, records: list[Record], before: dict[str, str], report: Report
) -> None:
    """Compare the fold with one observation."""
    report.compared += 1
    for path, expected, found in divergences(fold.owned(observation.alloc), observation, fold.dialect):
        report.add(
            Divergence(
                position=f"{observation.name}, line {observation.line}",
                index=observation.index,
                alloc=observation.alloc,
                path=path,
                expected=expected,
                found=found,
                recorded=tuple(records),
                state_before=before,
                why="the records fold to something else than what was observed",
            )
        )


class _LogCheck:
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
        self.report.records[_type_name(record)] += 1
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
                state_before=_states(self.fold, alloc),
                why=why,
            )
        )


def _count(fold: Fold | None, report: Report) -> None:
    """Fill in what was counted."""
    if fold is not None:
        report.allocations = len(fold)
        for allocation in fold.allocations.values():
            report.tasks += len(allocation.tasks)
            report.irregular += sum(task.seldom.irregular for task in allocation.tasks.values())
