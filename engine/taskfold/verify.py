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
    """Observations that told nothing new."""
    conflicts: int = 0
    """Observations that say something else than another one of their index: each is a divergence, too."""
    compared: int = 0
    """Observations that were compared with the fold, every key of them: all but those that came late."""
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
    # What is needed for logs only is imported when one is verified: many import this module for its types.
    from taskfold.verify_log import LogVerifier, is_log, verify_log

    report = Report()
    if len(sources) == 1 and is_log(str(sources[0])):
        verify_log(str(sources[0]), dialect, report)
        return report
    replay = Replay(*sources, dialect=dialect, on_note=on_note)
    fold: Fold | None = None
    check: LogVerifier | None = None
    for observation, records in replay.steps():
        fold = fold or Fold(replay.dialect or NEWEST_DIALECT, on_illegal="keep")
        if observation is None:  # a log on standard input
            check = check or LogVerifier(replay.sources[0], replay.header, fold, report)
            for record in records:
                check.record(record)
            continue
        before = states_of(fold, observation.alloc)
        for record in records:
            report.records[type_name(record)] += 1
            fold.apply(_as_read_back(record))
        # What is older than the state cannot be compared with it any more.
        if observation.index == fold.owned(observation.alloc).modify_index:
            _compare(fold, observation, records, before, report)
    report.dialect = replay.dialect or ""
    count_states(fold, report)
    if replay.importer is not None:
        report.observations = replay.importer.observations
        report.repeats = replay.importer.repeats
        report.conflicts = replay.importer.conflicts_total
    return report


def states_of(fold: Fold, alloc: str) -> dict[str, str]:
    found = fold.allocations.get(alloc)
    return {} if found is None else {name: task.state for name, task in found.tasks.items()}


def _as_read_back(record: Record) -> Record:
    """Return the record as a log would give it back."""
    return msgspec.json.decode(msgspec.json.encode(record), type=Record)


def type_name(record: Record) -> str:
    return str(type(record.event).__struct_config__.tag)


_WRONG: Final = "the records fold to something else than what was observed"
_CONFLICT: Final = "another observation of this index says something else"


def _compare(
    fold: Fold, observation: Observation, records: list[Record], before: dict[str, str], report: Report
) -> None:
    """Compare the fold with one observation."""
    report.compared += 1
    why = _WRONG if records else _CONFLICT
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
                why=why,
            )
        )


def count_states(fold: Fold | None, report: Report) -> None:
    """Fill in what was counted."""
    if fold is not None:
        report.allocations = len(fold)
        for allocation in fold.allocations.values():
            report.tasks += len(allocation.tasks)
            report.irregular += sum(task.seldom.irregular for task in allocation.tasks.values())
