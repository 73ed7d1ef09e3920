"""Verify: whether the records fold to what was observed, at every index; and whether a log is what it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from taskfold.allocation import Fold
from taskfold.dialect import NEWEST_DIALECT
from taskfold.lifecycle import lifecycle_of
from taskfold.log.contract import Ledger
from taskfold.log.opening import shown_name
from taskfold.nomad.compare import divergences
from taskfold.nomad.observation import Observation
from taskfold.record import Record
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
    replay = Replay(*sources, dialect=dialect, on_note=on_note)
    report = Report()
    check = _LogCheck(replay, report)
    fold: Fold | None = None
    for observation, records in replay.steps():
        fold = fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep")
        for record in records:
            report.records[_type_name(record)] += 1
            if observation is None:
                check.record(record)
                fold.apply(record)
            else:
                fold.apply(_as_read_back(record))
        if observation is not None and records:
            _compare(fold, observation, records, report)
    _count(replay, fold, report)
    return report


def _as_read_back(record: Record) -> Record:
    """Return the record as a log would give it back."""
    return msgspec.json.decode(msgspec.json.encode(record), type=Record)


def _type_name(record: Record) -> str:
    return str(type(record.event).__struct_config__.tag)


def _compare(fold: Fold, observation: Observation, records: list[Record], report: Report) -> None:
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
                why="the records fold to something else than what was observed",
            )
        )


class _LogCheck:
    """The checks of a log: its order, its versions, its indexes."""

    def __init__(self, replay: Replay, report: Report) -> None:
        self.replay = replay
        self.report = report
        self.ledger = Ledger()
        self.indexes: dict[str, int] = {}

    def record(self, record: Record) -> None:
        """Check that a record follows the ones before it."""
        if not self.ledger.seq:
            self._header(record)
        index = self.indexes.get(record.alloc, 0)
        self._expect(record, "$.Seq", self.ledger.seq + 1, record.seq, "positions count 1, 2, 3 … without a hole")
        version = self.ledger.versions.get(record.alloc, 0) + 1
        self._expect(record, "$.Version", version, record.version, "versions count 1, 2, 3 … inside an allocation")
        if record.index < index:
            self._expect(record, "$.Index", f"at least {index}", record.index, "the index of an allocation never falls")
        self.indexes[record.alloc] = max(index, record.index)
        self.ledger.seq, self.ledger.versions[record.alloc] = record.seq, record.version

    def _header(self, record: Record) -> None:
        """Check that the log was written with the table that it is read with."""
        header = self.replay.header
        if header is not None and header.lifecycle:
            known = lifecycle_of(header.dialect).fingerprint
            why = "the log was written with another lifecycle table: its states may be folded differently now"
            self._expect(record, "header.lifecycle", known, header.lifecycle, why)

    def _expect(self, record: Record, path: str, expected: Any, found: Any, why: str) -> None:
        if expected != found:
            position = f"{shown_name(self.replay.sources[0])}, record {self.ledger.seq + 1}"
            self.report.add(
                Divergence(
                    position=position,
                    index=record.index,
                    alloc=record.alloc,
                    path=path,
                    expected=expected,
                    found=found,
                    recorded=(record,),
                    why=why,
                )
            )


def _count(replay: Replay, fold: Fold | None, report: Report) -> None:
    """Fill in what was counted."""
    report.dialect = replay.dialect or ""
    if fold is not None:
        report.allocations = len(fold)
        for allocation in fold.allocations.values():
            report.tasks += len(allocation.tasks)
            report.irregular += sum(task.seldom.irregular for task in allocation.tasks.values())
    if replay.importer is not None:
        report.observations = replay.importer.observations
        report.repeats = replay.importer.repeats
        report.conflicts = replay.importer.conflicts_total
